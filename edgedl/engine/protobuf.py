"""A bounded look at a protobuf file: its outermost fields, without reading what they hold, and what they tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 256  # looked at

ONNX = {1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES, 8: BYTES, 14: BYTES, 20: BYTES, 25: BYTES, 26: BYTES}  # fmt: skip
GRAPH_DEF = {1: BYTES, 2: BYTES, 3: VARINT, 4: BYTES, 5: BYTES}
SAVED_MODEL = {1: VARINT, 2: BYTES}
CAFFE = {1: BYTES, 2: BYTES, 3: BYTES, 4: VARINT, 5: VARINT, 6: BYTES, 7: VARINT, 8: BYTES, 100: BYTES}
NODE_DEF = {1: BYTES, 2: BYTES, 3: BYTES, 4: BYTES, 5: BYTES, 6: BYTES, 7: BYTES}


def fields(file: IO[bytes], start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, kind, offset, size) of the fields between two offsets. Raises ValueError for what is not well-formed."""
    at = start

    def varint() -> int:
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            byte = file.read(1)
            at += 1
            if not byte or at > end:
                break
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
        raise ValueError("not protobuf")

    for _ in range(MAX_FIELDS):
        if at >= end:
            return
        file.seek(at)
        tag = varint()
        number, kind = tag >> 3, tag & 7
        before = at
        size = {VARINT: 0, FIXED64: 8, FIXED32: 4}.get(kind, -1)
        if kind == VARINT:
            varint()
        elif kind == BYTES:
            size = varint()
            before = at
            at += size
        else:
            at += size
        if number == 0 or size < 0 or at > end:
            raise ValueError("not protobuf")
        yield number, kind, before, size


def _outer(file: IO[bytes], start: int, end: int, known: Mapping[int, int]) -> set[int]:
    """The numbers of the fields there are; nothing where one is none of the known."""
    try:
        found = {(number, kind) for number, kind, _, _ in fields(file, start, end)}
    except ValueError:
        return set()
    return {number for number, _ in found} if found <= set(known.items()) else set()


def kind_of(path: Path) -> str:
    """One of "onnx", "graphdef", "saved_model" (the file inside one), "caffe", or nothing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if {1, 7} <= _outer(file, 0, size, ONNX):
            return "onnx"
        if 2 in _outer(file, 0, size, SAVED_MODEL) and file.seek(0) == 0 and file.read(2) == b"\x08\x01":
            return "saved_model"
        if 1 in _outer(file, 0, size, GRAPH_DEF) and _is_node(file, size):
            return "graphdef"
        if {2, 100} & _outer(file, 0, size, CAFFE):
            return "caffe"
    return ""


def _is_node(file: IO[bytes], size: int) -> bool:
    """Whether the first field is a TensorFlow node: a name and an operator, as text."""
    number, _, at, length = next(fields(file, 0, size))
    if number != 1 or not {1, 2} <= _outer(file, at, at + length, NODE_DEF):
        return False
    for number, _, inner, count in fields(file, at, at + length):
        if number == 2:
            file.seek(inner)
            return re.fullmatch(rb"\w{1,100}", file.read(min(count, 200))) is not None
    return False
