"""Metadata beside and inside a file: written, read, damaged, stale; the file still runs."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.artifact import MEMBER, Artifact, TensorSpec, read_body, read_embedded, sha256, sidecar, write_atomic
from edgedl.engine import describe, predict
from edgedl.errors import ModelError, OutputError

DATA = Path(__file__).parent / "data"


def tiny_onnx() -> bytes:
    onnx = pytest.importorskip("onnx")
    h = onnx.helper
    info = [h.make_tensor_value_info(n, 1, [None, 3]) for n in "xy"]
    graph = h.make_graph([h.make_node("Relu", ["x"], ["y"])], "tiny", info[:1], info[1:])
    return bytes(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8).SerializeToString())


@pytest.fixture(params=["tflite", "onnx"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Artifact:
    path = tmp_path / f"m.{request.param}"
    path.write_bytes((DATA / "tiny_float.tflite").read_bytes() if request.param == "tflite" else tiny_onnx())
    bare = describe(path)
    return dataclasses.replace(bare, metadata={"scheme": "float32", "labels": ["ä", "b"]}).save()


def test_round_trip_beside_and_inside(saved: Artifact) -> None:
    assert Artifact.load(saved.path) == saved
    sidecar(saved.path).unlink()
    inside = Artifact.load(saved.path)
    assert inside == dataclasses.replace(saved, files={})
    assert inside is not None
    assert inside.labels == ("ä", "b")


def test_the_file_still_runs_and_its_body_is_as_it_was(saved: Artifact) -> None:
    original = (DATA / "tiny_float.tflite").read_bytes() if saved.format == "tflite" else tiny_onnx()
    assert read_body(saved.path) == original
    x = {s.name: np.ones([2, *(d or 1 for d in s.shape[1:])], "float32") for s in saved.inputs}
    assert all(np.isfinite(a).all() for a in predict(saved, x).values())


def test_saving_again_replaces_what_was_embedded(saved: Artifact) -> None:
    size = saved.path.stat().st_size
    again = saved.with_metadata(scheme="fp16").save()
    assert abs(again.path.stat().st_size - size) < 64
    assert again.metadata["body_sha256"] == saved.metadata["body_sha256"]
    assert json.loads(read_embedded(again.path) or "")["metadata"]["scheme"] == "fp16"


def test_a_sidecar_of_another_file_does_not_count(saved: Artifact, tmp_path: Path) -> None:
    other = tmp_path / f"other{saved.path.suffix}"
    shutil.copy(saved.path, other)
    dataclasses.replace(saved, path=other).with_metadata(scheme="int8").save()
    shutil.copy(saved.path, other)
    found = Artifact.load(other)
    assert found is not None
    assert found.scheme == "float32"


def test_damaged_metadata_is_one_sentence(saved: Artifact, tmp_path: Path) -> None:
    sidecar(saved.path).write_text('{"edgedl_artifact": 1}')
    with pytest.raises(ModelError, match="damaged"):
        Artifact.load(saved.path)
    sidecar(saved.path).write_text("not json")
    with pytest.raises(ModelError, match="damaged"):
        Artifact.load(saved.path)
    with pytest.raises(ModelError, match="there is no file"):
        Artifact.load(tmp_path / "none.tflite")


def test_a_bomb_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes((DATA / "tiny_float.tflite").read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(MEMBER, b" " * (5 << 20))
    with pytest.raises(ModelError, match="larger than"):
        Artifact.load(path)


@given(st.binary(max_size=300))
def test_any_bytes_are_no_metadata(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "m.onnx"
    path.write_bytes(data)
    assert Artifact.load(path) is None


@given(st.integers(1, 2**20), st.integers(-128, 127), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_quantize_and_back_is_within_half_a_step(steps: int, zero: int, values: list[float]) -> None:
    spec = TensorSpec("x", (None,), "int8", scale=steps / 2**12, zero_point=zero)
    low, high = ((q - zero) * steps / 2**12 for q in (-128, 127))
    x = np.clip(np.array(values), low, high)
    assert np.all(np.abs(spec.dequantize(spec.quantize(x)) - x) <= steps / 2**13 * 1.001 + 1e-5 * np.abs(x))


def test_write_atomic_leaves_no_half_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"one")
    with pytest.raises(OutputError, match="No such file"):
        write_atomic(tmp_path / "none/a", b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert sha256((tmp_path / "a").read_bytes()) == sha256(b"one")
