"""What microcontrollers told: in the terminal, on the page, in a bench; hostile names stay text."""

from __future__ import annotations

from typing import Any

from edgedl.report.devices import devices
from edgedl.report.document import parse
from edgedl.report.html import render_html
from edgedl.report.terminal import bench_table, render_terminal

TOLD = {
    "instructions": {"total": 1000, "least": 990, "most": 1000, "inputs": 8,
                     "layers": [{"name": "small", "instructions": 100}, {"name": "<b>large", "instructions": 900}]},
    "cycles": {"total": 1400, "estimate": True, "source": "a manual"},
    "flash": {"code": 8910, "constants": 29_500, "data": 0, "total": 38_410},
    "ram": {"arena": 4970, "stack": 284, "static": 0, "total": 5254},
    "board": {"name": "stm32l4", "fits": False, "flash": 1, "ram": 1, "advice": "37 kB of flash too much"},
    "energy": {"joules": 2.5e-6},
}  # fmt: skip


def told(document: dict[str, Any]) -> dict[str, Any]:
    document["artifacts"][0]["devices"] = {"stm32l4": TOLD, "cpu": {}}
    document["firmware"] = [{"name": "m", "target": "stm32l4", "folder": "firmware_stm32l4"}]
    return document


def test_a_device_by_its_parts(sample: Any) -> None:
    (found,) = devices(told(sample.ordinary())["artifacts"])
    assert (found.target, found.instructions, found.energy) == ("stm32l4", "1,000", "2.5 µJ")
    assert found.flash_parts == "code 8.91 kB, constants 29.5 kB"
    assert found.layers[0] == ("<b>large", "900", 0.9), "the most expensive first"
    assert (found.fits, found.verdict) == (False, "does not fit: 37 kB of flash too much")


def test_terminal_and_page_show_them(sample: Any) -> None:
    document = told(sample.ordinary())
    text = render_terminal(document, width=200, color=False)
    assert "1,400" in text
    assert "arena 4.97 kB, stack 284 B, static 0 B" in text
    assert "firmware  firmware_stm32l4" in text
    page = render_html(parse(document))
    assert "On microcontrollers" in page
    assert "does not fit: 37 kB of flash too much" in page
    assert "<b>large" not in page


def test_a_report_without_devices_has_no_such_section(sample: Any) -> None:
    assert "On microcontrollers" not in render_html(parse(sample.ordinary()))
    assert "instructions" not in render_terminal(sample.ordinary(), width=200, color=False)


def test_bench_adds_a_table_for_microcontrollers() -> None:
    latency = {"p50": 14.0, "p90": 14.0, "p99": 14.0, "mean": 14.0}
    plain = {
        "artifact": "m.tflite",
        "target": "cpu",
        "bytes": 10,
        "latency_us": latency,
        "memory": {"peak_bytes": 1},
        "metrics": {},
    }
    assert "instructions" not in bench_table([plain], width=200, color=False)
    text = bench_table([plain, {**plain, "target": "stm32l4", **TOLD}], width=200, color=False)
    assert "1,000" in text
    assert "estimates from its published timings" in text
