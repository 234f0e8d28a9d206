"""torch module -> ONNX graph: both of torch's exporters behind one function, and a check that the batch stays open."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import MissingDependencyError, ModelError
from ..frameworks import no_stderr
from . import _onnx
from ._source import Runner
from ._torch_inputs import TRACED_BATCH, Input, examples, fixed

OPSET = 17  # what the TorchScript exporter knows best; LayerNormalization and STFT are in it
OTHER_OPSET = 18  # the lowest of the torch.export exporter
PREFIX = "edgedl_net"  # where the module hangs in the wrapper, taken off all names again
TOLERANCE = 1e-3  # of the check for a batch that was traced in; the proof of the import comes later


def torch() -> Any:
    """The module `torch`. Raises MissingDependencyError."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise MissingDependencyError(
            f"reading PyTorch models needs torch, which cannot be imported here ({error})",
            next="pip install 'edgedl[torch]', or for the CPU only: pip install torch --index-url https://download.pytorch.org/whl/cpu",
        ) from error


def runner(module: Any, names: tuple[str, ...] = ()) -> Runner:
    """Runs a module on arrays by argument name; gives arrays by output name."""

    def run(arrays: Mapping[str, Array]) -> dict[str, Array]:
        t = torch()
        with t.no_grad():
            found = module(**{k: t.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()})
        return {k: v.detach().cpu().numpy() for k, v in flatten(found).items()}

    return run


def flatten(value: Any, name: str = "output") -> dict[str, Any]:
    """The tensors of an output of any structure, by name: keys of dicts, else "output", "output_0", "output_1" ..."""
    if torch().is_tensor(value):
        return {name: value}
    found: dict[str, Any] = {}
    root = "" if name == "output" else f"{name}_"
    if isinstance(value, Mapping):
        for key, part in value.items():
            found.update(flatten(part, f"{root}{key}"))
    elif hasattr(value, "_fields"):
        for key in value._fields:
            found.update(flatten(getattr(value, key), f"{root}{key}"))
    elif isinstance(value, list | tuple):
        parts = [part for part in value if part is not None]
        for place, part in enumerate(parts):
            found.update(flatten(part, name if len(parts) == 1 else f"{name}_{place}"))
    return found


def export(module: Any, inputs: tuple[Input, ...]) -> tuple[Any, tuple[str, ...]]:
    """(ModelProto with an open batch where that is right, notes). The module is in eval mode and stays as it is.

    Raises ModelError: it does not run on such inputs, or has operators that ONNX cannot say, each by name.
    """
    open_batch = any(one.batch is not None for one in inputs)
    if open_batch and _runs(module, inputs, TRACED_BATCH) is None:
        proto, _ = _exported(module, inputs, TRACED_BATCH)
        if proto is not None:
            return proto, ()
    problem = _runs(module, inputs, 1)
    if problem is not None:
        shapes = ", ".join(f"{one.name} {'x'.join(map(str, one.shape))} {one.dtype}" for one in inputs)
        raise ModelError(
            f"the module fails on inputs of the given shapes ({shapes}): {problem}",
            next="correct the shapes and types with --input NAME=SHAPE[:TYPE], or the module",
        )
    proto, problems = _exported(module, fixed(inputs), 1)
    if proto is None:
        raise _refusal(module, inputs, problems)
    return proto, ("the batch is fixed at 1, because the exported graph is wrong with another",) if open_batch else ()


def _runs(module: Any, inputs: tuple[Input, ...], batch: int) -> str | None:
    """Why the module does not run on example inputs; None where it does."""
    try:
        runner(module)(examples(inputs, batch))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, NotImplementedError) as error:
        return _one_line(error)
    return None


def _agrees(proto: Any, module: Any, inputs: tuple[Input, ...], batch: int) -> bool:
    """Whether ONNX Runtime computes with this batch what torch does."""
    values = examples(inputs, batch, seed=batch)
    try:
        names = [o.name for o in proto.graph.output]
        theirs = _onnx.session(proto).run(names, {i.name: values[i.name] for i in proto.graph.input})
    except _onnx.runtime_errors():
        return False
    ours = runner(module)(values)
    return all(
        a.shape == b.shape and bool(np.all(np.abs(a - b) <= TOLERANCE * max(1.0, float(np.abs(b).max(initial=0.0)))))
        for a, b in zip(theirs, ours.values(), strict=True)
    )


def _exported(module: Any, inputs: tuple[Input, ...], batch: int) -> tuple[Any | None, list[str]]:
    """A graph that computes what the module does, or None and why.

    By the TorchScript exporter (0.1 s for a small model), else by that of torch.export (seconds, and onnxscript).
    """
    values = {k: torch().from_numpy(v) for k, v in examples(inputs, batch).items()}
    outputs = _output_names(module, values)
    sizes = (1, 3) if any(one.batch is not None for one in inputs) else (1,)
    problems: list[str] = []
    for attempt in (_by_torchscript, _by_dynamo):
        try:
            with quiet():
                proto = _tidy(_onnx.onnx().load_model_from_string(attempt(module, values, inputs, outputs)))
        except _export_errors() as error:
            problems.append(_one_line(error))
            continue
        if all(_agrees(proto, module, inputs, size) for size in sizes if _runs(module, inputs, size) is None):
            return proto, []
        problems.append("the exported graph computes something else than the module")
    return None, problems


