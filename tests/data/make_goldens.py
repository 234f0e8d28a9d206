"""Writes the small .tflite files of this folder with TensorFlow: python tests/data/make_goldens.py (a few seconds)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent


def dense() -> Any:
    """4 features -> 3 class scores; the smallest thing worth running."""
    x = keras.Input((4,), name="features")
    hidden = keras.layers.Dense(8, activation="relu")(x)
    return keras.Model(x, keras.layers.Dense(3, activation="softmax", name="scores")(hidden))


def conv() -> Any:
    """8x8 grey images -> 10 class scores; a quarter of a millisecond of work at most."""
    x = keras.Input((8, 8, 1), name="image")
    y = keras.layers.Conv2D(8, 3, activation="relu", padding="same")(x)
    y = keras.layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, keras.layers.Dense(10, activation="softmax", name="scores")(y))


def two() -> Any:
    """Two inputs (of different shapes), two outputs."""
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    both = keras.layers.Concatenate()([a, b])
    return keras.Model([a, b], [keras.layers.Dense(2, name="p")(both), keras.layers.Dense(1, name="q")(a)])


def samples(model: Any) -> Iterator[list[Any]]:
    """Inputs for calibration."""
    rng = np.random.default_rng(0)
    for _ in range(64):
        yield [rng.uniform(0, 1, (1, *i.shape[1:])).astype(np.float32) for i in model.inputs]


def convert(model: Any, name: str, *, int8: bool = False) -> None:
    """Write NAME.tflite, float or int8 with int8 input and output."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: samples(model)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    (HERE / f"{name}.tflite").write_bytes(converter.convert())


def counter() -> None:
    """A file with state: its output is the sum of all its inputs so far."""

    class Counter(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.total = tf.Variable(tf.zeros([1, 2]))

        @tf.function(input_signature=[tf.TensorSpec([1, 2], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"sum": self.total.assign_add(x)}

    module = Counter()
    concrete = module.__call__.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    converter.experimental_enable_resource_variables = True
    (HERE / "counter.tflite").write_bytes(converter.convert())


def select_ops() -> None:
    """A file with a TensorFlow (Flex) operator, which LiteRT does not have."""

    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32)])
    def f(x: Any) -> Any:
        return tf.math.erf(x)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([f.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    (HERE / "flex.tflite").write_bytes(converter.convert())


def custom_op() -> None:
    """The same file with its operator renamed: a custom operator nobody knows."""
    data = (HERE / "flex.tflite").read_bytes()
    (HERE / "custom.tflite").write_bytes(data.replace(b"FlexErf", b"Unknown"))


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    small = dense()
    convert(small, "dense_float")
    convert(small, "dense_int8", int8=True)
    image = conv()
    convert(image, "tiny_float")
    convert(image, "tiny_int8", int8=True)
    convert(two(), "two_float")
    counter()
    select_ops()
    custom_op()
