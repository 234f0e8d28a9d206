"""Reads CSV and TSV: numeric tables, with or without a header; the label column may hold class names."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np

from ..artifact import Array, TensorSpec
from ..errors import DataError
from ..registry import did_you_mean
from .options import unreadable
from .raw import Raw, Wanted, bounded

LABEL_NAMES = ("label", "target", "y", "class", "labels")
NO_LABELS = "none"


def read_table(path: Path, wanted: Wanted) -> Raw:
    """The columns of a table as one input `[n, columns]`, or as one input each where their names are the inputs' names."""
    bounded(path.stat().st_size, wanted, str(path))
    rows = _rows(path)
    header = _header(rows)
    body = rows[1:] if header else rows
    first_line = 2 if header else 1
    if not body:
        raise DataError(f"{path} has no rows below its header", next="pass a table with data")
    names = header or [str(i) for i in range(len(rows[0]))]
    _check_widths(body, len(names), path, first_line)
    label = _label_column(names, bool(header), wanted, path)
    features = [i for i in range(len(names)) if i != label]
    columns = np.array(
        [_numbers([row[i] for row in body], names[i], path, first_line) for i in features], np.float32
    ).reshape(len(features), len(body))
    x = _inputs([names[i] for i in features], columns, wanted, path)
    if label is None:
        return Raw(str(path), x)
    return Raw(str(path), x, _labels([row[label].strip() for row in body], names[label], path, first_line))


def _rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text("utf-8-sig")
        head = text.partition("\n")[0]
        separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
        rows = _parse(text, separator)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        remedy = "save the table as UTF-8 text, commas or tabs between the columns"
        raise unreadable(str(path), error, next=remedy) from error
    if not rows:
        raise DataError(f"{path} is empty", next="pass a table with data")
    return rows


def _parse(text: str, separator: str) -> list[list[str]]:
    """The rows that are not blank. Quotes in a tab-separated table that is not quoted stand for themselves."""
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=separator, strict=True))
    except csv.Error:
        if separator != "\t":
            raise
        rows = list(csv.reader(io.StringIO(text), delimiter=separator, quoting=csv.QUOTE_NONE))
    return [row for row in rows if any(c.strip() for c in row)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _header(rows: list[list[str]]) -> list[str]:
    """The column names: the first row, where none of its cells is a number and the next row has one."""
    first = [c.strip() for c in rows[0]]
    numeric_below = len(rows) < 2 or any(_is_number(c) for c in rows[1])
    return first if numeric_below and not any(_is_number(c) for c in first) else []


def _check_widths(body: list[list[str]], width: int, path: Path, first_line: int) -> None:
    for i, row in enumerate(body):
        if len(row) != width:
            raise DataError(
                f"{path}: row {first_line + i} has {len(row)} columns, and the first row has {width}",
                next="give every row the same columns, quoting cells that hold the separator",
            )


def _label_column(names: list[str], named: bool, wanted: Wanted, path: Path) -> int | None:
    asked = wanted.options.label_column
    if asked.lower() == NO_LABELS:
        return None
    if asked:
        if asked in names:
            return names.index(asked)
        raise DataError(
            f"{path} has no column '{asked}'{did_you_mean(asked, names)}",
            next=f"its columns are {', '.join(names[:30])}",
        )
    if named:
        found = [i for i, n in enumerate(names) if n.lower() in LABEL_NAMES]
        if len(found) == 1:
            return found[0]
    if len(names) == sum(_width(s) for s in wanted.inputs):
        return None
    return len(names) - 1


def _width(spec: TensorSpec) -> int:
    """How many numbers one sample of an input holds (0: not fixed)."""
    return math.prod(d or 0 for d in spec.shape[1:])


def _inputs(names: list[str], columns: Array, wanted: Wanted, path: Path) -> dict[str, Array]:
    if len(wanted.inputs) == 1:
        return {wanted.inputs[0].name: np.ascontiguousarray(columns.T)}
    if all(s.name in names for s in wanted.inputs):
        return {s.name: columns[names.index(s.name)][:, None] for s in wanted.inputs}
    spec = wanted.single_input(str(path), "a table whose columns are not named after the inputs")
    raise DataError(f"{path} does not serve the input {spec.name}", next="pass an .npz")


def _numbers(cells: list[str], name: str, path: Path, first_line: int) -> list[float]:
    out = []
    for i, cell in enumerate(cells):
        try:
            out.append(float(cell))
        except ValueError:
            shown = f"'{cell.strip()[:40]}'" if cell.strip() else "empty"
            raise DataError(
                f"{path}: column '{name}' is {shown} in row {first_line + i}, and a model takes numbers",
                next="fill or drop the column; for text, turn it into token numbers as in training and pass an .npz",
            ) from None
    return out


def _labels(cells: list[str], name: str, path: Path, first_line: int) -> Array:
    """Numbers where all are, else class names."""
    for i, cell in enumerate(cells):
        if not cell:
            raise DataError(
                f"{path}: the label '{name}' is empty in row {first_line + i}", next="label or drop the row"
            )
    return np.array([float(c) for c in cells]) if all(map(_is_number, cells)) else np.array(cells)
