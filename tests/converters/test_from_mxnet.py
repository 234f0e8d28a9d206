"""The MXNet importer: held to what MXNet 1.9.1 computed (tests/data/mxnet_goldens.npz), and to hostile files."""

from __future__ import annotations

import contextlib
import json
import re
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from edgedl.errors import EdgedlError, ModelError, UsageError
from edgedl.model import LoadOptions

pytest.importorskip("onnxruntime", reason="needs pip install 'edgedl[onnx]'")

from edgedl.converters import _onnx
from edgedl.converters.from_mxnet import source
from edgedl.converters.from_mxnet.files import read_params
from edgedl.converters.from_mxnet.ops import OPS, REFUSED

GOLDENS = np.load(Path(__file__).parents[1] / "data" / "mxnet_goldens.npz")
CASES = sorted({key.partition("/")[0] for key in GOLDENS.files if "/symbol" in key})


def run(proto: Any, **inputs: Any) -> list[Any]:
    return list(_onnx.session(proto).run(None, inputs))


def spec(shape: Any) -> str:
    return "x".join(map(str, shape))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", ["fixed", "open"])
def test_an_operator_computes_what_mxnet_does(case: str, batch: str, tmp_path: Path) -> None:
    """1e-5 of the largest value: float32 sums in another order."""
    (tmp_path / "m-symbol.json").write_bytes(GOLDENS[f"{case}/symbol"].tobytes())
    (tmp_path / "m-0001.params").write_bytes(GOLDENS[f"{case}/params"].tobytes())
    x = GOLDENS[f"x/{tuple(GOLDENS[f'{case}/shape'].tolist())}"]
    shape = spec(x.shape) if batch == "fixed" else spec(("?", *x.shape[1:]))
    found = run(source(tmp_path / "m-symbol.json", LoadOptions(inputs={"data": shape})).proto, data=x)
    wanted = [GOLDENS[key] for key in sorted(k for k in GOLDENS.files if k.startswith(f"{case}/y"))]
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert_allclose(a, b, rtol=0, atol=1e-5 * max(1.0, float(np.abs(b).max())))


# a writer of our own, for files that MXNet does not write any more or never wrote

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
KINDS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}


def array_bytes(a: Any, version: int) -> bytes:
    rank, wide = a.ndim, version != 0
    head = {0: b"", V1: struct.pack("<I", V1)}.get(version, struct.pack("<Ii", version, 0))
    shape = struct.pack(f"<I{rank}{'q' if wide else 'I'}", rank, *a.shape)
    return head + shape + struct.pack("<iii", 1, 0, KINDS[a.dtype.name]) + a.tobytes()


def params_bytes(arrays: dict[str, Any], version: int = V2) -> bytes:
    names = b"".join(struct.pack("<Q", len(n.encode())) + n.encode() for n in arrays)
    body = b"".join(array_bytes(a, version) for a in arrays.values())
    n = struct.pack("<Q", len(arrays))
    return struct.pack("<QQ", 0x112, 0) + n + body + n + names


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([0, V1, V2, V3]),
    st.lists(
        st.tuples(st.sampled_from(sorted(KINDS)), st.lists(st.integers(1, 5), min_size=1, max_size=4)),
        min_size=1, max_size=4,
    ),
)  # fmt: skip
def test_arrays_of_every_version_come_back(tmp_path_factory: Any, version: int, kinds: Any) -> None:
    arrays = {
        f"w{i}": (np.arange(np.prod(shape)) % 100).astype(kind).reshape(shape) for i, (kind, shape) in enumerate(kinds)
    }
    path = tmp_path_factory.mktemp("p") / "m-0000.params"
    path.write_bytes(
        params_bytes({f"{'aux' if i else 'arg'}:{k}": a for i, (k, a) in enumerate(arrays.items())}, version)
    )
    found = read_params(path)
    assert list(found) == list(arrays)
    for name, a in arrays.items():
        assert found[name].dtype == a.dtype
        assert_array_equal(found[name], a)


def null(name: str) -> dict[str, Any]:
    return {"op": "null", "name": name, "inputs": []}


def op(kind: str, name: str, inputs: Any, **attrs: str) -> dict[str, Any]:
    return {"op": kind, "name": name, "inputs": inputs, "attrs": attrs}


CONV = [
    null("data"),
    null("c_weight"),
    null("c_bias"),
    op("Convolution", "c", [[0, 0], [1, 0], [2, 0]], kernel="(3, 3)", num_filter="4"),
]
WEIGHTS = {
    "arg:c_weight": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32),
    "arg:c_bias": np.zeros(4, np.float32),
}


