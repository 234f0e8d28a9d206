"""The tables and drawings of stages: what they say, what they make of records they do not know, and hostile names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from edgedl.report.curves import lines, widths
from edgedl.report.document import parse
from edgedl.report.html import render_html
from edgedl.report.stages import details, savings, stage_rows
from edgedl.report.terminal import render_terminal

FINETUNE = {
    "stage": "finetune",
    "epochs": [{"loss": 1.0 / (i + 1), "val_loss": 1.2 / (i + 1), "rate": 0.01, "seconds": 2.0} for i in range(5)],
}
PRUNE = {
    "stage": "prune_channels",
    "widths": {"conv1": [16, 8], "conv2": [32, 31], "dense": [64, 0]},
    "macs": [12_501_632, 6_100_000],
    "sensitivity": {"conv1": [[0.25, 0.01], [0.5, 0.08]], "conv2": [[0.25, 0.0], [0.5, 0.02]]},
}
FACTORED = {
    "stage": "low_rank",
    "layers": [{"layer": "conv1", "kernel": [3, 3, 16, 16], "ranks": [7, 9], "macs": [2_359_296, 842_752],
                "parameters": [2304, 823], "error": 0.354, "of": "outputs"}],
    "left": [{"layer": f"dw_{i}", "op": "DepthwiseConv2D", "why": "no rank to lower"} for i in range(14)],
}  # fmt: skip


def staged(document: dict[str, Any], *records: dict[str, Any]) -> dict[str, Any]:
    """The document of a run with these stages, and a file that is smaller and no faster."""
    stages = [
        {
            "stage": r["stage"], "options": {}, "detail": f"did {r['stage']}", "seconds": 3.0, "macs": 6_100_000,
            "parameters": 40_000, "metrics": {"accuracy": 0.84 - 0.01 * i}, "records": [*records[: i + 1]],
        }
        for i, r in enumerate(records)
    ]  # fmt: skip
    rows = [
        {"what": "file", "before": 98_464, "after": 49_000, "ratio": 2.009, "gain": True, "verdict": "2.0× smaller"},
        {"what": "flash", "before": 80_000, "after": 80_000, "ratio": 1.0, "gain": False, "verdict": "no gain here"},
        {"what": "macs", "before": 12_501_632, "after": 6_100_000, "ratio": 2.05, "gain": True, "verdict": "2.0× fewer"},
        {"what": "latency", "target": "cpu", "before": 161.0, "after": 194.0, "ratio": 0.83, "interval": [0.82, 0.84],
         "gain": False, "verdict": "no gain here: 1.20× slower"},
    ]  # fmt: skip
    table = {"format": "tflite", "scheme": "int8", "metric": [0.855, 0.83], "agreement": [0.99, 0.95], "rows": rows}
    return document | {"stages": stages, "savings": [table]}


def svgs(page: str) -> list[ElementTree.Element]:
    return [
        ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.S) if text.count("<svg") == 1
    ]


def test_the_terminal_says_where_nothing_was_gained(sample: Any) -> None:
    text = render_terminal(staged(sample.ordinary(), PRUNE, FINETUNE), width=100, color=False)
    lines_ = text.splitlines()
    assert any(line.startswith("prune_channels") and "6.10 M" in line and "0.8400" in line for line in lines_)
    assert next(line for line in lines_ if line.startswith("constants in flash")).endswith("no gain here")
    assert (
        next(line for line in lines_ if line.startswith("latency on cpu")).split("  ")[-1].strip()
        == "no gain here: 1.20× slower"
    )
    assert "unless the firmware decodes them" in " ".join(text.split())
    assert all(len(line) <= 100 for line in lines_)


def test_the_headline_tells_both_gains_apart(sample: Any) -> None:
    """What quantization bought, beside the changed network's own float file, and what the stages bought beside it."""
    document = staged(sample.ordinary(), PRUNE)
    text = " ".join(render_terminal(document, width=200, color=False).split("\n\n")[0].split())
    assert "smaller than its own float file" in text
    assert text.endswith("; 2.0× smaller than the model as it came in int8.")
    for row in document["savings"][0]["rows"]:
        row["gain"] = False
    text = " ".join(render_terminal(document, width=200, color=False).split("\n\n")[0].split())
    assert text.endswith("; no gain here over the model as it came in int8.")


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_it_fits_any_terminal(sample: Any, width: int) -> None:
    text = render_terminal(staged(sample.ordinary(), PRUNE, FINETUNE, FACTORED), width=width, color=False)
    assert all(len(line) <= width for line in text.splitlines())


