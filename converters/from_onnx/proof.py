"""Proof: the rebuilt model and the original on the same inputs, and the first node where the two part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...artifact import Array
from .. import _onnx
from .._source import Runner, Source
from .build import Imported
from .graph import Graph

BOUND = 1e-3  # of max|a - b| / max|b|: more is another model, not rounding
SAMPLES = 3


def generated(graph: Graph, count: int, seed: int = 0) -> dict[str, Array]:
    """Inputs by name in the original's layout, `count` along the batch: reals around 0, small whole numbers."""
    rng = np.random.default_rng(seed)
    out = {}
    for i in graph.inputs:
        shape = [count if n is None or (d == 0 and n == 1) else n for d, n in enumerate(i.shape)]
        if i.dtype == "bool":
            out[i.name] = rng.random(shape) < 0.5
        elif np.dtype(i.dtype).kind in "iu":
            out[i.name] = rng.integers(0, 2 if len(shape) == 2 and "mask" in i.name else 100, shape).astype(i.dtype)
        else:
            out[i.name] = rng.normal(0, 1, shape).astype(np.float32)
    return out


def run_onnx(proto: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime computes, its optimizer off; one member of the batch at a time where the file says 1."""
    return run_session(_onnx.session(proto, optimize=False), inputs)


def run_session(session: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What a session computes, whose batch may be fixed at 1."""
    infos = session.get_inputs()
    names = [o.name for o in session.get_outputs()]
    feed = {i.name: _as(inputs[i.name], i.type) for i in infos}
    one = any(i.shape and i.shape[0] == 1 for i in infos)
    count = max((len(inputs[i.name]) for i in infos if i.shape), default=1)
    if not one or count == 1:
        return dict(zip(names, session.run(None, feed), strict=True))
    parts = [session.run(None, {k: v[n : n + 1] if v.ndim else v for k, v in feed.items()}) for n in range(count)]
    return {name: np.concatenate([np.atleast_1d(p[i]) for p in parts]) for i, name in enumerate(names)}


def _as(array: Array, kind: str) -> Array:
    return array.astype({"tensor(double)": np.float64, "tensor(float16)": np.float16}.get(kind, array.dtype))


def run_keras(imported: Imported, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the rebuilt model computes, in the original's layout; one at a time where its batch is fixed."""
    count = max((len(a) for a in inputs.values() if a.ndim), default=1)
    fixed = any(t.shape and t.shape[0] == 1 for t in imported.net.inputs)
    if fixed and count > 1:
        parts = [
            run_keras(imported, {k: a[i : i + 1] if a.ndim else a for k, a in inputs.items()}) for i in range(count)
        ]
        return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    feed = [_lay(inputs[s.name], imported.layouts.get(s.name)) for s in imported.inputs]
    found = imported.net(feed if len(feed) > 1 else feed[0], training=False)
    flat = list(found) if isinstance(found, list | tuple) else [found]
    return {
        s.name: _back(np.asarray(a), imported.layouts.get(s.name)) for s, a in zip(imported.outputs, flat, strict=True)
    }


def _lay(array: Array, order: tuple[int, ...] | None) -> Array:
    return array if order is None else np.ascontiguousarray(array.transpose(order))


def _back(array: Array, order: tuple[int, ...] | None) -> Array:
    return array if order is None else np.ascontiguousarray(array.transpose(np.argsort(order)))


def difference(found: Array, wanted: Array) -> tuple[float, float]:
    """Largest and mean difference, as shares of the largest wanted value; infinite where shapes or NaNs differ."""
    if found.shape != wanted.shape:
        return float("inf"), float("inf")
    if not wanted.size:
        return 0.0, 0.0
    a, b = (np.asarray(v, np.float64) for v in (found, wanted))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    gap = np.where(same, 0.0, np.abs(a - b))
    if not np.isfinite(gap).all():
        return float("inf"), float("inf")
    finite = np.abs(b[np.isfinite(b)])
    most = max(float(finite.max(initial=0.0)), 1e-6)
    return float(gap.max()) / most, float(gap.mean()) / most


def held(name: str, imported: Imported, run: Runner, inputs: Mapping[str, Array]) -> list[dict[str, Any]]:
    """One entry for each output: how far the rebuilt model is from what `run` computes."""
    wanted, found = run(inputs), run_keras(imported, inputs)
    count = max((len(a) for a in inputs.values() if a.ndim), default=1)
    entries = []
    for spec in imported.outputs:
        largest, mean = difference(found[spec.name], np.asarray(wanted[spec.name]))
        entries.append(
            {"output": spec.name, "against": name, "inputs": count, "max_relative": largest, "mean_relative": mean}
        )
    return entries


def references(source: Source) -> dict[str, Runner]:
    """Who can run the original: ONNX Runtime on its graph, and its own framework where that is installed."""
    ort = _onnx.onnxruntime()
    found: dict[str, Runner] = {f"onnxruntime {ort.__version__}": lambda inputs: run_onnx(source.proto, inputs)}
    if source.reference is not None:
        found[source.reference_name] = source.reference
    return found
