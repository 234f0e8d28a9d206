"""`edgedl import` and what it adds to the other commands: options, proof, layouts in and out, and hostile files."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import edgedl
from edgedl import comparing, frameworks, steps
from edgedl.artifact import TensorSpec
from edgedl.cli import run
from edgedl.data import DataOptions
from edgedl.data import load as load_data
from edgedl.engine import describe, predict
from edgedl.errors import EdgedlError, ModelError, UsageError, WorkerError
from edgedl.model import Model, QuantizationPlan, save_keras
from edgedl.registry import find
from edgedl.worker import GIB, Worker

onnx = pytest.importorskip("onnx", reason="needs pip install 'edgedl[onnx]'")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

make = onnx.helper.make_node


def saved(
    folder: Path, nodes: list[Any], inputs: Any, outputs: Any, weights: Any = (), name: str = "net.onnx", **more: Any
) -> Path:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [info(n, 1, s) for n, s in inputs], [info(n, 1, s) for n, s in outputs],
        [onnx.numpy_helper.from_array(np.asarray(w, np.float32), n) if not hasattr(w, "dims") else w for n, w in dict(weights).items()],
    )  # fmt: skip
    imports = [onnx.helper.make_opsetid("", 13), *(onnx.helper.make_opsetid(d, 1) for d in more.get("domains", ()))]
    (folder / name).write_bytes(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
    return folder / name


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A small image classifier and its feature map as PyTorch would export it: NCHW, names of any characters."""
    rng = np.random.default_rng(0)
    nodes = [
        make("Conv", ["in/x:0", "w1", "b1"], ["c"], "conv", pads=[1, 1, 1, 1]),
        make("Relu", ["c"], ["r"], "relu"),
        make("MaxPool", ["r"], ["map.0"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        make("GlobalAveragePool", ["map.0"], ["g"], "mean"),
        make("Flatten", ["g"], ["f"], "flatten"),
        make("Gemm", ["f", "w2", "b2"], ["logits"], "fc", transB=1),
    ]
    weights = {
        "w1": rng.normal(size=(6, 3, 3, 3)), "b1": rng.normal(size=6), "w2": rng.normal(size=(4, 6)), "b2": rng.normal(size=4),
    }  # fmt: skip
    return saved(
        tmp_path, nodes, [("in/x:0", ["n", 3, 8, 12])], [("map.0", ["n", 6, 4, 6]), ("logits", ["n", 4])], weights
    )


def test_import_writes_one_keras_file_with_proof(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net.keras"
    assert run(["import", str(net), "-o", str(out)]) == 0
    told = capsys.readouterr().out
    assert "in/x:0 ?x8x12x3 float32, ?x3x8x12 in the original" in told
    assert "map.0 " in told
    assert f"onnxruntime {ort.__version__}" in told
    assert run(["import", str(net), "-o", str(out)]) == 9
    assert "exists" in capsys.readouterr().err
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(2).normal(size=(20, 3, 8, 12)).astype(np.float32))
    assert run(["import", str(net), "-o", str(out), "--force", "--json", "--data", str(tmp_path / "d.npz")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [e["data"] for e in found["proof"]] == ["generated", "generated", "given", "given"]
    assert found["layouts"] == {"in/x:0": [0, 2, 3, 1], "map.0": [0, 2, 3, 1]}
    assert {e["output"] for e in found["proof"]} == {"map.0", "logits"}
    assert all(e["max_relative"] <= 1e-4 for e in found["proof"])
    model = edgedl.load(out)
    assert ([s.name for s in model.inputs], [s.name for s in model.outputs]) == (["in/x:0"], ["map.0", "logits"])
    assert model.proof == tuple(found["proof"])
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_an_onnx_goes_to_both_formats_and_its_arrays_fit(net: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 3, 8, 12)).astype(np.float32)
    session = ort.InferenceSession(str(net), providers=["CPUExecutionProvider"])
    y = session.run(["logits"], {"in/x:0": x})[0].argmax(1)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    data = ["--data", str(tmp_path / "d.npz"), "--set", "data.metric=logits:accuracy"]
    command = ["compress", str(net), *data, "-q", "int8", "-f", "tflite,onnx", "--set", "limits.bench_seconds=0.2"]
    assert (
        run([*command, "--input", "in/x:0=?x3x8x12", "--set", "tflite.keep_layout=true", "-o", str(tmp_path / "o")])
        == 0
    )
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert report["original"]["metrics"]["logits:accuracy"] == 1.0
    on_data = [e for e in report["model"]["proof"] if e["data"] == "given"]
    assert {e["output"] for e in on_data} == {"map.0", "logits"}
    assert all(e["inputs"] == 8 and e["max_relative"] <= 1e-5 for e in on_data)
    for entry in report["artifacts"]:
        artifact = describe(tmp_path / "o" / entry["path"])
        assert entry["metrics"]["logits:accuracy"] >= 0.9
        assert entry["transposes"] == (2 if entry["format"] == "tflite" else 0)
        assert artifact.inputs[0].shape[1:] == (3, 8, 12)
        assert [s.name for s in artifact.outputs] == ["map.0", "logits"]
        want = dict(zip(["map.0", "logits"], session.run(["map.0", "logits"], {"in/x:0": x}), strict=True))
        for name, found in predict(artifact, {"in/x:0": x}).items():
            assert abs(found - want[name]).mean() < 0.02 * abs(want[name]).max()  # int8, ranges from 8 samples
    assert f"onnxruntime {ort.__version__}" in (tmp_path / "o/report.html").read_text()
    files = [str(tmp_path / "o" / e["path"]) for e in report["artifacts"]]
    assert run(["bench", *files, "--json", "--max-seconds", "0.2", *data]) == 0


def test_a_direct_way_stays_direct(net: Path, tmp_path: Path) -> None:
    assert run(["convert", str(net), "-o", str(tmp_path / "same.onnx")]) == 0
    ops = [n.op_type for n in onnx.load(str(tmp_path / "same.onnx")).graph.node]
    assert ops == ["Conv", "Relu", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm"]


def test_a_run_is_repeated_when_an_option_or_a_companion_changes(net: Path, tmp_path: Path) -> None:
    from edgedl.model import LoadOptions
    from edgedl.store import belongings, module_files

    (tmp_path / "code").mkdir()
    (tmp_path / "code/net.py").write_text("def build(): ...")
    assert [p.name for p in module_files(f"{tmp_path}/code/net.py:build")] == ["net.py"]
    load = LoadOptions(weights=str(tmp_path / "w.pth"), module=f"{tmp_path}/code/net.py:build")
    assert [p.name for p in belongings(net, "torch", load)] == ["w.pth", "net.py"]
    for name in ("a.prototxt", "a.caffemodel", "m.ckpt.meta", "m.ckpt.index", "s-symbol.json", "s-0001.params"):
        (tmp_path / name).touch()
    for path, kind, others in (
        ("a.prototxt", "caffe", {"a.caffemodel"}),
        ("s-symbol.json", "mxnet", {"s-0001.params"}),
        ("m.ckpt.meta", "checkpoint", {"m.ckpt.index", "m.ckpt.meta"}),
    ):
        assert {p.name for p in belongings(tmp_path / path, kind, LoadOptions())} == others


# --- hostile and hopeless files


def cyclic(folder: Path) -> Path:
    nodes = [make("Add", ["x", "b"], ["a"], "first"), make("Relu", ["a"], ["b"], "second")]
    return saved(folder, nodes, [("x", [1, 4])], [("b", [1, 4])])


def unknown_domain(folder: Path) -> Path:
    nodes = [make("Blur", ["x"], ["a"], "one", domain="my.shop"), make("Warp", ["a"], ["y"], "two", domain="my.shop")]
    return saved(folder, nodes, [("x", [1, 4])], [("y", [1, 4])], domains=["my.shop"])


def lying_size(folder: Path) -> Path:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1 << 15, 1 << 15], raw_data=b"\0" * 16)
    return saved(
        folder, [make("MatMul", ["x", "w"], ["y"])], [("x", [1, 1 << 15])], [("y", [1, 1 << 15])], {"w": tensor}
    )


def outside(folder: Path) -> Path:
    (folder / "inner").mkdir()
    (folder / "secret.bin").write_bytes(bytes(64))
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4, 4], data_location=1)
    tensor.external_data.add(key="location", value="../secret.bin")
    return saved(folder / "inner", [make("MatMul", ["x", "w"], ["y"])], [("x", [1, 4])], [("y", [1, 4])], {"w": tensor})


