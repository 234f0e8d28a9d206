"""Where training computes: several devices give what one gives, float16 what float32 gives, and both leave no trace."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

from edgedl.data import Dataset, Split  # noqa: E402
from edgedl.stages.training import devices  # noqa: E402
from edgedl.stages.training.loop import train  # noqa: E402
from edgedl.stages.training.options import Training  # noqa: E402
from edgedl.stages.training.task import Labelled  # noqa: E402

SCRIPT = Path(__file__).with_name("divided.py")
SAME = 1e-5  # float32: sums over two halves of a batch are rounded otherwise than over the whole


@cache
def one() -> Any:
    """The cases of the script, to be run in this process, on one device."""
    spec = importlib.util.spec_from_file_location("edgedl_tests_divided", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the results of all cases on two devices."""
    folder = tmp_path_factory.mktemp("divided")
    done = subprocess.run([sys.executable, str(SCRIPT), "2", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def found(folder: Path, name: str) -> tuple[list[Any], dict[str, Any]]:
    with np.load(folder / f"{name}.npz") as file:
        return [file[key] for key in file.files], json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize("case", ["sgd", "adamw", "projected"])
def test_two_devices_give_the_losses_and_weights_of_one(case: str, two: Path) -> None:
    weights, record = found(two, case)
    assert (record["devices"], record["precision"], record["notes"]) == (2, "float32", [])
    assert record["kinds"] == ["ResourceVariable"], "copies for devices are left in the network"
    net, alone = one().run(case)
    assert alone["devices"] == 1
    for key in ("loss", "val_loss"):
        np.testing.assert_allclose(
            [e[key] for e in record["epochs"]], [e[key] for e in alone["epochs"]], rtol=SAME, atol=SAME
        )
    for a, b, before in zip(weights, net.get_weights(), one().network(case).get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=SAME, atol=SAME)
        assert np.any(np.abs(b - before) > 100 * SAME) or case == "projected", "too little was learned to compare"
    assert np.all(weights[0][one().network(case).get_weights()[0] == 0] == 0)


def test_two_devices_go_on_from_a_checkpoint(two: Path) -> None:
    weights, record = found(two, "resumed")
    assert record["resumed_from"]["epoch"] == 2
    assert record["devices"] == 2
    for a, b in zip(weights, found(two, "sgd")[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_statistics_on_two_devices_are_the_mean_of_both(two: Path) -> None:
    """Each normalizes by its half of the batch, so that the moving mean is still that of all samples."""
    weights, record = found(two, "statistics")
    assert record["devices"] == 2
    net, _ = one().run("statistics")
    names = [v.path for v in net.variables if not v.path.startswith("dropout")]
    mean = next(i for i, path in enumerate(names) if path.endswith("moving_mean"))
    expected = net.get_layer("norm").moving_mean.value.numpy()
    np.testing.assert_allclose(weights[mean], expected, atol=2e-3)
    assert expected.max() > 0.2, "means of half a batch are off by about a tenth of that"


@pytest.mark.parametrize(("case", "told"), [("fixed", "the network insists"), ("undivided", "half a batch")])
def test_what_cannot_be_divided_is_trained_on_one_device_with_a_note(case: str, told: str, two: Path) -> None:
    weights, record = found(two, case)
    assert record["devices"] == 1
    assert record["notes"][0].startswith("of 2 devices one was used")
    assert told in record["notes"][0]
    for a, b in zip(weights, one().run(case)[0].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=SAME, atol=SAME)


def test_float16_on_two_devices(two: Path) -> None:
    weights, record = found(two, "mixed")
    assert (record["devices"], record["precision"], record["notes"]) == (2, "float16", [])
    for a, b in zip(weights, one().run("mixed")[0].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)


# --- float16 on one device

IMAGES = np.random.default_rng(0).normal(size=(96, 8, 8, 3)).astype(np.float32)
KINDS = (IMAGES[:, :4].mean((1, 2, 3)) > IMAGES[:, 4:].mean((1, 2, 3))).astype(np.int64)


def images() -> Dataset:
    split = Split({"image": IMAGES}, KINDS)
    return Dataset(split, split, split, metric="accuracy")


def cnn() -> Any:
    keras.utils.set_random_seed(3)
    L = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = L.ReLU()(L.BatchNormalization(momentum=0.8, name="norm")(L.Conv2D(8, 3, padding="same", name="conv")(image)))
    inner = keras.Sequential([keras.Input((8, 8, 8)), L.DepthwiseConv2D(3, name="depthwise"), L.MaxPooling2D()])
    x = L.Flatten()(inner(keras.ops.multiply(x, 0.5)))
    return keras.Model(image, L.Softmax(name="softmax")(L.Dense(2, name="head")(x)), name="net")


class Types(Labelled):
    """Notes what the network computed in when it was compiled."""

    seen: list[str] = []  # noqa: RUF012

    def __call__(self, x: Any, y: Any, outputs: Any, taps: Any) -> Any:
        layer = self.net.get_layer("conv")
        Types.seen += [str(outputs[0].dtype.name), layer.compute_dtype, self.net.get_layer("head").compute_dtype]
        return Labelled.__call__(self, x, y, outputs, taps)


def test_float16_comes_close_to_float32_and_leaves_a_plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tolerance: float16 has 11 bits, so each gradient is off by up to 1e-3 of itself, and updates add up to ~0.1."""
    given: dict[str, Any] = {"epochs": 3, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.05, "clip_norm": 1.0}
    full, first = train(cnn(), images(), Training(**given), Labelled(0, "probabilities", True))
    monkeypatch.setattr(devices, "ON_CPU", True)
    objective = Types(0, "probabilities", True)
    net, record = train(
        cnn(), images(), Training(**given, mixed_precision=True), objective,
        prepare=lambda student, steps: [setattr(Types, "net", student) or keras.callbacks.Callback()],
    )  # fmt: skip
    assert (record["precision"], record["notes"]) == ("float16", [])
    assert (first["precision"], first["notes"]) == ("float32", [])
    assert Types.seen[:3] == ["float32", "float16", "float32"], "outputs, a layer in the middle, the last one"
    assert {v.dtype for v in net.variables} == {"float32"}
    assert {layer.dtype_policy.name for layer in net._flatten_layers()} == {"float32"}
    start = cnn().get_weights()
    moved = max(float(np.abs(a - b).max()) for a, b in zip(full.get_weights(), start, strict=True))
    for a, b in zip(net.get_weights(), full.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=0.05 * moved)
    assert any(np.any(a != b) for a, b in zip(net.get_weights(), full.get_weights(), strict=True))
    losses = [[e["loss"] for e in r["epochs"]] for r in (record, first)]
    np.testing.assert_allclose(*losses, rtol=0.01)
    config = json.dumps(net.get_config(), default=str)
    assert "float16" not in config


def test_without_a_gpu_float32_is_used_and_noted() -> None:
    if devices.has_float16():
        pytest.skip("a GPU is visible")
    options = Training(epochs=1, batch_size=16, mixed_precision=True)
    _, record = train(cnn(), images(), options, Labelled(0, "probabilities", True))
    assert record["precision"] == "float32"
    assert "no GPU with fast float16 is visible" in record["notes"][0]


def test_a_layer_that_cannot_compute_in_float16_is_trained_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "ON_CPU", True)

    class Only32(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            if x.dtype != "float32":
                raise TypeError("float32 alone")
            return x * 2

    node = keras.Input((8, 8, 3), name="image")
    net = keras.Model(node, keras.layers.Dense(2)(keras.layers.Flatten()(Only32()(node))))
    out, record = train(net, images(), Training(epochs=1, mixed_precision=True), Labelled(0, "logits", True))
    assert record["precision"] == "float32"
    assert "float32 alone" in record["notes"][0]
    assert record["epochs_done"] == 1
    assert {layer.dtype_policy.name for layer in out._flatten_layers()} == {"float32"}
