"""A folder that outlives a killed run: where a long stage keeps checkpoints, to go on from them the next time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_current: ContextVar[Path | None] = ContextVar("scratch", default=None)


@contextmanager
def using(path: Path) -> Iterator[Path]:
    """Make `path` (created if need be) the scratch folder of what runs inside.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as d, using(Path(d) / "x") as here:
    ...     here == folder(), folder().is_dir()
    (True, True)
    """
    path.mkdir(parents=True, exist_ok=True)
    token = _current.set(path)
    try:
        yield path
    finally:
        _current.reset(token)


def folder() -> Path | None:
    """The scratch folder of the stage that runs now; None where nothing is to be kept."""
    return _current.get()
