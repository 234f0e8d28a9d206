"""A student at 1/8 of its teacher's multiply-accumulates: on labels alone, and distilled; GTSRB traffic signs.

EDGEDL_ASSETS=... python benchmarks/student.py

Both ways start from the same weights and see the same samples for the same epochs, one after the other for each seed. Tracks
(30 frames of one physical sign) are either for training or for validation. No flips: they change what a sign means.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, figure, quiet_tensorflow

HELD_OUT = 0.25  # share of each class's tracks that are for validation, at least one
TEACHER_EPOCHS, EPOCHS = 30, 30
SEEDS = 3
CHANNELS = (24, 40, 64, 96)  # of the teacher's stages, at 32, 16, 8 and 4 pixels
SHARE = 1 / 8


def split(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x float32 0..1, y, and which samples are for validation: whole tracks."""
    data = np.load(folder / "train.npz")
    tracks = np.array([name.rpartition("_")[0] for name in data["name"]])
    held = []
    for label in range(int(data["y"].max()) + 1):
        own = np.unique(tracks[data["y"] == label])
        order = np.random.default_rng(label).permutation(own)
        held += list(order[: max(1, round(HELD_OUT * len(own)))])
    return data["x"].astype(np.float32) / 255, data["y"].astype(np.int64), np.isin(tracks, held)


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


def main() -> None:
    """Print both students for each seed, their means and spreads, and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", default=[], help="OPTION=VALUE of distill, to try it")
    parser.add_argument("--teacher", type=Path, help="a trained teacher to use (or to keep, where it is not there yet)")
    wanted = parser.parse_args()
    quiet_tensorflow()
    from edgedl.data import Dataset, Split
    from edgedl.options import build, parse_value
    from edgedl.stages.distill import Distill
    from edgedl.stages.finetune import Finetune

    x, y, held = split(assets() / "datasets/gtsrb_32")
    train, held_out = Split({"image": x[~held]}, y[~held]), Split({"image": x[held]}, y[held])
    data = Dataset(train, held_out, train, metric="accuracy")
    table = dict(option.split("=", 1) for option in wanted.set)
    how = {"learning_rate": 6e-3, "weight_decay": 1e-4, "augment": {"shift": 3, "crop": 0.2}}
    with tempfile.TemporaryDirectory() as name:
        path = wanted.teacher or Path(name) / "teacher.keras"
        if not path.exists():
            start = model_of(network(CHANNELS, 100))
            build(Finetune, {"epochs": TEACHER_EPOCHS, **how}, "finetune")(start, data).net.save(path)
        import keras

        teacher = keras.saving.load_model(path)
        channels = student_channels(macs(teacher))
        own, big = macs(network(channels, 0)), macs(teacher)
        print(f"teacher {big / 1e6:.2f} MMAC, accuracy {accuracy(teacher, x[held], y[held]):.4f}; "
              f"student {own / 1e6:.2f} MMAC ({big / own:.1f} times fewer), {(~held).sum()} images to train, "
              f"{held.sum()} of other signs to validate", flush=True)  # fmt: skip
        found: dict[str, list[float]] = {"labels alone": [], "distilled": []}
        for seed in range(SEEDS):
            common = {"epochs": EPOCHS, "seed": seed, **how}
            ways = {
                "labels alone": build(Finetune, common, "finetune"),
                "distilled": build(
                    Distill,
                    {**common, "teacher": [str(path)], **{k: parse_value(v) for k, v in table.items()}},
                    "distill",
                ),
            }
            for way, stage in ways.items():
                after = stage(model_of(network(channels, seed)), data)
                found[way].append(accuracy(after.net, x[held], y[held]))
                print(f"seed {seed}  {way:<14} {found[way][-1]:.4f}", flush=True)
    report({way: np.array(values) for way, values in found.items()})
    print(
        {f.name: f.default for f in dataclasses.fields(Distill) if f.name in ("temperature", "logits", "features")},
        table,
    )


def report(found: dict[str, np.ndarray]) -> None:
    """Mean and spread of each way, and whether their difference is larger than the larger spread."""
    for way, values in found.items():
        print(
            f"{way:<14} mean {values.mean():.4f}  spread {np.ptp(values):.4f} ({values.min():.4f} to {values.max():.4f})"
        )
    gain = found["distilled"].mean() - found["labels alone"].mean()
    spread = max(float(np.ptp(values)) for values in found.values())
    figure("distilled above labels alone, mean of 3 seeds", f"{gain:+.4f}", f"> {spread:.4f}", gain > spread)


if __name__ == "__main__":
    main()
