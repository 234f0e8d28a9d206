"""What the terminal table and the page both say: one row per file, and the verdict in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal

from . import figures
from .document import Agreement, Document, Entry, Latency

TINY = 1e-9  # µs: no time is shorter, so that no ratio is infinite
NOISE = 0.01  # a smaller relative difference is never claimed


@dataclass(frozen=True, slots=True)
class Speed:
    """How many times faster than the float file (below 1: slower), and whether the noise allows to say so."""

    times: float
    low: float  # 95 % interval of `times`
    high: float
    real: bool

    @property
    def text(self) -> str:
        """`2.2× faster`, `1.3× slower`, `no difference found`."""
        if not self.real:
            return "no difference found"
        return f"{figures.times(self.times)} faster" if self.times >= 1 else f"{figures.times(1 / self.times)} slower"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the before/after table. `smaller` and `speed` are against the float32 file of the same format."""

    role: Literal["original", "baseline", "artifact"]
    name: str
    format: str
    scheme: str
    bytes: int
    metric: float | None
    change: str = ""  # of the metric, in words; empty where there is none to tell
    agreement: Agreement = field(default_factory=Agreement)
    latency: Mapping[str, Latency] = field(default_factory=dict)
    speed: Mapping[str, Speed] = field(default_factory=dict)
    smaller: float | None = None
    within_limits: bool = True
    entry: Entry | None = None

    @property
    def size_change(self) -> str:
        """`3.4× smaller` or `1.1× larger`."""
        if self.smaller is None:
            return ""
        if abs(self.smaller - 1) < 0.005:
            return "same size"
        return f"{figures.times(max(self.smaller, 1 / self.smaller))} {'smaller' if self.smaller > 1 else 'larger'}"

    @property
    def agreement_text(self) -> str:
        """Share of the same top class, else the SQNR."""
        share = self.agreement.get("top1_agreement")
        return figures.percent(share) if share is not None else figures.decibel(self.agreement.get("sqnr_db"))


def rows(document: Document) -> list[Row]:
    """The original, then for each format its float32 file and its artifacts."""
    model, metric = document["model"], document["data"]["metric"]
    name = PurePath(model["path"]).name or model["path"]
    found = [
        Row("original", name, model["format"], "", model["bytes"], document["original"]["metrics"].get(metric)),
    ]
    baselines = {b["format"]: b for b in document["baselines"]}
    shown: set[str] = set()
    for entry in document["artifacts"]:
        base = baselines.get(entry["format"])
        if base is not None and base["format"] not in shown:
            shown.add(base["format"])
            found.append(_row("baseline", base, None, document))
        found.append(_row("artifact", entry, base, document))
    return found


def _row(role: Literal["baseline", "artifact"], entry: Entry, base: Entry | None, document: Document) -> Row:
    latency = entry.get("latency_us", {})
    before = base["bytes"] if base else document["model"]["bytes"]
    return Row(
        role=role,
        name=entry["name"],
        format=entry["format"],
        scheme=entry["scheme"],
        bytes=entry["bytes"],
        metric=entry["metrics"].get(document["data"]["metric"]),
        change=_change(role, entry, document),
        agreement=entry["agreement"],
        latency=latency,
        speed=dict(_speeds(entry, base, document)) if base else {},
        smaller=before / entry["bytes"] if role == "artifact" and before and entry["bytes"] else None,
        within_limits=entry.get("within_limits", True),
        entry=entry,
    )


def _change(role: str, entry: Entry, document: Document) -> str:
    name = document["data"]["metric"]
    if role != "artifact" or "drop" not in entry or name not in document["original"]["metrics"]:
        return ""
    return figures.drop(name, entry["drop"])


def _speeds(entry: Entry, base: Entry, document: Document) -> Iterator[tuple[str, Speed]]:
    """By target: the measured comparison where there is one, else from the two medians and their intervals."""
    compared = {c["target"]: c for c in document["comparisons"] if (c["a"], c["b"]) == (entry["name"], base["name"])}
    for target, now in entry.get("latency_us", {}).items():
        before = base.get("latency_us", {}).get(target)
        if target in compared:
            found = compared[target]
            ratio, high, low = (1 / max(r, TINY) for r in (found["ratio"], *found["interval"]))
            yield target, Speed(ratio, low, high, found["verdict"] in ("faster", "slower"))
        elif before is not None:
            yield target, speed(before, now)


