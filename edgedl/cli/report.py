"""`edgedl report`: show a finished run again."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import UsageError
from ..report import render_terminal, write_html
from . import options


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="Write the HTML page to this file as well.")
@options.as_json
def command(folder: Path, html: Path | None, as_json: bool) -> None:
    """Show the report of a finished run in FOLDER (or a report.json).

    \b
    edgedl report out
    edgedl report out --html page.html
    """
    path = folder / "report.json" if folder.is_dir() else folder
    try:
        document = json.loads(path.read_text("utf-8"))
        document["artifacts"], document["model"]["path"]
    except OSError as error:
        raise UsageError(f"there is no report at {path}", next="run `edgedl compress MODEL -o FOLDER` first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a report of edgedl ({error})", next="run `edgedl compress` again") from error
    if html is not None:
        write_html(document, html)
    if as_json:
        options.print_json(document)
    else:
        click.echo(render_terminal(document))
