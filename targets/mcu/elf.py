"""A small reader of 32-bit little-endian ELF executables: segments, section sizes, symbols; every offset is checked."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from ...errors import TargetError

MAX_BYTES = 64 << 20
MACHINES = {40: "arm", 243: "riscv"}
_HEADER = struct.Struct("<16xHHIIIIIHHHHHH")
_SEGMENT = struct.Struct("<8I")
_SECTION = struct.Struct("<10I")
_SYMBOL = struct.Struct("<IIIBBH")
_LOAD, _SYMTAB, _NOBITS, _ALLOCATED = 1, 2, 8, 2


@dataclass(frozen=True, slots=True)
class Segment:
    """What is loaded: `data`, then zeros up to `size` bytes, at `address`; its first contents come from `stored_at`."""

    address: int
    stored_at: int
    size: int
    data: bytes
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Section:
    """A named part of memory."""

    name: str
    address: int
    size: int
    is_stored: bool  # in flash, not only zeroed at the start


@dataclass(frozen=True, slots=True)
class Elf:
    """`symbols`: name -> (address, size); Arm's mapping symbols ($t ...) are left out."""

    machine: str
    entry: int
    segments: tuple[Segment, ...]
    sections: dict[str, Section]
    symbols: dict[str, tuple[int, int]]

    def symbol(self, name: str) -> int:
        """An address, without the bit that marks Thumb code. Raises TargetError."""
        if name not in self.symbols:
            raise _damaged(f"it has no symbol '{name}'")
        return self.symbols[name][0] & ~1


def read(data: bytes) -> Elf:
    """Read an executable. Raises TargetError for anything that is cut, overlapping or out of range."""
    if len(data) > MAX_BYTES:
        raise _damaged(f"it has {len(data):,} bytes, more than {MAX_BYTES:,}")
    kind, machine, _, entry, phoff, shoff, _, _, phsize, phnum, shsize, shnum, shstr = _unpack(_HEADER, data, 0)
    if data[:7] != b"\x7fELF\x01\x01\x01" or kind != 2 or machine not in MACHINES:
        raise _damaged("it is no 32-bit little-endian executable for Arm or RISC-V")
    if (phnum and phsize != _SEGMENT.size) or (shnum and shsize != _SECTION.size):
        raise _damaged("its tables have entries of an unknown size")
    heads = [_unpack(_SECTION, data, shoff + i * _SECTION.size) for i in range(shnum)]
    return Elf(
        MACHINES[machine],
        entry & ~1,
        _segments(data, phoff, phnum),
        _sections(data, heads, shstr),
        _symbols(data, heads),
    )


def _segments(data: bytes, at: int, count: int) -> tuple[Segment, ...]:
    found, total = [], 0
    for i in range(count):
        kind, offset, address, stored_at, held, size, flags, _ = _unpack(_SEGMENT, data, at + i * _SEGMENT.size)
        if kind != _LOAD or size == 0:
            continue
        total += size
        if held > size or address + size > 1 << 32 or total > MAX_BYTES:
            raise _damaged(f"its segment {i} has impossible sizes")
        found.append(Segment(address, stored_at, size, _part(data, offset, held), bool(flags & 2), bool(flags & 1)))
    found.sort(key=lambda s: s.address)
    if any(a.address + a.size > b.address for a, b in pairwise(found)):
        raise _damaged("its segments overlap")
    return tuple(found)


def _sections(data: bytes, heads: list[tuple[int, ...]], names_at: int) -> dict[str, Section]:
    if not heads:
        return {}
    if names_at >= len(heads):
        raise _damaged("its section names are missing")
    names = _part(data, heads[names_at][4], heads[names_at][5])
    found = {}
    for name, kind, flags, address, _, size, *_ in heads:
        if flags & _ALLOCATED:
            text = _text(names, name)
            found[text] = Section(text, address, size, kind != _NOBITS)
    return found


def _symbols(data: bytes, heads: list[tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for head in heads:
        if head[1] != _SYMTAB:
            continue
        if head[6] >= len(heads):
            raise _damaged("its symbols have no names")
        names = _part(data, heads[head[6]][4], heads[head[6]][5])
        table = _part(data, head[4], head[5])
        for i in range(len(table) // _SYMBOL.size):
            name, value, size, *_ = _SYMBOL.unpack_from(table, i * _SYMBOL.size)
            text = _text(names, name)
            if text and not text.startswith("$"):
                found[text] = value, size
    return found


def _unpack(form: struct.Struct, data: bytes, at: int) -> tuple[int, ...]:
    return form.unpack(_part(data, at, form.size))


def _part(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise _damaged("it is cut off")
    return data[at : at + size]


def _text(names: bytes, at: int) -> str:
    end = names.find(b"\0", at)
    if at >= len(names) or end < 0:
        raise _damaged("a name lies outside its table")
    return names[at:end].decode("utf-8", "replace")


def _damaged(why: str) -> TargetError:
    return TargetError(f"the firmware file cannot be used: {why}", next="build it again")
