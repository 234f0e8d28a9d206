"""The proof of an import in the reports: as the schema says, in the terminal and on the page, whatever the names are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgedl.report import clean, proof_table, render_terminal, tensor_lines
from edgedl.report.html import render_html

ROOT = Path(__file__).parents[2]
NAMES = ("logits", "a/b:0", "<script>alert(1)</script>\x1b[31m")


@pytest.fixture(params=NAMES)
def imported(sample: Any, request: pytest.FixtureRequest) -> tuple[dict[str, Any], str]:
    """A report on a model that was imported, and the name of its output."""
    document = json.loads(json.dumps(sample.ordinary()))
    entry = {"output": request.param, "inputs": 4, "mean_relative": 1e-9}
    document["model"]["proof"] = [
        {**entry, "against": "onnxruntime 1.31.1", "max_relative": 2.5e-7},
        {**entry, "against": "torch 2.13.0", "max_relative": float("inf")},
    ]
    document["model"]["layouts"] = {request.param: [0, 2, 3, 1]}
    for found in document["artifacts"]:
        found |= {"transposes": 2, "layouts": {request.param: [0, 2, 3, 1]}}
    return clean(document), request.param


def test_it_is_as_the_schema_says(imported: tuple[dict[str, Any], str]) -> None:
    jsonschema.validate(imported[0], json.loads((ROOT / "docs/schema/report.schema.json").read_text()))


def test_the_terminal_says_against_whom_and_how_far(imported: tuple[dict[str, Any], str]) -> None:
    text = " ".join(render_terminal(imported[0], width=100, color=False).split())
    assert (
        "imported model held to onnxruntime 1.31.1 and torch 2.13.0 on generated inputs: its output differs by at most not comparable"
        in text
    )
    assert "2 transposes left" in text
    assert "\x1b" not in text


def test_the_page_shows_every_reference(imported: tuple[dict[str, Any], str]) -> None:
    page = render_html(imported[0])
    assert "differs from onnxruntime 1.31.1 by 2.5e-07 at most" in page
    assert "2 transposes in the file" in page
    assert "<script>alert" not in page


def test_tables_and_lines() -> None:
    entry = {"output": "y", "against": "torch 2.13.0", "inputs": 4, "max_relative": 0.0, "mean_relative": 0.0}
    assert proof_table([entry]).splitlines()[2].split() == ["y", "torch", "2.13.0", "4", "none", "none"]
    assert proof_table([]).startswith("no proof")
    spec = {"name": "x", "shape": [None, 8, 12, 3], "dtype": "float32"}
    found = {"inputs": [spec], "outputs": [], "layouts": {"x": [0, 2, 3, 1]}}
    assert tensor_lines(found) == ["  input   x ?x8x12x3 float32, ?x3x8x12 in the original"]