def speed(before: Latency, now: Latency) -> Speed:
    """How many times faster, from two medians: real when their 95 % intervals do not touch and they differ by over 1 %."""
    (low_a, high_a), (low_b, high_b) = ((m.get("ci95") or [m["p50"], m["p50"]]) for m in (before, now))
    times = before["p50"] / max(now["p50"], TINY)
    real = (low_a > high_b or low_b > high_a) and not 1 - NOISE < times < 1 + NOISE
    return Speed(times, low_a / max(high_b, TINY), high_a / max(low_b, TINY), real)


def lead(found: list[Row]) -> Row | None:
    """The artifact the headline is about: the smallest within the limits."""
    artifacts = [r for r in found if r.role == "artifact"]
    return min(artifacts, key=lambda r: (not r.within_limits, r.bytes), default=None)


def headline(document: Document, found: list[Row]) -> str:
    """The verdict in one sentence, without the name of the artifact it is about."""
    row = lead(found)
    if row is None:
        return "No artifact was made."
    stages = bool(document.get("savings")) and bool(row.size_change)
    parts = [(row.size_change or figures.size(row.bytes)) + (" than its own float file" if stages else "")]
    for target, value in row.speed.items():
        parts.append(f"{value.text} on {target}" if value.real else f"no difference in speed found on {target}")
    parts.append(quality(document, row))
    text = ", ".join(parts) + against_unchanged(document, row)
    return f"{text[0].upper()}{text[1:]}."


def against_unchanged(document: Document, row: Row) -> str:
    """What the stages that changed the network bought beside the quantization, in half a sentence; "" without such."""
    same = (s for s in document.get("savings", []) if (s["format"], s["scheme"]) == (row.format, row.scheme))
    found = next(same, None)
    if found is None:
        return ""
    rows = [r for r in found["rows"] if r["what"] in ("file", "latency") and r["gain"]]
    gains = [r["verdict"] + (f" on {r['target']}" if "target" in r else "") for r in rows]
    if not gains:
        return f"; no gain here over the model as it came in {row.scheme}"
    return f"; {', '.join(gains)} than the model as it came in {row.scheme}"


def about(document: Document, found: list[Row]) -> str:
    """Which artifact the headline is about, after its name, and what it is compared with."""
    row = lead(found)
    if row is None or row.entry is None:
        return ""
    others = sum(r.role == "artifact" for r in found) > 1
    asked = any(document["limits"].get(name) is not None for name in ("max_drop", "max_class_drop"))
    limited = asked and row.within_limits
    text = f", the smallest artifact{' within the limits' if limited else ''}" if others else ""
    has_base = any(b["format"] == row.format for b in document["baselines"])
    text += "; compared with " + ("the float32 file of the same format" if has_base else "the model's own file")
    verified = row.entry.get("verification", {"ok": False})["ok"]
    return text + ("; verified against the outputs of the original." if verified else ".")


def quality(document: Document, row: Row) -> str:
    """What became of the metric, or without labels of the outputs."""
    data = document["data"]
    on = f"on {data['validation_samples']:,} {'generated ' if data['generated'] else ''}samples"
    name, before = data["metric"], document["original"]["metrics"].get(data["metric"])
    if before is not None:
        change = f" ({row.change})" if row.change else ""
        return f"{name} {figures.metric(name, before)} → {figures.metric(name, row.metric)}{change} {on}"
    share = row.agreement.get("top1_agreement")
    if share is not None:
        return f"the same class as the original for {figures.percent(share)} {on}"
    return f"outputs at {figures.decibel(row.agreement.get('sqnr_db'))} SQNR against the original {on}"


def targets(document: Document) -> list[str]:
    """All targets that were measured, in order."""
    entries = [*document["baselines"], *document["artifacts"]]
    return list(dict.fromkeys(t for e in entries for t in e.get("latency_us", {})))
