"""Emit: an ONNX graph written node by node, its shapes inferred and its constants folded as it grows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import ModelError
from ._onnx import onnx, proto_errors

OPSET = 20
IR_VERSION = 10
MAX_FOLDED = 1 << 20  # elements of a constant that is computed here
MAX_HINT = 1 << 12  # elements of a constant whose values shape inference is given
MAX_NODES = 200_000
SLOW = frozenset(  # the reference implementation walks over these position by position, in Python
    {"Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool", "LRN", "Resize", "LSTM", "GRU", "RNN"}
)
DAMAGED = "copy or download the model again"
Shape = tuple[int | None, ...]


class Emit:
    """A growing ONNX graph. Values are names (str); a node all of whose inputs are constants becomes a constant.

    Every method that computes raises ModelError where ONNX's shape inference refuses the node.
    """

    def __init__(self, name: str) -> None:
        self.o = onnx()
        self.name = name
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self.types: dict[str, Any] = {}  # TypeProto of every value
        self.inputs: list[str] = []
        self.taken: set[str] = set()
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def fresh(self, wish: str) -> str:
        """A name that no other value has."""
        name, n = wish or "value", 1
        while name in self.taken:
            n += 1
            name = f"{wish or 'value'}_{n}"
        self.taken.add(name)
        return name

    def input(self, name: str, dtype: Any, shape: Sequence[int | str | None]) -> str:
        """Declare an input of the graph; a size is a number, a name, or None for any."""
        self.taken.add(name)
        element = self.o.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        sizes = [f"{name}_{i}" if s is None else s for i, s in enumerate(shape)]
        self.types[name] = self.o.helper.make_tensor_type_proto(element, sizes)
        self.inputs.append(name)
        return name

    def constant(self, values: Any, dtype: Any = None, name: str = "") -> str:
        """A constant; small ones that are alike are kept once."""
        array = np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values))
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, array.tobytes() if array.size <= 64 else b"")
        if not name and array.size <= 64 and key in self._shared:
            return self._shared[key]
        name = self.fresh(name or "constant")
        self.constants[name] = array
        element = self.o.helper.np_dtype_to_tensor_dtype(array.dtype)
        self.types[name] = self.o.helper.make_tensor_type_proto(element, array.shape)
        if array.size <= 64:
            self._shared.setdefault(key, name)
        return name

    def __call__(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """The only output of a new node."""
        return self.many(op, inputs, 1, name=name, **attributes)[0]

    def many(self, op: str, inputs: Sequence[str], count: int, *, name: str = "", **attributes: Any) -> list[str]:
        """The `count` outputs of a new node; an input that is "" is left out."""
        outputs = [self.fresh(name if i == 0 and name else f"{name or op}_{i}" if i else op) for i in range(count)]
        node = self.o.helper.make_node(op, list(inputs), outputs, name=outputs[0], **attributes)
        folded = self._fold(node)
        if folded is not None:
            for output, array in zip(outputs, folded, strict=True):
                self.constants[output] = array
                element = self.o.helper.np_dtype_to_tensor_dtype(array.dtype)
                self.types[output] = self.o.helper.make_tensor_type_proto(element, array.shape)
            return outputs
        if len(self.nodes) >= MAX_NODES:
            raise ModelError(f"{self.name} has more than {MAX_NODES:,} operators", next="use a smaller model")
        self.types.update(self._infer(node))
        self.nodes.append(node)
        return outputs

    def shape(self, value: str) -> Shape | None:
        """Sizes of a value, None where they may be any; None for one of unknown rank."""
        kind = self.types.get(value)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.tensor_type.shape.dim)

    def dtype(self, value: str) -> np.dtype[Any]:
        """The numpy type of a value."""
        found: np.dtype[Any] = np.dtype(self.o.helper.tensor_dtype_to_np_dtype(self.types[value].tensor_type.elem_type))
        return found

    def _infer(self, node: Any) -> Mapping[str, Any]:
        o = self.o
        schema = o.defs.get_schema(node.op_type, OPSET)
        used = [i for i in node.input if i]
        hints = {
            i: o.numpy_helper.from_array(self.constants[i], i)
            for i in used
            if i in self.constants and self.constants[i].size <= MAX_HINT
        }
        try:
            found: Mapping[str, Any] = o.shape_inference.infer_node_outputs(
                schema,
                node,
                {i: self.types[i] for i in used},
                hints,
                None,
                [o.helper.make_opsetid("", OPSET)],
                IR_VERSION,
            )
        except _failures() as error:
            shapes = ", ".join(str(self.shape(i)) for i in used)
            raise ModelError(
                f"{self.name}: '{node.name}' ({node.op_type}) cannot take inputs of the shapes {shapes}: "
                f"{str(error).strip().splitlines()[-1][:200]}",
                next="the file is damaged, or give the input sizes with --input NAME=SHAPE",
            ) from error
        for kind in found.values():
            if any(d.HasField("dim_value") and d.dim_value < 0 for d in kind.tensor_type.shape.dim):
                raise ModelError(f"{self.name}: '{node.name}' ({node.op_type}) has a negative size", next=DAMAGED)
        return found

    def _fold(self, node: Any) -> list[Array] | None:
        """The values of a node whose inputs are constants (or of the shape of a value of fixed shape)."""
        if node.op_type == "Shape":
            return self._fold_shape(node)
        used = [i for i in node.input if i]
        if not used or any(i not in self.constants for i in used) or node.op_type in SLOW:
            return None
        kinds = self._infer(node).values()
        sizes = [[d.dim_value for d in k.tensor_type.shape.dim] for k in kinds if k.tensor_type.HasField("shape")]
        if len(sizes) != len(node.output) or any(math.prod(s) > MAX_FOLDED for s in sizes):
            return None
        o = self.o
        graph = o.helper.make_graph(
            [node], "fold", [o.helper.make_value_info(i, self.types[i]) for i in dict.fromkeys(used)],
            [o.helper.make_value_info(n, k) for n, k in zip(node.output, kinds, strict=True)],
        )  # fmt: skip
        model = o.helper.make_model(graph, opset_imports=[o.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        import onnx.reference

        with np.errstate(all="ignore"):
            try:
                found = onnx.reference.ReferenceEvaluator(model).run(None, {i: self.constants[i] for i in used})
            except _failures():
                return None
        return [np.asarray(a) for a in found]

    def _fold_shape(self, node: Any) -> list[Array] | None:
        shape = self.shape(node.input[0])
        if shape is None or any(s is None for s in shape) or node.attribute:
            return None
        return [np.asarray(shape, np.int64)]

    def model(self, outputs: Sequence[str]) -> Any:
        """The ModelProto with these outputs, without nodes and constants that they do not need."""
        o, needed, nodes = self.o, set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(node.input)
        nodes.reverse()
        info = [o.helper.make_value_info(n, self.types[n]) for node in nodes for n in node.output if n in self.types]
        graph = o.helper.make_graph(
            nodes, self.name,
            [o.helper.make_value_info(n, self.types[n]) for n in self.inputs],
            [o.helper.make_value_info(n, self.types[n]) for n in outputs],
            [o.numpy_helper.from_array(a, n) for n, a in self.constants.items() if n in needed],
            value_info=[i for i in info if i.name not in set(outputs)],
        )  # fmt: skip
        return o.helper.make_model(
            graph, opset_imports=[o.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="edgedl"
        )


def _failures() -> tuple[type[Exception], ...]:
    """What onnx raises for a node that cannot be."""
    return (*proto_errors(), LookupError, AttributeError, ArithmeticError, NotImplementedError)
