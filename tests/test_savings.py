"""What stages bought: figures of files against other counts of them, verdicts, and a run that compares with the dense model."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.converters.footprint import footprint, peak
from edgedl.options import everything
from edgedl.recipe import from_table
from edgedl.savings import deflated, sized, weigh

ROOT = Path(__file__).parents[1]


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 6), min_size=1, max_size=2), st.integers(1, 50)), min_size=1, max_size=6)
)
def test_the_peak_is_what_an_arena_without_gaps_would_need(layers: list[tuple[list[int], int]]) -> None:
    """Against counting, at each operator, everything that is alive: read then or later, and made then or before."""
    ops, sizes = [], {"t0": 10}
    for i, (reads, size) in enumerate(layers):
        ops.append(([f"t{min(r, i)}" for r in reads], [f"t{i + 1}"]))
        sizes[f"t{i + 1}"] = size
    end = f"t{len(layers)}"
    wanted = 0
    for at in range(len(ops)):
        made = {"t0"} | {o for _, outs in ops[: at + 1] for o in outs}
        read = {i for ins, _ in ops[at:] for i in ins} | {end} | set(ops[at][1])
        used = {i for ins, _ in ops for i in ins} | {o for _, outs in ops for o in outs}
        wanted = max(wanted, sum(sizes[t] for t in made & read & used))
    assert peak(ops, [end], sizes) == wanted


def test_deflated_is_what_a_zip_holds(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(np.random.default_rng(0).integers(0, 3, 200_000, np.uint8).tobytes())
    with zipfile.ZipFile(io.BytesIO(), "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.write(path, "x")
        assert deflated(path) == archive.getinfo("x").compress_size


@pytest.mark.parametrize(
    ("before", "after", "gain", "verdict"),
    [
        (210, 100, True, "2.1× smaller"),
        (100, 100, False, "no gain here"),
        (100, 99.5, False, "no gain here"),
        (100, 130, False, "no gain here: 1.30× larger"),
        (0, 0, False, "no gain here"),
    ],
)
def test_verdicts_are_plain(before: float, after: float, gain: bool, verdict: str) -> None:
    found = sized(before, after, "larger", "smaller")
    assert (found["gain"], found["verdict"]) == (gain, verdict)


def dense_files(folder: Path) -> tuple[Path, Path]:
    """The same network as .tflite with weights as they are, and with nine of ten made zero."""
    from edgedl.frameworks import keras, tensorflow

    node = keras().Input((64,), batch_size=1, name="x")
    dense = (keras().layers.Dense(n, activation="relu", bias_initializer="ones") for n in (128, 32))
    inner, last = dense
    net = keras().Model(node, last(inner(node)))
    paths = []
    for share in (0.0, 0.9):
        rng = np.random.default_rng(1)
        net.set_weights([(w * (rng.random(w.shape) >= share)).astype(np.float32) for w in net.get_weights()])
        path = folder / f"{share}.tflite"
        path.write_bytes(tensorflow().lite.TFLiteConverter.from_keras_model(net).convert())
        paths.append(path)
    return paths[0], paths[1]


def test_zeros_shrink_the_zip_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")
    dense, sparse = (weigh(str(p)) for p in dense_files(tmp_path))
    count = 64 * 128 + 128 + 128 * 32 + 32
    assert 4 * count <= dense["constants"] <= 4 * count + 64  # and a shape or two
    assert dense["macs"] == 64 * 128 + 128 * 32
    assert dense["activations"] == 4 * (64 + 128)
    assert (sparse["bytes"], sparse["constants"]) == (dense["bytes"], dense["constants"])
    assert sparse["zip"] < dense["zip"] / 3


def test_constants_and_activations_as_the_interpreter_counts_them(tmp_path: Path) -> None:
    """Constants are the tensors whose values are there before anything was run (read by LiteRT itself)."""
    pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    path = dense_files(tmp_path)[0]
    found = footprint(path)
    quiet = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_op_resolver_type=quiet)
    sizes = {
        d["index"]: int(np.prod(d["shape"])) * np.dtype(d["dtype"]).itemsize for d in interpreter.get_tensor_details()
    }
    moving = {d["index"] for d in (*interpreter.get_input_details(), *interpreter.get_output_details())}
    moving |= {o for op in interpreter._get_ops_details() for o in op["outputs"]}
    assert found.constants == sum(size for i, size in sizes.items() if i not in moving)


def test_onnx_counts_fused_tensors_once(tmp_path: Path) -> None:
    """x -> Conv -> Relu -> QuantizeLinear -> DequantizeLinear -> y of 1x4x6x6: one int8 tensor leaves the convolution."""
    onnx = pytest.importorskip("onnx")
    h, FLOAT, INT8 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT8
    constants = [
        h.make_tensor("w", FLOAT, (4, 3, 1, 1), np.ones(12)),
        h.make_tensor("s", FLOAT, (), [0.1]),
        h.make_tensor("z", INT8, (), [0]),
    ]
    nodes = [
        h.make_node("Conv", ["x", "w"], ["c"]),
        h.make_node("Relu", ["c"], ["r"]),
        h.make_node("QuantizeLinear", ["r", "s", "z"], ["q"]),
        h.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        h.make_node("Sigmoid", ["d"], ["y"]),
    ]
    ends = [[h.make_tensor_value_info(name, FLOAT, (1, c, 6, 6))] for name, c in (("x", 3), ("y", 4))]
    model = h.make_model(h.make_graph(nodes, "g", *ends, constants), opset_imports=[h.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "m.onnx")
    found = footprint(tmp_path / "m.onnx")
    assert found.constants == 4 * 12 + 4 + 1
    assert found.activations == max(36 * (4 * 3 + 4), 36 * (4 + 4 * 4))  # conv: x and q; sigmoid: q and y


@pytest.fixture(scope="module")
def finished(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A run of low_rank and int8, not measured."""
    from edgedl.pipeline import run

    folder = tmp_path_factory.mktemp("savings")
    net, x, y = zoo("cnn")
    net.save(folder / "m.keras")
    np.savez(folder / "d.npz", x=x, y=y)
    table = {
        "model": str(folder / "m.keras"),
        "data": {"source": str(folder / "d.npz")},
        "stages": [{"stage": "low_rank", "energy": 0.8}, {"stage": "quantize", "samples": 32}],
        "exports": [{"format": "tflite"}],
        "limits": {"bench_seconds": 0, "faithfulness": False},
    }
    return run(from_table(table), folder / "out"), folder


