"""Frozen graphs, TF1 checkpoints and bare SavedModels against TensorFlow; cuts, front ends, loops, hostile files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.errors import ModelError, UnsafeModelError, UsageError
from edgedl.model import LoadOptions

pytest.importorskip("tensorflow", reason="needs pip install 'edgedl[compress]'")
pytest.importorskip("tf2onnx", reason="needs pip install 'edgedl[compress]'")

from edgedl import comparing
from edgedl.converters import _onnx, _saved_graph, _tf_graph
from edgedl.converters.from_graphdef import load_checkpoint, load_graphdef, source
from edgedl.converters.from_saved_model import load_saved_model
from edgedl.frameworks import tensorflow

pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-5  # of the largest value: the same float arithmetic in another order
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RNG.normal(0, 0.3, shape).astype(np.float32)


def frozen(folder: Path, build: Callable[[Any], Any], text: bool = False) -> Path:
    """A .pb of what `build` puts into a graph."""
    tf = tensorflow()
    with tf.Graph().as_default() as graph:
        build(tf.compat.v1)
    path = folder / ("g.pbtxt" if text else "g.pb")
    path.write_bytes(str(graph.as_graph_def()).encode() if text else graph.as_graph_def().SerializeToString())
    return path


def feed_for(proto: Any, count: int = 2, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {
        i.name: [d or (count if n == 0 else 5) for n, d in enumerate(_onnx.shape_of(i))] for i in proto.graph.input
    }
    return {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def agrees(made: Any, seed: int = 0) -> dict[str, Any]:
    """ONNX Runtime on the graph computes what the reference computes; returns that."""
    feed = feed_for(made.proto, seed=seed)
    wanted = made.reference(feed)
    session = _onnx.session(made.proto)
    names = [o.name for o in session.get_outputs()]
    assert sorted(names) == sorted(wanted)
    for name, found in zip(names, session.run(None, feed), strict=True):
        assert found.shape == wanted[name].shape
        assert np.abs(found - wanted[name]).max(initial=0) <= TOLERANCE * max(np.abs(wanted[name]).max(initial=0), 1e-3)
    return wanted


def cnn(tf: Any) -> None:
    """With what training leaves behind: a dropout with its own placeholder, batch normalization that is told so."""
    x = tf.placeholder(tf.float32, [None, 8, 8, 3], "image")
    keep = tf.placeholder(tf.float32, None, "keep_prob")
    y = tf.nn.conv2d(x, normal(3, 3, 3, 4), 2, "SAME", name="conv")
    y, *_ = tf.nn.fused_batch_norm(
        y, normal(4), normal(4), normal(4), abs(normal(4)) + 0.5, is_training=False, name="norm"
    )
    y = tf.nn.relu(tf.nn.depthwise_conv2d(y, normal(3, 3, 4, 1), [1, 1, 1, 1], "SAME"), name="act")
    y = tf.nn.dropout(tf.reshape(y, [-1, 64]), keep_prob=keep)
    tf.nn.softmax(tf.matmul(y, normal(64, 5)) + normal(5), name="probabilities")


@pytest.mark.parametrize("text", [False, True])
def test_a_frozen_graph_with_its_names(text: bool, tmp_path: Path) -> None:
    made = source(frozen(tmp_path, cnn, text), LoadOptions())
    assert [i.name for i in made.proto.graph.input] == ["image"]
    assert [o.name for o in made.proto.graph.output] == ["probabilities"]
    assert any("keep_prob" in note for note in made.notes)
    kinds = [n.op_type for n in made.proto.graph.node]
    assert "BatchNormalization" in kinds, "it must stay trainable"
    agrees(made)


def test_the_keras_model_is_the_graph(tmp_path: Path) -> None:
    loaded = load_graphdef(frozen(tmp_path, cnn))
    assert loaded.inputs[0].shape == (None, 8, 8, 3)
    assert max(entry["max_relative"] for entry in loaded.proof) <= 1e-4
    kinds = {type(layer).__name__ for layer in loaded.net.layers}
    assert {"Conv2D", "DepthwiseConv2D", "BatchNormalization", "Dense"} <= kinds


def test_dropouts_are_taken_out(tmp_path: Path) -> None:
    """In the ways that TensorFlow 1.0 and later versions write them; the reference runs them with nothing dropped."""

    def build(tf: Any) -> None:
        x, keep = tf.placeholder(tf.float32, [None, 6], "x"), tf.placeholder(tf.float32, [], "keep_prob")
        y = tf.nn.dropout(tf.tanh(x, name="first"), keep_prob=keep, name="now")
        with tf.name_scope("old"):
            noise = tf.add(keep, tf.random_uniform(tf.shape(y), name="random_uniform"))
            y = tf.multiply(tf.div(y, keep), tf.floor(noise))
        tf.sigmoid(y, name="y")

    made = source(frozen(tmp_path, build), LoadOptions())
    assert [n.op_type for n in made.proto.graph.node] == ["Tanh", "Sigmoid"]
    agrees(made)


def test_cut_between_any_two_tensors(tmp_path: Path) -> None:
    path = frozen(tmp_path, cnn)
    made = source(path, LoadOptions(start=("norm:0",), end=("act",)))
    assert [i.name for i in made.proto.graph.input] == ["norm"]
    assert _onnx.shape_of(made.proto.graph.input[0]) == (None, 4, 4, 4)
    assert list(agrees(made)) == ["act"]
    with pytest.raises(UsageError, match="did you mean conv"):
        source(path, LoadOptions(start=("cnov",)))
    with pytest.raises(UsageError, match="no tensor"):
        source(path, LoadOptions(start=("norm:77",)))


def test_several_inputs_and_outputs_and_a_split_tensor(tmp_path: Path) -> None:
    def build(tf: Any) -> None:
        a, b = (tf.placeholder(tf.float32, [None, 4], n) for n in "ab")
        left, right = tf.split(tf.concat([a, b], 1), 2, 1, name="halves")
        tf.add(left, right * 2, name="one")
        tf.tanh(right, name="two")

    path = frozen(tmp_path, build)
    made = source(path, LoadOptions())
    assert sorted(i.name for i in made.proto.graph.input) == ["a", "b"]
    assert sorted(agrees(made)) == ["one", "two"]
    assert list(agrees(source(path, LoadOptions(start=("halves:1",), end=("two",))))) == ["two"]


def audio(tf: Any) -> None:
    wav = tf.placeholder(tf.string, [], "wav_data")
    raw = tf.raw_ops
    sound = raw.DecodeWav(contents=wav, desired_channels=1, desired_samples=16000, name="decode")
    spectrogram = raw.AudioSpectrogram(
        input=sound.audio, window_size=640, stride=640, magnitude_squared=True, name="fft"
    )
    mfcc = raw.Mfcc(spectrogram=spectrogram, sample_rate=sound.sample_rate, dct_coefficient_count=10, name="Mfcc")
    tf.nn.softmax(tf.matmul(tf.reshape(mfcc, [-1, 250]), normal(250, 4)), name="labels")


def test_a_front_end_is_named_with_where_to_cut(tmp_path: Path) -> None:
    path = frozen(tmp_path, audio)
    with pytest.raises(ModelError) as caught:
        source(path, LoadOptions())
    for word in ("'decode' (DecodeWav)", "'fft' (AudioSpectrogram)", "'Mfcc' (Mfcc)"):
        assert word in caught.value.message
    assert "--from Mfcc:0" in caught.value.next
    made = source(path, LoadOptions(start=("Mfcc:0",)))
    assert _onnx.shape_of(made.proto.graph.input[0]) == (1, 25, 10)
    agrees(made)


def test_shapes_that_the_graph_does_not_say(tmp_path: Path) -> None:
    def build(tf: Any) -> None:
        tf.nn.conv2d(tf.placeholder(tf.float32, None, "x"), normal(3, 3, 2, 4), 1, "SAME", name="y")

    path = frozen(tmp_path, build)
    assert _onnx.shape_of(source(path, LoadOptions()).proto.graph.input[0]) == (None, None, None, 2)
    made = source(path, LoadOptions(inputs={"x": "?x6x7x2"}))
    assert _onnx.shape_of(made.proto.graph.input[0]) == (None, 6, 7, 2)
    agrees(made)
    with pytest.raises(UsageError, match="no input 'z'"):
        source(path, LoadOptions(inputs={"z": "1x2"}))
    path = frozen(tmp_path, lambda tf: tf.tanh(tf.placeholder(tf.float32, None, "x"), name="y"))
    with pytest.raises(ModelError, match="which shape its input 'x'") as caught:
        source(path, LoadOptions())
    assert "--input x=" in caught.value.next


def test_unknown_operations_are_named_all_at_once(tmp_path: Path) -> None:
    def build(tf: Any) -> None:
        x = tf.placeholder(tf.float32, [4, 4], "x")
        tf.math.digamma(x, name="d")
        tf.math.igamma(x, x, name="g")

    path = frozen(tmp_path, build)
    with pytest.raises(ModelError) as caught:
        source(path, LoadOptions())
    assert "Digamma" in caught.value.message
    assert "Igamma" in caught.value.message
    graph = _tf_graph.read(path)
    for node in graph.node:
        node.op = {"Digamma": "MyDigamma", "Igamma": "MyGamma"}.get(node.op, node.op)
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError) as caught:
        source(path, LoadOptions())
    assert "'d' (MyDigamma)" in caught.value.message
    assert "'g' (MyGamma)" in caught.value.message


def test_a_loop_that_is_no_recurrent_layer_is_refused(tmp_path: Path) -> None:
    def build(tf: Any) -> None:
        tf.disable_control_flow_v2()
        x = tf.placeholder(tf.float32, [2, 3], "x")
        y = tf.while_loop(lambda y: tf.reduce_sum(y) < 100.0, lambda y: y * 2 + 1, [x], name="grow")
        tf.identity(y, name="y")

    with pytest.raises(ModelError, match="a loop"):
        source(frozen(tmp_path, build), LoadOptions())


def test_graphs_that_touch_files_are_refused(tmp_path: Path) -> None:
    def build(tf: Any) -> None:
        x = tf.placeholder(tf.float32, [None, 3], "x")
        size = tf.strings.length(tf.io.read_file("/etc/hostname"))
        tf.add(x, tf.cast(size, tf.float32), name="y")

    with pytest.raises(UnsafeModelError, match="ReadFile"):
        source(frozen(tmp_path, build), LoadOptions())


def test_damaged_graphs_are_refused(tmp_path: Path) -> None:
    path = frozen(tmp_path, cnn)
    whole = path.read_bytes()

    def refused(change: Callable[[Any], None]) -> None:
        graph = _tf_graph.read(path)
        change(graph)
        (tmp_path / "bad.pb").write_bytes(graph.SerializeToString())
        with pytest.raises(ModelError):
            source(tmp_path / "bad.pb", LoadOptions())

    def node(graph: Any, name: str) -> Any:
        return next(n for n in graph.node if n.name == name)

    def absurd(graph: Any) -> None:
        shape = next(n for n in graph.node if n.op == "Const").attr["value"].tensor.tensor_shape
        del shape.dim[:]
        for _ in range(4):
            shape.dim.add().size = 1 << 30

    refused(lambda g: node(g, "conv").input.__setitem__(0, "nowhere"))
    refused(lambda g: node(g, "conv").input.__setitem__(0, "act"))  # a cycle
    refused(lambda g: setattr(node(g, "conv"), "name", "act"))
    refused(lambda g: node(g, "conv").attr["strides"].list.i.__setitem__(1, -5))
    refused(lambda g: g.ClearField("node"))
    refused(absurd)
    for size in range(10, len(whole), len(whole) // 12):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            source(path, LoadOptions())
    path.write_bytes(RNG.bytes(4000))
    with pytest.raises(ModelError):
        source(path, LoadOptions())


def checkpoint(folder: Path) -> Any:
    """X.meta, .index and .data of a graph in training; its output for ones."""
    tf = tensorflow().compat.v1
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.placeholder(tf.float32, [None, 6], "x")
        train = tf.placeholder(tf.bool, [], "is_training")
        w = tf.get_variable("w", initializer=normal(6, 4), use_resource=False)
        b = tf.get_variable("b", initializer=normal(4), use_resource=True)
        y = tf.cond(train, lambda: tf.nn.dropout(x, 0.5), lambda: x)
        y = tf.nn.softmax(tf.matmul(y, w) + b, name="scores")
        loss = tf.reduce_mean(tf.square(y - tf.placeholder(tf.float32, [None, 4], "labels")), name="loss")
        tf.train.AdamOptimizer().minimize(loss, name="train_op")
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(folder / "model.ckpt"))
        return session.run(y, {x: np.ones((2, 6), np.float32), train: False})


def test_a_checkpoint_with_its_graph(tmp_path: Path) -> None:
    wanted = checkpoint(tmp_path)
    for name in ("model.ckpt.meta", "model.ckpt.index", "model.ckpt.data-00000-of-00001", "model.ckpt", ""):
        made = source(tmp_path / name, LoadOptions(end=("scores",)))
        assert [i.name for i in made.proto.graph.input] == ["x"]
    agrees(made)
    found = made.reference({"x": np.ones((2, 6), np.float32)})["scores"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    loaded = load_checkpoint(tmp_path, LoadOptions(end=("scores",)))
    np.testing.assert_allclose(loaded.net(np.ones((2, 6), np.float32)), wanted, rtol=1e-5)
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(b"\0" * 7)
    with pytest.raises(ModelError):
        source(tmp_path, LoadOptions(end=("scores",)))
    (tmp_path / "model.ckpt.meta").unlink()
    with pytest.raises(ModelError, match=r"\.meta"):
        source(tmp_path / "model.ckpt.index", LoadOptions(end=("scores",)))


def module(folder: Path, **signatures: str) -> Path:
    """A SavedModel without Keras: two inputs whose order is not that of their names, two outputs."""
    tf = tensorflow()

    class Twice(tf.Module):
        def __init__(self) -> None:
            self.w = tf.Variable(normal(3, 4))

        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="zeta"), tf.TensorSpec((None, 4), name="alpha")])
        def f(self, zeta: Any, alpha: Any) -> Any:
            return {"z": tf.matmul(zeta, self.w) + alpha, "a": alpha * 2}

    made = Twice()
    tf.saved_model.save(made, str(folder), signatures=dict.fromkeys(signatures, made.f) or None)
    return folder


def test_saved_models_without_keras(tmp_path: Path) -> None:
    made = _saved_graph.source(module(tmp_path / "bare"), LoadOptions())
    assert sorted(i.name for i in made.proto.graph.input) == ["alpha", "zeta"]
    assert sorted(agrees(made)) == ["a", "z"]
    several = module(tmp_path / "several", one="", two="")
    with pytest.raises(UsageError, match="one, two"):
        _saved_graph.source(several, LoadOptions())
    agrees(_saved_graph.source(several, LoadOptions(end=("two",))))
    default = module(tmp_path / "default", other="", serving_default="")
    agrees(_saved_graph.source(default, LoadOptions(inputs={"zeta": "5x3", "alpha": "5x4"})))


def test_an_import_against_its_bare_saved_model(tmp_path: Path) -> None:
    """`inspect --against` names the first node of the original that differs."""
    folder, good, bad = module(tmp_path / "bare"), tmp_path / "good.keras", tmp_path / "bad.keras"
    loaded = load_saved_model(folder, LoadOptions())
    loaded.net.save(good)
    assert comparing.compare(str(good), str(folder), {"form": "keras"})["same"]
    weighted = next(layer for layer in loaded.net.layers if layer.get_weights())
    weighted.set_weights([w * 1.5 for w in weighted.get_weights()])
    loaded.net.save(bad)
    found = comparing.compare(str(bad), str(folder), {"form": "keras"})
    assert not found["same"]
    assert found["first"]["op"] in ("MatMul", "Gemm")


def test_a_bare_saved_model_that_reads_files_is_refused(tmp_path: Path) -> None:
    tf = tensorflow()
    made = tf.Module()
    made.f = tf.function(lambda x: x * 2, input_signature=[tf.TensorSpec((None, 3))])
    made.peek = tf.function(lambda: tf.io.read_file("/etc/hostname"), input_signature=[])
    tf.saved_model.save(made, str(tmp_path / "m"))
    with pytest.raises(UnsafeModelError, match="ReadFile"):
        load_saved_model(tmp_path / "m", LoadOptions())


def test_lstms_of_an_exported_model_stay_lstms(tmp_path: Path) -> None:
    from edgedl.frameworks import keras

    L = keras().layers
    net = keras().Sequential([keras().Input((6, 3)), L.Bidirectional(L.LSTM(4))])
    net.export(tmp_path / "lstm", verbose=False)
    made = _saved_graph.source(tmp_path / "lstm", LoadOptions())
    agrees(made)
    assert "LSTM" in {n.op_type for n in made.proto.graph.node}


@pytest.mark.parametrize("kind", ["GRU", "SimpleRNN"])
def test_loops_of_keras_3_become_layers(kind: str, tmp_path: Path) -> None:
    """With weights that are not those of a new layer; a reset before the kernel; one step other than a GRU's."""
    from edgedl.frameworks import keras

    L = keras().layers
    for more in ({}, {"return_sequences": True}, {"reset_after": False} if kind == "GRU" else {"use_bias": False}):
        net = keras().Sequential([keras().Input((6, 5)), getattr(L, kind)(5, **more)])
        net.set_weights([normal(*w.shape) for w in net.get_weights()])
        net.export(tmp_path / str(more), verbose=False)
        made = _saved_graph.source(tmp_path / str(more), LoadOptions())
        agrees(made)
        assert {"GRU", "RNN"} & {n.op_type for n in made.proto.graph.node}
    net = keras().Sequential([keras().Input((6, 5)), getattr(L, kind)(5, activation="softsign")])
    net.export(tmp_path / "other", verbose=False)
    made = _saved_graph.source(tmp_path / "other", LoadOptions())
    agrees(made)
    assert "unrolled" in made.notes[0]
    assert not {"GRU", "RNN"} & {n.op_type for n in made.proto.graph.node}