def missing_weights(folder: Path) -> Path:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4, 4], data_location=1)
    tensor.external_data.add(key="location", value="gone.bin")
    return saved(folder, [make("MatMul", ["x", "w"], ["y"])], [("x", [1, 4])], [("y", [1, 4])], {"w": tensor})


def nested(folder: Path) -> Path:
    """Groups within groups: what a parser that trusts its input overflows its stack on."""
    inner = b"\x0b" * 100_000
    (folder / "net.onnx").write_bytes(b"\x08\x08\x3a" + bytes([0xA0, 0x8D, 0x06]) + inner)
    return folder / "net.onnx"


def bomb(folder: Path) -> Path:
    """Few bytes that unfold to terabytes: each node repeats what came before."""
    nodes = [make("Concat", [f"t{i}"] * 64, [f"t{i + 1}"], f"c{i}", axis=0) for i in range(8)]
    return saved(folder, nodes, [("t0", [1 << 10, 4])], [("t8", ["m", 4])])


def vast(folder: Path) -> Path:
    """A constant of 4 TB, in a hundred bytes."""
    shape = onnx.numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64), "s")
    fill = make("ConstantOfShape", ["s"], ["c"], "fill")
    nodes = [fill, make("ReduceSum", ["c"], ["r"], "sum", keepdims=0), make("Add", ["x", "r"], ["y"], "add")]
    return saved(folder, nodes, [("x", [1, 4])], [("y", [1, 4])], {"s": shape})


