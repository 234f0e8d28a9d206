"""Recurrent loops of TensorFlow 1 and 2 as Keras layers: TensorFlow is the oracle (1e-4 of the largest); what is none, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.errors import ModelError
from edgedl.model import LoadOptions

pytest.importorskip("tf2onnx", reason="needs pip install 'edgedl[compress]'")
pytest.importorskip("tf_keras", reason="needs pip install 'edgedl[compress]'")

from edgedl.converters._rnn_cells import NotACell, Op
from edgedl.converters._rnn_cells import cells as cells_of
from edgedl.converters.from_graphdef import load_checkpoint, load_graphdef, source
from edgedl.frameworks import tensorflow

pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-4  # of the largest value, over a whole sequence
BOTH = pytest.mark.parametrize("functional", [False, True], ids=["v1", "v2"])


def cells() -> Any:
    """TensorFlow 1's cells."""
    from tf_keras.src.layers.rnn import legacy_cells

    return legacy_cells


@pytest.fixture(autouse=True)
def control_flow(request: Any) -> Any:
    """Either control flow of TensorFlow, put back afterwards."""
    tf, before = tensorflow().compat.v1, tensorflow().compat.v1.control_flow_v2_enabled()
    wanted = getattr(request.node, "callspec", None) and request.node.callspec.params.get("functional")
    (tf.enable_control_flow_v2 if wanted else tf.disable_control_flow_v2)()
    yield
    (tf.enable_control_flow_v2 if before else tf.disable_control_flow_v2)()


def frozen(folder: Path, build: Any, checkpoint: bool = False) -> Path:
    """A .pb, or a checkpoint, of a graph with random weights; `build` returns its results."""
    tf, rng = tensorflow().compat.v1, np.random.default_rng(0)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        results = [tf.identity(t, name=f"y{i}") for i, t in enumerate(build(tf))]
        session.run(tf.global_variables_initializer())
        for variable in tf.global_variables():
            variable.load(rng.normal(0, 0.4, variable.shape).astype(np.float32), session)
        names = [t.op.name for t in results]
        if checkpoint:
            tf.train.Saver().save(session, str(folder / "m"))
            return folder
        made = tf.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), names)
    (folder / "m.pb").write_bytes(made.SerializeToString())
    return folder / "m.pb"


def dynamic(cell: Any, shape: tuple[int | None, ...] = (None, 6, 3), lengths: Any = None, **options: Any) -> Any:
    def build(tf: Any) -> Any:
        x = tf.placeholder(tf.float32, shape, "x")
        given = lengths(tf) if callable(lengths) else lengths
        y, state = tf.nn.dynamic_rnn(cell(), x, dtype=tf.float32, sequence_length=given, **options)
        return [y, tf.concat(tensorflow().nest.flatten(state), -1)]

    return build


def layers(loaded: Any) -> set[str]:
    """The recurrent layers of a model, which is TensorFlow's within TOLERANCE."""
    held = [e for e in loaded.proof if "TensorFlow" in e["against"]]
    assert held
    assert max(e["max_relative"] for e in loaded.proof) <= TOLERANCE
    return {type(layer).__name__ for layer in loaded.net._flatten_layers()} & {"LSTM", "GRU", "SimpleRNN"}


@BOTH
def test_cells(functional: bool, tmp_path: Path) -> None:
    """All in one graph: each cell a layer, also those on top of each other in one loop."""

    def build(tf: Any) -> Any:
        x = tf.placeholder(tf.float32, [None, 6, 3], "x")
        made = [
            cells().LSTMCell(4), cells().BasicLSTMCell(4, forget_bias=0.5), cells().LSTMCell(4, activation=tf.nn.relu),
            cells().GRUCell(4), cells().BasicRNNCell(4),
            cells().MultiRNNCell([cells().LSTMCell(5), cells().GRUCell(3)]),
        ]  # fmt: skip
        found = [tf.nn.dynamic_rnn(c, x, dtype=tf.float32, scope=f"rnn{i}") for i, c in enumerate(made)]
        return [tf.concat([y for y, _ in found], -1), tf.concat(tensorflow().nest.flatten([s for _, s in found]), -1)]

    loaded = load_graphdef(frozen(tmp_path, build))
    assert layers(loaded) == {"LSTM", "GRU", "SimpleRNN"}
    kinds = [type(layer).__name__ for layer in loaded.net.layers]
    assert [kinds.count(k) for k in ("LSTM", "GRU", "SimpleRNN")] == [4, 2, 1]


