"""fake: a device with the latencies you give it, for tests of whatever measures; no patching needed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ..artifact import Array, Artifact
from ..engine import Engine, open_engine
from ..errors import TargetError, UsageError

CHUNK = 4096  # latencies drawn at once
SWITCHED_ON = time.monotonic()


@dataclass(frozen=True, slots=True)
class Fake:
    """A made-up device for tests: right outputs, latencies drawn from a seeded log-normal distribution.

    Same options and artifacts, same latencies, but for `drift`, which goes with the clock: everything gets slower as a
    device does that gets hot. `factors` makes some artifacts slower than others, by file name without its suffix.
    """

    latency_us: float = 100.0  # median
    jitter: float = 0.02  # standard deviation of the logarithm
    drift: float = 0.0  # relative slowdown for each second
    warmup: int = 0  # first runs that take ten times as long
    factors: Mapping[str, float] = field(default_factory=dict)  # file stem -> its latency is so many times `latency_us`
    compute: bool = True  # run the network; otherwise the outputs are zeros
    seed: int = 0

    def __post_init__(self) -> None:
        if self.latency_us <= 0 or self.jitter < 0:
            raise UsageError("fake.latency_us must be above 0, fake.jitter 0 or more", next="correct the options")

    @contextmanager
    def open(self) -> Iterator[FakeSession]:
        """A session; nothing is shared between sessions."""
        session = FakeSession(self)
        try:
            yield session
        finally:
            session.close()


class FakeSession:
    """One artifact on the made-up device."""

    def __init__(self, target: Fake) -> None:
        self._target = target
        self._artifact: Artifact | None = None
        self._engine: Engine | None = None
        self._factor = 1.0
        self._runs = 0
        self._drawn = np.empty(0)
        self._rng = np.random.default_rng(target.seed)

    def load(self, artifact: Artifact) -> None:
        """Open the artifact, in place of what was open before. Raises what `open_engine` raises."""
        self.close()
        self._artifact = artifact
        self._factor = self._target.factors.get(artifact.path.stem, 1.0)
        self._rng = np.random.default_rng([self._target.seed, *artifact.path.stem.encode()])
        self._runs = 0
        if self._target.compute:
            self._engine = open_engine(artifact)

    def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], int]:
        """Outputs of the real interpreter (or zeros), and the made-up nanoseconds."""
        if self._artifact is None:
            raise TargetError("nothing is loaded on the fake target", next="load an artifact first")
        outputs = self._zeros() if self._engine is None else self._engine.run(inputs)
        return outputs, self._latency_ns()

    def environment(self) -> Mapping[str, object]:
        """The options that have a say in the result."""
        return {"device": "fake", "seed": self._target.seed}

    def close(self) -> None:
        """Free the interpreter."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _zeros(self) -> dict[str, Array]:
        outputs = self._artifact.outputs if self._artifact else ()
        return {s.name: np.zeros([d or 1 for d in s.shape], s.dtype) for s in outputs}

    def _latency_ns(self) -> int:
        target, at = self._target, self._runs
        if at % CHUNK == 0:
            self._drawn = np.exp(self._rng.normal(0.0, target.jitter, CHUNK))
        self._runs += 1
        slower = (1 + target.drift * (time.monotonic() - SWITCHED_ON)) * (10 if at < target.warmup else 1)
        return max(1, round(target.latency_us * 1e3 * self._factor * slower * float(self._drawn[at % CHUNK])))
