"""Zipped size after 90 % zeros and 16 clusters: a DS-CNN for keywords and a CNN for traffic signs, each trained here.

EDGEDL_ASSETS=... python benchmarks/sparse_zip.py [kws|signs] [--no-tfmot]

The dense network is trained from scratch; prune_weights and cluster then learn from its outputs on the same samples (no
labels). tensorflow-model-optimization does both on a tf_keras twin with the same samples, epochs and rates beside it.
Sizes are of float32 .tflite files, plain and as a zip (DEFLATE); accuracy is LiteRT's, on samples held back.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, figure, litert_accuracy, quiet_tensorflow

SPARSITY, CLUSTERS = 0.9, 16


@dataclass(frozen=True)
class Task:
    """A network, its data, and how long each part of the training is (epochs over `copies` of the training samples)."""

    name: str
    build: Callable[[], Any]
    data: Callable[[Path], tuple[np.ndarray, ...]]  # train x, y, held-back x, y
    shift: tuple[int, int]  # of the first two axes, at most, when samples are copied
    noise: float
    copies: int
    dense: int
    prune: int
    cluster: int
    options: dict[str, Any]  # of prune_weights


def dscnn() -> Any:
    """DS-CNN-S (Zhang et al., "Hello Edge", 2017): 49 frames of 10 MFCC, 12 classes."""
    from edgedl.frameworks import keras

    L = keras().layers
    x = features = keras().Input((49, 10, 1), name="features")
    x = L.Conv2D(64, (10, 4), 2, padding="same", use_bias=False)(x)
    x = L.Dropout(0.2)(L.ReLU()(L.BatchNormalization(momentum=0.9)(x)))
    for _ in range(4):
        x = L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = L.ReLU()(L.BatchNormalization(momentum=0.9)(x))
        x = L.ReLU()(L.BatchNormalization(momentum=0.9)(L.Conv2D(64, 1, use_bias=False)(x)))
    x = L.Dropout(0.4)(L.GlobalAveragePooling2D()(x))
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


def keywords(root: Path) -> tuple[np.ndarray, ...]:
    """kws01's 1000 clips as features, 700 to train on and 300 held back at random (who speaks is not known)."""
    found = np.load(root / "datasets/mlperf_tiny/kws01.npz")
    x, y = (found["x"].astype(np.float32) - 83) * 0.5847029, found["y"]
    order = np.random.default_rng(0).permutation(len(y))
    held, train = order[:300], order[300:]
    x = (x - x[train].mean(0)) / x[train].std(0)
    return x[train], y[train], x[held], y[held]


