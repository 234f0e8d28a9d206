"""Template: the .tflite of a network as a function of its channel counts, and of each of its operators alone.

A network is converted three times, with different widths. Every integer of the file that changes (the shape of a tensor,
a number in a constant of shapes or paddings, an operator's option) is then found again among the lengths of the axes of
the channel graph, so that the file of any other width is written without a conversion. Weights are arbitrary.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConversionError, MissingDependencyError
from .cost import Counts, Lengths
from .graph import ChannelGraph

IDENTIFIER = b"TFL3"
DTYPES = {0: "float32", 2: "int32", 4: "int64", 9: "int8", 7: "int16", 3: "uint8", 1: "float16"}  # TensorType
SHAPES = (2, 4)  # int32 and int64: types of constants that hold shapes, paddings, indices
PADDING = ("PAD", "PADV2")
FILES = 3  # conversions: the dense network and two narrower ones
TRIES = 1000
ATTEMPTS = 3  # ranges decide where an int8 file requantizes, which may differ between widths


@cache
def schema() -> Any:
    """The classes generated from schema.fbs, as LiteRT ships them. Raises MissingDependencyError."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingDependencyError(
            f"a budget in latency needs ai-edge-litert, which cannot be imported here ({error})",
            next="pip install ai-edge-litert, or give a budget in MACs",
        ) from error
    return schema_py_generated


def read(content: bytes) -> Any:
    """The `ModelT` of a .tflite that a converter of this project wrote, tensors numbered in the order of their use.

    Every use of a constant becomes a tensor of its own: which ones are stored once depends on the widths.
    """
    model = schema().ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        graph.tensors = list(graph.tensors)
        for op in graph.operators:
            op.inputs = [
                _added(graph, copy.copy(graph.tensors[i])) if i >= 0 and len(_data(model, graph.tensors[i])) else int(i)
                for i in _list(op.inputs)
            ]
        used = [int(i) for i in graph.inputs]
        used += [int(i) for op in graph.operators for i in (*_list(op.inputs), *_list(op.outputs)) if i >= 0]
        _keep(graph, list(dict.fromkeys([*used, *map(int, graph.outputs)])))
    model.signatureDefs = []
    return model


