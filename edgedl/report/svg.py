"""SVG from small pure functions: escaped elements, scales with round ticks, axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape


class Svg(str):
    """Markup that is already escaped; plain strings are escaped when they become children."""

    __slots__ = ()


def el(tag: str, *children: str, **attributes: str | float | None) -> Svg:
    """One element. Attribute names: `class_` -> class, `stroke_width` -> stroke-width; None is left out.

    >>> el("text", "<b>", x=1.25, class_="a")
    '<text x="1.25" class="a">&lt;b&gt;</text>'
    """
    given = ((k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items() if v is not None)
    text = "".join(f' {k}="{escape(_plain(v))}"' for k, v in given)
    inner = "".join(c if isinstance(c, Svg) else escape(c) for c in children)
    return Svg(f"<{tag}{text}>{inner}</{tag}>")


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 2):g}"


def group(*children: str, **attributes: str | float | None) -> Svg:
    """A <g>."""
    return el("g", *children, **attributes)


def tip(text: str) -> Svg:
    """A tooltip for the element it is put into."""
    return el("title", text)


def canvas(width: float, height: float, *children: str, label: str, class_: str = "") -> Svg:
    """A drawing that scales with its column; `label` says to a screen reader what it shows."""
    return el(
        "svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_=f"chart {class_}".strip()
    )  # fmt: skip


def fluid(height: float, *children: str, label: str) -> Svg:
    """A drawing as wide as its column whose text keeps its size: its horizontal places are percentages."""
    return el("svg", *children, width="100%", height=height, role="img", aria_label=label, class_="chart fluid")


def at(value: float) -> str:
    """A place or a length of so many percent of a fluid drawing."""
    return f"{value:.3f}%"


def short(text: str, most: int) -> str:
    """At most so many characters, the middle left out.

    >>> short("block_12_expand_relu", 11)
    'block…_relu'
    """
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[: most - 1 - half]}…{text[len(text) - half :]}"


@dataclass(frozen=True, slots=True)
class Scale:
    """Values low..high to places start..end, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._bend(self.low), self._bend(self.high)
        return self.start + (self._bend(value) - low) / (high - low) * (self.end - self.start)

    def clamp(self, value: float) -> float:
        """The place of a value, at the nearer end where it is outside."""
        return self(min(max(value, self.low), self.high))

    def _bend(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.log else value

    def ticks(self, most: int = 6) -> list[float]:
        """Round values inside."""
        return log_ticks(self.low, self.high, most) if self.log else linear_ticks(self.low, self.high, most)


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """
    >>> linear_ticks(0.0, 98.0), linear_ticks(0.81, 0.9, 5)
    ([0.0, 20.0, 40.0, 60.0, 80.0], [0.82, 0.84, 0.86, 0.88, 0.9])
    """
    step = nice((high - low) / most)
    first = math.ceil(round(low / step, 9))
    count = math.floor(round(high / step, 9)) - first + 1
    places = max(0, -math.floor(math.log10(step)) + 1)
    return [round((first + i) * step, places) for i in range(count)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """
    >>> log_ticks(3, 250)
    [5, 10, 20, 50, 100, 200]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10**d if d >= 0 else m / 10**-d for d in decades for m in steps]
        found = [v for v in found if low * 0.999 <= v <= high * 1.001]
        if len(found) <= most:
            break
    return found or [low, high]


def nice(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def from_zero(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale from zero, or a logarithmic one where the values span more than a factor of 30."""
    high, low = max(values, default=1.0) or 1.0, min((v for v in values if v > 0), default=1.0)
    if high / low > 30:
        return Scale(low / 1.5, high * 1.5, start, end, log=True)
    return Scale(0.0, high * 1.06, start, end)


def padded(values: Sequence[float], start: float, end: float, floor: float, ceiling: float, least: float) -> Scale:
    """A scale around the values, within floor..ceiling, at least `least` high: it need not begin at zero."""
    low, high = min(values), max(values)
    room = max(0.08 * (high - low), (least - (high - low)) / 2)
    low, high = max(floor, low - room), min(ceiling, high + room)
    if high - low < least:
        low, high = max(floor, high - least), min(ceiling, max(floor, high - least) + least)
    return Scale(low, high, start, end)


def x_axis(scale: Scale, y: float, top: float, text: Callable[[float], str], title: str) -> Svg:
    """Ticks with grid lines from `top` down to `y`, their labels, the title with the unit."""
    marks = []
    for value in scale.ticks(5):
        at = scale(value)
        marks += [
            el("line", x1=at, x2=at, y1=top, y2=y, class_="grid"),
            el("text", text(value), x=at, y=y + 15, class_="tick", text_anchor="middle"),
        ]
    middle = (scale.start + scale.end) / 2
    return group(
        *marks,
        el("line", x1=scale.start, x2=scale.end, y1=y, y2=y, class_="axis"),
        el("text", title, x=middle, y=y + 32, class_="title", text_anchor="middle"),
    )


def fluid_x_axis(scale: Scale, y: float, top: float, text: Callable[[float], str], title: str) -> Svg:
    """As `x_axis`, in a fluid drawing: the scale goes from 0 to 100."""
    marks = []
    for value in scale.ticks(5):
        place = scale(value)
        anchor = "start" if place < 3 else "end" if place > 97 else "middle"
        marks += [
            el("line", x1=at(place), x2=at(place), y1=top, y2=y, class_="grid"),
            el("text", text(value), x=at(place), y=y + 15, class_="tick", text_anchor=anchor),
        ]
    return group(
        *marks,
        el("line", x1=0, x2="100%", y1=y, y2=y, class_="axis"),
        el("text", title, x="50%", y=y + 32, class_="title", text_anchor="middle"),
    )


def y_axis(scale: Scale, x: float, right: float, text: Callable[[float], str], title: str, most: int = 5) -> Svg:
    """Ticks with grid lines from `x` to `right`, their labels, the title above the axis."""
    marks = []
    for value in scale.ticks(most):
        at = scale(value)
        marks += [
            el("line", x1=x, x2=right, y1=at, y2=at, class_="grid"),
            el("text", text(value), x=x - 6, y=at + 3.5, class_="tick", text_anchor="end"),
        ]
    return group(*marks, el("text", title, x=0, y=min(scale.start, scale.end) - 9, class_="title"))
