"""Inputs of a torch module: their names from `forward`, their shapes from the user, and example tensors of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import UsageError
from ..registry import did_you_mean

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
MAX_RANK = 8
MAX_ELEMENTS = 1 << 28  # of one example input
TRACED_BATCH = 2  # a batch of 1 would be squeezed and broadcast away while it is traced


@dataclass(frozen=True, slots=True)
class Input:
    """One input: `shape` with 1 at the axis `batch`, which stays open; None where every size is fixed."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    batch: int | None = 0

    def sized(self, batch: int) -> tuple[int, ...]:
        """The shape with this batch."""
        return tuple(batch if axis == self.batch else size for axis, size in enumerate(self.shape))

    def example(self, batch: int, seed: int = 0) -> Array:
        """Seeded values: normal ones, or 0 and 1, which are indices of every embedding."""
        rng = np.random.default_rng(seed)
        values = rng.normal(size=self.sized(batch)) if "float" in self.dtype else rng.integers(0, 2, self.sized(batch))
        return np.asarray(values, dtype=self.dtype)


def examples(inputs: tuple[Input, ...], batch: int, seed: int = 0) -> dict[str, Array]:
    """An example of every input by name."""
    return {one.name: one.example(batch, seed + place) for place, one in enumerate(inputs)}


def fixed(inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """The same inputs with a batch of 1 that cannot be changed."""
    return tuple(replace(one, batch=None) for one in inputs)


def read_inputs(given: Mapping[str, str], names: tuple[str, ...], optional: int, what: str) -> tuple[Input, ...]:
    """The inputs in the order of `forward`, whose arguments are `names`, the last `optional` of which have defaults.

    Raises UsageError: a shape is missing (with the option to add), is none, or is for an input that is not there.
    """
    given = {names[0]: given[""]} if set(given) == {""} and names else dict(given)
    for name in given:
        if name not in names:
            raise UsageError(
                f"{what} has no input '{name}'{did_you_mean(name, names)}", next=f"its inputs are {', '.join(names)}"
            )
    missing = [name for name in names[: len(names) - optional] if name not in given]
    if missing or not given:
        wanted = " ".join(f"--input {name}=1x3x224x224" for name in missing or names[:1])
        raise UsageError(
            f"{what} does not say what shape its inputs have ({', '.join(missing or names)})",
            next=f"add {wanted} (the shape of one input; with :int64 at its end for integers)",
        )
    found = [parse(name, given[name]) for name in names if name in given]
    if any("?" in text for text in given.values()):
        found = [one if "?" in given[one.name] else replace(one, batch=None) for one in found]
    return tuple(found)


def parse(name: str, text: str) -> Input:
    """An input of the form "1x3x32x32", "?x128:int64". Raises UsageError.

    >>> parse("x", "?x128:int64")
    Input(name='x', shape=(1, 128), dtype='int64', batch=0)
    """
    dims, _, dtype = text.partition(":")
    sizes = re.split(r"[x,]", dims.strip("[]() ").replace(" ", ""))
    dtype = dtype.strip() or "float32"
    if dtype not in DTYPES:
        raise UsageError(
            f"'{dtype}' in --input {name}={text} is no data type{did_you_mean(dtype, DTYPES)}",
            next=f"use one of {', '.join(DTYPES)}",
        )
    if not all(re.fullmatch(r"\?|[1-9]\d{0,8}", size) for size in sizes) or len(sizes) > MAX_RANK:
        raise UsageError(f"--input {name}={text} is no shape", next=f"write it as --input {name}=1x3x224x224")
    if sizes.count("?") > 1:
        raise UsageError(
            f"--input {name}={text} leaves more than the batch open", next="fix every other size, as in ?x3x224x224"
        )
    shape = tuple(1 if size == "?" else int(size) for size in sizes)
    if np.prod(shape, dtype=np.float64) > MAX_ELEMENTS:
        raise UsageError(f"--input {name}={text} has more than {MAX_ELEMENTS:,} elements", next="use a smaller shape")
    batch = sizes.index("?") if "?" in sizes else 0 if shape[0] == 1 else None
    return Input(name, shape, dtype, batch)


def arguments(module: Any) -> tuple[tuple[str, ...], int]:
    """Names of the arguments of `forward`, and how many at the end have defaults."""
    if hasattr(module, "forward") and hasattr(module.forward, "schema"):  # TorchScript
        found = module.forward.schema.arguments[1:]  # the first is the module, whatever it is called
        return tuple(a.name for a in found), sum(a.has_default_value() for a in found)
    parameters = inspect.signature(module.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = [p for p in parameters if p.kind in kinds]
    return tuple(p.name for p in found), sum(p.default is not p.empty for p in found)
