"""The scan against networks that were really cut, bounds from it, and the command with its table and page."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl import metrics
from edgedl.cli import run
from edgedl.data import Dataset, Split
from edgedl.errors import UsageError
from edgedl.frameworks import keras
from edgedl.report.sensitivity import sensitivity_page, sensitivity_table
from edgedl.stages.channels.choose import Bounds, choose
from edgedl.stages.channels.cost import Polynomial
from edgedl.stages.channels.criteria import score
from edgedl.stages.channels.graph import channel_graph
from edgedl.stages.channels.sensitivity import Curve, Scan, bounds_from, scan
from edgedl.stages.channels.shrink import shrink, without

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

Zoo = Callable[[str], tuple[Any, Any, Any]]


@pytest.mark.parametrize(("name", "labelled"), [("resnet", True), ("dscnn", False)])
def test_a_drop_is_that_of_the_network_cut_there(zoo: Zoo, name: str, labelled: bool) -> None:
    """Two points of every group: the shrunken network on the same 128 samples, to one sample."""
    net, x, y = zoo(name)
    x, y = x[:128], y[:128]
    split = Split({net.inputs[0].name: x}, y if labelled else None)
    data = Dataset(split, split, metric="accuracy" if labelled else "agreement")
    graph = channel_graph(net)
    before = net.get_weights()
    scores = score(graph, "l2")
    found = scan(graph, scores, data, samples=128, criterion="l2")
    assert all(np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True))
    whole = np.asarray(net(x, training=False))
    truth = y if labelled else whole.argmax(-1)
    assert found.metric == ("accuracy" if labelled else "agreement")
    assert found.value == pytest.approx(np.mean(whole.argmax(-1) == truth))
    assert [c.channels for c in found.curves] == [len(g) for g in graph.prunable]
    for group, curve in zip(graph.prunable, found.curves, strict=True):
        order = group.channels[np.argsort(scores[group.channels], kind="stable")]
        for share, drop in curve.points[2::4][:2]:
            small = shrink(graph, without(graph, order[: round(share * len(group))]))
            accuracy = np.mean(np.asarray(small(x, training=False)).argmax(-1) == truth)
            assert drop == pytest.approx(found.value - accuracy, abs=1 / 128 + 1e-9)


def test_regression_drops_are_relative(zoo: Zoo) -> None:
    net, x, y = zoo("generator")
    split = Split({net.inputs[0].name: x[:64]}, y[:64])
    graph = channel_graph(net)
    found = scan(graph, score(graph, "l2"), Dataset(split, split, metric="mse"), samples=64, shares=(0.5,))
    assert found.value == pytest.approx(metrics.mse(net.predict(x[:64], verbose=0), y[:64]), rel=1e-5)
    assert all(drop > 0 for curve in found.curves for _, drop in curve.points)


def test_several_inputs_and_a_metric_of_the_second_output(zoo: Zoo) -> None:
    net, x, y = zoo("multi_io")
    split = Split({t.name: x[t.name][:64] for t in net.inputs}, y["amount"][:64])
    graph = channel_graph(net)
    data = Dataset(split, split, metric="amount:mae")
    found = scan(graph, score(graph, "l2"), data, samples=64, shares=(0.5,), outputs=["kind", "amount"])
    expected = metrics.mae(net.predict([v[:64] for v in x.values()], verbose=0)[1], y["amount"][:64])
    assert found.value == pytest.approx(expected, rel=1e-4)


def test_bounds_keep_what_cannot_go() -> None:
    """The largest share before the first drop above the limit; what is given besides counts where it is stricter."""
    curves = (
        Curve("a", 8, ((0.25, 0.0), (0.5, 0.01), (0.75, 0.2))),
        Curve("b", 8, ((0.25, 0.3), (0.5, 0.0))),
        Curve("c", 8, ((0.25, -0.1), (0.5, 0.0))),
    )
    found = Scan("accuracy", 0.9, 100, "l2", curves)
    assert [b.min_share for b in bounds_from(found, 0.01)] == [0.5, 1.0, 0.5]
    strict = bounds_from(found, 0.01, Bounds(round_to=4, min_share=0.6))
    assert [(b.round_to, b.min_share) for b in strict] == [(4, 0.6), (4, 1.0), (4, 0.6)]
    assert found.to_json()["groups"]["a"] == [[0.25, 0.0], [0.5, 0.01], [0.75, 0.2]]


def test_bounds_are_for_choose(zoo: Zoo) -> None:
    net, x, y = zoo("resnet")
    split = Split({net.inputs[0].name: x[:64]}, y[:64])
    graph = channel_graph(net)
    scores = score(graph, "l2")
    bounds = bounds_from(scan(graph, scores, Dataset(split, split, metric="accuracy"), samples=64), 0.05)
    cost = Polynomial(graph, "macs")
    least = np.array([b.least(len(g)) for b, g in zip(bounds, graph.prunable, strict=True)])
    keep = choose(graph, scores, cost, cost.parts(least).sum(), bounds=bounds)
    assert [int(keep[g.channels].sum()) for g in graph.prunable] == least.tolist()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_silly_shares_are_told(zoo: Zoo, share: float) -> None:
    net, x, _ = zoo("cnn")
    split = Split({net.inputs[0].name: x[:8]})
    graph = channel_graph(net)
    with pytest.raises(UsageError, match="above 0 and below 1"):
        scan(graph, score(graph, "l2"), Dataset(split, split), shares=(share,))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "meta":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_escaped() -> None:
    found = {
        "path": "<b>.keras", "metric": "accuracy", "value": 0.9, "samples": 10, "criterion": "l2", "notes": ["a & b"],
        "groups": {"<script>": [[0.5, 0.1], [0.75, 1e308]]}, "channels": {"<script>": 4}, "frozen": {"out": "an output"},
    }  # fmt: skip
    page = _Tags()
    page.feed(sensitivity_page(found))
    assert not page.open
    assert "script" not in page.seen
    assert page.seen.count("svg") == 1
    assert "<script> (4)" in page.text
    assert "out: an output" in page.text
    assert "▂█" in sensitivity_table(found) or "▁█" in sensitivity_table(found)


def test_the_command_writes_what_it_prints(zoo: Zoo, tmp_path: Path, capsys: Any) -> None:
    net, x, y = zoo("cnn")
    net.save(tmp_path / "m.keras")
    np.savez(tmp_path / "d.npz", x=x, y=y)
    command = ["sensitivity", str(tmp_path / "m.keras"), "--data", str(tmp_path / "d.npz"), "--samples", "64"]
    assert run([*command, "-o", str(tmp_path / "scan.json")]) == 0
    told, data = capsys.readouterr().out, json.loads((tmp_path / "scan.json").read_text())
    assert list(data["groups"]) == ["conv2d", "conv2d_1", "dense"]
    assert data["criterion"] == "taylor"
    assert data["samples"] == 64
    for name in data["groups"]:
        assert name in told
    assert "dense_1: " in told, "the layer whose channels stay, and why"
    assert run([*command, "-o", str(tmp_path / "scan.json")]) == 9
    assert "exists" in capsys.readouterr().err
    assert run([*command, "-o", str(tmp_path / "scan.txt")]) == 9
    assert "neither .html nor .json" in capsys.readouterr().err


def test_a_network_without_removable_channels_is_told(tmp_path: Path, capsys: Any) -> None:
    node = keras().Input((4,))
    keras().Model(node, keras().layers.Dense(3)(node)).save(tmp_path / "m.keras")
    assert run(["sensitivity", str(tmp_path / "m.keras")]) == 2
    assert "no channel of this network can be removed" in capsys.readouterr().err