def signs(root: Path) -> tuple[np.ndarray, ...]:
    """gtsrb_32, a fifth of the tracks of each class held back; each image at mean 0 and standard deviation 1."""
    found = np.load(root / "datasets/gtsrb_32/train.npz")
    x, y = found["x"].astype(np.float32), found["y"].astype(np.int64)
    tracks = np.array([name.split("_")[0] for name in found["name"]])
    rng, chosen = np.random.default_rng(0), []
    for label in range(43):
        own = sorted(set(tracks[y == label]))
        rng.shuffle(own)
        chosen += own[: max(1, len(own) // 5)]
    held = np.isin(tracks, chosen)
    x = (x - x.mean((1, 2, 3), keepdims=True)) / np.maximum(x.std((1, 2, 3), keepdims=True), 8)
    return x[~held], y[~held], x[held], y[held]


TASKS = (
    Task("kws", dscnn, keywords, (6, 0), 0.3, 12, 6, 12, 2, {"include": ("*",), "ranking": "lamp"}),
    Task("signs", cnn, signs, (3, 3), 0.05, 4, 3, 3, 1, {"ranking": "lamp"}),
)


def copied(task: Task, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The training samples several times over, moved and with noise."""
    rng, out = np.random.default_rng(1), []
    for _ in range(task.copies):
        moves = rng.integers(-np.array(task.shift), np.array(task.shift) + 1, (len(x), 2))
        out.append(np.stack([np.roll(s, tuple(m), (0, 1)) for s, m in zip(x, moves, strict=True)]))
    many = np.concatenate(out)
    return (many + task.noise * rng.normal(size=many.shape)).astype(np.float32), np.tile(y, task.copies)


@dataclass(frozen=True)
class Row:
    """One file: LiteRT's accuracy, bytes, bytes as a zip."""

    accuracy: float
    size: int
    zipped: int


def measure(what: str, model: Any, data: Any, held: tuple[np.ndarray, np.ndarray], began: float) -> Row:
    """Write a float .tflite and its zip, and print what they are."""
    from edgedl.registry import find
    from edgedl.stages.sparsity import record

    with tempfile.TemporaryDirectory() as folder:
        file = find("converter", "tflite")()(model, data, Path(folder) / "m.tflite").path
        with zipfile.ZipFile(Path(folder) / "m.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
            packed.write(file, "m.tflite")
        row = Row(litert_accuracy(file, *held), file.stat().st_size, (Path(folder) / "m.zip").stat().st_size)
    own = record.weights(model.net)
    print(
        f"  {what:<28} accuracy {row.accuracy:.3f}  .tflite {row.size:>9,} bytes, zip {row.zipped:>9,}   weights "
        f"{own['bytes']:,}, zip {own['zip_bytes']:,}, {own['sparsity']:.1%} zero   {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return row


def compressed(task: Task, dense: Any, data: Any, engine: str) -> tuple[Any, Any]:
    """(pruned, pruned and clustered) models."""
    from edgedl.stages.cluster import Cluster
    from edgedl.stages.prune_weights import PruneWeights

    own = task.options if engine == "edgedl" else {}  # tfmot has one ranking, and prunes no depthwise kernel
    pruned = PruneWeights(
        epochs=task.prune, learning_rate=2e-3, sparsity=SPARSITY, loss="origin", engine=engine, **own
    )(dense, data)  # fmt: skip
    found = Cluster(epochs=task.cluster, learning_rate=5e-4, clusters=CLUSTERS, loss="origin", engine=engine)(
        pruned, data
    )
    return pruned, found


def run(task: Task, root: Path, peer: bool) -> None:
    """Print the lines of one task."""
    from edgedl.artifact import TensorSpec
    from edgedl.data import Dataset, Split
    from edgedl.frameworks import keras
    from edgedl.model import Model
    from edgedl.stages.finetune import Finetune

    keras().utils.set_random_seed(0)
    x, y, *held = task.data(root)
    net = task.build()
    name = net.inputs[0].name
    train = Split({name: (many := copied(task, x, y))[0]}, many[1])
    data = Dataset(train, Split({name: held[0]}, held[1]), train=train, metric="accuracy",
                   labels=tuple(map(str, range(net.outputs[0].shape[-1]))))  # fmt: skip
    specs = [tuple(TensorSpec(t.name, tuple(t.shape), t.dtype) for t in ts) for ts in (net.inputs, net.outputs)]
    began = time.perf_counter()
    print(f"{task.name}: {len(x)} samples x {task.copies} copies to train on, {len(held[1])} held back")
    trained = Finetune(epochs=task.dense, learning_rate=2e-3)(Model(net, *specs), data)
    dense = Model(trained.net, *specs)
    before = measure(f"dense, {task.dense} epochs", dense, data, (held[0], held[1]), began)
    rows = {}
    for engine in ("edgedl", "tfmot") if peer else ("edgedl",):
        pruned, clustered = compressed(task, dense, data, engine)
        measure(f"{engine}: pruned", pruned, data, (held[0], held[1]), began)
        rows[engine] = measure(f"{engine}: pruned, clustered", clustered, data, (held[0], held[1]), began)
    for engine, row in rows.items():
        share, loss = row.zipped / before.size, before.accuracy - row.accuracy
        figure(f"{task.name}, {engine}: zip over the dense float file", f"1/{1 / share:.1f}", "<= 1/10", share <= 0.1)
        figure(f"{task.name}, {engine}: points of accuracy lost", f"{100 * loss:.1f}", "<= 1", loss <= 0.01 + 1e-9)


def main() -> None:
    """Both tasks, or the one that is named."""
    quiet_tensorflow()
    root, wanted = assets(), [a for a in sys.argv[1:] if not a.startswith("-")]
    for task in TASKS:
        if not wanted or task.name in wanted:
            run(task, root, "--no-tfmot" not in sys.argv)


if __name__ == "__main__":
    main()
