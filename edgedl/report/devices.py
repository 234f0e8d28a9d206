"""What microcontrollers told besides latency: instructions, flash and RAM by their parts, whether the firmware fits a board."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import figures

NOTE = (
    "Instructions are exact, counted in an emulated core; cycles, and times made of them at the core's clock (100 MHz where no "
    "board is named), are estimates from its published timings."
)
LAYERS = 40  # of the longest that the page lists


@dataclass(frozen=True, slots=True)
class Device:
    """One firmware on one core; texts. `layers`: name, instructions, share of all (0..1), the most expensive first."""

    artifact: str
    target: str
    instructions: str
    cycles: str
    flash: str
    flash_parts: str
    ram: str
    ram_parts: str
    verdict: str  # whether it fits the board; empty without one
    fits: bool
    energy: str
    layers: list[tuple[str, str, float]]


def devices(entries: Sequence[Mapping[str, Any]]) -> list[Device]:
    """The devices of a report's artifacts, which name them by target."""
    return [
        device(str(entry["name"]), target, told)
        for entry in entries
        for target, told in entry.get("devices", {}).items()
        if "instructions" in told
    ]


def measured(measurements: Sequence[Mapping[str, Any]]) -> Iterator[Device]:
    """Those of a bench."""
    for m in measurements:
        if "instructions" in m:
            yield device(str(m["artifact"]).rpartition("/")[2], str(m["target"]), m)


def device(name: str, target: str, told: Mapping[str, Any]) -> Device:
    """One of them, from `figures()` of its session."""
    counts, flash, ram = told["instructions"], told["flash"], told["ram"]
    board, energy = told.get("board") or {}, told.get("energy") or {}
    total = max(counts["total"], 1)
    layers = sorted(counts.get("layers", ()), key=lambda layer: -layer["instructions"])[:LAYERS]
    joules = energy.get("joules")
    return Device(
        name, target, f"{counts['total']:,}", f"{told['cycles']['total']:,}", figures.size(flash["total"]),
        f"code {figures.size(flash['code'])}, constants {figures.size(flash['constants'])}", figures.size(ram["total"]),
        f"arena {figures.size(ram['arena'])}, stack {figures.size(ram['stack'])}, static {figures.size(ram['static'])}",
        "" if not board else "fits" if board["fits"] else f"does not fit: {board['advice']}", bool(board.get("fits", True)),
        "" if joules is None else f"{joules * 1e6:,.3g} µJ",
        [(layer["name"], f"{layer['instructions']:,}", layer["instructions"] / total) for layer in layers],
    )  # fmt: skip
