"""ResNet-20 with 2 x and 3 x fewer multiply-accumulates, 10 epochs of recovery, Torch-Pruning beside it in the same run.

python benchmarks/pruning.py [--peer PYTHON] [--peer-seeds 1] [--seeds 3] [--epochs 10] [--ratios 2,3] [--criteria surgeon]
                              [--ranking per-layer]

`PYTHON`: an interpreter with torch and torch-pruning. Both sides begin with the published weights, train for the same
epochs on cifar10_jpeg/train_6000 (batch 64, flip and shift by 4 pixels), learn from the dense network that they fine-tuned
alike (0.1 x labels + 0.9 x KL at temperature 4), and are scored on val_1000. Everything trains by SGD with Nesterov,
one-cycle to 0.02, weight decay 5e-4; edgedl's distillation also compares features, which is its default.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, figure, quiet_tensorflow

HERE = Path(__file__).parent
GOALS = {2.0: 0.845, 3.0: 0.820}
PEER = ("l1", "taylor")


def model_and_data() -> tuple[Any, Any]:
    """The imported network and its data as stages take them."""
    from edgedl.data import DataOptions
    from edgedl.data import load as load_data
    from edgedl.model import load

    weights = assets() / "models/pytorch_resnet_cifar10/resnet20-12fca82f.th"
    module = f"{HERE.parent}/examples/resnet20_torch.py:ResNet20"
    model = load(weights, module=module, inputs={"": "?x3x32x32"})
    cifar = assets() / "datasets/cifar10_jpeg"
    options = DataOptions(
        source=str(cifar / "val_1000_from_test.npz"), train=str(cifar / "train_6000.npz"), scale=1 / 255,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    return model, load_data(options, model.inputs, model.outputs, seed=0, layouts=model.layouts)


def accuracy(model: Any, data: Any) -> float:
    """Top-1 on the validation split."""
    x = data.feed(data.validation)[model.inputs[0].name]
    found = model.net.predict(x, batch_size=250, verbose=0)
    return float(np.mean(found.argmax(1) == data.validation.y))


def training(epochs: int, seed: int) -> dict[str, Any]:
    """What both sides train with."""
    from edgedl.stages.training.options import Augment

    return {
        "epochs": epochs, "batch_size": 64, "optimizer": "sgd", "learning_rate": 0.02, "schedule": "one-cycle",
        "weight_decay": 5e-4, "augment": Augment(flip=True, shift=4), "seed": seed,
    }  # fmt: skip


def ours(
    model: Any, data: Any, seed: int, epochs: int, ratios: list[float], criteria: list[str], ranking: str
) -> list[dict[str, Any]]:
    """One line for each ratio and criterion."""
    from edgedl.macs import layers_of
    from edgedl.model import save_keras
    from edgedl.stages.distill import Distill
    from edgedl.stages.finetune import Finetune
    from edgedl.stages.prune_channels import PruneChannels

    plan = training(epochs, seed)
    tuned = Finetune(**plan)(model, data)
    found = [{"criterion": "dense", "accuracy": accuracy(tuned, data)}]
    show("edgedl", seed, found[-1])
    with tempfile.TemporaryDirectory() as folder:
        teacher = Path(folder) / "teacher.keras"
        save_keras(replace(tuned, origin=None), teacher)
        for ratio in ratios:
            for criterion in criteria:
                start = time.perf_counter()
                small = PruneChannels(ratio=1 - 1 / ratio, criterion=criterion, ranking=ranking, seed=seed)(model, data)
                seconds = time.perf_counter() - start
                cut = accuracy(small, data)
                how = {**plan, "teacher": (str(teacher),), "label_weight": 0.1, "temperature": 4.0}
                small = Distill(**how)(small, data)
                macs = [sum(r.macs for r in layers_of(m.net)) for m in (model, small)]
                line = {"criterion": criterion, "ratio": ratio, "fewer": macs[0] / macs[1], "cut": cut}
                found.append({**line, "accuracy": accuracy(small, data), "seconds": seconds})
                show("edgedl", seed, found[-1])
    return found


def peer(python: str, seed: int, epochs: int, ratios: list[float]) -> list[dict[str, Any]]:
    """The lines of Torch-Pruning."""
    command = [
        python,
        str(HERE / "bare_torch_pruning.py"),
        str(assets()),
        str(seed),
        str(epochs),
        ",".join(map(str, ratios)),
        *PEER,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=7200)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for line in found:
        show("Torch-Pruning", seed, line)
    return found


def show(who: str, seed: int, line: dict[str, Any]) -> None:
    text = f"seed {seed}  {who:<14} {line['criterion']:<8}"
    if "ratio" in line:
        text += f" {line['fewer']:.2f} x fewer MACs, cut {line['cut']:.3f} ->"
        text += f" {line['accuracy']:.3f}" + (f"  (pruned in {line['seconds']:.1f} s)" if "seconds" in line else "")
    else:
        text += f" fine-tuned {line['accuracy']:.3f}"
    print(text, flush=True)


def mean(lines: list[dict[str, Any]], ratio: float, criterion: str, key: str) -> float:
    return float(np.mean([e[key] for e in lines if e.get("ratio") == ratio and e["criterion"] == criterion]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", default="")
    parser.add_argument("--peer-seeds", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--ratios", default="2,3")
    parser.add_argument("--criteria", default="surgeon")
    parser.add_argument("--ranking", default="per-layer")
    given = parser.parse_args()
    ratios, criteria = [float(r) for r in given.ratios.split(",")], given.criteria.split(",")
    quiet_tensorflow()
    model, data = model_and_data()
    print(f"as it comes {accuracy(model, data):.3f}", flush=True)
    mine: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        mine += ours(model, data, seed, given.epochs, ratios, criteria, given.ranking)
        theirs += peer(given.peer, seed, given.epochs, ratios) if given.peer and seed < given.peer_seeds else []
    for ratio in ratios:
        for criterion in PEER if theirs else ():
            scores = [mean(theirs, ratio, criterion, key) for key in ("cut", "accuracy")]
            print(f"Torch-Pruning {criterion:<8} {ratio:g} x: cut {scores[0]:.3f}, recovered {scores[1]:.3f}")
        for criterion in criteria:
            cut, after = (mean(mine, ratio, criterion, key) for key in ("cut", "accuracy"))
            if ratio == 2:
                figure(f"{criterion}: cut to {ratio:g} x, before any training", f"{cut:.3f}", ">= 0.50", cut >= 0.5)
            goal = GOALS.get(ratio, 0.0)
            figure(f"{criterion}: {ratio:g} x, {given.epochs} epochs", f"{after:.3f}", f">= {goal:.3f}", after >= goal)


if __name__ == "__main__":
    main()
