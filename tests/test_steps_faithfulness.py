"""The steps on a model of every kind, with and without labels: what applies is there, what does not is told, nothing breaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from edgedl import metrics, steps, steps_faithfulness
from edgedl.report import clean

Zoo = Callable[[str], tuple[Any, Any, Any]]
Converted = Callable[[str], tuple[Path, dict[str, Any]]]
SCHEMA = json.loads((Path(__file__).parents[1] / "docs/schema/report.schema.json").read_text())


@pytest.fixture(scope="module")
def converted(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """`converted(name)`: the folder with a model of the zoo, loaded and as .onnx, and what `load_model` says of it."""

    @cache
    def get(name: str) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp(name)
        for part in ("model", "artifact"):
            (folder / part).mkdir()
        zoo(name)[0].save(folder / f"{name}.keras")
        at = str(folder / "model")
        loaded = steps.load_model(str(folder / f"{name}.keras"), at, at, {})
        data(zoo, name, loaded, folder, labelled=False)
        steps.convert(at, str(folder / "data"), "onnx", {}, False, str(folder / "artifact"), "m.onnx")
        return folder, loaded

    return get


def data(zoo: Zoo, name: str, loaded: Mapping[str, Any], folder: Path, labelled: bool) -> None:
    """Some data of a model of the zoo, in `folder`/data."""
    _, x, y = zoo(name)
    arrays = {k: v[:96] for k, v in (x if isinstance(x, dict) else {"x": x}).items()}
    if labelled:
        arrays["y"] = (y["kind"] if isinstance(y, dict) else y)[:96]
    np.savez(folder / "d.npz", **arrays)
    (folder / "data").mkdir()
    source = {"source": str(folder / "d.npz")}
    steps.load_data(source, loaded["inputs"], loaded["outputs"], str(folder / "data"), 0, layouts=loaded["layouts"])


def made(zoo: Zoo, converted: Converted, name: str, folder: Path, labelled: bool) -> dict[str, Any]:
    """Folders and results of the steps before on a model of the zoo."""
    there, loaded = converted(name)
    data(zoo, name, loaded, folder, labelled)
    at = {k: str(folder / k) for k in ("data", "original", "evaluated", "corrupted", "attacked")}
    for path in list(at.values())[1:]:
        Path(path).mkdir()
    at["model"], path = str(there / "model"), str(there / "artifact/m.onnx")
    steps.run_original(at["model"], at["data"], at["original"])
    steps.evaluate(path, at["data"], at["original"], at["evaluated"])
    return {"at": at, "loaded": loaded, "path": path}


def examined(job: dict[str, Any], samples: int = 24) -> dict[str, Any]:
    """What the steps of this module make of it."""
    at = job["at"]
    axes = {"ranks": {s["name"]: len(s["shape"]) for s in job["loaded"]["inputs"]}, "channels_last": True, "seed": 0}
    corrupted = steps_faithfulness.corrupt_original(at["model"], at["data"], at["corrupted"], samples=samples, **axes)
    attacked = steps_faithfulness.attack(at["model"], at["data"], at["original"], at["attacked"], samples)
    return steps_faithfulness.examine(
        job["path"], at["data"], at["original"], at["evaluated"], at["corrupted"], [at["attacked"]] * 2,
        {"corrupted": corrupted, "attacked": [attacked] * 2}, samples=samples, **axes,
    )  # fmt: skip


KINDS = {
    "cnn": ("prediction", {"noise", "blur", "brightness", "shift"}, True),
    "resnet": ("prediction", {"noise", "blur", "brightness", "shift"}, True),
    "dscnn": ("prediction", {"noise", "blur", "brightness", "shift"}, True),
    "lstm": ("prediction", {"noise", "gain", "time shift"}, True),
    "gru": ("prediction", {"noise", "gain", "time shift"}, True),
    "transformer": ("prediction", {"noise", "gain", "time shift"}, True),
    "generator": ("value", {"noise", "gain"}, False),
    "twotower": ("value", set(), False),
    "unet": ("position", {"noise", "blur", "brightness", "shift"}, True),
    "multi_io": ("prediction", {"noise", "blur", "brightness", "shift", "gain"}, True),
    "shared": ("prediction", {"noise", "blur", "brightness", "shift"}, True),
    "nested": ("prediction", {"noise", "blur", "brightness", "shift"}, True),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model(name: str, zoo: Zoo, converted: Converted, tmp_path: Path) -> None:
    unit, families, attacked = KINDS[name]
    found = examined(made(zoo, converted, name, tmp_path, labelled=True))
    assert found["unit"] == unit
    assert {row["kind"] for row in found["corrupted"]} == families
    assert ("fgsm" in found) == attacked
    assert ("flipped" in found) == ("ece" in found) == (unit != "value")
    assert bool(found["not_measured"].get("corrupted")) == (not families)
    valid = Draft202012Validator({**SCHEMA, "$ref": "#/$defs/faithfulness", "type": "object", "required": []})
    assert [e.message for e in valid.iter_errors(clean(found))] == []
    for row in found["corrupted"]:  # the float file is the network itself
        assert row["after"] == pytest.approx(row["before"], abs=0.05, rel=1e-3)
        assert row["agrees"] >= 0.95
    if "flipped" in found:
        assert found["flipped"] <= 0.02
        np.testing.assert_allclose(*found["ece"], atol=0.02)
    if unit == "position":
        assert found["iou"] >= 0.98
        assert found["measure"] == "mean_iou"


@pytest.mark.parametrize("name", ["cnn", "lstm", "twotower", "unet", "multi_io", "shared"])
def test_without_labels(name: str, zoo: Zoo, converted: Converted, tmp_path: Path) -> None:
    """Against the original's own classes; of values the fidelity; and said what needs labels."""
    found = examined(made(zoo, converted, name, tmp_path, labelled=False))
    assert not found["labelled"]
    assert "ece" not in found
    assert found["not_measured"]["calibration"]
    classes = name in ("cnn", "lstm", "multi_io")
    assert ("flipped" in found) == ("fgsm" in found) == classes
    assert found["measure"] == ("agreement" if classes else "fidelity")
    assert found["clean"][0] == 1.0


