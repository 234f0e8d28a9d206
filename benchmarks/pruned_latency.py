"""ResNet-20 for CIFAR-10 pruned to a budget in measured latency, against a budget in multiply-accumulates.

EDGEDL_ASSETS=... python benchmarks/pruned_latency.py [--predict] [--speedup 1.5] [--seeds 3] [--epochs 10] [--cache FOLDER]

1. What the sum of the operators' times says of whole networks of random widths, against what they take (`--predict`: this alone).
2. A network chosen for 1 / `speedup` of the dense int8 file's time on one thread, and two chosen for the least multiply-accumulates
   removed (widths as they come, and multiples of 8) with which the file takes no longer. Each is trained alike, for `epochs`
   on train_6000, for `seeds` seeds; int8 accuracy on val_1000_from_test, latencies of the files measured in turns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, figure, litert_accuracy, quiet_tensorflow

ROOT = Path(__file__).resolve().parents[1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPEEDUP, ACCURACY = 1.5, 0.820
PREDICTED = 12  # random networks of each kind
BISECTIONS = 7
LIKE = 1.01  # a network that takes so much longer is still called as fast


def main() -> None:
    """Print the errors of the prediction, and a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predict", action="store_true", help="the prediction alone, without training")
    parser.add_argument("--speedup", type=float, default=SPEEDUP)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--cache", type=Path, help="where the times of operators are kept for the next run")
    given = parser.parse_args()
    quiet_tensorflow()
    model, data = resnet20(), cifar10()
    from edgedl.scratch import using
    from edgedl.stages.channels.graph import channel_graph
    from edgedl.stages.channels.latency import Latency

    with tempfile.TemporaryDirectory(prefix="edgedl-bench-") as folder, using(given.cache or Path(folder) / "cache"):
        latency = Latency(channel_graph(model.net), "cpu", options={"threads": 1})
        print(
            f"dense: {latency.dense_ms:.4f} ms; {latency.timed} points timed, {latency.reused} from the cache",
            flush=True,
        )
        predicted(latency)
        if not given.predict:
            compared(model, data, latency, given, Path(folder))


def resnet20() -> Any:
    """The published checkpoint through the importer."""
    import edgedl

    sys.path.insert(0, str(ROOT / "examples"))
    path = assets() / "models/pytorch_resnet_cifar10/resnet20-12fca82f.th"
    return edgedl.load(path, module="resnet20_torch:ResNet20", inputs={"x": "1x3x32x32"})


def cifar10() -> Any:
    """6,000 images to train on (200 of them to calibrate with), 1,000 to score on."""
    from edgedl.data import Dataset, Split
    from edgedl.preprocess import Preprocessing

    folder = assets() / "datasets/cifar10_jpeg"
    splits = []
    for name in ("train_6000", "val_1000_from_test"):
        arrays = np.load(folder / f"{name}.npz")
        splits.append(Split({"x": arrays["x"]}, arrays["y"].astype(np.int64)))
    train, validation = splits
    return Dataset(
        train.take(np.arange(200)), validation, train, metric="accuracy",
        preprocessing={"x": Preprocessing(scale=1 / 255, mean=MEAN, std=STD)},
    )  # fmt: skip


