"""A model file: which format it is, what is said of a file that is none, and what a saved Model holds."""

from __future__ import annotations

import contextlib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedl.artifact import TensorSpec
from edgedl.engine import describe, predict
from edgedl.errors import ModelError, UnsafeModelError, UsageError
from edgedl.model import GraphFile, Model, QuantizationPlan, load, require_keras, save_keras
from edgedl.sniffing import sniff

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


def linear(folder: Path, *, location: str = "", name: str = "linear.onnx") -> Path:
    """y = x @ WEIGHTS as .onnx; with its weights in the file `location` beside it, where that is given."""
    onnx = pytest.importorskip("onnx", reason="needs pip install 'edgedl[onnx]'")
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [info("x", 1, ["n", 4])], [info("y", 1, ["n", 3])],
        initializer=[onnx.numpy_helper.from_array(WEIGHTS, "w")],
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    beside: dict[str, Any] = {"save_as_external_data": True, "location": location, "size_threshold": 0}
    onnx.save(proto, folder / name, **(beside if location else {}))
    return folder / name


def computed(path: Path) -> Any:
    return predict(describe(path), {"x": np.eye(4, dtype=np.float32)})["y"]


def zipped(path: Path, member: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(member, "{}")
    return path


def test_the_content_says_which_format_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(8))
    (tmp_path / "b.bin").write_bytes(b"\x1c\0\0\0TFL3" + bytes(8))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/saved_model.pb").write_bytes(b"\x08\x01\x12\0")
    assert sniff(tmp_path / "a.bin") == "h5"
    assert sniff(tmp_path / "b.bin") == "tflite"
    assert sniff(zipped(tmp_path / "c.bin", "config.json")) == "keras"
    assert sniff(tmp_path / "saved") == "saved_model"
    assert sniff(linear(tmp_path)) == "onnx"


