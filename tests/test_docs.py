"""The docs are held to the code: every command and option documented, every command in them run, schemas valid.

A fenced block marked `console` is run from top to bottom, all blocks of a page in one folder that holds model.keras,
data.npz (also d.npz) and out/ (a finished run). `$ ` begins a command; lines under it, if any, must appear in what it
prints, with `...` for what may differ. `# exit N` at a command's end gives its exit code. An `edgedl` command in an
indented block is run too. Those in commands.md, which is the commands' help, are only parsed.

`python tests/test_docs.py` writes docs/commands.md anew.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
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
COMMANDS_PAGE = ROOT / "docs/commands.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BIN = Path(sys.executable).parent


def command_of(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def commands_page() -> str:
    """docs/commands.md: the help of every command, which is declared beside its code."""
    parts = [
        "# Commands\n\nEvery command and option, as `--help` shows them. This page is written by `python tests/test_docs.py`.\n",
        _section("edgedl", cli, "[--debug] COMMAND ..."),
        *(_section(f"edgedl {name}", command_of(name), "") for name in sorted(COMMANDS)),
    ]
    return "\n".join(parts)


def _section(title: str, command: click.Command, usage: str) -> str:
    arguments = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
    lines = [f"## {title}", "", f"`{' '.join([title, usage or ' '.join(['[OPTIONS]', *arguments])])}`", ""]
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        is_example = paragraph.startswith("\b\n")
        lines += ["```sh", *paragraph.splitlines()[1:], "```", ""] if is_example else [paragraph, ""]
    return "\n".join([*lines, *(_option(p) for p in command.params if isinstance(p, click.Option)), ""])


def _argument(argument: click.Argument) -> str:
    name = f"{(argument.name or '').upper()}{'...' if argument.nargs == -1 else ''}"
    return name if argument.required else f"[{name}]"


def shown(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def _option(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or _value(option.type)}"
    return f"- `{', '.join(option.opts)}{value}`: {option.help}{f' [{shown(option.default)}]' if option.show_default else ''}"


def _value(kind: click.ParamType) -> str:
    return (
        "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else kind.name.upper().removesuffix(" RANGE")
    )


def test_commands_md_is_the_help_of_the_commands() -> None:
    assert COMMANDS_PAGE.read_text() == commands_page(), "write it anew: python tests/test_docs.py"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_is_documented(command: str) -> None:
    found = command_of(command)
    assert found.help
    assert f"edgedl {command}" in found.help, "the help has an example"
    section = COMMANDS_PAGE.read_text().partition(f"## edgedl {command}\n")[2].partition("\n## ")[0]
    for option in found.params:
        if isinstance(option, click.Option):
            assert option.help, f"{command} {option.opts} has no help"
            for name in option.opts:
                assert re.search(rf"^- `[^`]*(?<![\w-]){re.escape(name)}(?![\w-])", section, re.M), f"{command} {name}"


@pytest.mark.parametrize(
    ("kind", "page", "section"),
    [
        ("stage", "recipes.md", "## Stages"),
        ("converter", "guide.md", "### Formats"),
        ("target", "targets.md", "# Targets"),
        ("importer", "importers.md", "# What comes in"),
    ],
)
def test_every_registered_name_is_documented(kind: Any, page: str, section: str) -> None:
    """In backticks at the start of a row of the table of its kind, with nothing else in that table."""
    text = (ROOT / "docs" / page).read_text().partition(f"{section}\n")[2].partition("\n#")[0]
    assert sorted(re.findall(r"^\| `([^`]+)` \|", text, re.M)) == list(names(kind)), f"docs/{page}, {section}"


def lines(page: Path) -> Iterator[tuple[str, str]]:
    """(kind, line) of a page's blocks: the name of the fence, or "indented"."""
    fence: str | None = None
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            fence = line[3:] if fence is None else None
        elif fence is not None:
            yield fence, line
        elif line.startswith("    "):
            yield "indented", line[4:]


def blocks(page: Path) -> list[tuple[str, list[str]]]:
    """(command, expected lines) of a page's console blocks and of the `edgedl` commands in its indented blocks."""
    found: list[tuple[str, list[str]]] = []
    for kind, line in lines(page):
        if kind == "console" and line.startswith("$ "):
            found.append((line[2:], []))
        elif kind == "console" and line.strip() and found:
            found[-1][1].append(line)
        elif kind == "indented" and line.startswith("edgedl "):
            found.append((line, []))
    return found


def written(page: Path) -> list[str]:
    """Every `edgedl ...` command in a page's blocks: run or not."""
    commands = [c.partition("  # exit ")[0] for c, _ in blocks(page)]
    commands += [line for kind, line in lines(page) if kind == "sh"]
    parts = [part.partition(" > ")[0].strip() for command in commands for part in command.split(" | ")]
    return [part for part in parts if part.startswith("edgedl ")]


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.keras, data.npz and the finished run out/."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("docs")
    digits = load_digits()
    np.savez(folder / "data.npz", x=digits.images[1197:, :, :, None].astype("float32"), y=digits.target[1197:])
    shutil.copyfile(folder / "data.npz", folder / "d.npz")
    (folder / "model.keras").write_bytes((ROOT / "examples/digits.keras").read_bytes())
    edgedl.compress(
        folder / "model.keras", folder / "out", data={"source": str(folder / "data.npz")}, quantize={"scheme": "int8"},
        formats=["tflite", "onnx"], targets=["cpu"], limits={"bench_seconds": 0.3},
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_commands_of_a_page(page: Path, playground: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(playground, tmp_path / "here"))
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "140"}
    for command, expected in blocks(page):
        command, _, code = command.partition("  # exit ")
        done = subprocess.run(["sh", "-c", command], cwd=here, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == int(code or 0), f"{command}\n{done.stdout}{done.stderr}"
        printed = done.stdout + done.stderr
        for line in expected:
            pattern = ".*".join(map(re.escape, line.strip().split("...")))
            assert re.search(pattern, printed), f"{command}\ndid not print: {line}\nbut:\n{printed}"


@pytest.mark.parametrize("page", [p for p in PAGES if written(p)], ids=lambda p: p.name)
def test_written_commands_parse(page: Path) -> None:
    """Commands, options and the types of their values are what the code declares; nothing is run."""
    for line in written(page):
        name, *words = shlex.split(line.removeprefix("edgedl "), comments=True)
        command_of(name).make_context(name, words)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def untrained(script: Path, folder: Path) -> list[str]:
    """What examples/resnet20_torch.py takes: weights, data, a folder to write."""
    torch = pytest.importorskip("torch", reason="needs pip install 'edgedl[torch]'")
    torch.save(runpy.run_path(str(script))["ResNet20"]().state_dict(), folder / "weights.th")
    rng = np.random.default_rng(0)
    np.savez(folder / "d.npz", x=rng.normal(size=(40, 3, 32, 32)).astype("float32"), y=rng.integers(0, 10, 40))
    return [str(folder / name) for name in ("weights.th", "d.npz", "out")]


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(script: Path, playground: Path, tmp_path: Path) -> None:
    arguments = {"train_digits.py": [str(tmp_path / "digits.keras"), "2"]}.get(script.name, [str(playground)])
    here = playground
    if script.name == "resnet20_torch.py":
        arguments, here = untrained(script, tmp_path), script.parent
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, cwd=here, timeout=300)
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


if __name__ == "__main__":
    COMMANDS_PAGE.write_text(commands_page())
