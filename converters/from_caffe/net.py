"""A Caffe network as a plain list of the layers that run in the TEST phase, with every blob written only once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError
from .._onnx_build import MAX_NUMEL, text

V1_TYPES = {  # where CamelCase of the old name is not the new name
    "ABSVAL": "AbsVal", "ARGMAX": "ArgMax", "BNLL": "BNLL", "LRN": "LRN", "MVN": "MVN", "RELU": "ReLU", "TANH": "TanH",
    "SOFTMAX_LOSS": "SoftmaxWithLoss", "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output",
}  # fmt: skip
DATA = frozenset(
    {"Data", "ImageData", "MemoryData", "HDF5Data", "WindowData", "AnnotatedData", "VideoData", "DummyData"}
    | {"DenseImageData", "ImageSegData", "HDF5DataMulti"}
)
ACTIVATION = {"SoftmaxWithLoss": "Softmax", "SigmoidCrossEntropyLoss": "Sigmoid"}  # what the loss does to its input
SINKS = frozenset({"Accuracy", "HDF5Output", "DetectionEvaluate"})


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: `bottoms` and `tops` are names of values that are written once; `spec` holds its parameters."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    spec: Any
    blobs: tuple[Array, ...] = ()

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.name} ({self.type})"

    def weight(self, index: int, shape: Sequence[int]) -> Array:
        """Blob `index`, float32, in `shape`. Raises ModelError where it has another size."""
        what = f"the weights of layer {self.label}"
        if index >= len(self.blobs):
            raise ModelError(
                f"{what} are not complete: blob {index} of shape {text(shape)} is missing",
                next="check that the prototxt and the caffemodel belong together",
            )
        blob = self.blobs[index]
        same = tuple(d for d in blob.shape if d != 1) == tuple(d for d in shape if d != 1)
        if not same and (blob.size != math.prod(shape) or blob.shape[:1] != tuple(shape[:1])):
            raise ModelError(
                f"{what} do not fit: blob {index} has shape {text(blob.shape)}, and {text(shape)} is needed",
                next="check that the prototxt and the caffemodel belong together",
            )
        return blob.reshape(tuple(shape))


@dataclass(frozen=True, slots=True)
class Net:
    """Layers in the order they run. `inputs` maps a blob to its declared shape, None where nothing declares it."""

    name: str
    inputs: Mapping[str, tuple[int, ...] | None]
    layers: tuple[Layer, ...]
    outputs: tuple[str, ...]
    producers: Mapping[str, str] = field(default_factory=dict)  # output -> the layer that wrote it
    notes: tuple[str, ...] = ()


def build(proto: Any, weights: Mapping[str, Any], end: Sequence[str] = ()) -> Net:
    """The network of a NetParameter with its weights. Raises ModelError."""
    layers = [layer for layer in _layers(proto) if _runs(layer.spec, proto.state)]
    inputs, rest = _split_inputs(proto, layers)
    rest, notes = _without_training(rest, dead=_labels(layers))
    layers, outputs = _single_assignment(rest, inputs)
    if end:
        outputs = _checked_end(end, layers)
    kept = _needed(layers, outputs)
    if not outputs:
        raise ModelError("the network has no output", next="check the prototxt: it has no layers that run in TEST")
    _refuse_unnamed(kept)
    kept = [replace(layer, blobs=_arrays(layer, weights.get(layer.name, ()))) for layer in kept]
    used = {b for layer in kept for b in layer.bottoms} | set(outputs)
    producers = {top: layer.name for layer in kept for top in layer.tops}
    return Net(
        proto.name or "net",
        {k: v for k, v in inputs.items() if k in used},
        tuple(kept),
        tuple(outputs),
        {o: producers[o] for o in outputs if o in producers},
        tuple(notes),
    )


def _layers(proto: Any) -> list[Layer]:
    if proto.layer and proto.layers:
        raise ModelError(
            "the network mixes `layer` and `layers`", next="upgrade it with Caffe's upgrade_net_proto_text"
        )
    if any(spec.HasField("layer") for spec in proto.layers):
        raise ModelError(
            "the network is written in the first form of Caffe's format (V0, `layers { layer {` )",
            next="upgrade it with Caffe's upgrade_net_proto_text and upgrade_net_proto_binary",
        )
    new = [Layer(s.name, s.type, tuple(s.bottom), tuple(s.top), s) for s in proto.layer]
    return new or [Layer(s.name, _v1_type(s), tuple(s.bottom), tuple(s.top), s) for s in proto.layers]


def _v1_type(spec: Any) -> str:
    """The name that an old layer type (`type: INNER_PRODUCT`) has now."""
    name = spec.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[spec.type].name
    return V1_TYPES.get(name) or "".join(part.capitalize() for part in name.split("_"))


def _runs(spec: Any, state: Any) -> bool:
    """Whether a layer is part of the TEST network, by its include and exclude rules (`Net::FilterNet`)."""
    if spec.include:
        return any(_meets(rule, state) for rule in spec.include)
    return not any(_meets(rule, state) for rule in spec.exclude)


def _meets(rule: Any, state: Any) -> bool:
    return (
        (not rule.HasField("phase") or rule.phase == 1)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and all(s in state.stage for s in rule.stage)
        and not any(s in state.stage for s in rule.not_stage)
    )


def _split_inputs(proto: Any, layers: Sequence[Layer]) -> tuple[dict[str, tuple[int, ...] | None], list[Layer]]:
    """Inputs with their declared shapes, and the layers that are not inputs."""
    found: dict[str, tuple[int, ...] | None] = dict.fromkeys(proto.input)
    if proto.input_shape:
        found.update(zip(proto.input, (tuple(s.dim) for s in proto.input_shape), strict=False))
    elif proto.input_dim:
        dims = tuple(proto.input_dim)
        found.update(zip(proto.input, (dims[i : i + 4] for i in range(0, len(dims), 4)), strict=False))
    rest = []
    for layer in layers:
        if layer.type == "Input":
            shapes: list[tuple[int, ...] | None] = [tuple(s.dim) for s in layer.spec.input_param.shape] or [None]
            shapes *= len(layer.tops) if len(shapes) == 1 else 1
            found.update(dict(zip(layer.tops, shapes, strict=False)))
        elif layer.type in DATA:
            if layer.tops:
                found[layer.tops[0]] = _data_shape(layer)
        else:
            rest.append(layer)
    for name, shape in found.items():
        if shape is not None and (not shape or not all(0 < d < MAX_NUMEL for d in shape) or len(shape) > 8):
            raise ModelError(f"the input '{name}' has the impossible shape {text(shape)}", next="correct the prototxt")
    if not found:
        raise ModelError("the network has no input", next="check the prototxt: it has no Input or data layer for TEST")
    return found, rest


def _data_shape(layer: Layer) -> tuple[int, ...] | None:
    """What a data layer says of its shape: only MemoryData says all."""
    if layer.type != "MemoryData":
        return None
    p = layer.spec.memory_data_param
    return (p.batch_size, p.channels, p.height, p.width)


def _labels(layers: Iterable[Layer]) -> set[str]:
    return {top for layer in layers if layer.type in DATA for top in layer.tops[1:]}


def _without_training(layers: Sequence[Layer], dead: set[str]) -> tuple[list[Layer], list[str]]:
    """The layers without losses, metrics and what is computed from labels (`dead`).

    A loss that applies a softmax or a sigmoid leaves this behind, where the network has none of its own.
    """
    dead = set(dead)
    kept: list[Layer] = []
    notes: list[str] = []
    names = {top for layer in layers for top in layer.tops}
    for layer in layers:
        if layer.type in ACTIVATION and layer.bottoms:
            kind = ACTIVATION[layer.type]
            if not any(other.type == kind and other.bottoms == layer.bottoms[:1] for other in layers):
                top = "prob" if "prob" not in names else f"{layer.name}_prob"
                names.add(top)
                kept.append(replace(layer, name=top, type=kind, bottoms=layer.bottoms[:1], tops=(top,)))
                notes.append(f"the loss '{layer.name}' became the output '{top}' ({kind})")
        elif layer.type in SINKS or layer.type.endswith("Loss") or dead.intersection(layer.bottoms):
            dead.update(layer.tops)
        else:
            kept.append(layer)
    return kept, notes


def _single_assignment(layers: Sequence[Layer], inputs: Mapping[str, Any]) -> tuple[list[Layer], list[str]]:
    """Layers whose tops have names of their own; the last value of a blob keeps the blob's name, as do inputs.

    Also the outputs: the blobs that nobody reads.
    """
    left = Counter(top for layer in layers for top in layer.tops)
    current = {name: name for name in inputs}
    unread = dict.fromkeys(inputs)
    used = set(inputs) | set(left)
    made = []
    for layer in layers:
        unknown = [b for b in layer.bottoms if b not in current]
        if unknown:
            raise ModelError(
                f"layer {layer.label} reads '{unknown[0]}', which no layer before it makes in the TEST phase",
                next="check the prototxt; an inference network (deploy.prototxt) is what is needed",
            )
        again = [top for top in layer.tops if top in current and top not in layer.bottoms]
        if again or len(set(layer.tops)) != len(layer.tops):
            raise ModelError(
                f"layer {layer.label} writes '{(again or layer.tops)[0]}', which is written already",
                next="correct the prototxt: only a layer that reads a blob may write it again",
            )
        bottoms = tuple(current[b] for b in layer.bottoms)
        for blob in layer.bottoms:
            unread.pop(blob, None)
        tops = []
        for top in layer.tops:
            left[top] -= 1
            current[top] = _fresh(f"{top}/{layer.name}", used) if left[top] or top in inputs else top
            unread[top] = None
            tops.append(current[top])
        made.append(replace(layer, bottoms=bottoms, tops=tuple(tops)))
    outputs = [current[blob] for blob in unread if blob not in inputs or current[blob] != blob]
    return made, outputs


def _fresh(name: str, used: set[str]) -> str:
    while name in used:
        name += "_"
    used.add(name)
    return name


def _checked_end(end: Sequence[str], layers: Sequence[Layer]) -> list[str]:
    tops = {top for layer in layers for top in layer.tops}
    unknown = [name for name in end if name not in tops]
    if unknown:
        raise ModelError(f"the network has no blob '{unknown[0]}' to end at", next="name a `top` of the prototxt")
    return list(end)


def _needed(layers: Sequence[Layer], outputs: Sequence[str]) -> list[Layer]:
    needed = set(outputs)
    kept = []
    for layer in reversed(layers):
        if needed.intersection(layer.tops):
            kept.append(layer)
            needed.update(layer.bottoms)
    return kept[::-1]


def _refuse_unnamed(layers: Sequence[Layer]) -> None:
    again = [name for name, n in Counter(layer.name for layer in layers).items() if n > 1]
    if again:
        raise ModelError(
            f"{len(again)} layer names are used twice, such as '{again[0]}': their weights cannot be told apart",
            next="give every layer of the prototxt a name of its own",
        )


def _arrays(layer: Layer, blobs: Sequence[Any]) -> tuple[Array, ...]:
    return tuple(_array(blob, f"blob {i} of layer {layer.label}") for i, blob in enumerate(blobs))


def _array(blob: Any, what: str) -> Array:
    """A BlobProto as float32. Raises ModelError where its data are not what its shape says."""
    if blob.HasField("shape"):
        shape = tuple(blob.shape.dim)
    elif any(blob.HasField(n) for n in ("num", "channels", "height", "width")):
        shape = (blob.num, blob.channels, blob.height, blob.width)
    else:
        shape = ()
    kind, raw = "<f4", b"".join(blob.data)
    if not raw and blob.double_data:
        kind, raw = "<f8", b"".join(blob.double_data)
    elif not raw:
        kind, raw = {0: "<f8", 1: "<f4", 2: "<f2"}.get(blob.raw_data_type, "<f4"), blob.raw_data
    size = np.dtype(kind).itemsize
    if any(d < 0 for d in shape) or math.prod(shape) * size != len(raw):
        raise ModelError(
            f"{what} is damaged: it says {text(shape) or 'one value'} and holds {len(raw) / size:g} values",
            next="copy or download the caffemodel again",
        )
    return np.frombuffer(raw, kind).astype(np.float32).reshape(shape)