def pack(model: Any) -> bytes:
    """A `ModelT` as a flatbuffer."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


@dataclass(frozen=True, slots=True)
class Size:
    """An integer of the file: `factor` times the length of an axis, rounded; or fixed where there is no axis."""

    fixed: int
    row: int = -1  # of Template.lengths
    factor: Fraction = Fraction(1)

    def at(self, lengths: NDArray[np.float64]) -> int:
        """Its value for these lengths of the axes."""
        return self.fixed if self.row < 0 else max(1, round(self.factor * Fraction(round(lengths[self.row]))))


@dataclass(slots=True)
class Template:
    """The .tflite of a network at any width. `fixed + times @ counts` are the lengths of the axes it knows."""

    model: Any  # ModelT of the dense network
    fixed: NDArray[np.float64]
    times: NDArray[np.float64]  # `[axes, groups]`
    sizes: dict[tuple[Any, ...], list[Size]]  # place in the file -> its integers, where any of them changes
    names: list[str] = field(default_factory=list)  # of the operators of the first graph

    def lengths(self, counts: Counts) -> NDArray[np.float64]:
        """The lengths of the axes for so many channels of each group."""
        found: NDArray[np.float64] = self.fixed + self.times @ counts
        return found

    def segments(self) -> list[tuple[int, ...]]:
        """The operators of the first graph as they run: each alone, but padding with the one operator that reads it.

        Kernel libraries (XNNPACK) do such padding inside the convolution, where it costs next to nothing.
        """
        graph = self.model.subgraphs[0]
        readers: dict[int, list[int]] = {}
        for i, op in enumerate(graph.operators):
            for tensor in op.inputs:
                readers.setdefault(int(tensor), []).append(i)
        joined: dict[int, tuple[int, ...]] = {}
        for i, op in enumerate(graph.operators):
            if self.names[i] in PADDING and len(readers.get(int(op.outputs[0]), ())) == 1:
                reader = readers[int(op.outputs[0])][0]
                joined[reader] = (*joined.get(reader, ()), *joined.pop(i, ()), i)
        inner = {i for pads in joined.values() for i in pads}
        return [(*joined.get(i, ()), i) for i in range(len(graph.operators)) if i not in inner]

    def rows(self, segment: Sequence[int]) -> list[int]:
        """The axes that a segment depends on."""
        places: list[tuple[Any, ...]] = []
        for operator in segment:
            op = self.model.subgraphs[0].operators[operator]
            places += [("shape", 0, int(i)) for i in (*op.inputs, *op.outputs)]
            places += [("values", 0, int(i)) for i in op.inputs]
            places += [p for p in self.sizes if p[:3] == ("option", 0, operator)]
            if _calls_graph(op):
                places += [p for p in self.sizes if p[1] > 0]
        return sorted({s.row for p in places for s in self.sizes.get(p, ()) if s.row >= 0})

    def whole(self, counts: Counts) -> bytes:
        """The file of the network with so many channels of each group."""
        model = self._sized(self.lengths(counts))
        model.metadata, model.metadataBuffer = [], []
        _drop_buffers(model)
        return pack(model)

    def single(self, segment: Sequence[int], lengths: NDArray[np.float64], copies: int) -> bytes:
        """A file of one segment `copies` times over, all on the same inputs, for these lengths of the axes.

        What each copy gives is an output of the file, since kernel libraries leave out what nobody reads.
        """
        model = self._sized(lengths)
        graph = model.subgraphs[0]
        chain = [graph.operators[i] for i in segment]
        made = {int(i) for op in chain for i in op.outputs}
        read_ = dict.fromkeys(int(i) for op in chain for i in op.inputs if i >= 0)
        graph.inputs = [i for i in read_ if i not in made and not len(_data(model, graph.tensors[i]))]
        graph.operators, graph.outputs = [], []
        for _ in range(copies):
            place: dict[int, int] = {}
            for op in chain:
                twin = copy.copy(op)
                twin.inputs = [place.get(int(i), int(i)) for i in op.inputs]
                for i in op.outputs:
                    place[int(i)] = _added(graph, copy.copy(graph.tensors[i]))
                twin.outputs = [place[int(i)] for i in op.outputs]
                graph.operators.append(twin)
            graph.outputs += [place[int(i)] for i in chain[-1].outputs]
        model.metadata, model.metadataBuffer = [], []
        _drop_unused(model)
        return pack(model)

    def identity(self, segment: Sequence[int], lengths: NDArray[np.float64]) -> str:
        """What decides the time of a segment: its operators, their options, shapes and types; a digest in hex."""
        model = self.model
        graph = model.subgraphs[0]
        found: list[Any] = []
        for operator in segment:
            op = graph.operators[operator]
            for i in (*op.inputs, *op.outputs):
                tensor = graph.tensors[i] if i >= 0 else None
                known = (
                    []
                    if tensor is None
                    else [self._shape(0, int(i), lengths), tensor.type, len(_data(model, tensor)) > 0]
                )
                found.append([known, self._values(int(i), lengths)])
            options = vars(op.builtinOptions) if op.builtinOptions else {}
            found.append([self.names[operator], sorted((k, _plain(v)) for k, v in options.items())])
            if _calls_graph(op):
                found.append(hashlib.sha256(pack(self._sized(lengths))).hexdigest())
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:32]

    def bytes_of(self, segment: Sequence[int], lengths: NDArray[np.float64]) -> int:
        """The size of all tensors of a segment, in elements of four bytes at most."""
        graph = self.model.subgraphs[0]
        ids = {int(i) for o in segment for i in (*graph.operators[o].inputs, *graph.operators[o].outputs) if i >= 0}
        return sum(4 * int(np.prod(self._shape(0, i, lengths))) for i in ids)

    def has_kernel(self, segment: Sequence[int]) -> bool:
        """Whether one of its operators has weights of two axes or more."""
        graph = self.model.subgraphs[0]
        inputs = {int(i) for o in segment for i in graph.operators[o].inputs if i >= 0}
        return any(
            len(_data(self.model, t)) and t.type not in SHAPES and len(t.shape) > 1
            for t in (graph.tensors[i] for i in inputs)
        )

    def label(self, segment: Sequence[int]) -> str:
        """The name that the converter gave to what a segment computes."""
        graph = self.model.subgraphs[0]
        name = graph.tensors[graph.operators[segment[-1]].outputs[0]].name or b""
        return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)

    def _shape(self, graph: int, tensor: int, lengths: NDArray[np.float64]) -> list[int]:
        found = self.sizes.get(("shape", graph, tensor))
        if found is None:
            return [int(d) for d in _list(self.model.subgraphs[graph].tensors[tensor].shape)]
        return [s.at(lengths) for s in found]

    def _values(self, tensor: int, lengths: NDArray[np.float64]) -> list[int]:
        found = self.sizes.get(("values", 0, tensor))
        return [s.at(lengths) for s in found] if found else []

    def _sized(self, lengths: NDArray[np.float64]) -> Any:
        """A copy of the model whose tensors have these lengths; constants are filled up with their own values."""
        model = copy.copy(self.model)
        model.buffers = list(model.buffers)
        model.subgraphs = [copy.copy(g) for g in model.subgraphs]
        for g, graph in enumerate(model.subgraphs):
            graph.tensors = [copy.copy(t) for t in graph.tensors]
            for t, tensor in enumerate(graph.tensors):
                self._resize(model, tensor, g, t, lengths)
            graph.operators = [self._operator(op, g, i, lengths) for i, op in enumerate(graph.operators)]
        for (g, t), (before, after) in _paddings(self.model).items():
            self._pad(model, *(model.subgraphs[g].tensors[i] for i in (t, before, after)))
        return model

    @staticmethod
    def _pad(model: Any, paddings: Any, before: Any, after: Any) -> None:
        """Make the paddings what the shapes say, as much of them in front as there was."""
        old = np.frombuffer(bytes(_data(model, paddings)), DTYPES[paddings.type]).reshape(-1, 2)
        wanted = [int(b) - int(a) for a, b in zip(before.shape, after.shape, strict=True)]
        new = [
            (min(int(front), all_), all_ - min(int(front), all_)) for (front, _), all_ in zip(old, wanted, strict=True)
        ]
        _store(model, paddings, np.array(new, DTYPES[paddings.type]))

    def _resize(self, model: Any, tensor: Any, graph: int, index: int, lengths: NDArray[np.float64]) -> None:
        values = self.sizes.get(("values", graph, index))
        sizes = self.sizes.get(("shape", graph, index))
        if values is not None:
            _store(model, tensor, np.array([s.at(lengths) for s in values], DTYPES[tensor.type]))
        if sizes is None:
            return
        before = [int(d) for d in _list(tensor.shape)]
        tensor.shape = [s.at(lengths) for s in sizes]
        if tensor.shapeSignature is not None and len(tensor.shapeSignature):
            tensor.shapeSignature = [
                -1 if d < 0 else n for d, n in zip(tensor.shapeSignature, tensor.shape, strict=True)
            ]
        data = _data(model, tensor)
        if len(data):
            size = int(np.prod(tensor.shape))
            if tensor.type in SHAPES and not _scaled(tensor):
                data = np.zeros(len(data), np.uint8)
            _store(model, tensor, np.resize(np.asarray(data, np.uint8), len(data) * size // int(np.prod(before))))
        scales = tensor.quantization
        if scales is not None and scales.scale is not None and len(scales.scale) > 1:
            tensor.quantization = scales = copy.copy(scales)
            length = tensor.shape[scales.quantizedDimension]
            scales.scale = np.resize(np.asarray(scales.scale, np.float32), length)
            scales.zeroPoint = np.resize(np.asarray(scales.zeroPoint, np.int64), length)
            scales.min = scales.max = None

    def _operator(self, op: Any, graph: int, index: int, lengths: NDArray[np.float64]) -> Any:
        changed = [p for p in self.sizes if p[:3] == ("option", graph, index)]
        if not changed:
            return op
        op = copy.copy(op)
        op.builtinOptions = copy.copy(op.builtinOptions)
        for place in changed:
            values = [s.at(lengths) for s in self.sizes[place]]
            before = getattr(op.builtinOptions, place[3])
            setattr(op.builtinOptions, place[3], values[0] if isinstance(before, int) else values)
        return op


def template(graph: ChannelGraph, convert: Callable[[Counts], bytes]) -> Template:
    """The template of a network. `convert` gives the .tflite for so many channels of each group.

    Raises ConversionError where files of other widths have other operators, or numbers that no axis explains.
    """
    lengths = _axes(graph)
    fixed, times = lengths.matrix()
    dense = read(convert(lengths.full))
    for seed in range(ATTEMPTS):
        designs = _designs(lengths.full, fixed, times, seed)
        models = [dense, *(read(convert(counts)) for counts in designs[1:])]
        found = [_integers(model) for model in models]
        if all(
            f.keys() == found[0].keys() and _wiring(m) == _wiring(dense) for f, m in zip(found, models, strict=True)
        ):
            break
    else:
        raise ConversionError(
            "the .tflite of a narrower network has other operators than that of the whole one, so that its time cannot be told",
            next="give the budget in MACs",
        )
    table = {tuple(fixed[i] + times[i] @ c for c in designs): i for i in reversed(range(len(fixed)))}
    pads = _paddings(models[0])
    sizes = {}
    for place, values in found[0].items():
        if place[0] == "values" and (place[1:] in pads or len({len(f[place]) for f in found}) > 1):
            continue  # how much on which side depends on the channels and not on their number; indices are all made 0
        columns = list(zip(*(f[place] for f in found), strict=False))
        if len(values) and any(len(set(column)) > 1 for column in columns):
            sizes[place] = [_size(column, table, place) for column in columns]
    return Template(models[0], fixed, times, sizes, _operators(models[0])[0])


def _axes(graph: ChannelGraph) -> Lengths:
    """The lengths of all axes of all tensors and weights of a network."""
    lengths = Lengths(graph)
    for call in graph.calls.values():
        for label in (*(t.label for t in call.inputs), *call.outputs, *call.weights.values()):
            for ids in label:
                if ids is not None:
                    lengths.add(ids)
    return lengths


def _designs(full: Counts, fixed: NDArray[np.float64], times: NDArray[np.float64], seed: int) -> list[Counts]:
    """The dense network and narrower ones for which no two different axes have the same lengths in all of them."""
    rng = np.random.default_rng(seed)
    low = np.minimum(full, np.maximum(2, full // 2))
    forms = np.unique(np.column_stack([fixed, times]), axis=0)
    best, most = [full], -1
    for _ in range(TRIES):
        drawn = [full, *(rng.integers(low, full + 1) for _ in range(FILES - 1))]
        seen = {tuple(row[0] + row[1:] @ c for c in drawn) for row in forms}
        if len(seen) > most:
            best, most = drawn, len(seen)
        if most == len(forms):
            break
    return best


def _size(column: Sequence[int], table: dict[tuple[float, ...], int], place: tuple[Any, ...]) -> Size:
    """What an integer that is `column` in the files is made of. Raises ConversionError where nothing explains it."""
    if len(set(column)) == 1:
        return Size(column[0])
    exact = table.get(tuple(map(float, column)))
    if exact is not None:
        return Size(column[0], exact)
    for lengths, row in table.items():
        ratios = {Fraction(c) / Fraction(round(n)) for c, n in zip(column, lengths, strict=True) if n}
        if len(ratios) == 1:
            return Size(column[0], row, ratios.pop())
    raise ConversionError(
        f"a number in the .tflite ({place[0]} of part {place[2]}) is {', '.join(map(str, column))} for different widths, "
        "which no axis of the network explains, so that the time of other widths cannot be told",
        next="give the budget in MACs",
    )


def _integers(model: Any) -> dict[tuple[Any, ...], list[int]]:
    """The integers of a file that may depend on widths, by their place."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for g, graph in enumerate(model.subgraphs):
        for t, tensor in enumerate(graph.tensors):
            found[("shape", g, t)] = [int(d) for d in _list(tensor.shape)]
            data = _data(model, tensor)
            if tensor.type in SHAPES and len(data) and not _scaled(tensor):
                found[("values", g, t)] = np.frombuffer(bytes(data), DTYPES[tensor.type]).tolist()
        for i, op in enumerate(graph.operators):
            for name, value in vars(op.builtinOptions).items() if op.builtinOptions else ():
                if isinstance(value, int) and not isinstance(value, bool):
                    found[("option", g, i, name)] = [value]
                elif isinstance(value, np.ndarray | list) and len(value):
                    found[("option", g, i, name)] = [int(v) for v in value]
    return found


