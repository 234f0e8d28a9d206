"""A ModelProto that is being rewritten: who makes a tensor, who reads it, what is constant, which layer a node is of."""

from __future__ import annotations

from collections import defaultdict
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ...artifact import Array
from .. import _onnx


class Graph:
    """Look-ups over the top-level graph of a ModelProto (which it changes in place), kept while nodes are replaced."""

    def __init__(self, model: Any) -> None:
        self.model = model
        _constants_to_initializers(model.graph)
        self.constants: dict[str, Any] = {t.name: t for t in model.graph.initializer}
        self.producer: dict[str, Any] = {name: node for node in model.graph.node for name in node.output if name}
        self.consumers: dict[str, list[Any]] = defaultdict(list)
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self.consumers[name].append(node)
        self.inputs = {i.name for i in model.graph.input}
        self.outputs = {o.name for o in model.graph.output}
        self.inner = {name for g in list(_onnx.graphs(model.graph))[1:] for n in g.node for name in n.input}
        info = _onnx.inferred(model).graph
        self.info = {v.name: v for v in (*info.value_info, *info.input, *info.output)}
        self.added: dict[bytes, str] = {}  # by content: a scale or a zero point is stored once
        self.count: dict[str, int] = defaultdict(int)
        self.taken = {*self.constants, *self.producer, *self.inputs}

    def is_float(self, name: str) -> bool:
        """Whether a tensor is known to be float32."""
        float32 = _onnx.onnx().TensorProto.FLOAT
        if name in self.constants:
            return bool(self.constants[name].data_type == float32)
        return name in self.info and bool(self.info[name].type.tensor_type.elem_type == float32)

    def is_activation(self, name: str) -> bool:
        """Whether a tensor is float32 and depends on the inputs."""
        return bool(name) and name not in self.constants and self.is_float(name)

    def constant(self, name: str) -> Array | None:
        """The value of a constant tensor, or None."""
        return _onnx.array(self.constants[name]) if name in self.constants else None

    def unique(self, name: str) -> str:
        """`name`, or `name1` ... where that is taken."""
        found = name
        while found in self.taken:
            self.count[name] += 1
            found = f"{name}{self.count[name]}"
        self.taken.add(found)
        return found

    def add_constant(self, name: str, value: Any) -> str:
        """Add an initializer (a numpy array, or a TensorProto that is renamed) under a free name; returns the name."""
        o = _onnx.onnx()
        tensor = o.numpy_helper.from_array(np.asarray(value)) if not isinstance(value, o.TensorProto) else value
        key = tensor.SerializeToString()
        if key in self.added:
            return self.added[key]
        tensor.name = self.added[key] = self.unique(name)
        self.constants[tensor.name] = tensor
        self.model.graph.initializer.append(tensor)
        return str(tensor.name)

    def drop_unused(self) -> None:
        """Remove initializers that nothing reads."""
        graph = self.model.graph
        used = {name for g in _onnx.graphs(graph) for node in g.node for name in node.input} | self.outputs
        kept = [t for t in graph.initializer if t.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _constants_to_initializers(graph: Any) -> None:
    """Constant nodes become initializers, which is one way less in which a weight can be written."""
    o = _onnx.onnx()
    kept = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type != "Constant" or value is None:
            kept.append(node)
            continue
        tensor = o.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    if len(kept) != len(graph.node):
        nodes = [o.NodeProto.FromString(n.SerializeToString()) for n in kept]
        del graph.node[:]
        graph.node.extend(nodes)


def attribute(node: Any, name: str, default: Any) -> Any:
    """The value of a node's attribute."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else _onnx.onnx().helper.get_attribute_value(found)


def opset(model: Any) -> int:
    """The version of the standard operators that a model is written in."""
    return max((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def set_domain(model: Any, domain: str, version: int) -> None:
    """Declare that the model uses a domain."""
    if all(o.domain != domain for o in model.opset_import):
        model.opset_import.append(_onnx.onnx().helper.make_opsetid(domain, version))


def tidy(model: Any) -> Any:
    """Drop declared domains that no node uses (ONNX Runtime declares all it knows), and name the nodes that have none."""
    used = {node.domain for g in _onnx.graphs(model.graph) for node in g.node} | {""}
    kept = [(o.domain, o.version) for o in model.opset_import if (o.domain or "") in used or o.domain == "ai.onnx"]
    del model.opset_import[:]
    model.opset_import.extend(_onnx.onnx().helper.make_opsetid(d, v) for d, v in kept)
    names: set[str] = set()
    for i, node in enumerate(model.graph.node):
        if not node.name or node.name in names:
            node.name = f"{node.name or node.op_type}_{i}"
        names.add(node.name)
    return model


def in_order(model: Any) -> Any:
    """The model with its nodes after what they read, as ONNX wants them: in an order that only the graph decides.

    Depth first from the outputs; nodes that no output needs are dropped. Raises ValueError for a cycle.
    """
    maker = {name: node for node in model.graph.node for name in node.output if name}
    ordered: list[Any] = []
    state: dict[int, bool] = {}  # by id: False while what it reads is visited, True when done
    stack = [maker[o.name] for o in reversed(model.graph.output) if o.name in maker]
    while stack:
        node = stack[-1]
        if state.get(id(node)):
            stack.pop()
            continue
        waiting = [maker[name] for name in reads(node) if name in maker and not state.get(id(maker[name]))]
        if waiting and id(node) in state:
            raise ValueError("the graph has a cycle")
        state[id(node)] = not waiting
        if waiting:
            stack.extend(reversed(waiting))
        else:
            ordered.append(node)
            stack.pop()
    kept = [_onnx.onnx().NodeProto.FromString(n.SerializeToString()) for n in ordered]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def reads(node: Any) -> list[str]:
    """The tensors that a node reads, those that its inner graphs take from outside included."""
    found = list(node.input)
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            for inner in _onnx.graphs(graph):
                found += [name for n in inner.node for name in n.input]
    return found


def matches(pattern: str, name: str) -> bool:
    """Whether a layer pattern (fnmatch) applies to a node: to its whole name or to a part between slashes.

    >>> matches("conv*", "block/conv_1/Relu"), matches("block/*", "block/conv_1/Relu"), matches("bloc", "block/conv_1")
    (True, True, False)
    """
    return any(fnmatchcase(part, pattern) for part in (name, *name.split("/")))
