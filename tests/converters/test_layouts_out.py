"""Models that came with their channels first: out again with names, order and axes of the original, and no transposes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from edgedl import runtime, steps
from edgedl.artifact import TensorSpec
from edgedl.data import DataOptions, Dataset, Split, load
from edgedl.engine import describe
from edgedl.frameworks import keras
from edgedl.layouts import NCHW, from_file, layouts_of, plain, to_file
from edgedl.metrics import agreement
from edgedl.model import Model, QuantizationPlan
from edgedl.model import load as load_model
from edgedl.preprocess import Preprocessing
from edgedl.registry import find

ort = pytest.importorskip("onnxruntime", reason="needs pip install 'edgedl[onnx]'")
pytest.importorskip("tf2onnx")


def classifier() -> Any:
    L = keras().layers
    image = keras().Input((8, 12, 3))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False)(image)))
    x = L.Conv2D(8, 1, activation="relu6")(L.DepthwiseConv2D(3, strides=2, padding="same")(x))
    x = L.Add()([x, L.Conv2D(8, 3, padding="same")(x)])
    return keras().Model(image, L.Dense(5, activation="softmax")(L.Flatten()(L.MaxPooling2D()(x))))


def segmenter() -> Any:
    L = keras().layers
    image = keras().Input((8, 12, 3))
    x = L.Conv2D(8, 3, padding="same", activation="relu")(image)
    y = L.Conv2DTranspose(8, 3, strides=2, padding="same")(L.Conv2D(16, 3, strides=2, padding="same")(x))
    y = L.Concatenate()([L.UpSampling2D(2)(L.MaxPooling2D()(y)), x])
    mask = L.Softmax()(L.Conv2D(4, 3, padding="same")(y))
    return keras().Model(image, [L.Dense(3)(L.GlobalAveragePooling2D()(y)), mask])


def speech() -> Any:
    L = keras().layers
    sound = keras().Input((32, 4))
    return keras().Model(
        sound, L.Conv1D(6, 3, padding="same")(L.Conv1D(8, 5, padding="same", activation="relu")(sound))
    )


BUILT: dict[str, Callable[[], Any]] = {"classifier": classifier, "segmenter": segmenter, "speech": speech}


@pytest.fixture(scope="module")
def imported() -> Callable[[str], tuple[Model, Dataset]]:
    """`imported(name)` -> a model as an importer gives it, its tensors called as in the original, and data."""
    made: dict[str, tuple[Model, Dataset]] = {}

    def get(name: str) -> tuple[Model, Dataset]:
        if name not in made:
            keras().utils.set_random_seed(3)
            net = BUILT[name]()
            inputs = (TensorSpec("net/image:0", tuple(net.inputs[0].shape), "float32"),)
            outputs = tuple(TensorSpec(f"out/{i}:0", tuple(t.shape), "float32") for i, t in enumerate(net.outputs))
            axes = {4: NCHW, 3: (0, 2, 1)}
            layouts = {s.name: axes[len(s.shape)] for s in (*inputs, *outputs) if len(s.shape) in axes}
            x = np.random.default_rng(0).normal(size=(24, *net.inputs[0].shape[1:])).astype(np.float32)
            split = Split({"net/image:0": x})
            prep = {"net/image:0": Preprocessing(scale=0.5)}
            made[name] = Model(net, inputs, outputs, layouts=layouts), Dataset(split, split, preprocessing=prep)
        return made[name]

    return get


def expected(model: Model, data: Dataset) -> dict[str, Any]:
    """What the Keras model computes."""
    return steps.outputs_of(model, data.feed(data.validation))


@pytest.mark.parametrize("name", list(BUILT))
def test_onnx_has_the_original_s_names_order_and_axes_and_no_transpose(
    imported: Any, name: str, tmp_path: Path
) -> None:
    model, data = imported(name)
    artifact = find("converter", "onnx")()(model, data, tmp_path / "m.onnx")
    want = expected(model, data)
    session = ort.InferenceSession(str(artifact.path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["net/image:0"]
    assert [o.name for o in session.get_outputs()] == list(want)
    x = np.moveaxis(data.feed(data.validation)["net/image:0"], -1, 1)
    found = session.run(None, {"net/image:0": x})
    for value, there in zip(want.values(), found, strict=True):  # float32 sums in another order
        assert_allclose(np.moveaxis(there, 1, -1) if value.ndim > 2 else there, value, atol=2e-5 * abs(value).max())
    assert artifact.metadata["transposes"] == 0
    assert artifact.inputs[0].shape == (None, *x.shape[1:])
    assert layouts_of(describe(artifact.path)) == model.layouts


@pytest.mark.parametrize("scheme", ["float32", "int8", "dynamic"])
@pytest.mark.parametrize(("form", "keep"), [("tflite", False), ("tflite", True), ("onnx", True), ("onnx", False)])
def test_every_way_out_is_fed_and_read_by_its_layouts(
    imported: Any, form: str, keep: bool, scheme: Any, tmp_path: Path
) -> None:
    model, data = imported("segmenter")
    model = Model(model.net, model.inputs, model.outputs, QuantizationPlan(scheme), layouts=model.layouts)
    artifact = find("converter", form)(keep_layout=keep)(model, data, tmp_path / f"m.{form}")
    layouts = layouts_of(artifact)
    assert layouts == (model.layouts if keep else {})
    assert [s.shape[1:] for s in artifact.inputs] == [(3, 8, 12) if keep else (8, 12, 3)]
    assert [s.shape[1:] for s in artifact.outputs] == [(3,), (4, 8, 12) if keep else (8, 12, 4)]
    assert artifact.metadata["transposes"] == (2 if keep == (form == "tflite") else 0)  # those at its two ends
    found = from_file(steps.predict(artifact, to_file(data.feed(data.validation), layouts)), layouts)
    for entry in agreement(expected(model, data), found).values():
        assert entry["sqnr_db"] > (100 if scheme == "float32" else 20)


@pytest.mark.parametrize(("form", "keep"), [("tflite", True), ("onnx", True), ("onnx", False)])
def test_a_device_application_feeds_images_as_ever(imported: Any, form: str, keep: bool, tmp_path: Path) -> None:
    model, data = imported("classifier")
    artifact = find("converter", form)(keep_layout=keep)(model, data, tmp_path / f"m.{form}")
    with runtime.load(artifact.path) as net:
        assert_allclose(
            net.run(data.validation.x["net/image:0"]), next(iter(expected(model, data).values())), atol=1e-5
        )


def test_the_steps_of_a_run_agree_whatever_the_layout(imported: Any, tmp_path: Path) -> None:
    model, data = imported("segmenter")
    for name in ("data", "original", "evaluated"):
        (tmp_path / name).mkdir()
    data.save(tmp_path / "data")
    steps.remember("the model", model)
    steps.run_original("the model", str(tmp_path / "data"), str(tmp_path / "original"))
    float32 = find("converter", "onnx")()(model, data, tmp_path / "f.onnx")
    planned = Model(model.net, model.inputs, model.outputs, QuantizationPlan("int8"), layouts=model.layouts)
    int8 = find("converter", "onnx")()(planned, data, tmp_path / "q.onnx", base=float32.path)
    common = (str(int8.path), str(tmp_path / "data"))
    assert steps.verify(*common, str(tmp_path / "original"))["ok"]
    found = steps.evaluate(*common, str(tmp_path / "original"), str(tmp_path / "evaluated"))
    assert found["agreement"]["sqnr_db"] > 20
    assert steps.layer_errors(str(int8.path), str(float32.path), common[1])


SPECS = [TensorSpec("image", (None, 8, 12, 3), "float32")], [TensorSpec("mask", (None, 8, 12, 4), "float32")]
LAYOUTS = {"image": NCHW, "mask": NCHW}


def loaded(folder: Path, **arrays: Any) -> Dataset:
    np.savez(folder / "d.npz", **arrays)
    return load(DataOptions(source=str(folder / "d.npz")), *SPECS, layouts=LAYOUTS)


@pytest.mark.parametrize("given", ["trainable", "original", "flat"])
def test_arrays_made_for_the_original_are_taken_too(given: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random((10, 8, 12, 3), np.float32), rng.random((10, 8, 12, 4), np.float32)
    before = [np.ascontiguousarray(np.moveaxis(a, -1, 1)) for a in (x, y)]
    shown = {"trainable": (x, y), "original": before, "flat": (before[0].reshape(10, -1), y)}[given]
    data = loaded(tmp_path, x=shown[0], y=shown[1])
    rows = [int(np.flatnonzero((x == found).all((1, 2, 3)))[0]) for found in data.validation.x["image"]]
    assert sorted(rows) == rows
    np.testing.assert_array_equal(data.validation.y, y[rows])
    fed = load(DataOptions(source=str(tmp_path / "d.npz")), *SPECS, layouts=LAYOUTS).feed(data.validation)
    np.testing.assert_array_equal(fed["image"], x[rows])


def test_layouts_survive_as_json() -> None:
    assert plain(LAYOUTS) == {"image": [0, 2, 3, 1], "mask": [0, 2, 3, 1]}


def test_a_tflite_comes_in_again_with_the_names_of_its_original(
    imported: Callable[[str], tuple[Model, Dataset]], tmp_path: Path
) -> None:
    """The tensors inside are called otherwise; declared preprocessing and the user's options go by the names outside."""
    model, dataset = imported("segmenter")
    path = tmp_path / "m.tflite"
    find("converter", "tflite")()(model, dataset, path)
    assert describe(path).inputs[0].inside != "net/image:0"
    again = load_model(path, form="keras")
    assert [s.name for s in again.inputs] == ["net/image:0"]
    assert [s.name for s in again.outputs] == [s.name for s in model.outputs]
    assert max(e["max_relative"] for e in again.proof) <= 1e-5
    told = steps.load_model(str(path), str(tmp_path), str(tmp_path), {"form": "keras"})
    assert told["preprocessing"]["net/image:0"]["scale"] == 0.5


def test_the_runtime_takes_images_and_arrays_in_the_file_s_own_shape(
    imported: Callable[[str], tuple[Model, Dataset]], tmp_path: Path
) -> None:
    model, dataset = imported("classifier")
    find("converter", "onnx")()(model, dataset, tmp_path / "m.onnx")
    x = dataset.validation.x["net/image:0"][:4]
    with runtime.load(tmp_path / "m.onnx") as net:
        assert net.inputs[0].shape[1:] == (3, 8, 12)
        assert_allclose(net.run(x.transpose(0, 3, 1, 2)), net.run(x), rtol=1e-6)
        assert_allclose(net.run(x[0].transpose(2, 0, 1)), net.run(x[0]), rtol=1e-6)
