"""`edgedl targets`: where artifacts can be run."""

from __future__ import annotations

import inspect
from typing import Any

import click

from ..options import everything
from ..registry import find, names
from . import options


@click.command("targets")
@options.as_json
def command(as_json: bool) -> None:
    """List the targets and their options (set with --set TARGET.OPTION=VALUE).

    \b
    edgedl targets
    """
    rows = [_row(name) for name in names("target")]
    if as_json:
        options.print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['name']:<8} {row['about']}")
        for option in row["options"]:
            click.echo(f"         {row['name']}.{option['name']} = {option['default']!r}")


def _row(name: str) -> dict[str, Any]:
    cls = find("target", name)
    about = (inspect.getdoc(cls) or "").partition("\n")[0]
    options = [{"name": name, "default": default} for name, default in everything(cls()).items()]
    return {"name": name, "about": about, "options": options}
