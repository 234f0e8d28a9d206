"""A Keras network made anew operation by operation, so that a stage can change it without touching the one it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import UsageError
from ..frameworks import deep, keras

Make = Callable[[Any, str], Callable[..., Any]]  # an operation and its path -> what is called in its place


def inside(op: Any) -> Any:
    """The functional network behind a model (Sequential or Functional) that is used as a layer, or None."""
    if isinstance(op, keras().Sequential):
        return op._functional
    return op if hasattr(op, "operations") and hasattr(op, "_run_through_graph") else None


def leaves(net: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, operation) of every operation that is no model itself, once each; "outer/inner" inside a model."""
    for op in (inside(net) or net).operations:
        if inside(op) is None:
            yield f"{prefix}{op.name}", op
        else:
            yield from leaves(op, f"{prefix}{op.name}/")


def copied(op: Any, path: str = "") -> Any:
    """A new operation with the same configuration and no weights yet. Raises UsageError where its class cannot do that."""
    try:
        return type(op).from_config(op.get_config())
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UsageError(
            f"{path or op.name} ({type(op).__name__}) cannot be made anew from its configuration: "
            f"{str(error).strip().splitlines()[0]}",
            next="give its class a get_config() and a from_config() that belong together",
        ) from error


Shapes = Callable[[str], Sequence[Any] | None]  # path of a model inside -> shapes of its inputs; None: as they are


def rebuild(net: Any, make: Make = copied, shapes: Shapes = lambda path: None) -> Any:
    """A functional model with the graph of `net`, each operation replaced by what `make` gives; weights are not set.

    `make` is called once for an operation, however often it is called, and never for models inside, which are rebuilt
    for inputs of the `shapes` after their path.
    """
    with deep():
        return _rebuilt(net, make, shapes, "", {})


def _rebuilt(net: Any, make: Make, shapes: Shapes, prefix: str, known: dict[int, Any]) -> Any:
    k, graph = keras(), inside(net)
    given = k.tree.flatten(graph._inputs_struct)
    sizes = shapes(prefix.rstrip("/")) or [t.shape for t in given]
    made = [k.Input(batch_shape=s, dtype=t.dtype, name=t.name) for t, s in zip(given, sizes, strict=True)]
    inputs = k.tree.pack_sequence_as(graph._inputs_struct, made)

    def operation(op: Any) -> Any:
        if id(op) not in known:
            path = f"{prefix}{op.name}"
            known[id(op)] = make(op, path) if inside(op) is None else _rebuilt(op, make, shapes, f"{path}/", known)
        return known[id(op)]

    outputs = graph._run_through_graph(inputs, operation_fn=operation)
    return k.Model(inputs, outputs, name=net.name)


def weighted(net: Any) -> dict[str, Any]:
    """Path -> layer, of every layer that has weights."""
    return {path: op for path, op in leaves(net) if getattr(op, "weights", None)}


def clone(net: Any) -> Any:
    """A copy of a network with the same weights, names and trainable flags; nothing is shared with the original."""
    copy = rebuild(net)
    twins = weighted(copy)
    for path, layer in weighted(net).items():
        twins[path].set_weights(layer.get_weights())
        twins[path].trainable = layer.trainable
    return copy


def tapped(net: Any, names: Sequence[str]) -> Any:
    """A model of the same weights whose outputs are those of `net` in a list, then what the layers `names` give.

    `names` are of the outermost network's operations. Raises KeyError for one that is not there.
    """
    graph = inside(net)
    by_name = {op.name: op for op in graph.operations}
    with deep():
        found = [keras().tree.flatten(by_name[name]._inbound_nodes[0].output_tensors)[0] for name in names]
        return keras().Model(graph.inputs, [*graph.outputs, *found])
