"""The report as one HTML file: no link leaves it, every text from the document is escaped, a policy forbids the rest."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..artifact import write_atomic
from ..errors import MissingDependencyError
from . import charts, devices, faithfulness, figures, stages, summary
from .document import ClassChange, Document, Entry, FloatLayer, Layer, parse
from .proof import before, relative, shape_text, transposes
from .scatter import explained, legend, scatter
from .summary import Row

HERE = Path(__file__).parent
CLASSES_SHOWN = 12  # losers, and as many gainers, in the table of classes
CLASSES_LISTED = 200  # in the longer table
LAYERS_SHOWN, LAYERS_LISTED = 10, 1000
NAMES_LISTED = 12  # of the layers that stay float for one reason
UNITS = {"_s": "(s)", "_seconds": "(s)", "_gib": "(GiB)", "_mhz": "(MHz)", "_1m": "(1 min)", "_bytes": ""}
OPEN = 2  # artifacts whose details are unfolded at the start


@dataclass(frozen=True, slots=True)
class Card:
    """One large figure at the top: before, after, what that is worth."""

    title: str
    before: str
    after: str
    change: str
    tone: str  # "good", "bad" or "even"


@dataclass(frozen=True, slots=True)
class ClassLine:
    """A class in the table of changes."""

    label: str
    count: int
    original: str
    now: str
    points: float
    text: str
    bar: str


@dataclass(frozen=True, slots=True)
class Classes:
    """The change of every class of one artifact."""

    total: int
    lost: int
    gained: int
    scale: float
    lines: list[ClassLine]  # the most changed
    more: list[ClassLine]  # all that changed, where that is more
    curve: charts.Plot | None


@dataclass(frozen=True, slots=True)
class FloatGroup:
    """Layers of one operator that stay float for one reason."""

    op: str
    why: str
    names: list[str]
    more: int  # names that are not listed


@dataclass(frozen=True, slots=True)
class Detail:
    """All about one artifact below the overview."""

    row: Row
    entry: Entry
    classes: Classes | None
    faithfulness: faithfulness.Section | None
    layer_chart: charts.Plot | None
    worst: list[tuple[int, Layer]]
    layers: list[tuple[int, Layer]]
    left_float: list[FloatGroup]
    is_open: bool


def write_html(document: Mapping[str, Any], path: Path) -> None:
    """Write report.html, whole or not at all.

    Raises UsageError when the document is not a report, OutputError, MissingDependencyError (Jinja2).
    """
    write_atomic(path, render_html(document).encode("utf-8", "backslashreplace"))


def render_html(document: Mapping[str, Any]) -> str:
    """The page as text."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingDependencyError("report.html needs Jinja2", next="pip install 'Jinja2>=3.1'") from error
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["svg"] = lambda drawn: Markup(drawn) if drawn else ""
    for name in (
        "size",
        "time",
        "percent",
        "decibel",
        "count",
        "seconds",
        "metric",
        "drop",
        "interval",
        "digits",
        "bare",
    ):
        environment.filters[name] = getattr(figures, name)
    environment.filters.update(relative=relative, transposes=transposes, shape=shape_text, before=before)
    style, script = ((HERE / name).read_text("utf-8") for name in ("report.css", "report.js"))
    page = environment.get_template("report.html")
    return page.render(
        **context(parse(document)),
        style=Markup(style),
        script=Markup(script),
        style_hash=integrity(style),
        script_hash=integrity(script),
    )


