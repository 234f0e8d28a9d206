"""The proof of an import as text: each output against the original's, and inputs and outputs with their layouts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from . import figures

NO_PROOF = "no proof: its own framework has read it, and nothing else can run it"


def relative(value: Any) -> str:
    """A relative difference in words.

    >>> relative(0.0), relative(2.5e-7), relative(float("inf")), relative(None)
    ('none', '2.5e-07', 'not comparable', 'not comparable')
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "not comparable"
    return "none" if value == 0 else f"{value:.1e}"


def proof_table(proof: Sequence[Mapping[str, Any]]) -> str:
    """Entries of `Model.proof` as a table: relative differences are shares of the output's largest value."""
    if not proof:
        return NO_PROOF
    header = ["output", "held to", "inputs", "max relative difference", "mean"]
    body = [
        [
            str(e["output"]),
            str(e["against"]),
            f"{e['inputs']} {e.get('data', '')}".rstrip(),
            relative(e["max_relative"]),
            relative(e["mean_relative"]),
        ]
        for e in proof
    ]
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    rule = ["-" * w for w in widths]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, rule, *body)
    ]
    return "\n".join(line.rstrip() for line in lines)


def proof_line(proof: Sequence[Mapping[str, Any]]) -> str:
    """The same in one sentence, or nothing."""
    if not proof:
        return ""
    worst = max(proof, key=lambda e: e["max_relative"] if isinstance(e["max_relative"], int | float) else math.inf)
    against = " and ".join(dict.fromkeys(str(e["against"]) for e in proof))
    outputs = len({e["output"] for e in proof})
    what = "its output differs" if outputs == 1 else f"its {outputs} outputs differ"
    on = " on generated inputs" + (" and on the data given" if any(e.get("data") == "given" for e in proof) else "")
    by = f"{what} by at most {relative(worst['max_relative'])} of the largest value"
    return f"imported model held to {against}{on}: {by}"


def tensor_lines(found: Mapping[str, Any]) -> list[str]:
    """One line for each input and output: its original name, shape and type, and the original's own shape."""
    layouts = found.get("layouts", {})
    lines = []
    for side in ("input", "output"):
        for spec in found[f"{side}s"]:
            lines.append(
                f"  {side:<7} {spec['name']} {shape_text(spec['shape'])} {spec['dtype']}{before(spec, layouts)}"
            )
    return lines


def before(spec: Mapping[str, Any], layouts: Mapping[str, Sequence[int]]) -> str:
    """The shape that an input or output had in the original, where its axes are in another order.

    >>> before({"name": "x", "shape": [None, 8, 12, 3]}, {"x": [0, 2, 3, 1]})
    ', ?x3x8x12 in the original'
    """
    perm = layouts.get(spec["name"])
    if not perm:
        return ""
    return f", {shape_text([spec['shape'][perm.index(axis)] for axis in range(len(perm))])} in the original"


def shape_text(shape: Sequence[int | None]) -> str:
    """A shape as it is typed: 1x3x?x224."""
    return "x".join("?" if d is None else str(d) for d in shape) or "scalar"


def transposes(entry: Mapping[str, Any]) -> str:
    """How many Transpose operators a file has, in words; nothing where that is not known.

    >>> transposes({"transposes": 1}), transposes({})
    ('1 transpose', '')
    """
    count = entry.get("transposes")
    return "" if count is None else f"{figures.count(count) if count else 'no'} transpose{'' if count == 1 else 's'}"
