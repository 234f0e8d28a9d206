"""Whether what a converter wrote is still the model: it opens, runs, is finite, standard, and agrees within a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .artifact import Array, Artifact
from .engine import predict
from .metrics import agreement

MAX_RELATIVE = 1e-3  # of float32 outputs: max|a - b| / max|b|
MIN_SQNR_DB = {  # signal to quantization noise on the probe inputs; less is a broken file rather than a coarse one
    "fp16": 30.0,
    "int16x8": 15.0,
    "int8-weight-only": 10.0,
    "dynamic": 8.0,
    "int8": 5.0,
    "int4-weight-only": 0.0,
}
VARIES = 0.05  # an output that moves by more than this share of its largest value may not become constant
MIN_TOP1 = 0.9  # or the same class for so many of the probe inputs


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked, what came out, and whether that is good enough."""

    name: str
    ok: bool
    detail: str


def verify(artifact: Artifact, inputs: Mapping[str, Array], reference: Mapping[str, Array]) -> list[Check]:
    """Run the artifact on probe inputs and hold its outputs to the model's before it.

    `inputs` float or integer as the network takes them, `reference` the outputs to agree with, by name.
    """
    outputs = predict(artifact, inputs)
    checks = [Check("runs", True, f"{len(next(iter(inputs.values())))} probe inputs")]
    checks.append(_same_outputs(outputs, reference))
    checks.append(_finite(outputs))
    if all(c.ok for c in checks):
        found = agreement(reference, outputs)
        checks.append(_not_constant(outputs, reference))
        checks.extend(_agrees(artifact.scheme, name, values) for name, values in found.items())
    return checks


def _same_outputs(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> Check:
    have = {name: list(a.shape) for name, a in outputs.items()}
    want = {name: list(a.shape) for name, a in reference.items()}
    return Check("outputs", have == want, str(have) if have == want else f"{have} instead of {want}")


def _finite(outputs: Mapping[str, Array]) -> Check:
    bad = [name for name, a in outputs.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
    return Check("finite", not bad, f"NaN or infinity in {', '.join(bad)}" if bad else "no NaN, no infinity")


def _not_constant(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> Check:
    stuck = [n for n, a in outputs.items() if _spread(reference[n]) > VARIES and _spread(a) == 0]
    return Check("alive", not stuck, f"constant whatever the input: {', '.join(stuck)}" if stuck else "outputs vary")


def _spread(a: Array) -> float:
    """How far an output differs from input to input, as a share of its largest value."""
    most = float(np.max(np.abs(a), initial=0))
    return float(np.max(np.ptp(a.astype(np.float64), axis=0), initial=0)) / most if most and len(a) > 1 else 0.0


def _agrees(scheme: str, name: str, found: Mapping[str, Any]) -> Check:
    sqnr, relative, top1 = found["sqnr_db"], found["max_relative_error"], found.get("top1_agreement")
    if scheme in ("float32", "unknown"):
        return Check(
            f"agrees: {name}", relative <= MAX_RELATIVE, f"relative error {relative:.1e}, bound {MAX_RELATIVE}"
        )
    bound = MIN_SQNR_DB[scheme]
    ok = sqnr >= bound or (top1 is not None and top1 >= MIN_TOP1)
    also = "" if top1 is None else f", same class for {top1:.0%}"
    return Check(f"agrees: {name}", ok, f"SQNR {sqnr:.1f} dB, bound {bound:g} dB{also}")


def to_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """As plain JSON values."""
    return [asdict(c) for c in checks]