HOSTILE: list[tuple[Callable[[Path], Path], str]] = [
    (cyclic, "sound|cycl|order|sorted"),
    (unknown_domain, "Blur.*Warp|Warp.*Blur"),
    (lying_size, "size|damaged|sound|bytes|elements"),
    (outside, "outside its own folder"),
    (missing_weights, r"gone\.bin"),
    (nested, "sound|not a model"),
    (bomb, "memory|large|limit|elements|GiB|sound"),
    (vast, "memory|large|limit|elements|GiB|sound"),
]


@pytest.fixture(scope="module")
def child() -> Iterator[Worker]:
    """One child for all of them, as the command starts one for each."""
    with Worker(60.0, 2 * GIB) as worker:
        yield worker


@pytest.mark.parametrize(("build", "says"), HOSTILE, ids=[b.__name__ for b, _ in HOSTILE])
@pytest.mark.timeout(120)
def test_hostile_files_are_one_error_within_the_limits(
    build: Callable[[Path], Path], says: str, tmp_path: Path, child: Worker
) -> None:
    options = {"form": "keras"}
    with pytest.raises(EdgedlError, match=f"(?s){says}") as caught:
        child.call("edgedl.importing:read", path=str(build(tmp_path)), folder=str(tmp_path), options=options)
    assert caught.value.next
    assert build is bomb or not isinstance(caught.value, WorkerError)  # killing the child is the second line of defence


