"""The short way through the interpreter for the common case: one input, one output, one sample of a fixed shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock

import numpy as np

from ..artifact import Array, TensorSpec
from ..engine import Engine, OnnxEngine, Shape, TfliteEngine
from ..preprocess import Preprocessing

Call = Callable[[Array], Array]


def fast_path(engine: Engine, prepare: Mapping[str, Preprocessing], lock: Lock) -> tuple[tuple[int, ...], Call | None]:
    """The only float32 shape that it takes, and the function from such an array to the real-valued output.

    None where a file has several inputs or outputs, open inner dimensions, preprocessing, or integers that are not
    quantized values. Everything is looked up and allocated here, once; `lock` is held during a call.
    """
    if len(engine.inputs) != 1 or len(engine.outputs) != 1:
        return (), None
    (spec,), (shape,) = engine.inputs, engine.shapes
    fixed = (engine.batch or 1, *(d for d in shape[1:] if d is not None))
    plain = spec.is_quantized or spec.dtype == "float32"
    if not shape or len(fixed) != len(shape) or not plain or not prepare[spec.name].is_identity:
        return (), None
    if isinstance(engine, TfliteEngine):
        return fixed, _tflite(engine, lock)
    return (fixed, _onnx(engine, lock)) if isinstance(engine, OnnxEngine) else ((), None)


def _tflite(engine: TfliteEngine, lock: Lock) -> Call:
    set_tensor, invoke = engine.interpreter.set_tensor, engine.interpreter.invoke
    get_tensor: Call = engine.interpreter.get_tensor
    into, out = engine.input_indices[0], engine.output_indices[0]
    real_in, real_out = _quantizer(engine.inputs[0], engine.shapes[0]), _dequantizer(engine.outputs[0])
    acquire, release = lock.acquire, lock.release  # `with lock` costs three times as much in Python 3.11

    def plain(x: Array) -> Array:
        acquire()
        try:
            set_tensor(into, x)
            invoke()
            return get_tensor(out)
        finally:
            release()

    def quantized(x: Array) -> Array:
        acquire()
        try:
            set_tensor(into, real_in(x))
            invoke()
            return real_out(get_tensor(out))
        finally:
            release()

    return quantized if engine.inputs[0].is_quantized or engine.outputs[0].is_quantized else plain


def _onnx(engine: OnnxEngine, lock: Lock) -> Call:
    run, name, wanted = engine.session.run, engine.inputs[0].inside, [engine.outputs[0].inside]
    real_in, real_out = _quantizer(engine.inputs[0], engine.shapes[0]), _dequantizer(engine.outputs[0])

    def call(x: Array) -> Array:
        with lock:
            return real_out(run(wanted, {name: real_in(x)})[0])

    return call


def _unchanged(x: Array) -> Array:
    return x


def _quantizer(spec: TensorSpec, shape: Shape) -> Call:
    """TensorSpec.quantize, to the bit, without allocating; its result lives until the next call.

    Arrays of no dimensions instead of numbers, and a plain copy before the arithmetic: numpy is 2 to 4 times as fast.
    """
    if not spec.is_quantized:
        return _unchanged
    info = np.iinfo(spec.dtype)
    fixed = [d or 1 for d in shape]
    real, q = np.empty(fixed, np.float64), np.empty(fixed, spec.dtype)
    values = (spec.scale, spec.zero_point or 0, info.min, info.max)
    scale, zero_point, low, high = (np.array(v, np.float64) for v in values)

    def quantize(x: Array) -> Array:
        real[...] = x
        np.divide(real, scale, out=real)
        np.rint(real, out=real)
        np.add(real, zero_point, out=real)
        np.maximum(real, low, out=real)
        np.minimum(real, high, out=real)
        q[...] = real
        return q

    return quantize


def _dequantizer(spec: TensorSpec) -> Call:
    """TensorSpec.dequantize, to the bit."""
    if not spec.is_quantized:
        return _unchanged
    scale, zero_point = np.array(spec.scale, np.float32), np.array(spec.zero_point or 0, np.float32)

    def dequantize(q: Array) -> Array:
        real = q.astype(np.float32)
        np.subtract(real, zero_point, out=real)
        np.multiply(real, scale, out=real)
        return real

    return dequantize
