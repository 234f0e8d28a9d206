"""ResNet-20 for CIFAR-10 pruned to a budget in measured latency, against a budget in multiply-accumulates.

EDGEDL_ASSETS=... python benchmarks/pruned_latency.py [--predict] [--speedup 1.5] [--seeds 3] [--epochs 10] [--cache FOLDER]
    [--only latency]

1. What the sum of the operators' times says of whole networks of random widths, against what they take (`--predict`: this alone).
2. A network chosen for 1 / `speedup` of the dense int8 file's time on one thread, and two chosen for the least multiply-accumulates
   removed (widths as they come, and multiples of 8) with which the file takes no longer (`--only`: some of the three). Each is
   trained as in pruning.py, for `epochs` on train_6000 with the dense network fine-tuned alike as its teacher, for `seeds` seeds;
   int8 accuracy on val_1000_from_test, latencies of the files measured in turns.
3. Every file is held against two dense ones: as this project imports it, and with the shortcuts' strided slices as they are written
   in the source (which LiteRT runs outside of XNNPACK).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import figure, litert_accuracy, quiet_tensorflow
from pruning import accuracy, model_and_data, training

SPEEDUP, ACCURACY = 1.5, 0.820
BUDGETS = {"latency": 0, "MACs": 1, "MACs, multiples of 8": 8}  # and what channels are a multiple of
SLICED = "dense, strided slices"
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
    parser.add_argument(
        "--only", choices=list(BUDGETS), action="append", help="train only for this budget; may be repeated"
    )
    parser.add_argument("--cache", type=Path, help="where times of operators and teachers are kept for the next run")
    given = parser.parse_args()
    quiet_tensorflow()
    model, data = model_and_data()
    from edgedl.scratch import using
    from edgedl.stages.channels.graph import channel_graph
    from edgedl.stages.channels.latency import Latency

    with tempfile.TemporaryDirectory(prefix="edgedl-bench-") as folder:
        given.cache = given.cache or Path(folder) / "cache"
        given.cache.mkdir(parents=True, exist_ok=True)
        with using(given.cache):
            latency = Latency(channel_graph(model.net), "cpu", options={"threads": 1})
            print(
                f"dense: {latency.dense_ms:.4f} ms; {latency.timed} points timed, {latency.reused} from the cache",
                flush=True,
            )
            if given.predict:
                predicted(latency)
            else:
                compared(model, data, latency, given, Path(folder))


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
    wanted = given.only or list(BUDGETS)
    fast = by_latency(model, data, given.speedup)
    goal = latency.networks([widths(fast.net, latency)])[0].ms
    pruned = {
        name: by_macs(model, data, latency, goal, step) if step else fast
        for name, step in BUDGETS.items()
        if name in wanted
    }
    files = {"dense": convert(model, data, folder / "dense.tflite")}
    files[SLICED] = convert(replace(model, net=sliced(model.net)), data, folder / "sliced.tflite")
    scores = {name: [score(path, data)] for name, path in files.items()}
    for name, start in pruned.items():
        files[name] = convert(start, data, folder / f"{len(files)}.tflite")
        scores[name], before = [], score(files[name], data)
        print(f"{name}: {macs(start.net) / 1e6:.1f} MMAC, int8 before training {before:.3f}", flush=True)
    faster = measured(files)
    for name, start in pruned.items() if given.epochs else ():
        for seed in range(given.seeds):
            trained = train(start, data, teacher(model, data, given, seed), given.epochs, seed)
            files[name] = convert(trained, data, folder / f"trained-{len(files)}-{seed}.tflite")
            scores[name].append(score(files[name], data))
            print(f"  {name}, seed {seed}: int8 {scores[name][-1]:.3f}", flush=True)
    if given.epochs:
        faster = measured(files)
        tell(scores, faster, given.speedup)


def by_latency(model: Any, data: Any, speedup: float) -> Any:
    """The model pruned by the stage, to a budget in latency."""
    from edgedl.stages.prune_channels import PruneChannels

    found = PruneChannels(budget="latency", ratio=1 - 1 / speedup)(model, data)
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
    from edgedl.stages.prune_channels import PruneChannels
    from edgedl.stages.training.loop import training_split

    stage, graph = PruneChannels(budget="macs", round_to=step), latency.graph
    cost, total = Polynomial(graph, "macs"), macs(model.net)
    bounds = Bounds(step, stage.min_channels, stage.min_share)
    scores = stage._scores(graph, data, list(data.feed(training_split(data), 0, stage.samples).values()))
    low, high, best = 0.0, 1 - bounds.min_share, None
    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        mask = choose(graph, scores, cost, (1 - ratio) * total, ranking=stage._ranking, bounds=bounds)
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


def sliced(net: Any) -> Any:
    """The network with every second pixel of its shortcuts taken by a slice, as the source says it."""
    from edgedl.frameworks import keras
    from edgedl.stages.rebuilding import copied, rebuild, weighted

    def make(op: Any, path: str) -> Any:
        thins = isinstance(op, keras().layers.MaxPooling2D) and tuple(op.pool_size) == (1, 1)
        return (lambda x: x[:, :: op.strides[0], :: op.strides[1]]) if thins else copied(op, path)

    made = rebuild(net, make)
    twins = weighted(made)
    for path, layer in weighted(net).items():
        twins[path].set_weights(layer.get_weights())
    return made


def teacher(model: Any, data: Any, given: argparse.Namespace, seed: int) -> Path:
    """The file of the dense network fine-tuned for so many epochs; trained unless the cache has it."""
    from edgedl.model import save_keras
    from edgedl.stages.finetune import Finetune

    path: Path = given.cache / f"teacher-{given.epochs}-{seed}.keras"
    if not path.exists():
        tuned = Finetune(**training(given.epochs, seed))(model, data)
        print(f"  teacher, seed {seed}: {accuracy(tuned, data):.3f}", flush=True)
        save_keras(replace(tuned, origin=None), path)
    return path


def train(model: Any, data: Any, taught_by: Path, epochs: int, seed: int) -> Any:
    """As in pruning.py: labels and a teacher."""
    from edgedl.stages.distill import Distill

    plan = training(epochs, seed)
    return Distill(**plan, teacher=(str(taught_by),), label_weight=0.1, temperature=4.0)(model, data)


def convert(model: Any, data: Any, path: Path) -> Path:
    """A model as an int8 .tflite."""
    from edgedl.model import QuantizationPlan
    from edgedl.registry import find

    find("converter", "tflite")()(replace(model, plan=QuantizationPlan()), data, path)
    return path


def score(path: Path, data: Any) -> float:
    """Top-1 of an int8 file, by LiteRT alone."""
    return litert_accuracy(path, next(iter(data.feed(data.validation).values())), data.validation.y)


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
    against = faster[SLICED][0]
    for name, found in scores.items():
        low, high = faster[name][1]
        print(
            f"{name:<22} {faster[name][0]:5.2f}x ({low:.2f}..{high:.2f}), {faster[name][0] / against:.2f}x of '{SLICED}'; "
            f"int8 accuracy {np.mean(found):.4f} (of {', '.join(f'{s:.3f}' for s in found)})"
        )
    if not (mean := {name: float(np.mean(found)) for name, found in scores.items()}).get("latency"):
        return
    ours = faster["latency"][0]
    figure("latency budget, int8, one thread", f"{ours:.2f}x", f">= {speedup}x", ours >= speedup)
    figure("its int8 accuracy", f"{mean['latency']:.4f}", f">= {ACCURACY:.3f}", mean["latency"] >= ACCURACY)
    for name in sorted(set(BUDGETS) & set(mean) - {"latency"}):
        ahead = mean["latency"] - mean[name]
        figure(f"ahead of a budget in {name}, same latency", f"{ahead:+.4f}", "> 0", ahead > 0)


if __name__ == "__main__":
    main()
