"""The page in headless Chromium: it renders, its script works, it asks for nothing, it fits a telephone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from edgedl.report.html import render_html

Browse = Callable[..., Any]
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def with_script(page: str, script: str) -> str:
    """The page without its policy and with a script that looks at it and writes what it sees into <output>."""
    assert POLICY.search(page)
    seen = f"<output id=seen></output><script>document.getElementById('seen').textContent = (() => {{ {script} }})();</script>"
    return POLICY.sub("", page).replace("</body>", f"{seen}</body>")


def seen(dom: str) -> str:
    found = re.search(r'<output id="seen">(.*?)</output>', dom, re.DOTALL)
    assert found
    return found[1]


def test_the_browser_tells_of_errors_and_requests(browse: Browse) -> None:
    """What the other tests rely on: an error on the console and a request are seen."""
    page = browse("<!doctype html><script>console.error('here'); fetch('http://127.0.0.1:9/x').catch(() => 0)</script>")
    assert any("here" in line for line in page.console)
    assert page.addresses == {"http://127.0.0.1:9/x"}


@pytest.mark.parametrize("name", ["ordinary", "hostile", "empty"])
def test_it_renders_without_errors_or_requests(browse: Browse, sample: Any, name: str) -> None:
    page = browse(render_html(sample.DOCUMENTS[name]()))
    assert page.console == []
    assert page.addresses == set()
    assert "<h2>Before and after</h2>" in page.dom
    assert '<button type="button">Model</button>' in page.dom or name == "empty", "the script ran under its policy"
    assert page.dom.count("<script") == 1
    if name != "empty":
        assert page.dom.count("<svg") > 10
        assert page.dom.count('<details class="artifact"') == 2


def test_the_policy_stops_what_escaping_would_miss(browse: Browse, sample: Any) -> None:
    page = render_html(sample.ordinary()).replace("</body>", "<script>document.title = 'taken'</script></body>")
    found = browse(page)
    assert "<title>taken" not in found.dom
    assert any("Content Security Policy" in line for line in found.console)


def test_tables_sort_by_number(browse: Browse, sample: Any) -> None:
    script = """
    const table = document.querySelector("#table table");
    const names = () => [...table.tBodies[0].rows].map((r) => r.cells[0].querySelector(".name").textContent).join(" ");
    const size = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent === "Size");
    const button = table.tHead.rows[0].cells[size].querySelector("button");
    button.click(); const up = names(); button.click();
    return up + " | " + names() + " | " + table.tHead.rows[0].cells[size].getAttribute("aria-sort");
    """
    up, down, order = seen(browse(with_script(render_html(sample.ordinary()), script)).dom).split(" | ")
    assert up.split() == [
        "resnet8_int8.tflite",
        "resnet8_int8.onnx",
        "resnet8_float32.onnx",
        "resnet8_float32.tflite",
        "resnet8.h5",
    ]
    assert down.split() == up.split()[::-1]
    assert order == "descending"


def test_tooltips_and_copy(browse: Browse, sample: Any) -> None:
    script = """
    const mark = document.querySelector("[data-tip]");
    mark.dispatchEvent(new PointerEvent("pointerenter", {clientX: 50, clientY: 50}));
    const tip = document.getElementById("tip");
    const shown = tip.textContent + "|" + tip.hidden + "|" + getComputedStyle(tip).display;
    mark.dispatchEvent(new PointerEvent("pointerleave"));
    dispatchEvent(new Event("beforeprint"));
    const folded = document.querySelectorAll("details.artifact:not([open])").length;
    return shown + "|" + tip.hidden + "|" + document.querySelector("button.copy").hidden + "|" + folded;
    """
    text = seen(browse(with_script(render_html(sample.many()), script)).dom)
    assert text.split("|")[1:] == ["false", "block", "true", "false", "0"]
    assert "resnet8" in text


@pytest.mark.parametrize("name", ["ordinary", "hostile", "deep", "thousand_classes"])
@pytest.mark.parametrize("width", [500, 1160])
def test_it_fits_the_window(browse: Browse, sample: Any, name: str, width: int) -> None:
    """Nothing is wider than the window but what scrolls in its own frame (headless Chromium is 500 px wide at least)."""
    script = """
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    const wide = [...document.body.querySelectorAll("*")].filter((e) => !e.closest(".scroll, pre, svg, #tip"))
      .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.tagName + "." + e.className);
    return innerWidth + " " + document.documentElement.scrollWidth + " " + wide.join(",");
    """
    inner, scroll, *wide = seen(browse(with_script(render_html(sample.DOCUMENTS[name]()), script), width).dom).split()
    assert abs(int(inner) - width) <= 20
    assert int(scroll) <= int(inner)
    assert wide == []


def test_text_on_paper_is_readable(browse: Browse, sample: Any) -> None:
    """Contrast of every text colour in use is at least 4.5 (WCAG 2.2, 1.4.3), light; dark is tried by its variables."""
    script = """
    const light = (c) => { const v = c.map((x) => x / 255).map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
      return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
    const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    const bad = [];
    for (const sheet of [...document.styleSheets]) for (const rule of [...sheet.cssRules]) {
      const inner = rule.cssRules && rule.media ? [...rule.cssRules] : [rule];
      for (const r of inner) if (r.selectorText === ":root") {
        const get = (n) => r.style.getPropertyValue(n).trim();
        const full = (h) => h.length === 4 ? "#" + [...h.slice(1)].map((c) => c + c).join("") : h;
        for (const text of ["--ink", "--soft", "--good", "--bad", "--f0", "--f1"]) for (const paper of ["--paper"]) {
          const [a, b] = [light(rgb(full(get(text)))), light(rgb(full(get(paper))))];
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (!(ratio >= 4.5)) bad.push(text + " " + ratio.toFixed(2) + (rule.media ? " in " + rule.media.mediaText : ""));
        }
        bad.push("tried");
      }
    }
    return bad.join(",");
    """
    assert seen(browse(with_script(render_html(sample.one()), script)).dom) == "tried,tried,tried"