def save(folder: Path, nodes: Any = CONV, params: Any = WEIGHTS, heads: Any = None, stem: str = "m") -> Path:
    """Both files; `params` may be raw bytes. Returns the symbol's path."""
    symbol = folder / f"{stem}-symbol.json"
    symbol.write_text(json.dumps({"nodes": nodes, "arg_nodes": [], "heads": heads or [[len(nodes) - 1, 0]]}))
    data = params if isinstance(params, bytes) else params_bytes(params)
    (folder / f"{stem}-0001.params").write_bytes(data)
    return symbol


IMAGE = LoadOptions(inputs={"data": "?x3x8x8"})


def test_either_file_names_the_model_and_the_last_epoch_is_taken(tmp_path: Path) -> None:
    path = save(tmp_path)
    zero = {k: np.zeros_like(v) for k, v in WEIGHTS.items()}
    (tmp_path / "m-0012.params").write_bytes(params_bytes(zero))
    x = np.ones((1, 3, 8, 8), np.float32)
    last = source(path, IMAGE)
    assert not run(last.proto, data=x)[0].any()
    assert "m-0012.params, the last of 2" in last.notes[0]
    assert run(source(tmp_path / "m-0001.params", IMAGE).proto, data=x)[0].any()
    other = tmp_path / "elsewhere.params"
    other.write_bytes(params_bytes(WEIGHTS))
    chosen = source(path, LoadOptions(inputs={"data": "?x3x8x8"}, weights=str(other)))
    assert run(chosen.proto, data=x)[0].any()


def test_an_old_symbol_has_its_statistics_by_name(tmp_path: Path) -> None:
    """Before 0.9 a symbol lists no auxiliary states and calls its attributes `param`."""
    nodes = [null("data"), null("b_gamma"), null("b_beta")]
    nodes += [{"op": "BatchNorm", "name": "b", "inputs": [[0, 0], [1, 0], [2, 0]], "param": {"fix_gamma": "False"}}]
    values = {k: np.abs(np.random.default_rng(len(k)).normal(size=3)).astype(np.float32) for k in ["g", "b", "m", "v"]}
    names = ("arg:b_gamma", "arg:b_beta", "aux:b_moving_mean", "aux:b_moving_var")
    path = save(tmp_path, nodes, dict(zip(names, values.values(), strict=True)))
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32)
    g, b, m, v = (a[:, None, None] for a in values.values())
    found = run(source(path, LoadOptions(inputs={"data": "?x3x4x4"})).proto, data=x)[0]
    assert_allclose(found, (x - m) / np.sqrt(v + 1e-3) * g + b, atol=1e-5)


def test_an_output_can_be_any_node(tmp_path: Path) -> None:
    path = save(tmp_path, [*CONV, op("Activation", "r", [[3, 0]], act_type="relu"), op("NoSuch", "n", [[4, 0]])])
    proto = source(path, LoadOptions(inputs={"data": "?x3x8x8"}, end=("r_output",))).proto
    assert [o.name for o in proto.graph.output] == ["r_output"]


def test_an_input_can_be_any_node(tmp_path: Path) -> None:
    path = save(tmp_path, [*CONV, op("Activation", "r", [[3, 0]], act_type="relu")])
    for name in ("c", "c_output"):
        proto = source(path, LoadOptions(inputs={"data": "?x3x8x8"}, start=(name,))).proto
        assert [i.name for i in proto.graph.input] == ["c_output"]
        assert [n.op_type for n in proto.graph.node] == ["Relu"]


def test_a_missing_shape_is_asked_for_with_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say which shape its input 'data' has") as caught:
        source(save(tmp_path), LoadOptions())
    assert "--input data=?x3x224x224" in caught.value.next


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"data": "1x3xbx8y"}, "needs fixed sizes|no shape"),
        ({"data": "1x3x-8x8"}, "no shape"),
        ({"data": "1x3x8x8:complex64"}, "no type"),
        ({"data": "1x3x8x8", "other": "1"}, "no input 'other'"),
        ({"data": "1x5x8x8"}, "is 4x3x3x3, and 4x5x3x3 is needed"),
        ({"data": "1x3"}, "no spatial dimensions"),
        ({"data": "1x3x2x2"}, "too small"),
    ],
)
def test_an_impossible_input_is_refused(tmp_path: Path, inputs: dict[str, str], message: str) -> None:
    with pytest.raises(EdgedlError, match=message):
        source(save(tmp_path), LoadOptions(inputs=inputs))


def test_all_that_is_not_known_is_reported_at_once(tmp_path: Path) -> None:
    nodes = [
        *CONV,
        op("_contrib_box_nms", "nms", [[3, 0]]),
        op("Frobnicate", "f", [[4, 0]]),
        op("UpSampling", "up", [[3, 0]], sample_type="bilinear", scale="2"),
        op("Concat", "cat", [[5, 0], [6, 0]]),
    ]
    with pytest.raises(ModelError) as caught:
        source(save(tmp_path, nodes), IMAGE)
    for part in (
        "3 layers",
        "nms (_contrib_box_nms): non-maximum",
        "f (Frobnicate): this operator is not known",
        "up (UpSampling)",
    ):
        assert part in caught.value.message


