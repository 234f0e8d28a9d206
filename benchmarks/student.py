"""A student at 1/8 of its teacher's multiply-accumulates: on labels alone, and distilled; GTSRB traffic signs.

EDGEDL_ASSETS=... python benchmarks/student.py

Both ways start from the same weights and see the same samples, changed alike, for the same epochs, one after the other for
each seed; only the loss differs. Tracks (30 frames of one physical sign) are either for training or for scoring. No flips:
they change what a sign means. The spread of a way is the range of its seeds.

`--choose` holds tracks out of those for training and scores on these, to choose settings without the scored tracks.
`--labelled 0.25`: there are labels for a quarter of each class's images. The way on labels alone has only these, for as many
steps; the distilled student has all images and no labels.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, figure, quiet_tensorflow

HELD_OUT = 0.25  # share of each class's tracks that are held out, at least one
CHANNELS = (24, 40, 64, 96)  # of the teacher's stages, at 32, 16, 8 and 4 pixels
SHARE = 1 / 8
TEACHER: dict[str, Any] = {
    "epochs": 30, "learning_rate": 6e-3, "weight_decay": 1e-4, "augment": {"shift": 3, "crop": 0.2},
}  # fmt: skip
RECIPE: dict[str, Any] = {  # of both students
    "epochs": 30, "learning_rate": 6e-3, "weight_decay": 1e-4, "augment": {"shift": 3, "crop": 0.2},
}  # fmt: skip
DISTILLED: dict[str, Any] = {"temperature": 1.0, "label_weight": 0.0, "features": 0.0}


def held_out(y: np.ndarray, tracks: np.ndarray, key: Sequence[int] = ()) -> np.ndarray:
    """Which samples are of held-out tracks, drawn class by class; `key` draws others."""
    held: list[str] = []
    for label in range(int(y.max()) + 1):
        own = np.unique(tracks[y == label])
        order = np.random.default_rng([*key, label] if key else label).permutation(own)
        held += list(order[: max(1, round(HELD_OUT * len(own)))])
    return np.isin(tracks, held)


def split(folder: Path, choose: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x float32 0..1, y, and which samples are scored; with `choose` without the tracks that are scored else."""
    data = np.load(folder / "train.npz")
    x, y = data["x"].astype(np.float32) / 255, data["y"].astype(np.int64)
    tracks = np.array([name.rpartition("_")[0] for name in data["name"]])
    held = held_out(y, tracks)
    if not choose:
        return x, y, held
    return x[~held], y[~held], held_out(y[~held], tracks[~held], (7,))


def labelled(y: np.ndarray, share: float) -> np.ndarray:
    """Indices of a random `share` of each class, at least one."""
    rng = np.random.default_rng(0)
    parts = [rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)]
    return np.sort(np.concatenate([part[: max(1, round(share * len(part)))] for part in parts]))


def datasets(x: np.ndarray, y: np.ndarray, held: np.ndarray, share: float) -> tuple[Any, Any, Any]:
    """The data of the teacher, of labels alone and of distillation."""
    from edgedl.data import Dataset, Split

    full, scored = Split({"image": x[~held]}, y[~held]), Split({"image": x[held]}, y[held])
    few, bare = full.take(labelled(full.y, share)), Split(full.x)
    return tuple(
        Dataset(train, scored, train, metric="accuracy")
        for train in (full, *((few, bare) if share < 1 else (full, full)))
    )


def network(channels: tuple[int, ...], seed: int) -> Any:
    """A small residual network for 32x32 images and 43 classes, with fresh weights."""
    import keras

    L = keras.layers
    keras.utils.set_random_seed(seed)

    def conv(x: Any, filters: int, stride: int = 1) -> Any:
        x = L.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        return L.BatchNormalization(momentum=0.9)(x)

    image = keras.Input((32, 32, 3), name="image")
    x = L.ReLU()(conv(image, channels[0]))
    for filters in channels[1:]:
        x = L.ReLU()(conv(x, filters, 2))
        x = L.ReLU()(L.Add()([x, conv(L.ReLU()(conv(x, filters)), filters)]))
    x = L.Dropout(0.2)(L.GlobalAveragePooling2D()(x))
    return keras.Model(image, L.Dense(43, activation="softmax", name="sign")(x), name="signs")


def macs(net: Any) -> int:
    """Multiply-accumulates for one image."""
    from edgedl.macs import layers_of

    return sum(layer.macs for layer in layers_of(net))


def student_channels(teacher: int) -> tuple[int, ...]:
    """The widest uniform share of the teacher's channels with at most 1/8 of its multiply-accumulates."""
    for percent in range(60, 5, -1):
        channels = tuple(max(1, round(c * percent / 100)) for c in CHANNELS)
        if macs(network(channels, 0)) <= SHARE * teacher:
            return channels
    raise SystemExit("no student is that small")


