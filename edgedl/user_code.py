"""`module:callable` or `file.py:callable` that the user names, called; a module may lie in the current folder."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from .errors import ModelError, UsageError


def call(spec: str, returns: str) -> Any:
    """What the callable returns. Raises UsageError (no such thing), ModelError (it raised)."""
    name, _, attribute = spec.rpartition(":")
    is_file = name.endswith(".py")
    if not attribute.isidentifier() or not (is_file or re.fullmatch(r"[A-Za-z_][\w.]*", name)):
        raise UsageError(
            f"'{spec}' is not of the form module:callable or file.py:callable",
            next=f"name a function that returns {returns}, as in net.py:build",
        )
    if is_file and not Path(name).is_file():
        raise UsageError(f"there is no file {name}", next="check the path before the colon")
    folder = str(Path(name).resolve().parent if is_file else Path.cwd())
    sys.path.insert(0, folder)
    try:
        return getattr(importlib.import_module(Path(name).stem if is_file else name), attribute)()
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(
            f"'{spec}' gives no model: it raised {reason}",
            next="correct it, or check the name; a module is looked up in the current folder too",
        ) from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
