"""What a stage, a converter, an inspector, a target and a session must look like."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .artifact import Array, Artifact
    from .data import Dataset
    from .model import Model


class Stage(Protocol):
    """A frozen dataclass whose fields are its options. Never changes the Model it was given."""

    def __call__(self, model: Model, data: Dataset) -> Model: ...


class Converter(Protocol):
    """A frozen dataclass; writes one artifact to the file `out` (its metadata saved with it) and returns it.

    Carries out `model.plan` (None: float32). `base` is a float file of the same format that was already made from the
    same model, to start from. Raises ConversionError.
    """

    def __call__(self, model: Model, data: Dataset, out: Path, *, base: Path | None = None) -> Artifact: ...


class Session(Protocol):
    """An open target: load an artifact, run it. `run` returns the outputs and the nanoseconds of the bare call."""

    def load(self, artifact: Artifact) -> None: ...
    def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], int]: ...
    def environment(self) -> Mapping[str, object]: ...


class Target(Protocol):
    """A frozen dataclass whose fields are its options (threads ...)."""

    def open(self) -> AbstractContextManager[Session]: ...


@runtime_checkable
class Stepped(Protocol):
    """A target whose kernels work on several channels at once: widths in between cost what the next multiple costs."""

    round_to: ClassVar[int]


@runtime_checkable
class Embedded(Protocol):
    """A target without an interpreter: a .tflite becomes firmware, with the kernels that the core's features allow."""

    @property
    def features(self) -> frozenset[str]: ...
    def refuses(self, artifact: Artifact) -> str: ...  # why it cannot run it; empty: it can


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer or operator of a network, as an inspector sees it."""

    name: str
    op: str
    output: tuple[int | None, ...]  # shape
    dtype: str  # of its output
    parameters: int = 0  # weights
    bytes: int = 0  # of its weights, as stored
    macs: int = 0  # multiply-accumulates for one input (batch 1)
    activation_bytes: int = 0  # of its output, batch 1


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far a layer of the quantized network is from the same layer of the float network, inputs alike."""

    name: str
    op: str
    sqnr_db: float  # inf: identical
    bytes: int = 0  # of its weights in the quantized file


class Inspector(Protocol):
    """Reads a network without changing it."""

    def layers(self, path: Path) -> tuple[Layer, ...]: ...
    def custom_ops(self, path: Path) -> tuple[str, ...]: ...  # names of operators outside the format's standard set
    def compare(self, float_path: Path, path: Path, inputs: Mapping[str, Array]) -> tuple[LayerError, ...]: ...
