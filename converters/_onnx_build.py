"""Graph: an ONNX graph under construction, node by node, whose tensor shapes are known as soon as they are made."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import __version__
from ..errors import ModelError, UsageError
from ..model import LoadOptions
from ..registry import did_you_mean
from ._onnx import last_line, onnx, proto_errors

OPSET = 17
IR_VERSION = 8
BATCH = "N"  # the name of a batch dimension that stays open
MAX_NUMEL = 1 << 28  # elements of one tensor (of one sample, where the batch is open): 1 GiB as float32
MAX_NODES = 100_000
DATA_ELEMENTS = 64  # a constant of at most so many elements is given to shape inference with its values

Dim = int | str | None
Shape = tuple[Dim, ...]


class Unsupported(Exception):
    """A layer cannot be expressed in ONNX; the message says why. Importers collect these and report them at once."""


@dataclass(slots=True)
class Graph:
    """Nodes in the order they run, their constants, and the type of every tensor."""

    name: str
    nodes: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)  # names of nodes
    reserved: set[str] = field(default_factory=set)  # names of tensors that only an explicit `out` may have

    def input(self, name: str, shape: Sequence[Dim], dtype: str = "float32") -> str:
        """A new input."""
        o = onnx()
        element = o.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        info = o.helper.make_tensor_value_info(
            name, element, [s if s is not None else f"{name}_{i}" for i, s in enumerate(shape)]
        )
        self.inputs.append(info)
        self.types[name] = info.type
        return name

    def constant(self, value: Any, name: str, dtype: Any = None) -> str:
        """A new initializer, float64 and float16 held as float32."""
        o = onnx()
        array = np.ascontiguousarray(value, dtype)  # which makes an array of one dimension of a scalar
        array = array.reshape(np.shape(value))
        if array.dtype in (np.float64, np.float16):
            array = array.astype(np.float32)
        name = self.fresh(name)
        self.constants[name] = o.numpy_helper.from_array(array, name)
        self.types[name] = o.helper.make_tensor_type_proto(self.constants[name].data_type, array.shape)
        return name

    def ints(self, values: Sequence[int], name: str) -> str:
        """A new int64 vector."""
        return self.constant(np.asarray(values, np.int64).reshape(-1), name)

    def fresh(self, name: str) -> str:
        """`name`, with a number behind it where a tensor is called so already."""
        return unique(name, self.types, self.reserved)

    def add(self, op: str, *inputs: str, name: str, out: str = "", **attributes: Any) -> str:
        """A node with one output, whose name is `out`, or else the node's."""
        return self.add_many(op, *inputs, name=name, outs=(out or self.fresh(name),), **attributes)[0]

    def add_many(self, op: str, *inputs: str, name: str, outs: Sequence[str], **attributes: Any) -> tuple[str, ...]:
        """A node with the outputs `outs` ("" for one that is left out). Raises Unsupported where its types do not fit."""
        o = onnx()
        if len(self.nodes) >= MAX_NODES:
            raise ModelError(f"the network has more than {MAX_NODES:,} operators", next="use a smaller model")
        node = o.helper.make_node(op, list(inputs), list(outs), unique(name, self.taken), **attributes)
        self.taken.add(node.name)
        found = self._infer(node)
        for out in filter(None, outs):
            if out in self.types:
                raise ModelError(f"two tensors of the network are called '{out}'", next="export the model again")
            self.types[out] = found[out]
            sizes = [d for d in self.shape(out) if isinstance(d, int)]
            numel = math.prod(sizes)
            if any(d < 1 for d in sizes):
                raise Unsupported(f"its input is too small: the result would be {text(self.shape(out))}")
            if numel > MAX_NUMEL:
                raise Unsupported(f"its result would have {numel:,} elements")
        self.nodes.append(node)
        return tuple(outs)

    def _infer(self, node: Any) -> Mapping[str, Any]:
        o = onnx()
        known = {n: self.types[n] for n in node.input if n}
        small = (n for n in known if n in self.constants and math.prod(self.constants[n].dims) <= DATA_ELEMENTS)
        data = {n: self.constants[n] for n in small}
        schema = o.defs.get_schema(node.op_type, OPSET, "")
        opsets = [o.helper.make_opsetid("", OPSET)]
        try:
            found: Mapping[str, Any] = o.shape_inference.infer_node_outputs(
                schema, node, known, data, opset_imports=opsets, ir_version=IR_VERSION
            )
        except proto_errors() as error:
            raise Unsupported(f"its input shapes do not fit: {last_line(error)}") from error
        missing = [n for n in node.output if n and not found[n].tensor_type.HasField("shape")] if found else node.output
        if missing:
            raise Unsupported(f"the shape of its output {missing[0]} cannot be told")
        return found

    def shape(self, tensor: str) -> Shape:
        """A tensor's shape: a number, a name, or None for each dimension."""
        dims = self.types[tensor].tensor_type.shape.dim
        return tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in dims)

    def fixed(self, tensor: str, start: int = 1) -> tuple[int, ...]:
        """The sizes of a tensor's dimensions from `start` on. Raises Unsupported where one is not a number."""
        dims = self.shape(tensor)[start:]
        if not all(isinstance(d, int) for d in dims):
            raise Unsupported(f"it needs fixed sizes, and its input is {text(self.shape(tensor))}")
        return tuple(int(d) for d in dims if isinstance(d, int))

    def rank(self, tensor: str) -> int:
        """How many dimensions a tensor has."""
        return len(self.types[tensor].tensor_type.shape.dim)

    def dtype(self, tensor: str) -> str:
        """The numpy name of a tensor's element type."""
        o = onnx()
        return str(o.helper.tensor_dtype_to_np_dtype(self.types[tensor].tensor_type.elem_type).name)

    def scalar(self, value: float, like: str, name: str) -> str:
        """A constant of no dimensions with the element type of the tensor `like`."""
        return self.constant(np.asarray(value, self.dtype(like)), name)

    def model(self, outputs: Sequence[str], doc: str, start: Sequence[str] = ()) -> Any:
        """The checked ModelProto with inferred shapes, from the tensors `start` on, or from the inputs.

        Nodes and constants that no output needs are left out. Raises ModelError, UsageError (no tensor is called so).
        """
        o = onnx()
        unknown = [n for n in start if n not in self.types or n in self.constants]
        if unknown:
            raise UsageError(
                f"there is no tensor '{unknown[0]}' in the network{did_you_mean(unknown[0], self.types)}",
                next="see the names with `edgedl inspect`",
            )
        nodes, needed = self._needed(outputs, start)
        inputs = [i for i in self.inputs if i.name in needed or not start]
        inputs = [o.ValueInfoProto(name=n, type=self.types[n]) for n in start] + [
            i for i in inputs if i.name not in start
        ]
        infos = [o.ValueInfoProto(name=n, type=self.types[n]) for n in outputs]
        weights = [t for n, t in self.constants.items() if n in needed]
        graph = o.helper.make_graph(nodes, self.name, inputs, infos, weights, doc_string=doc)
        opsets = [o.helper.make_opsetid("", OPSET)]
        proto = o.helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgedl", producer_version=__version__
        )
        try:
            o.checker.check_model(proto)
            return o.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        except proto_errors() as error:
            raise ModelError(
                f"the network in ONNX is not well-formed: {last_line(error)}", next="report this with the model"
            ) from error

    def _needed(self, outputs: Sequence[str], start: Sequence[str]) -> tuple[list[Any], set[str]]:
        needed = set(outputs)
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output).difference(start):
                kept.append(node)
                needed.update(node.input)
        return kept[::-1], needed