def test_a_run_tells_what_its_stages_bought(finished: tuple[dict[str, Any], Path]) -> None:
    import jsonschema

    document, folder = finished
    (stage,) = document["stages"]
    record = stage["records"][-1]
    assert stage["stage"] == "low_rank"
    assert [document["model"]["macs"], stage["macs"]] == record["macs"]
    assert stage["metrics"].keys() == document["original"]["metrics"].keys()
    assert [(t["format"], t["scheme"]) for t in document["savings"]] == [
        ("tflite", "float32"), ("tflite", "int8"),
    ]  # fmt: skip
    sizes = {(e["format"], e["scheme"]): e["bytes"] for e in (*document["artifacts"], *document["baselines"])}
    for table in document["savings"]:
        rows = {row["what"]: row for row in table["rows"]}
        assert rows["file"]["after"] == sizes[table["format"], table["scheme"]]
        assert (rows["macs"]["before"], rows["macs"]["after"]) == tuple(record["macs"])
        assert rows["macs"]["gain"]
        assert "flash" in rows
    schema = json.loads((ROOT / "docs/schema/report.schema.json").read_text())
    jsonschema.validate(json.loads((folder / "out/report.json").read_text()), schema)
    page = (folder / "out/report.html").read_text()
    assert "What that bought" in page
    assert "conv2d_1" in page


def test_the_comparison_can_be_left_out_and_needs_stages_that_change(finished: tuple[dict[str, Any], Path]) -> None:
    from edgedl.pipeline import run

    document, folder = finished
    base = {
        "model": str(folder / "m.keras"),
        "data": {"source": str(folder / "d.npz")},
        "exports": [{"format": "tflite"}],
        "limits": {"bench_seconds": 0, "faithfulness": False, "compare_dense": False},
    }
    stages = [{"stage": "low_rank", "energy": 0.8}, {"stage": "quantize", "samples": 32}]
    without = run(from_table({**base, "stages": stages}), folder / "out")
    assert without["savings"] == []
    assert without["stages"][0]["records"] == document["stages"][0]["records"]
    limits = {"bench_seconds": 0, "faithfulness": False}
    plain = run(from_table({**base, "limits": limits, "stages": stages[1:]}), folder / "out")
    assert (plain["savings"], plain["stages"]) == ([], [])
    assert "compare_dense" in everything(from_table(base).limits)
