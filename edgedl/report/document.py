"""The shape of report.json as types (docs/schema/report.schema.json), its check when it is read, and its writing."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from ..artifact import write_atomic
from ..errors import UsageError

IDENTICAL_DB = 999.0  # stands for an infinite ratio in dB: no difference at all; its negative: nothing in common


class Latency(TypedDict):
    """Time of one inference in microseconds. `ci95`: bootstrap interval of the median."""

    p50: float
    p90: float
    p99: float
    mean: float
    min: NotRequired[float]
    max: NotRequired[float]
    std: NotRequired[float]
    ci95: NotRequired[list[float]]
    runs: NotRequired[int]
    warmup: NotRequired[dict[str, Any]]  # runs, seconds, and whether they became stationary
    samples: NotRequired[list[float]]  # raw, in the order measured; at most 2000


class Agreement(TypedDict, total=False):
    """Outputs against those of the original on the validation inputs: the worst over all outputs, and each."""

    sqnr_db: float | None
    max_relative_error: float | None
    top1_agreement: float | None
    outputs: dict[str, Any]


class Layer(TypedDict):
    """Error of a layer against the float file, inputs alike; None where it could not be computed."""

    name: str
    op: str
    sqnr_db: float | None
    bytes: int


class FloatLayer(TypedDict):
    """A layer that the scheme could not serve."""

    layer: str
    op: str
    why: str


class ClassChange(TypedDict):
    """Share of a class's samples that was right with the original and is right now."""

    label: str
    original: float | None
    now: float | None
    count: int


class ClassDrop(TypedDict):
    """The class that lost most: how much of its accuracy (without labels: of its agreement), absolute."""

    label: str
    drop: float
    count: int


class Corrupted(TypedDict):
    """The original and a file on inputs corrupted alike: the measure, the decisions they share, mean confidence."""

    kind: str
    strength: int  # 1, 2 or 3
    amount: float
    unit: str  # of the amount
    before: float | None
    after: float | None
    agrees: float | None
    confidence: list[float] | None  # before, after


class Attack(TypedDict):
    """FGSM: the original on inputs made against it, the file on inputs made against the network it was made from."""

    epsilon: dict[str, float]  # by input, in units of the preprocessed input
    share: float  # the same as a share of its standard deviation
    before: float | None
    after: float | None
    confidence: list[float] | None


class Faithfulness(TypedDict):
    """How faithful a file is beyond its metric. Pairs are before and after; what is not there is in `not_measured`."""

    unit: str  # what a decision is about: prediction, position, or value where there are no decisions
    labelled: bool
    not_measured: dict[str, str]  # what -> why
    measure: str  # the metric of `clean`, `corrupted` and `fgsm`
    samples: int  # that these are of
    clean: list[float | None]
    corrupted: list[Corrupted]
    fgsm: NotRequired[Attack]
    decisions: NotRequired[int]
    flipped: NotRequired[float]
    lost: NotRequired[float]
    gained: NotRequired[float]
    iou: NotRequired[float]
    confidence: NotRequired[list[float]]
    ece: NotRequired[list[float]]
    reliability: NotRequired[list[list[list[float]]]]  # before, after: [confidence, accuracy, decisions] of each bin
    per_class: NotRequired[list[ClassChange]]  # those that lost most


class Check(TypedDict):
    """One thing that was verified."""

    name: str
    ok: bool
    detail: str


class Verification(TypedDict):
    """All checks of one file."""

    ok: bool
    checks: list[Check]


class Attempt(TypedDict):
    """One scheme that was tried to hold to the limits: what came out, or why nothing did."""

    scheme: str
    calibration: NotRequired[str]
    bytes: NotRequired[int]
    drop: NotRequired[float | None]
    class_drop: NotRequired[ClassDrop | None]
    within_limits: NotRequired[bool]
    error: NotRequired[dict[str, str]]


