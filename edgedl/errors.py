"""The exceptions of edgedl: one tree, each with its exit code and the user's next step.

    EdgedlError                 1   something edgedl refuses to do, said in one sentence
    ├── UsageError              2   an option or a combination of options that cannot work
    │   └── RecipeError         2   a recipe that cannot be read or names what does not exist
    ├── ModelError              3   a model file that cannot be read
    │   └── UnsafeModelError    3   a model file that would run code of its own
    ├── DataError               4   data that does not fit the model, or cannot be read
    ├── ConversionError         5   a converter or quantizer failed
    │   ├── VerificationError   5   what it wrote is not the model it was given
    │   └── WorkerError         5   the child process crashed, ran too long or took too much memory
    ├── TargetError             6   a target cannot be opened or cannot run the artifact
    ├── LimitError              7   the result is outside a limit the user set (--max-drop ...)
    ├── MissingDependencyError  8   an optional package is not installed
    └── OutputError             9   the output cannot be written

Ctrl-C ends with 130; a traceback and exit code 1 mean a bug in edgedl.
"""

from __future__ import annotations

from typing import ClassVar


class EdgedlError(Exception):
    """What went wrong (`message`: what, where, why) and what the user can do about it (`next`)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, next: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next = next

    def __str__(self) -> str:
        return f"{self.message}\nNext: {self.next}" if self.next else self.message

    def to_json(self) -> dict[str, str]:
        """As plain strings, to cross from a child process."""
        return {"type": type(self).__name__, "message": self.message, "next": self.next}


class UsageError(EdgedlError):
    """An option or a combination of options that cannot work."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be read or names what does not exist."""


class ModelError(EdgedlError):
    """A model file that cannot be read."""

    exit_code = 3


class UnsafeModelError(ModelError):
    """A model file that would run code of its own."""


class DataError(EdgedlError):
    """Data that does not fit the model, or cannot be read."""

    exit_code = 4


class ConversionError(EdgedlError):
    """A converter or quantizer failed."""

    exit_code = 5


class VerificationError(ConversionError):
    """What a converter wrote is not the model it was given."""


class WorkerError(ConversionError):
    """A child process crashed, ran too long or took too much memory."""


class TargetError(EdgedlError):
    """A target cannot be opened or cannot run the artifact."""

    exit_code = 6


class LimitError(EdgedlError):
    """The result is outside a limit the user set."""

    exit_code = 7


class MissingDependencyError(EdgedlError):
    """An optional package is not installed."""

    exit_code = 8


class OutputError(EdgedlError):
    """The output cannot be written."""

    exit_code = 9


def _tree(cls: type[EdgedlError]) -> dict[str, type[EdgedlError]]:
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found.update(_tree(child))
    return found


def from_json(data: dict[str, str]) -> EdgedlError:
    """The exception that `to_json` wrote.

    >>> from_json(DataError("no labels", next="pass y").to_json()).exit_code
    4
    """
    return _tree(EdgedlError)[data["type"]](data["message"], next=data["next"])
