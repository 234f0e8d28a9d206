"""What an operator becomes: a call of one C kernel with its parameters; and the table of what can become one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...artifact import Array
from .graph import Op, Unsupported

Features = frozenset[str]  # of a core: "dsp" (Armv7E-M), "mve" (Armv8.1-M), none: plain C


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """An array in flash: int8, uint8, int16, int32, uint32; `align` in bytes. Equal ones are stored once."""

    values: Array
    align: int = 4


@dataclass(frozen=True, slots=True)
class Params:
    """A constant struct of the C type `type`, declared in the kernel's header, by the names of its fields."""

    type: str
    fields: Mapping[str, int | Constant | None]  # None: NULL


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor of the operator (a constant one lies in flash), or its scratch memory."""

    kind: Literal["input", "output", "scratch"]
    index: int = 0


@dataclass(frozen=True, slots=True)
class Pointers:
    """An array of pointers to tensors: for kernels with any number of inputs (`const void *const *`) or outputs
    (`void *const *`)."""

    refs: tuple[Ref, ...]


Argument = Ref | Params | Constant | Pointers | int
SCRATCH = Ref("scratch")


def read(index: int = 0) -> Ref:
    """The operator's input of this index."""
    return Ref("input", index)


def write(index: int = 0) -> Ref:
    """The operator's output of this index."""
    return Ref("output", index)


@dataclass(frozen=True, slots=True)
class Call:
    """`function(arguments...)`, which the kernel file `kernel` (kernels/*/KERNEL.c and .h) defines.

    `overlap`: by index of an input how many bytes (at least 0) before it output 0 must begin, so that the kernel may write
    the output over that input: it never writes a byte of the input that it reads later. Inputs that are not named here lie
    apart from the output. `scratch`: bytes of memory (aligned to 4) whose contents matter during the call only. `macs`:
    multiply-accumulates, for the report.
    """

    kernel: str
    function: str
    arguments: tuple[Argument, ...]
    scratch: int = 0
    overlap: Mapping[int, int] = field(default_factory=dict)
    macs: int = 0


Lower = Callable[[Op, Features], Call]
TABLE: dict[str, Lower] = {}
VERSIONS: dict[str, int] = {}
SEVERAL = frozenset({"SPLIT", "SPLIT_V", "UNPACK"})  # operators with any number of outputs


def op(kind: str, *, versions: int) -> Callable[[Lower], Lower]:
    """Enter a function into the table: operator `kind` of schema.fbs, up to version `versions`."""

    def enter(function: Lower) -> Lower:
        TABLE[kind], VERSIONS[kind] = function, versions
        return function

    return enter


def lower(one: Op, features: Features) -> Call:
    """The call that an operator becomes. Raises Unsupported."""
    if one.kind not in TABLE:
        raise Unsupported("this operator is not known")
    if one.version > VERSIONS[one.kind]:
        raise Unsupported(f"version {one.version} is newer than {VERSIONS[one.kind]}, the newest that is known")
    need(len(one.outputs) == 1 or one.kind in SEVERAL, f"it has {len(one.outputs)} outputs")
    return TABLE[one.kind](one, features)


def need(condition: bool, reason: str) -> None:
    """Raise Unsupported for what a kernel cannot do.

    >>> need(True, "never said")
    """
    if not condition:
        raise Unsupported(reason)
