"""The drawings: well-formed, true to the figures, readable."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.report import charts, scatter, summary, svg
from edgedl.report.document import Layer, parse


def drawings(raw: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every drawing of a document, with a name."""
    document = parse(raw)
    targets = summary.targets(document)
    found: list[tuple[str, Any]] = [("size", scatter.scatter(document, "size"))]
    for target in targets:
        found += [
            ("latency", scatter.scatter(document, "latency", target)),
            ("runs", charts.distributions(document, target)),
        ]
    for entry in document["artifacts"]:
        for name, plot in (
            ("layers", charts.layers(entry.get("layers", []))),
            ("classes", charts.change_curve(entry.get("per_class", []))),
        ):
            found += [] if plot is None else [(name, plot.axis), (name, plot.body)]
    return ((name, drawn) for name, drawn in found if drawn)


def test_every_drawing_is_well_formed_and_has_a_label(document: dict[str, Any]) -> None:
    for name, drawn in drawings(document):
        root = ET.fromstring(drawn)
        assert root.get("aria-label") or root.get("aria-hidden") == "true", name
        assert not [
            e for e in root.iter() if e.tag not in ("svg", "g", "line", "rect", "circle", "path", "text", "title")
        ]
        assert "nan" not in drawn.lower().replace("dominan", "")


def test_places_are_inside_the_drawing(document: dict[str, Any]) -> None:
    for name, drawn in drawings(document):
        root = ET.fromstring(drawn)
        _, _, width, height = (float(v) for v in (root.get("viewBox") or "0 0 0 0").split())
        for e in root.iter():
            for key in ("x", "x1", "x2", "cx"):
                value = e.get(key, "0")
                most = 100.0 if value.endswith("%") else width or 1e9
                assert -0.01 <= float(value.rstrip("%")) <= most + 0.01, (name, key, value)
            for key in ("y", "y1", "y2", "cy"):
                assert -4 <= float(e.get(key, "0")) <= (height or float(root.get("height", "0"))) + 0.01, (name, key)


def points(drawn: str) -> dict[str, tuple[float, float]]:
    """Places of the marks by the name in their tooltip."""
    found = {}
    for group in ET.fromstring(drawn).iter("g"):
        told = group.get("data-tip")
        if told:
            circle, rect = group.find("circle"), group.find("rect")
            at = (circle.get("cx"), circle.get("cy")) if circle is not None else (rect.get("x"), rect.get("y"))
            found[told.partition(":")[0]] = (float(at[0]), float(at[1]))
    return found


def test_scatter_orders_files_as_their_figures_do(sample: Any) -> None:
    drawn = scatter.scatter(parse(sample.ordinary()), "size")
    assert drawn is not None
    at = points(drawn)
    assert set(at) == {f"resnet8_{s}.{f}" for s in ("int8", "float32") for f in ("tflite", "onnx")}
    assert at["resnet8_int8.tflite"][0] < at["resnet8_float32.tflite"][0] / 2, "98 kB is left of 318 kB"
    assert at["resnet8_int8.onnx"][1] > at["resnet8_int8.tflite"][1], "0.840 is below 0.850"


def test_scatter_states_where_its_axes_begin(sample: Any) -> None:
    document = parse(sample.ordinary())
    drawn = scatter.scatter(document, "size") or ""
    assert "bytes on disk (from zero)" in drawn
    lowest = float(re.search(r"begin at zero but at ([\d.]+\d)", scatter.explained(document))[1])  # type: ignore[index]
    assert 0.7 < lowest < 0.84
    assert "original 0.8550" in drawn
    assert "limit 0.8450" in drawn
    wide = sample.ordinary()
    wide["artifacts"][0]["bytes"] = 3_000
    assert "(logarithmic)" in (scatter.scatter(parse(wide), "size") or "")


def test_an_error_metric_says_that_lower_is_better(sample: Any) -> None:
    document = sample.ordinary()
    document["data"]["metric"] = "mse"
    document["original"]["metrics"] = {"mse": 10.0}
    for item in (*document["artifacts"], *document["baselines"]):
        item |= {"metrics": {"mse": 10.5}, "original_metrics": {"mse": 10.0}, "drop": 0.05}
    drawn = scatter.scatter(parse(document), "size") or ""
    assert "mse, lower is better" in drawn
    assert "limit 10.10" in drawn, "one percent more than 10"
    assert "Wilson" not in scatter.explained(parse(document)), "an error is no share"


def boxes(drawn: str) -> list[tuple[float, float, float, float]]:
    """About the room that each label of a point takes."""
    found = []
    for e in ET.fromstring(drawn).iter("text"):
        if "label" in (e.get("class") or "").split():
            wide, x, y = scatter.CHARACTER * len(e.text or ""), float(e.get("x", "0")), float(e.get("y", "0"))
            left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[e.get("text-anchor", "start")]
            found.append((left, y - scatter.LINE + 2, left + wide, y + 2))
    return found


