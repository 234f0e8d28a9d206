"""The command line: a thin skin over the library, one file a command, each imported when it is used."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any

import click

from .. import __version__
from ..errors import EdgedlError

COMMANDS = {
    "bench": "measure artifacts on targets",
    "compress": "compress a trained model, verify and measure the result, write a report",
    "convert": "convert a model to .tflite or .onnx, quantized or not",
    "doctor": "show what is installed, what is missing, and the command that adds it",
    "firmware": "write an int8 .tflite as plain C for a microcontroller",
    "import": "read a model of any framework into one trainable .keras file, with proof",
    "inspect": "show layers, operators, parameters, multiply-accumulates, memory",
    "report": "show the report of a finished run again",
    "sensitivity": "show how much of each layer's channels can go, and what that costs",
    "targets": "list the targets and their options",
}


MODULES = {"import": "import_"}  # where a command's file cannot have its name


class LazyGroup(click.Group):
    """Knows its commands by name; imports one only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{MODULES.get(name, name)}", __name__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edgedl")
@click.option("--debug", is_flag=True, help="Show tracebacks and all that child processes print.")
def cli(debug: bool) -> None:
    """Trained model in; small, fast and proven edge artifact out.

    \b
    edgedl import model.onnx -o model.keras
    edgedl compress model.keras --data d.npz --max-drop 1% -o out
    edgedl bench out/model_int8.tflite --target cpu

    Exit codes: 0 done, 2 usage or recipe, 3 model, 4 data, 5 conversion, 6 target, 7 a limit does not hold,
    8 a package is missing, 9 output cannot be written, 1 a bug in edgedl, 130 interrupted.

    Shell completion: eval "$(_EDGEDL_COMPLETE=bash_source edgedl)", likewise zsh_source and fish_source.
    """
    if debug:
        os.environ["EDGEDL_DEBUG"] = "1"


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs the command and ends the process with its exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    sys.exit(run(arguments))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; errors are one message on stderr."""
    try:
        result: Any = cli.main(args=arguments, prog_name="edgedl", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        kept = "; what was finished is kept: the same command goes on from here"
        given = sys.argv[1:] if arguments is None else arguments
        click.echo(f"\ninterrupted{kept if 'compress' in given else ''}", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EdgedlError as error:
        if os.environ.get("EDGEDL_DEBUG"):
            raise
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    return result if isinstance(result, int) else 0