def test_the_figures_are_those_of_the_outputs(zoo: Zoo, converted: Converted, tmp_path: Path) -> None:
    """Accuracy on corrupted inputs and under attack, computed anew from what the network makes of them."""
    net, *_ = zoo("cnn")
    job = made(zoo, converted, "cnn", tmp_path, labelled=True)
    found = examined(job)
    from edgedl.corruptions import Corruption, corrupted, form_of
    from edgedl.data import Dataset
    from edgedl.faithfulness import subset

    data = Dataset.restore(Path(job["at"]["data"]))
    few = data.validation.take(subset(len(data.validation), 24))
    (name,) = few.x
    assert few.y is not None
    forms = {name: form_of(few.x[name], "float32", 4)}
    for row in found["corrupted"]:
        which = Corruption(row["kind"], row["strength"], row["amount"], row["unit"])
        outputs = net.predict(corrupted(few.x, forms, which, 0)[name], verbose=0)
        assert row["before"] == pytest.approx(metrics.accuracy(outputs, few.y))
        assert row["confidence"][0] == pytest.approx(outputs.max(-1).mean(), abs=1e-5)
    moved = steps.load_arrays(Path(job["at"]["attacked"]) / "inputs.npz")[name]
    assert np.abs(moved - few.x[name]).max() <= found["fgsm"]["epsilon"][name] * 1.001
    assert found["fgsm"]["before"] == pytest.approx(metrics.accuracy(net.predict(moved, verbose=0), few.y))


@pytest.mark.parametrize("batch", [1, 7])
def test_a_network_that_insists_on_a_batch(batch: int, tmp_path: Path) -> None:
    from edgedl.frameworks import keras

    L = keras().layers
    node = keras().Input(batch_shape=(batch, 6), name="x")
    net = keras().Model(node, L.Dense(3, activation="softmax")(L.Reshape((-1,))(node)))
    x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=net.predict(x[:56], batch_size=batch, verbose=0).argmax(-1)[np.arange(60) % 56])
    net.save(tmp_path / "m.keras")
    at = {k: str(tmp_path / k) for k in ("model", "data", "original", "attacked")}
    for path in at.values():
        Path(path).mkdir()
    loaded = steps.load_model(str(tmp_path / "m.keras"), at["model"], at["model"], {})
    steps.load_data({"source": str(tmp_path / "d.npz")}, loaded["inputs"], loaded["outputs"], at["data"], 0)
    steps.run_original(at["model"], at["data"], at["original"])
    found = steps_faithfulness.attack(at["model"], at["data"], at["original"], at["attacked"], 20)
    assert found["share"] > 0
    arrays = [steps.load_arrays(Path(at["attacked"]) / f"{name}.npz") for name in ("inputs", "outputs")]
    assert {len(a) for group in arrays for a in group.values()} == {20}


def test_what_takes_too_long_is_left_out_and_told(
    zoo: Zoo, converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_faithfulness, "PATIENCE_S", 0.0)
    monkeypatch.setattr(steps_faithfulness, "GROUP_BYTES", 1)
    found = examined(made(zoo, converted, "cnn", tmp_path, labelled=True))
    assert len(found["corrupted"]) == 1
    assert "11 of 12 corruptions took too long" in found["not_measured"]["corrupted"]


@pytest.mark.parametrize(
    ("macs", "samples"), [(None, 200), (0, 200), (12_500_000, 200), (40_000_000, 100), (4_000_000_000, 32)]
)
def test_large_networks_get_fewer_samples(macs: int | None, samples: int) -> None:
    assert steps_faithfulness.samples_for(macs) == samples
