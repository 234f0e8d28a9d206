"""A source, as the user wrote it -> Raw: which reader it is for."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, MissingDependencyError
from ..registry import did_you_mean
from .arrays import read_npy_pair, read_npz
from .folders import read_folder
from .options import unreadable
from .raw import Raw, Wanted, assign
from .tables import read_table

DIGITS_TRAIN = 1197  # the first digits, for training
READABLE = ".npz, .npy, 'x.npy,y.npy', .csv, .tsv, a folder of images or WAVs, 'module:function' or 'digits'"
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def require(source: str) -> list[Path]:
    """The files that a source names, nothing for digits and functions. Raises DataError for one that is not there."""
    if source in ("", "digits") or (_FUNCTION.fullmatch(source) and not Path(source).exists()):
        return []
    paths = [Path(source)] if Path(source).exists() else [Path(part.strip()) for part in source.split(",")]
    for path in paths:
        if not path.exists():
            near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else ""
            raise DataError(f"there is no data at {path}{near}", next=f"pass {READABLE}")
    return paths


def read(source: str, wanted: Wanted) -> Raw:
    """The samples of a source. Raises DataError: not there, not readable, not for this model."""
    if source == "digits":
        return read_digits(wanted)
    if _FUNCTION.fullmatch(source) and not Path(source).exists():
        return read_function(source, wanted)
    paths = require(source)
    if paths[0].is_dir() and len(paths) == 1:
        return read_folder(paths[0], wanted)
    suffixes = {p.suffix.lower() for p in paths}
    if suffixes == {".npy"} and len(paths) <= 2:
        return read_npy_pair(paths, wanted, source)
    if len(paths) == 1:
        return _read_file(paths[0], wanted)
    raise DataError(f"'{source}' is no pair of .npy files", next="pass 'x.npy,y.npy'")


def _read_file(path: Path, wanted: Wanted) -> Raw:
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes)", next="copy or write it again")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return read_npz(path, wanted)
    if suffix in (".csv", ".tsv"):
        return read_table(path, wanted)
    if suffix in (".pkl", ".pickle", ".joblib", ".pt", ".pth"):
        raise DataError(
            f"{path} is a pickle, which can run code when it is read", next="save the arrays with numpy.savez"
        )
    raise DataError(f"{path}: data files that end in '{suffix}' are not read", next=f"pass {READABLE}")


def read_digits(wanted: Wanted) -> Raw:
    """The 1,797 handwritten digits, 8x8, of scikit-learn: `x` float32 0..16 `[n, 8, 8, 1]`, `y` 0..9.

    The last 600, which other people wrote, are validation; the rest is the training part.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("the digits come with scikit-learn", next="pip install scikit-learn") from error
    spec = wanted.single_input("'digits'", "a set of images")
    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.float32).reshape(-1, 8, 8, 1), y.astype(np.int64)
    train = Raw("digits (training part)", {spec.name: x[:DIGITS_TRAIN]}, y[:DIGITS_TRAIN])
    return Raw("digits", {spec.name: x[DIGITS_TRAIN:]}, y[DIGITS_TRAIN:], train=train)


def read_function(source: str, wanted: Wanted) -> Raw:
    """What "module:function" returns: x, (x, y), or a dict of arrays. The module may lie in the current folder."""
    name, _, function = source.partition(":")
    try:
        with _current_folder():
            found = getattr(importlib.import_module(name), function)()
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(
            f"'{source}' cannot be read: it raised {reason}",
            next=f"correct {name}.py, or check the name; it is looked up in the current folder too",
        ) from error
    if isinstance(found, tuple | list) and len(found) == 2:
        x, y = found
        found = {**x, "y": y} if isinstance(x, Mapping) else {"x": x, "y": y}
    return assign(_arrays(found if isinstance(found, Mapping) else {"x": found}, source), wanted, f"'{source}'")


def _arrays(found: Mapping[str, Any], source: str) -> dict[str, Any]:
    try:
        return {str(k): np.asarray(v) for k, v in found.items() if v is not None}
    except (TypeError, ValueError) as error:
        raise unreadable(f"what '{source}' returned", error, next="return numpy arrays: x, (x, y) or a dict") from error


@contextmanager
def _current_folder() -> Iterator[None]:
    """Modules of the current folder can be imported meanwhile."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
