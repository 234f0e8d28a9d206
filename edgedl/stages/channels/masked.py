"""Masked: a network run with one factor for each removable channel, at the places where the channel is read.

With a factor of 0 the network computes what it would without the channel, so that a loss differentiated by the factors,
or a metric under a mask, is that of the pruned network without a network being rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...frameworks import deep, keras, tensorflow
from ..rebuilding import inside
from .call import Call, Traced
from .graph import ChannelGraph
from .units import Ids, Label

Columns = NDArray[np.int64]  # a column of the factors for each entry of an axis; the last column is always 1


@dataclass(frozen=True, slots=True, eq=False)
class Inner:
    """Entries of a weight that read a channel inside a layer, where no factor can be put on a tensor: recurrent kernels,
    projections of attention heads. A factor on the channel is one on these entries."""

    path: str
    index: int  # in layer.weights
    axis: int
    columns: Columns


class Masked:
    """A network whose removable channels each have a factor.

    Called with the inputs in the network's order and factors `[n, channels]` (one row a sample) or `[1, channels]`;
    gives (outputs in the network's order, what the operations `taps` of the outermost network give, by name). `seen` is
    called with (tensor `[n, ...]`, axis, columns) for each tensor just before the factors are put on it. BatchNormalization and Dropout work
    as in inference. The order of the channels is that of `units`.

    Mixed channels (LayerNormalization): the statistic still counts them, with the value they have.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self.graph = graph
        groups = [g.channels for g in graph.prunable]
        self.units: Ids = np.concatenate(groups) if groups else np.zeros(0, np.int64)
        self.column = np.full(len(graph.units.parent), len(self.units), np.int64)
        self.column[self.units] = np.arange(len(self.units))
        self.places = {path: found for path, call in graph.calls.items() if (found := self._places(call))}
        self.inner = tuple(i for call in graph.calls.values() for i in self._inner(call))

    def __len__(self) -> int:
        return len(self.units)

    def of(self, ids: Ids) -> Columns:
        """The column of each entry of an axis."""
        found: Columns = self.column[self.graph.units.roots(ids)]
        return found

    def covered(self) -> NDArray[np.bool_]:
        """`[channels]`: which are read anywhere."""
        found = np.zeros(len(self) + 1, bool)
        for places in self.places.values():
            for columns in (c for place in places for c in place.values()):
                found[columns] = True
        for inner in self.inner:
            found[inner.columns] = True
        return found[:-1]

    def _places(self, call: Call) -> list[dict[int, Columns]]:
        """For each tensor that goes into a call: the axes along which the call reads channels rather than passes them on."""
        kernels = [label for label in call.weights.values() if len(label) > 1]
        mixing = self._times_in(kernels) > 1  # a residual layer makes the channels that it reads
        passed = (self._times_in(call.outputs) > 0) & ~mixing
        once = np.zeros(len(self) + 1, bool)  # of a product of two tensors with the same channels one has the factor
        weighted = self._times_in(kernels) > 0
        found: list[dict[int, Columns]] = []
        for tensor in call.inputs:
            axes: dict[int, Columns] = {}
            for axis, ids in enumerate(tensor.label):
                if ids is not None:
                    columns = self.of(ids)
                    left = passed[columns] | (once[columns] & ~weighted[columns])
                    columns = np.where(left, len(self), columns)
                    if (columns < len(self)).any():
                        axes[axis] = columns
            for columns in axes.values():
                once[columns] = True
            found.append(axes)
        return found if any(found) else []

    def _inner(self, call: Call) -> Iterator[Inner]:
        """Where a layer reads channels that it makes itself: the first axis of a weight that has them twice (but the one
        for what comes in), or, of channels that never leave the layer, the last weight that has them."""
        inside_only = self._times_in((*call.outputs, *(t.label for t in call.inputs))) == 0
        inside_only[-1] = False
        given = self._times_in([t.label for t in call.inputs]) > 0
        last: dict[bytes, Inner] = {}
        for index, label in sorted(call.weights.items()):
            axes = [(axis, self.of(ids)) for axis, ids in enumerate(label) if ids is not None]
            twice = self._times_in([label]) > 1
            twice[-1] = False
            if len(label) < 2 or not axes:
                continue
            axis, columns = axes[0]
            if (twice & ~given)[columns].any():
                yield Inner(call.path, index, axis, np.where((twice & ~given)[columns], columns, len(self)))
            given &= ~twice
            for axis, columns in axes:
                if inside_only[columns].any() and not twice[columns].any():
                    kept = np.where(inside_only[columns], columns, len(self))
                    last[np.unique(kept).tobytes()] = Inner(call.path, index, axis, kept)
        yield from last.values()

    def _times_in(self, labels: Iterable[Label]) -> Columns:
        """`[channels + 1]`: along how many axes each channel lies."""
        found = np.zeros(len(self) + 1, np.int64)
        for label in labels:
            for ids in label:
                if ids is not None:
                    found[np.unique(self.of(ids))] += 1
        return found

    def __call__(
        self, inputs: Sequence[Any], factors: Any, taps: Sequence[str] = (), seen: Any = None
    ) -> tuple[list[Any], dict[str, Any]]:
        tf, k = tensorflow(), keras()
        graph = inside(self.graph.net)
        padded = tf.concat([factors, tf.ones_like(factors[:, :1])], 1)
        structure = k.tree.pack_sequence_as(graph._inputs_struct, list(inputs))
        found: dict[str, Any] = {}
        with deep():
            outputs = self._run(graph, structure, "", (padded, frozenset(taps), found, seen), {})
        return list(k.tree.flatten(outputs)), found

    def _run(self, graph: Any, inputs: Any, prefix: str, state: Any, known: dict[int, str]) -> Any:
        factors, taps, found, seen = state
        tree = keras().tree

        def operation(op: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                path = known.setdefault(id(op), f"{prefix}{op.name}")
                model = inside(op)
                if model is not None:
                    result = self._run(model, args[0] if args else kwargs["inputs"], f"{path}/", state, known)
                else:
                    if path in self.places:
                        args, kwargs = self._factored(path, [list(args), dict(kwargs)], factors, seen)
                    more = {"training": False} if getattr(op, "_call_has_training_arg", False) else {}
                    result = op(*args, **{**kwargs, **more})
                if not prefix and op.name in taps:
                    found[op.name] = tree.flatten(result)[0]
                return result

            return call

        return graph._run_through_graph(inputs, operation_fn=operation)

    def _factored(self, path: str, arguments: Any, factors: Any, seen: Any) -> Any:
        """The arguments of a call with factors on what it reads."""
        call, places = self.graph.calls[path], iter(self.places[path])

        def one(traced: Any, value: Any) -> Any:
            if not isinstance(traced, Traced):
                return value
            for axis, columns in next(places).items():
                if seen is not None:
                    seen(value, axis, columns)
                value = _times(value, axis, columns, factors, traced.shape[0] or 1)
            return value

        return keras().tree.map_structure(one, [list(call.args), dict(call.kwargs)], arguments)


def _times(value: Any, axis: int, columns: Columns, factors: Any, rows: int) -> Any:
    """A tensor times its factors; `rows`: of the tensor for each sample, where a reshape has merged axes into the batch."""
    tf = tensorflow()
    each = tf.cast(tf.gather(factors, columns, axis=1), value.dtype)
    if rows > 1:
        each = tf.repeat(each, rows, axis=0)
    shape = [tf.shape(each)[0]] + [len(columns) if i == axis else 1 for i in range(1, len(value.shape))]
    return value * tf.reshape(each, shape)


def everything(masked: Masked, keep: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Factors `[channels]`: 1 for what `keep` (bool over units) keeps, 0 for the rest; None keeps all."""
    if keep is None:
        return np.ones(len(masked), np.float32)
    factors: NDArray[np.float32] = keep[masked.units].astype(np.float32)
    return factors


def names(net: Any) -> Mapping[str, int]:
    """Place of each input by name, in the network's order."""
    return {tensor.name: i for i, tensor in enumerate(inside(net).inputs)}
