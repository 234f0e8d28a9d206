"""Which weights are kernels, how their axes lie, and what patterns of names choose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgedl.errors import ModelError, UsageError
from edgedl.stages.rebuilding import clone
from edgedl.stages.sparsity.alone import alone
from edgedl.stages.sparsity.kernels import kernels, select

pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")


def everything() -> Any:
    """One layer of each kind that has a kernel, in one graph."""
    from edgedl.frameworks import keras

    L = keras().layers
    ids = keras().Input((6,), dtype="int32", name="ids")
    x = L.Embedding(10, 8, name="words")(ids)
    x = L.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = L.Bidirectional(L.LSTM(5, return_sequences=True, name="lstm"), name="both")(x)
    x = L.GRU(6, return_sequences=True, name="gru")(x)
    x = L.TimeDistributed(L.Dense(4, name="inner"), name="each")(x)
    x = L.EinsumDense("abc,cd->abd", output_shape=(None, 6), name="einsum")(x)
    inner_in = keras().Input((6, 6))
    inner = keras().Model(inner_in, L.Conv1D(4, 3, name="conv")(inner_in), name="backbone")
    x = L.Reshape((4, 4, 1))(inner(x))
    x = L.Conv2DTranspose(3, 2, name="up")(x)
    x = L.DepthwiseConv2D(2, depth_multiplier=2, name="depth")(x)
    x = L.SeparableConv2D(5, 2, name="separable")(x)
    shared = L.Dense(5, name="shared")
    return keras().Model(ids, shared(shared(L.GlobalAveragePooling2D()(x))))


def test_every_kernel_is_found_once_with_its_role() -> None:
    found = {k.name: k.role for k in kernels(everything())}
    attention = {f"attention/{part}/kernel": "dense" for part in ("query", "key", "value", "attention_output")}
    assert found == {
        "words/embeddings": "embedding",
        **attention,
        "both/forward_lstm/kernel": "dense", "both/forward_lstm/recurrent_kernel": "dense",
        "both/backward_lstm/kernel": "dense", "both/backward_lstm/recurrent_kernel": "dense",
        "gru/kernel": "dense", "gru/recurrent_kernel": "dense",
        "each/inner/kernel": "dense", "einsum/kernel": "dense", "backbone/conv/kernel": "conv",
        "up/kernel": "conv", "depth/kernel": "depthwise",
        "separable/depthwise_kernel": "depthwise", "separable/pointwise_kernel": "conv",
        "shared/kernel": "dense",
    }  # fmt: skip


def test_a_clone_has_the_same_kernels_in_the_same_order() -> None:
    net = everything()
    for one, other in zip(kernels(net), kernels(clone(net)), strict=True):
        assert (one.name, one.axes) == (other.name, other.axes)
        np.testing.assert_array_equal(one.value(), other.value())
        assert one.variable is not other.variable


def test_rows_and_back_are_inverse_and_the_last_axis_is_what_is_summed() -> None:
    found = {k.name: k for k in kernels(everything())}
    for kernel in found.values():
        value = kernel.value()
        np.testing.assert_array_equal(kernel.back(kernel.rows(value)), value)
    sums = {"gru/kernel": 10, "backbone/conv/kernel": 6, "up/kernel": 1, "depth/kernel": 4, "einsum/kernel": 4}
    assert {name: found[name].rows(found[name].value()).shape[-1] for name in sums} == sums
    kernel = found["attention/attention_output/kernel"]  # [heads, key_dim, width]: heads and key_dim are summed
    assert kernel.rows(kernel.value()).shape == (1, 8, 8)
    conv = found["backbone/conv/kernel"]
    np.testing.assert_array_equal(conv.rows(conv.value())[1, 2], conv.value()[1, :, 2])


def test_what_is_left_alone_and_what_patterns_choose() -> None:
    net = everything()
    by_default = select(net, (), (), alone(net), "prune_weights")
    left = {k.name: why for k, why in by_default.left}
    assert left["words/embeddings"] == "an embedding"
    assert left["depth/kernel"] == "depthwise"
    assert {k.name for k in select(net, ("words",), (), alone(net), "x").chosen} == {"words/embeddings"}
    assert {k.name for k in select(net, ("*gru*",), ("gru/kernel",), {}, "x").chosen} == {"gru/recurrent_kernel"}
    assert {k.name for k in select(net, ("conv",), (), {}, "x").chosen} == {"backbone/conv/kernel"}
    assert len(select(net, ("*",), (), alone(net), "x").chosen) == len(kernels(net))


def test_where_the_rules_would_leave_nothing_they_are_not_heeded() -> None:
    from edgedl.frameworks import keras

    image = keras().Input((4, 4, 2))
    net = keras().Model(image, keras().layers.DepthwiseConv2D(2, name="depth")(image))
    assert alone(net) == {"depth/kernel": "depthwise"}
    assert [k.name for k in select(net, (), (), alone(net), "x").chosen] == ["depth/kernel"]


def test_patterns_and_networks_that_cannot_be_worked_on() -> None:
    from edgedl.frameworks import keras

    net = everything()
    with pytest.raises(UsageError, match="matches 'gruu' of include: did you mean 'gru'"):
        select(net, ("gruu",), (), {}, "x")
    with pytest.raises(UsageError, match="of exclude"):
        select(net, (), ("nothing*",), {}, "x")
    with pytest.raises(UsageError, match="leave no layer"):
        select(net, ("gru",), ("gru",), {}, "x")
    node = keras().Input((4,))
    with pytest.raises(ModelError, match="has none"):
        select(keras().Model(node, keras().layers.ReLU()(node), name="plain"), (), (), {}, "x")
    (kernel,) = [k for k in kernels(net) if k.name == "einsum/kernel"]
    kernel.assign(np.full(kernel.variable.shape, np.nan))
    with pytest.raises(ModelError, match="einsum/kernel are NaN"):
        select(net, (), (), {}, "x")
