"""How faithful a file is beyond its metric: one line for the terminal; a table and small drawings for the page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from . import figures
from .document import Corrupted, Entry, Faithfulness
from .svg import Scale, Svg, canvas, el, group, tip

BINS = 15  # of the calibration error, as it was computed
SIDE, LEFT, FOOT, HEAD = 190.0, 38.0, 40.0, 22.0  # of a drawing: its square, room for labels to the left, below, above


@dataclass(frozen=True, slots=True)
class Line:
    """A figure before and after."""

    title: str
    before: str
    after: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """What the page shows of one file."""

    lines: list[Line]
    rows: list[Line]  # of the corrupted inputs
    labelled: bool
    title: str  # of the measure
    samples: int
    reliability: list[Svg]
    families: list[Svg]
    missing: list[tuple[str, str]]


def faithfulness_line(entry: Entry) -> str:
    """The figures in one sentence, or nothing where there are none."""
    found = entry.get("faithfulness")
    if not found:
        return ""
    parts = [_flipped(found), _worst(entry), _pair("ECE", found.get("ece")), _on_corrupted(found)]
    if "fgsm" in found:
        parts.append(_pair(f"under FGSM {_word(found)}", [found["fgsm"]["before"], found["fgsm"]["after"]]))
    return "; ".join(p for p in parts if p)


def _flipped(found: Faithfulness) -> str:
    if "flipped" not in found:
        return ""
    text = f"{figures.percent(found['flipped'])} of the {found['unit']}s flipped"
    if "lost" in found and "gained" in found and found["flipped"]:
        text += f" ({figures.percent(found['lost'])} to wrong, {figures.percent(found['gained'])} to right)"
    return text


def _worst(entry: Entry) -> str:
    worst = entry.get("class_drop")
    if not worst:
        return ""
    if worst["drop"] <= 0:
        return "no class lost"
    return f"worst class {worst['label']} {_points(-worst['drop'])} (of {worst['count']:,})"


def _points(change: float) -> str:
    return f"{100 * change:+.1f} points".replace("-", "−")


def _pair(title: str, pair: Sequence[float | None] | None) -> str:
    return f"{title} {_value(pair[0])} → {_value(pair[1])}" if pair else ""


def _value(value: float | None) -> str:
    return figures.NOTHING if value is None else figures.digits(value)


def _word(found: Faithfulness) -> str:
    return figures.title(found["measure"]) if found["measure"] in ("mae", "mse", "psnr") else found["measure"]


def _means(rows: Sequence[Corrupted]) -> list[float | None]:
    """Mean of the measure over the corruptions, before and after; None where one of them has none."""
    columns = [[row["before"] for row in rows], [row["after"] for row in rows]]
    return [fmean(v for v in c if v is not None) if None not in c else None for c in columns]


def _on_corrupted(found: Faithfulness) -> str:
    rows = found["corrupted"]
    return _pair(f"on corrupted inputs {_word(found)}", _means(rows)) if rows else ""


def section(entry: Entry) -> Section | None:
    """What the page shows, or None where nothing was measured."""
    found = entry.get("faithfulness")
    if not found:
        return None
    return Section(
        lines=list(_lines(found, entry)),
        rows=[_row(row) for row in found["corrupted"]],
        labelled=found["labelled"],
        title=figures.title(found["measure"]),
        samples=found["samples"],
        reliability=[diagram(rows, name) for rows, name in zip(found.get("reliability", []), ("original", "this file"), strict=False)],
        families=list(families(found)),
        missing=[(what, why) for what, why in found["not_measured"].items()],
    )  # fmt: skip


def _lines(found: Faithfulness, entry: Entry) -> Iterator[Line]:
    if "flipped" in found:
        unit = f"of {found['decisions']:,} {found['unit']}s" if "decisions" in found else ""
        yield Line(f"{found['unit'].capitalize()}s that flipped", "", figures.percent(found["flipped"]), unit)
    if "lost" in found and "gained" in found:
        yield Line("from right to wrong", "", figures.percent(found["lost"]))
        yield Line("from wrong to right", "", figures.percent(found["gained"]))
    if "iou" in found:
        yield Line("Mean IoU with the original's segmentation", "", _value(found["iou"]))
    for lost in found.get("per_class", []):
        change = (lost["now"] or 0.0) - (lost["original"] or 0.0)
        note = f"{_points(change)}, {lost['count']:,} samples"
        yield Line(f"Class {lost['label']}", figures.percent(lost["original"]), figures.percent(lost["now"]), note)
    worst = entry.get("class_drop")
    if worst and not found.get("per_class"):
        yield Line("Classes that lost", "", "none")
    if "ece" in found:
        was, now = map(_value, found["ece"])
        yield Line("Calibration error (ECE)", was, now, "15 bins; 0 is perfect")
    if "confidence" in found:
        yield Line("Mean confidence", *map(figures.percent, found["confidence"]))
    if found["corrupted"]:
        words = f"{_word(found)}, mean of {len(found['corrupted'])}"
        was, now = map(_value, _means(found["corrupted"]))
        yield Line("On corrupted inputs", was, now, words)
    if "fgsm" in found:
        attack = found["fgsm"]
        told = ", ".join(f"{name} ± {figures.digits(value)}" for name, value in attack["epsilon"].items())
        note = f"{_word(found)}; {told}, {100 * attack['share']:g} % of the standard deviation"
        yield Line("Under FGSM", _value(attack["before"]), _value(attack["after"]), note)


def _row(row: Corrupted) -> Line:
    by = f"× {row['amount']:g}" if row["unit"] == "times" else f"{100 * row['amount']:g} % {row['unit']}"
    sure = row["confidence"]
    told = f", confidence {figures.percent(sure[0])} → {figures.percent(sure[1])}" if sure else ""
    alike = f"{figures.percent(row['agrees'])} alike{told}"
    return Line(f"{row['kind']} {row['strength']} ({by})", _value(row["before"]), _value(row["after"]), alike)


def diagram(rows: Sequence[Sequence[float]], name: str) -> Svg:
    """A reliability diagram: the accuracy of each bin of confidence; on the diagonal lies the perfectly calibrated."""
    x, y = Scale(0, 1, LEFT, LEFT + SIDE), Scale(0, 1, HEAD + SIDE, HEAD)
    bars = []
    for confidence, accuracy, count in rows:
        at = min(max(math.ceil(confidence * BINS) - 1, 0), BINS - 1)
        left, wide = x(at / BINS), SIDE / BINS
        told = f"{name}: confidence {figures.percent(confidence)}, right {figures.percent(accuracy)}, {count:,.0f} decisions"
        parts = [
            el("rect", x=left, y=HEAD, width=wide, height=SIDE, class_="hover"),
            el("rect", x=left + 0.8, y=y(accuracy), width=wide - 1.6, height=y(0) - y(accuracy), class_="error"),
        ]
        bars.append(group(*parts, tip(told), data_tip=told))
    diagonal = el("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="reference")
    label = f"Reliability of {name}: accuracy by confidence in {len(rows)} bins"
    return _framed(x, y, [*bars, diagonal], name, "confidence", [(v, f"{v:g}") for v in (0, 0.5, 1)], label)


def families(found: Faithfulness) -> Iterator[Svg]:
    """One small drawing a family of corruptions: the measure from clean to the strongest, before and after."""
    rows = found["corrupted"]
    values = [v for r in rows for v in (r["before"], r["after"])] + list(found["clean"])
    known = [v for v in values if v is not None]
    if not rows or not known:
        return
    high = max(known)
    y = Scale(0, 1 if min(known) >= 0 and high <= 1 else max(high * 1.06, 1e-9), HEAD + SIDE, HEAD)
    for kind in dict.fromkeys(r["kind"] for r in rows):
        yield _family(kind, [r for r in rows if r["kind"] == kind], found, y)


def _family(kind: str, rows: Sequence[Corrupted], found: Faithfulness, y: Scale) -> Svg:
    x = Scale(0, 3, LEFT, LEFT + SIDE)
    drawn = []
    for i, name in enumerate(("before", "after")):
        points = [(0, found["clean"][i]), *((r["strength"], r["before"] if i == 0 else r["after"]) for r in rows)]
        drawn.append(_curve([(at, v) for at, v in points if v is not None], x, y, name, kind, _word(found)))
    told = "; ".join(f"strength {r['strength']}: {_value(r['before'])} → {_value(r['after'])}" for r in rows)
    ticks = [(0.0, "clean"), (1.0, "1"), (2.0, "2"), (3.0, "3")]
    return _framed(x, y, drawn, kind, "strength", ticks, f"{_word(found)} under {kind}: {told}")


def _curve(points: Sequence[tuple[float, float]], x: Scale, y: Scale, name: str, kind: str, word: str) -> Svg:
    path = " ".join(f"{'L' if i else 'M'}{x(a):.1f} {y.clamp(b):.1f}" for i, (a, b) in enumerate(points))
    words = "original" if name == "before" else "this file"
    dots = []
    for a, b in points:
        told = f"{words}, {kind} {a:g}: {word} {_value(b)}" if a else f"{words}, clean: {word} {_value(b)}"
        dots.append(group(el("circle", cx=x(a), cy=y.clamp(b), r=3.2, class_="dot"), tip(told), data_tip=told))
    return group(el("path", d=path or "M0 0", class_="line"), *dots, class_=f"trace {name}")


def _framed(
    x: Scale, y: Scale, drawn: Sequence[Svg], title: str, below: str, ticks: Sequence[tuple[float, str]], label: str
) -> Svg:
    """A square with grid lines, ticks below and to the left, a title above."""
    marks = []
    for value in y.ticks(4):
        marks += [
            el("line", x1=x(x.low), x2=x(x.high), y1=y(value), y2=y(value), class_="grid"),
            el("text", f"{value:g}", x=LEFT - 6, y=y(value) + 3.5, class_="tick", text_anchor="end"),
        ]
    foot = HEAD + SIDE
    marks += [el("text", text, x=x(v), y=foot + 15, class_="tick", text_anchor="middle") for v, text in ticks]
    marks.append(el("line", x1=x(x.low), x2=x(x.high), y1=foot, y2=foot, class_="axis"))
    words = [
        el("text", title, x=LEFT, y=13, class_="label"),
        el("text", below, x=LEFT + SIDE / 2, y=foot + 32, class_="title", text_anchor="middle"),
    ]
    return canvas(LEFT + SIDE + 14, foot + FOOT, *marks, *drawn, *words, label=label, class_="small")
