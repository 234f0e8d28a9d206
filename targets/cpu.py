"""cpu: this machine's processor, through LiteRT and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from ..artifact import Array, Artifact
from ..engine import Engine, open_engine
from ..errors import TargetError, UsageError


@dataclass(frozen=True, slots=True)
class Cpu:
    """This machine's processor: .tflite in LiteRT (XNNPACK), .onnx in ONNX Runtime."""

    round_to: ClassVar[int] = 8  # channels: XNNPACK's int8 kernels read 8 at once and write 8 or 16

    threads: int = 1  # of the interpreter
    reference: bool = False  # plain kernels: no XNNPACK in LiteRT, no graph optimization in ONNX Runtime

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"cpu.threads is {self.threads}, and must be 1 or more", next="use cpu.threads = 1")

    @contextmanager
    def open(self) -> Iterator[CpuSession]:
        """A session on this machine; its interpreter is freed at the end."""
        session = CpuSession(self)
        try:
            yield session
        finally:
            session.close()


class CpuSession:
    """One artifact in one interpreter."""

    def __init__(self, target: Cpu) -> None:
        self._target = target
        self._engine: Engine | None = None

    def load(self, artifact: Artifact) -> None:
        """Open the artifact, in place of what was open before. Raises ModelError, TargetError, MissingDependencyError."""
        self.close()
        self._engine = open_engine(artifact, threads=self._target.threads, reference=self._target.reference)

    def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], int]:
        """Outputs in the file's own dtypes, and the nanoseconds of the interpreter's call alone. Raises DataError, TargetError."""
        if self._engine is None:
            raise TargetError("nothing is loaded on the cpu target", next="load an artifact first")
        return self._engine.timed(inputs)

    def environment(self) -> Mapping[str, object]:
        """The options that have a say in the result."""
        kernels = "reference" if self._target.reference else "optimized"
        return {"device": "cpu", "threads": self._target.threads, "kernels": kernels}

    def close(self) -> None:
        """Free the interpreter."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
