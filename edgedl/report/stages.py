"""What stages made of the network, and what that bought: tables for terminal and page, drawings of what stages recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import figures
from .charts import Plot
from .curves import lines, widths
from .document import Document, Saving, SavingRow, Stage
from .svg import Svg

TITLES = {
    "file": "file", "zip": "deflated (level 9), as in a zip", "flash": "constants in flash", "activations": "activations, at most at once",
    "macs": "multiply-accumulates", "parameters": "parameters", "latency": "latency",
}  # fmt: skip
BYTES = frozenset({"file", "zip", "flash", "activations"})
FLASH = "Constants in flash are the buffers of the .tflite: zeros and clusters do not shrink them unless the firmware decodes them."
ARENA = "Activations: a lower bound of an arena, without scratch buffers."
NO_CURVE = frozenset({"seconds", "epoch", "step"})  # of an epoch's figures
CURVES = {
    "loss": "training data",
    "val_loss": "watched data",
    "rate": "Learning rate",
}  # what an epoch's figures are called
LAYERS_LISTED = 200
LINES = 12  # of a sensitivity chart; the others are in report.json


@dataclass(frozen=True, slots=True)
class StageRow:
    """The network at one point; `change`: of the metric since the stage before."""

    name: str
    detail: str
    macs: str
    parameters: str
    metric: str
    change: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class SavingLine:
    """One line of a table of savings."""

    title: str
    before: str
    after: str
    verdict: str
    tone: str  # "good", "bad" or "even"


@dataclass(frozen=True, slots=True)
class Savings:
    """The table of one file; its title says which."""

    title: str
    lines: list[SavingLine]
    notes: list[str]
    is_artifact: bool  # and not a float file that an artifact was made from


@dataclass(frozen=True, slots=True)
class Factor:
    """A layer that was factored."""

    layer: str
    kernel: str
    ranks: str
    macs: str
    parameters: str
    error: str


@dataclass(frozen=True, slots=True)
class Detail:
    """The drawings and tables of what one stage recorded."""

    name: str
    curves: list[tuple[str, Plot, list[str]]]  # title, drawing, names of the lines
    widths: Svg | None
    times: Svg | None  # microseconds of each operator, where the budget was in latency
    factors: list[Factor]
    left: list[tuple[str, str]]  # layers that were left alone, and why
    pairs: list[tuple[str, str]]  # layers of the student and of its teacher that were compared


def stage_rows(document: Document) -> list[StageRow]:
    """The model as it came, then the network after each stage that changed it; nothing where none did."""
    found = document.get("stages", [])
    if not found:
        return []
    name, model = document["data"]["metric"], document["model"]
    before = document["original"]["metrics"].get(name)
    rows = [
        StageRow("as it came", "", figures.count(model.get("macs")), figures.count(model.get("parameters")),
                 figures.metric(name, before), "", None)
    ]  # fmt: skip
    for stage in found:
        now = stage["metrics"].get(name)
        change = "" if now is None or before is None else _change(name, now - before)
        rows.append(StageRow(stage["stage"], stage["detail"], figures.count(stage.get("macs")),
                             figures.count(stage.get("parameters")), figures.metric(name, now), change, stage["seconds"]))  # fmt: skip
        before = now
    return rows


def _change(name: str, by: float) -> str:
    """The change of a metric, in points where it is a share."""
    text = f"{100 * by:+.2f} points" if figures.is_share(name) else f"{by:+.4g}"
    return text.replace("-", "−")


def savings(document: Document) -> list[Savings]:
    """One table for each file that has a twin made of the unchanged model."""
    return [_savings(found, document) for found in document.get("savings", [])]


def _savings(found: Saving, document: Document) -> Savings:
    rows = [_line(row) for row in found["rows"]]
    if (quality := _quality(found, document["data"]["metric"])) is not None:
        rows.append(quality)
    present = {row["what"] for row in found["rows"]}
    notes = [text for what, text in (("flash", FLASH), ("activations", ARENA)) if what in present]
    made = {(entry["format"], entry["scheme"]) for entry in document["artifacts"]}
    return Savings(f".{found['format']}, {found['scheme']}", rows, notes, (found["format"], found["scheme"]) in made)


def _line(row: SavingRow) -> SavingLine:
    target = row.get("target")
    title = f"{TITLES.get(row['what'], row['what'])}{f' on {target}' if target else ''}"
    worse = row["ratio"] is not None and row["ratio"] < 1 and row["verdict"] != "no gain here"
    tone = "good" if row["gain"] else "bad" if worse else "even"
    return SavingLine(
        title, _value(row["what"], row["before"]), _value(row["what"], row["after"]), row["verdict"], tone
    )


def _value(what: str, value: float) -> str:
    if what == "latency":
        return figures.time(value)
    return figures.size(value) if what in BYTES else figures.count(value)


def _quality(found: Saving, metric: str) -> SavingLine | None:
    """What was paid: the metric of both files, or the share of samples with the original's class."""
    if len(found["metric"]) == 2 and (pair := _both(found["metric"])) is not None:
        before, after = pair
        return SavingLine(
            metric,
            figures.metric(metric, before),
            figures.metric(metric, after),
            _change(metric, after - before),
            "even",
        )
    if len(found["agreement"]) == 2 and (pair := _both(found["agreement"])) is not None:
        before, after = pair
        return SavingLine("same class as the original", figures.percent(before), figures.percent(after), "", "even")
    return None


