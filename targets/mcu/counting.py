"""Exact counts of instructions: a hook at the start of every block, in C where it can be compiled, else in Python.

Instructions are counted by their lengths, so that none needs to be taken apart; one whose condition does not hold counts,
as it does on the device (it takes its cycle) and in QEMU.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...errors import EdgedlError, TargetError
from . import toolchain

Cost = Callable[
    [int, bytes], tuple[int, int]
]  # address and bytes of a block -> its cycles, and those of a jump at its end
UNLIMITED = (1 << 63) - 1


class Entry(ctypes.Structure):
    """entry_t of firmware/counter.c."""

    _fields_ = (
        ("bytes", ctypes.c_uint32),
        ("instructions", ctypes.c_uint32),
        ("cycles", ctypes.c_uint32),
        ("penalty", ctypes.c_uint32),
    )


SLOW = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint32)


class State(ctypes.Structure):
    """counter_t of firmware/counter.c."""

    _fields_ = (
        ("instructions", ctypes.c_uint64),
        ("cycles", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("base", ctypes.c_uint64),
        ("span", ctypes.c_uint64),
        ("next", ctypes.c_uint64),
        ("penalty", ctypes.c_uint64),
        ("entries", ctypes.POINTER(Entry)),
        ("slow", SLOW),
        ("stop", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one inference: `layers` are the instructions of each, `before` those that come before the first."""

    instructions: int
    cycles: int | None
    layers: tuple[int, ...]
    layer_cycles: tuple[int, ...] | None
    before: int