def test_reports_without_stages_are_as_they_were(sample: Any) -> None:
    document = sample.ordinary()
    parsed = parse(document)
    assert (stage_rows(parsed), savings(parsed), details(parsed)) == ([], [], [])
    assert 'id="stages"' not in render_html(document)
    assert 'id="savings"' not in render_html(document)


def test_the_metric_of_each_stage_is_held_to_the_one_before(sample: Any) -> None:
    rows = stage_rows(parse(staged(sample.ordinary(), PRUNE, FINETUNE)))
    assert [(r.name, r.metric, r.change) for r in rows] == [
        ("as it came", "0.8550", ""), ("prune_channels", "0.8400", "−1.50 points"), ("finetune", "0.8300", "−1.00 points"),
    ]  # fmt: skip


def test_each_stage_draws_its_own_record_once(sample: Any) -> None:
    found = details(parse(staged(sample.ordinary(), PRUNE, FINETUNE, FACTORED)))
    assert [d.name for d in found] == ["prune_channels", "finetune", "low_rank"]
    prune, tuned, factored = found
    assert prune.widths is not None
    assert [(title, names) for title, _, names in prune.curves] == [("Sensitivity of layers", ["conv1", "conv2"])]
    assert [(title, names) for title, _, names in tuned.curves] == [
        ("Loss", ["training data", "watched data"]),
        ("Learning rate", ["Learning rate"]),
    ]
    assert [(f.layer, f.kernel, f.ranks, f.error) for f in factored.factors] == [
        ("conv1", "3 × 3 × 16 × 16", "7 × 9", "35.4 %")
    ]
    assert factored.left == [(f"{', '.join(f'dw_{i}' for i in range(12))} and 2 more", "no rank to lower")]


def test_layers_that_were_compared_and_those_that_stayed_whole_are_named(sample: Any) -> None:
    rounds = [{"left_alone": {"odd": "Cumsum"}, "frozen": {"head": "head computes softmax over all of them"}}]
    distilled = {
        "stage": "distill",
        "layers": [{"student": "relu [4, 4, 8]", "teacher": "relu [4, 4, 16]", "projected": True}],
        "epochs": [{"loss": 1.0 / (i + 1), "val_loss": 1.0, "metric": 0.5} for i in range(2)],
    }
    pruned, taught = details(parse(staged(sample.ordinary(), PRUNE | {"rounds": rounds}, distilled)))
    assert pruned.left == [("odd", "Cumsum is not understood"), ("head", "head computes softmax over all of them")]
    assert taught.pairs == [("relu [4, 4, 8]", "relu [4, 4, 16], through a learned projection")]
    assert [title for title, _, _ in taught.curves] == ["Loss", "accuracy on watched data"]
    assert "relu [4, 4, 16]" in render_html(staged(sample.ordinary(), distilled))


def test_the_page_shows_and_stays_whole(sample: Any, schema: Callable[[str], Any]) -> None:
    document = staged(sample.ordinary(), PRUNE, FINETUNE, FACTORED)
    jsonschema.validate(document, schema("report"))
    page = render_html(document)
    for text in ("What the stages made of the network", "What that bought", "no gain here: 1.20× slower", "8 of 16", "watched data", "3 × 3 × 16 × 16"):  # fmt: skip
        assert text in page
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#)", page)
    assert len(svgs(page)) > 5