def _paddings(model: Any) -> dict[tuple[int, int], tuple[int, int]]:
    """(graph, tensor) of constant paddings, with the tensors before and after."""
    names = _operators(model)
    return {
        (g, int(op.inputs[1])): (int(op.inputs[0]), int(op.outputs[0]))
        for g, graph in enumerate(model.subgraphs)
        for i, op in enumerate(graph.operators)
        if names[g][i] in PADDING and len(_data(model, graph.tensors[op.inputs[1]]))
    }


def _operators(model: Any) -> list[list[str]]:
    """The names of the operators of each graph."""
    known = {v: k for k, v in vars(schema().BuiltinOperator).items() if not k.startswith("_")}
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    return [[known.get(codes[op.opcodeIndex], "CUSTOM") for op in graph.operators] for graph in model.subgraphs]


def _wiring(model: Any) -> list[Any]:
    """Operators with the numbers of their tensors, of each graph."""
    return [
        [
            (name, *map(int, op.inputs), -2, *map(int, op.outputs))
            for name, op in zip(names, graph.operators, strict=True)
        ]
        for names, graph in zip(_operators(model), model.subgraphs, strict=True)
    ]


def _calls_graph(op: Any) -> bool:
    return any("subgraphindex" in k.lower() for k in (vars(op.builtinOptions) if op.builtinOptions else ()))


