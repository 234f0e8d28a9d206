"""Accuracy against size and latency: labelled points with error bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from . import figures
from .document import IDENTICAL_DB, Document
from .summary import Row, rows
from .svg import Scale, Svg, canvas, el, from_zero, group, padded, short, tip, x_axis, y_axis

WIDTH, HEIGHT = 460, 330
LEFT, RIGHT, TOP, BOTTOM = 52, 446, 30, 284
CHARACTER = 6.1  # mean width of a character of a label, in the drawing's units
LINE = 12.0  # height of a label
FORMATS = ("tflite", "onnx")
CROWD = 6  # more points than that have no bars and no lines between them


@dataclass(frozen=True, slots=True)
class Point:
    """A file in the plane; bars are (low, high) in the units of the axes."""

    label: str
    detail: str
    x: float
    y: float
    x_bar: tuple[float, float] | None
    y_bar: tuple[float, float] | None
    format: str
    hollow: bool
    key: str  # points of the same key are joined: the float file and what became of it


@dataclass(frozen=True, slots=True)
class Quality:
    """The vertical axis: what it shows and what it may hold."""

    title: str
    name: str  # of the metric; "" when it is SQNR
    floor: float
    ceiling: float
    least: float  # smallest extent of the axis
    original: float | None
    limit: float | None


def quality_axis(document: Document) -> Quality:
    """The metric, or without labels the top-1 agreement, or the SQNR."""
    data, metrics = document["data"], document["original"]["metrics"]
    before = metrics.get(data["metric"])
    most = document["limits"].get("max_drop")
    if before is not None:
        name, scaled = data["metric"], figures.bare(data["metric"]) in figures.RELATIVE
        sign = -1 if figures.bare(name) in figures.LOWER_IS_BETTER else 1
        limit = None if most is None else before - sign * most * (abs(before) if scaled else 1)
        arrow = "lower is better" if sign < 0 else "higher is better"
        unit = " (dB)" if figures.bare(name) == "psnr" else ""
        ceiling = float("inf") if scaled else 1.0
        return Quality(f"{name}{unit}, {arrow}", name, 0.0, ceiling, abs(before) * 0.02 or 0.02, before, limit)
    if any("top1_agreement" in a["agreement"] for a in document["artifacts"]):
        limit = None if most is None else 1 - most
        return Quality("agreement: share of the same class", "agreement", 0.0, 1.0, 0.02, 1.0, limit)
    return Quality("SQNR against the original (dB), higher is better", "", -20.0, 160.0, 20.0, None, None)


def scatter(document: Document, along: Literal["size", "latency"], target: str = "") -> Svg | None:
    """The chart, or None where fewer than two files have both figures."""
    axis = quality_axis(document)
    points = _points(document, axis, along, target)
    if len(points) < 2:
        return None
    x = from_zero([v for p in points for v in (p.x, *(p.x_bar or ()))], LEFT, RIGHT)
    y = _vertical(points, axis)
    unit = "bytes on disk" if along == "size" else f"median latency on {target}"
    base = "logarithmic" if x.log else "from zero"
    parts = [
        x_axis(x, BOTTOM, TOP, figures.size if along == "size" else figures.time, f"{unit} ({base})"),
        y_axis(y, LEFT, RIGHT, _tick(axis, y), axis.title),
        *_references(axis, y),
        *(_joins(points, x, y) if len(points) <= CROWD else ()),
        *(_mark(p, x, y) for p in points),
        *_labels(points, x, y, axis),
    ]
    label = f"{axis.title} against {unit}: " + "; ".join(p.detail for p in points)
    return canvas(WIDTH, HEIGHT, *parts, label=label)


def explained(document: Document) -> str:
    """What to know about the vertical axis and the bars, in sentences."""
    axis, samples = quality_axis(document), document["data"]["validation_samples"]
    points = _points(document, axis, "size", "")
    if not points:
        return ""
    texts = []
    low = _vertical(points, axis).low
    if low > 0:
        texts.append(f"The vertical axis does not begin at zero but at {figures.digits(low)}.")
    if any(abs(p.y) >= IDENTICAL_DB for p in points):
        texts.append("A point on the upper edge is identical to the original.")
    if figures.is_share(axis.name) and samples:
        known = "the files saw the same samples, so their difference is known better than that."
        if len(points) <= CROWD:
            texts.append(f"Vertical bars: 95 % interval of the figure itself on {samples:,} samples (Wilson); {known}")
        else:
            low, high = figures.wilson(min(max(points[0].y, 0.0), 1.0), samples)
            size = f"{(high - low) * 50:.1f}"
            texts.append(f"On {samples:,} samples each figure is known to about ±{size} points (95 %, Wilson); {known}")
    return " ".join(texts)


def legend(document: Document) -> list[tuple[str, str]]:
    """(class of the mark, words) of the kinds of points there are."""
    kinds = {(r.format, r.role == "baseline") for r in rows(document) if r.role != "original"}
    found = []
    for format, hollow in sorted(kinds, key=lambda k: (k[0] not in FORMATS, k[0] != "tflite", not k[1])):
        shape = f"{colour(format)}{' hollow' if hollow else ''}{'' if format == 'onnx' else ' round'}"
        found.append((shape, f"{'float32' if hollow else 'artifact'} .{format}"))
    return found


def colour(format: str) -> str:
    """The class that colours a format."""
    return f"f{FORMATS.index(format)}" if format in FORMATS else "f9"


def _points(document: Document, axis: Quality, along: str, target: str) -> list[Point]:
    found = list(_every_point(document, axis, along, target))
    return found if len(found) <= CROWD else [replace(p, x_bar=None, y_bar=None) for p in found]


def _every_point(document: Document, axis: Quality, along: str, target: str) -> Iterator[Point]:
    found = [r for r in rows(document) if r.role != "original"]
    same = [f"{r.scheme} {r.format}" for r in found]
    samples = document["data"]["validation_samples"]
    for row in found:
        y = _quality(row, axis)
        latency = row.latency.get(target)
        x = float(row.bytes) if along == "size" else latency["p50"] if latency else None
        if y is None or x is None:
            continue
        ci = latency.get("ci95") if latency and along == "latency" else None
        bar = figures.wilson(y, samples) if figures.is_share(axis.name) and samples and 0 <= y <= 1 else None
        title = f"{row.scheme} {row.format}"
        value = figures.metric(axis.name, y) if axis.name else figures.decibel(y)
        across = figures.size(x) if along == "size" else figures.time(x)
        yield Point(
            title if same.count(title) == 1 else short(row.name, 22),
            f"{row.name}: {value} at {across}",
            x, y, (ci[0], ci[1]) if ci else None, bar, row.format, row.role == "baseline", row.format,
        )  # fmt: skip


def _quality(row: Row, axis: Quality) -> float | None:
    if axis.name == "agreement" and row.metric is None:
        return row.agreement.get("top1_agreement")
    return row.metric if axis.name else row.agreement.get("sqnr_db")


def _vertical(points: Sequence[Point], axis: Quality) -> Scale:
    wanted = [v for p in points for v in (p.y, *(p.y_bar or ())) if abs(v) < IDENTICAL_DB]
    wanted += [v for v in (axis.original, axis.limit) if v is not None]
    return padded(wanted or [0.0], BOTTOM, TOP, axis.floor, axis.ceiling, axis.least)


def _tick(axis: Quality, scale: Scale) -> Callable[[float], str]:
    ticks = scale.ticks(5)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    places = max(0, min(6, -_exponent(step)))
    return lambda v: f"{v:.{places}f}".replace("-", "−")


def _exponent(step: float) -> int:
    return int(f"{step:e}".partition("e")[2])


def _references(axis: Quality, y: Scale) -> Iterator[Svg]:
    """Dashed lines at the original's value and at the limit."""
    for value, name, kind in ((axis.original, "original", "reference"), (axis.limit, "limit", "limit")):
        if value is not None and y.low <= value <= y.high:
            at = y(value)
            yield el("line", x1=LEFT, x2=RIGHT, y1=at, y2=at, class_=kind)
            text = f"{name} {figures.metric(axis.name, value)}"
            below = at - 4 if kind == "reference" else at + 12
            yield el("text", text, x=LEFT + 4, y=below, class_=f"{kind}-label halo")