def model_of(net: Any) -> Any:
    """A network as edgedl's Model."""
    from edgedl.artifact import TensorSpec
    from edgedl.model import Model

    return Model(
        net, (TensorSpec("image", (None, 32, 32, 3), "float32"),), (TensorSpec("sign", (None, 43), "float32"),)
    )


def accuracy(net: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Top-1."""
    return float(np.mean(net.predict(x, batch_size=256, verbose=0).argmax(-1) == y))


def told(options: Sequence[str]) -> dict[str, Any]:
    """OPTION=VALUE or TABLE.OPTION=VALUE as a table."""
    from edgedl.options import parse_value

    table: dict[str, Any] = {}
    for option in options:
        name, _, value = option.partition("=")
        outer, dot, inner = name.partition(".")
        if dot:
            table.setdefault(outer, {})[inner] = parse_value(value)
        else:
            table[outer] = parse_value(value)
    return table


def merged(table: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The table with changes, those of a table within it one by one."""
    found = {**table, **changes}
    if "augment" in changes:
        found["augment"] = {**table["augment"], **changes["augment"]}
    return found


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--choose", action="store_true", help="score on tracks that are held out of those for training")
    parser.add_argument("--both", action="append", default=[], help="OPTION=VALUE of both ways' training, to try it")
    parser.add_argument("--set", action="append", default=[], help="OPTION=VALUE of distill, to try it")
    parser.add_argument("--labelled", type=float, default=1.0, help="share of the images that have labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--teacher", type=Path, help="a trained teacher to use (or to keep, where it is not there yet)")
    return parser.parse_args()


def main() -> None:
    """Print both students for each seed, their means and spreads, and the verdict."""
    wanted, began = arguments(), time.monotonic()
    quiet_tensorflow()
    from edgedl.options import build
    from edgedl.stages.distill import Distill
    from edgedl.stages.finetune import Finetune

    x, y, held = split(assets() / "datasets/gtsrb_32", wanted.choose)
    full, alone, distilled = datasets(x, y, held, wanted.labelled)
    recipe, own = merged(RECIPE, told(wanted.both)), {**DISTILLED, **told(wanted.set)}
    print(f"both: {recipe}\ndistilled: {own}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        path = wanted.teacher or Path(name) / "teacher.keras"
        if not path.exists():
            build(Finetune, TEACHER, "finetune")(model_of(network(CHANNELS, 100)), full).net.save(path)
        import keras

        teacher = keras.saving.load_model(path)
        channels = student_channels(macs(teacher))
        small, big = macs(network(channels, 0)), macs(teacher)
        print(f"teacher {big / 1e6:.2f} MMAC, accuracy {accuracy(teacher, x[held], y[held]):.4f}; "
              f"student {small / 1e6:.2f} MMAC ({big / small:.1f} times fewer), {(~held).sum()} images to train, "
              f"{held.sum()} of other signs to score", flush=True)  # fmt: skip
        found: dict[str, list[float]] = {"labels alone": [], "distilled": []}
        for seed in range(wanted.seeds):
            common = {**recipe, "seed": seed}
            longer = {"epochs": round(recipe["epochs"] * len(full.train) / len(alone.train))}  # as many steps
            ways = {
                "labels alone": (build(Finetune, {**common, **longer}, "finetune"), alone),
                "distilled": (build(Distill, {**common, **own, "teacher": [str(path)]}, "distill"), distilled),
            }
            for way, (stage, data) in ways.items():
                net = stage(model_of(network(channels, seed)), data).net
                found[way].append(accuracy(net, x[held], y[held]))
                print(
                    f"seed {seed}  {way:<14} {found[way][-1]:.4f}   on its training images "
                    f"{accuracy(net, x[~held], y[~held]):.4f}", flush=True,
                )  # fmt: skip
    report({way: np.array(values) for way, values in found.items()})
    print(f"{time.monotonic() - began:.0f} s")


def report(found: dict[str, np.ndarray]) -> None:
    """Mean and spread of each way, and whether their difference is larger than the larger spread."""
    for way, values in found.items():
        print(
            f"{way:<14} mean {values.mean():.4f}  spread {np.ptp(values):.4f} ({values.min():.4f} to {values.max():.4f})"
        )
    gain = found["distilled"].mean() - found["labels alone"].mean()
    spread = max(float(np.ptp(values)) for values in found.values())
    figure(
        f"distilled above labels alone, mean of {len(found['distilled'])} seeds", f"{gain:+.4f}", f"> {spread:.4f}",
        gain > spread,
    )  # fmt: skip


if __name__ == "__main__":
    main()