GOOD = params_bytes(WEIGHTS)
HOSTILE_PARAMS = {
    "empty": b"",
    "no magic": b"\0" * 64,
    "count": struct.pack("<QQQ", 0x112, 0, 1 << 60),
    "many arrays": struct.pack("<QQQ", 0x112, 0, 99_999) + b"\0" * 64,
    "rank": struct.pack("<QQQI", 0x112, 0, 1, 1 << 31),
    "negative rank": struct.pack("<QQQIiii", 0x112, 0, 1, V2, 0, -5, 0),
    "huge shape": struct.pack("<QQQIiI2qiii", 0x112, 0, 1, V2, 0, 2, 1 << 40, 1 << 40, 1, 0, 0),
    "negative size": struct.pack("<QQQIiI2qiii", 0x112, 0, 1, V2, 0, 2, -1, 4, 1, 0, 0),
    "type": struct.pack("<QQQIiI1qiii", 0x112, 0, 1, V2, 0, 1, 1, 1, 0, 99) + b"\0" * 99,
    "sparse": struct.pack("<QQQIi", 0x112, 0, 1, V2, 1) + b"\0" * 99,
    "npz": b"PK\x03\x04" + b"\0" * 99,
    "more at the end": GOOD + b"\0",
    "names": GOOD[: -len("arg:c_bias") - 8] + struct.pack("<Q", 1 << 50) + b"arg:c_bias",
    "not text": GOOD.replace(b"arg:c_bias", b"\xff\xfe\xfd_bias!"[:10]),
    "other names": params_bytes({"arg:x": np.zeros(3, np.float32)}),
    "other shape": params_bytes({**WEIGHTS, "arg:c_bias": np.zeros(7, np.float32)}),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE_PARAMS))
def test_hostile_parameters_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ModelError):
        source(save(tmp_path, params=HOSTILE_PARAMS[kind]), IMAGE)


@pytest.mark.parametrize("size", range(0, len(GOOD), 17))
def test_cut_parameters_are_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ModelError):
        source(save(tmp_path, params=GOOD[:size]), IMAGE)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_damage_to_parameters_is_a_model_or_an_error(tmp_path_factory: Any, changes: Any) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    path = tmp_path_factory.mktemp("d") / "m.params"
    path.write_bytes(bytes(data))
    with contextlib.suppress(ModelError):
        assert all(isinstance(a, np.ndarray) for a in read_params(path).values())


NODES: dict[str, Any] = {
    "cycle": [null("data"), op("relu", "a", [[2, 0]]), op("relu", "b", [[1, 0]])],
    "itself": [null("data"), op("relu", "a", [[1, 0]])],
    "no such node": [null("data"), op("relu", "a", [[77, 0]])],
    "negative": [null("data"), op("relu", "a", [[-1, 0]])],
    "not a number": [null("data"), op("relu", "a", [["x", 0]])],
    "no inputs": [null("data"), op("relu", "a", [])],
    "too many": [null("data"), op("relu", "a", [[0, 0]] * 3)],
    "no such output": [null("data"), op("relu", "a", [[0, 0]]), op("relu", "b", [[1, 7]])],
    "no op": [{"name": "a", "inputs": []}],
    "name": [{"op": "null", "name": 7, "inputs": []}],
    "a list": [[[[]]]],
    "nothing": [],
    "code": [*CONV[:3], op("Convolution", "c", [[0, 0], [1, 0], [2, 0]], kernel="__import__('os')", num_filter="4")],
    "huge": [*CONV[:3], op("Convolution", "c", [[0, 0], [1, 0], [2, 0]], kernel="(3, 3)", num_filter="9" * 400)],
    "deep": [null("data"), op("transpose", "a", [[0, 0]], axes="(" * 5000)],
    **{
        f"value {i}": [null("data"), op("transpose", "a", [[0, 0]], axes=value)]
        for i, value in enumerate(
            ["-" * 1999 + "1", "1+" * 999 + "1", "[" * 999 + "]" * 999, "9" * 1999, "(" + "0," * 900 + ")", "a." * 999]
        )
    },
    "many outputs": [null("data"), op("split", "a", [[0, 0]], num_outputs="99999999")],
    "tile": [null("data"), *(op("tile", f"t{i}", [[i, 0]], reps="(1, 60000, 60000, 60000)") for i in range(3))],
    "memory": [null("data"), op("Pad", "p", [[0, 0]], pad_width="(0,0,0,0,0,65000,0,65000)", mode="constant")],
    "reshape": [null("data"), op("Reshape", "r", [[0, 0]], shape="(-4, -4, -4)")],
    "zero stride": [null("data"), op("Pooling", "p", [[0, 0]], kernel="(2, 2)", stride="(0, 0)", pool_type="max")],
    "only input": [null("data")],
}