def unique(name: str, *taken: Container[str]) -> str:
    """`name`, or `name_2`, `name_3` ...: the first that is in none of `taken`.

    >>> unique("conv", {"conv"}, {"conv_2"})
    'conv_3'
    """
    found, n = name, 1
    while any(found in names for names in taken):
        n += 1
        found = f"{name}_{n}"
    return found


def text(shape: Sequence[Dim]) -> str:
    """A shape as a person reads it.

    >>> text((None, 3, "N"))
    '?x3xN'
    """
    return "x".join("?" if d is None else str(d) for d in shape)


def parse_shape(name: str, spec: str) -> tuple[Shape, str]:
    """The shape and dtype of an input that was given as "1x3x?x?" or "?x128:int64"; a name stays a named dimension.

    Raises UsageError.

    >>> parse_shape("data", "?x3x224x224")
    (('N', 3, 224, 224), 'float32')
    """
    dims, _, dtype = spec.partition(":")
    shape: list[Dim] = []
    for i, part in enumerate(p.strip() for p in dims.split("x")):
        if part == "?":
            shape.append(BATCH if i == 0 else None)
        elif part.isascii() and part.isdigit() and len(part) < 10 and int(part) > 0:
            shape.append(int(part))
        elif part.isidentifier():
            shape.append(part)
        else:
            raise UsageError(f"'{spec}' is no shape for the input '{name}'", next=f"give it like {name}=1x3x224x224")
    if dtype not in ("", "float32", "int64", "int32", "uint8", "int8", "bool"):
        raise UsageError(
            f"'{dtype}' is no type for the input '{name}'", next="use float32, int64, int32, int8 or uint8"
        )
    return tuple(shape), dtype or "float32"


def remaining(proto: Any, options: LoadOptions) -> LoadOptions:
    """The options without the shapes of inputs that lie before `options.start`."""
    names = {i.name for i in proto.graph.input}
    return replace(options, inputs={name: shape for name, shape in options.inputs.items() if name in names})