class Entry(TypedDict):
    """One file: an artifact, or the float32 file of its format before it (a baseline)."""

    name: str
    path: str
    format: str
    scheme: str
    bytes: int
    metrics: dict[str, float | None]
    original_metrics: dict[str, float | None]
    agreement: Agreement
    io: NotRequired[str]
    drop: NotRequired[float | None]
    class_drop: NotRequired[ClassDrop | None]
    faithfulness: NotRequired[Faithfulness | None]
    within_limits: NotRequired[bool]
    latency_us: NotRequired[dict[str, Latency]]
    devices: NotRequired[dict[str, Any]]  # by target what a microcontroller told: instructions, flash, ram ...
    load_ms: NotRequired[float | None]
    peak_bytes: NotRequired[int | None]
    layers: NotRequired[list[Layer]]
    per_class: NotRequired[list[ClassChange]]
    confusion: NotRequired[list[list[int]]]
    left_float: NotRequired[list[FloatLayer]]
    transposes: NotRequired[int | None]
    layouts: NotRequired[dict[str, Any]]
    verification: NotRequired[Verification]
    attempts: NotRequired[list[Attempt]]
    warnings: NotRequired[list[str]]


class Proof(TypedDict):
    """An output of the imported model against the original's: differences as shares of its largest value."""

    output: str
    against: str
    inputs: int
    data: NotRequired[str]  # "generated" or "given"
    max_relative: float | None
    mean_relative: float | None


class ModelInfo(TypedDict):
    """The model as the user gave it. `layers`: how many."""

    path: str
    format: str
    sha256: str
    bytes: int
    parameters: NotRequired[int | None]
    macs: NotRequired[int | None]
    layers: NotRequired[int | None]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    layouts: NotRequired[dict[str, Any]]
    proof: NotRequired[list[Proof]]


class DataInfo(TypedDict):
    """What calibration and validation ran on."""

    source: str
    calibration_samples: int
    train_samples: NotRequired[int]
    validation_samples: int
    metric: str
    generated: bool
    labelled: NotRequired[bool]
    labels: NotRequired[list[str]]
    notes: list[str]


class Original(TypedDict):
    """The model before anything was done to it."""

    metrics: dict[str, float | None]
    bytes: int


class Step(TypedDict):
    """One step of the run."""

    name: str
    seconds: float
    reused: bool
    notes: list[str]


class Comparison(TypedDict):
    """Latency of `a` over that of `b` with its 95 % interval; below 1, `a` is faster."""

    a: str
    b: str
    target: str
    ratio: float
    interval: list[float]
    verdict: str  # "faster", "slower" or "no difference found"
    paired: NotRequired[bool]  # measured in turns, compared block by block
    blocks: NotRequired[int]
    noise: NotRequired[float]  # relative difference below which none is claimed


class Stage(TypedDict):
    """A stage that changed the network: what it was told, and the network after it. `records`: of all stages so far."""

    stage: str
    options: dict[str, Any]
    detail: str
    seconds: float
    metrics: dict[str, float | None]
    records: list[dict[str, Any]]
    macs: NotRequired[int]
    parameters: NotRequired[int]


class SavingRow(TypedDict):
    """One thing that the changed model has less or more of than the unchanged one. `before` in bytes, counts or
    microseconds; `interval`: of the ratio, of latencies."""

    what: str  # "file", "zip", "flash", "activations", "macs", "parameters" or "latency"
    target: NotRequired[str]
    before: float
    after: float
    ratio: float | None
    interval: NotRequired[list[float]]
    gain: bool
    verdict: str


class Saving(TypedDict):
    """A file of the changed model beside one of the unchanged model, converted the same way. Pairs: unchanged, changed."""

    format: str
    scheme: str
    metric: list[float | None]
    agreement: list[float | None]
    rows: list[SavingRow]


class Failure(TypedDict):
    """A part of the run that failed while the others went on."""

    step: str
    message: str
    type: NotRequired[str]
    next: NotRequired[str]


