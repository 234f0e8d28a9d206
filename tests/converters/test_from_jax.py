"""JAX in: the graph of a traced function computes what jax computes; what does not fit is refused by name.

The oracle is jax itself; ONNX Runtime runs the graphs. Tolerance 1e-5 of the largest value: float32 sums in another
order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgedl.converters import _onnx, from_jax
from edgedl.errors import ModelError, UsageError
from edgedl.model import LoadOptions

jax = pytest.importorskip("jax", reason="needs pip install 'edgedl[jax]'")
pytest.importorskip("onnxruntime", reason="needs pip install 'edgedl[onnx]'")

jnp, lax = jax.numpy, jax.lax
pytestmark = pytest.mark.filterwarnings("ignore")
rng = np.random.default_rng(0)
W = {"a/w": rng.normal(size=(6, 4)).astype(np.float32), "a/b": rng.normal(size=4).astype(np.float32)}


def saved(
    function: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, shape: str, weights: Any = None
) -> tuple[Path, LoadOptions]:
    monkeypatch.setitem(sys.modules, "jax_net", ModuleType("jax_net"))
    sys.modules["jax_net"].build = lambda: function
    np.savez(folder / "w.npz", **(W if weights is None else weights))
    return folder / "w.npz", LoadOptions(module="jax_net:build", inputs={"x": shape})


CASES: dict[str, tuple[str, Callable[..., Any]]] = {
    "dense": ("1x6", lambda p, x: jax.nn.relu(x @ p["a"]["w"] + p["a"]["b"])),
    "softmax": ("1x5x6", lambda p, x: jax.nn.softmax(x @ p["a"]["w"], axis=1)),
    "norm": ("1x6", lambda p, x: (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-3)),
    "activations": ("1x6", lambda p, x: jax.nn.gelu(x) + jax.nn.silu(x) + jax.nn.elu(x) + jax.nn.softplus(x)),
    "more": ("1x6", lambda p, x: jnp.clip(x, -1, 1) ** 3 + jnp.where(x > 0, jnp.log1p(abs(x)), jnp.expm1(x)) + lax.erf(x)),
    "shapes": ("1x4x6", lambda p, x: jnp.concatenate([x.transpose(0, 2, 1).reshape(-1, 24), x[:, 1], x[:, 1:3, 1:3].reshape(-1, 4)], 1)),
    "reduce": ("1x4x6", lambda p, x: x.max(1) + x.sum(1) + jnp.cumsum(x, 1)[:, -1] + jnp.flip(x, 2).min(1)),
    "einsum": ("1x4x6", lambda p, x: jnp.einsum("bij,bkj->bik", x, x) @ jnp.ones((4, 2))),
    "pad": ("1x4x6", lambda p, x: jnp.pad(x, ((0, 0), (1, 2), (0, 0)))[:, -3:]),
    "broadcast": ("1x6", lambda p, x: jnp.zeros((x.shape[0], 3)) + x[:, :1] + jnp.arange(3.0)),
    "scan": ("1x5x6", lambda p, x: lax.scan(lambda c, t: (jnp.tanh(c + t @ p["a"]["w"]),) * 2, jnp.zeros((x.shape[0], 4)), x.transpose(1, 0, 2))[1]),
    "outputs": ("1x6", lambda p, x: {"b": x @ p["a"]["w"], "a": (x[:, 0], jnp.argmax(x, 1))}),
    "embedding": ("1x3:int32", lambda p, x: jnp.take(p["a"]["w"], x, axis=0)),
    "conv": ("1x8x8x3", lambda p, x: lax.conv_general_dilated(x, jnp.ones((3, 3, 1, 6)) * 0.1, (2, 1), "SAME", feature_group_count=3, dimension_numbers=("NHWC", "HWIO", "NHWC"))),
    "transposed": ("1x4x4x2", lambda p, x: lax.conv_transpose(x, jnp.arange(36.0).reshape(3, 3, 2, 2), (2, 2), "SAME")),
    "pool": ("1x8x8x3", lambda p, x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") + lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_functions(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shape, function = CASES[name]
    path, options = saved(function, monkeypatch, tmp_path, shape)
    source = from_jax.source(path, options)
    assert not source.notes
    dims, _, dtype = shape.partition(":")
    for batch in (1, 3):
        size = (batch, *map(int, dims.split("x")[1:]))
        x = rng.integers(0, 6, size).astype(np.int32) if dtype else rng.normal(size=size).astype(np.float32)
        theirs = jax.tree_util.tree_leaves(function({"a": {"w": W["a/w"], "b": W["a/b"]}}, x))
        ours = _onnx.session(source.proto).run(None, {"x": x})
        again = source.reference({"x": x})
        assert list(again) == [o.name for o in source.proto.graph.output]
        for expected, found, same in zip(theirs, ours, again.values(), strict=True):
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
            np.testing.assert_allclose(same, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_patterns_become_the_operators_they_mean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, op in (("dense", "Relu"), ("softmax", "Softmax"), ("pool", "AveragePool"), ("embedding", "Gather")):
        path, options = saved(CASES[name][1], monkeypatch, tmp_path, CASES[name][0])
        kinds = [n.op_type for n in from_jax.source(path, options).proto.graph.node]
        assert op in kinds
        assert not {"Exp", "Div", "Where"} & set(kinds)


def test_every_unknown_primitive_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, options = saved(
        lambda p, x: jnp.sort(x, 1) + lax.lgamma(x) + jnp.fft.fft(x).real, monkeypatch, tmp_path, "1x6"
    )
    with pytest.raises(ModelError) as caught:
        from_jax.source(path, options)
    for word in ("sort", "lgamma", "fft"):
        assert word in caught.value.message


def test_parameters_that_do_not_fit_are_named_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    template = {"a": {"w": np.zeros((6, 5)), "c": np.zeros(2)}}
    path, options = saved((lambda p, x: x, template), monkeypatch, tmp_path, "1x6")
    with pytest.raises(ModelError) as caught:
        from_jax.source(path, options)
    for word in ("missing: a/c", "unexpected: a/b", "a/w is (6, 4) and should be (6, 5)"):
        assert word in caught.value.message


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, options = saved(CASES["dense"][1], monkeypatch, tmp_path, "1x6")
    with pytest.raises(UsageError, match="no function"):
        from_jax.source(path, LoadOptions())
    with pytest.raises(UsageError) as caught:
        from_jax.source(path, LoadOptions(module=options.module))
    assert "--input x=" in caught.value.next
    with pytest.raises(ModelError, match="fails on inputs"):
        from_jax.source(path, LoadOptions(module=options.module, inputs={"x": "1x7"}))


def test_damaged_and_pickled_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, options = saved(CASES["dense"][1], monkeypatch, tmp_path, "1x6")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError):
        from_jax.source(path, options)
    np.savez(path, w=np.array([{"a": 1}], dtype=object))  # a pickle inside
    with pytest.raises(ModelError, match="not a sound"):
        from_jax.source(path, options)
    (tmp_path / "w.msgpack").write_bytes(b"\x81\xa1a\xc7\x04\x07abcd")  # an extension that is none of flax's
    pytest.importorskip("msgpack")
    with pytest.raises(ModelError, match="not a sound"):
        from_jax.source(tmp_path / "w.msgpack", options)


def test_flax(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nn = pytest.importorskip("flax.linen")
    from flax import serialization

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
            return nn.Dense(2)(nn.max_pool(x, (2, 2), (2, 2)).mean((1, 2)))

    variables = Net().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    monkeypatch.setitem(sys.modules, "flax_net", ModuleType("flax_net"))
    sys.modules["flax_net"].build = lambda: (Net().apply, variables)
    (tmp_path / "w.msgpack").write_bytes(serialization.to_bytes(variables))
    options = LoadOptions(module="flax_net:build", inputs={"": "1x8x8x3"})
    source = from_jax.source(tmp_path / "w.msgpack", options)
    x = rng.normal(size=(3, 8, 8, 3)).astype(np.float32)
    expected = Net().apply(variables, x)
    np.testing.assert_allclose(_onnx.session(source.proto).run(None, {"x": x})[0], expected, rtol=0, atol=1e-5)
    assert "BatchNormalization" in [n.op_type for n in source.proto.graph.node]
