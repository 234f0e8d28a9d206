"""The terminal's table: what it says, that it fits, that nothing in it moves the cursor."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from edgedl import metrics
from edgedl.report import bench_table, figures, render_terminal

ESCAPE = re.compile(r"\x1b\[\d+m")


def test_before_and_after_of_each_artifact(sample: Any) -> None:
    text = render_terminal(sample.ordinary(), width=120, color=False)
    lines = text.splitlines()
    assert (
        lines[0]
        == "resnet8_int8.tflite: 3.2× smaller, 2.2× faster on cpu, accuracy 0.8550 → 0.8500 (−0.50 points) on 200 samples."
    )
    at = next(i for i, line in enumerate(lines) if line.startswith("resnet8_int8.tflite "))
    cells = re.split(r"\s{2,}", lines[at])
    assert (cells[:4], cells[5]) == (["resnet8_int8.tflite", "98.5 kB", "0.8500", "96.5 %"], "2.31 MB")
    assert re.fullmatch(r"160 µs \[\d+–\d+ µs\]", cells[4])
    assert "3.2× smaller" in lines[at + 1]
    assert "−0.50 points" in lines[at + 1]
    assert "2.2× faster" in lines[at + 1]
    at = next(i for i, line in enumerate(lines) if line.startswith("resnet8_int8.onnx "))
    assert "no difference found" in lines[at + 1]
    assert text.index("! resnet8_int8.onnx drops by 1.50%") > at, "warnings come last"
    assert "1 layer stays float: softmax" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
@pytest.mark.parametrize("name", ["ordinary", "many", "no_labels", "unmeasured", "empty"])
def test_it_fits(sample: Any, name: str, width: int) -> None:
    text = render_terminal(sample.DOCUMENTS[name](), width=width, color=True)
    assert max(len(line) for line in ESCAPE.sub("", text).splitlines()) <= width


def test_eighty_columns_are_enough_for_long_names(sample: Any) -> None:
    document = sample.ordinary()
    for item in (*document["artifacts"], *document["baselines"]):
        item["name"] = f"a_long_name_of_{item['name']}"
    lines = render_terminal(document, width=80, color=False).splitlines()
    at = lines.index("a_long_name_of_resnet8_int8.tflite")
    assert lines[at + 1].split() == ["tflite", "int8", "98.5", "kB", "0.8500", "96.5", "%", "160", "µs", "2.31", "MB"]
    assert lines[at + 2].split() == ["3.2×", "smaller", "−0.50", "pt", "2.2×", "faster"]


def test_colour_changes_no_text(document: dict[str, Any]) -> None:
    plain, coloured = (render_terminal(document, width=110, color=c) for c in (False, True))
    assert "\x1b" not in plain
    assert coloured != plain
    assert ESCAPE.sub("", coloured) == plain


def test_no_colour_where_output_is_no_terminal(sample: Any) -> None:
    assert "\x1b" not in render_terminal(sample.ordinary())


def test_hostile_names_cannot_write_to_the_terminal(sample: Any) -> None:
    text = render_terminal(sample.hostile(), width=100, color=False)
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert "\\x1b[31m\\u202e\\x00" in text


def test_no_labels_says_what_was_compared_instead(sample: Any) -> None:
    text = render_terminal(sample.no_labels(), width=120, color=False)
    assert "outputs at 24.7 dB SQNR against the original on 200 generated samples" in " ".join(text.split())
    assert "! calibrated on generated inputs" in text
    assert "accuracy  " not in text


def test_failures_and_limits(sample: Any) -> None:
    assert "! export onnx: tf2onnx has no Erfc" in render_terminal(sample.unmeasured(), width=100, color=False)


def measurement(seed: int, name: str, middle: float, **more: Any) -> dict[str, Any]:
    sample = more.pop("sample")
    found = {"artifact": f"/some/where/{name}", "target": "cpu", "bytes": 98_464, "latency_us": sample.latency(random.Random(seed), middle),
             "load_ms": 3.25, "memory": {"peak_bytes": 2_310_144}, "metrics": {}, "environment": {}}  # fmt: skip
    return found | more


def test_bench_compares_with_the_first_of_each_target(sample: Any) -> None:
    rows = [
        measurement(0, "a.tflite", 100.0, sample=sample),
        measurement(1, "b.tflite", 50.0, sample=sample),
        measurement(0, "a.tflite", 10.0, sample=sample, target="ssh"),
        measurement(2, "b.tflite", 30.0, sample=sample, target="ssh"),
    ]
    lines = bench_table(rows, width=140, color=False).splitlines()
    assert lines[0].split() == [
        "artifact",
        "target",
        "size",
        "p50",
        "95",
        "%",
        "interval",
        "p90",
        "p99",
        "load",
        "memory",
    ]
    assert [line.strip() for line in lines if not line.startswith(("artifact", "a.", "b."))] == [
        "2.0× faster",
        "3.0× slower",
    ]
    assert "98.5 kB" in lines[1]
    assert "3.25 ms" in lines[1]
    assert "2.31 MB" in lines[1]


def test_bench_claims_no_difference_inside_the_intervals(sample: Any) -> None:
    rows = [measurement(0, "a.tflite", 100.0, sample=sample), measurement(1, "b.tflite", 100.3, sample=sample)]
    assert "no difference found" in bench_table(rows, width=140, color=False)


def test_bench_of_unknown_memory_and_of_metrics(sample: Any) -> None:
    row = measurement(
        0, "a.tflite", 100.0, sample=sample, memory={"peak_bytes": None}, metrics={"accuracy": 0.85, "f1": 0.84}
    )
    text = bench_table([row], width=160, color=False)
    assert "accuracy 0.8500" in text
    assert "f1 0.8400" in text
    assert "–" in text
    assert bench_table([], width=80).startswith("artifact")


def test_what_is_known_of_metrics_agrees_with_the_metrics() -> None:
    for name, metric in metrics.METRICS.items():
        assert (name in figures.RELATIVE) == (not metric.bounded), name
        assert (name in figures.LOWER_IS_BETTER) == (not metric.higher_is_better), name
        assert name in figures.TITLES or figures.is_share(name), name
        worse = metrics.drop(name, 0.5, 0.4 if metric.higher_is_better else 0.6)
        assert figures.drop(name, worse).startswith("−" if metric.higher_is_better else "+")


def test_wilson_intervals_are_those_of_the_literature() -> None:
    """Wilson (1927), worked by Newcombe (Statistics in Medicine 1998, table I): 81 of 263 gives 0.2553 to 0.3662."""
    assert figures.wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert figures.wilson(0 / 20, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