@BOTH
@pytest.mark.parametrize(
    ("shape", "options"),
    [((4, 2, 3), {"time_major": True}), ((2, 6, 3), {"lengths": [6, 6]}), ((None, None, 3), {})],
    ids=["time major", "full lengths", "open time"],
)
def test_shapes_of_the_sequence(shape: Any, options: Any, functional: bool, tmp_path: Path) -> None:
    path = frozen(tmp_path, dynamic(lambda: cells().LSTMCell(4), shape, **options))
    given = {"x": "?x5x3"} if shape[1] is None else {}
    assert layers(load_graphdef(path, LoadOptions(inputs=given))) == {"LSTM"}


@BOTH
def test_both_directions(functional: bool, tmp_path: Path) -> None:
    """The loop that runs backwards is a layer that does: nothing is turned around beside it."""

    def build(tf: Any) -> Any:
        x = tf.placeholder(tf.float32, [None, 6, 3], "x")
        both, _ = tf.nn.bidirectional_dynamic_rnn(cells().LSTMCell(4), cells().GRUCell(4), x, dtype=tf.float32)
        return [tf.concat(both, -1)]

    path = frozen(tmp_path, build)
    nodes = source(path, LoadOptions()).proto.graph.node
    assert not {"ReverseSequence", "Slice"} & {n.op_type for n in nodes}
    assert layers(load_graphdef(path)) == {"LSTM", "GRU"}


@BOTH
def test_a_state_that_is_given(functional: bool, tmp_path: Path) -> None:
    """One of the two, the other begins at zero; and a loop behind another."""

    def build(tf: Any) -> Any:
        x, h = tf.placeholder(tf.float32, [2, 6, 3], "x"), tf.placeholder(tf.float32, [2, 4], "h")
        state = cells().LSTMStateTuple(tf.zeros([2, 4]), h)
        y, _ = tf.nn.dynamic_rnn(cells().LSTMCell(4), x, initial_state=state, scope="a")
        return [tf.nn.dynamic_rnn(cells().GRUCell(3), y, dtype=tf.float32, scope="b")[1]]

    assert layers(load_graphdef(frozen(tmp_path, build))) == {"LSTM", "GRU"}


def test_a_checkpoint(tmp_path: Path) -> None:
    path = frozen(tmp_path, dynamic(lambda: cells().GRUCell(4)), checkpoint=True)
    assert layers(load_checkpoint(path, LoadOptions(end=("y0",)))) == {"GRU"}


def residual() -> Any:
    """A cell that gives something else than its state."""

    class Residual(cells().GRUCell):  # type: ignore[misc]
        def call(self, inputs: Any, state: Any) -> Any:
            given, state = super().call(inputs, state)
            return given + inputs, state

    return Residual(3)


def told(path: Path, **inputs: str) -> str:
    """Why a file is refused, or what is said of a loop that is unrolled; either way there is no recurrent layer."""
    try:
        made = load_graphdef(path, LoadOptions(inputs=inputs))
    except ModelError as error:
        return error.message
    assert not layers(made)
    assert "unrolled" in " ".join(made.notes)
    return " ".join(made.notes)


@BOTH
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (dynamic(lambda: cells().LSTMCell(4), lengths=lambda tf: tf.placeholder(tf.int32, [None], "n")), "sequence lengths"),
        (dynamic(lambda: cells().LSTMCell(4, use_peepholes=True), (None, None, 3)), "peephole"),
        (dynamic(lambda: cells().LSTMCell(4, num_proj=2), (None, None, 3)), "projection"),
        (dynamic(lambda: cells().LSTMCell(4, cell_clip=3.0), (None, None, 3)), "another step"),
        (dynamic(residual, (None, None, 3)), "something else"),
    ],
    ids=["lengths", "peepholes", "projection", "clip", "residual"],
)  # fmt: skip
def test_what_is_no_layer_is_refused_with_the_reason(build: Any, reason: str, functional: bool, tmp_path: Path) -> None:
    """Or, where its length is fixed, unrolled, with the reason in a note."""
    path = frozen(tmp_path, build)
    said = told(path, x="2x4x3")
    assert reason in said
    assert "rnn/while" in said