def integrity(text: str) -> str:
    """The digest by which the content policy knows an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def context(document: Document) -> dict[str, Any]:
    """What the template shows."""
    found = summary.rows(document)
    best = summary.lead(found)
    targets = summary.targets(document)
    draw = partial(scatter, document)
    bought = stages.savings(document)
    longest = max((s["seconds"] for s in document["steps"]), default=0.0) or 1.0
    return {
        "document": document,
        "metric": document["data"]["metric"] if document["original"]["metrics"] else "",
        "rows": found,
        "targets": targets,
        "lead": best,
        "headline": summary.headline(document, found),
        "cards": list(cards(document, best)) if best else [],
        "size_chart": draw("size"),
        "latency_charts": [drawn for t in targets if (drawn := draw("latency", t))],
        "scatter_note": explained(document),
        "legend": legend(document),
        "about": summary.about(document, found),
        "is_share": figures.is_share(document["data"]["metric"]) and bool(document["original"]["metrics"]),
        "distributions": [(t, charts.distributions(document, t), charts.beyond(document, t)) for t in targets],
        "details": list(details(document, found)),
        "warnings": list(warnings(document)),
        "steps": [(s, charts.share_bar(s["seconds"] / longest)) for s in document["steps"]],
        "seconds": sum(s["seconds"] for s in document["steps"] if not s["reused"]),
        "environment": list(flat(document["environment"])),
        "limits": list(flat(document["limits"])),
        "stage_rows": stages.stage_rows(document),
        "stage_details": stages.details(document),
        "savings": bought,
        "savings_notes": list(dict.fromkeys(note for table in bought for note in table.notes)),
        "devices": devices.devices(document["artifacts"]),
        "devices_note": devices.NOTE,
        "nothing": figures.NOTHING,
    }


def cards(document: Document, row: Row) -> Iterator[Card]:
    """Size, latency by target, quality, agreement of the artifact the headline is about."""
    base = next((r for r in summary.rows(document) if r.role == "baseline" and r.format == row.format), None)
    before = base.bytes if base else document["model"]["bytes"]
    tone = "good" if (row.smaller or 1) > 1 else "bad"
    yield Card("Size", figures.size(before), figures.size(row.bytes), row.size_change, tone)
    for target, speed in row.speed.items():
        was = base.latency[target]["p50"] if base and target in base.latency else None
        tone = "even" if not speed.real else "good" if speed.times > 1 else "bad"
        yield Card(
            f"Median latency, {target}", figures.time(was), figures.time(row.latency[target]["p50"]), speed.text, tone
        )
    name, was = document["data"]["metric"], document["original"]["metrics"].get(document["data"]["metric"])
    if was is not None:
        tone = "bad" if not row.within_limits else "even"
        yield Card(figures.title(name), figures.metric(name, was), figures.metric(name, row.metric), row.change, tone)
    share = row.agreement.get("top1_agreement")
    signal = row.agreement.get("sqnr_db")
    if share is not None:
        yield Card("Same class as the original", "", figures.percent(share), f"SQNR {figures.decibel(signal)}", "even")
    elif signal is not None:
        yield Card("SQNR against the original", "", figures.decibel(signal), "", "even")


def warnings(document: Document) -> Iterator[tuple[str, str]]:
    """(kind, text) of all that a reader should know before the figures."""
    for failure in document.get("failures", []):
        yield "failed", f"{failure['step']} failed: {failure['message']}"
    yield from (("warning", text) for text in document["warnings"])
    for entry in document["artifacts"]:
        yield from (("warning", f"{entry['name']}: {text}") for text in entry.get("warnings", []))


def details(document: Document, found: list[Row]) -> Iterator[Detail]:
    """One for each artifact."""
    best = summary.lead(found)
    artifacts = [r for r in found if r.role == "artifact" and r.entry is not None]
    for row in artifacts:
        entry = row.entry
        if entry is None:
            continue
        every = entry.get("layers", [])
        number = {id(layer): i + 1 for i, layer in enumerate(every)}
        yield Detail(
            row=row,
            entry=entry,
            classes=classes(entry.get("per_class", [])),
            faithfulness=faithfulness.section(entry),
            layer_chart=charts.layers(every),
            worst=[(number[id(layer)], layer) for layer in charts.worst_layers(every, LAYERS_SHOWN)],
            layers=list(enumerate(every[:LAYERS_LISTED], 1)),
            left_float=float_groups(entry.get("left_float", [])),
            is_open=row is best or len(artifacts) <= OPEN,
        )


def float_groups(found: list[FloatLayer]) -> list[FloatGroup]:
    """The layers left float, by operator and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for left in found:
        groups.setdefault((left["op"], left["why"]), []).append(left["layer"])
    return [
        FloatGroup(op, why, names[:NAMES_LISTED], max(0, len(names) - NAMES_LISTED))
        for (op, why), names in groups.items()
    ]


def classes(found: list[ClassChange]) -> Classes | None:
    """The classes by how much they changed: the worst first."""
    if not found:
        return None
    scale = charts.change_scale(found)
    changed = sorted((c for c in found if charts.change(c)), key=lambda c: charts.change(c) or 0.0)
    lost = [c for c in changed if (charts.change(c) or 0.0) < 0]
    gained = changed[len(lost) :]
    shown = [*lost[:CLASSES_SHOWN], *gained[-CLASSES_SHOWN:]] if len(changed) > 2 * CLASSES_SHOWN else changed
    more = changed if len(changed) > len(shown) else []
    most = sorted(more, key=lambda c: -abs(charts.change(c) or 0.0))[:CLASSES_LISTED]
    return Classes(
        total=len(found),
        lost=len(lost),
        gained=len(gained),
        scale=scale,
        lines=[_class_line(c, scale) for c in shown],
        more=[_class_line(c, scale) for c in most],
        curve=charts.change_curve(found) if len(found) > 40 else None,
    )


def _class_line(found: ClassChange, scale: float) -> ClassLine:
    points = charts.change(found) or 0.0
    return ClassLine(
        label=found["label"],
        count=found["count"],
        original=figures.percent(found["original"]),
        now=figures.percent(found["now"]),
        points=points,
        text=f"{points:+.1f}".replace("-", "−"),
        bar=charts.change_bar(points, scale),
    )


def _worded(key: str) -> str:
    """
    >>> _worded("timeout_s"), _worded("load_1m"), _worded("max_drop")
    ('timeout (s)', 'load (1 min)', 'max drop')
    """
    for ending, unit in UNITS.items():
        if key.endswith(ending):
            key = f"{key.removesuffix(ending)} {unit}"
    return key.replace("_", " ")


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested tables as lines of "a b" and a text; what is not known is left out.

    >>> list(flat({"cpu": "A53", "load": None, "versions": {"numpy": "2.4"}, "fallback": ["fp16"]}))
    [('cpu', 'A53'), ('versions numpy', '2.4'), ('fallback', 'fp16')]
    """
    for key, value in table.items():
        name = f"{prefix}{_worded(key)}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name} ")
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value)) or figures.NOTHING
        elif value is not None:
            yield (name, figures.size(value)) if key.endswith("_bytes") else (name, str(value))
