"""Every pass of patterns.py: what exporters write out becomes one operator that computes the same; near misses stay.

The oracle is ONNX Runtime on the graph as it was written (the proof of every import); tolerance: float32 rounding, and
that of E[x^2] - E[x]^2, which flax computes where Keras takes the mean of squared deviations.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.converters._source import Source
from edgedl.converters.from_onnx import from_source
from edgedl.converters.from_onnx.patterns import PASSES, applied
from edgedl.converters.from_onnx.rewriting import Rewriter, becomes, rewrite
from edgedl.model import LoadOptions

onnx = pytest.importorskip("onnx", reason="needs pip install 'edgedl[onnx]'")
pytest.importorskip("onnxruntime")

CLOSE = 1e-5


def model(body: str, shape: str = "N,4,6", opset: int = 13, out: str = "y", **constants: Any) -> Any:
    """A model of one float input x from the nodes in onnx's own text form; `constants` by name."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{shape}] x) => (float {out}) {{ {body} }}'
    made = onnx.parser.parse_model(text)
    made.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(v, np.int64 if np.asarray(v).dtype.kind == "i" else np.float32), k)
        for k, v in constants.items()
    )
    for output in made.graph.output:
        output.type.tensor_type.ClearField("shape")
    return made


def ops(proto: Any) -> Counter[str]:
    return Counter(n.op_type for n in proto.graph.node)


def vector(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0.5, 1.5, n).astype(np.float32)


