"""Net: an artifact on the device; raw values in, real values out, with the preprocessing that calibration saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np

from ..artifact import Array, Artifact, TensorSpec
from ..engine import Engine, describe, open_engine, run_failed, show_shape
from ..errors import DataError, UsageError
from ..preprocess import IDENTITY, Preprocessing
from .fast import fast_path

FLOAT32 = np.dtype(np.float32)


def load(path: Path | str, *, threads: int = 1) -> Net:
    """Open a .tflite or .onnx file. `threads`: of the interpreter.

    Raises ModelError (no model, damaged), TargetError (an operator the interpreter lacks), MissingDependencyError.

        net = load("model.tflite")
        label, score = net.classify(image, top=1)[0]
    """
    if threads < 1:
        raise UsageError(f"threads is {threads}, and must be 1 or more", next="leave it out for one thread")
    return Net(open_engine(describe(path), threads=threads))


class Net:
    """An open artifact; safe to use from several threads, which take turns.

    What goes in is raw: what was declared as preprocessing (resize, scale, mean, std, layout) is done here, then the
    quantization that the file wants. The dtype decides nothing: integers are raw values too, unless the caller says
    `quantized=True`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prepare = {s.name: engine.artifact.preprocessing(s.name) for s in engine.inputs}
        self._lock = Lock()
        self._shape, self._fast = fast_path(engine, self._prepare, self._lock)
        self._sample = self._shape[1:]

    @property
    def artifact(self) -> Artifact:
        """The file and its metadata."""
        return self._engine.artifact

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape, dtype and quantization of each input of the file."""
        return self._engine.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape, dtype and quantization of each output of the file."""
        return self._engine.outputs

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, or nothing."""
        return self.artifact.labels

    def run(self, x: Any, /, *more: Any, quantized: bool = False) -> Any:
        """Run one sample or a batch: an array, one array for each input in order, or a mapping of names to arrays.

        A sample without its batch axis comes back without it. Returns an array, or a dict by name where the network
        has several outputs: float32 where the file holds quantized values. `quantized`: the inputs are what the file
        itself takes, in its own dtypes, already preprocessed and quantized. Raises DataError, TargetError.
        """
        fast = self._fast
        if fast is not None and not quantized and x.__class__ is np.ndarray and x.dtype is FLOAT32:
            try:
                if x.shape == self._shape:
                    return fast(x)
                if x.shape == self._sample:
                    return fast(x[None])[0]
            except self._engine.errors as error:
                raise run_failed(self.artifact.path, error) from error
        outputs = self.run_named(self._named((x, *more)), quantized=quantized)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def run_named(self, inputs: Mapping[str, Any], *, quantized: bool = False) -> dict[str, Array]:
        """`run` with a mapping in and a dict out, however many inputs and outputs there are."""
        self._check_names(inputs)
        arrays = {s.name: np.asarray(inputs[s.name]) for s in self.inputs}
        ready = {s.name: self._ready(s, arrays[s.name], quantized) for s in self.inputs}
        single = [s.name for s in self.inputs if ready[s.name][1]]
        if single and len(single) < len(ready):
            shapes = ", ".join(f"{k} {show_shape(a.shape)}" for k, a in arrays.items())
            raise DataError(
                f"some inputs are one sample and others a batch: {shapes}",
                next="give all with or all without a batch axis",
            )
        with self._lock:
            outputs = self._engine.run({name: array for name, (array, _) in ready.items()})
        real = {s.name: s.dequantize(outputs[s.name]) for s in self.outputs}
        return {k: a[0] if a.ndim else a for k, a in real.items()} if single else real

    def classify(self, x: Any, /, top: int = 5) -> list[Any]:
        """The `top` classes of one sample as (label, score), best first; of a batch, a list of these.

        Score is the value of the network's first output (one output for two classes: also 1 minus it). Labels are
        the artifact's, else the class numbers. Raises DataError.
        """
        outputs = self.run_named(self._named((x,)))
        values = next(iter(outputs.values()))
        rank = len(self.outputs[0].shape)
        if values.ndim == rank:
            return [self._best(row, top) for row in values]
        return self._best(values, top)

    def reset(self) -> None:
        """Forget the state of a stateful network (streaming, fused RNNs)."""
        with self._lock:
            self._engine.reset()
            self._shape, self._fast = fast_path(
                self._engine, self._prepare, self._lock
            )  # it may be another interpreter

    def close(self) -> None:
        """Free the interpreter; the Net cannot be used afterwards."""
        self._fast = None
        self._engine.close()

    def __enter__(self) -> Net:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        def show(specs: Sequence[TensorSpec]) -> str:
            return ", ".join(f"{s.name} {s.dtype}{show_shape(s.shape)}" for s in specs)

        return f"<Net {self.artifact.path.name}: {show(self.inputs)} -> {show(self.outputs)}>"

    def _named(self, xs: tuple[Any, ...]) -> Mapping[str, Any]:
        if len(xs) == 1 and isinstance(xs[0], Mapping):
            return xs[0]
        if len(xs) != len(self.inputs):
            names = ", ".join(s.name for s in self.inputs)
            raise DataError(
                f"{self.artifact.path.name} takes {len(self.inputs)} inputs ({names}), and was given {len(xs)}",
                next="give one array for each input, in this order, or a dict by name",
            )
        return {s.name: x for s, x in zip(self.inputs, xs, strict=True)}

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        known = {s.name for s in self.inputs}
        if inputs.keys() != known:
            raise DataError(
                f"{self.artifact.path.name} takes the inputs {', '.join(sorted(known))}, and was given {', '.join(inputs) or 'none'}",
                next="give one array for each of its inputs",
            )

    def _ready(self, spec: TensorSpec, x: Array, quantized: bool) -> tuple[Array, bool]:
        """An input as the file takes it, and whether it came without a batch axis."""
        if x.dtype.kind not in "biuf":
            raise DataError(
                f"input '{spec.name}' must be numbers, and was given {x.dtype.name}", next="give a numeric array"
            )
        prepare = IDENTITY if quantized else self._prepare[spec.name]
        x, single = _batched(spec, prepare, x)
        return (x if quantized else spec.quantize(prepare(x))), single

    def _best(self, values: Array, top: int) -> list[tuple[str, float]]:
        scores = values.ravel()
        labels = self.labels
        if scores.size == 1 and len(labels) in (0, 2):
            scores = np.concatenate([1 - scores, scores])
        if labels and len(labels) != scores.size:
            raise DataError(
                f"{self.artifact.path.name} has {len(labels)} labels, and its output '{self.outputs[0].name}' {scores.size} values",
                next="use run(), or convert the model again with its own labels",
            )
        order = np.argsort(-scores, kind="stable")[:top]
        return [(labels[i] if labels else str(i), float(scores[i])) for i in order]


def _batched(spec: TensorSpec, prepare: Preprocessing, x: Array) -> tuple[Array, bool]:
    """`x` with a batch axis (and, for grey images given without it, a channel axis), and whether one sample came.

    Where a file takes NCHW, images come as NHWC; arrays in the file's own shape are turned, unless they fit both ways.
    Raises DataError for a number of axes that can be neither.
    """
    rank = len(spec.shape)
    channel = 1 if prepare.layout == "NCHW" else -1
    if channel == 1 and x.ndim >= rank - 1 and x.shape[-3:] == spec.shape[1:] and x.shape[-1] != spec.shape[1]:
        x = np.moveaxis(x, -3, -1)
    if rank == 4 and spec.shape[channel] == 1 and x.ndim in (2, 3) and x.shape[-1] != 1:
        x = x[..., None]
    if x.ndim == rank:
        return x, False
    if x.ndim == rank - 1:
        return x[None], True
    raise DataError(
        f"input '{spec.name}' takes samples of {rank - 1} axes, {show_shape(spec.shape[1:])}, and was given shape {show_shape(x.shape)}",
        next="give one sample, or samples along the first axis",
    )
