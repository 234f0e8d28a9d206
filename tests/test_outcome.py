"""What a run decides: which schemes are tried, what counts as outside a limit, what outputs are scored against."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedl
from edgedl.artifact import TensorSpec
from edgedl.data import DataOptions, load
from edgedl.errors import LimitError
from edgedl.outcome import check_limits, outside, thinned
from edgedl.pipeline import candidates, changes_numbers
from edgedl.recipe import Recipe, assemble
from edgedl.steps import drop, score

INPUT, OUTPUT = TensorSpec("x", (None, 4), "float32"), TensorSpec("y", (None, 3), "float32")


def recipe(**quantize: Any) -> Recipe:
    return assemble("m.keras", quantize=quantize, limits={"max_drop": 0.01, "fallback": ["int16x8", "fp16"]})


def test_finer_schemes_come_after_better_ranges() -> None:
    tried = [s[0].options for s in candidates(recipe(scheme="int8"), print)]
    assert [(o.scheme, o.calibration) for o in tried] == [
        ("int8", "minmax"), ("int8", "mse"), ("int8", "percentile"), ("int16x8", "minmax"), ("fp16", "minmax"),
    ]  # fmt: skip


def test_the_type_of_inputs_and_outputs_is_kept_or_the_scheme_left_out() -> None:
    told: list[str] = []
    tried = [s[0].options for s in candidates(recipe(scheme="int8", io="int8"), told.append)]
    assert {o.io for o in tried} == {"int8"}
    assert [o.scheme for o in tried] == ["int8", "int8", "int8", "int16x8"]
    assert ["fp16" in t for t in told] == [True]


def test_without_a_limit_nothing_else_is_tried() -> None:
    assert len(list(candidates(assemble("m.keras", quantize={"scheme": "int8"}), print))) == 1


def test_float32_changes_nothing() -> None:
    assert not changes_numbers(recipe(scheme="float32").stages)
    assert changes_numbers(recipe(scheme="float32", overrides={"a": "int8"}).stages)
    assert changes_numbers(recipe(scheme="fp16").stages)


@pytest.mark.parametrize("lost", [None, math.inf])
def test_a_drop_that_cannot_be_told_is_outside(lost: float | None) -> None:
    assert "cannot be held" in outside(lost, 0.01)
    entry = {"name": "m", "within_limits": False, "drop": lost, "attempts": [{"scheme": "dynamic"}]}
    with pytest.raises(LimitError, match="cannot be held") as caught:
        check_limits({"artifacts": [entry], "limits": {"max_drop": 0.01}, "failures": []})
    assert "dynamic" not in caught.value.next
    assert "fp16" in caught.value.next


def test_a_small_drop_has_its_digits() -> None:
    assert outside(0.00001, 0.0) == "drops by 0.001 %, more than the 0 % allowed"


@pytest.mark.parametrize(
    ("metric", "labelled"),
    [("accuracy", True), ("agreement", True), ("agreement", False), ("fidelity", True), ("fidelity", False)],
)
def test_what_outputs_are_scored_against(metric: str, labelled: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(40, 4)).astype("f4")} | ({"y": rng.integers(0, 3, 40)} if labelled else {})
    np.savez(tmp_path / "d.npz", **arrays)
    data = load(DataOptions(str(tmp_path / "d.npz"), metric=metric), [INPUT], [OUTPUT])
    before = {"y": rng.normal(size=(len(data.validation), 3)).astype("f4")}
    worse = {"y": before["y"][:, ::-1].copy()}
    assert drop(data, before, before) == 0
    if metric != "accuracy":
        assert drop(data, before, worse) > 0
        assert score(data, before, before) == ({metric: 1.0} if labelled else {})
    else:
        assert set(score(data, worse, before)) >= {"accuracy"}


def test_samples_in_the_report_are_spread_over_the_run() -> None:
    kept = thinned(list(range(0, 10_000_000, 1000)))
    assert 1000 < len(kept) <= 2000
    assert kept[-1] > 0.99 * 10_000_000 / 1e3


def test_a_model_from_memory_is_known_again(zoo: Any, tmp_path: Path) -> None:
    """The second call with the same network reuses everything, and its recipe names a file that stays."""
    model, *_ = zoo("cnn")
    options: dict[str, Any] = {"quantize": {"scheme": "fp16"}, "limits": {"bench_seconds": 0.0}}
    edgedl.compress(model, tmp_path / "out", **options)
    again = edgedl.compress(model, tmp_path / "out", **options)
    assert all(s["reused"] for s in again["steps"])
    assert Path(again["model"]["path"]).is_file()
    assert [a["name"] for a in again["artifacts"]] == ["cnn_fp16.tflite"]
    other = edgedl.compress(model, tmp_path / "out", **{**options, "quantize": {"scheme": "dynamic"}})
    assert any("cnn_fp16.tflite" in w for w in other["warnings"])
