"""`module:callable` or `file.py:callable` that the user names, called; a module may lie in the current folder."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
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
        return getattr(_of_file(Path(name).resolve()) if is_file else importlib.import_module(name), attribute)()
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(
            f"'{spec}' gives no model: it raised {reason}",
            next="correct it, or check the name; a module is looked up in the current folder too",
        ) from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _of_file(path: Path) -> ModuleType:
    """The module of a file, under its own name unless another module has that: net.py of one folder is not that of another."""
    known = sys.modules.get(path.stem)
    if known is None:
        known = importlib.import_module(path.stem)
    if Path(getattr(known, "__file__", None) or "").resolve() == path:
        return known
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be imported")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        with contextlib.ExitStack() as undo:
            undo.callback(sys.modules.pop, name)
            spec.loader.exec_module(module)
            undo.pop_all()
    return sys.modules[name]
