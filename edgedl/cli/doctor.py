"""`edgedl doctor`: what is installed, what is missing, and what adds it."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import click

from . import options

GROUPS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("run .tflite", "core", "pip install edgedl", ("numpy", "ai-edge-litert")),
    ("quantize .tflite", "tflite", "pip install 'edgedl[tflite]'", ("ai-edge-quantizer",)),
    ("run and quantize .onnx", "onnx", "pip install 'edgedl[onnx]'", ("onnx", "onnxruntime")),
    (
        "load and convert Keras models",
        "compress",
        "pip install 'edgedl[compress]'",
        ("tensorflow", "keras", "tf-keras", "tf2onnx"),
    ),
    ("import PyTorch", "torch", "pip install 'edgedl[torch]'", ("torch", "onnxscript")),
    ("import JAX functions", "jax", "pip install 'edgedl[jax]'", ("jax",)),
    ("firmware in emulated cores", "mcu", "pip install 'edgedl[mcu]'", ("ziglang", "unicorn", "capstone")),
    ("image folders, built-in digits", "compress", "pip install 'edgedl[compress]'", ("Pillow", "scikit-learn")),
    ("report.html", "core", "pip install edgedl", ("Jinja2",)),
)


@click.command("doctor")
@options.as_json
def command(as_json: bool) -> None:
    """Show what this installation can do, what is missing, and the one command that adds it.

    \b
    edgedl doctor
    """
    rows = [_row(*group) for group in GROUPS]
    if as_json:
        options.print_json({"python": platform.python_version(), "machine": platform.machine(), "abilities": rows})
        return
    click.echo(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for row in rows:
        mark = click.style("✓", fg="green") if row["ready"] else click.style("✗", fg="red")
        packages = ", ".join(f"{name} {version or 'missing'}" for name, version in row["packages"].items())
        click.echo(f"  {mark} {row['ability']:<32} {packages}")
        if not row["ready"]:
            click.echo(f"    add it with: {row['add']}")


def _row(ability: str, extra: str, add: str, packages: tuple[str, ...]) -> dict[str, Any]:
    found = {name: _version(name) for name in packages}
    return {"ability": ability, "extra": extra, "packages": found, "ready": all(found.values()), "add": add}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
