"""Control flow and sequences, decided at import; ONNX Runtime and torch's own loops are the oracle (1e-5 of the largest)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("keras")

from edgedl.converters import _onnx  # noqa: E402
from edgedl.converters.from_onnx import proof  # noqa: E402
from edgedl.converters.from_onnx.build import build  # noqa: E402
from edgedl.converters.from_onnx.graph import prepared  # noqa: E402
from edgedl.errors import ModelError  # noqa: E402
from edgedl.model import LoadOptions  # noqa: E402

parse = onnx.parser.parse_model
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
TOLERANCE = 1e-5


def imported(text: str) -> Any:
    return build(prepared(parse(HEAD + text), LoadOptions(form="keras"), "test"), freed=False, name="model")


def agrees(text: str, **feed: Any) -> Any:
    """The rebuilt model, held to ONNX Runtime."""
    found = imported(text)
    session = _onnx.session(parse(HEAD + text), optimize=False)
    wanted = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))
    got = found.net([feed[i.name] for i in found.inputs], training=False)
    tensors = got if isinstance(got, list | tuple) else [got]
    for spec, tensor in zip(found.outputs, tensors, strict=True):
        array = np.asarray(tensor)
        order = found.layouts.get(spec.name)
        array = array if order is None else array.transpose(np.argsort(order))
        assert proof.difference(array, wanted[spec.name])[0] <= TOLERANCE, spec.name
    return found


def data(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def kinds(found: Any) -> list[str]:
    return [type(o).__name__ for o in found.net.operations if type(o).__name__ != "InputLayer"]


@pytest.mark.parametrize(("value", "kept"), [(1, "Exp"), (0, "Tanh")])
def test_if_with_a_constant_condition_keeps_one_branch(value: int, kept: str) -> None:
    text = f"""g (float[N, 4] x) => (float[N, 4] y) {{
        c = Constant <value_int = {value}> ()
        b = Cast <to = 9> (c)
        y = If (b) <then_branch = t () => (float[N, 4] p) {{ p = Exp (x) }}, else_branch = e () => (float[N, 4] q) {{ q = Tanh (x) }}>
    }}"""
    found = agrees(text, x=data(3, 4))
    assert kinds(found)[0] == ("Activation" if kept == "Tanh" else kept)
    assert len(kinds(found)) == 1


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_if_with_a_computed_condition_computes_both(sign: float) -> None:
    text = """g (float[3, 4] x, float[3, 4] z) => (float[3, 4] y) {
        s = ReduceSum <keepdims = 0> (z)
        zero = Constant <value_float = 0.0> ()
        b = Greater (s, zero)
        y = If (b) <then_branch = t () => (float[3, 4] p) { p = Mul (x, z) }, else_branch = e () => (float[3, 4] q) { q = Add (x, z) }>
    }"""
    agrees(text, x=data(3, 4), z=sign * np.abs(data(3, 4)))


def test_if_with_a_computed_condition_and_branches_of_two_shapes_is_refused() -> None:
    text = """g (float[3, 4] x) => (float[n, m] y) {
        s = ReduceSum <keepdims = 0> (x)
        zero = Constant <value_float = 0.0> ()
        b = Greater (s, zero)
        y = If (b) <then_branch = t () => (float[3, 4] p) { p = Identity (x) }, else_branch = e () => (float[4, 3] q) { q = Transpose (x) }>
    }"""
    with pytest.raises(ModelError, match=r"\(If\).*\[3, 4\].*\[4, 3\]"):
        imported(text)


LOOP = """g (float[N, 4] x) => (float[N, 4] y, float[5, N, 4] all) {
    n = Constant <value_int = 5> ()
    on = Constant <value = bool {1}> ()
    start = Constant <value_int = 1> ()
    k, y, all = Loop (n, on, start, x) <body = b (int64 i, bool c, int64 k0, float[N, 4] a) => (bool c2, int64 k1, float[N, 4] a1, float[N, 4] s) {
        c2 = Identity (c)
        one = Constant <value_int = 1> ()
        k1 = Add (k0, one)
        f = Cast <to = 1> (k1)
        m = Mul (a, f)
        a1 = Tanh (m)
        s = Add (a1, x)
    }>
}"""


def test_a_loop_is_unrolled_and_its_counter_is_folded() -> None:
    found = agrees(LOOP, x=data(2, 4))
    assert kinds(found).count("Activation") == 5
    assert "Cast" not in kinds(found)


def test_a_loop_ends_where_its_condition_does() -> None:
    text = """g (float[N, 4] x) => (float[N, 4] y) {
        on = Constant <value = bool {1}> ()
        start = Constant <value_int = 0> ()
        k, y = Loop (, on, start, x) <body = b (int64 i, bool c, int64 k0, float[N, 4] a) => (bool c2, int64 k1, float[N, 4] a1) {
            one = Constant <value_int = 1> ()
            four = Constant <value_int = 4> ()
            k1 = Add (k0, one)
            c2 = Less (k1, four)
            a1 = Exp (a)
        }>
    }"""
    found = imported(text)
    assert kinds(found).count("Exp") == 4


def test_loops_inside_of_loops_see_the_names_around_them() -> None:
    text = """g (float[N, 4] x) => (float[N, 4] y) {
        n = Constant <value_int = 3> ()
        on = Constant <value = bool {1}> ()
        y = Loop (n, on, x) <body = b (int64 i, bool c, float[N, 4] a) => (bool c2, float[N, 4] a1) {
            c2 = Identity (c)
            a1 = Loop (n, c, a) <body = d (int64 j, bool e, float[N, 4] u) => (bool e2, float[N, 4] u1) {
                e2 = Identity (e)
                s = Add (i, j)
                f = Cast <to = 1> (s)
                v = Mul (a, f)
                w = Add (u, v)
                u1 = Sub (w, x)
            }>
        }>
    }"""
    agrees(text, x=data(2, 4))


def test_scan_in_both_directions() -> None:
    text = """g (float[2, 3, 4] x, float[2, 4] h) => (float[2, 4] last, float[2, 3, 4] all) {
        last, all = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1], scan_output_axes = [1],
                          scan_output_directions = [1],
                          body = b (float[2, 4] a, float[2, 4] v) => (float[2, 4] a1, float[2, 4] o) {
            s = Add (a, v)
            a1 = Tanh (s)
            o = Mul (a1, v)
        }> (h, x)
    }"""
    agrees(text, x=data(2, 3, 4), h=data(2, 4))


def test_sequences_with_known_positions() -> None:
    text = """g (float[2, 6] x) => (float[2, 6] y, float[3, 2, 2] s, int64 n) {
        two = Constant <value_int = 2> ()
        last = Constant <value_int = -1> ()
        q = SplitToSequence <axis = 1> (x, two)
        e = SequenceAt (q, last)
        zero = Constant <value_int = 0> ()
        w = SequenceInsert (q, e, zero)
        r = SequenceErase (w)
        y = ConcatFromSequence <axis = 1> (r)
        s = ConcatFromSequence <axis = 0, new_axis = 1> (r)
        n = SequenceLength (w)
    }"""
    found = agrees(text.replace(", int64 n)", ")").replace("n = SequenceLength (w)", ""), x=data(2, 6))
    assert "Split" in kinds(found)


def test_a_sequence_carried_through_a_loop() -> None:
    text = """g (float[2, 4] x) => (float[2, 12] y) {
        n = Constant <value_int = 3> ()
        on = Constant <value = bool {1}> ()
        empty = SequenceEmpty ()
        q, z = Loop (n, on, empty, x) <body = b (int64 i, bool c, seq(float) p, float[2, 4] a) => (bool c2, seq(float) p1, float[2, 4] a1) {
            c2 = Identity (c)
            a1 = Exp (a)
            p1 = SequenceInsert (p, a)
        }>
        y = ConcatFromSequence <axis = 1> (q)
    }"""
    agrees(text, x=data(2, 4) * 0.1)


@pytest.mark.parametrize(
    ("count", "word"), [("int64[1] n", "must be constant"), ("1000", "256 steps"), ("9223372036854775807", "256 steps")]
)
def test_a_loop_without_a_known_end_is_refused_in_time(count: str, word: str) -> None:
    inputs = f", {count}" if count.endswith("n") else ""
    made = "" if inputs else f"n = Constant <value_int = {count}> ()"
    text = f"""g (float[N, 4] x{inputs}) => (float[N, 4] y) {{
        {made}
        on = Constant <value = bool {{1}}> ()
        y = Loop (n, on, x) <body = b (int64 i, bool c, float[N, 4] a) => (bool c2, float[N, 4] a1) {{
            c2 = Identity (c)
            a1 = Identity (a)
        }}>
    }}"""
    began = time.monotonic()
    with pytest.raises(ModelError, match=rf"\(Loop\).*{word}"):
        imported(text)
    assert time.monotonic() - began < 20


def test_nested_loops_do_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedl.converters.from_onnx import control

    monkeypatch.setattr(control, "MAX_MADE", 500)
    inner = "a1 = Identity (a)"
    for depth in range(3):
        inner = f"""a1 = Loop (n, on, a) <body = b{depth} (int64 i{depth}, bool c{depth}, float[N, 4] a) => (bool d{depth}, float[N, 4] a1) {{
            d{depth} = Identity (on)
            {inner}
        }}>"""
    text = f"""g (float[N, 4] a) => (float[N, 4] a1) {{
        n = Constant <value_int = 200> ()
        on = Constant <value = bool {{1}}> ()
        {inner}
    }}"""
    with pytest.raises(ModelError, match="more than 500 nodes"):
        imported(text)


def test_what_cannot_be_built_inside_is_named_all_at_once() -> None:
    text = """g (float[N, 4] x) => (float[N, 4] y) {
        n = Constant <value_int = 3> ()
        y = Loop (n, , x) <body = b (int64 i, bool c, float[N, 4] a) => (bool c2, float[N, 4] a1) {
            c2 = Identity (c)
            p = Unheard (a)
            q = Unknown (a)
            a1 = Add (p, q)
        }>
    }"""
    with pytest.raises(ModelError, match=r"\(Loop\) has in its body node 'p' \(Unheard\).*node 'q' \(Unknown\)"):
        imported(text)


def test_an_output_that_is_a_sequence_is_refused() -> None:
    with pytest.raises(ModelError, match="is a sequence"):
        imported("g (float[2, 4] x) => (seq(float) y) { y = SequenceConstruct (x, x) }")


def test_a_body_inside_of_a_loop_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a file could make the importer read a large body as often as its loops turn."""
    from edgedl.converters.from_onnx import control

    read: list[str] = []
    whole = control.Body.of.__func__

    def counted(cls: Any, node: Any, key: str) -> Any:
        read.append(node.op)
        return whole(cls, node, key)

    monkeypatch.setattr(control.Body, "of", classmethod(counted))
    text = """g (float[N, 4] x) => (float[N, 4] y) {
        n = Constant <value_int = 50> ()
        none = Constant <value_int = 0> ()
        on = Constant <value = bool {1}> ()
        y = Loop (n, on, x) <body = b (int64 i, bool c, float[N, 4] a) => (bool c2, float[N, 4] a1) {
            c2 = Identity (c)
            a1 = Loop (none, c, a) <body = d (int64 j, bool e, float[N, 4] u) => (bool e2, float[N, 4] u1) {
                e2 = Identity (e)
                u1 = Exp (u)
            }>
        }>
    }"""
    imported(text)
    assert read == ["Loop", "Loop"]