@pytest.mark.parametrize("name", ["ordinary", "many", "no_labels"])
def test_labels_do_not_cover_each_other(sample: Any, name: str) -> None:
    document = parse(sample.DOCUMENTS[name]())
    for along in ("size", "latency"):
        found = boxes(scatter.scatter(document, along, "cpu") or "")  # type: ignore[arg-type]
        assert len(found) >= 4
        for i, a in enumerate(found):
            for b in found[i + 1 :]:
                assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


def test_one_file_is_no_scatter(sample: Any) -> None:
    assert scatter.scatter(parse(sample.one()), "size") is None


def test_histogram_counts_every_sample_on_the_axis() -> None:
    axis = svg.Scale(0.0, 10.0, 0, 100)
    drawn = charts._histogram([1.0] * 30 + [5.0] * 15 + [99.0], axis, charts.HIGH, "area")
    tops = [float(v) for v in re.findall(r"V([\d.]+)H", drawn)]
    heights = [charts.HIGH - t for t in tops]
    assert len(tops) == charts.BINS
    full = max(heights)
    assert heights[int(0.1 * charts.BINS)] == full
    assert heights[int(0.5 * charts.BINS)] == pytest.approx(full / 2, abs=0.1)
    assert sum(h > 0 for h in heights) == 2, "99 is beyond the axis"


def test_a_few_slow_runs_do_not_squeeze_the_axis_and_are_counted(sample: Any) -> None:
    document = sample.one()
    latency = document["artifacts"][0]["latency_us"]["cpu"]
    latency["samples"][:3] = [50_000.0, 60_000.0, 70_000.0]
    latency["p99"] = 50_000.0
    latency["warmup"]["stationary"] = False
    found = parse(document)
    assert charts._time_axis([found["artifacts"][0]["latency_us"]["cpu"]]).high < 1000
    assert charts.beyond(found, "cpu").startswith(
        "3 of the 2,000 runs drawn took longer than the axis shows, at most 70.0 ms."
    )
    assert "never became steady for resnet8_float32.tflite" in charts.beyond(found, "cpu")


def test_layer_bars_are_as_high_as_their_figures(sample: Any) -> None:
    document = parse(sample.ordinary())
    layers = document["artifacts"][0]["layers"]
    plot = charts.layers(layers)
    assert plot is not None
    bars: dict[str, list[float]] = {}
    for group in ET.fromstring(plot.body).iter("g"):
        if group.get("data-tip"):
            for rect in group.findall("rect"):
                bars.setdefault(str(rect.get("class")), []).append(float(rect.get("height", "0")))
    assert len(bars["bytes"]) == len(bars["hover"]) == len(layers)
    assert len(bars["worst"]) == 3
    assert len(bars["same"]) == sum(layer["sqnr_db"] == 999.0 for layer in layers)
    known = sorted(v for layer in layers if (v := layer["sqnr_db"]) is not None and v < 999)
    drawn = sorted(bars["error"] + bars["worst"])
    assert [round(d / drawn[-1], 2) for d in drawn] == [round(v / known[-1], 2) for v in known]
    assert charts.worst_layers(layers, 1)[0]["name"] in plot.body


def test_the_names_of_the_worst_layers_do_not_touch() -> None:
    layers: list[Layer] = [
        {"name": f"a_rather_long_name_of_layer_{i}", "op": "CONV_2D", "sqnr_db": 40.0 + i % 3, "bytes": 9}
        for i in range(40)
    ]
    for i, noise in ((24, 5.0), (36, 6.0), (2, 7.0)):
        layers[i]["sqnr_db"] = noise
    plot = charts.layers(layers)
    assert plot is not None
    spans = []
    for e in ET.fromstring(plot.body).iter("text"):
        if e.get("class") == "label":
            wide, x = charts.NAME_CHARACTER * len(e.text or ""), float(e.get("x", "0%").rstrip("%"))
            left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[e.get("text-anchor", "start")]
            spans.append((left, left + wide))
    assert len(spans) >= 2
    assert all(a >= 0 and b <= 100 for a, b in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(sorted(spans)))


@pytest.mark.parametrize(("points_", "place"), [(-4.0, ("60", "40")), (2.0, ("100", "20"))])
def test_a_lost_class_points_left(points_: float, place: tuple[str, str]) -> None:
    bar = ET.fromstring(charts.change_bar(points_, 10.0)).find("rect")
    assert bar is not None
    assert (bar.get("x"), bar.get("width")) == place


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 10))
def test_ticks_are_round_inside_and_few(low: float, extent: float, most: int) -> None:
    high = low + extent
    if extent / max(abs(low), abs(high)) < 1e-9:
        return
    found = svg.linear_ticks(low, high, most)
    assert len(found) <= most + 1
    assert all(low - 1e-6 * extent <= v <= high + 1e-6 * extent for v in found)
    assert found == sorted(found)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 1e9), st.floats(1.5, 1e9))
def test_logarithmic_ticks_are_inside(low: float, factor: float) -> None:
    found = svg.log_ticks(low, low * factor)
    assert found
    assert all(low * 0.99 <= v <= low * factor * 1.01 for v in found)


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text())
def test_any_text_is_escaped(text: str, attribute: str) -> None:
    drawn = svg.el("text", text, data_tip=attribute)
    assert drawn.count("<") == 2
    assert drawn.count('"') == 2
