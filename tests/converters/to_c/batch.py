"""Many operators side by side in one file, so that one compile and one run of LiteRT serve them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from .harness import Firmware, Node, T, check, write

seeds = st.integers(0, (1 << 32) - 1).map(np.random.default_rng)
some = settings(  # a seed has no simpler one, so none is looked for
    max_examples=5, phases=[Phase.explicit, Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
LIMITS = {"int8": (-128, 128), "int16": (-32768, 32768), "int32": (-1000, 1000), "bool": (0, 2), "uint8": (0, 256)}


def scale(rng: Any, low: float = -3.0, high: float = -0.5) -> float:
    return float(np.float32(10 ** rng.uniform(low, high)))


def drawn(rng: Any, tensor: T) -> Any:
    """Values for an input; its extremes now and then."""
    low, high = LIMITS[tensor.dtype]
    values = rng.integers(low, high, tensor.shape)
    if rng.random() < 0.2:
        values = np.where(rng.random(values.shape) < 0.5, low, high - 1)
    return values.astype({"bool": np.bool_}.get(tensor.dtype, tensor.dtype))


class Batch:
    """Operators are added one by one; `check` runs them all. Inputs are the tensors without data."""

    def __init__(self) -> None:
        self.tensors: list[T] = []
        self.nodes: list[Node] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []

    def add(
        self, kind: str, inputs: Sequence[T | None], outputs: Sequence[T], options: Mapping[str, Any] | None = None,
        table: str = "", version: int = 1,
    ) -> None:  # fmt: skip
        places = []
        for tensor in inputs:
            places.append(-1 if tensor is None else len(self.tensors))
            if tensor is not None:
                if tensor.data is None:
                    self.inputs.append(len(self.tensors))
                self.tensors.append(tensor)
        made = list(range(len(self.tensors), len(self.tensors) + len(outputs)))
        self.tensors += outputs
        self.outputs += made
        self.nodes.append(Node(kind, places, made, options or {}, table, version))

    def write(self, folder: Path) -> Path:
        return write(folder / "batch.tflite", self.tensors, self.nodes, self.inputs, self.outputs)

    def check(self, folder: Path, rng: Any, feeds: int = 3, **how: Any) -> Firmware:
        values = [[drawn(rng, self.tensors[i]) for i in self.inputs] for _ in range(feeds)]
        return check(self.write(folder), folder / "c", values, **how)


def ints(*values: Any, shape: Sequence[int] | None = None) -> T:
    """A constant of int32."""
    data = np.array(values, np.int32)
    return T(data.shape if shape is None else shape, "int32", data=data)