@pytest.mark.acceptance
@pytest.mark.parametrize(("name", "accuracy"), [("DS_CNN_S", 0.85), ("DNN_S", 0.75)])
def test_keyword_spotting_behind_its_front_end(name: str, accuracy: float, assets: Path) -> None:
    """The features from TensorFlow's own front end; the Keras model then decides as the whole graph does."""
    tf = tensorflow()
    path = assets / "models/arm_kws_frozen_graphs" / f"{name}.pb"
    loaded = load_graphdef(path, LoadOptions(start=("Mfcc:0",)))
    assert max(entry["max_relative"] for entry in loaded.proof) <= 1e-4
    data = np.load(assets / "datasets/speech_commands_1s/clips_a.npz")
    labels = ("silence", "unknown", "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
    order = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown")
    graph = _tf_graph.read(path)
    features, theirs = [], []
    with tf.Graph().as_default() as whole:
        tf.import_graph_def(graph, name="")
        with tf.compat.v1.Session(graph=whole) as session:
            for clip in data["x"]:
                wav = tf.compat.as_bytes(_wav(clip))
                mfcc, scores = session.run(["Mfcc:0", "labels_softmax:0"], {"wav_data:0": wav})
                features.append(mfcc[0])
                theirs.append(scores[0])
    ours = loaded.net.predict(np.stack(features), verbose=0)
    assert np.abs(ours - np.stack(theirs)).max() <= 1e-4
    right = float(np.mean([labels[i] == order[y] for i, y in zip(ours.argmax(1), data["y"], strict=True)]))
    print(f"\n{name}: {right:.3f} of {len(ours)} clips")
    assert right >= accuracy


def _wav(clip: Any) -> bytes:
    import io
    import wave

    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(clip.astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.mark.acceptance
def test_super_resolution(assets: Path) -> None:
    path = assets / "models/superres_frozen_graphs/FSRCNN_x2.pb"
    loaded = load_graphdef(path, LoadOptions(inputs={"IteratorGetNext": "1x24x20x1"}))
    worst = max(entry["max_relative"] for entry in loaded.proof)
    print(f"\nFSRCNN_x2: {worst:.1e}")
    assert worst <= 1e-4


@pytest.mark.parametrize("op", ["GenerateVocabRemapping", "LoadAndRemapMatrix", "TFRecordDatasetV2", "CSVDatasetV2", "DatasetToTFRecord", "DebugIdentityV3", "DistributedSave", "ReaderRead", "WriteGraphSummary", "DecodeProtoV2"])  # fmt: skip
def test_every_way_out_of_a_graph_is_refused(op: str) -> None:
    graph = tensorflow().compat.v1.GraphDef()
    graph.library.function.add().node_def.add(name="n", op=op)
    with pytest.raises(UnsafeModelError, match=op):
        _tf_graph.refuse_file_ops("m.pb", [graph])


def test_a_frozen_graph_may_have_any_name(tmp_path: Path) -> None:
    path = frozen(tmp_path, lambda tf: tf.identity(tf.placeholder(tf.float32, [1, 3], "x") * 2.0, name="y"))
    found = source(path.rename(tmp_path / "model.frozen"), LoadOptions())
    assert found.how == "TensorFlow frozen graph"
