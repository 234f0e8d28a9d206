"""The error function by what TensorFlow Lite has: its Erf is no operator of its own, only a part of GELU."""

from __future__ import annotations

from typing import Any

from ...frameworks import deep, keras

EDGE = 4.0  # beyond, it is 1 in float32
# x P(x^2) / Q(x^2), from the highest power down: the coefficients of Eigen's `generic_fast_erf` (and XLA's) for float32
ABOVE = (
    *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
    *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
)
BELOW = (
    *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03),
    -1.42647390514189e-02,
)


def erf(x: Any) -> Any:
    """The error function of a Keras tensor of any shape, in sums, products and one division."""
    ops = keras().ops
    x = ops.clip(x, -EDGE, EDGE)
    square = ops.square(x)
    above, below = (_polynomial(square, c) for c in (ABOVE, BELOW))
    return ops.divide(ops.multiply(x, above), below)


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    ops = keras().ops
    found = ops.add(ops.multiply(x, coefficients[0]), coefficients[1])
    for c in coefficients[2:]:
        found = ops.add(ops.multiply(found, x), c)
    return found


def without_erf(net: Any) -> Any:
    """A copy of a network whose Erf is approximated, also that in an exact GELU of a tensor of which the other GELU is
    taken (TensorFlow computes their common part once, and recognises neither any more); `net` where there is none."""
    gelus = [o for o in net.operations if type(o).__name__ == "Gelu"]
    tanh = {id(o.input) for o in gelus if o.approximate}
    split = {o.name for o in gelus if not o.approximate and id(o.input) in tanh}
    if not split and not any(type(o).__name__ == "Erf" for o in net.operations):
        return net
    ops = keras().ops

    def call(operation: Any, *args: Any, **options: Any) -> Any:
        if type(operation).__name__ == "Erf":
            return erf(*args)
        if operation.name in split:
            (x,) = args
            return ops.multiply(ops.multiply(x, 0.5), ops.add(erf(ops.multiply(x, 0.5**0.5)), 1.0))
        return operation(*args, **options)

    def copy(operation: Any) -> Any:
        return type(operation).from_config(operation.get_config())

    with deep():
        clone = keras().models.clone_model(net, clone_function=copy, call_function=call)
    clone.set_weights(net.get_weights())
    return clone


__all__ = ["erf", "without_erf"]
