"""Zipped size after 90 % zeros and 16 clusters: a DS-CNN for keywords and a CNN for traffic signs, each trained here.

EDGEDL_ASSETS=... python benchmarks/sparse_zip.py [kws|signs] [--sparsity 0.5,0.7,0.9] [--seeds 3] [--choose] [--tfmot]

The dense network is trained from scratch on labels. prune_weights, distill (where the task has epochs for it) and cluster
then learn from it on the same samples. Beside it the dense network is trained on for as many epochs as these took: what
is lost is counted from the better of the two. Sizes are of float32 .tflite files, plain and as a zip (DEFLATE); accuracy is LiteRT's, on samples held
back. --choose: score on samples taken from the training part instead; options are chosen there, never on what is scored.
--tfmot: tensorflow-model-optimization with the same epochs and rates; it cannot augment, so it gets copies made before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, figure, quiet_tensorflow

SPARSITY, CLUSTERS, COPIES = 0.9, 16, 8


@dataclass(frozen=True)
class Task:
    """A network, its data, and how it is trained."""

    name: str
    build: Callable[[], Any]
    data: Callable[[Path, bool], tuple[np.ndarray, ...]]  # train x, y, held-back x, y
    augment: Mapping[str, Any]
    batch: int
    rate: float  # of all but cluster
    dense: int  # epochs
    prune: int
    distill: int
    cluster: int
    options: Mapping[str, Any] = field(default_factory=dict)  # of prune_weights


def dscnn() -> Any:
    """DS-CNN-M (Zhang et al., "Hello Edge: Keyword Spotting on Microcontrollers", 2017): 49 frames of 10 MFCC, 12 classes."""
    from edgedl.frameworks import keras

    L = keras().layers

    def normed(x: Any) -> Any:
        return L.ReLU()(L.BatchNormalization(momentum=0.95)(x))

    x = features = keras().Input((49, 10, 1), name="features")
    x = normed(L.Conv2D(172, (10, 4), (2, 1), padding="same", use_bias=False)(x))
    for stride in (2, 1, 1, 1):
        x = normed(L.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x))
        x = normed(L.Conv2D(172, 1, use_bias=False)(x))
    x = L.Dropout(0.2)(L.GlobalAveragePooling2D()(x))
    return keras().Model(features, L.Dense(12, activation="softmax")(x), name="dscnn")


def cnn() -> Any:
    """Four convolutions and a dense layer; 32x32 RGB signs, 43 classes."""
    from edgedl.frameworks import keras

    L = keras().layers
    x = image = keras().Input((32, 32, 3), name="image")
    for filters in (32, 64, 96):
        x = L.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = L.MaxPooling2D()(L.ReLU()(L.BatchNormalization(momentum=0.9)(x)))
    x = L.ReLU()(L.BatchNormalization(momentum=0.9)(L.Conv2D(128, 3, use_bias=False)(x)))
    x = L.Dropout(0.4)(L.Flatten()(x))
    return keras().Model(image, L.Dense(43, activation="softmax")(x), name="signs")


def keywords(root: Path, choose: bool) -> tuple[np.ndarray, ...]:
    """kws01's 1000 clips as features: 300 held back at random (who speaks is not known), 700 to train on; or 500 of these
    and the other 200 held back. Each coefficient at mean 0 and standard deviation 1."""
    found = np.load(root / "datasets/mlperf_tiny/kws01.npz")
    x, y = (found["x"].astype(np.float32) - 83) * 0.5847029, found["y"]
    order = np.random.default_rng(0).permutation(len(y))
    held, train = (order[800:], order[300:800]) if choose else (order[:300], order[300:])
    x = (x - x[train].mean((0, 1))) / x[train].std((0, 1))
    return x[train], y[train], x[held], y[held]


def signs(root: Path, choose: bool) -> tuple[np.ndarray, ...]:
    """gtsrb_32, a fifth of the tracks of each class held back (or the next track); images at mean 0, standard deviation 1."""
    found = np.load(root / "datasets/gtsrb_32/train.npz")
    x, y = found["x"].astype(np.float32), found["y"].astype(np.int64)
    tracks = np.array([name.split("_")[0] for name in found["name"]])
    rng, scored, chosen = np.random.default_rng(0), [], []
    for label in range(43):
        own = sorted(set(tracks[y == label]))
        rng.shuffle(own)
        count = max(1, len(own) // 5)
        scored += own[:count]
        chosen += own[count : count + 1]
    outside, other = np.isin(tracks, scored), np.isin(tracks, chosen)
    held, train = (other, ~(outside | other)) if choose else (outside, ~outside)
    x = (x - x.mean((1, 2, 3), keepdims=True)) / np.maximum(x.std((1, 2, 3), keepdims=True), 8)
    return x[train], y[train], x[held], y[held]


TASKS = (
    Task("kws", dscnn, keywords, {"time_shift": 0.1, "noise": 0.3, "mixup": 0.3}, batch=32, rate=3e-3, dense=40, prune=30,
         distill=30, cluster=6, options={"include": ("*",), "ranking": "lamp", "rise": 0.5}),
    Task("signs", cnn, signs, {"shift": 3, "noise": 0.05}, batch=64, rate=2e-3, dense=12, prune=12, distill=0, cluster=4,
         options={"ranking": "lamp"}),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One file: which samples LiteRT gets right, bytes, bytes as a zip."""

    right: np.ndarray
    size: int
    zipped: int

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


