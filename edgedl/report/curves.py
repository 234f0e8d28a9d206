"""Line charts over epochs or ratios, and bars of a layer's width before and after; all as wide as the page allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from . import figures
from .charts import GUTTER, Plot
from .svg import Scale, Svg, at, el, fluid, fluid_x_axis, group, nice, short, tip

Points = Sequence[tuple[float, float]]
TOP, BOTTOM, FOOT = 12.0, 190.0, 40.0
HUES = 8  # the lines' colours are told apart by their tooltips beyond
BAR, GAP = 13.0, 6.0  # height of a bar of a layer's width, and between layers
LAYERS = 60  # of which bars are drawn
NAME = 26.0  # percent of the width for a layer's name


def lines(
    series: Mapping[str, Points], across: str, up: str, text: Callable[[float], str] = figures.digits
) -> Plot | None:
    """Named lines of (x, y) over one pair of axes; None where no line has two points."""
    drawn = {name: sorted(points) for name, points in series.items() if len(points) > 1}
    if not drawn:
        return None
    xs, ys = ([p[i] for points in drawn.values() for p in points] for i in (0, 1))
    if max(xs) <= min(xs):
        return None
    span = max(ys) - min(ys)
    room = 0.06 * span or 0.5 * abs(ys[0]) or 1.0
    x = Scale(min(xs), max(xs), 0.0, 100.0)
    y = Scale(0.0 if 0 <= min(ys) < 0.5 * max(ys) else min(ys) - room, max(ys) + room, BOTTOM, TOP)
    ticks = [(y(v), text(v).replace("-", "−")) for v in y.ticks(5)]
    body = [
        *(el("line", x1=0, x2="100%", y1=place, y2=place, class_="grid") for place, _ in ticks),
        fluid_x_axis(x, BOTTOM, TOP, lambda v: f"{v:g}", across),
        *(_line(name, points, x, y, i, text) for i, (name, points) in enumerate(drawn.items())),
    ]
    told = "; ".join(f"{name} from {text(p[0][1])} to {text(p[-1][1])}" for name, p in drawn.items())
    labels = [el("text", word, x=GUTTER - 6, y=place + 3.5, class_="tick", text_anchor="end") for place, word in ticks]
    return Plot(
        el("svg", *labels, width=GUTTER, height=BOTTOM + FOOT, class_="chart", aria_hidden="true"),
        fluid(BOTTOM + FOOT, *body, label=f"{up}: {told}"),
    )


def _line(name: str, points: Points, x: Scale, y: Scale, index: int, text: Callable[[float], str]) -> Svg:
    """Segments, because a path has no percentages; a dot with its value at each point."""
    places = [(x(a), y(b)) for a, b in points]
    segments = [el("line", x1=at(a), y1=b, x2=at(c), y2=d, class_="stroke") for (a, b), (c, d) in pairwise(places)]
    dots = []
    for (a, b), place in zip(points, places, strict=True):
        words = f"{name}, {a:g}: {text(b)}"
        dots.append(el("circle", tip(words), cx=at(place[0]), cy=place[1], r=2.6, class_="dot", data_tip=words))
    return group(*segments, *dots, class_=f"lines hue{index % HUES}")


def widths(found: Mapping[str, Sequence[float]], of: str = "channels") -> Svg | None:
    """A bar for each layer: pale as wide as it was, full as wide as it is; the most reduced of many layers only."""
    shown = [(name, pair[0], pair[1]) for name, pair in found.items() if len(pair) == 2 and pair[0] > 0]
    if not shown:
        return None
    if len(shown) > LAYERS:
        kept = {n for n, _, _ in sorted(shown, key=lambda row: row[2] / row[1])[:LAYERS]}
        shown = [row for row in shown if row[0] in kept]
    high = (BAR + GAP) * len(shown)
    scale = Scale(0.0, nice(max(before for _, before, _ in shown)), NAME, 97.0)
    rows = [_widths(i, row, scale, of) for i, row in enumerate(shown)]
    label = f"{of.capitalize()} of {len(shown)} layers: " + "; ".join(
        f"{n} {b:g} to {a:g}" for n, b, a in shown[:LAYERS]
    )
    return fluid(high + 8, *rows, label=label)


def _widths(index: int, row: tuple[str, float, float], scale: Scale, of: str) -> Svg:
    name, before, after = row
    top = (BAR + GAP) * index
    words = f"{name}: {before:g} → {after:g} {of}"
    return group(
        el("text", short(name, 30), x=0, y=top + BAR - 2, class_="label"),
        el("rect", x=at(NAME), y=top, width=at(scale(before) - NAME), height=BAR, class_="was"),
        el("rect", x=at(NAME), y=top, width=at(max(scale(after) - NAME, 0.1)), height=BAR, class_="now"),
        el("text", f"{after:g} of {before:g}", x=at(scale(before) + 0.6), y=top + BAR - 2, class_="tick"),
        tip(words), data_tip=words,
    )  # fmt: skip
