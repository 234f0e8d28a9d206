"""Latency distributions, error and size of every layer, change of every class; all as wide as the page allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from . import figures
from .document import IDENTICAL_DB, ClassChange, Document, Latency, Layer
from .scatter import colour
from .summary import Row, rows
from .svg import Scale, Svg, at, el, fluid, fluid_x_axis, group, linear_ticks, nice, short, tip

BINS = 120
ROW = 84.0  # height of one distribution, of which the histogram takes HIGH
HIGH = 36.0
MARKS = (("p50", "half of the runs took at most"), ("p90", "90 % took at most"), ("p99", "99 % took at most"))
NAME_CHARACTER = 0.9  # width of a character of a layer's name, in percent of a drawing 720 pixels wide
GUTTER = 52.0  # width of the column of axis labels


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing and, in a column of fixed width to its left, the labels of its vertical axis."""

    axis: Svg
    body: Svg


def distributions(document: Document, target: str) -> Svg | None:
    """A histogram of the raw latencies of each file on one target, over one axis, with p50, p90 and p99 marked."""
    found = [(row, row.latency[target]) for row in rows(document) if target in row.latency]
    if not found:
        return None
    axis = _time_axis([latency for _, latency in found])
    bottom = ROW * len(found)
    kind = "logarithmic" if axis.log else "from zero" if axis.low == 0 else "does not begin at zero"
    parts = [fluid_x_axis(axis, bottom, 0, figures.time, f"latency of one inference on {target} ({kind})")]
    for i, (row, latency) in enumerate(found):
        parts.append(_distribution(row, latency, axis, ROW * (i + 1)))
    told = "; ".join(f"{row.name} p50 {figures.time(m['p50'])}, p99 {figures.time(m['p99'])}" for row, m in found)
    return fluid(bottom + 40, *parts, label=f"Distribution of the latency on {target}: {told}")


def beyond(document: Document, target: str) -> str:
    """What the distributions do not show: runs past the axis, runs that never became steady. Empty when nothing."""
    found = [(row, row.latency[target]) for row in rows(document) if target in row.latency]
    if not found:
        return ""
    high = _time_axis([m for _, m in found]).high
    samples = [v for _, m in found for v in m.get("samples", [])]
    outside = [v for v in samples if v > high]
    texts = []
    if outside:
        took = f"took longer than the axis shows, at most {figures.time(max(outside))}"
        texts.append(f"{len(outside):,} of the {len(samples):,} runs drawn {took}.")
    unsteady = [row.name for row, m in found if m.get("warmup", {}).get("stationary") is False]
    if unsteady:
        texts.append(f"Warming up never became steady for {', '.join(unsteady)}: take these with care.")
    return " ".join(texts)


def _time_axis(found: Sequence[Latency]) -> Scale:
    """To the slowest p99, or twice the slowest p90 where a few runs took far longer; from zero where that costs little
    room, logarithmic where the files differ widely.
    """
    low = min(min([*m.get("samples", []), m["p50"]]) for m in found)
    high = max(max(min(m["p99"] * 1.06, m["p90"] * 2) for m in found), low * 1.02, 1e-6)
    if high / max(low, 1e-9) > 30:
        return Scale(max(low, 1e-3) / 1.1, high * 1.1, 0, 100, log=True)
    return Scale(0.0 if low < 0.5 * high else low - 0.03 * (high - low), high, 0, 100)


def _distribution(row: Row, latency: Latency, axis: Scale, y: float) -> Svg:
    samples = latency.get("samples", [])
    runs = latency.get("runs", len(samples))
    told = " · ".join(f"{name} {figures.time(latency[name])}" for name, _ in MARKS)  # type: ignore[literal-required]
    strong = " strong" if row.role == "artifact" else ""
    parts = [
        el("text", short(row.name, 34), x=0, y=y - ROW + 22, class_=f"label{strong} halo"),
        el("text", _counted(runs, len(samples)), x="100%", y=y - ROW + 22, class_="tick halo", text_anchor="end"),
        el("text", told, x=0, y=y - ROW + 37, class_="value halo"),
        el("line", x1=0, x2="100%", y1=y, y2=y, class_="axis"),
        _histogram(samples, axis, y, "area" if row.role == "artifact" else "area pale"),
    ]
    for name, words in MARKS:
        value: float = latency[name]  # type: ignore[literal-required]
        if value > axis.high:
            continue
        place, text = at(axis.clamp(value)), f"{row.name}: {words} {figures.time(value)}"
        mark = el("line", x1=place, x2=place, y1=y, y2=y - HIGH, class_=f"mark {name}")
        wide = el("line", x1=place, x2=place, y1=y, y2=y - HIGH, class_="target")
        parts.append(group(wide, mark, tip(text), data_tip=text))
    return group(*parts, class_=colour(row.format))


