"""The cpu target against the engine, and the fake target's made-up latencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.engine import describe, open_engine
from edgedl.errors import DataError, ModelError, TargetError, UsageError
from edgedl.targets.cpu import Cpu
from edgedl.targets.fake import Fake

DATA = Path(__file__).parents[1] / "data"
INPUTS = {"features": np.random.default_rng(0).uniform(0, 1, (1, 4)).astype(np.float32)}


def latencies(target: Fake, name: str, count: int) -> list[int]:
    with target.open() as session:
        session.load(describe(DATA / f"{name}.tflite"))
        return [session.run(INPUTS)[1] for _ in range(count)]


@pytest.mark.parametrize("target", [Cpu(), Cpu(threads=2), Cpu(reference=True), Fake()])
def test_outputs_are_the_engines(target: Any) -> None:
    artifact = describe(DATA / "dense_float.tflite")
    with target.open() as session, open_engine(artifact) as engine:
        session.load(artifact)
        outputs, elapsed = session.run(INPUTS)
        np.testing.assert_allclose(outputs["output_0"], engine.run(INPUTS)["output_0"], rtol=1e-6)
        assert elapsed > 0
        assert session.environment()["device"] in ("cpu", "fake")


@pytest.mark.parametrize("target", [Cpu(), Fake()])
def test_errors_are_edgedls(target: Any, tmp_path: Path) -> None:
    with target.open() as session:
        with pytest.raises(TargetError, match="nothing is loaded"):
            session.run(INPUTS)
        session.load(describe(DATA / "dense_float.tflite"))
        with pytest.raises(DataError, match="float64"):
            session.run({"features": np.zeros((1, 4))})
        damaged = tmp_path / "m.tflite"
        damaged.write_bytes(b"\x1c\0\0\0TFL3" + b"\xff" * 50)
        with pytest.raises(ModelError):
            describe(damaged)


def test_a_session_takes_one_artifact_after_the_other() -> None:
    with Cpu().open() as session:
        for name in ("dense_float", "tiny_float", "dense_float"):
            artifact = describe(DATA / f"{name}.tflite")
            session.load(artifact)
            x = np.zeros([d or 1 for d in artifact.inputs[0].shape], np.float32)
            assert session.run({artifact.inputs[0].name: x})[0]


def test_wrong_options() -> None:
    with pytest.raises(UsageError, match="threads is 0"):
        Cpu(threads=0)
    with pytest.raises(UsageError, match="latency_us"):
        Fake(latency_us=0)


def test_fake_latencies_are_reproducible_and_as_declared() -> None:
    target = Fake(latency_us=50, jitter=0.1, compute=False)
    once = latencies(target, "dense_float", 3000)
    assert once == latencies(target, "dense_float", 3000)
    assert once != latencies(Fake(latency_us=50, jitter=0.1, compute=False, seed=1), "dense_float", 3000)
    assert np.median(once) == pytest.approx(50_000, rel=0.01)
    assert np.std(np.log(once)) == pytest.approx(0.1, rel=0.05)


def test_fake_drift_warmup_and_factors() -> None:
    exact = {"jitter": 0.0, "compute": False, "latency_us": 10.0}
    warming = latencies(Fake(drift=1.0, **exact), "dense_float", 3000)
    assert warming == sorted(warming)
    assert warming[0] >= 10_000
    assert warming[-1] > warming[0]
    assert latencies(Fake(warmup=2, **exact), "dense_float", 3) == [100_000, 100_000, 10_000]
    factors = Fake(factors={"dense_int8": 0.5}, **exact)
    assert (latencies(factors, "dense_float", 1), latencies(factors, "dense_int8", 1)) == ([10_000], [5_000])


def test_fake_without_computing_gives_zeros() -> None:
    artifact = describe(DATA / "two_float.tflite")
    with Fake(compute=False).open() as session:
        session.load(artifact)
        outputs, _ = session.run({})
    assert {k: v.shape for k, v in outputs.items()} == {s.name: (1, s.shape[1]) for s in artifact.outputs}
