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
    width = max(len(row["name"]) for row in rows)
    groups: dict[str, list[str]] = {}
    for row in rows:
        click.echo(f"{row['name']:<{width}}  {row['about']}")
        groups.setdefault("\n".join(f"  {o['name']} = {o['default']!r}" for o in row["options"]), []).append(
            row["name"]
        )
    for told, alike in groups.items():
        named = alike[0] if len(alike) == 1 else "TARGET, one of " + ", ".join(alike)
        click.echo(f"\n--set {'TARGET' if len(alike) > 1 else alike[0]}.OPTION=VALUE ({named}):\n{told}")


def _row(name: str) -> dict[str, Any]:
    cls = find("target", name)
    about = (inspect.getdoc(cls) or "").partition("\n")[0]
    options = [{"name": name, "default": default} for name, default in everything(cls()).items()]
    return {"name": name, "about": about, "options": options}