def predicted(latency: Any) -> None:
    """How far the sum of the operators' times is from whole networks of random widths."""
    rng = np.random.default_rng(0)
    for what, step in (("multiples of 8", 8), ("any width", 1)):
        drawn = [step * rng.integers(1, latency.full // step + 1) for _ in range(PREDICTED)]
        errors = []
        for counts, whole in zip(drawn, latency.networks(drawn), strict=True):
            guess = float(latency.parts(counts).sum())
            errors.append(abs(guess / whole.ms - 1))
            print(f"  {what}: predicted {guess:.4f} ms, measured {whole.ms:.4f} ms, {guess / whole.ms - 1:+.1%}")
        mean, most = float(np.mean(errors)), max(errors)
        figure(f"prediction, {what}: mean error", f"{mean:.1%}", "<= 5 %", mean <= 0.05)
        figure(f"prediction, {what}: largest error", f"{most:.1%}", "<= 15 %", most <= 0.15)


def compared(model: Any, data: Any, latency: Any, given: argparse.Namespace, folder: Path) -> None:
    """Train and score the networks of each budget."""
    pruned = {"latency": by_latency(model, data, latency, given.speedup)}
    counts = widths(pruned["latency"].net, latency)
    goal = latency.networks([counts])[0].ms
    pruned["MACs"] = by_macs(model, data, latency, goal, 1)
    pruned["MACs, multiples of 8"] = by_macs(model, data, latency, goal, 8)
    files = {"dense": convert(model, data, folder / "dense.tflite")}
    scores = {"dense": [score(files["dense"], data)]}
    print(f"dense int8 as it comes: accuracy {scores['dense'][0]:.3f}", flush=True)
    for name, start in pruned.items():
        before = score(convert(start, data, folder / "before.tflite"), data)
        print(f"{name}: {macs(start.net) / 1e6:.1f} MMAC, int8 before training {before:.3f}", flush=True)
        scores[name] = []
        for seed in range(given.seeds):
            trained = train(start, data, given.epochs, seed)
            files[name] = convert(trained, data, folder / f"{len(files)}-{seed}.tflite")
            scores[name].append(score(files[name], data))
            print(f"  {name}, seed {seed}: int8 {scores[name][-1]:.3f}", flush=True)
    tell(scores, measured(files), given.speedup)


def by_latency(model: Any, data: Any, latency: Any, speedup: float) -> Any:
    """The model pruned by the stage, to a budget in latency."""
    from edgedl.stages.prune_channels import PruneChannels

    found = PruneChannels(budget="latency", ratio=1 - 1 / speedup, ranking="per-cost")(model, data)
    told = found.records[-1]["rounds"][-1]
    print(
        f"latency: predicted {told['predicted_ms']:.4f} ms, measured {told['measured_ms']:.4f} ms of {told['dense_ms']:.4f}"
    )
    rows = sorted(told["layers"], key=lambda row: row["after_ms"] - row["before_ms"])
    for row in rows[:6]:
        print(f"  {row['layer']} ({row['operator']}): {row['before_ms']:.4f} -> {row['after_ms']:.4f} ms")
    channels = ", ".join(f"{g['before']}->{g['after']}" for g in told["groups"])
    print(f"  channels: {channels}", flush=True)
    return found


def by_macs(model: Any, data: Any, latency: Any, goal: float, step: int) -> Any:
    """The model pruned by the stage to the largest budget in multiply-accumulates that takes no longer than `goal` ms.

    The budget is found by bisection over what the stage would choose, each choice measured as a whole.
    """
    from edgedl.stages.channels.choose import Bounds, choose
    from edgedl.stages.channels.cost import Polynomial
    from edgedl.stages.channels.surgeon import surgeon
    from edgedl.stages.prune_channels import PruneChannels

    stage, graph = PruneChannels(budget="macs", round_to=step), latency.graph
    cost, total = Polynomial(graph, "macs"), macs(model.net)
    bounds = Bounds(step, stage.min_channels, stage.min_share)
    scores = surgeon(graph, [data.feed(data.train, 0, stage.samples)["x"]], seed=stage.seed)
    low, high, best = 0.0, 1 - bounds.min_share, None
    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        mask = choose(graph, scores, cost, (1 - ratio) * total, ranking=stage.ranking, bounds=bounds)
        counts = np.array([int(mask[g.channels].sum()) for g in graph.prunable])
        ms = latency.networks([counts])[0].ms
        print(
            f"  multiples of {step}: {cost.parts(counts).sum() / 1e6:.1f} MMAC take {ms:.4f} ms, {goal:.4f} wanted",
            flush=True,
        )
        if ms <= goal * LIKE:
            best, high = ratio, ratio
        else:
            low = ratio
        if goal / LIKE <= ms <= goal * LIKE:
            break
    if best is None:
        sys.exit(f"no budget in multiply-accumulates gives {goal:.4f} ms")
    return replace(stage, ratio=best)(model, data)


def widths(net: Any, latency: Any) -> Any:
    """The channels that each group has in a pruned network, from the lengths of its weights' axes."""
    from edgedl.stages.rebuilding import weighted

    graph, layers = latency.graph, weighted(net)
    group_of = {int(unit): i for i, group in enumerate(graph.prunable) for unit in group.channels}
    rows, lengths = [], []
    for site in (s for group in graph.prunable for s in group.sites):
        members = [group_of.get(int(unit), -1) for unit in graph.units.roots(site.ids)]
        rows.append([members.count(i) / size for i, size in enumerate(latency.full)])
        lengths.append(layers[site.path].weights[site.index].shape[site.axis] - members.count(-1))
    return np.rint(np.linalg.lstsq(np.array(rows), np.array(lengths), rcond=None)[0]).astype(np.int64)


def train(model: Any, data: Any, epochs: int, seed: int) -> Any:
    """As the peer does: SGD with Nesterov, one-cycle to 0.02, batch 64, flips and shifts; towards the original and labels."""
    from edgedl.stages.distill import Distill
    from edgedl.stages.training.options import Augment

    return Distill(
        epochs=epochs, seed=seed, optimizer="sgd", schedule="one-cycle", learning_rate=0.02, batch_size=64, weight_decay=5e-4,
        augment=Augment(flip=True, shift=4),
    )(model, data)  # fmt: skip


def convert(model: Any, data: Any, path: Path) -> Path:
    """A model as an int8 .tflite."""
    from edgedl.model import QuantizationPlan
    from edgedl.registry import find

    find("converter", "tflite")()(replace(model, plan=QuantizationPlan()), data, path)
    return path


def score(path: Path, data: Any) -> float:
    """Top-1 of an int8 file, by LiteRT alone."""
    return litert_accuracy(path, data.feed(data.validation)["x"], data.validation.y)


def macs(net: Any) -> int:
    """Multiply-accumulates for one image."""
    from edgedl.macs import layers_of

    return sum(layer.macs for layer in layers_of(net))


def measured(files: dict[str, Path]) -> dict[str, tuple[float, tuple[float, float]]]:
    """How many times faster than the dense file each is, with the interval of 95 %; all in turns, one thread."""
    from edgedl.bench import compare, measure

    rows = dict(zip(files, measure(list(files.values()), "cpu", {"threads": 1}, min_seconds=2.0), strict=True))
    found = {}
    for name, row in rows.items():
        verdict = compare(row, rows["dense"])
        found[name] = (1 / verdict.ratio, (1 / verdict.interval[1], 1 / verdict.interval[0]))
        print(f"{name}: {row.latency_us['p50']:.1f} us, {found[name][0]:.2f}x")
    return found


def tell(scores: dict[str, list[float]], faster: dict[str, tuple[float, tuple[float, float]]], speedup: float) -> None:
    """The table and the goals."""
    for name, found in scores.items():
        low, high = faster[name][1]
        print(
            f"{name:<22} {faster[name][0]:5.2f}x ({low:.2f}..{high:.2f})  int8 accuracy {np.mean(found):.4f} "
            f"(of {', '.join(f'{s:.3f}' for s in found)})"
        )
    mean = {name: float(np.mean(found)) for name, found in scores.items()}
    ours = faster["latency"][0]
    figure("latency budget, int8, one thread", f"{ours:.2f}x", f">= {speedup}x", ours >= speedup)
    figure("its int8 accuracy", f"{mean['latency']:.4f}", f">= {ACCURACY:.3f}", mean["latency"] >= ACCURACY)
    for name in ("MACs", "MACs, multiples of 8"):
        ahead = mean["latency"] - mean[name]
        figure(f"ahead of a budget in {name}, same latency", f"{ahead:+.4f}", "> 0", ahead > 0)


if __name__ == "__main__":
    main()