NORM = "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) "
LAYER_NORM = NORM + "q = Pow(d, two) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) s = Sqrt(e) "
GELU = "a = Div(x, r) e = Erf(a) p = Add(e, one) "
N6 = {"g": vector(6), "b": vector(6, 1), "two": 2.0, "eps": 1e-5}
BY_TWO = {"zero": [0], "all": [2**31 - 1], "high": [2], "wide": [3], "two": [2]}
CASES: dict[str, tuple[Any, dict[str, int]]] = {
    "softplus": (model("e = Exp(x) p = Add(e, one) y = Log(p)", one=1.0), {"Softplus": 1}),
    "mish": (model("e = Exp(x) p = Add(one, e) l = Log(p) t = Tanh(l) y = Mul(x, t)", one=1.0), {"Mish": 1}),
    "silu": (model("s = Sigmoid(x) y = Mul(s, x)"), {"Swish": 1}),
    "hard_swish": (
        model("a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)", three=3.0, zero=0.0, six=6.0),
        {"HardSwish": 1},
    ),
    "hard_swish_11": (
        model("a = Add(x, three) c = Clip<min=0.0, max=6.0>(a) m = Div(c, six) y = Mul(x, m)", opset=10, three=3.0, six=6.0),
        {"HardSwish": 1},
    ),
    "hard_swish_of_sigmoid": (
        model("h = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(h, x)"), {"HardSwish": 1},
    ),
    "hard_sigmoid": (
        model("a = Mul(x, c) d = Add(a, half) y = Clip(d, zero, one)", c=1 / 6, half=0.5, zero=0.0, one=1.0),
        {"HardSigmoid": 1},
    ),
    "gelu_erf": (model(GELU + "m = Mul(x, p) y = Mul(m, h)", r=2**0.5, one=1.0, h=0.5), {"Gelu": 1}),
    "gelu_erf_halved_first": (model(GELU + "m = Mul(h, x) y = Mul(m, p)", r=2**0.5, one=1.0, h=0.5), {"Gelu": 1}),
    "gelu_tanh": (
        model(
            "c = Pow(x, three) k = Mul(c, a) i = Add(x, k) j = Mul(r, i) t = Tanh(j) p = Add(t, one) m = Mul(x, p)"
            "y = Mul(h, m)", three=3.0, a=0.044715, r=(2 / np.pi) ** 0.5, one=1.0, h=0.5,
        ),
        {"Gelu": 1},
    ),
    "gelu_flax": (
        model(
            "k = Mul(a, x) c = Mul(x, k) d = Mul(x, c) i = Add(x, d) j = Mul(r, i) t = Tanh(j) p = Add(one, t)"
            "m = Mul(h, p) y = Mul(x, m)", a=0.044715, r=(2 / np.pi) ** 0.5, one=[[[1.0]]], h=0.5,
        ),
        {"Gelu": 1},
    ),
    "leaky_relu": (model("m = Mul(x, a) y = Max(x, m)", a=0.2), {"LeakyRelu": 1}),
    "prelu_sub": (model("p = Relu(x) n = Neg(x) r = Relu(n) m = Mul(a, r) y = Sub(p, m)", a=vector(4)[:, None]), {"PRelu": 1}),
    "prelu_add": (model("p = Relu(x) n = Neg(x) r = Relu(n) m = Mul(a, r) y = Add(p, m)", a=-vector(4)[:, None]), {"PRelu": 1}),
    "relu_min": (model("r = Relu(x) y = Min(r, six)", six=6.0), {"Clip": 1}),
    "min_max": (model("r = Max(x, low) y = Min(r, high)", low=-0.5, high=0.75), {"Clip": 1}),
    "layer_norm": (model(LAYER_NORM + "n = Div(d, s) o = Mul(n, g) y = Add(o, b)", **N6), {"LayerNormalization": 1}),
    "layer_norm_without_bias": (model(LAYER_NORM + "n = Div(d, s) y = Mul(g, n)", **N6), {"LayerNormalization": 1}),
    "layer_norm_plain": (model(LAYER_NORM + "y = Div(d, s)", **N6), {"LayerNormalization": 1}),
    "layer_norm_inverse": (
        model(LAYER_NORM + "i = Reciprocal(s) j = Mul(i, g) n = Mul(d, j) y = Add(n, b)", **N6), {"LayerNormalization": 1},
    ),
    "keras_norm": (
        model(
            LAYER_NORM + "i = Reciprocal(s) j = Mul(i, g) n = Mul(x, j) k = Mul(m, j) l = Sub(b, k) y = Add(n, l)", **N6
        ),
        {"LayerNormalization": 1},
    ),
    "flax_norm": (
        model(
            "t = ReduceSum<keepdims=0>(x, over) m = Mul(t, n) xx = Mul(x, x) u = ReduceSum<keepdims=0>(xx, over)"
            "w = Mul(u, n) mm = Mul(m, m) v0 = Sub(w, mm) v1 = Max(zero, v0) v = Reshape(v1, to) e = Add(v, eps)"
            "s = Sqrt(e) i = Reciprocal(s) j = Mul(i, g) k = Reshape(m, to) d = Sub(x, k) o = Mul(d, j) y = Add(o, b)",
            over=[1], n=1 / 4, zero=0.0, to=[-1, 1, 6], eps=1e-6, g=vector(4)[None, :, None], b=vector(4, 1)[None, :, None],
        ),
        {"LayerNormalization": 1, "Transpose": 2},
    ),
    "rms_norm": (
        model("q = Mul(x, x) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) s = Sqrt(e) i = Div(one, s) n = Mul(x, i)"
              "y = Mul(n, g)", one=1.0, eps=1e-5, g=vector(6)),
        {"RMSNormalization": 1},
    ),
    "l2_norm": (
        model("l = ReduceL2<axes=[-1]>(x) c = Clip(l, eps) s = Shape(x) e = Expand(c, s) y = Div(x, e)", eps=1e-12),
        {"LpNormalization": 1},
    ),
    "group_norm": (
        model("r = Reshape(x, to) n = InstanceNormalization(r, one, zero) s = Shape(x) u = Reshape(n, s) m = Mul(u, g)"
              "y = Add(m, b)", to=[0, 2, -1], one=[1.0, 1.0], zero=[0.0, 0.0], g=vector(4)[:, None], b=vector(4, 1)[:, None]),
        {"GroupNormalization": 1},
    ),
    "bias_of_conv": (
        model("c = Conv(x, w) y = Add(c, b)", w=vector(60).reshape(5, 4, 3), b=vector(5)[:, None]), {"Conv": 1},
    ),
    "bias_of_transposed_conv": (
        model("c = ConvTranspose(x, w) y = Add(b, c)", w=vector(60).reshape(4, 5, 3), b=vector(5)[None, :, None]),
        {"ConvTranspose": 1},
    ),
    "bias_of_product": (model("c = MatMul(x, w) y = Add(c, b)", w=vector(30).reshape(6, 5), b=vector(5)), {"Dense": 1}),
    "bias_of_product_of_rank_3": (
        model("c = MatMul(x, w) y = Add(c, b)", w=vector(30).reshape(6, 5), b=vector(5)[None, None]), {"Dense": 1},
    ),
    "slices": (
        model("s = Slice(x, zero, all, high, two) y = Slice(s, zero, all, wide, two)", "N,4,6,5", **BY_TWO), {"Slice": 1},
    ),
    "bias_of_gemm": (
        model("c = Gemm<alpha=0.5, transB=1>(x, w) y = Add(c, b)", "N,6", w=vector(30).reshape(5, 6), b=vector(5)),
        {"Gemm": 1},
    ),
}  # fmt: skip
ALONE: dict[str, Any] = {
    "an erf of something else": model(GELU + "m = Mul(x, p) y = Mul(m, h)", r=2.0, one=1.0, h=0.5),
    "not half": model(GELU + "m = Mul(x, p) y = Mul(m, h)", r=2**0.5, one=1.0, h=0.7),
    "an inner value that is an output": model("s = Sigmoid(x) y = Mul(s, x)", out="s, float y"),
    "an inner value that is read elsewhere": model("e = Exp(x) p = Add(e, one) l = Log(p) y = Add(p, l)", one=1.0),
    "two axes": model(
        "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Pow(d, two) v = ReduceMean<axes=[1]>(q) e = Add(v, eps) s = Sqrt(e)"
        "y = Div(d, s)", two=2.0, eps=1e-5,
    ),
    "a slope above one": model("m = Mul(x, a) y = Max(x, m)", a=1.5),
    "scale and shift that are no BatchNormalization": model("m = Mul(x, a) y = Add(m, b)", a=vector(4)[:, None], b=vector(4)[:, None]),
    "a bias for each position": model("c = Conv(x, w) y = Add(c, b)", w=vector(60).reshape(5, 4, 3), b=vector(4)),
    "a product read twice": model("c = MatMul(x, w) d = Add(c, b) y = Mul(c, d)", w=vector(30).reshape(6, 5), b=vector(5)),
    "slices by different steps": model(
        "s = Slice(x, zero, all, high, two) y = Slice(s, zero, all, wide, three)", "N,4,6,5", three=[3], **BY_TWO,
    ),
    "slices from the second on": model(
        "s = Slice(x, one, all, high, two) y = Slice(s, zero, all, wide, two)", "N,4,6,5", one=[1], **BY_TWO,
    ),
    "slices of one axis": model(
        "s = Slice(x, zero, all, high, two) y = Slice(s, zero, all, high, two)", "N,4,6,5", **BY_TWO,
    ),
    "a slice read twice": model(
        "s = Slice(x, zero, all, high, two) y = Slice(s, zero, all, wide, two)", "N,4,6,5", out="s, float y", **BY_TWO,
    ),
    "a bias that adds a dimension": model("c = MatMul(x, w) y = Add(c, b)", "N,6", w=vector(30).reshape(6, 5), b=vector(5)[None, None]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_a_pattern_becomes_one_operator_that_computes_the_same(name: str) -> None:
    proto, wanted = CASES[name]
    made = applied(proto)
    assert dict(ops(made)) == wanted
    assert [o.name for o in made.graph.output] == [o.name for o in proto.graph.output]
    found = from_source(Source(proto, "a test"), Path(f"{name}.onnx"), LoadOptions(form="keras"))
    assert found.inputs[0].shape[0] is None
    assert max(e["max_relative"] for e in found.proof) <= CLOSE


def attention(
    scale: float = 3**-0.5,
    mask: str = "",
    key: str = "t = Transpose<perm=[0,2,1,3]>(k1) kt = Transpose<perm=[0,1,3,2]>(t)",
) -> Any:
    """Two heads of three on a sequence of five, the projections apart."""
    rng = np.random.default_rng(1)
    kernels = {f"w{n}": rng.normal(0, 0.5, (6, 6)) for n in "qkvo"} | {f"b{n}": rng.normal(0, 0.5, 6) for n in "qkvo"}
    body = "".join(f"{n}m = MatMul(x, w{n}) {n}0 = Add({n}m, b{n}) {n}1 = Reshape({n}0, split) " for n in "qkv")
    body += (
        f"q = Transpose<perm=[0,2,1,3]>(q1) {key} v = Transpose<perm=[0,2,1,3]>(v1) s0 = MatMul(q, kt) s1 = Mul(s0, c)"
    )
    body += f"{mask} p = Softmax<axis=-1>({'s' if mask else 's1'}) a = MatMul(p, v)"
    body += "j = Transpose<perm=[0,2,1,3]>(a) r = Reshape(j, joined) om = MatMul(r, wo) y = Add(om, bo)"
    more = {"m": np.triu(np.full((5, 5), -1e4), 1)} if mask else {}
    return model(body, "N,5,6", split=[0, 0, 2, 3], joined=[0, 0, 6], c=scale, **kernels, **more)


@pytest.mark.parametrize(
    "proto",
    [
        attention(), attention(key="kt = Transpose<perm=[0,2,3,1]>(k1)"), attention(0.5), attention(mask="s = Add(s1, m)"),
    ],
    ids=["in two steps", "in one step", "another scale", "a causal mask"],
)  # fmt: skip
def test_attention_becomes_one_layer(proto: Any) -> None:
    assert dict(ops(applied(proto))) == {"MultiHeadAttention": 1}
    assert ops(applied(proto, without=("attention",)))["Dense"] == 4
    found = from_source(Source(proto, "a test"), Path("attention.onnx"), LoadOptions(form="keras"))
    (layer,) = [x for x in found.net.layers if x.weights]
    assert (type(layer).__name__, layer.num_heads, layer.key_dim) == ("MultiHeadAttention", 2, 3)
    assert max(e["max_relative"] for e in found.proof) <= CLOSE


@pytest.mark.parametrize(
    "proto",
    [
        attention(mask="h = Mul(m, half) s = Add(s1, h)"),
        attention(mask="s = Mul(s1, m)"),
        attention(mask="s = Add(s1, v)"),
    ],
    ids=["a mask that is computed", "a mask that is no mask", "scores that are shifted"],
)
def test_attention_of_another_kind_stays_operators_and_computes_the_same(proto: Any) -> None:
    assert ops(applied(proto))["Softmax"] == 1


SHUFFLES = {
    "in one": 'y = DepthToSpace<blocksize=2, mode="CRD">(a)',
    "written out": "r = Reshape(a, parts) t = Transpose<perm=[0,1,4,2,5,3]>(r) y = Reshape(t, whole)",
}


def shuffled(how: str, between: str = "a = Tanh(c)", **more: Any) -> Any:
    """A convolution to twelve channels, whose pixels are shuffled."""
    sizes = {"parts": [-1, 3, 2, 2, 3, 5], "whole": [-1, 3, 6, 10]}
    weights = {"w": vector(12 * 36).reshape(12, 4, 3, 3), "b": vector(12, 1)}
    return model(
        f"c = Conv<pads=[1,1,1,1]>(x, w, b) {between} {SHUFFLES[how]}",
        "N,4,3,5", **sizes, **weights, **more,
    )  # fmt: skip


@pytest.mark.parametrize("how", list(SHUFFLES))
@pytest.mark.parametrize("between", ["a = Tanh(c)", "a = Identity(c)", "t0 = Relu(c) a = LeakyRelu(t0)"])
def test_shuffled_pixels_are_depth_to_space(how: str, between: str) -> None:
    proto = shuffled(how, between)
    assert [n.op_type for n in applied(proto).graph.node if n.domain == "edgedl"] == ["Conv"]
    found = from_source(Source(proto, "a test"), Path("m.onnx"), LoadOptions(form="keras"))
    kinds = Counter(type(o).__name__ for o in found.net.operations)
    assert kinds["DepthToSpace"] == (how == "in one")  # else the output is asked for as the model has it
    assert kinds["Transpose"] == (how != "in one")
    assert max(e["max_relative"] for e in found.proof) <= CLOSE


@pytest.mark.parametrize(
    "between", ["a = Add(c, v)", "a0 = Tanh(c) a = Mul(a0, c)"], ids=["of another order", "read twice"]
)
def test_shuffled_pixels_whose_channels_are_read_otherwise_stay(between: str) -> None:
    proto = shuffled("in one", between, v=vector(12, 2)[:, None, None])
    made = applied(proto, without=("bias_of_conv",))
    assert not [n for n in made.graph.node if n.domain == "edgedl"]
    found = from_source(Source(proto, "a test"), Path("m.onnx"), LoadOptions(form="keras"))
    assert max(e["max_relative"] for e in found.proof) <= CLOSE


THIN = {
    "in one": "y = Slice(r, zeros, alls, both, twos)",
    "by one axis, then the other": "s = Slice(r, zero, all, high, two) y = Slice(s, zero, all, wide, two)",
    "up to the length": "y = Slice(r, zeros, size, both, twos)",
    "from behind": "y = Slice(r, zeros, alls, back, twos)",
}
THICK = {
    "from the second row on": "y = Slice(r, later, alls, both, twos)",
    "not to the end": "y = Slice(r, zeros, short, both, twos)",
    "by different steps": "y = Slice(r, zeros, alls, both, steps)",
    "backwards": "y = Slice(r, alls, lows, both, backs)",
    "of rows alone": "y = Slice(r, zero, all, high, two)",
    "of channels too": "y = Slice(r, zeros, alls, other, twos)",
    "by more than there are": "y = Slice(r, zeros, alls, both, nines)",
}


def every_second(how: str, size: tuple[int, int], step: int = 2) -> Any:
    """A convolution, and every second of its pixels."""
    more = {
        "zeros": [0, 0], "alls": [2**31 - 1] * 2, "both": [2, 3], "twos": [step] * 2, "size": list(size), "back": [-1, -2],
        "later": [1, 0], "short": [size[0] - 2, 99], "steps": [2, 3], "lows": [-99, -99], "backs": [-2, -2],
        "other": [1, 2], "nines": [9, 9], "w": vector(2 * 36).reshape(2, 4, 3, 3), **BY_TWO, "two": [step],
    }  # fmt: skip
    return model(
        f"c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) {how}", f"N,4,{size[0]},{size[1]}", **more,
    )  # fmt: skip


@pytest.mark.parametrize("how", list(THIN))
@pytest.mark.parametrize(("size", "step"), [((6, 8), 2), ((7, 5), 2), ((7, 8), 3)])
def test_every_second_pixel_is_a_pooling_of_single_pixels(how: str, size: tuple[int, int], step: int) -> None:
    proto = every_second(THIN[how], size, step)
    proto.graph.node[-1].name = "shortcut/Slice"
    found = from_source(Source(proto, "a test"), Path("m.onnx"), LoadOptions(form="keras"))
    kinds = {o.name: type(o).__name__ for o in found.net.operations}
    assert kinds["shortcut_Slice"] == "MaxPooling2D"
    assert "GetItem" not in kinds.values()
    assert max(e["max_relative"] for e in found.proof) <= CLOSE
    import onnxruntime

    x = np.random.default_rng(0).normal(size=(3, 4, *size)).astype(np.float32)
    wanted = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    ours = np.asarray(found.net(x if found.net.inputs[0].shape[1] == 4 else x.transpose(0, 2, 3, 1)))
    ours = ours if ours.shape == wanted.shape else ours.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", list(THICK))
def test_other_slices_of_pixels_stay_slices(how: str) -> None:
    proto = every_second(THICK[how], (7, 8))
    found = from_source(Source(proto, "a test"), Path("m.onnx"), LoadOptions(form="keras"))
    kinds = Counter(type(o).__name__ for o in found.net.operations)
    assert kinds["MaxPooling2D"] == 0
    assert kinds["GetItem"]
    assert max(e["max_relative"] for e in found.proof) <= CLOSE


def test_values_whose_channels_lie_otherwise_are_still_compared() -> None:
    from edgedl.converters.from_onnx import proof, rebuilt

    source = Source(shuffled("in one"), "a test")
    graph, imported = rebuilt(source, Path("m.onnx"), LoadOptions(form="keras"))
    assert {"c", "a", "y"} <= set(imported.values)
    assert proof.first_difference(source.proto, graph, imported, proof.generated(graph, 2)) is None


def test_a_pass_that_were_wrong_would_be_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = (("wrong", rewrite(("Sigmoid", "x"), becomes("Tanh", "x"))),)
    monkeypatch.setattr("edgedl.converters.from_onnx.patterns.PASSES", wrong)
    found = from_source(Source(model("y = Sigmoid(x)"), "a test"), Path("m.onnx"), LoadOptions(form="keras"))
    assert max(e["max_relative"] for e in found.proof) <= CLOSE


@pytest.mark.parametrize("name", list(ALONE))
def test_what_only_looks_like_a_pattern_stays(name: str) -> None:
    proto = ALONE[name]
    assert applied(proto) is proto


def test_every_pass_has_a_case() -> None:
    seen = set()
    for proto in (*(proto for proto, _ in CASES.values()), attention(), shuffled("in one")):
        g = Rewriter.of(proto)
        for name, run in PASSES:
            before = g.changed
            run(g)
            seen |= {name} if g.changed != before else set()
    # those of flax without bias or scale are made of the same parts
    assert {name for name, _ in PASSES} - seen <= {"flax_norm", "flax_norm_scale"}


def test_a_rewritten_node_keeps_its_name_and_its_output() -> None:
    proto, _ = CASES["bias_of_product"]
    proto.graph.node[0].name = "head/MatMul"
    made = applied(proto)
    assert [(n.name, list(n.output)) for n in made.graph.node] == [("head/MatMul", ["y"])]
    model = from_source(Source(proto, "a test"), Path("m.onnx"), LoadOptions(form="keras"))
    assert [layer.name for layer in model.net.layers if layer.weights] == ["head_MatMul"]


def test_the_original_is_left_as_it_was() -> None:
    proto, _ = CASES["layer_norm"]
    before = proto.SerializeToString(deterministic=True)
    applied(proto)
    assert proto.SerializeToString(deterministic=True) == before
