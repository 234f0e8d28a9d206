"""Caffe in: a prototxt and a caffemodel, read without Caffe, as an ONNX graph of standard operators."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...artifact import Array
from ...errors import ModelError, UsageError
from ...model import LoadOptions, Model, shapes_by_name
from .._onnx_build import BATCH, Shape, Unsupported, parse_shape, remaining, unsupported
from .._source import Runner, Source
from ..from_onnx import from_source
from . import (  # noqa: F401  each enters its layer types into LAYERS
    activation,
    convolution,
    detection,
    elementwise,
    normalization,
    reduction,
    resampling,
    reshaping,
)
from .layers import LAYERS, REFUSED, CaffeGraph, FixedBatch
from .net import Layer, Net, build
from .normalization import batch_norm_scale, fuses
from .schema import read_text, read_weights

TEXT, WEIGHTS = ".prototxt", ".caffemodel"


def load_caffe(path: Path, options: LoadOptions = LoadOptions()) -> Model:  # noqa: B008 (frozen)
    """The Keras model of a Caffe network; `path` is its prototxt or its caffemodel.

    Raises what `source` and `from_source` raise.
    """
    found = source(path, options)
    return from_source(found, path, remaining(found.proto, options))


def source(path: Path, options: LoadOptions) -> Source:
    """A Caffe network as ONNX; inputs and outputs have the names and layout (NCHW) of its blobs.

    The batch size is left open where no layer mixes the images of a batch and `options.inputs` does not fix it.
    Raises ModelError (damaged files; every layer that cannot be imported, all at once), UsageError (an input that
    `options.inputs` names does not exist, or needs a shape), MissingDependencyError.
    """
    prototxt, caffemodel = find_files(path, options.weights)
    proto, notes = read_text(prototxt)
    net = build(proto, read_weights(caffemodel), options.end)
    graph, fixed = convert(net, shapes(net, options.inputs), prototxt.name)
    if fixed:
        notes.append("the batch size stays as declared: a layer mixes the images of a batch")
    model = graph.model(net.outputs, f"imported from {prototxt.name} and {caffemodel.name}", options.start)
    runner, name = (None, "") if options.start else reference(net, graph, prototxt, caffemodel)
    return Source(model, "Caffe", runner, name, notes=(*notes, *net.notes))


def find_files(path: Path, weights: str = "") -> tuple[Path, Path]:
    """The prototxt and the caffemodel, one of which is `path`: the other has the same stem or is alone in its folder.

    Raises ModelError.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}", next="check the path")
    if weights:
        other = Path(weights)
        if not other.is_file():
            raise ModelError(f"there is no file {other}", next="check the path of the weights")
        return (path, other) if path.suffix == TEXT or other.suffix == WEIGHTS else (other, path)
    wanted = WEIGHTS if path.suffix == TEXT else TEXT
    same = path.with_suffix(wanted)
    found = [same] if same.is_file() else sorted(p for p in path.parent.iterdir() if p.suffix == wanted and p.is_file())
    if len(found) != 1:
        which = f"{len(found)} files there could be it" if found else "there is none"
        raise ModelError(
            f"{path.name} needs its {wanted} file beside it, and {which}",
            next=f"call it {same.name}, or name it with --weights",
        )
    return (path, found[0]) if path.suffix == TEXT else (found[0], path)


def shapes(net: Net, given: Mapping[str, str]) -> dict[str, tuple[Shape, str]]:
    """Shape and dtype of every input: as the user gave it, or as declared with an open batch. Raises UsageError."""
    given = shapes_by_name(given, list(net.inputs))
    unknown = [name for name in given if name not in net.inputs]
    if unknown:
        raise UsageError(
            f"the network has no input '{unknown[0]}'", next=f"its inputs are {', '.join(map(repr, net.inputs))}"
        )
    missing = [name for name, shape in net.inputs.items() if shape is None and name not in given]
    if missing:
        raise UsageError(
            f"the prototxt does not say which shape the input '{missing[0]}' has",
            next=f"give it with --input {missing[0]}=1x3x224x224",
        )
    found: dict[str, tuple[Shape, str]] = {}
    for name, shape in net.inputs.items():
        found[name] = parse_shape(name, given[name]) if name in given else ((BATCH, *(shape or ())[1:]), "float32")
        loose = [d for d in found[name][0][1:] if not isinstance(d, int)]
        if loose or found[name][1] != "float32":
            raise UsageError(
                f"the input '{name}' is {given[name]}, and Caffe layers need float32 and fixed sizes behind the batch",
                next=f"give it like {name}=?x3x224x224",
            )
    return found


def convert(net: Net, given: Mapping[str, tuple[Shape, str]], title: str) -> tuple[CaffeGraph, bool]:
    """The graph, and whether its batch size had to be fixed. Raises ModelError."""
    try:
        return _convert(net, given, title), False
    except FixedBatch:
        fixed = {name: ((_batch(net, name), *shape[1:]), dtype) for name, (shape, dtype) in given.items()}
        return _convert(net, fixed, title), True


def _batch(net: Net, name: str) -> int:
    return (net.inputs[name] or (1,))[0]


