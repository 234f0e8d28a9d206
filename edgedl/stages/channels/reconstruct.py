"""reconstruct(): kernels of a pruned network fitted anew, so that each layer gives what it gave before, as well as it can.

Least squares on a few hundred inputs, layer by layer in the order of the network, each on what really reaches it after
the layers before it were fitted (He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV
2017; Luo, Wu and Lin, "ThiNet", ICCV 2017). No gradient, no labels, one pass over either network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ...artifact import Array
from ...frameworks import deep, keras, tensorflow
from ..rebuilding import inside, leaves
from .graph import ChannelGraph
from .shrink import Mask

ROWS = 8192  # places of a layer's output at which it is fitted, at most
RIDGE = 1e-3  # of the mean diagonal of the Gram matrix: how strongly the kernel is drawn to the one that was there
MOST_BYTES = 1 << 30  # of all activations of one pass
LARGEST = 4608  # entries that an output reads; larger layers keep the kernel they have
FITTED = ("Dense", "Conv1D", "Conv2D", "Conv3D")

Hook = Callable[[Any, str, Any], None]  # (operation, path, its first input), before it is called
After = Callable[
    [Any, str, Any, Any], Any
]  # (operation, path, its first input, its result) -> the result to go on with


def reconstruct(
    graph: ChannelGraph, keep: Mask, net: Any, inputs: Sequence[Array]
) -> Mapping[str, tuple[float, float]]:
    """Fit the kernels of `net`, which `shrink(graph, keep)` made, in place.

    `inputs`: of the network, in its order, `[n, ...]`; as many are used as fit into memory. Returns by layer the error
    of its output before and after, relative to the output's own variance.
    """
    feed = fitting_feed(graph, inputs)
    wanted: dict[str, Array] = {}
    paths = fitted_layers(graph, keep)
    run(graph.net, feed, lambda op, path, x: wanted.__setitem__(path, _target(op, x)) if path in paths else None)
    fitting = _Fitting(graph, keep, wanted, _normalized(net))
    run(net, feed, fitting.before, fitting.after)
    return fitting.errors


def _normalized(net: Any) -> frozenset[int]:
    """The operations whose only reader is a BatchNormalization, which can take up a change of their mean."""
    kind = keras().layers.BatchNormalization
    found = set()
    for _, op in leaves(net):
        nodes = op._inbound_nodes
        if isinstance(op, kind) and len(nodes) == 1:
            made = nodes[0].input_tensors[0]._keras_history.operation
            if len(made._outbound_nodes) == 1:
                found.add(id(made))
    return frozenset(found)


class _Fitting:
    """Hooks of the pass over the smaller network: each layer is fitted just before it is called.

    The mean of a layer without a bias moves with the moving mean of the normalization after it; its variance stays what
    it was, so that what the fit has shrunk towards the mean for want of information stays small.
    """

    def __init__(self, graph: ChannelGraph, keep: Mask, wanted: dict[str, Array], normalized: frozenset[int]) -> None:
        self.graph, self.keep, self.wanted, self.normalized = graph, keep, wanted, normalized
        self.errors: dict[str, tuple[float, float]] = {}
        self.moved: dict[str, Array] = {}  # by path: how the mean of a layer without a bias has changed
        self.reading: dict[int, Array] = {}  # the same by the tensor that it gave

    def before(self, op: Any, path: str, x: Any) -> None:
        if path in self.wanted:
            wanted = self.wanted.pop(path)[:, _kept_outputs(self.graph, self.keep, path)]
            free = op.bias is not None or id(op) in self.normalized
            self.errors[path], moved = _fit(op, x, wanted, free)
            if op.bias is None and free:
                self.moved[path] = moved
        elif id(x) in self.reading:
            op.moving_mean.assign_add(self.reading.pop(id(x)))

    def after(self, op: Any, path: str, x: Any, result: Any) -> Any:
        if path in self.moved:
            self.reading[id(result)] = self.moved.pop(path)
        return result


def fitting_feed(graph: ChannelGraph, inputs: Sequence[Array]) -> list[Any]:
    """As many of the inputs as a pass that keeps all activations has room for, at least 8, as tensors.

    A network that insists on its batch gets one such batch.
    """
    count = min(len(inputs[0]), max(8, int(MOST_BYTES // max(activation_bytes(graph), 1))))
    index = np.resize(np.arange(len(inputs[0])), graph.net.inputs[0].shape[0] or count)
    return [tensorflow().convert_to_tensor(np.asarray(x[index])) for x in inputs]


def activation_bytes(graph: ChannelGraph) -> float:
    """Of all activations of one input, float32."""
    return 4 * sum(t.coefficient * float(np.prod([len(a) for a in t.axes])) for t in graph.terms if t.kind == "memory")


def fitted_layers(graph: ChannelGraph, keep: Mask) -> frozenset[str]:
    """Paths of the layers that read fewer channels than before, are called once, and mix all of them."""
    terms: dict[str, int] = {}
    for term in graph.terms:
        if term.kind == "memory":
            terms[term.path] = terms.get(term.path, 0) + 1
    found = set()
    for path, call in graph.calls.items():
        if type(call.op).__name__ not in FITTED or terms.get(path) != 1 or getattr(call.op, "groups", 1) != 1:
            continue
        read = call.weights[kernel_index(call.op)][-2]
        if read is None or graph.kept(keep, read).all():
            continue
        if int(graph.kept(keep, read).sum()) * prod(call.op.kernel.shape[:-2]) <= LARGEST:
            found.add(path)
    return frozenset(found)


def kernel_index(op: Any) -> int:
    return next(i for i, w in enumerate(op.weights) if w is op.kernel)


def _kept_outputs(graph: ChannelGraph, keep: Mask, path: str) -> Array:
    call = graph.calls[path]
    out = call.weights[kernel_index(call.op)][-1]
    return np.ones(call.op.kernel.shape[-1], bool) if out is None else graph.kept(keep, out)


def run(net: Any, feed: Sequence[Any], before: Hook | None, after: After | None = None) -> Any:
    """Run a network operation by operation on real tensors, as in inference; returns its outputs.

    `before(op, path, first input)` sees each operation before it is called; `after(op, path, first input, result)` gives
    what is used as its result.
    """
    with deep():
        graph = inside(net)
        return _run(graph, keras().tree.pack_sequence_as(graph._inputs_struct, list(feed)), "", before, after)


def _run(graph: Any, inputs: Any, prefix: str, before: Hook | None, after: After | None) -> Any:
    def operation(op: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            path = f"{prefix}{op.name}"
            model = inside(op)
            if model is not None:
                return _run(model, args[0], f"{path}/", before, after)
            first = args[0] if args else None
            if before is not None:
                before(op, path, first)
            result = op(*args, **kwargs)
            return result if after is None else after(op, path, first, result)

        return call

    return graph._run_through_graph(inputs, operation_fn=operation)


def gram_rows(op: Any, x: Any) -> Array:
    """What a layer reads at each place of its output, `[places, entries of the kernel but the last axis]`, at most ROWS.

    Places are drawn by the number there are, so that the whole and the smaller network are seen at the same ones.
    """
    tf = tensorflow()
    if type(op).__name__ == "Dense":
        rows = tf.reshape(x, (-1, x.shape[-1]))
        return np.asarray(tf.gather(rows, _drawn(int(rows.shape[0]))))
    if op.data_format == "channels_first":
        x = tf.transpose(x, (0, *range(2, x.shape.rank), 1))
    return _windows(op, np.asarray(x))


def _drawn(total: int) -> Array:
    """Indices of the places that are looked at."""
    if total <= ROWS:
        return np.arange(total)
    return np.sort(np.random.default_rng(total).choice(total, ROWS, replace=False))


def _windows(op: Any, x: Array) -> Array:
    """Windows of a convolution over `x` `[n, places..., channels]` at drawn places, entries in the kernel's order."""
    axes = list(zip(x.shape[1:-1], op.kernel.shape[:-2], op.strides, op.dilation_rate, strict=True))
    sizes, before = zip(*(_reach(op.padding, *axis) for axis in axes), strict=True)
    image, *places = np.unravel_index(_drawn(len(x) * int(np.prod(sizes))), (len(x), *sizes))
    parts = []
    for tap in np.ndindex(*op.kernel.shape[:-2]):
        inside_all = np.ones(len(image), bool)
        at = []
        for place, step, (size, _, stride, dilation), start in zip(places, tap, axes, before, strict=True):
            index = place * stride + step * dilation - start
            inside_all &= (index >= 0) & (index < size)
            at.append(np.clip(index, 0, size - 1))
        parts.append(x[(image, *at)] * inside_all[:, None])
    return np.concatenate(parts, axis=1)


