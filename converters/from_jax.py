"""JAX and Flax in: a function with a file of its parameters, traced and written as an ONNX graph, and so as Keras."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import user_code
from ..artifact import Array
from ..errors import MissingDependencyError, ModelError, UsageError
from ..model import LoadOptions, Model
from . import _jax_files, _jaxpr
from ._onnx import last_line
from ._source import Source
from ._torch_inputs import Input, fixed, read_inputs

SHOWN = 40  # names in one message
FIXED = "the batch is fixed at 1, because the function does not trace with an open one: {reason}"


def load_jax(path: Path, options: LoadOptions | None = None) -> Model:
    """A .npz or .msgpack of parameters with its function (`options.module`) as a Keras model that computes the same.

    Raises ModelError (every primitive that is not known, all at once; parameters that do not fit), UsageError (the
    function or a shape is missing), VerificationError, MissingDependencyError.
    """
    from .from_onnx import from_source

    options = options or LoadOptions()
    return from_source(source(path, options), path, options)


def source(path: Path, options: LoadOptions) -> Source:
    """The ONNX graph of a function with its parameters, with jax itself as its reference. Raises as `load_jax` does."""
    jax = _jax()
    if not options.module:
        raise UsageError(
            f"{path.name} holds parameters and no function",
            next="add --module MODULE:CALLABLE, which returns (function, parameters), or the function of (parameters, *inputs)",
        )
    arrays = _jax_files.read(path)
    function, parameters = _function(options.module, arrays, path)
    inputs = read_inputs(options.inputs, *_arguments(function, options), path.name)
    names = [one.name for one in inputs]

    def flat(*tensors: Any) -> tuple[Any, ...]:
        return tuple(_named(jax, function(parameters, *tensors), names).values())

    proto, notes = _traced(jax, flat, lambda *x: _named(jax, function(parameters, *x), names), inputs)
    run = jax.jit(flat)
    outputs = [o.name for o in proto.graph.output]

    def reference(given: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(outputs, map(np.asarray, run(*(given[name] for name in names))), strict=True))

    how = f"jax {jax.__version__}"
    return Source(proto, f"JAX {jax.__version__} ({options.module})", reference, how, notes=notes)


def _jax() -> Any:
    try:
        importlib.import_module("jax.export")
        return importlib.import_module("jax")
    except ImportError as error:
        raise MissingDependencyError(
            f"reading JAX models needs jax, which cannot be imported here ({error})", next="pip install 'edgedl[jax]'"
        ) from error


def _function(module: str, arrays: Mapping[str, Array], path: Path) -> tuple[Callable[..., Any], Any]:
    """The user's function, and the parameters of the file in the structure that it wants."""
    found = user_code.call(module, "(function, parameters)")
    if isinstance(found, tuple) and len(found) == 2 and callable(found[0]):
        return found[0], _filled(found[1], arrays, path)
    if not callable(found):
        raise ModelError(
            f"'{module}' returned {type(found).__name__}, not a function", next="return (function, parameters)"
        )
    return found, _jax_files.nested(arrays)


def _filled(template: Any, arrays: Mapping[str, Array], path: Path) -> Any:
    """The values of the file in the tree of the template. Raises ModelError that names every one that does not fit."""
    tree = importlib.import_module("jax.tree_util")
    leaves, structure = tree.tree_flatten_with_path(template)
    own = {"/".join(_key(k) for k in keys): leaf for keys, leaf in leaves}
    shapes = [
        f"{k} is {np.shape(arrays[k])} and should be {np.shape(own[k])}"
        for k in sorted(own.keys() & arrays.keys())
        if np.shape(arrays[k]) != np.shape(own[k])
    ]
    groups = {
        "missing": sorted(own.keys() - arrays.keys()),
        "unexpected": sorted(arrays.keys() - own.keys()),
        "of another shape": shapes,
    }
    parts = [
        f"{what}: {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
        for what, names in groups.items()
        if names
    ]
    if parts:
        raise ModelError(
            f"the parameters in {path.name} are not those of the function; {'; '.join(parts)}",
            next="build it with the options it was trained with, or correct the names",
        )
    return tree.tree_unflatten(structure, [arrays[name] for name in own])


def _key(key: Any) -> str:
    """One step of a path in a tree: a key of a dict, a place in a list, a field."""
    return str(next(getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name)))


def _arguments(function: Any, options: LoadOptions) -> tuple[tuple[str, ...], int]:
    """Names of the inputs after the parameters, and how many have defaults; those of --input where it takes any."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    every = list(inspect.signature(function).parameters.values())
    found = [p for p in every if p.kind in positional][1:]
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in every) and not found:
        return tuple(name or "x" for name in options.inputs) or ("x",), 0
    return tuple(p.name for p in found), sum(p.default is not p.empty for p in found)


def _named(jax: Any, value: Any, inputs: list[str]) -> dict[str, Any]:
    """The outputs by name: keys of dicts, else "output", "output_0", "output_1" ..."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(value)
    if len(leaves) == 1 and not leaves[0][0]:
        return {"output": leaves[0][1]}
    names = ["_".join(_key(k) for k in keys) for keys, _ in leaves]
    names = [f"output_{n}" if n.isdigit() else n for n in names]
    return {f"{n}_out" if n in inputs else n: leaf for n, (_, leaf) in zip(names, leaves, strict=True)}


def _traced(jax: Any, flat: Any, named: Any, inputs: tuple[Input, ...]) -> tuple[Any, tuple[str, ...]]:
    """(ModelProto, notes): with a symbolic batch, or with a batch of 1 where the function insists on numbers."""
    notes: tuple[str, ...] = ()
    if any(one.batch is not None for one in inputs):
        (batch,) = jax.export.symbolic_shape("batch")
        try:
            return _graph(jax, flat, named, inputs, batch), ()
        except _errors(jax) as error:
            notes = (FIXED.format(reason=last_line(error)),)
    try:
        return _graph(jax, flat, named, fixed(inputs), 1), notes
    except _jaxpr.Refused as error:
        raise ModelError(
            f"the function uses primitives of jax that have no words in ONNX: {error}",
            next="write them with other operators, or move what comes before or after them out of the function",
        ) from error
    except _errors(jax) as error:
        shapes = ", ".join(f"{one.name} {'x'.join(map(str, one.shape))} {one.dtype}" for one in inputs)
        raise ModelError(
            f"the function fails on inputs of the given shapes ({shapes}): {type(error).__name__}: {str(error)[:300]}",
            next="correct the shapes and types with --input NAME=SHAPE[:TYPE], or the function",
        ) from error


def _errors(jax: Any) -> tuple[type[Exception], ...]:
    """What tracing a function raises."""
    flax = [importlib.import_module("flax.errors").FlaxError] if _has_flax() else []
    return (*flax, _jaxpr.Refused, jax.errors.JAXTypeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError, AssertionError)  # fmt: skip


def _has_flax() -> bool:
    return importlib.util.find_spec("flax") is not None


def _graph(jax: Any, flat: Any, named: Any, inputs: tuple[Input, ...], batch: Any) -> Any:
    specs = [
        jax.ShapeDtypeStruct(tuple(batch if a == one.batch else d for a, d in enumerate(one.shape)), one.dtype)
        for one in inputs
    ]
    outputs = list(jax.eval_shape(named, *specs))
    return _jaxpr.convert(jax.make_jaxpr(flat)(*specs), [one.name for one in inputs], outputs)
