"""The docs are held to the code: every command and option documented, every command in them run, schemas valid.

A fenced block marked `console` is run from top to bottom, all blocks of a page in one folder that holds model.keras,
data.npz and out/ (a finished run). `$ ` begins a command; lines under it, if any, must appear in what it prints, with
`...` for what may differ. `# exit N` at a command's end gives its exit code.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import jsonschema
import numpy as np
import pytest

import edgedl
from edgedl.cli import COMMANDS, cli
from edgedl.registry import names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_is_documented(command: str) -> None:
    assert f"edgedl {command}" in TEXT
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    assert found.help
    assert f"edgedl {command}" in found.help, "the help has an example"
    for option in found.params:
        if isinstance(option, click.Option):
            assert option.help, f"{command} {option.opts} has no help"


@pytest.mark.parametrize("kind", ["stage", "converter", "target"])
def test_every_registered_name_is_documented(kind: Any) -> None:
    for name in names(kind):
        assert f"`{name}`" in TEXT or f"{name}" in TEXT


def blocks(page: Path) -> list[tuple[str, list[str]]]:
    """(command, expected lines) of a page's console blocks."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.strip() and found:
                found[-1][1].append(line)
    return found


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.keras, data.npz and the finished run out/."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("docs")
    digits = load_digits()
    np.savez(folder / "data.npz", x=digits.images[1197:, :, :, None].astype("float32"), y=digits.target[1197:])
    (folder / "model.keras").write_bytes((ROOT / "examples/digits.keras").read_bytes())
    edgedl.compress(
        folder / "model.keras", folder / "out", data={"source": str(folder / "data.npz")}, quantize={"scheme": "int8"},
        formats=["tflite", "onnx"], targets=["cpu"], limits={"bench_seconds": 0.3},
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_commands_of_a_page(page: Path, playground: Path) -> None:
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "140"}
    for command, expected in blocks(page):
        command, _, code = command.partition("  # exit ")
        done = subprocess.run(
            ["sh", "-c", command], cwd=playground, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == int(code or 0), f"{command}\n{done.stdout}{done.stderr}"
        printed = done.stdout + done.stderr
        for line in expected:
            pattern = ".*".join(map(re.escape, line.strip().split("...")))
            assert re.search(pattern, printed), f"{command}\ndid not print: {line}\nbut:\n{printed}"


def test_documented_options_exist() -> None:
    for page in PAGES:
        for command, _ in blocks(page):
            for part in command.partition("  # exit ")[0].split("|"):
                words = shlex.split(part)
                if words[:1] == ["edgedl"] and len(words) > 1 and words[1] in COMMANDS:
                    found = cli.get_command(click.Context(cli), words[1])
                    assert found is not None
                    known = {o for p in found.params for o in p.opts} | {"--help"}
                    assert {w for w in words if w.startswith("--")} <= known


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(script: Path, playground: Path, tmp_path: Path) -> None:
    arguments = {"train_digits.py": [str(tmp_path / "digits.keras")]}.get(script.name, [str(playground)])
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, cwd=playground, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(script.read_text().splitlines()) <= 60, "an example is one screen"


def schema(name: str) -> Any:
    return json.loads((ROOT / f"docs/schema/{name}.schema.json").read_text())


def test_report_json_is_as_its_schema_says(playground: Path) -> None:
    jsonschema.validate(json.loads((playground / "out/report.json").read_text()), schema("report"))


def test_bench_json_is_as_its_schema_says(playground: Path) -> None:
    command = [BIN / "edgedl", "bench", "out/model_int8.tflite", "--data", "data.npz", "--json", "--max-seconds", "0.5"]
    done = subprocess.run(command, cwd=playground, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    jsonschema.validate(found, schema("bench"))
    assert found[0]["metrics"]["accuracy"] > 0.9
