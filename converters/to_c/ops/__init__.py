"""Operators: one function each that says which kernel does it and with which parameters; a file for each family."""

from . import (
    activation,
    compare,
    convolution,
    dense,
    depthwise,
    elementwise,
    matmul,
    pooling,
    quantize,
    recurrent,
    reduce,
    shapes,
)

__all__ = [
    "activation", "compare", "convolution", "dense", "depthwise", "elementwise", "matmul", "pooling", "quantize",
    "recurrent", "reduce", "shapes",
]  # fmt: skip