@dataclass(slots=True)
class Counter:
    """Counts in the code of one firmware. `marks`: address -> the layer that begins there; `cost`: None where it is unknown."""

    base: int
    code: bytes
    architecture: str
    marks: Mapping[int, int]
    cost: Cost | None = None
    starts: dict[int, tuple[int, int]] = field(default_factory=dict)  # layer -> instructions and cycles before it
    failure: EdgedlError | None = None
    state: Any = None
    _entries: Any = None
    _slow: Any = None

    def __post_init__(self) -> None:
        self._entries = (Entry * (len(self.code) // 2 + 1))()
        self._slow = SLOW(self.slow)
        self.state = State(base=self.base, span=len(self.code), limit=UNLIMITED, slow=self._slow)
        self.state.entries = ctypes.cast(self._entries, ctypes.POINTER(Entry))

    def begin(self, at: int, limit: int = UNLIMITED) -> None:
        """Count from zero; the run begins at the address `at`."""
        state = self.state
        state.instructions, state.cycles, state.limit, state.next, state.penalty = 0, 0, limit, at, 0
        self.starts.clear()
        self.failure = None

    @property
    def layer(self) -> int | None:
        """The layer that runs now."""
        return max(self.starts, default=None)

    def block(self, _engine: Any, address: int, size: int, _user: Any) -> None:
        """The hook in Python: the same as `edgedl_block` in firmware/counter.c."""
        state = self.state
        if address != state.next:
            state.cycles += state.penalty
        state.next = address + size
        at = address - self.base
        entry = self._entries[at >> 1] if 0 <= at < len(self.code) else None
        if entry is not None and entry.bytes == size:
            state.instructions += entry.instructions
            state.cycles += entry.cycles
            state.penalty = entry.penalty
        elif self.slow(address, size):
            _engine.emu_stop()
        if state.instructions > state.limit:
            _engine.emu_stop()

    def slow(self, address: int, size: int) -> int:
        """Count a block that was not met before, or that holds the start of a layer. 1: the run must stop."""
        before = self.failure
        self.failure = TargetError("the instructions could not be counted", next="report this as a bug of edgedl")
        stop = self._count(address, size)  # the emulator's C code cannot carry an exception: the failure stays
        if not stop:
            self.failure = before
        return stop

    def _count(self, address: int, size: int) -> int:
        at = address - self.base
        if at < 0 or size <= 0 or at + size > len(self.code):
            self.failure = TargetError(
                f"the firmware ran into {address:#x}, where no code is", next="report this as a bug of edgedl"
            )
            return 1
        cuts = sorted(mark for mark in self.marks if address <= mark < address + size)
        entry = self._entries[at >> 1]
        if not cuts:
            entry.instructions, entry.cycles, entry.penalty = self._measured(address, size)
            entry.bytes = size
            self._add(entry.instructions, entry.cycles, entry.penalty)
            return 0
        places = [address, *cuts, address + size]
        for begin, end in pairwise(places):
            if begin in self.marks and self.marks[begin] not in self.starts:
                self.starts[self.marks[begin]] = self.state.instructions, self.state.cycles
            if end > begin:
                self._add(*self._measured(begin, end - begin))
        return 0

    def _add(self, instructions: int, cycles: int, penalty: int) -> None:
        self.state.instructions += instructions
        self.state.cycles += cycles
        self.state.penalty = penalty

    def _measured(self, address: int, size: int) -> tuple[int, int, int]:
        """Instructions of a stretch of code, its cycles and those of the jump at its end."""
        at = address - self.base
        code = self.code[at : at + size]
        cycles, penalty = (0, 0) if self.cost is None else self.cost(address, code)
        return instructions_in(code, self.architecture), cycles, penalty

    def counts(self) -> Counts:
        """What was counted since `begin`."""
        state = self.state
        total = state.cycles + state.penalty  # the return is a jump
        ordered = sorted(self.starts.items())
        ends = [start for _, start in ordered[1:]] + [(state.instructions, total)]
        layers = tuple(end[0] - start[0] for (_, start), end in zip(ordered, ends, strict=True)) if ordered else ()
        cycles = tuple(end[1] - start[1] for (_, start), end in zip(ordered, ends, strict=True)) if ordered else ()
        known = self.cost is not None
        return Counts(
            instructions=int(state.instructions),
            cycles=int(total) if known else None,
            layers=layers,
            layer_cycles=cycles if known else None,
            before=ordered[0][1][0] if ordered else 0,
        )


def instructions_in(code: bytes, architecture: str) -> int:
    """How many instructions a stretch of code holds: Thumb's and RISC-V's say in their first half-word how long they are.

    >>> instructions_in(bytes.fromhex("00bf2de9f04f"), "arm"), instructions_in(bytes.fromhex("0100b3878702"), "riscv")
    (2, 2)
    """
    at = found = 0
    while at < len(code):
        half = int.from_bytes(code[at : at + 2], "little")
        is_long = half >> 11 >= 0b11101 if architecture == "arm" else half & 3 == 3
        at += 4 if is_long else 2
        found += 1
    return found


@cache
def native_hook() -> Any:
    """`edgedl_block` as machine code of this computer, compiled at first use and kept; None where that cannot be done."""
    try:
        library = _library()
        return None if library is None else ctypes.CDLL(str(library)).edgedl_block
    except (EdgedlError, OSError, AttributeError):
        return None


def _library() -> Path | None:
    source = (toolchain.FIRMWARE / "counter.c").read_bytes()
    program = toolchain.zig()
    key = hashlib.sha256(source + toolchain.version(program).encode() + os.uname().machine.encode()).hexdigest()[:16]
    kept = toolchain.cache_folder() / f"counter-{key}.so"
    if kept.is_file() and kept.stat().st_uid == os.getuid():
        return kept
    with tempfile.TemporaryDirectory(prefix="edgedl-counter-", dir=kept.parent) as temporary:
        folder = Path(temporary)
        (folder / "counter.c").write_bytes(source)
        command = [
            str(program),
            "cc",
            "-std=c99",
            "-O2",
            "-g0",
            "-fPIC",
            "-shared",
            "-nostdlib",
            "-o",
            "counter.so",
            "counter.c",
        ]
        done = toolchain.call(command, folder, toolchain.zig_environment(folder))
        made = folder / "counter.so"
        if done.returncode or not made.is_file():
            return None
        made.replace(kept)
    return kept