def _counted(runs: int, kept: int) -> str:
    if not runs:
        return ""
    return f"{runs:,} runs" if kept >= runs else f"{runs:,} runs, {kept:,} drawn"


def _histogram(samples: Sequence[float], axis: Scale, y: float, class_: str) -> Svg:
    """Counts of the samples in equal bins of the axis; the fullest bin has the full height."""
    counts = [0] * BINS
    for value in samples:
        if axis.low <= value <= axis.high:
            counts[min(BINS - 1, int(axis(value) / 100 * BINS))] += 1
    most = max(counts) or 1
    steps = "".join(f"V{HIGH - n / most * (HIGH - 3):.1f}H{i + 1}" for i, n in enumerate(counts))
    path = el("path", d=f"M0 {HIGH:g}{steps}V{HIGH:g}Z", class_=class_)
    return el(
        "svg",
        path,
        x=0,
        y=y - HIGH,
        width="100%",
        height=HIGH,
        viewBox=f"0 0 {BINS} {HIGH:g}",
        preserveAspectRatio="none",
    )


def layers(found: Sequence[Layer]) -> Plot | None:
    """Along the network from input to output: the SQNR of every layer above, its bytes below."""
    shown = [layer for layer in found if layer["sqnr_db"] is not None]
    if not shown:
        return None
    top, middle, bottom = 22.0, 204.0, 288.0
    wide = 100 / len(found)
    finite = [_db(layer) for layer in shown if abs(_db(layer)) < IDENTICAL_DB]
    error = Scale(min([0.0, *finite]), max([30.0, *finite]) * 1.05, middle, top)
    size = Scale(0.0, (max(layer["bytes"] for layer in found) or 1) * 1.08, bottom, middle + 30)
    ticks = [*_y_ticks(error, 5, lambda v: f"{v:g} dB"), *_y_ticks(size, 2, figures.size)]
    body = [
        *(el("line", x1=0, x2="100%", y1=y, y2=y, class_="grid") for y, _ in ticks),
        el("line", x1=0, x2="100%", y1=error(0), y2=error(0), class_="axis"),
        el("line", x1=0, x2="100%", y1=bottom, y2=bottom, class_="axis"),
        *_layer_bars(found, wide, error, size),
        *_worst_names(found, wide, error),
        *_numbers(len(found), wide, bottom),
        el("text", "layer, from input to output", x="50%", y=bottom + 32, class_="title", text_anchor="middle"),
    ]
    worst = min(shown, key=_db)
    label = f"{len(found)} layers; the worst is {worst['name']} with {figures.decibel(worst['sqnr_db'])}"
    return Plot(_y_labels(bottom + 38, ticks), fluid(bottom + 38, *body, label=label))


def _y_ticks(scale: Scale, most: int, text: Callable[[float], str]) -> list[tuple[float, str]]:
    """(place, label) of each tick."""
    return [(scale(v), text(v).replace("-", "−")) for v in scale.ticks(most)]


def _y_labels(height: float, ticks: Sequence[tuple[float, str]]) -> Svg:
    marks = [el("text", text, x=GUTTER - 6, y=y + 3.5, class_="tick", text_anchor="end") for y, text in ticks]
    return el("svg", *marks, width=GUTTER, height=height, class_="chart", aria_hidden="true")


def _db(layer: Layer) -> float:
    return IDENTICAL_DB if layer["sqnr_db"] is None else layer["sqnr_db"]


def worst_layers(found: Sequence[Layer], most: int) -> list[Layer]:
    """The layers with the lowest SQNR, worst first; those without one left out."""
    return sorted((layer for layer in found if layer["sqnr_db"] is not None), key=_db)[:most]


def _layer_bars(found: Sequence[Layer], wide: float, error: Scale, size: Scale) -> Iterator[Svg]:
    worst = {id(layer) for layer in worst_layers(found, 3)}
    for i, layer in enumerate(found):
        x, w = at(i * wide + 0.1 * wide), at(wide * 0.8)
        words = f"{i + 1}. {layer['name']} ({layer['op']}): {figures.decibel(layer['sqnr_db'])}, {figures.size(layer['bytes'])}"
        bars = [el("rect", x=x, y=error.end, width=w, height=size.start - error.end, class_="hover")]
        if layer["sqnr_db"] is not None:
            kind = "same" if layer["sqnr_db"] >= IDENTICAL_DB else "worst" if id(layer) in worst else "error"
            bars.append(_bar(x, error.clamp(layer["sqnr_db"]), error(0), w, kind))
        bars.append(_bar(x, size(layer["bytes"]), size.start, w, "bytes"))
        yield group(*bars, tip(words), data_tip=words)