def _scaled(tensor: Any) -> bool:
    known = tensor.quantization
    return known is not None and known.scale is not None and len(known.scale) > 0


def _data(model: Any, tensor: Any) -> Any:
    """The bytes of a constant; empty for what is computed."""
    data = model.buffers[tensor.buffer].data
    return () if data is None else data


def _store(model: Any, tensor: Any, values: Any) -> None:
    buffer = schema().BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1


def _added(graph: Any, tensor: Any) -> int:
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _drop_unused(model: Any) -> None:
    """Take out of the first graph the tensors that nothing uses, and the constants that no tensor has."""
    graph = model.subgraphs[0]
    used = sorted({i for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0} | set(graph.inputs))
    _keep(graph, used)
    for i, tensor in enumerate(graph.tensors):
        tensor.name = f"t{i}"
    _drop_buffers(model)


def _keep(graph: Any, used: Sequence[int]) -> None:
    """Number these tensors of a graph in their order; the others go."""
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in used]
    graph.inputs, graph.outputs = ([place[int(i)] for i in ids] for ids in (graph.inputs, graph.outputs))
    for op in graph.operators:
        op.inputs, op.outputs = ([place[int(i)] for i in _list(ids)] for ids in (op.inputs, op.outputs))


def _drop_buffers(model: Any) -> None:
    """Take out the constants that no tensor has."""
    known = {0: 0}
    buffers = [model.buffers[0]]
    for tensor in (t for g in model.subgraphs for t in g.tensors):
        if tensor.buffer not in known:
            known[tensor.buffer] = len(buffers)
            buffers.append(model.buffers[tensor.buffer])
        tensor.buffer = known[tensor.buffer]
    model.buffers = buffers


def _list(values: Any) -> Iterator[Any]:
    return iter(() if values is None else values)


def _plain(value: Any) -> Any:
    return (
        [int(v) for v in value]
        if isinstance(value, np.ndarray | list)
        else int(value)
        if isinstance(value, int)
        else str(value)
    )
