"""PyTorch in: a .pt2 program, a TorchScript file or a state dict with its module, as an ONNX graph and so as Keras."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import user_code
from ..errors import ModelError, UsageError
from ..model import LoadOptions, Model
from ._source import Source
from ._torch_archive import form_of, load_program, load_script, read_safetensors, unpickle
from ._torch_export import called_by_name, export, runner, torch
from ._torch_inputs import Input, arguments, parse, read_inputs

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params_ema",
    "params",
)
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
SHOWN = 40  # names in one message


def load_torch(path: Path, options: LoadOptions | None = None) -> Model:
    """A .pt2, TorchScript, .pt/.pth/.th or .safetensors file as a Keras model that computes the same.

    Raises ModelError, UnsafeModelError (it would run code), UsageError (a shape or the module is missing),
    VerificationError, MissingDependencyError.
    """
    from .from_onnx import from_source

    options = options or LoadOptions()
    return from_source(source(path, options), path, options)


def source(path: Path, options: LoadOptions) -> Source:
    """The ONNX graph of a PyTorch file, with the module itself as its reference. Raises as `load_torch` does."""
    t, form = torch(), form_of(path)
    if form == "pt2":
        program = load_program(path, allow_unsafe=options.allow_unsafe)
        inputs = _program_inputs(program, options, path)
        module, how = called_by_name(program, tuple(one.name for one in inputs)), "torch.export"
    else:
        module, how = _module(path, form, options)
        inputs = read_inputs(options.inputs, *arguments(module), path.name)
    proto, notes = export(module, inputs)
    name = f"torch {t.__version__}"
    return Source(proto, f"PyTorch {t.__version__} ({how})", runner(module), name, notes=notes)


def _module(path: Path, form: str, options: LoadOptions) -> tuple[Any, str]:
    """The module in eval mode, and where it comes from."""
    if form == "torchscript":
        return load_script(path, allow_unsafe=options.allow_unsafe).eval(), "TorchScript"
    content = read_safetensors(path) if form == "safetensors" else unpickle(path, allow_unsafe=options.allow_unsafe)
    if isinstance(content, torch().nn.Module):
        return content.eval(), "pickled module"
    if not options.module:
        raise UsageError(
            f"{path.name} holds weights and no network",
            next="add --module MODULE:CALLABLE, a function that returns the torch.nn.Module these weights are for",
        )
    module = user_code.call(options.module, "a torch.nn.Module")
    if not isinstance(module, torch().nn.Module):
        raise ModelError(
            f"'{options.module}' returned {type(module).__name__}, not a torch.nn.Module",
            next="return the network that the weights are for",
        )
    fill(module, state_dict(content, path), path)
    return module.eval(), f"state dict in {options.module}"


def state_dict(content: Any, path: Path) -> dict[str, Any]:
    """The tensors by name in what a file held: found under the usual keys, without the prefix of a wrapper.

    Raises ModelError: there are none.
    """
    for _ in range(3):
        inner = next(
            (content[k] for k in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(k), Mapping)), None
        )
        if inner is None:
            break
        content = inner
    t = torch()
    found = {str(k): v for k, v in content.items() if hasattr(v, "shape")} if isinstance(content, Mapping) else {}
    if not found:
        keys = f" (its keys: {', '.join(map(str, list(content)[:10]))})" if isinstance(content, Mapping) else ""
        raise ModelError(
            f"{path.name} holds no state dict but {type(content).__name__}{keys}", next="save model.state_dict()"
        )
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in found):
            found = {k.removeprefix(prefix): v for k, v in found.items()}
    return {k: v if t.is_tensor(v) else t.from_numpy(v) for k, v in found.items()}


def fill(module: Any, given: Mapping[str, Any], path: Path) -> None:
    """Put the tensors into a module. Raises ModelError that names every one missing, unexpected or of another shape."""
    own = module.state_dict()
    missing = sorted(k for k in own.keys() - given.keys() if not k.endswith("num_batches_tracked"))
    unexpected = sorted(given.keys() - own.keys())
    shapes = [
        f"{k} is {_size(given[k])} and should be {_size(own[k])}"
        for k in sorted(own.keys() & given.keys())
        if given[k].shape != own[k].shape
    ]
    parts = [
        f"{what}: {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if parts:
        raise ModelError(
            f"the weights in {path.name} are not those of the module; {'; '.join(parts)}",
            next="build the module with the options it was trained with, or correct the names",
        )
    module.load_state_dict(dict(given), strict=False)


def _size(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _program_inputs(program: Any, options: LoadOptions, path: Path) -> tuple[Input, ...]:
    """The inputs of an exported program: its own shapes; a size that is open and not the batch has to be given."""
    nodes = {n.name: n.meta["val"] for n in program.graph.nodes if n.op == "placeholder"}
    values = [(name, nodes[name]) for name in program.graph_signature.user_inputs if name in nodes]
    if not values or not all(hasattr(v, "shape") for _, v in values):
        raise ModelError(f"{path.name} has inputs that are no tensors", next="export a module whose inputs are tensors")
    names, _ = arguments(program.module())
    if len(names) != len(values):
        raise ModelError(
            f"{path.name} takes its inputs in nested structures", next="export a module whose `forward` takes tensors"
        )
    for name in options.inputs:
        if name not in names and name:
            raise UsageError(f"{path.name} has no input '{name}'", next=f"its inputs are {', '.join(names)}")
    symbols = [str(s) for _, v in values for s in v.shape if not isinstance(s, int)]
    batch = _batch_symbol(values)
    found = []
    for name, (_, value) in zip(names, values, strict=True):
        asked = options.inputs.get(name, options.inputs.get("") if len(names) == 1 else None)
        given = parse(name, asked).shape if asked else None
        open_axes = [a for a, s in enumerate(value.shape) if not isinstance(s, int) and str(s) != batch]
        if open_axes and given is None:
            shape = "x".join("1" if str(s) == batch else str(s) if isinstance(s, int) else "?" for s in value.shape)
            raise UsageError(
                f"{path.name} leaves sizes of its input '{name}' open ({shape}, symbols {', '.join(sorted(set(symbols)))})",
                next=f"fix them: --input {name}=" + shape.replace("?", "128"),
            )
        sizes = [
            s if isinstance(s, int) else 1 if str(s) == batch else (given or ())[a] for a, s in enumerate(value.shape)
        ]
        axis = next((a for a, s in enumerate(value.shape) if str(s) == batch), None)
        found.append(Input(name, tuple(sizes), str(value.dtype).removeprefix("torch."), axis))
    return tuple(found)


def _batch_symbol(values: list[tuple[str, Any]]) -> str:
    """The symbol of the batch: the first open size of the first axis of an input, else the only symbol there is."""
    first = [str(v.shape[0]) for _, v in values if len(v.shape) and not isinstance(v.shape[0], int)]
    every = {str(s) for _, v in values for s in v.shape if not isinstance(s, int)}
    candidate = first[0] if first else next(iter(every)) if len(every) == 1 else ""
    return candidate if re.fullmatch(r"\w+", candidate) else ""