def _both(pair: Sequence[float | None]) -> tuple[float, float] | None:
    before, after = pair
    return None if before is None or after is None else (before, after)


def details(document: Document) -> list[Detail]:
    """What each stage recorded that can be drawn or listed; `records` grow from stage to stage, so the last is its own."""
    found = []
    seen = 0
    for stage in document.get("stages", []):
        for record in stage["records"][seen:]:
            found.append(_detail(stage, record, document["data"]["metric"]))
        seen = len(stage["records"])
    return [d for d in found if d.curves or d.widths or d.times or d.factors or d.left or d.pairs]


def _detail(stage: Stage, record: Mapping[str, Any], metric: str) -> Detail:
    return Detail(
        name=str(record.get("stage", stage["stage"])),
        curves=list(_curves(record, metric)),
        widths=widths(_pairs(record.get("widths"))),
        times=widths(_pairs(_times(record.get("rounds"))), "microseconds"),
        factors=list(_factors(record.get("layers"))),
        left=_left([*_list(record.get("left")), *_kept_whole(record.get("rounds"))]),
        pairs=list(_matched(record.get("layers"))),
    )


def _curves(record: Mapping[str, Any], metric: str) -> Iterator[tuple[str, Plot, list[str]]]:
    """Losses over epochs in one chart, every other figure of an epoch in its own; the drop of layers over their ratio."""
    series = _epochs(record)
    called = {**CURVES, "metric": f"{metric} on watched data"}
    loss = {called.get(k, k): v for k, v in series.items() if "loss" in k}
    others = {called.get(k, k): v for k, v in series.items() if "loss" not in k}
    for title, group in (("Loss", loss), *((k, {k: v}) for k, v in others.items())):
        drawn = lines(group, "epoch", title)
        if drawn is not None:
            yield title, drawn, list(group)
    found = record.get("sensitivity")
    if isinstance(found, Mapping):
        curves = {str(k): points for k, v in found.items() if (points := _points(v))}
        steepest = sorted(curves, key=lambda k: -max(y for _, y in curves[k]))[:LINES]
        chosen = {k: v for k, v in curves.items() if k in steepest}
        drawn = lines(chosen, "share of the layer's channels that is removed", "drop of the metric")
        if drawn is not None:
            more = len(curves) - len(chosen)
            yield (
                f"Sensitivity of layers{f', the {len(chosen)} steepest of {len(curves)}' if more else ''}",
                drawn,
                list(chosen),
            )


