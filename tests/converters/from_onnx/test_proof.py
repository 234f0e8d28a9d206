"""The proof finds what is wrong, and where: a weight changed on purpose must be found in its own node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgedl.converters import from_onnx  # noqa: E402
from edgedl.converters._source import Source  # noqa: E402
from edgedl.converters.from_onnx import proof  # noqa: E402
from edgedl.errors import VerificationError  # noqa: E402
from edgedl.model import LoadOptions  # noqa: E402


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three convolutions, the second behind a channel shuffle, and a head."""
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        f"w{i}": rng.normal(0, 0.3, (4, 4 if i else 2, 3, 3)).astype(np.float32) for i in range(3)
    }
    weights |= {"parts": np.array([0, 2, 2, 8, 8]), "whole": np.array([0, 4, 8, 8]), "rows": np.array([0, -1])}
    weights["head"] = rng.normal(0, 0.3, (256, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="conv0", pads=[1] * 4),
        helper.make_node("Reshape", ["a", "parts"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["c", "whole"], ["d"]),
        helper.make_node("Conv", ["d", "w1"], ["e"], name="conv1", pads=[1] * 4),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Conv", ["f", "w2"], ["g"], name="conv2", pads=[1] * 4),
        helper.make_node("Reshape", ["g", "rows"], ["h"]),
        helper.make_node("MatMul", ["h", "head"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    return path


def broken(path: Path) -> tuple[Source, Any, Any]:
    options = LoadOptions(form="keras")
    source = from_onnx.source(path, options)
    graph, imported = from_onnx.rebuilt(source, path, options)
    layer = imported.net.get_layer("conv1")
    layer.set_weights([w * 1.2 for w in layer.get_weights()])
    return source, graph, imported


def test_the_first_node_that_differs_is_found(path: Path) -> None:
    source, graph, imported = broken(path)
    found = proof.first_difference(source.proto, graph, imported, proof.generated(graph, 2))
    assert found is not None
    assert (found.node, found.op, found.original_shape, found.rebuilt_shape) == (
        "conv1",
        "Conv",
        (2, 4, 8, 8),
        (2, 4, 8, 8),
    )
    assert found.max_relative == pytest.approx(0.2, rel=1e-3)
    assert "conv1" in str(found)


def test_a_right_model_has_no_such_node(path: Path) -> None:
    options = LoadOptions(form="keras")
    source = from_onnx.source(path, options)
    graph, imported = from_onnx.rebuilt(source, path, options)
    assert proof.first_difference(source.proto, graph, imported, proof.generated(graph, 2), bound=1e-5) is None


def test_a_network_read_from_a_file_is_held_to_its_original(path: Path, tmp_path: Path) -> None:
    import keras

    source, _, imported = broken(path)
    imported.net.save(tmp_path / "m.keras")
    net = keras.models.load_model(tmp_path / "m.keras")
    entries, first = from_onnx.compare(source, path, LoadOptions(form="keras"), net)
    assert first is not None
    assert first.node == "conv1"
    assert max(e["max_relative"] for e in entries) > 0.01


def test_a_wrong_rebuild_is_refused_with_the_node(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, graph, imported = broken(path)
    monkeypatch.setattr(from_onnx, "rebuilt", lambda *_: (graph, imported))
    with pytest.raises(VerificationError, match="conv1"):
        from_onnx.from_source(source, path, LoadOptions(form="keras"))


def test_the_originals_own_framework_is_asked_too(path: Path) -> None:
    plain = from_onnx.source(path, LoadOptions(form="keras"))
    wrong = Source(
        plain.proto,
        "Test",
        reference=lambda x: {"y": np.zeros((len(x["x"]), 3), np.float32) + 7},
        reference_name="sevens 7.7",
    )
    with pytest.raises(VerificationError, match=r"sevens 7\.7"):
        from_onnx.from_source(wrong, path, LoadOptions(form="keras"))
    model = from_onnx.from_source(plain, path, LoadOptions(form="keras"))
    assert {e["output"] for e in model.proof} == {"y"}
    assert model.layouts == {"x": (0, 2, 3, 1)}


def test_real_inputs_are_held_to_the_original_too(path: Path) -> None:
    options = LoadOptions(form="keras")
    source = from_onnx.source(path, options)
    model = from_onnx.load_onnx(path, options)
    x = {"x": np.random.default_rng(3).normal(0, 9, (5, 8, 8, 2)).astype(np.float32)}
    entries = from_onnx.prove(source, path, options, model, x)
    assert [(e["output"], e["inputs"], e["data"]) for e in entries] == [("y", 5, "given")]
    assert entries[0]["max_relative"] <= 1e-5
    layer = model.net.get_layer("conv1")
    layer.set_weights([w * 1.2 for w in layer.get_weights()])
    with pytest.raises(VerificationError, match="on the data that was given"):
        from_onnx.prove(source, path, options, model, x)


@pytest.mark.parametrize(
    ("found", "wanted", "largest"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.inf, 2.0], [np.inf, 2.0], 0.0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([1.0], [1.0, 2.0], np.inf),
    ],
)
def test_differences_are_shares_of_the_largest_value(found: list[float], wanted: list[float], largest: float) -> None:
    assert proof.difference(np.array(found), np.array(wanted))[0] == pytest.approx(largest)
