"""What verification refuses: NaN, other shapes, constant outputs, outputs too far from the model's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgedl.artifact import Artifact
from edgedl.engine import describe, predict
from edgedl.verification import verify

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return describe(DATA / "tiny_float.tflite")


@pytest.fixture(scope="module")
def inputs(artifact: Artifact) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {s.name: rng.normal(size=(8, *(d or 1 for d in s.shape[1:]))).astype(s.dtype) for s in artifact.inputs}


def failed(artifact: Artifact, inputs: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> list[str]:
    return [c.name.partition(":")[0] for c in verify(artifact, inputs, reference) if not c.ok]


def test_the_same_model_passes(artifact: Artifact, inputs: dict[str, np.ndarray]) -> None:
    assert failed(artifact, inputs, predict(artifact, inputs)) == []


def test_another_model_is_refused(artifact: Artifact, inputs: dict[str, np.ndarray]) -> None:
    right = predict(artifact, inputs)
    noise = np.random.default_rng(1)
    assert failed(
        artifact, inputs, {k: v + 0.1 * noise.normal(size=v.shape).astype("f4") for k, v in right.items()}
    ) == ["agrees"]
    assert failed(artifact, inputs, {k: v[:, :1] for k, v in right.items()}) == ["outputs"]
    assert failed(artifact, inputs, {"other": next(iter(right.values()))}) == ["outputs"]


def test_a_coarse_scheme_has_a_wider_bound(artifact: Artifact, inputs: dict[str, np.ndarray]) -> None:
    right = predict(artifact, inputs)
    near = {k: v * np.float32(1.02) for k, v in right.items()}
    coarse = dataclasses.replace(artifact, metadata={"scheme": "int8"})
    assert failed(artifact, inputs, near) == ["agrees"]
    assert failed(coarse, inputs, near) == []


def test_nan_is_refused(artifact: Artifact, inputs: dict[str, np.ndarray]) -> None:
    right = predict(artifact, inputs)
    broken = {k: np.full_like(v, np.nan) for k, v in inputs.items()}
    assert "finite" in failed(artifact, broken, right)


def test_a_constant_output_is_refused(artifact: Artifact, inputs: dict[str, np.ndarray]) -> None:
    """The same input for all of a model that should have told its inputs apart."""
    right = predict(artifact, inputs)
    same = {k: np.repeat(v[:1], len(v), 0) for k, v in inputs.items()}
    assert "alive" in failed(artifact, same, right)
    still = {k: np.repeat(v[:1], len(v), 0) + 1e-6 * v for k, v in right.items()}
    assert "alive" not in failed(artifact, same, still)