def right(file: Path, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which samples a .tflite classifies right, by LiteRT's interpreter alone."""
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(str(file))
    net.allocate_tensors()
    found = []
    for sample in x:
        net.set_tensor(net.get_input_details()[0]["index"], sample[None])
        net.invoke()
        found.append(int(net.get_tensor(net.get_output_details()[0]["index"])[0].argmax()))
    return np.array(found) == y


def measure(what: str, model: Any, data: Any, held: Sequence[np.ndarray], began: float) -> Row:
    """Write a float .tflite and its zip, and print what they are."""
    from edgedl.registry import find
    from edgedl.stages.sparsity import record

    with tempfile.TemporaryDirectory() as folder:
        file = find("converter", "tflite")()(model, data, Path(folder) / "m.tflite").path
        with zipfile.ZipFile(Path(folder) / "m.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
            packed.write(file, "m.tflite")
        row = Row(right(file, held[0], held[1]), file.stat().st_size, (Path(folder) / "m.zip").stat().st_size)
    print(
        f"  {what:<36} accuracy {row.accuracy:.3f}  .tflite {row.size:>9,} bytes, zip {row.zipped:>9,}   "
        f"{record.weights(model.net)['sparsity']:.1%} zero   {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return row


def copied(task: Task, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The training samples several times over, moved and with noise, for an engine that does not augment."""
    rng, out = np.random.default_rng(1), []
    most = task.augment.get("shift", round(task.augment.get("time_shift", 0) * x.shape[1]))
    axes = (0, 1) if "shift" in task.augment else (0,)
    for _ in range(COPIES):
        moves = rng.integers(-most, most + 1, (len(x), len(axes)))
        out.append(np.stack([np.roll(s, tuple(m), axes) for s, m in zip(x, moves, strict=True)]))
    many = np.concatenate(out)
    return (many + task.augment["noise"] * rng.normal(size=many.shape)).astype(np.float32), np.tile(y, COPIES)


def training(task: Task, seed: int) -> dict[str, Any]:
    """The options that every stage of edgedl has here."""
    from edgedl.stages.training.options import Augment

    return {"batch_size": task.batch, "seed": seed, "augment": Augment(**task.augment)}


def compressed(task: Task, dense: Any, data: Any, sparsity: float, seed: int) -> dict[str, Any]:
    """What was done -> the model after it."""
    from edgedl.stages.cluster import Cluster
    from edgedl.stages.distill import Distill
    from edgedl.stages.prune_weights import PruneWeights

    common = training(task, seed)
    last = PruneWeights(
        epochs=task.prune, learning_rate=task.rate, sparsity=sparsity, loss="origin", **common, **task.options
    )(dense, data)  # fmt: skip
    found = {"pruned": last}
    if task.distill:
        last = found["distilled"] = Distill(epochs=task.distill, learning_rate=task.rate, **common)(last, data)
    cluster = Cluster(epochs=task.cluster, learning_rate=task.rate / 6, clusters=CLUSTERS, loss="origin", **common)
    return found | {"clustered": cluster(last, data)}


def by_tfmot(task: Task, dense: Any, data: Any, sparsity: float, seed: int) -> dict[str, Any]:
    """The same by tensorflow-model-optimization: one ranking, no depthwise kernels, `data` of copies, no features."""
    from edgedl.stages.cluster import Cluster
    from edgedl.stages.prune_weights import PruneWeights

    common: dict[str, Any] = {"loss": "origin", "seed": seed, "engine": "tfmot", "batch_size": task.batch}
    epochs, few = (max(1, round(n / COPIES)) for n in (task.prune + task.distill, task.cluster))
    rise = 0.7 * task.prune / (task.prune + task.distill)
    pruned = PruneWeights(epochs=epochs, learning_rate=task.rate, sparsity=sparsity, rise=rise, **common)(dense, data)
    cluster = Cluster(epochs=few, learning_rate=task.rate / 6, clusters=CLUSTERS, **common)
    return {"pruned": pruned, "clustered": cluster(pruned, data)}


def run(task: Task, root: Path, wanted: argparse.Namespace, seed: int) -> dict[str, tuple[float, float]]:
    """Print the lines of one task; what was compressed -> (size of the dense file over the zip's, share of accuracy lost)."""
    from edgedl.artifact import TensorSpec
    from edgedl.data import Dataset, Split
    from edgedl.frameworks import keras
    from edgedl.model import Model
    from edgedl.stages.finetune import Finetune

    keras().utils.set_random_seed(seed)
    x, y, *held = task.data(root, wanted.choose)
    net = task.build()
    name = net.inputs[0].name

    def dataset(x: np.ndarray, y: np.ndarray) -> Dataset:
        train = Split({name: x}, y)
        return Dataset(train, Split({name: held[0]}, held[1]), train=train, metric="accuracy",
                       labels=tuple(map(str, range(net.outputs[0].shape[-1]))))  # fmt: skip

    def trained(model: Model, epochs: int) -> Model:
        return Model(Finetune(epochs=epochs, learning_rate=task.rate, **training(task, seed))(model, data).net, *specs)

    data, began = dataset(x, y), time.perf_counter()
    specs = [tuple(TensorSpec(t.name, tuple(t.shape), t.dtype) for t in ts) for ts in (net.inputs, net.outputs)]
    print(f"{task.name}, seed {seed}: {net.count_params():,} parameters, {len(x)} samples, {len(held[1])} held back")
    dense = trained(Model(net, *specs), task.dense)
    first = measure(f"dense, {task.dense} epochs", dense, data, held, began)
    rows = {}
    for sparsity in wanted.sparsity:
        for engine in ("edgedl", "tfmot") if wanted.tfmot else ("edgedl",):
            given = dataset(*copied(task, x, y)) if engine == "tfmot" else data
            made = (by_tfmot if engine == "tfmot" else compressed)(task, dense, given, sparsity, seed)
            for what, model in made.items():
                rows[f"{engine}, {sparsity:.0%}"] = measure(
                    f"{engine}, {sparsity:.0%}, {what}", model, data, held, began
                )
    more = task.prune + task.distill + task.cluster
    second = measure(f"dense, {more} epochs more", trained(dense, more), data, held, began)
    best = max(first, second, key=lambda row: row.accuracy)
    for title, row in rows.items():
        print(
            f"  {title}: {100 * (best.accuracy - row.accuracy):.1f} points lost, standard error {100 * _error(best, row):.1f}"
        )
    return {title: (best.size / row.zipped, best.accuracy - row.accuracy) for title, row in rows.items()}


def _error(one: Row, other: Row) -> float:
    """Standard error of a difference of accuracies on the same samples."""
    return float(np.std(one.right.astype(float) - other.right) / np.sqrt(len(one.right)))


def main() -> None:
    """Every task, or the one that is named, seed by seed; then the means beside the goals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=[task.name for task in TASKS])
    parser.add_argument("--sparsity", type=lambda text: [float(v) for v in text.split(",")], default=[SPARSITY])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--tfmot", action="store_true")
    wanted = parser.parse_args()
    quiet_tensorflow()
    for task in TASKS:
        if wanted.task not in (None, task.name):
            continue
        seeds = [run(task, assets(), wanted, seed) for seed in range(wanted.seeds)]
        for title in seeds[0]:
            smaller, lost = (float(v) for v in np.mean([found[title] for found in seeds], axis=0))
            figure(f"{task.name}, {title}: zip over the dense float file", f"1/{smaller:.1f}", "<= 1/10", smaller >= 10)
            figure(f"{task.name}, {title}: points of accuracy lost", f"{100 * lost:.1f}", "<= 1", lost <= 0.01 + 1e-9)


if __name__ == "__main__":
    main()