@pytest.mark.parametrize(
    ("name", "content", "said", "remedy"),
    [
        ("m.keras", b"", "is empty", "again"),
        ("m.keras", b"not a zip at all", r"is not a \.keras file: .* \(16 bytes\)", "again"),
        ("m.pt", b"\x80\x02}q\0", "is not a model that edgedl reads", r"\.onnx"),
        ("m.onnx", b"<html>", "is not a model that edgedl reads", r"\.onnx"),
        ("m.bin", b"\x08", "is not a model that edgedl reads", r"\.onnx"),
        ("m.pb", b"\x08\x01\x12\x04abcd", "is not a model that edgedl reads", "SavedModel folder"),
    ],
)
def test_what_is_no_model_is_said_in_a_sentence(
    name: str, content: bytes, said: str, remedy: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        sniff(path)
    assert remedy.replace("\\", "") in str(caught.value.next)


def test_a_missing_file_a_folder_and_another_zip(tmp_path: Path) -> None:
    linear(tmp_path)
    with pytest.raises(ModelError, match=r"there is no file .*liner\.onnx: did you mean 'linear\.onnx'"):
        load(tmp_path / "liner.onnx")
    with pytest.raises(ModelError, match="is not a SavedModel"):
        load(tmp_path)
    with pytest.raises(ModelError, match=r"is a zip, but not a \.keras file"):
        load(zipped(tmp_path / "m.keras", "other.txt"))


def test_an_onnx_is_known_under_any_name(tmp_path: Path) -> None:
    path = linear(tmp_path, name="linear.model")
    assert sniff(path) == "onnx"
    np.testing.assert_allclose(computed(load(path).net.path), WEIGHTS, rtol=1e-6)


SIGNATURES = {
    "legacy.bin": (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80", "torch"),
    "w.safetensors": ((2).to_bytes(8, "little") + b"{}" + bytes(8), "torch"),
    "det1-0001.params": (b"\x12\x01\0\0\0\0\0\0" + bytes(8), "mxnet"),
    "det1-symbol.json": (b'{\n  "nodes": [', "mxnet"),
    "net.prototxt": (b'name: "LeNet"\nlayer {', "caffe"),
    "params.msgpack": (b"\x81\xa1a\x01", "jax"),
    "model.ckpt.meta": (b"\x0a\x02", "checkpoint"),
    "model.ckpt.index": (bytes(20), "checkpoint"),
    "net.caffemodel": (b"\x0a\x05LeNet\xa2\x06\x06\x0a\x04data", "caffe"),
    "frozen.pb": (b"\x0a\x0c\x0a\x01x\x12\x07Softmax\x22\x02\x08\x17", "graphdef"),
}


@pytest.mark.parametrize("name", list(SIGNATURES))
def test_the_forms_of_other_frameworks(name: str, tmp_path: Path) -> None:
    content, kind = SIGNATURES[name]
    (tmp_path / name).write_bytes(content)
    assert sniff(tmp_path / name) == kind


@pytest.mark.parametrize(
    ("member", "kind"),
    [("archive/data.pkl", "torch"), ("net/archive_format", "torch"), ("w.npy", "jax"), ("config.json", "keras")],
)
def test_what_kind_of_zip_it_is(member: str, kind: str, tmp_path: Path) -> None:
    assert sniff(zipped(tmp_path / "m.bin", member)) == kind


def test_a_checkpoint_by_its_folder_and_by_its_prefix(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt.index").write_bytes(bytes(8))
    assert sniff(tmp_path / "model.ckpt") == "checkpoint"
    (tmp_path / "checkpoint").write_text("")
    assert sniff(tmp_path) == "checkpoint"


def test_the_file_inside_a_saved_model_names_its_folder(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12\0")
    with pytest.raises(ModelError, match="is a part of a SavedModel") as caught:
        sniff(tmp_path / "saved_model.pb")
    assert str(tmp_path) in caught.value.next


@given(
    head=st.binary(max_size=64), name=st.sampled_from(["a.onnx", "a.pb", "a.pt", "a.json", "a.msgpack", "a", "a.npz"])
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_format_or_one_error(head: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(head)
    with contextlib.suppress(ModelError):
        assert sniff(tmp_path / name)


def test_a_graph_file_comes_back_as_it_was(tmp_path: Path) -> None:
    model = load(linear(tmp_path))
    assert [(s.name, s.shape) for s in (*model.inputs, *model.outputs)] == [("x", (None, 4)), ("y", (None, 3))]
    plan = QuantizationPlan("int16x8", overrides={"a*": "float32"}, ranges={"a": (-1.0, 2.0)}, io="int16")
    model = replace(model.then("a step", plan=plan), notes=("a note",))
    folder = tmp_path / "kept"
    folder.mkdir()
    model.save(folder)
    back = Model.restore(folder)
    assert back.net == GraphFile(folder / "model.onnx", "onnx")
    assert back.net.path.read_bytes() == model.net.path.read_bytes()
    assert (back.inputs, back.outputs, back.history, back.notes) == (
        model.inputs, model.outputs, ("loaded linear.onnx", "a step"), ("a note",)
    )  # fmt: skip
    assert back.plan is not None
    assert {k: tuple(v) for k, v in back.plan.ranges.items()} == {"a": (-1.0, 2.0)}
    assert replace(back.plan, ranges=plan.ranges) == plan
    with pytest.raises(UsageError, match=r"pruning needs a Keras model, and model\.onnx stays"):
        require_keras(back, "pruning")


@pytest.mark.parametrize("location", ["w.bin", "model.onnx", "model.json", "sub/w.bin"])
def test_weights_beside_an_onnx_are_saved_with_it(location: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = linear(tmp_path, location=location)
    assert (tmp_path / location).is_file()
    folder = tmp_path / "kept"
    folder.mkdir()
    load(path).save(folder)
    (tmp_path / location).unlink()
    np.testing.assert_allclose(computed(Model.restore(folder).net.path), WEIGHTS, rtol=1e-6)


def test_weights_that_are_missing_or_lie_elsewhere(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    path = linear(inner, location="w.bin")
    (inner / "w.bin").rename(tmp_path / "w.bin")
    with pytest.raises(ModelError, match=r"keeps the weights 'w' in w\.bin, which is not there"):
        load(path)
    (inner / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(UnsafeModelError, match="outside its own folder"):
        load(path)


def test_a_keras_model_comes_back_as_it_was(zoo: Any, tmp_path: Path) -> None:
    net, x, _ = zoo("cnn")
    inputs = tuple(TensorSpec(t.name, tuple(t.shape), "float32") for t in net.inputs)
    outputs = tuple(
        TensorSpec(n, tuple(t.shape), "float32") for n, t in zip(net.output_names, net.outputs, strict=True)
    )
    layouts = {inputs[0].name: (0, 2, 3, 1)}
    proof = ({"output": outputs[0].name, "max_relative": 1e-6},)
    model = Model(net, inputs, outputs, QuantizationPlan(), ("trained",), layouts=layouts, proof=proof)
    model.save(tmp_path)
    back = Model.restore(tmp_path)
    assert (back.layouts, back.proof) == (layouts, proof)
    assert (back.inputs, back.outputs, back.plan, back.history) == (inputs, outputs, QuantizationPlan(), ("trained",))
    np.testing.assert_array_equal(back.net.predict(x[:8], verbose=0), net.predict(x[:8], verbose=0))


def specs(net: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What a network takes and gives."""
    groups = (net.inputs, net.outputs)
    found = [tuple(TensorSpec(t.name, tuple(t.shape), t.dtype) for t in tensors) for tensors in groups]
    return found[0], found[1]


def narrow(width: int) -> Any:
    """An untrained network of 4 numbers to 2, its weights told by `width`."""
    keras = pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")
    keras.utils.set_random_seed(width)
    node = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(width, activation="relu", name="hidden")(node)
    return keras.Model(node, keras.layers.Dense(2, name="y")(hidden), name=f"net{width}")


RECORD = {"stage": "prune_channels", "before": {"macs": 24}, "widths": {"hidden": [4, 3]}, "rounds": [{"drop": 0.125}]}


def test_the_first_network_stays_the_origin_through_all_stages() -> None:
    nets = [narrow(width) for width in (4, 3, 2)]
    loaded = Model(nets[0], *specs(nets[0]), history=("loaded",))
    once = loaded.changed("cut", nets[1], RECORD)
    twice = once.changed("trained", nets[2])
    assert (loaded.net, loaded.origin, loaded.records, loaded.history) == (nets[0], None, (), ("loaded",))
    assert (once.net, once.origin, once.records) == (nets[1], nets[0], (RECORD,))
    assert (twice.net, twice.origin, twice.records) == (nets[2], nets[0], (RECORD,)), (
        "a stage without figures adds none"
    )
    assert twice.history == ("loaded", "cut", "trained")
    again = twice.changed("cut", nets[1], {**RECORD, "rounds": []})
    assert [len(r["rounds"]) for r in again.records] == [1, 0], "one entry a stage, in their order"


def test_the_origin_and_the_records_come_back(tmp_path: Path) -> None:
    before, after = narrow(4), narrow(3)
    second = {"stage": "finetune", "curve": [[0, 1.5], [1, 0.75]], "best": None, "labels": True}
    model = Model(before, *specs(before), history=("loaded",)).changed("cut", after, RECORD)
    model = model.changed("trained", after, second)
    model.save(tmp_path)
    back = Model.restore(tmp_path)
    assert back.records == (RECORD, second)
    assert back.history == ("loaded", "cut", "trained")
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    for ours, theirs in ((back.net, after), (back.origin, before)):
        assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
        np.testing.assert_array_equal(ours.predict(x, verbose=0), theirs.predict(x, verbose=0))
    further = back.changed("cut again", narrow(2))
    assert further.origin is back.origin, "what came back goes on with the same teacher"


def test_what_no_stage_changed_has_no_origin(tmp_path: Path) -> None:
    net = narrow(4)
    Model(net, *specs(net)).save(tmp_path)
    back = Model.restore(tmp_path)
    assert (back.origin, back.records) == (None, ())
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["model.json", "model.keras"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"start": ("a",), "inputs": {"x": "1x3"}}, "--from and --input mean nothing for digits.keras"),
        ({"module": "net.py:build"}, "--module means nothing for digits.keras, a file of the format 'keras'"),
    ],
)
def test_options_that_would_be_ignored_are_errors(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load(Path(__file__).parents[1] / "examples/digits.keras", **given)


def test_a_keras_file_may_have_an_input_that_is_one_number(tmp_path: Path) -> None:
    """As the sampling rate of speech models; such a file could not be read again."""
    keras = pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")
    x, rate = keras.Input((4,)), keras.Input(batch_shape=(), dtype="int64")
    net = keras.Model([x, rate], [keras.ops.add(x, keras.ops.cast(rate, "float32"))])
    net.save(tmp_path / "m.keras")
    assert [s.shape for s in load(tmp_path / "m.keras").inputs] == [(None, 4), ()]


def test_a_keras_file_keeps_the_original_s_names_and_layouts(zoo: Any, tmp_path: Path) -> None:
    net, _, _ = zoo("cnn")
    inputs = tuple(TensorSpec("serving/x:0", tuple(t.shape), "float32") for t in net.inputs)
    outputs = tuple(TensorSpec("a/b:0", tuple(t.shape), "float32") for t in net.outputs)
    proof = ({"output": "a/b:0", "against": "onnxruntime", "inputs": 4, "max_relative": 1e-7, "mean_relative": 0.0},)
    plan = QuantizationPlan(ranges={"conv": (-1.0, 2.0)})
    model = Model(net, inputs, outputs, plan, ("loaded a.onnx",), layouts={"serving/x:0": (0, 2, 3, 1)}, proof=proof)
    save_keras(model, tmp_path / "m.keras")
    back = load(tmp_path / "m.keras")
    assert (back.inputs, back.outputs, back.plan, back.layouts, back.proof) == (
        inputs, outputs, plan, model.layouts, proof
    )  # fmt: skip
    assert back.history[0] == "loaded a.onnx"
    with zipfile.ZipFile(tmp_path / "m.keras", "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("edgedl.json", '{"edgedl_model": 1}')
    with pytest.raises(ModelError, match="two files of the same name"):
        load(tmp_path / "m.keras")