def _epochs(record: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Figures of every epoch by name: from a list of tables under "epochs", or lists of numbers under "loss" and the like."""
    found: dict[str, list[tuple[float, float]]] = {}
    epochs = record.get("epochs")
    for i, entry in enumerate(epochs if isinstance(epochs, list) else (), 1):
        for key, value in entry.items() if isinstance(entry, Mapping) else ():
            if _is_number(value) and key not in NO_CURVE:
                found.setdefault(str(key), []).append((float(i), float(value)))
    for key, values in record.items():
        if "loss" in key and isinstance(values, list) and all(map(_is_number, values)):
            found.setdefault(key, [(float(i), float(v)) for i, v in enumerate(values, 1)])
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _points(values: Any) -> list[tuple[float, float]]:
    """[[x, y], ...] of what is a list of such."""
    if not isinstance(values, list):
        return []
    return [
        (float(v[0]), float(v[1])) for v in values if isinstance(v, list) and len(v) == 2 and all(map(_is_number, v))
    ]


def _times(rounds: Any) -> dict[str, list[float]]:
    """Layer -> microseconds before and after, of the last round of a pruning to a budget in latency."""
    last = rounds[-1] if isinstance(rounds, list) and rounds and isinstance(rounds[-1], Mapping) else {}
    found = {}
    for entry in _list(last.get("layers")):
        pair: list[Any] = [entry.get("before_ms"), entry.get("after_ms")] if isinstance(entry, Mapping) else []
        if pair and all(map(_is_number, pair)):
            found[str(entry.get("layer"))] = [round(1e3 * v, 2) for v in pair]
    return found


def _pairs(found: Any) -> dict[str, list[float]]:
    """{name: [before, after]} of what is a table of such."""
    if not isinstance(found, Mapping):
        return {}
    return {str(k): v for k, v in found.items() if isinstance(v, list) and len(v) == 2 and all(map(_is_number, v))}


def _factors(found: Any) -> Iterator[Factor]:
    """The layers of a low_rank record."""
    for entry in found[:LAYERS_LISTED] if isinstance(found, list) else ():
        if (
            not isinstance(entry, Mapping)
            or not {"layer", "kernel", "ranks", "macs", "parameters", "error"} <= entry.keys()
        ):
            continue
        counts = [_pairs({"x": entry[k]}).get("x") for k in ("macs", "parameters")]
        if None in counts or not _is_number(entry["error"]):
            continue
        macs, parameters = (f"{figures.count(c[0])} → {figures.count(c[1])}" for c in counts if c)
        kernel, ranks = (
            " × ".join(map(str, v)) if isinstance(v := entry[k], list) else "" for k in ("kernel", "ranks")
        )
        yield Factor(str(entry["layer"]), kernel, ranks, macs, parameters, figures.percent(float(entry["error"])))


def _list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


def _kept_whole(rounds: Any) -> Iterator[dict[str, Any]]:
    """The layers that prune_channels could not or must not narrow, as entries of "left"."""
    last = next(reversed(_list(rounds)), None)
    if not isinstance(last, Mapping):
        return
    for key, why in (("left_alone", "{} is not understood"), ("frozen", "{}")):
        found = last.get(key)
        for layer, text in found.items() if isinstance(found, Mapping) else ():
            yield {"layer": layer, "why": why.format(text)}


def _matched(found: Any) -> Iterator[tuple[str, str]]:
    """The layers that distill compared, of a record that has them."""
    for entry in _list(found)[:LAYERS_LISTED]:
        if isinstance(entry, Mapping) and {"student", "teacher"} <= entry.keys():
            note = ", through a learned projection" if entry.get("projected") else ""
            yield str(entry["student"]), f"{entry['teacher']}{note}"


def _left(found: Any) -> list[tuple[str, str]]:
    """The layers that were left alone, those of one reason together: (names, why)."""
    groups: dict[str, list[str]] = {}
    for entry in found if isinstance(found, list) else ():
        if isinstance(entry, Mapping) and {"layer", "why"} <= entry.keys():
            groups.setdefault(str(entry["why"]), []).append(str(entry["layer"]))
    return [
        (f"{', '.join(names[:12])}{f' and {len(names) - 12} more' if len(names) > 12 else ''}", why)
        for why, names in groups.items()
    ]