def test_the_browser_finds_nothing_to_complain_about(sample: Any, browse: Callable[..., Any]) -> None:
    seen = browse(render_html(staged(sample.ordinary(), PRUNE, FINETUNE, FACTORED)))
    assert seen.console == []
    assert {a for a in seen.addresses if not a.startswith("file:")} == set()


def test_hostile_names_and_records_of_any_shape(sample: Any) -> None:
    evil = sample.HOSTILE
    odd = [
        {"stage": evil, "widths": {evil: [4, 2], "x": "no", "y": [1], "z": [0, 0]}, "sensitivity": {evil: [[0.1, 1], "no", [1]]}},
        {"stage": "a", "loss": [evil], "epochs": evil, "layers": [evil, {"layer": 1}], "left": [{"layer": evil, "why": evil}]},
        {"stage": "b", "loss": [1.0], "epochs": [None, {"loss": True}, {"loss": 1e300}], "widths": [], "sensitivity": 4},
        {"stage": "c", "loss": [0.0, 0.0, 0.0], "layers": [{**FACTORED["layers"][0], "kernel": 3, "macs": [1]}], "left": 7},
        {"stage": "d", "loss": [None, float("nan"), 2.0], "epochs": [{"loss": float("inf")}, {"loss": 1}, {"loss": 2}]},
    ]  # fmt: skip
    page = render_html(staged(sample.ordinary(), *odd))
    assert "<script>alert" not in page
    assert "onerror=alert" not in page.replace("&lt;img src=x onerror=alert", "")
    assert svgs(page)
    render_terminal(staged(sample.ordinary(), *odd), width=80, color=False)


def test_lines_lie_where_their_values_are() -> None:
    plot = lines({"a": [(1, 0.0), (2, 10.0), (3, 5.0)]}, "epoch", "loss")
    assert plot is not None
    dots = ElementTree.fromstring(plot.body).findall(".//circle")
    assert [d.get("cx") for d in dots] == ["0.000%", "50.000%", "100.000%"]
    low, high, middle = (float(d.get("cy")) for d in dots)
    assert low > middle > high
    assert middle == pytest.approx((low + high) / 2, abs=0.02)
    assert lines({"a": [(1, 2.0)], "b": []}, "epoch", "loss") is None


def test_bars_are_as_long_as_the_layers_are_wide() -> None:
    drawn = widths({"a": [64, 32], "b": [32, 32]})
    assert drawn is not None
    bars = {c: [float(r.get("width")[:-1]) for r in ElementTree.fromstring(drawn).iter("rect") if r.get("class") == c] for c in ("was", "now")}  # fmt: skip
    assert bars["now"][0] == pytest.approx(bars["was"][0] / 2, abs=0.01)
    assert bars["now"] == pytest.approx([bars["was"][1]] * 2, abs=0.01)
    assert widths({}) is None
    many = widths({f"layer_{i}": [100, i] for i in range(100)})
    assert many is not None
    assert "layer_59" in many
    assert "layer_60" not in many


def test_a_budget_in_latency_shows_the_time_of_every_operator(sample: Any) -> None:
    rows = [{"layer": f"conv{i}", "operator": "CONV_2D", "before_ms": 0.04, "after_ms": 0.01 * i} for i in range(3)]
    record = {
        "stage": "prune_channels",
        "rounds": [{"layers": rows}, {"layers": [*rows, {"layer": "odd", "before_ms": "x"}]}],
    }
    (found,) = details(parse(staged(sample.ordinary(), record)))
    assert found.times is not None
    page = render_html(parse(staged(sample.ordinary(), record)))
    assert "conv2: 40 → 20 microseconds" in page
    assert "odd" not in re.findall(r"([\w]+): [\d.]+ → ", page)