def _bar(x: str, y: float, zero: float, wide: str, class_: str) -> Svg:
    return el("rect", x=x, y=min(y, zero), width=wide, height=max(abs(zero - y), 0.4), class_=class_)


def _worst_names(found: Sequence[Layer], wide: float, error: Scale) -> Iterator[Svg]:
    """The names of the worst layers above the plot, each with a line down to its bar, where there is room."""
    places = {id(layer): i for i, layer in enumerate(found)}
    taken: list[tuple[float, float]] = []
    for layer in worst_layers(found, 3):
        x = (places[id(layer)] + 0.5) * wide
        text = f"{short(layer['name'], 26)} {figures.decibel(layer['sqnr_db'])}"
        room = len(text) * NAME_CHARACTER
        anchor, left = (
            ("start", x) if x < room / 2 else ("end", x - room) if x > 100 - room / 2 else ("middle", x - room / 2)
        )
        if _db(layer) >= IDENTICAL_DB or any(left < end and start < left + room for start, end in taken):
            continue
        yield group(
            el("text", text, x=at(x), y=error.end - 10, class_="label", text_anchor=anchor),
            el("line", x1=at(x), x2=at(x), y1=error.end - 6, y2=error.clamp(_db(layer)), class_="leader"),
            class_="second" if taken else "first",
        )
        taken.append((left, left + room))


def _numbers(count: int, wide: float, bottom: float) -> Iterator[Svg]:
    for value in sorted({1, *(int(v) for v in linear_ticks(0, count, 7) if v >= 1 and v == int(v))}):
        if value == 1 or value * wide > 5:
            yield el("text", str(value), x=at((value - 0.5) * wide), y=bottom + 15, class_="tick", text_anchor="middle")


def change(found: ClassChange) -> float | None:
    """Points of accuracy that a class gained (negative: lost)."""
    if found["original"] is None or found["now"] is None:
        return None
    return (found["now"] - found["original"]) * 100


def change_scale(found: Sequence[ClassChange]) -> float:
    """The round number of points at both ends of the bars."""
    return nice(max([abs(change(c) or 0.0) for c in found], default=0.0) or 1.0)


def change_bar(points: float, scale: float) -> Svg:
    """A bar to the left (lost) or right (gained) of the middle; its text stands in the table cell beside it."""
    wide = min(abs(points) / scale, 1.0) * 100
    kind, x = ("lost", 100 - wide) if points < 0 else ("gained", 100)
    bar = el("rect", x=x, y=2, width=wide, height=10, class_=kind)
    return _cell(bar, el("line", x1=100, x2=100, y1=0, y2=14, class_="middle"))


def share_bar(share: float) -> Svg:
    """A bar of a share of the widest, 0..1."""
    return _cell(el("rect", x=0, y=2, width=max(share, 0.002) * 200, height=10, class_="spent"))


def _cell(*parts: Svg) -> Svg:
    return el("svg", *parts, viewBox="0 0 200 14", preserveAspectRatio="none", class_="cellbar", aria_hidden="true")


def change_curve(found: Sequence[ClassChange]) -> Plot | None:
    """Every class, sorted by its change, as one stepped area: who lost is left, who gained right."""
    values = sorted(v for v in map(change, found) if v is not None)
    if len(values) < 2:
        return None
    most, bottom = change_scale(found), 146.0
    scale = Scale(-most, most, bottom, 10)
    ticks = _y_ticks(scale, 5, lambda v: f"{v:+g}" if v else "0")
    steps = "".join(f"V{scale(v):.1f}H{i + 1}" for i, v in enumerate(values))
    area = el("path", d=f"M0 {scale(0):g}{steps}V{scale(0):g}Z", class_="area curve")
    lost, gained = sum(v < 0 for v in values), sum(v > 0 for v in values)
    body = [
        *(el("line", x1=0, x2="100%", y1=y, y2=y, class_="grid") for y, _ in ticks),
        el(
            "svg",
            area,
            width="100%",
            height=bottom,
            viewBox=f"0 0 {len(values)} {bottom:g}",
            preserveAspectRatio="none",
        ),
        el("line", x1=0, x2="100%", y1=scale(0), y2=scale(0), class_="axis"),
        el("text", f"{lost} lost", x=0, y=bottom + 16, class_="tick"),
        el(
            "text",
            f"{len(values) - lost - gained} unchanged",
            x="50%",
            y=bottom + 16,
            class_="tick",
            text_anchor="middle",
        ),
        el("text", f"{gained} gained", x="100%", y=bottom + 16, class_="tick", text_anchor="end"),
    ]
    label = f"Change of {len(values)} classes, sorted: {lost} lost, {gained} gained"
    return Plot(_y_labels(bottom + 22, ticks), fluid(bottom + 22, *body, label=label))