@pytest.mark.parametrize("kind", sorted(NODES))
def test_hostile_symbols_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(EdgedlError):
        source(save(tmp_path, NODES[kind]), IMAGE)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"nodes": 5, "heads": 1}', b"[" * 100_000, b"\xff\xfe", b"null"]
)
def test_what_is_no_symbol_is_refused(tmp_path: Path, content: bytes) -> None:
    path = save(tmp_path)
    path.write_bytes(content)
    with pytest.raises(ModelError):
        source(path, IMAGE)


JUNK = st.sampled_from(
    ["", "None", "True", "0", "-1", "1", "3", "99", "-99", "1e9", "nan", "inf", "1e-3", "()", "(0,)", "(1, 1)", "(-1, 2)", "(None, 'a')", "('a', 1)", "(1.5, 2)", "(0, 0, 0, 0)", "(1, 2, 3, 4, 5)", "((1,), 2)", "{}", "relu", "99999999999"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(case=st.sampled_from(CASES), values=st.lists(st.tuples(st.integers(0, 99), JUNK), min_size=1, max_size=3))
def test_any_parameter_is_a_model_or_an_error(tmp_path_factory: Any, case: str, values: Any) -> None:
    symbol = json.loads(GOLDENS[f"{case}/symbol"].tobytes())
    places = [(n, key) for n in symbol["nodes"] for key in n.get("attrs", {}) if n["op"] != "null"]
    for at, value in values if places else []:
        node, key = places[at % len(places)]
        node["attrs"][key] = value
    folder = tmp_path_factory.mktemp("j")
    (folder / "m-symbol.json").write_text(json.dumps(symbol))
    (folder / "m-0001.params").write_bytes(GOLDENS[f"{case}/params"].tobytes())
    shape = spec(GOLDENS[f"{case}/shape"].tolist())
    with contextlib.suppress(EdgedlError):
        assert source(folder / "m-symbol.json", LoadOptions(inputs={"data": shape})).proto.graph.node


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    path = save(tmp_path)
    (tmp_path / "m-0001.params").unlink()
    with pytest.raises(ModelError, match=r"needs its other half beside it, such as m-0000\.params"):
        source(path, IMAGE)


def test_time_grows_linearly_with_the_nodes(tmp_path: Path) -> None:
    """2,000 nodes in less than five times the time of 500 (four times, and the noise of the machine)."""

    def seconds(n: int) -> float:
        nodes = [null("data"), *(op("relu", f"r{i}", [[i, 0]]) for i in range(n))]
        path = save(tmp_path, nodes, WEIGHTS, stem=f"m{n}")
        started = time.perf_counter()
        source(path, IMAGE)
        return time.perf_counter() - started

    seconds(10)
    assert seconds(2000) < 5 * 1.5 * seconds(500) + 0.2


def test_the_page_lists_every_operator() -> None:
    page = (Path(__file__).parents[2] / "docs/importers/mxnet.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(OPS)
    refused = page[page.index("Refused, with the reason:") :].partition("All ")[0]
    assert sorted(re.findall(r"`(\w+)`", refused)) == sorted(REFUSED)


def test_what_old_files_say_otherwise(tmp_path: Path) -> None:
    """`mshadow_op.h`: rint takes a half down; `DeconvolutionParam::InferPad`: a target_shape of zeros is none."""
    x = np.float32([[-1.5, -0.5, 0.5, 1.5, 2.5, 1.2]])
    path = save(tmp_path, [null("data"), op("rint", "r", [[0, 0, 0]])], {}, [[1, 0, 0]])
    (found,) = run(source(path, LoadOptions(inputs={"data": "1x6"})).proto, data=x)
    assert_allclose(found, [[-2, -1, 0, 1, 2, 1]])
    attrs = {"kernel": "(3, 3)", "num_filter": "2", "target_shape": "(0, 0)"}
    up = [null("data"), null("w"), op("Deconvolution", "d", [[0, 0, 0], [1, 0, 0]], **attrs)]
    path = save(tmp_path, up, {"arg:w": np.ones((1, 2, 3, 3), np.float32)}, [[2, 0, 0]])
    shape = source(path, LoadOptions(inputs={"data": "1x1x4x4"})).proto.graph.output[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [1, 2, 6, 6]
    up[2] = op(
        "Convolution", "d", [[0, 0, 0], [1, 0, 0]], kernel="(3, 3)", num_filter="2", num_group="0", no_bias="True"
    )
    with pytest.raises(ModelError, match="0 groups"):
        source(
            save(tmp_path, up, {"arg:w": np.ones((2, 1, 3, 3), np.float32)}, [[2, 0, 0]]),
            LoadOptions(inputs={"data": "1x1x4x4"}),
        )