class Document(TypedDict):
    """The content of report.json."""

    edgedl: str
    created: str
    model: ModelInfo
    data: DataInfo
    original: Original
    artifacts: list[Entry]
    baselines: list[Entry]
    recipe: str
    steps: list[Step]
    environment: dict[str, Any]
    limits: dict[str, Any]
    comparisons: list[Comparison]
    warnings: list[str]
    failures: NotRequired[list[Failure]]
    stages: NotRequired[list[Stage]]
    savings: NotRequired[list[Saving]]
    firmware: NotRequired[list[dict[str, Any]]]  # `Firmware.to_json()`, the target, the folder and its files


def clean(value: Any, key: str = "") -> Any:
    """A copy with what JSON cannot say replaced: infinite dB by +-999, every other NaN or infinity by None.

    >>> clean({"sqnr_db": float("inf"), "drop": float("inf"), "shape": (1, 2)})
    {'sqnr_db': 999.0, 'drop': None, 'shape': [1, 2]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        in_db = key.endswith("_db") or key.rpartition(":")[2] == "psnr"
        return math.copysign(IDENTICAL_DB, value) if in_db and not math.isnan(value) else None
    if isinstance(value, Mapping):
        return {str(k): clean(v, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v, key) for v in value]
    return value


def printable(value: Any) -> Any:
    """A copy whose strings hold no control or direction-changing characters (they are shown as escapes).

    >>> printable({"a\\x1b[2J": ["x\\ny", 1]})
    {'a\\\\x1b[2J': ['x\\ny', 1]}
    """
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in value)
    if isinstance(value, Mapping):
        return {printable(k): printable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [printable(v) for v in value]
    return value


def parse(document: Any) -> Document:
    """The document, checked against the types above and safe to show. Raises UsageError that names the wrong place."""
    found = printable(clean(document))
    _check(found, Document, "report.json")
    return cast(Document, found)


def _check(value: Any, kind: Any, where: str) -> None:
    """Hold a JSON value to a type: TypedDict, list, dict, union or plain."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return
    if origin is types.UnionType:
        if value is not None:
            _check(value, next(k for k in arguments if k is not types.NoneType), where)
    elif typing.is_typeddict(kind):
        _expect(value, dict, "an object", where)
        for key, inner in typing.get_type_hints(kind, include_extras=True).items():
            optional = typing.get_origin(inner) is NotRequired
            if key in value:
                _check(value[key], typing.get_args(inner)[0] if optional else inner, f"{where}: {key}")
            elif kind.__total__ and not optional:
                raise _not_a_report(f"{where} has no '{key}'")
    elif origin in (list, dict):
        _expect(value, origin, "a list" if origin is list else "an object", where)
        for i, item in value.items() if origin is dict else enumerate(value):
            _check(item, arguments[-1], f"{where}[{i}]")
    else:
        _expect(value, (int, float) if kind is float else kind, f"of type {kind.__name__}", where)


def _expect(value: Any, kind: Any, what: str, where: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _not_a_report(f"{where} is {str(value)[:40]!r}, not {what}")


def _not_a_report(message: str) -> UsageError:
    return UsageError(f"this is not a report of this edgedl: {message}", next="run `edgedl compress` again")


def write_json(document: Mapping[str, Any], path: Path) -> None:
    """Write report.json, whole or not at all: standard JSON, one short list or object a line. Raises OutputError."""
    write_atomic(path, (_text(clean(document), 0) + "\n").encode("utf-8", "backslashreplace"))


def _text(value: Any, depth: int) -> str:
    """JSON that a person can read and `git diff`: containers of plain values stay on one line."""
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not any(isinstance(v, dict | list) and v for v in nested) and (isinstance(value, list) or len(flat) <= 160):
        return flat
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(k, ensure_ascii=False)}: {_text(v, depth + 1)}" for k, v in value.items()]
    elif isinstance(value, list):
        items = [_text(v, depth + 1) for v in value]
    else:
        return flat
    ends = "{}" if isinstance(value, dict) else "[]"
    return f"{ends[0]}\n{pad}" + f",\n{pad}".join(items) + f"\n{' ' * depth}{ends[1]}"
