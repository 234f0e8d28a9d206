"""The report for a terminal: before and after, two lines a file, warnings last; standard library only."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import figures
from .devices import NOTE, Device, devices, measured
from .document import Document, parse, printable
from .faithfulness import faithfulness_line
from .proof import proof_line, transposes
from .stages import savings, stage_rows
from .summary import Row, headline, lead, rows, speed, targets

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"
GAP = "  "


@dataclass(frozen=True, slots=True)
class Cell:
    """Text in a column: its value, its comment on the line below, and their colours."""

    text: str
    below: str = ""
    style: str = ""
    below_style: str = DIM


@dataclass(frozen=True, slots=True)
class Paint:
    """Colours, or none."""

    color: bool

    def __call__(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self.color and style and text else text


def render_terminal(document: Mapping[str, Any], *, width: int | None = None, color: bool | None = None) -> str:
    """The report as text at most `width` columns wide (that of the terminal), with colours where stdout is one.

    Raises UsageError when the document is not a report.
    """
    found = parse(document)
    width, paint = _setting(width, color)
    table = rows(found)
    best = lead(table)
    parts = [_wrapped(f"{best.name}: {headline(found, table)}" if best else headline(found, table), width, paint, BOLD)]
    parts.append(_before_and_after(found, table, width, paint))
    parts.append(_devices(devices(found["artifacts"]), width, paint))
    parts += [f"firmware  {made['folder']}" for made in found.get("firmware", [])]
    parts.append(_stages(found, width, paint))
    parts += _savings(found, width, paint)
    parts.append(_notes(found, table, width, paint))
    return "\n\n".join(p for p in parts if p)


def _before_and_after(document: Document, table: Sequence[Row], width: int, paint: Paint) -> str:
    """The table; where it does not fit, names on lines of their own and no intervals; else a block for each file."""
    header, full = _header(document), [_cells(row, document, False) for row in table]
    if not _fits(header, full, width):
        dense = [_cells(row, document, True) for row in table]
        below = [[replace(row[0], text=row[0].below, below=""), *row[1:]] for row in dense]
        if _fits(header, below, width):
            return _table(header, below, width, paint, [row[0] for row in dense])
    return _table(header, full, width, paint)


def _devices(found: Sequence[Device], width: int, paint: Paint) -> str:
    """What microcontrollers told; nothing where none did."""
    header = [
        "firmware",
        "target",
        "instructions",
        "cycles (est.)",
        "flash",
        "RAM",
        *(["board"] if any(d.verdict for d in found) else []),
    ]
    body = [
        [Cell(d.artifact, style=BOLD), Cell(d.target), Cell(d.instructions), Cell(d.cycles), Cell(d.flash, d.flash_parts),
         Cell(d.ram, d.ram_parts), *([Cell(d.verdict, style="" if d.fits else RED)] if len(header) > 6 else [])]
        for d in found
    ]  # fmt: skip
    return _table(header, body, width, paint) if found else ""


def _stages(document: Document, width: int, paint: Paint) -> str:
    """The network after each stage that changed it; nothing where none did."""
    found = stage_rows(document)
    metric = [document["data"]["metric"]] if document["original"]["metrics"] else []
    body = [
        [Cell(row.name, style=BOLD), Cell(row.macs), Cell(row.parameters), *([Cell(row.metric, row.change)] if metric else []),
         Cell("" if row.seconds is None else figures.seconds(row.seconds))]
        for row in found
    ]  # fmt: skip
    return _table(["network", "MACs", "parameters", *metric, "time"], body, width, paint) if found else ""


def _savings(document: Document, width: int, paint: Paint) -> list[str]:
    """What the stages bought: a table for each artifact that has a twin made of the unchanged model, then notes."""
    tones, found = {"good": GREEN, "bad": RED, "even": DIM}, [t for t in savings(document) if t.is_artifact]
    tables = [
        _table(
            [f"bought in {table.title}", "as it came", "changed", "verdict"],
            [[Cell(r.title), Cell(r.before), Cell(r.after), Cell(r.verdict, style=tones[r.tone])] for r in table.lines],
            width, paint,
        )
        for table in found
    ]  # fmt: skip
    notes = dict.fromkeys(note for table in found for note in table.notes)
    return [*tables, "\n".join(_wrapped(note, width, paint, DIM, "  ") for note in notes)]


def bench_table(
    measurements: Sequence[Mapping[str, Any]], *, width: int | None = None, color: bool | None = None
) -> str:
    """`Measurement.to_json()` objects as a table: rows artifact x target.

    Below each median stands what it is worth against the first artifact on the same target.
    """
    width, paint = _setting(width, color)
    found = [printable(m) for m in measurements]
    scored = any(m.get("metrics") for m in found)
    header = ["artifact", "target", "size", "p50", "95 % interval", "p90", "p99", "load", "memory"]
    first: dict[str, Mapping[str, Any]] = {}
    body = [_bench_cells(m, first.setdefault(m["target"], m), scored) for m in found]
    small = _devices(list(measured(found)), width, paint)
    table = _table([*header, *(["metric"] if scored else [])], body, width, paint)
    return f"{table}\n\n{small}\n{_wrapped(NOTE, width, paint, DIM)}" if small else table


def _bench_cells(m: Mapping[str, Any], base: Mapping[str, Any], scored: bool) -> list[Cell]:
    latency, load = m["latency_us"], m.get("load_ms")
    verdict, style = "", DIM
    if m is not base:
        gain = speed(base["latency_us"], latency)
        verdict, style = gain.text, _verdict_style(gain.real, gain.times)
    between = figures.interval(*latency["ci95"]) if latency.get("ci95") else figures.NOTHING
    row = [
        Cell(str(m["artifact"]).rpartition("/")[2], style=BOLD),
        Cell(str(m["target"])),
        Cell(figures.size(m.get("bytes"))),
        Cell(figures.time(latency["p50"]), verdict, below_style=style),
        Cell(between),
        Cell(figures.time(latency["p90"])),
        Cell(figures.time(latency["p99"])),
        Cell(figures.NOTHING if load is None else figures.time(load * 1e3)),
        Cell(figures.size(_memory(m))),
    ]
    if scored:
        texts = [f"{name} {figures.metric(name, value)}" for name, value in m.get("metrics", {}).items()]
        row.append(Cell(texts[0] if texts else figures.NOTHING, ", ".join(texts[1:])))
    return row


def _memory(m: Mapping[str, Any]) -> float | None:
    """Peak bytes of a measurement: a plain number, or the largest part of a table of them."""
    memory = m.get("memory", m.get("peak_bytes"))
    if isinstance(memory, Mapping):
        memory = memory.get("peak_bytes")
    return memory if isinstance(memory, int | float) else None


def _setting(width: int | None, color: bool | None) -> tuple[int, Paint]:
    if width is None:
        width = shutil.get_terminal_size((100, 24)).columns
    if color is None:
        color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return width, Paint(color)


def _header(document: Document) -> list[str]:
    metric = document["data"]["metric"] if document["original"]["metrics"] else ""
    latency = [f"p50 on {t}" for t in targets(document)]
    return ["model", "size", *([metric] if metric else []), "agrees", *latency, *(["memory"] if latency else [])]


def _cells(row: Row, document: Document, dense: bool) -> list[Cell]:
    """A row of the table; `dense`: without intervals, shorter words."""
    metric = document["data"]["metric"]
    cells = [
        Cell(row.name, f"  {' '.join(filter(None, (row.role if row.role == 'original' else '', row.format, row.scheme)))}",
             BOLD if row.role == "artifact" else ""),
        Cell(figures.size(row.bytes), row.size_change, below_style=GREEN if (row.smaller or 0) > 1 else DIM),
    ]  # fmt: skip
    if document["original"]["metrics"]:
        change = row.change.replace("points", "pt") if dense else row.change
        cells.append(Cell(figures.metric(metric, row.metric), change, below_style=DIM if row.within_limits else RED))
    original = row.role == "original"
    cells.append(Cell("" if original else row.agreement_text))
    for target in targets(document):
        latency, gain = row.latency.get(target), row.speed.get(target)
        between = f" [{figures.interval(*latency['ci95'])}]" if latency and latency.get("ci95") and not dense else ""
        text = f"{figures.time(latency['p50'])}{between}" if latency else "" if original else figures.NOTHING
        style = _verdict_style(gain.real, gain.times) if gain else DIM
        verdict = gain.text if gain else ""
        cells.append(Cell(text, verdict.removesuffix(" found") if dense else verdict, below_style=style))
    if targets(document):
        peak = row.entry.get("peak_bytes") if row.entry else None
        cells.append(Cell("" if original else figures.size(peak)))
    return cells


def _verdict_style(real: bool, times: float) -> str:
    return DIM if not real else GREEN if times >= 1 else YELLOW


def _widths(header: Sequence[str], body: Sequence[Sequence[Cell]]) -> list[int]:
    columns = [[title, *(t for row in body for t in (row[i].text, row[i].below))] for i, title in enumerate(header)]
    return [max(map(len, column)) for column in columns]


def _fits(header: Sequence[str], body: Sequence[Sequence[Cell]], width: int) -> bool:
    widths = _widths(header, body)
    return sum(widths) + len(GAP) * (len(widths) - 1) <= width


def _table(
    header: Sequence[str], body: Sequence[Sequence[Cell]], width: int, paint: Paint, titles: Sequence[Cell] = ()
) -> str:
    """Columns where they fit, each row below its title if there are titles; else one block a row."""
    if not _fits(header, body, width):
        return "\n\n".join(_block(header, row, width, paint) for row in body)
    widths = _widths(header, body)
    lines = [_line([(title, DIM) for title in header], widths, paint)]
    for i, row in enumerate(body):
        lines += [paint(_short(titles[i].text, width), titles[i].style)] if titles else []
        lines.append(_line([(c.text, c.style if j or not titles else DIM) for j, c in enumerate(row)], widths, paint))
        if any(c.below.strip() for c in row):
            lines.append(_line([(c.below, c.below_style) for c in row], widths, paint))
    return "\n".join(lines)


def _line(cells: Sequence[tuple[str, str]], widths: Sequence[int], paint: Paint) -> str:
    """One line of text, the first column to the left, the figures to the right."""
    parts = []
    for i, ((text, style), width) in enumerate(zip(cells, widths, strict=True)):
        room = " " * (width - len(text))
        parts.append(paint(text, style) + room if i == 0 else room + paint(text, style))
    return GAP.join(parts).rstrip()


def _block(header: Sequence[str], row: Sequence[Cell], width: int, paint: Paint) -> str:
    lines = [paint(_short(row[0].text, width), BOLD)]
    if row[0].below.strip():
        lines.append(paint(_short(f"  {row[0].below.strip()}", width), row[0].below_style))
    left = max(len(title) for title in header[1:])
    for title, cell in zip(header[1:], row[1:], strict=True):
        text, note = cell.text.strip(), cell.below.strip()
        if not text:
            continue
        apart = "  " if left + len(text) + len(note) + 6 <= width else f"\n{' ' * (left + 4)}"
        lines.append(f"  {paint(title.ljust(left), DIM)}  {text}{apart if note else ''}{paint(note, cell.below_style)}")
    return "\n".join(lines)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width - 1, 1)]}…"


def _wrapped(text: str, width: int, paint: Paint, style: str, indent: str = "") -> str:
    lines = textwrap.wrap(" ".join(text.split()), max(width, 20), subsequent_indent=indent)
    return "\n".join(paint(line, style) for line in lines)


def _notes(document: Document, table: Sequence[Row], width: int, paint: Paint) -> str:
    """What is left float, what failed, and the warnings."""
    lines = [(line, DIM) for line in (proof_line(document["model"].get("proof", [])),) if line]
    imported = bool(lines)
    for row in table:
        if row.entry and row.role == "artifact" and row.entry.get("transposes") and imported:
            lines.append((f"{row.name}: {transposes(row.entry)} left", DIM))
        faithful = faithfulness_line(row.entry) if row.entry and row.role == "artifact" else ""
        lines += [(f"{row.name}: {faithful}", DIM)] if faithful else []
        kept = row.entry.get("left_float", []) if row.entry and row.role == "artifact" else []
        if kept:
            shown = ", ".join(k["layer"] for k in kept[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")
            stay = "1 layer stays" if len(kept) == 1 else f"{len(kept)} layers stay"
            lines.append((f"{row.name}: {stay} float: {shown} ({kept[0]['why']})", DIM))
    lines += [(f"! {f['step']}: {f['message']}", RED) for f in document.get("failures", [])]
    own = [f"{a['name']}: {w}" for a in document["artifacts"] for w in a.get("warnings", [])]
    lines += [(f"! {text}", YELLOW) for text in dict.fromkeys([*document["warnings"], *own])]
    return "\n".join(_wrapped(text, width, paint, style, "  ") for text, style in lines)