def _joins(points: Sequence[Point], x: Scale, y: Scale) -> Iterator[Svg]:
    """A thin line from each float file to what became of it."""
    for start in (p for p in points if p.hollow):
        for end in (p for p in points if p.key == start.key and not p.hollow):
            yield el("line", x1=x(start.x), y1=y.clamp(start.y), x2=x(end.x), y2=y.clamp(end.y), class_="join")


def _mark(p: Point, x: Scale, y: Scale) -> Svg:
    at_x, at_y = x(p.x), y.clamp(p.y)
    bars = []
    if p.y_bar:
        bars.append(el("line", x1=at_x, x2=at_x, y1=y.clamp(p.y_bar[0]), y2=y.clamp(p.y_bar[1]), class_="bar"))
    if p.x_bar:
        bars.append(el("line", x1=x(p.x_bar[0]), x2=x(p.x_bar[1]), y1=at_y, y2=at_y, class_="bar"))
    hollow = " hollow" if p.hollow else ""
    if p.format == "onnx":
        shape = el("rect", x=at_x - 4.5, y=at_y - 4.5, width=9, height=9, class_=f"point{hollow}")
    else:
        shape = el("circle", cx=at_x, cy=at_y, r=5, class_=f"point{hollow}")
    return group(*bars, shape, tip(p.detail), class_=colour(p.format), data_tip=p.detail)