@pytest.mark.parametrize(("build", "says"), [HOSTILE[1]], ids=[HOSTILE[1][0].__name__])
def test_the_command_says_it_once_and_leaves_nothing(
    build: Callable[[Path], Path], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["import", str(build(tmp_path)), "-o", str(tmp_path / "net.keras"), "--timeout", "60"])
    error = capsys.readouterr().err
    assert code == 3, error
    assert error.count("error: ") == 1
    assert re.search(says, error, re.S), error
    assert "Next: " in error
    assert "Traceback" not in error
    assert not (tmp_path / "net.keras").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["import", "net.onnx", "-o", "net.tflite"], 9, "not named as a .keras file"),
        (["import", "net.onnx", "-o", "no/net.keras"], 9, "there is no folder no"),
        (["import", "nix.onnx", "-o", "n.keras"], 3, "did you mean 'net.onnx'"),
        (["import", "net.onnx", "-o", "n.keras", "--input", "in/x:0=big"], 2, "is no shape"),
        (["import", "net.onnx", "-o", "n.keras", "--input", "a=1", "--input", "a=2"], 2, "twice for a"),
        (["import", "net.onnx", "-o", "n.keras", "--input", "xx=1x3x8x12"], 2, "xx"),
        (["import", "net.onnx", "-o", "n.keras", "--to", "nowhere"], 2, "nowhere"),
        (["compress", "--recipe", "trusting.toml", "-o", "o"], 2, "--allow-unsafe"),
    ],
)
def test_command_lines(
    arguments: list[str],
    code: int,
    says: str,
    net: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(net.parent)
    Path("trusting.toml").write_text('model = "net.onnx"\n[load]\nallow_unsafe = true\n')
    assert run(arguments) == code
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_a_part_of_a_graph(net: Path) -> None:
    model = edgedl.load(net, form="keras", start=("r",), end=("g",))
    assert ([s.name for s in model.inputs], [s.name for s in model.outputs]) == (["r"], ["g"])
    with pytest.raises(UsageError, match="did you mean 'inputs'"):
        edgedl.load(net, input={"x": "1"})


def test_a_file_that_lies_about_what_it_was_imported_from(net: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.keras", tmp_path / "bad.keras"
    save_keras(edgedl.load(net, form="keras"), good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, b'{"inputs": [1, 2, 3]}' if name == "edgedl.json" else source.read(name))
    with pytest.raises(ModelError, match="is damaged"):
        edgedl.load(bad)


def test_against_the_original_and_where_they_part(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.keras", tmp_path / "bad.keras"
    save_keras(edgedl.load(net, form="keras"), good)
    assert comparing.compare(str(good), str(net), {"form": "keras"})["same"]
    changed = edgedl.load(good)
    layer = next(layer for layer in changed.net.layers if type(layer).__name__ == "Dense")
    layer.set_weights([w * 1.5 for w in layer.get_weights()])
    changed.net.save(bad)
    assert not comparing.compare(str(bad), str(net), {"form": "keras"})["same"]
    assert run(["inspect", str(bad), "--against", str(net)]) == 0
    said = capsys.readouterr().out
    assert "the first node whose output differs is 'fc' (Gemm)" in said
    assert re.search(r"\[\d, 4\] in the original, \[\d, 4\] here", said)


@pytest.mark.parametrize("keep", [True, False])
def test_an_artifact_against_its_original(net: Path, keep: bool, tmp_path: Path) -> None:
    model = edgedl.load(net, form="keras")
    data = load_data(DataOptions(), model.inputs, model.outputs)
    find("converter", "tflite")(keep_layout=keep)(model, data, tmp_path / "net.tflite")
    found = comparing.compare(str(tmp_path / "net.tflite"), str(net), {"form": "keras"})
    assert found["same"]
    assert {e["output"] for e in found["outputs"]} == {"map.0", "logits"}


def test_a_quantized_artifact_is_told_by_its_noise(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = edgedl.load(net, form="keras")
    data = load_data(DataOptions(), model.inputs, model.outputs)
    convert = find("converter", "tflite")()
    base = convert(model, data, tmp_path / "net.tflite")
    convert(replace(model, plan=QuantizationPlan("int8")), data, tmp_path / "q.tflite", base=base.path)
    assert run(["inspect", str(tmp_path / "q.tflite"), "--against", str(net)]) == 0
    assert re.search(r"is quantized \(int8\): signal to quantization noise \d+\.\d dB", capsys.readouterr().out)


def test_a_model_with_a_batch_of_its_own_runs_member_by_member(tmp_path: Path) -> None:
    keras = frameworks.keras()
    x = keras.Input(batch_shape=(2, 3))
    net = keras.Model(x, keras.layers.Dense(4)(x))
    specs = [(TensorSpec("x", (2, 3), "float32"),), (TensorSpec("y", (2, 4), "float32"),)]
    given = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found = steps.outputs_of(Model(net, *specs), {"x": given})["y"]
    weight, bias = net.get_weights()
    assert_allclose(found, given @ weight + bias, atol=1e-5)


@pytest.mark.parametrize("command", ["import", "compress"])
def test_data_that_is_not_there_is_told_before_the_model_is_read(
    command: str, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Worker, "call", lambda *_, **__: pytest.fail("the model was read"))
    out = tmp_path / ("out.keras" if command == "import" else "out")
    assert run([command, str(net), "--data", str(tmp_path / "nope.npz"), "-o", str(out)]) == 4
    assert "there is no data at" in capsys.readouterr().err
