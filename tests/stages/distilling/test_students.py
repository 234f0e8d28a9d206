"""Students: given by the user, or the model with fewer channels and blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

from edgedl.artifact import TensorSpec
from edgedl.errors import ModelError, UsageError
from edgedl.frameworks import keras
from edgedl.macs import layers_of
from edgedl.model import Model
from edgedl.stages.distilling import students
from edgedl.stages.rebuilding import leaves, weighted

IMAGE = TensorSpec("image", (None, 8, 8, 3), "float32")
CLASS = TensorSpec("class", (None, 5), "float32")


def resnet(blocks: int = 3) -> Any:
    """Two runs of residual blocks: 8x8x6, then 4x4x12 behind a projection that cannot be left out."""
    L = keras().layers
    keras().utils.set_random_seed(3)
    image = keras().Input((8, 8, 3), name="image")
    x = L.Conv2D(6, 3, padding="same", name="stem")(image)
    for stage, channels in enumerate((6, 12)):
        if stage:
            y = L.Conv2D(channels, 3, 2, padding="same", name="down")(x)
            x = L.Add(name="down_add")([L.Conv2D(channels, 1, 2, name="project")(x), y])
        for block in range(blocks):
            y = L.Conv2D(channels, 3, padding="same", activation="relu", name=f"s{stage}b{block}_a")(x)
            y = L.Conv2D(channels, 3, padding="same", name=f"s{stage}b{block}_b")(y)
            order = [x, y] if block % 2 else [y, x]
            x = L.Add(name=f"s{stage}b{block}_add")(order)
    x = L.GlobalAveragePooling2D()(x)
    return keras().Model(image, L.Dense(5, activation="softmax", name="class")(x), name="blocks")


def model_of(net: Any) -> Model:
    return Model(net, (IMAGE,), (CLASS,))


def sums(net: Any) -> list[str]:
    return [path for path, op in leaves(net) if type(op).__name__ == "Add"]


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def macs(net: Any) -> int:
    return sum(layer.macs for layer in layers_of(net))


# --- depth


@pytest.mark.parametrize(("depth", "kept"), [(0.5, 3), (0.34, 3), (0.3, 2), (0.01, 1), (0.99, 5)])
def test_blocks_are_left_out_evenly(depth: float, kept: int) -> None:
    found = sums(students.shallower(resnet(), depth))
    assert len(found) == kept + 1, "and the projection"
    assert "down_add" in found
    per_run = [sum(name.startswith(f"s{stage}b") for name in found) for stage in (0, 1)]
    assert abs(per_run[0] - per_run[1]) <= 1


def test_what_is_left_is_the_network_with_blocks_that_add_nothing() -> None:
    net = resnet()
    smaller = students.shallower(net, 0.5)
    gone = set(weighted(net)) - set(weighted(smaller))
    assert gone
    for path in gone:
        if path.endswith("_b"):
            weighted(net)[path].set_weights([np.zeros_like(w) for w in weighted(net)[path].get_weights()])
    np.testing.assert_allclose(smaller(images()), net(images()), atol=1e-6)


def test_a_long_skip_is_no_block() -> None:
    L = keras().layers
    image = keras().Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same")(image)
    y = L.Conv2D(4, 3, padding="same", name="inner")(x)
    y = L.Add(name="inner_add")([x, y])
    out = L.Add(name="outer_add")([x, L.Conv2D(4, 3, padding="same")(y)])
    net = keras().Model(image, out)
    assert sums(students.shallower(net, 0.5)) == ["outer_add"]


def test_a_network_without_blocks_cannot_be_shallower() -> None:
    net = keras().Sequential([keras().Input((4,)), keras().layers.Dense(2)])
    with pytest.raises(UsageError, match="no residual block"):
        students.shallower(net, 0.5)


# --- width


def test_thinner_keeps_the_strongest_channels() -> None:
    L = keras().layers
    image = keras().Input((8, 8, 3))
    x = L.Conv2D(5, 3, activation="relu", name="conv")(image)
    net = keras().Model(image, L.Dense(2, name="end")(L.GlobalAveragePooling2D()(x)))
    kernel, bias = net.get_layer("conv").get_weights()
    kernel *= np.array([3, 0, 2, 0, 1])
    net.get_layer("conv").set_weights([kernel, bias])
    end = net.get_layer("end").get_weights()
    net.get_layer("end").set_weights([end[0] * np.array([[3], [0], [2], [0], [1]]), end[1]])
    smaller = students.thinner(net, 0.5)
    assert smaller.get_layer("conv").filters == 3
    np.testing.assert_array_equal(smaller.get_layer("conv").kernel, kernel[..., [0, 2, 4]])
    np.testing.assert_allclose(smaller(images()), net(images()), atol=1e-6)


@pytest.mark.parametrize("width", [0.5, 0.3])
def test_width_is_of_every_group(width: float) -> None:
    net = resnet()
    smaller = students.thinner(net, width)
    assert smaller.input_shape == net.input_shape
    assert smaller.output_shape == net.output_shape
    assert smaller.get_layer("stem").filters == np.ceil(width * 6)
    assert smaller.get_layer("down").filters == np.ceil(width * 12)
    assert macs(smaller) < 1.3 * width**2 * macs(net) + macs(net) * 0.1


def test_fresh_weights_are_others() -> None:
    net = resnet()
    first, again, other = (weighted(students.fresh(net, seed)) for seed in (1, 1, 2))
    for path, layer in weighted(net).items():
        assert first[path].kernel.shape == layer.kernel.shape
        np.testing.assert_array_equal(first[path].kernel, again[path].kernel)
        assert not np.array_equal(first[path].kernel, layer.kernel)
        assert not np.array_equal(first[path].kernel, other[path].kernel)


# --- given


MODULE = """
import keras