@BOTH
def test_lengths_that_differ_are_seen(functional: bool, tmp_path: Path) -> None:
    path = frozen(tmp_path, dynamic(lambda: cells().GRUCell(4), (2, 6, 3), lengths=[6, 4]))
    assert "sequence lengths" in told(path)


@BOTH
def test_all_loops_are_named_at_once(functional: bool, tmp_path: Path) -> None:
    def build(tf: Any) -> Any:
        x = tf.placeholder(tf.float32, [2, 3], "x")
        grown = [
            tf.while_loop(lambda y: tf.reduce_sum(y) < 9.0, lambda y: y * 2 + 1, [x], name=n) for n in ("one", "two")
        ]
        return [grown[0] + grown[1]]  # fmt: skip

    with pytest.raises(ModelError) as caught:
        source(frozen(tmp_path, build), LoadOptions())
    assert "'one" in caught.value.message
    assert "'two" in caught.value.message
    assert caught.value.message.count("ends when its values say so") == 2


@BOTH
def test_a_loop_of_fixed_length_is_unrolled(functional: bool, tmp_path: Path) -> None:
    def build(tf: Any) -> Any:
        x = tf.placeholder(tf.float32, [None, 3], "x")
        return [tf.while_loop(lambda i, y: i < 5, lambda i, y: (i + 1, tf.tanh(y * 2 + 1)), [0, x], name="five")[1]]

    loaded = load_graphdef(frozen(tmp_path, build))
    assert not layers(loaded)
    assert "'five" in loaded.notes[0]
    assert "unrolled" in loaded.notes[0]


class Numbers:
    """A step in numpy, of operations whose inputs can be replaced: a GRU whose gates are told apart by nothing else."""

    def __init__(self, clip: float = np.inf) -> None:
        rng = np.random.default_rng(3)
        self.w, self.r, self.b = rng.normal(0, 0.5, (3, 6)), rng.normal(0, 0.5, (4, 6)), rng.normal(0, 0.5, 6)
        self.clip = clip
        self.ops = [
            Op("Matrix", ("x", "h"), ("a",)), Op("Sigmoid", ("a",), ("s",)), Op("Cut", ("s",), ("z",)),
            Op("Inner", ("x", "h", "s"), ("n",)), Op("Tanh", ("n",), ("t",)), Op("Blend", ("z", "h", "t"), ("new",)),
        ]  # fmt: skip

    def run(self, feed: Any, wanted: Any) -> Any:
        v = dict(feed)
        w, r = np.pad(self.w, ((0, 0), (0, 6))), np.pad(self.r, ((0, 0), (0, 6)))
        w[:, 8:], r[:, 8:] = self.w[:, :4] * 0.3, self.r[:, :4] - 0.2
        w[:, 6:8], r[:, 6:8] = self.w[:, :2] + 0.1, self.r[:, 2:4]
        bias = np.concatenate([self.b, self.b[::-1] * 0.7])
        v.setdefault("a", v["x"] @ w[:, :8] + v["h"] @ r[:, :8] + bias[:8])
        v.setdefault("s", 1 / (1 + np.exp(-v["a"])))
        v.setdefault("z", v["s"][:, 4:])
        v.setdefault("n", v["x"] @ w[:, 8:] + (v["s"][:, :4] * v["h"]) @ r[:, 8:] + bias[8:])
        v.setdefault("t", np.tanh(v["n"]))
        v["new"] = np.clip(v["z"] * v["h"] + (1 - v["z"]) * v["t"], -self.clip, self.clip)
        return [np.asarray(v[name], np.float32) for name in wanted]


def test_a_gru_is_read_off_its_step_alone() -> None:
    (cell,) = cells_of(Numbers(), "x", {"h": "new"}, {"x": 3, "h": 4}, {}, 2)
    assert (cell.kind, cell.after, cell.activations) == ("GRU", False, ("Sigmoid", "Tanh"))
    with pytest.raises(NotACell, match="another step"):
        cells_of(Numbers(clip=3.0), "x", {"h": "new"}, {"x": 3, "h": 4}, {}, 2)