def _by_torchscript(module: Any, values: dict[str, Any], inputs: tuple[Input, ...], outputs: list[str]) -> bytes:
    """`training=PRESERVE` keeps BatchNormalization apart from the convolutions; constants (LSTM weights) are folded."""
    t, file = torch(), io.BytesIO()
    flat = _wrapped(module, list(values))
    if isinstance(module, t.jit.ScriptModule):  # the exporter's own trace does not go through one
        flat = t.jit.trace(flat, tuple(values.values()), check_trace=False)
    t.onnx.export(
        flat,
        tuple(values.values()),
        file,
        input_names=list(values),
        output_names=outputs,
        opset_version=OPSET,
        dynamo=False,
        training=t.onnx.TrainingMode.PRESERVE,
        dynamic_axes={one.name: {one.batch: "batch"} for one in inputs if one.batch is not None},
    )
    return file.getvalue()


def _by_dynamo(module: Any, values: dict[str, Any], inputs: tuple[Input, ...], outputs: list[str]) -> bytes:
    """`optimize=False`, because it folds BatchNormalization into the convolutions; constants are folded afterwards."""
    t = torch()
    if isinstance(module, t.jit.ScriptModule):
        raise NotImplementedError("torch.export takes no TorchScript")
    try:
        optimizer = importlib.import_module("onnxscript.optimizer")
    except ImportError as error:
        raise MissingDependencyError(
            "the second exporter of torch needs onnxscript, which is not installed", next="pip install 'edgedl[torch]'"
        ) from error
    batch = t.export.Dim("batch")
    program = t.onnx.export(
        _wrapped(module, list(values)),
        tuple(values.values()),
        input_names=list(values),
        output_names=outputs,
        opset_version=OTHER_OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
        dynamic_shapes=(tuple({one.batch: batch} if one.batch is not None else None for one in inputs),),
    )
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    data: bytes = program.model_proto.SerializeToString()
    return data


def _wrapped(module: Any, names: list[str]) -> Any:
    """The module with positional inputs and a flat tuple of outputs."""
    t = torch()

    class Flat(t.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            setattr(self, PREFIX, module)

        def forward(self, *tensors: Any) -> Any:
            return tuple(flatten(getattr(self, PREFIX)(**dict(zip(names, tensors, strict=True)))).values())

    flat = Flat()
    flat.training = module.training  # and its children as they are: exported programs refuse eval()
    return flat


def called_by_name(program: Any, names: tuple[str, ...]) -> Any:
    """The module of an exported program, which insists on the call it was exported with, called with names alone."""
    t, module = torch(), program.module()
    positional = len((program.example_inputs or (names, {}))[0])

    class Named(t.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            setattr(self, PREFIX, module)

        def forward(self, **tensors: Any) -> Any:
            args = [tensors[name] for name in names[:positional]]
            return getattr(self, PREFIX)(*args, **{name: tensors[name] for name in names[positional:]})

    named = Named()
    named.training = False
    return named


def _output_names(module: Any, values: dict[str, Any]) -> list[str]:
    with torch().no_grad():
        found = list(flatten(module(**values)))
    if not found:
        raise ModelError(
            "the module returns no tensors", next="let `forward` return a tensor, or tensors in a tuple or dict"
        )
    return [f"{name}_out" if name in values else name for name in found]


def _tidy(proto: Any) -> Any:
    """Names as in the module, without the wrapper's."""

    def short(name: str) -> str:
        return re.sub(rf"/({PREFIX}/)+", "/", re.sub(rf"^({PREFIX}\.)+", "", name))

    for graph in _onnx.graphs(proto.graph):
        for node in graph.node:
            node.name = short(node.name)
            node.input[:] = [short(n) for n in node.input]
            node.output[:] = [short(n) for n in node.output]
        for item in (*graph.initializer, *graph.value_info):
            item.name = short(item.name)
    return proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' progress, warnings and advice."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            no_stderr(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _export_errors() -> tuple[type[BaseException], ...]:
    t = torch()
    errors = importlib.import_module("torch.onnx.errors")
    found = [getattr(errors, n) for n in ("OnnxExporterError", "UnsupportedOperatorError") if hasattr(errors, n)]
    graph = importlib.import_module("torch.jit").TracingCheckError
    return (*found, graph, t.jit.Error, MissingDependencyError, RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError, AssertionError)  # fmt: skip


def _refusal(module: Any, inputs: tuple[Input, ...], problems: list[str]) -> ModelError:
    """Every operator that torch's first exporter does not know, or what both exporters say."""
    operators = _unconvertible(module, inputs)
    if operators:
        return ModelError(
            f"the module uses operators that ONNX has no words for: {', '.join(operators)}",
            next="write them with other operators, or move what comes before or after them out of the module",
        )
    return ModelError(
        f"the module cannot be exported: {'; '.join(dict.fromkeys(problems))}",
        next="let `forward` take and return tensors only, without branches that depend on their values",
    )


def _unconvertible(module: Any, inputs: tuple[Input, ...]) -> list[str]:
    t = torch()
    values = {k: t.from_numpy(v) for k, v in examples(inputs, 1).items()}
    if isinstance(module, t.jit.ScriptModule):
        return []
    try:
        with quiet():
            _, found = t.onnx.utils.unconvertible_ops(
                _wrapped(module, list(values)), tuple(values.values()), opset_version=OPSET
            )
    except _export_errors():
        return []
    return sorted(set(found))


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