def good():
    image = keras.Input((8, 8, 3), name="pixels")
    x = keras.layers.Flatten()(image)
    return keras.Model(image, keras.layers.Dense(5, activation="softmax")(x))

def sequential():
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])

def other():
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(7)])

def smaller():
    return keras.Sequential([keras.Input((4, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(5)])

def nothing():
    return None

def broken():
    raise RuntimeError("no such thing")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "students_of_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return "students_of_test"


def test_a_function_gives_the_student(module: str) -> None:
    for name in ("good", "sequential"):
        net = students.read(f"{module}:{name}", model_of(resnet()))
        assert net(images()).shape == (4, 5)
    assert students.read(f"{module}.py:good", model_of(resnet())).count_params() == 8 * 8 * 3 * 5 + 5


def test_a_file_gives_the_student(tmp_path: Path) -> None:
    net = resnet(1)
    net.save(tmp_path / "small.keras")
    found = students.read(str(tmp_path / "small.keras"), model_of(resnet()))
    np.testing.assert_allclose(found(images()), net(images()), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("other", UsageError, r"the student of \w+ gives '\w+' \[7\], and the model gives 'class' \[5\]"),
        ("smaller", UsageError, r"takes '\w+' \[4, 8, 3\], and the model takes 'image' \[8, 8, 3\]"),
        ("nothing", ModelError, "returned NoneType"),
        ("broken", ModelError, "raised RuntimeError: no such thing"),
        ("missing", ModelError, "AttributeError"),
    ],
)
def test_a_student_that_cannot_be(module: str, name: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        students.read(f"{module}:{name}", model_of(resnet()))


def test_a_student_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="there is no student at nowhere"):
        students.read("nowhere.keras", model_of(resnet()))


def test_inputs_and_outputs_are_put_in_the_models_order(tmp_path: Path) -> None:
    k = keras()
    a, b = k.Input((3,), name="a"), k.Input((3,), name="b")
    ends = {"x": k.layers.Dense(2, name="x")(a), "y": k.layers.Dense(2, name="y")(b)}
    model = k.Model([a, b], [ends["x"], ends["y"]])
    swapped = k.Model([b, a], [ends["y"], ends["x"]])
    swapped.save(tmp_path / "swapped.keras")
    specs = [
        tuple(TensorSpec(n, (None, s), "float32") for n, s in group)
        for group in ([("a", 3), ("b", 3)], [("x", 2), ("y", 2)])
    ]
    found = students.read(str(tmp_path / "swapped.keras"), Model(model, *specs))
    x = [np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32)]
    for p, q in zip(found(x), model(x), strict=True):
        np.testing.assert_allclose(p, q, atol=1e-6)
