"""The page as text: escaped, self-contained, complete."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgedl.errors import OutputError, UsageError
from edgedl.report import html, write_html

VOID = {"meta", "br", "hr", "img", "link", "input"}
LINKS = {"href", "src", "srcset", "action", "formaction", "data", "poster", "xlink:href", "style", "background"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; notes tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data
        if self.cells and any(t in ("td", "th") for t in self.open):
            self.cells[-1] += data


@pytest.fixture
def page(document: dict[str, Any]) -> Page:
    return Page(html.render_html(document))


def test_tags_match(page: Page) -> None:
    assert page.wrong == []
    assert page.open == []


def test_nothing_leaves_the_page_and_nothing_of_the_document_is_markup(page: Page) -> None:
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == names.count("style") == 1
    assert not {"img", "iframe", "object", "embed", "link", "base", "form", "a", "image", "use"} & set(names)
    for _, attributes in page.tags:
        assert not LINKS & set(attributes)
        assert not [a for a in attributes if a.startswith("on")]
    style = (Path(html.__file__).parent / "report.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_only_its_own_script_and_style(page: Page) -> None:
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    here = Path(html.__file__).parent
    assert f"script-src '{html.integrity((here / 'report.js').read_text())}'" in policy
    assert f"style-src '{html.integrity((here / 'report.css').read_text())}'" in policy


def test_every_cell_has_a_head_and_every_control_a_name(page: Page) -> None:
    heads = [a for tag, a in page.tags if tag == "th"]
    assert all(a.get("scope") in ("col", "row") for a in heads)
    assert dict(page.tags)["html"] == {"lang": "en"}
    assert [
        tag
        for tag, a in page.tags
        if tag == "svg" and not (a.get("aria-label") or a.get("aria-hidden") or a.get("preserveaspectratio"))
    ] == []
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_every_artifact_and_figure_is_in_the_table(sample: Any) -> None:
    page = Page(html.render_html(sample.ordinary()))
    for text in (
        "resnet8_int8.tflite",
        "resnet8_float32.onnxbefore",
        "98.5 kB3.2× smaller",
        "0.8500−0.50 points",
        "96.5 %SQNR 24.7 dB",
    ):
        assert text in page.cells, text
    assert any(c.startswith("160 µs [") and c.endswith("2.2× faster") for c in page.cells)
    assert any(c.endswith("no difference found") for c in page.cells)
    for text in (
        "3.2× smaller, 2.2× faster on cpu, accuracy 0.8550 → 0.8500 (−0.50 points) on 200 samples.",
        "the smallest artifact within the limits; compared with the float32 file of the same format; verified",
        "drops by 1.50%, more than max_drop", "Layers left float", "the scheme has no int8 kernel",
        "SQNR 24.7 dB, bound 5 dB", 'scheme = "int8"', "Intel Xeon", "2.21.0", "reused from an earlier run", "9f2c" * 16,
    ):  # fmt: skip
        assert text in page.text, text


def test_classes_that_paid_come_first(sample: Any) -> None:
    document = sample.ordinary()
    document["artifacts"] = document["artifacts"][:1]
    document["artifacts"][0]["per_class"] = [
        {"label": "same", "original": 0.9, "now": 0.9, "count": 10},
        {"label": "won", "original": 0.8, "now": 0.9, "count": 10},
        {"label": "lost much", "original": 0.9, "now": 0.5, "count": 10},
        {"label": "lost", "original": 0.9, "now": 0.8, "count": 10},
        {"label": "unknown", "original": None, "now": 0.8, "count": 0},
    ]
    found = html.classes(document["artifacts"][0]["per_class"])
    assert found is not None
    assert [(line.label, line.text) for line in found.lines] == [
        ("lost much", "−40.0"),
        ("lost", "−10.0"),
        ("won", "+10.0"),
    ]
    assert (found.lost, found.gained, found.total, found.scale) == (2, 1, 5, 50)
    assert "2 of 5 classes lost, 1 gained, 2 are unchanged" in Page(html.render_html(document)).text


def test_many_classes_are_shortened(sample: Any) -> None:
    text = html.render_html(sample.thousand_classes())
    assert "The 200 most changed classes" in text
    assert len(text) < 500_000


def test_layers_left_float_are_told_once_a_reason(sample: Any) -> None:
    page = Page(html.render_html(sample.deep()))
    assert page.text.count("no integer kernel") == 2, "once for each artifact"
    assert "and 248 more, listed in report.json" in page.text


def test_what_was_not_measured_is_not_drawn(sample: Any) -> None:
    page = Page(html.render_html(sample.unmeasured()))
    assert "Latency" not in page.text.partition("What it was made from")[0].replace("size and latency", "")
    assert "export onnx failed: tf2onnx has no Erfc" in page.text


def test_hostile_text_is_shown_as_text(sample: Any) -> None:
    page = Page(html.render_html(sample.hostile()))
    assert "<script>alert('x')</script>\"'&<img src=x onerror=alert(1)>\\x1b[31m\\u202e\\x00 {{ 7*7 }}" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", page.text)


def test_a_file_name_that_is_not_unicode(sample: Any, tmp_path: Path) -> None:
    document = sample.ordinary()
    document["model"]["path"] = b"m\xffdel.h5".decode("utf-8", "surrogateescape")
    write_html(document, tmp_path / "report.html")
    assert "m\\udcffdel.h5" in (tmp_path / "report.html").read_text("utf-8")


def test_no_folder_and_no_report(sample: Any, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        write_html(sample.ordinary(), tmp_path / "nowhere" / "report.html")
    with pytest.raises(UsageError, match="not a report"):
        write_html({"artifacts": []}, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