def unsupported(title: str, problems: Mapping[str, str], next: str) -> ModelError:
    """One error for all layers ("name (Type)" -> reason) that cannot be imported."""
    lines = "".join(f"\n  {where}: {why}" for where, why in problems.items())
    what = "a layer" if len(problems) == 1 else f"{len(problems)} layers"
    return ModelError(f"{title} has {what} that cannot be imported:{lines}", next=next)


@dataclass(frozen=True, slots=True)
class Window:
    """How pooling walks over the spatial dimensions: `out` windows of `kernel`, from `-pad` on, `stride` apart."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    out: tuple[int, ...]

    def overhang(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """How far the last windows reach past the end of the input (0 where they do not)."""
        walk = zip(sizes, self.kernel, self.stride, self.pad, self.out, strict=True)
        return tuple(max(0, (n - 1) * s + k - p - size) for size, k, s, p, n in walk)


def pool(g: Graph, x: str, kind: str, window: Window, name: str, out: str = "", *, padding_counts: bool = True) -> str:
    """Max, average or sum pooling as Caffe and MXNet define it (`pooling_layer.cpp`, `nn/pool.h`), exactly.

    There an average divides by the cells of its window that lie in the input or in `pad` around it, but not by those
    that only the rounding up of the output size adds. ONNX knows both rules, but not in one operator: where a window
    reaches over the padding, the padding becomes a Pad and the rest is left out of the count.
    """
    sizes = g.fixed(x, 2)
    end = window.overhang(sizes)
    walk = zip(sizes, window.pad, window.stride, window.out, strict=True)
    if any((n - 1) * s - p >= (size if kind == "max" else size + p) for size, p, s, n in walk):
        raise Unsupported("its last window lies outside of the input, where there is nothing to pool")
    shared: dict[str, Any] = {"kernel_shape": window.kernel, "strides": window.stride}
    if kind == "max":
        return g.add("MaxPool", x, name=name, out=out, pads=(*window.pad, *end), **shared)
    if kind == "sum":
        padded = pad(g, x, (*window.pad, *end), f"{name}/pad")
        mean = g.add("AveragePool", padded, name=f"{name}/mean", **shared)
        return g.add("Mul", mean, g.scalar(math.prod(window.kernel), mean, f"{name}/count"), name=name, out=out)
    if not padding_counts or not any(window.pad):
        return g.add("AveragePool", x, name=name, out=out, pads=(*window.pad, *end), count_include_pad=0, **shared)
    if all(e <= p for e, p in zip(end, window.pad, strict=True)):
        return g.add("AveragePool", x, name=name, out=out, pads=(*window.pad, *end), count_include_pad=1, **shared)
    padded = pad(g, x, (*window.pad, *window.pad), f"{name}/pad")
    rest = window.overhang([size + p for size, p in zip(sizes, window.pad, strict=True)])
    begin = (0,) * len(sizes)
    return g.add("AveragePool", padded, name=name, out=out, pads=(*begin, *rest), count_include_pad=0, **shared)


def pad(g: Graph, x: str, pads: Sequence[int], name: str, value: float = 0.0) -> str:
    """`x` with a border around its spatial dimensions: `pads` holds the beginnings, then the ends."""
    if not any(pads):
        return x
    half = len(pads) // 2
    full = (0, 0, *pads[:half], 0, 0, *pads[half:])
    return g.add("Pad", x, g.ints(full, f"{name}/pads"), g.scalar(value, x, f"{name}/value"), name=name)


def axis_of(axis: int, rank: int, what: str = "axis") -> int:
    """A checked axis, counted from the front. Raises Unsupported."""
    if not -rank <= axis < rank:
        raise Unsupported(f"its {what} {axis} does not exist: the input has {rank} dimensions")
    return axis % rank


def reshape(g: Graph, x: str, shape: Sequence[int], name: str, out: str = "") -> str:
    """`x` in another shape, as ONNX's Reshape reads it (0 keeps a dimension, -1 takes what is left)."""
    return g.add("Reshape", x, g.ints(shape, f"{name}/shape"), name=name, out=out)


def shuffle_channels(g: Graph, x: str, groups: int, name: str, out: str = "") -> str:
    """The channels of `groups` groups interleaved (ShuffleNet, Zhang et al., CVPR 2018)."""
    channels, *sizes = g.fixed(x, 1)
    if groups < 1 or channels % groups:
        raise Unsupported(f"{channels} channels are not {groups} groups")
    split = reshape(g, x, (0, groups, channels // groups, *sizes), f"{name}/split")
    order = (0, 2, 1, *range(3, 3 + len(sizes)))
    turned = g.add("Transpose", split, name=f"{name}/turn", perm=order)
    return reshape(g, turned, (0, channels, *sizes), name, out)