def _reach(padding: str, size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(places, padding before) of a convolution along one axis.

    >>> _reach("same", 32, 3, 2, 1), _reach("valid", 32, 3, 2, 1), _reach("causal", 8, 3, 1, 2)
    ((16, 0), (15, 0), (8, 4))
    """
    reach = (kernel - 1) * dilation + 1
    if padding == "valid":
        return (size - reach) // stride + 1, 0
    places = -(-size // stride)
    if padding == "causal":
        return (size - 1) // stride + 1, reach - 1
    return places, max((places - 1) * stride + reach - size, 0) // 2


def _target(op: Any, x: Any) -> Array:
    """A layer's output before its activation at the fitted places, float64 `[places, filters]`."""
    rows = gram_rows(op, x).astype(np.float64)
    kernel = np.asarray(op.kernel, np.float64)
    found: Array = rows @ kernel.reshape(-1, kernel.shape[-1])
    return found if op.bias is None else found + np.asarray(op.bias, np.float64)


def _fit(op: Any, x: Any, wanted: Array, free: bool) -> tuple[tuple[float, float], Array]:
    """Set the kernel (and bias) that give `wanted` best; `free`: what follows, or the bias, makes up for the mean.

    Returns the relative error before and after, and by how much the mean of the output lies above the wanted one.
    """
    rows = gram_rows(op, x).astype(np.float64)
    kernel = np.asarray(op.kernel, np.float64)
    old = kernel.reshape(-1, kernel.shape[-1])
    mean_in, mean_out = (v.mean(0) if free else np.zeros(v.shape[1]) for v in (rows, wanted))
    centred = rows - mean_in
    rest = wanted - mean_out - centred @ old
    gram = centred.T @ centred
    ridge = RIDGE * max(np.trace(gram) / len(gram), 1e-12)
    new = old + np.linalg.solve(gram + ridge * np.eye(len(gram)), centred.T @ rest)
    op.kernel.assign(new.reshape(kernel.shape).astype(np.float32))
    if op.bias is not None:
        op.bias.assign((mean_out - mean_in @ new).astype(np.float32))
    spread = max(float(((wanted - wanted.mean(0)) ** 2).sum()), 1e-12)
    after = wanted - mean_out - centred @ new
    errors = float((rest**2).sum()) / spread, float((after**2).sum()) / spread
    return errors, (mean_in @ new - mean_out).astype(np.float32)
