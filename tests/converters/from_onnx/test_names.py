"""Names of nodes that are also those which Keras gives its own operations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedl.model import load

onnx = pytest.importorskip("onnx", reason="needs pip install 'edgedl[onnx]'")
keras = pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")


def test_a_node_may_be_called_as_keras_calls_its_next_operation(tmp_path: Path) -> None:
    """TensorFlow's graphs are full of "add_1": the layer of the second node, and what Keras would call the third."""
    h = onnx.helper
    x, y = (h.make_tensor_value_info(n, 1, ["N", 4]) for n in "xy")
    c = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "c")
    nodes = [
        h.make_node("Add", ["x", "c"], ["a"], name="first"),
        h.make_node("Add", ["a", "x"], ["b"], name="add_1"),
        h.make_node("Add", ["b", "c"], ["y"], name="third"),
    ]
    graph = h.make_graph(nodes, "g", [x], [y], [c])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    keras.backend.clear_session()
    net = load(tmp_path / "m.onnx", form="keras").net
    assert {"first", "add_1", "third"} <= {o.name for o in net.operations}
