"""A sensitivity scan as a terminal table and as one HTML page of small charts, one for each group of channels."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..artifact import write_atomic
from . import figures
from .svg import Scale, Svg, canvas, el, group, short, tip, x_axis, y_axis

BLOCKS = "▁▂▃▄▅▆▇█"
HERE = Path(__file__).parent
WIDTH, HEIGHT = 240.0, 150.0
ALLOWED = 0.01  # the drop that the last column of the table is about
LEAST = 0.05  # of the axis of drops: less is drawn as little

Points = Sequence[Sequence[float]]  # (share gone, drop)


def sensitivity_table(found: Mapping[str, Any]) -> str:
    """A row for each group: a block for each share that goes, and the largest share that costs at most a point."""
    groups: Mapping[str, Points] = found["groups"]
    most = _most(groups)
    name = figures.title(found["metric"])
    header = ["channels of", "count", "less and less of them", "go free"]
    rows = [
        [
            short(group, 44),
            str(found["channels"][group]),
            sparkline([d for _, d in points], most),
            f"{free(points):.0%}",
        ]
        for group, points in groups.items()
    ]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]:>{widths[3]}}".rstrip()
        for row in (header, ["-" * w for w in widths], *rows)
    ]
    told = (
        f"{name} {figures.digits(found['value'])} on {found['samples']} samples; {BLOCKS[0]} no drop, {BLOCKS[-1]} "
        f"{_drop(most)}; go free: the share that goes for a drop of at most {_drop(ALLOWED)}, ranked by {found['criterion']}"
    )
    return "\n".join([*lines, "", told])


def sparkline(values: Sequence[float], most: float) -> str:
    """One block a value, from no drop to `most` and above.

    >>> sparkline([-0.1, 0.0, 0.25, 0.5, 9.0], 0.5)
    '▁▁▅██'
    """
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[round(min(max(v / most, 0.0), 1.0) * top + 1e-9)] for v in values)


def free(points: Points, allowed: float = ALLOWED) -> float:
    """The largest share that goes before any drop is above what is allowed.

    >>> free([(0.25, 0.0), (0.5, 0.01), (0.75, 0.2)]), free([(0.5, 0.2), (0.75, 0.0)])
    (0.5, 0.0)
    """
    share = 0.0
    for gone, drop in points:
        if drop > allowed:
            break
        share = gone
    return share


def write_sensitivity(found: Mapping[str, Any], path: Path) -> None:
    """Write the page, whole or not at all; no link leaves it and no script is in it."""
    write_atomic(path, sensitivity_page(found).encode())


def sensitivity_page(found: Mapping[str, Any]) -> str:
    """The page as text."""
    style = (HERE / "report.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    name = figures.title(found["metric"])
    most = _most(found["groups"])
    charts = [el("figure", _chart(g, found["channels"][g], points, most)) for g, points in found["groups"].items()]
    about = (
        f"The drop of {name.lower() if len(name) > 3 else name} ({figures.digits(found['value'])} of the whole network on "
        f"{found['samples']} samples) when a share of the channels of one group alone is masked, the lowest by "
        f"{found['criterion']} first. Nothing is trained or fitted afterwards."
    )
    head = [
        Svg('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("title", f"{found['path']} – channel sensitivity"),
        Svg(f"<style>{style}</style>"),
    ]
    body = [
        el("p", "edgedl sensitivity", class_="eyebrow"),
        el("h1", str(found["path"])),
        el("p", about, class_="about"),
        el("section", el("div", *charts, class_="small-charts")),
        *_notes(found),
    ]
    return f"<!doctype html>\n{el('html', el('head', *head), el('body', *body), lang='en')}\n"


def _notes(found: Mapping[str, Any]) -> list[Svg]:
    stay = [f"{name}: {why}" for name, why in found["frozen"].items()]
    notes = [el("p", note, class_="about") for note in found["notes"]]
    if not stay:
        return notes
    items = [el("li", text) for text in stay]
    return [*notes, el("section", el("h2", "Channels that all stay"), el("ul", *items))]


def _chart(name: str, channels: int, points: Points, most: float) -> Svg:
    """The drop over the share of a group's channels that goes."""
    across = Scale(0.0, 1.0, 44, WIDTH - 8)
    up = Scale(0.0, most, HEIGHT - 40, 30)
    drawn = [(0.0, 0.0), *((float(s), float(d)) for s, d in points)]
    path = "M" + "L".join(f"{across(s):.1f} {up.clamp(d):.1f}" for s, d in drawn)
    dots = [
        group(el("circle", cx=across(s), cy=up.clamp(d), r=2.4, class_="dot"), tip(f"{s:.0%} gone: drop {_drop(d)}"))
        for s, d in drawn[1:]
    ]
    return canvas(
        WIDTH, HEIGHT,
        x_axis(across, HEIGHT - 40, 30, lambda v: f"{v:.0%}", "channels gone"),
        y_axis(up, 44, WIDTH - 8, _drop, "", most=3),
        group(el("path", d=path, class_="line"), *dots, class_="trace"),
        el("text", f"{short(name, 28)} ({channels})", x=0, y=14, class_="label strong"),
        label=f"{name}: drop at each share of its {channels} channels: " + ", ".join(f"{s:.0%} {_drop(d)}" for s, d in points),
    )  # fmt: skip


def _most(groups: Mapping[str, Points]) -> float:
    """The top of the axis of drops: the largest, at most 1 (all is lost)."""
    drops = [d for points in groups.values() for _, d in points]
    return max(min(max(drops, default=0.0), 1.0), LEAST)


def _drop(value: float) -> str:
    """A drop in percent.

    >>> _drop(0.015), _drop(-0.25), _drop(1e300)
    ('1.5 %', '−25 %', 'all')
    """
    return (
        "all"
        if value > 1e6
        else f"{100 * value:.2g} %".replace("-", "−")
        if abs(value) < 1
        else f"{value:.0%}".replace("%", " %")
    )