Box = tuple[float, float, float, float]


def _labels(points: Sequence[Point], x: Scale, y: Scale, axis: Quality) -> Iterator[Svg]:
    """Each label at the first free place around its point; far from it with a leader line; else none (the table has it)."""
    taken: list[Box] = [(x(p.x) - 6, y.clamp(p.y) - 6, x(p.x) + 6, y.clamp(p.y) + 6) for p in points]
    if axis.original is not None:
        taken.append((LEFT, y.clamp(axis.original) - 15, LEFT + 95, y.clamp(axis.original)))
    if axis.limit is not None:
        taken.append((LEFT, y.clamp(axis.limit) + 2, LEFT + 80, y.clamp(axis.limit) + 14))
    for p in sorted(points, key=lambda p: p.x):
        at_x, at_y, wide = x(p.x), y.clamp(p.y), CHARACTER * len(p.label)
        for dx, dy, anchor in _places():
            left = at_x + dx - (wide if anchor == "end" else wide / 2 if anchor == "middle" else 0)
            box = (left, at_y + dy - LINE + 2, left + wide, at_y + dy + 2)
            if box[0] >= LEFT and box[2] <= WIDTH and box[1] >= TOP - 4 and box[3] <= BOTTOM and not _hits(box, taken):
                taken.append(box)
                if abs(dy - 4) > 16:
                    yield el("line", x1=at_x, y1=at_y, x2=at_x + dx, y2=at_y + dy - 4, class_="leader")
                yield el("text", p.label, x=at_x + dx, y=at_y + dy, class_="label halo", text_anchor=anchor)
                break


def _places() -> Iterator[tuple[float, float, str]]:
    yield 9, 4, "start"
    yield -9, 4, "end"
    yield 0, -10, "middle"
    yield 0, 19, "middle"
    for far in (18, 32, 46, 60, 80, 100, 120):
        for sign in (-1, 1):
            yield 9, sign * far + 4, "start"
            yield -9, sign * far + 4, "end"


def _hits(box: Box, taken: Sequence[Box]) -> bool:
    return any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)
