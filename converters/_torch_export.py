"""torch module -> ONNX graph: both of torch's exporters behind one function, and a check that the batch stays open."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import MissingDependencyError, ModelError
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
        proto = _exported(module, inputs, TRACED_BATCH)
        if all(_agrees(proto, module, inputs, batch) for batch in (1, 3)):
            return proto, ()
    problem = _runs(module, inputs, 1)
    if problem is not None:
        shapes = ", ".join(f"{one.name} {'x'.join(map(str, one.shape))} {one.dtype}" for one in inputs)
        raise ModelError(
            f"the module fails on inputs of the given shapes ({shapes}): {problem}",
            next="correct the shapes and types with --input NAME=SHAPE[:TYPE], or the module",
        )
    proto = _exported(module, fixed(inputs), 1)
    return proto, ("the batch is fixed at 1: the module computes something else with more",) if open_batch else ()


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


def _exported(module: Any, inputs: tuple[Input, ...], batch: int) -> Any:
    """By the TorchScript exporter (0.1 s for a small model), else by that of torch.export (seconds, and onnxscript)."""
    values = {k: torch().from_numpy(v) for k, v in examples(inputs, batch).items()}
    outputs = _output_names(module, values)
    attempts: list[Callable[..., bytes]] = [_by_torchscript, _by_dynamo]
    problems: list[BaseException] = []
    for attempt in attempts:
        try:
            with quiet():
                data = attempt(module, values, inputs, outputs)
            return _tidy(_onnx.onnx().load_model_from_string(data))
        except (*_export_errors(), MissingDependencyError) as error:
            problems.append(error)
    raise _refusal(module, values, problems) from problems[0]


def _by_torchscript(module: Any, values: dict[str, Any], inputs: tuple[Input, ...], outputs: list[str]) -> bytes:
    """`training=PRESERVE` keeps BatchNormalization apart from the convolutions; constants (LSTM weights) are folded."""
    t, file = torch(), io.BytesIO()
    is_script = isinstance(module, t.jit.ScriptModule)
    t.onnx.export(
        module if is_script else _wrapped(module, list(values)),
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
    t = torch()
    try:
        importlib.import_module("onnxscript")
    except ImportError as error:
        raise MissingDependencyError(
            "the second exporter of torch needs onnxscript, which is not installed", next="pip install 'edgedl[torch]'"
        ) from error
    batch = t.export.Dim("batch")
    is_program = isinstance(module, t.export.ExportedProgram)
    program = t.onnx.export(
        module if is_program else _wrapped(module, list(values)),
        tuple(values.values()),
        input_names=list(values),
        output_names=outputs,
        opset_version=OTHER_OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
        dynamic_shapes=None
        if is_program
        else ([{one.batch: batch} if one.batch is not None else None for one in inputs],),
    )
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

    return Flat().train(module.training)


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
        return re.sub(rf"/{PREFIX}/", "/", re.sub(rf"^{PREFIX}\.", "", name))

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
    return (*found, graph, t.jit.Error, RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError, AssertionError)  # fmt: skip


def _refusal(module: Any, values: dict[str, Any], problems: list[BaseException]) -> ModelError:
    """Every operator that neither exporter knows, or what they say."""
    text = " ".join(str(p) for p in problems)
    operators = sorted(set(re.findall(r"(?:aten|prim|quantized|torchvision|torch_\w+)::\w+|\baten\.\w+", text)))
    if operators:
        return ModelError(
            f"the module uses operators that ONNX has no words for: {', '.join(operators)}",
            next="write them with other operators, or move what comes before or after them out of the module",
        )
    return ModelError(
        f"the module cannot be exported: {_one_line(problems[0])}",
        next="let `forward` take and return tensors only, without branches that depend on their values",
    )


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
