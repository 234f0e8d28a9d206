"""Measurements as a terminal table, report.json and a self-contained report.html."""

from .document import clean, parse, printable, write_json
from .html import write_html
from .proof import proof_table, relative, tensor_lines
from .terminal import bench_table, render_terminal

__all__ = [
    "bench_table", "clean", "parse", "printable", "proof_table", "relative", "render_terminal", "tensor_lines", "write_html", "write_json",
]  # fmt: skip