def _convert(net: Net, given: Mapping[str, tuple[Shape, str]], title: str) -> CaffeGraph:
    g = CaffeGraph(net.name, batch=max((_batch(net, name) for name in net.inputs), default=1))
    g.reserved = {top for layer in net.layers for top in layer.tops}
    for name, (shape, dtype) in given.items():
        open_batch = shape[:1] and not isinstance(shape[0], int)
        g.input(name, (BATCH, *shape[1:]) if open_batch else shape, dtype)
    problems: dict[str, str] = {}
    scales = _scales(net)
    skipped = {id(scale) for scale in scales.values()}
    for layer in net.layers:
        if layer.type not in LAYERS:
            problems[layer.label] = REFUSED.get(layer.type, "this layer type is not known")
        elif id(layer) not in skipped and all(b in g.types for b in layer.bottoms):
            try:
                _build(g, layer, scales.get(layer.tops[0]) if layer.tops else None)
            except Unsupported as error:
                problems[layer.label] = str(error)
    if problems:
        raise unsupported(
            title, problems, next="replace these layers in the prototxt, or end the model before them (--to TENSOR)"
        )
    return g


def _build(g: CaffeGraph, layer: Layer, scale: Layer | None) -> None:
    if scale is not None and len(layer.bottoms) == 1:
        batch_norm_scale(g, layer, scale, layer.bottoms[0])
    else:
        LAYERS[layer.type](g, layer, layer.bottoms)


def _scales(net: Net) -> dict[str, Layer]:
    """The Scale layers that become part of the BatchNorm before them, by the value that the BatchNorm makes."""
    readers: dict[str, list[Layer]] = {}
    for layer in net.layers:
        for bottom in layer.bottoms:
            readers.setdefault(bottom, []).append(layer)
    found = {}
    for layer in net.layers:
        after = readers.get(layer.tops[0], []) if len(layer.tops) == 1 else []
        if len(after) == 1 and layer.tops[0] not in net.outputs and fuses(layer, after[0]):
            found[layer.tops[0]] = after[0]
    return found


def reference(net: Net, graph: CaffeGraph, prototxt: Path, caffemodel: Path) -> tuple[Runner | None, str]:
    """The network in OpenCV, and its version.

    None where OpenCV is missing, dropped Caffe (5.0), cannot read or run the network, makes outputs of other shapes,
    or is known to compute a layer in another way than Caffe (`_differs`).
    """
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError:
        return None, ""
    if not hasattr(cv2.dnn, "readNetFromCaffe") or any(_differs(layer) for layer in net.layers):
        return None, ""
    sizes = {i.name: [d if isinstance(d, int) else 1 for d in graph.shape(i.name)] for i in graph.inputs}
    wanted = {name: tuple(d if isinstance(d, int) else 1 for d in graph.shape(name)) for name in net.outputs}
    try:
        runner = _Runner(cv2.dnn.readNetFromCaffe(str(prototxt), str(caffemodel)), net, graph)
        found = runner.run({name: np.zeros(shape, np.float32) for name, shape in sizes.items()})
    except (cv2.error, KeyError):
        return None, ""
    if any(found[name].shape != shape for name, shape in wanted.items()):
        return None, ""
    return runner.run, f"OpenCV {cv2.__version__}"


def _differs(layer: Layer) -> bool:
    """Whether OpenCV 4 computes a layer in another way than Caffe does."""
    if layer.type == "MVN":  # eps inside of the root
        return True
    p = layer.spec.lrn_param
    return layer.type == "LRN" and (p.norm_region == 1 or p.k != 1)  # another average; k is not read


class _Runner:
    """A network of cv2.dnn, called with arrays by name; raises KeyError for an output that no layer of it makes."""

    def __init__(self, network: Any, net: Net, graph: CaffeGraph) -> None:
        known = set(network.getLayerNames())
        self.network = network
        self.tops = {layer.name: layer.tops for layer in net.layers if layer.name in known}
        self.layers = sorted({net.producers[name] for name in net.outputs})
        self.outputs = {name: graph.is_open(name) for name in net.outputs}
        written = any(layer.type == "Reshape" for layer in net.layers)  # the batch size may be a number in it
        self.step = graph.batch if written and all(graph.is_open(i.name) for i in graph.inputs) else 0

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays by input name -> arrays by output name; by the declared batch size where the network depends on it."""
        n = len(next(iter(inputs.values())))
        if not self.step or n == self.step:
            return self._once(inputs)
        rest = -n % self.step
        padded = {k: np.concatenate([v, np.zeros((rest, *v.shape[1:]), v.dtype)]) for k, v in inputs.items()}
        starts = range(0, n, self.step)
        parts = [self._once({k: v[i : i + self.step] for k, v in padded.items()}) for i in starts]
        whole = {k: np.concatenate([part[k] for part in parts])[:n] for k, is_open in self.outputs.items() if is_open}
        return {k: whole[k] if k in whole else parts[0][k] for k in self.outputs}

    def _once(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        for name, value in inputs.items():
            self.network.setInput(np.ascontiguousarray(value, np.float32), name)
        found = zip(self.layers, self.network.forwardAndRetrieve(self.layers), strict=True)
        values = {top: v for name, vs in found for top, v in zip(self.tops[name], vs, strict=False)}
        return {name: np.array(values[name]) for name in self.outputs}
