"""ResNet-20 with 2 x and 3 x fewer multiply-accumulates, 10 epochs of recovery, Torch-Pruning beside it in the same run.

python benchmarks/pruning.py [--peer PYTHON] [--peer-seeds 1] [--seeds 3] [--epochs 10] [--ratios 2,3] [--criteria surgeon]
                              [--ranking per-layer] [--border reflect]

`PYTHON`: an interpreter with torch and torch-pruning. Both sides begin with the published weights, train for the same
epochs on cifar10_jpeg/train_6000 (batch 64, flip and shift by 4 pixels over a mirrored border, or `zero`: a black one), learn
from the dense network that they fine-tuned alike (0.1 x labels + 0.9 x KL at temperature 4), and are scored on val_1000.
Everything trains by SGD with Nesterov, one-cycle to 0.02, weight decay 5e-4; edgedl's distillation also compares features,
which is its default. A second line of edgedl has the dense networks of all seeds as its teachers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, figure, quiet_tensorflow

Line = dict[str, Any]
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


def training(epochs: int, seed: int, border: str = "reflect") -> dict[str, Any]:
    """What both sides train with."""
    from edgedl.stages.training.options import Augment

    return {
        "epochs": epochs, "batch_size": 64, "optimizer": "sgd", "learning_rate": 0.02, "schedule": "one-cycle",
        "weight_decay": 5e-4, "augment": Augment(flip=True, shift=4, border=border), "seed": seed, "reestimate": 6000,
    }  # fmt: skip


def ours(model: Any, data: Any, given: argparse.Namespace, ratios: list[float], criteria: list[str]) -> Iterator[Line]:
    """One line for each seed, ratio, criterion and number of teachers; the dense networks first."""
    from edgedl.model import save_keras
    from edgedl.stages.finetune import Finetune

    with tempfile.TemporaryDirectory() as folder:
        teachers = []
        for seed in range(given.seeds):
            tuned = Finetune(**training(given.epochs, seed, given.border))(model, data)
            teachers.append(str(Path(folder) / f"teacher{seed}.keras"))
            save_keras(replace(tuned, origin=None), Path(teachers[-1]))
            yield {"seed": seed, "criterion": "dense", "accuracy": accuracy(tuned, data)}
        for seed in range(given.seeds):
            yield from students(model, data, given, seed, ratios, criteria, teachers)


def students(
    model: Any,
    data: Any,
    given: argparse.Namespace,
    seed: int,
    ratios: list[float],
    criteria: list[str],
    teachers: list[str],
) -> Iterator[Line]:
    """The lines of one seed."""
    from edgedl.macs import layers_of
    from edgedl.stages.distill import Distill
    from edgedl.stages.prune_channels import PruneChannels

    for ratio in ratios:
        for criterion in criteria:
            start = time.perf_counter()
            small = PruneChannels(ratio=1 - 1 / ratio, criterion=criterion, ranking=given.ranking, seed=seed)(
                model, data
            )
            seconds = time.perf_counter() - start
            macs = [sum(r.macs for r in layers_of(m.net)) for m in (model, small)]
            line = {"seed": seed, "ratio": ratio, "fewer": macs[0] / macs[1], "cut": accuracy(small, data)}
            for taught in dict.fromkeys([(teachers[seed],), tuple(teachers)]):
                how = {"teacher": taught, "label_weight": 0.1, "temperature": 4.0}
                after = Distill(**training(given.epochs, seed, given.border), **how)(small, data)
                name = criterion if len(taught) == 1 else f"{criterion}, {len(taught)} teachers"
                yield {**line, "criterion": name, "accuracy": accuracy(after, data), "seconds": seconds}


def peer(python: str, seed: int, epochs: int, ratios: list[float], border: str) -> list[Line]:
    """The lines of Torch-Pruning."""
    command = [
        python,
        str(HERE / "bare_torch_pruning.py"),
        str(assets()),
        str(seed),
        str(epochs),
        ",".join(map(str, ratios)),
        border,
        *PEER,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=7200)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for line in found:
        show("Torch-Pruning", {**line, "seed": seed})
    return found


def show(who: str, line: Line) -> None:
    text = f"seed {line['seed']}  {who:<14} {line['criterion']:<19}"
    if "ratio" in line:
        text += f" {line['fewer']:.2f} x fewer MACs, cut {line['cut']:.3f} ->"
        text += f" {line['accuracy']:.3f}" + (f"  (pruned in {line['seconds']:.1f} s)" if "seconds" in line else "")
    else:
        text += f" fine-tuned {line['accuracy']:.3f}"
    print(text, flush=True)


def mean(lines: list[Line], ratio: float, criterion: str, key: str) -> float:
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
    parser.add_argument("--border", default="reflect", choices=["zero", "reflect"])
    given = parser.parse_args()
    ratios, criteria = [float(r) for r in given.ratios.split(",")], given.criteria.split(",")
    quiet_tensorflow()
    model, data = model_and_data()
    print(f"as it comes {accuracy(model, data):.3f}", flush=True)
    theirs: list[Line] = []
    for seed in range(given.peer_seeds if given.peer else 0):
        theirs += peer(given.peer, seed, given.epochs, ratios, given.border)
    mine: list[Line] = []
    for line in ours(model, data, given, ratios, criteria):
        show("edgedl", line)
        mine.append(line)
    dense = [line["accuracy"] for line in mine if line["criterion"] == "dense"]
    print(f"dense, fine-tuned: {np.mean(dense):.3f} (mean of {len(dense)})")
    names = dict.fromkeys(line["criterion"] for line in mine if "ratio" in line)
    for ratio in ratios:
        for criterion in PEER if theirs else ():
            scores = [mean(theirs, ratio, criterion, key) for key in ("cut", "accuracy")]
            print(f"Torch-Pruning {criterion:<8} {ratio:g} x: cut {scores[0]:.3f}, recovered {scores[1]:.3f}")
        for criterion in names:
            cut, after = (mean(mine, ratio, criterion, key) for key in ("cut", "accuracy"))
            if ratio == 2 and criterion in criteria:
                figure(f"{criterion}: cut to {ratio:g} x, before any training", f"{cut:.3f}", ">= 0.50", cut >= 0.5)
            goal = GOALS.get(ratio, 0.0)
            figure(f"{criterion}: {ratio:g} x, {given.epochs} epochs", f"{after:.3f}", f">= {goal:.3f}", after >= goal)


if __name__ == "__main__":
    main()
