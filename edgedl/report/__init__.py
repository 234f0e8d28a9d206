"""Measurements as a terminal table, report.json and a self-contained report.html."""

from .document import clean, parse, write_json
from .html import write_html
from .terminal import bench_table, render_terminal

__all__ = ["bench_table", "clean", "parse", "render_terminal", "write_html", "write_json"]
