"""Engine: what the interpreters have in common: names, shapes, batches and errors."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from ..artifact import Array, Artifact, TensorSpec
from ..errors import DataError, ModelError, TargetError, UsageError

Shape = tuple[int | None, ...]  # None: any length
Errors = tuple[type[Exception], ...]


class Engine(ABC):
    """An open model file. Arrays go in and come out in the file's own dtypes, by the names of the artifact's specs.

    Not for use from several threads at once. `batch` is the number of samples the file takes in one call (None: any).
    """

    def __init__(self, artifact: Artifact, shapes: Sequence[Shape], errors: Errors, *, one_by_one: bool) -> None:
        self.artifact = artifact
        self.inputs = artifact.inputs
        self.outputs = artifact.outputs
        self.closed = False
        self.errors = errors  # what the interpreter raises
        self.shapes = tuple(shapes)  # of the inputs, as the file has them
        lengths = {s[0] for s in shapes if s}
        self.has_batch = len(lengths) == 1  # otherwise the first axes are not all samples: taken as they are
        self.batch = (next(iter(lengths)) or (1 if one_by_one else None)) if self.has_batch else None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. `inputs` are one batch or, along their first axis, any number of independent samples.

        The state of a stateful file lives on from one call to the next; samples of one call do not see each other's.
        Raises DataError for a name, dtype or shape the file does not take, TargetError when the interpreter fails.
        """
        return self.timed(inputs)[0]

    def timed(self, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
        """`run`, and the nanoseconds the interpreter itself took (not: copying in and out, where it can be told apart)."""
        self.require_open()
        feed = self._checked(inputs)
        count = self._samples(feed)
        outputs, elapsed = self._once(feed) if self.batch in (None, count) else self._batches(feed, self.batch, count)
        return {s.name: a for s, a in zip(self.outputs, outputs, strict=True)}, elapsed

    def _batches(self, feed: list[Array], size: int, count: int) -> tuple[list[Array], int]:
        """Run in batches of the file's size; the last one is filled up with copies of its last sample."""
        elapsed, parts = 0, []
        for start in range(0, count, size):
            self.reset()
            part, took = self._once([_chunk(a, start, size) for a in feed])
            parts.append(part)
            elapsed += took
        if len(parts) == 1:
            return [a[:count] if a.ndim and len(a) == size else a for a in parts[0]], elapsed
        return [_joined([p[i] for p in parts], size, count) for i in range(len(self.outputs))], elapsed

    def _checked(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The arrays in the file's order. Raises DataError."""
        known = [s.name for s in self.inputs]
        if inputs.keys() != set(known):
            raise DataError(
                f"{self.artifact.path.name} takes the inputs {', '.join(known)}, and was given {', '.join(inputs) or 'none'}",
                next="give one array for each of its inputs",
            )
        return [self._fitting(s, shape, inputs[s.name]) for s, shape in zip(self.inputs, self.shapes, strict=True)]

    def _fitting(self, spec: TensorSpec, shape: Shape, x: Array) -> Array:
        rest = shape[1:] if shape else ()
        inner = x.shape[1:] if x.ndim else ()
        fits = x.ndim == len(shape) and all(w in (None, h) for w, h in zip(rest, inner, strict=True))
        if not fits:
            raise DataError(
                f"input '{spec.name}' of {self.artifact.path.name} takes shape {show_shape(shape)}, and was given {show_shape(x.shape)}",
                next="give samples of that shape along the first axis",
            )
        if x.dtype.name != spec.dtype:
            raise DataError(
                f"input '{spec.name}' of {self.artifact.path.name} takes {spec.dtype}, and was given {x.dtype.name}",
                next=f"convert it to {spec.dtype} (real values: TensorSpec.quantize)",
            )
        return x

    def _samples(self, feed: list[Array]) -> int:
        """How many samples were given. Raises DataError for none, or another number for another input."""
        counts = {len(a) for a in feed if a.ndim}
        if self.has_batch:
            fits = len(counts) == 1
        else:
            fits = all(s[0] in (None, len(a)) for a, s in zip(feed, self.shapes, strict=True) if s)
        if 0 in counts or not fits:
            given = ", ".join(f"{s.name} {show_shape(a.shape)}" for s, a in zip(self.inputs, feed, strict=True))
            raise DataError(
                f"the inputs of {self.artifact.path.name} must hold the same number of samples, at least one: {given}",
                next="give as many samples to each input",
            )
        return max(counts, default=1)

    def require_open(self) -> None:
        """Raises UsageError when it was closed."""
        if self.closed:
            raise UsageError(f"{self.artifact.path.name} was closed", next="open it again")

    @abstractmethod
    def _once(self, feed: list[Array]) -> tuple[list[Array], int]:
        """One call of the interpreter: outputs in order, nanoseconds."""

    @abstractmethod
    def reset(self) -> None:
        """Clear the variables of a stateful file (streaming, fused RNNs)."""

    def close(self) -> None:
        """Free the interpreter."""
        self.closed = True

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def show_shape(shape: Shape) -> str:
    """A shape in words.

    >>> show_shape((None, 32, 3))
    '[any, 32, 3]'
    """
    return f"[{', '.join('any' if d is None else str(d) for d in shape)}]"


def _chunk(x: Array, start: int, size: int) -> Array:
    part = x[start : start + size] if x.ndim else x
    if x.ndim and len(part) < size:
        part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
    return part


def _joined(parts: list[Array], size: int, count: int) -> Array:
    """Batches put together; outputs without a batch axis are stacked."""
    if all(p.ndim and len(p) == size for p in parts):
        return np.concatenate(parts)[:count]
    return np.stack(parts)


def one_sentence(reason: str, limit: int = 160) -> str:
    """What a library said, on one line and not too long.

    >>> one_sentence("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Protobuf parsing failed.\\n")
    'INVALID_PROTOBUF : Protobuf parsing failed'
    """
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : ", "", " ".join(reason.split())).rstrip(". ")
    return text if len(text) <= limit else f"{text[:limit]}..."


def run_failed(path: Path, error: Exception) -> TargetError:
    """The error for an interpreter that opened a file and then could not run it."""
    return TargetError(
        f"{path.name} cannot be run: the interpreter says '{one_sentence(str(error))}'",
        next="check it with `edgedl inspect`, or convert the model again",
    )


def same_dtype(artifact: Artifact, spec: TensorSpec, dtype: str) -> None:
    """Raises ModelError where the metadata and the file do not agree."""
    if spec.dtype != dtype:
        raise ModelError(
            f"the metadata of {artifact.path.name} says that '{spec.name}' is {spec.dtype}, and in the file it is {dtype}",
            next=f"remove {artifact.path.name}.json if it belongs to another file, or convert the model again",
        )
