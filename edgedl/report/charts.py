"""Latency distributions, error and size of every layer, change of every class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import figures
from .document import IDENTICAL_DB, ClassChange, Document, Latency, Layer
from .scatter import CHARACTER, FORMATS
from .summary import Row, rows
from .svg import Scale, Svg, canvas, el, group, linear_ticks, nice, short, tip, x_axis, y_axis

WIDTH = 880
BINS = 100
ROW = 50  # height of one distribution
MARKS = (("p50", "50 % of the runs took at most"), ("p90", "90 %"), ("p99", "99 %"))


def distributions(document: Document, target: str) -> Svg | None:
    """A histogram of the raw latencies of each file on one target, over one axis, with p50, p90 and p99 marked."""
    found = [(row, row.latency[target]) for row in rows(document) if target in row.latency]
    if not found:
        return None
    axis = _time_axis([latency for _, latency in found])
    bottom = 24 + ROW * len(found)
    kind = "logarithmic" if axis.log else "from zero" if axis.low == 0 else "does not begin at zero"
    parts = [
        x_axis(axis, bottom, 18, figures.time, f"latency of one inference on {target} ({kind})"),
        *(el("text", name, x=at, y=12, class_="title", text_anchor="end") for name, at in zip(("p50", "p90", "p99"), (742, 808, 874), strict=True)),
    ]  # fmt: skip
    for i, (row, latency) in enumerate(found):
        parts.append(_distribution(row, latency, axis, 24 + ROW * (i + 1)))
    told = "; ".join(f"{row.name} p50 {figures.time(m['p50'])}, p99 {figures.time(m['p99'])}" for row, m in found)
    return canvas(WIDTH, bottom + 42, *parts, label=f"Distribution of the latency on {target}: {told}", class_="wide")


def beyond(document: Document, target: str) -> str:
    """How many samples lie right of the axis, as a sentence; empty when none does."""
    found = [row.latency[target] for row in rows(document) if target in row.latency]
    high = _time_axis(found).high
    outside = sum(v > high for m in found for v in m.get("samples", []))
    most = max((v for m in found for v in m.get("samples", [])), default=0.0)
    total = sum(len(m.get("samples", [])) for m in found)
    return (
        f"{outside} of {total:,} runs took longer than the axis shows, at most {figures.time(most)}." if outside else ""
    )


def _time_axis(found: Sequence[Latency]) -> Scale:
    """From the fastest run to just past the slowest p99; from zero when that costs little; log when they differ widely."""
    low = min(min([*m.get("samples", []), m["p50"]]) for m in found)
    high = max(m["p99"] for m in found) * 1.08
    high = max(high, low * 1.02, 1e-6)
    if high / max(low, 1e-9) > 12:
        return Scale(max(low, 1e-3) / 1.1, high * 1.1, 190, 680, log=True)
    return Scale(0.0 if low < 0.4 * high else low - 0.03 * (high - low), high, 190, 680)


def _distribution(row: Row, latency: Latency, axis: Scale, y: float) -> Svg:
    kind = f"f{FORMATS.index(row.format)}" if row.format in FORMATS else "f9"
    samples = latency.get("samples", [])
    runs = latency.get("runs", len(samples))
    parts = [
        el("text", short(row.name, 28), x=0, y=y - 20, class_="label strong" if row.role == "artifact" else "label"),
        el("text", f"{runs:,} runs" if runs else "", x=0, y=y - 6, class_="tick"),
        el("line", x1=axis.start, x2=axis.end, y1=y, y2=y, class_="axis"),
        _histogram(samples, axis, y, "area" if row.role == "artifact" else "area pale"),
    ]
    for (name, words), at in zip(MARKS, (742, 808, 874), strict=True):
        value = latency[name]  # type: ignore[literal-required]
        place = axis.clamp(value)
        text = f"{row.name}: {words} {figures.time(value)}"
        mark = el("line", x1=place, x2=place, y1=y, y2=y - ROW + 14, class_=f"mark {name}")
        parts += [
            group(mark, tip(text), data_tip=text),
            el("text", figures.time(value), x=at, y=y - 12, class_="value", text_anchor="end"),
        ]
    return group(*parts, class_=kind)


def _histogram(samples: Sequence[float], axis: Scale, y: float, class_: str) -> Svg:
    """Counts of the samples in equal bins of the axis; the fullest bin has the full height."""
    counts = [0] * BINS
    for value in samples:
        if axis.low <= value <= axis.high:
            counts[min(BINS - 1, int((axis(value) - axis.start) / (axis.end - axis.start) * BINS))] += 1
    most = max(counts) or 1
    wide = (axis.end - axis.start) / BINS
    path = [f"M{axis.start:g} {y:g}"]
    for i, n in enumerate(counts):
        top = y - n / most * (ROW - 18)
        path.append(f"V{top:.1f}H{axis.start + (i + 1) * wide:.1f}")
    return el("path", d="".join([*path, f"V{y:g}Z"]), class_=class_)


def layers(found: Sequence[Layer]) -> Svg | None:
    """Along the network from input to output: the SQNR of every layer above, its bytes below."""
    shown = [layer for layer in found if layer["sqnr_db"] is not None]
    if not shown:
        return None
    left, right, top, middle, bottom = 58, WIDTH - 6, 30, 210, 300
    wide = (right - left) / len(found)
    finite = [layer["sqnr_db"] for layer in shown if abs(layer["sqnr_db"] or 0.0) < IDENTICAL_DB]
    low, high = min([0.0, *(v or 0.0 for v in finite)]), max([30.0, *(v or 0.0 for v in finite)])
    error = Scale(low, high * 1.05, middle, top)
    most = max((layer["bytes"] for layer in found), default=0)
    size = Scale(0.0, (most or 1) * 1.08, bottom, middle + 34)
    parts = [
        y_axis(error, left, right, lambda v: f"{v:g}".replace("-", "−"), "SQNR (dB): error of the layer's output, lower is worse"),
        y_axis(size, left, right, figures.size, "", 3),
        el("text", "weights (bytes)", x=0, y=middle + 25, class_="title"),
        el("line", x1=left, x2=right, y1=error(0), y2=error(0), class_="axis"),
        el("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"),
        *_layer_bars(found, left, wide, error, size),
        *_worst_names(found, left, wide, error),
        *_numbers(len(found), left, wide, bottom),
        el("text", "layer, from input to output", x=(left + right) / 2, y=bottom + 32, class_="title", text_anchor="middle"),
    ]  # fmt: skip
    worst = min(shown, key=_db)
    label = f"{len(found)} layers; the worst is {worst['name']} with {figures.decibel(worst['sqnr_db'])}"
    return canvas(WIDTH, bottom + 40, *parts, label=label, class_="wide")


def _db(layer: Layer) -> float:
    return IDENTICAL_DB if layer["sqnr_db"] is None else layer["sqnr_db"]


def worst_layers(found: Sequence[Layer], most: int) -> list[Layer]:
    """The layers with the lowest SQNR, worst first; those without one left out."""
    return sorted((layer for layer in found if layer["sqnr_db"] is not None), key=_db)[:most]


def _layer_bars(found: Sequence[Layer], left: float, wide: float, error: Scale, size: Scale) -> Iterator[Svg]:
    worst = {id(layer) for layer in worst_layers(found, 3)}
    gap = min(2.0, wide * 0.2)
    for i, layer in enumerate(found):
        x, words = (
            left + i * wide + gap / 2,
            f"{i + 1}. {layer['name']} ({layer['op']}): {figures.decibel(layer['sqnr_db'])}, {figures.size(layer['bytes'])}",
        )
        bars = [el("rect", x=x, y=error.end, width=wide - gap, height=size.start - error.end, class_="hover")]
        if layer["sqnr_db"] is not None:
            y = error.clamp(layer["sqnr_db"])
            kind = "same" if layer["sqnr_db"] >= IDENTICAL_DB else "worst" if id(layer) in worst else "error"
            bars.append(_bar(x, y, error(0), wide - gap, kind))
        bars.append(_bar(x, size(layer["bytes"]), size.start, wide - gap, "bytes"))
        yield group(*bars, tip(words), data_tip=words)


def _bar(x: float, y: float, zero: float, wide: float, class_: str) -> Svg:
    return el("rect", x=x, y=min(y, zero), width=wide, height=max(abs(zero - y), 0.4), class_=class_)


def _worst_names(found: Sequence[Layer], left: float, wide: float, error: Scale) -> Iterator[Svg]:
    """The names of the worst layers over their bars, where they do not cover each other."""
    places = {id(layer): i for i, layer in enumerate(found)}
    taken: list[tuple[float, float]] = []
    for layer in worst_layers(found, 3):
        if layer["sqnr_db"] is None or layer["sqnr_db"] >= IDENTICAL_DB:
            continue
        text = f"{short(layer['name'], 24)} {figures.decibel(layer['sqnr_db'])}"
        half = len(text) * CHARACTER / 2
        x = min(max(left + (places[id(layer)] + 0.5) * wide, left + half), WIDTH - half)
        if any(abs(x - other) < half + room + 8 for other, room in taken):
            continue
        taken.append((x, half))
        y = max(error.clamp(layer["sqnr_db"]), error.end + 16) - 5
        yield el("text", text, x=x, y=y, class_="label halo", text_anchor="middle")


def _numbers(count: int, left: float, wide: float, bottom: float) -> Iterator[Svg]:
    for value in {1, *(int(v) for v in linear_ticks(0, count, 10) if v >= 1 and v == int(v))}:
        yield el("text", str(value), x=left + (value - 0.5) * wide, y=bottom + 15, class_="tick", text_anchor="middle")


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
    bar = el(
        "rect",
        x=100 - wide if points < 0 else 100,
        y=2,
        width=wide,
        height=10,
        class_="lost" if points < 0 else "gained",
    )
    middle = el("line", x1=100, x2=100, y1=0, y2=14, class_="middle")
    return el(
        "svg", bar, middle, viewBox="0 0 200 14", preserveAspectRatio="none", class_="cellbar", aria_hidden="true"
    )


def share_bar(share: float) -> Svg:
    """A bar of a share of the widest, 0..1."""
    bar = el("rect", x=0, y=2, width=max(share, 0.002) * 200, height=10, class_="spent")
    return el("svg", bar, viewBox="0 0 200 14", preserveAspectRatio="none", class_="cellbar", aria_hidden="true")


def change_curve(found: Sequence[ClassChange]) -> Svg | None:
    """Every class, sorted by its change, as one stepped area: who lost is left, who gained right."""
    values = sorted(v for v in map(change, found) if v is not None)
    if len(values) < 2:
        return None
    most = change_scale(found)
    left, right = 58, WIDTH - 6
    scale, wide = Scale(-most, most, 150, 26), (right - left) / len(values)
    zero = scale(0)
    steps = "".join(f"V{scale(v):.1f}H{left + (i + 1) * wide:.1f}" for i, v in enumerate(values))
    lost, gained = sum(v < 0 for v in values), sum(v > 0 for v in values)
    split = left + lost * wide
    parts = [
        y_axis(scale, left, right, lambda v: f"{v:+g}".replace("-", "−") if v else "0", "change of a class (points)"),
        el("path", d=f"M{left} {zero:g}{steps}V{zero:g}Z", class_="area curve"),
        el("line", x1=left, x2=right, y1=zero, y2=zero, class_="axis"),
        el("text", f"{lost} lost", x=left + 2, y=164, class_="tick"),
        el("text", f"{gained} gained", x=right, y=164, class_="tick", text_anchor="end"),
    ]
    if 60 < split - left < right - left - 130 and gained + lost < len(values):
        parts.append(
            el(
                "text",
                f"{len(values) - lost - gained} unchanged",
                x=(left + right) / 2,
                y=164,
                class_="tick",
                text_anchor="middle",
            )
        )
    return canvas(WIDTH, 172, *parts, label=f"{lost} classes lost, {gained} gained, of {len(values)}", class_="wide")
