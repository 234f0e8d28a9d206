"""TFLite in: every operator against LiteRT, quantized files by their noise, hostile files by their refusal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.errors import ModelError, UsageError
from edgedl.model import LoadOptions

pytest.importorskip("tensorflow", reason="needs pip install 'edgedl[compress]'")
pytest.importorskip("onnx", reason="needs pip install 'edgedl[onnx]'")

from edgedl.converters import _onnx, _tflite
from edgedl.converters._emit import Emit
from edgedl.converters.from_tflite import load_tflite, source
from edgedl.converters.from_tflite.graph import dequantized
from edgedl.converters.from_tflite.step import HANDLERS
from edgedl.frameworks import no_stderr, tensorflow

pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-5  # of the largest value: the same float arithmetic in another order
X = (1, 7, 6, 4)  # most operators' input


def convert(
    function: Callable[..., Any], folder: Path, *shapes: tuple[int, ...], dtype: Any = None, **options: Any
) -> Path:
    """A .tflite that TensorFlow's converter made of a function."""
    tf = tensorflow()
    specs = [tf.TensorSpec(s, dtype or tf.float32, name=f"x{i}") for i, s in enumerate(shapes)]
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    for key, value in options.items():
        setattr(converter, key, value)
    with no_stderr():
        data = converter.convert()
    path = folder / "m.tflite"
    path.write_bytes(data)
    return path


def inputs_of(proto: Any, seed: int = 0, low: float = -3, high: float = 3) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    found = {}
    for i in proto.graph.input:
        shape = [d or 1 for d in _onnx.shape_of(i)]
        kind = np.dtype(_onnx.dtype_name(i.type.tensor_type.elem_type))
        values = rng.uniform(low, high, shape) if kind.kind == "f" else rng.integers(0, 4, shape)
        found[i.name] = values.astype(kind)
    return found


def run(proto: Any, feed: dict[str, Any]) -> dict[str, Any]:
    session = _onnx.session(proto, optimize=False)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


def agrees(path: Path, low: float = -3, **options: Any) -> Any:
    """The ONNX of a float file computes what LiteRT computes; returns it."""
    made = source(path, LoadOptions(**options))
    feed = inputs_of(made.proto, low=low)
    assert made.reference is not None
    wanted, found = made.reference(feed), run(made.proto, feed)
    assert list(wanted) == list(found)
    for name, theirs in wanted.items():
        assert found[name].shape == theirs.shape
        assert found[name].dtype == theirs.dtype
        gap = np.abs(np.asarray(found[name], np.float64) - theirs).max(initial=0)
        assert gap <= TOLERANCE * max(np.abs(theirs.astype(np.float64)).max(initial=0), 1e-3), name
    return made


def cases() -> dict[str, Callable[[Any], Any]]:
    """Functions of one [1, 7, 6, 4] input that together use the operators with a float input."""
    tf = tensorflow()
    rng = np.random.default_rng(1)

    def w(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    k, d, t, m = w(3, 3, 4, 5), w(3, 2, 4, 2), w(3, 3, 5, 4), w(4, 6)
    nn, q = tf.nn, tf.constant
    return {
        "unary": lambda x: [tf.abs(x), -x, tf.sin(x), tf.cos(x), tf.floor(x), tf.math.ceil(x), tf.round(x), tf.square(x),
                            tf.exp(x), tf.tanh(x), tf.sigmoid(x), tf.sign(x)],
        "positive": lambda x: [tf.sqrt(tf.abs(x) + 1), tf.math.rsqrt(tf.abs(x) + 1), tf.math.log(tf.abs(x) + 1),
                               tf.pow(tf.abs(x) + 1, 1.7)],
        "activations": lambda x: [nn.relu(x), nn.relu6(x), nn.leaky_relu(x, 0.1), nn.elu(x), 
                                  nn.gelu(x, approximate=True), tf.clip_by_value(x, -1.0, 1.0),
                                  tf.clip_by_value(x, 0.0, 1.0), x * nn.relu6(x + 3) / 6, nn.softmax(x),
                                  nn.log_softmax(x), nn.relu(x) - nn.relu(-x) * w(1, 1, 4)],
        "arithmetic": lambda x: [x + w(4), x - w(6, 4), x * w(7, 6, 4), x / 3.0, tf.maximum(x, w(4)),
                                 tf.minimum(x, 0.5), tf.math.squared_difference(x, w(4)), tf.add_n([x, x, x]),
                                 tf.math.floordiv(x, 0.7), tf.math.floormod(x, 0.7), nn.relu(x + w(4))],
        "logic": lambda x: [tf.cast(tf.equal(x, x), tf.float32), tf.cast(tf.logical_and(x > 0, x < 1), tf.float32),
                            tf.cast(tf.logical_or(x >= 1, x <= -1), tf.int32), tf.where(tf.logical_not(x > 0), x, 2 * x),
                            tf.cast(tf.not_equal(x, w(4)), tf.float32), tf.reduce_any(x > 2.9, 1), tf.reduce_all(x > -2.9, 2)],
        "reduce": lambda x: [tf.reduce_mean(x, [1, 2]), tf.reduce_sum(x, -1, keepdims=True), tf.reduce_max(x, 1),
                             tf.reduce_min(x, [2]), tf.reduce_prod(x, 3), tf.argmax(x, -1), tf.argmin(x, 1, tf.int32),
                             tf.cumsum(x, 1, exclusive=True, reverse=True), *tf.math.top_k(x, 2)],
        "convolution": lambda x: [nn.conv2d(x, k, 2, "SAME"), nn.relu(nn.conv2d(x, k, 1, "VALID") + w(5)),
                                  nn.conv2d(x, k, 1, "SAME", dilations=2), nn.relu6(nn.depthwise_conv2d(x, d, [1, 2, 2, 1], "SAME")),
                                  nn.conv2d(x, w(3, 3, 2, 6), 1, "SAME"),
                                  nn.depthwise_conv2d(x, d, [1, 1, 1, 1], "SAME", dilations=[2, 2])],
        "transposed": lambda x: [nn.conv2d_transpose(x, t, [1, 14, 12, 5], 2, "SAME"),
                                 nn.conv2d_transpose(x, t, [1, 15, 13, 5], 2, "VALID"),
                                 nn.conv2d_transpose(x, t, [1, 21, 18, 5], 3, "SAME") + w(5)],
        "pools": lambda x: [nn.max_pool2d(x, 3, 2, "SAME"), nn.avg_pool2d(x, 3, 2, "SAME"), nn.avg_pool2d(x, 2, 2, "VALID"),
                            nn.lrn(x, 2, 1.0, 0.3, 0.75), nn.l2_normalize(x, -1)],
        "matrices": lambda x: [tf.reshape(x, [42, 4]) @ m, nn.relu(tf.tensordot(x, m, 1) + w(6)),
                               tf.matmul(x, x, transpose_b=True), tf.matmul(x, x, transpose_a=True)],
        "resize": lambda x: [tf.compat.v1.image.resize_bilinear(x, [9, 13], align_corners=a, half_pixel_centers=h)
                             for a, h in ((True, False), (False, True), (False, False))]
                            + [tf.compat.v1.image.resize_nearest_neighbor(x, [9, 13], align_corners=a, half_pixel_centers=h)
                               for a, h in ((True, False), (False, True), (False, False))],
        "moves": lambda x: [tf.transpose(x, [0, 3, 1, 2]), tf.concat([x, 2 * x], 2), tf.stack([x, -x], 1), tf.expand_dims(x, 2),
                            tf.squeeze(x, 0), tf.reverse(x, [1, 2]), tf.tile(x, [1, 2, 1, 3]), *tf.split(x, 2, 3),
                            *tf.split(x, [1, 3, -1], 1), *tf.unstack(x, axis=2)[:2], tf.broadcast_to(x[..., :1], [1, 7, 6, 5])],
        "pads": lambda x: [tf.pad(x, [[0, 0], [1, 2], [0, 1], [3, 0]]), tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]], constant_values=2.0),
                           tf.pad(x, [[0, 0], [2, 1], [1, 2], [0, 0]], "REFLECT"), tf.pad(x, [[0, 0], [2, 1], [1, 2], [0, 0]], "SYMMETRIC")],
        "blocks": lambda x: [nn.depth_to_space(x, 2), nn.space_to_depth(x[:, :6], 2), tf.space_to_batch(x, [2, 3], [[1, 0], [0, 0]]),
                             tf.batch_to_space(tf.tile(x, [4, 1, 1, 1]), [2, 2], [[1, 0], [0, 1]])],
        "gathers": lambda x: [tf.gather(x, [3, 0, 0], axis=1), tf.gather_nd(x, [[0, 1], [0, 5]]), tf.slice(x, [0, 1, 0, 2], [1, 3, -1, 1]),
                              tf.one_hot(tf.argmax(x, -1), 4, 2.0, -1.0), tf.gather(q(w(9, 3)), tf.argmax(x, -1)),
                              tf.gather(tf.reshape(x, [7, 24]), tf.argsort(tf.reshape(x, [7, 24])[:, :3]), batch_dims=1)],
        "shapes": lambda x: [tf.shape(x), tf.fill([2, 3], x[0, 0, 0, 0]), tf.zeros_like(x) + x, tf.cast(tf.range(0.0, 5.0), tf.float32) + x[0, 0, 0, 0]],
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["unary", "positive", "activations", "arithmetic", "logic", "reduce", "convolution", "transposed", "pools", "matrices",
     "resize", "moves", "pads", "blocks", "gathers", "shapes"],
)  # fmt: skip
def test_operators_are_those_of_litert(name: str, tmp_path: Path) -> None:
    agrees(convert(cases()[name], tmp_path, X))


def test_gelu(tmp_path: Path) -> None:
    """The converter writes it in parts; the operator itself is put in the place of another."""
    path = convert(tensorflow().nn.elu, tmp_path, X)
    for approximate in (False, True):
        model = _tflite.read(path)
        model.operatorCodes[0].builtinCode, model.operatorCodes[0].deprecatedBuiltinCode = 150, 127  # GELU
        op = model.subgraphs[0].operators[0]
        op.builtinOptionsType, op.builtinOptions = 116, _tflite.schema().GeluOptionsT()
        op.builtinOptions.approximate = approximate
        path.write_bytes(_tflite.pack(model))
        assert agrees(path).proto.graph.node[0].op_type == "Gelu"


def test_integers(tmp_path: Path) -> None:
    tf = tensorflow()
    agrees(
        convert(
            lambda x: [x // 3, x % 3, x + 1, tf.maximum(x, 2), tf.cast(x, tf.float32)], tmp_path, (2, 5), dtype=tf.int32
        )
    )


SLICES = st.tuples(
    *(st.tuples(st.integers(-n, n), st.integers(-n, n), st.sampled_from([1, 2, -1, -2])) for n in (7, 6, 4))
)


@settings(max_examples=8, deadline=None)
@given(
    slices=SLICES, masks=st.tuples(*[st.integers(0, 7)] * 2), shrink=st.sampled_from([0, 0, 1, 4]), new=st.booleans()
)
def test_strided_slices(slices: Any, masks: Any, shrink: int, new: bool, tmp_path_factory: Any) -> None:
    tf = tensorflow()
    begin, end, steps = (list(v) for v in zip(*slices, strict=True))
    sizes = (7, 6, 4)
    for axis in range(3):
        if shrink >> axis & 1:
            begin[axis], steps[axis] = begin[axis] % sizes[axis], 1
    options = {"begin_mask": masks[0], "end_mask": masks[1], "shrink_axis_mask": shrink}
    if new:
        begin, end, steps = [0, *begin], [0, *end], [1, *steps]
        options = {k: v << 1 for k, v in options.items()} | {"new_axis_mask": 1}
    x = np.zeros(sizes, np.float32)
    if not np.size(tf.strided_slice(x, begin, end, steps, **options)):
        return
    folder = tmp_path_factory.mktemp("slice")
    agrees(convert(lambda v: tf.strided_slice(v, begin, end, steps, **options) + 0.0, folder, sizes))


@settings(max_examples=6, deadline=None)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    same=st.booleans(),
    size=st.integers(2, 5),
    extra=st.integers(0, 2),
)
def test_transposed_convolutions(
    kernel: int, stride: int, same: bool, size: int, extra: int, tmp_path_factory: Any
) -> None:
    tf = tensorflow()
    w = np.random.default_rng(2).normal(size=(kernel, kernel, 2, 3)).astype(np.float32)
    base = (size - 1) * stride + (1 if same else kernel)
    out = base + min(extra, stride - 1)
    if not same and kernel < stride:
        out = base
    folder = tmp_path_factory.mktemp("up")
    agrees(convert(lambda v: tf.nn.conv2d_transpose(v, w, [1, out, out, 2], stride, "SAME" if same else "VALID"), folder,
                   (1, size, size, 3)))  # fmt: skip


def test_a_dilated_convolution_is_one_convolution(tmp_path: Path) -> None:
    """SPACE_TO_BATCH_ND, the convolution and BATCH_TO_SPACE_ND, as converters before 2021 left them, are one node."""
    tf = tensorflow()
    w = np.random.default_rng(3).normal(size=(3, 3, 4, 2)).astype(np.float32)

    def old(x: Any) -> Any:
        y = tf.space_to_batch(x, [2, 2], [[2, 3], [2, 2]])
        return tf.batch_to_space(tf.nn.relu(tf.nn.conv2d(y, w, 1, "VALID")), [2, 2], [[0, 1], [0, 0]])

    made = agrees(convert(old, tmp_path, X))
    names = [n.op_type for n in made.proto.graph.node]
    assert names.count("Conv") == 1
    assert "Reshape" not in names


def net() -> Any:
    from edgedl.frameworks import keras

    keras().utils.set_random_seed(0)
    L = keras().layers
    x = L.Input((12, 12, 3), name="image")
    y = L.ReLU(6.0)(L.Conv2D(8, 3, strides=2, padding="same")(x))
    y = L.ReLU()(L.DepthwiseConv2D(3)(y) + 0.5)
    y = L.Dense(5, activation="softmax")(L.Flatten()(y))
    return keras().Model(x, y)


def quantize(model: Any, path: Path, **options: Any) -> Path:
    tf = tensorflow()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    for key, value in options.items():
        if key == "types":
            converter.target_spec.supported_types = value
        elif key == "ops":
            converter.target_spec.supported_ops = value
        else:
            setattr(converter, key, value)
    with no_stderr():
        path.write_bytes(converter.convert())
    return path


def test_half_precision_weights_are_exact(tmp_path: Path) -> None:
    tf = tensorflow()
    path = quantize(net(), tmp_path / "half.tflite", types=[tf.float16])
    made = agrees(path)
    assert not made.ranges
    assert {_onnx.dtype_name(t.data_type) for t in made.proto.graph.initializer} <= {"float32", "int64"}


def test_int8_files_keep_their_ranges_and_their_meaning(tmp_path: Path) -> None:
    """Against LiteRT on the file itself, dequantized: the noise of 8 bits (> 20 dB), and the same decisions."""
    tf = tensorflow()
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (40, 12, 12, 3)).astype(np.float32)
    path = quantize(net(), tmp_path / "int8.tflite", representative_dataset=lambda: ([i[None]] for i in x),
                    ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8], inference_input_type=tf.int8,
                    inference_output_type=tf.int8)  # fmt: skip
    made = source(path, LoadOptions())
    assert made.reference is None
    assert "quantized" in made.notes[0]
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    (i,), (o,) = interpreter.get_input_details(), interpreter.get_output_details()
    (scale, zero), (out_scale, out_zero) = i["quantization"], o["quantization"]
    low, high = made.ranges[i["name"]]
    assert low == pytest.approx((-128 - zero) * scale)
    assert high == pytest.approx((127 - zero) * scale)
    ours, theirs = [], []
    for image in x:
        q = np.clip(np.round(image / scale + zero), -128, 127).astype(np.int8)
        interpreter.set_tensor(i["index"], q[None])
        interpreter.invoke()
        theirs.append((interpreter.get_tensor(o["index"])[0].astype(np.float32) - out_zero) * out_scale)
        real = ((q.astype(np.float32) - zero) * scale)[None]
        ours.append(next(iter(run(made.proto, {i["name"]: real}).values()))[0])
    a, b = np.array(ours), np.array(theirs)
    assert 10 * np.log10((b**2).sum() / ((a - b) ** 2).sum()) > 20
    assert (a.argmax(1) == b.argmax(1)).mean() >= 0.9
    assert {n.op_type for n in made.proto.graph.node} <= {
        "Transpose",
        "Conv",
        "Clip",
        "Relu",
        "Gemm",
        "Softmax",
        "Reshape",
        "Add",
    }


def test_a_range_that_cannot_go_below_zero_is_a_relu(tmp_path: Path) -> None:
    """Older converters dropped a ReLU that the range of the quantized result makes superfluous."""
    tf = tensorflow()
    x = np.random.default_rng(0).uniform(-1, 1, (20, 12, 12, 3)).astype(np.float32)
    path = quantize(net(), tmp_path / "m.tflite", representative_dataset=lambda: ([i[None]] for i in x),
                    ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8])  # fmt: skip
    model = _tflite.read(path)
    before = sum(n.op_type in ("Relu", "Clip") for n in source(path, LoadOptions()).proto.graph.node)
    for op in model.subgraphs[0].operators:
        if hasattr(op.builtinOptions, "fusedActivationFunction"):
            op.builtinOptions.fusedActivationFunction = 0
    path.write_bytes(_tflite.pack(model))
    assert before == 2
    assert sum(n.op_type in ("Relu", "Clip") for n in source(path, LoadOptions()).proto.graph.node) == before


def test_weights_by_channel_and_the_old_unsigned_ones() -> None:
    class Q:
        scale, zeroPoint, quantizedDimension = np.array([0.5, 2.0]), np.array([0, 1]), 1

    np.testing.assert_array_equal(dequantized(np.array([[2, 3], [4, 5]], np.int8), Q), [[1, 4], [2, 8]])
    Q.scale, Q.zeroPoint = np.array([0.5]), np.array([128])
    np.testing.assert_array_equal(dequantized(np.array([128, 130], np.uint8), Q), [0, 1])
    Q.scale, Q.zeroPoint, Q.quantizedDimension = np.array([1.0, 2.0, 3.0]), np.array([0]), 0  # as person_detect has it
    np.testing.assert_array_equal(dequantized(np.ones((2, 3), np.int8), Q), [[1, 2, 3]] * 2)


def test_a_fused_lstm_becomes_an_lstm(tmp_path: Path) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    L = tf_keras.layers
    model = tf_keras.Sequential([L.Input((6, 3), batch_size=1), L.LSTM(4, return_sequences=True)])
    tf = tensorflow()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    path = tmp_path / "lstm.tflite"
    with no_stderr():
        path.write_bytes(converter.convert())
    made = agrees(path)
    assert [n.op_type for n in made.proto.graph.node].count("LSTM") == 1
    assert any("starts at zero" in note for note in made.notes)
    loaded = load_tflite(path)
    assert {"LSTM"} <= {type(layer).__name__ for layer in loaded.net._flatten_layers()}


def test_the_keras_model_is_the_file(tmp_path: Path) -> None:
    path = quantize(net(), tmp_path / "half.tflite", types=[tensorflow().float16])
    loaded = load_tflite(path)
    assert loaded.inputs[0].shape == (None, 12, 12, 3)
    assert all(entry["max_relative"] <= 1e-4 for entry in loaded.proof)
    kinds = [type(layer).__name__ for layer in loaded.net.layers]
    assert not {"Permute", "Transpose"} & set(kinds)


def test_other_sizes_are_given_by_the_user(tmp_path: Path) -> None:
    tf = tensorflow()
    w = np.ones((3, 3, 3, 2), np.float32)
    path = convert(lambda x: tf.nn.conv2d(x, w, 2, "SAME"), tmp_path, (1, 8, 8, 3))
    assert _onnx.shape_of(agrees(path, inputs={"x0": "1x5x9x3"}).proto.graph.output[0]) == (1, 3, 5, 2)
    with pytest.raises(UsageError, match="no input 'y'"):
        source(path, LoadOptions(inputs={"y": "1x5x9x3"}))
    with pytest.raises(ModelError, match="do not fit 4 channels"):
        source(path, LoadOptions(inputs={"x0": "1x5x9x4"}))


def test_unknown_operators_are_named_all_at_once(tmp_path: Path) -> None:
    tf = tensorflow()

    def odd(x: Any) -> Any:
        return tf.signal.rfft2d(x), tf.unique(x[0, 0])[0], tf.linalg.diag(x)

    path = convert(odd, tmp_path, (1, 4, 8))
    with pytest.raises(ModelError) as caught:
        source(path, LoadOptions())
    for word in ("RFFT2D", "UNIQUE", "MATRIX_DIAG"):
        assert word in caught.value.message


def recurrent(folder: Path, *layers: Any, quantized: bool = False) -> Path:
    """A .tflite of Keras 3 layers on [1, 6, 3], with random weights: its converter writes a WHILE for each."""
    from edgedl.frameworks import keras

    rng, tf = np.random.default_rng(0), tensorflow()
    model = keras().Sequential([keras().Input((6, 3), batch_size=1), *layers])
    model.set_weights([rng.normal(0, 0.4, w.shape) for w in model.get_weights()])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if quantized else []
    with no_stderr():
        (folder / "rnn.tflite").write_bytes(converter.convert())
    return folder / "rnn.tflite"


def test_loops_become_recurrent_layers(tmp_path: Path) -> None:
    """Outputs and last states, stacked, backwards, in both directions; the result of all is LiteRT's."""
    from edgedl.frameworks import keras

    L = keras().layers
    for layers, kinds in (
        ([L.LSTM(5, return_sequences=True), L.GRU(4, go_backwards=True)], ["GRU", "LSTM"]),
        ([L.Bidirectional(L.GRU(4, reset_after=False, return_sequences=True)), L.SimpleRNN(3)], ["GRU", "GRU", "RNN"]),
    ):
        made = agrees(recurrent(tmp_path, *layers))
        assert sorted(n.op_type for n in made.proto.graph.node if n.op_type in ("LSTM", "GRU", "RNN")) == kinds
    loaded = load_tflite(tmp_path / "rnn.tflite")
    assert {"GRU", "SimpleRNN"} <= {type(layer).__name__ for layer in loaded.net.layers}


def test_a_loop_with_quantized_weights(tmp_path: Path) -> None:
    from edgedl.frameworks import keras

    made = source(recurrent(tmp_path, keras().layers.LSTM(64), quantized=True), LoadOptions())
    assert made.reference is None
    assert "quantized" in made.notes[0]
    assert "LSTM" in {n.op_type for n in made.proto.graph.node}


def test_other_loops_of_fixed_length_are_unrolled(tmp_path: Path) -> None:
    from edgedl.frameworks import keras

    made = agrees(recurrent(tmp_path, keras().layers.GRU(4, activation="softsign", return_sequences=True)))
    assert any("unrolled" in note and "another step" in note for note in made.notes)
    assert not {"GRU", "Loop"} & {n.op_type for n in made.proto.graph.node}


def test_loops_that_call_themselves_are_refused(tmp_path: Path) -> None:
    from edgedl.frameworks import keras

    path = recurrent(tmp_path, keras().layers.SimpleRNN(2))
    whole = path.read_bytes()

    def changed(change: Callable[[Any, Any], None]) -> None:
        model = _tflite.parse(whole, "m")
        (op,) = [o for o in model.subgraphs[0].operators if _tflite.op_name(model, o) == "WHILE"]
        change(model, op)
        path.write_bytes(_tflite.pack(model))
        with pytest.raises(ModelError):
            source(path, LoadOptions())

    def itself(model: Any, op: Any) -> None:
        body = model.subgraphs[op.builtinOptions.bodySubgraphIndex]
        again = type(op)()
        again.opcodeIndex, again.builtinOptionsType = op.opcodeIndex, op.builtinOptionsType
        again.builtinOptions, again.inputs, again.outputs = op.builtinOptions, body.inputs, body.outputs
        body.operators = [again]

    def forever(model: Any, op: Any) -> None:
        body = model.subgraphs[op.builtinOptions.bodySubgraphIndex]
        counters = [n for n, i in enumerate(body.inputs) if body.tensors[i].type == _tflite.INT32]
        for n in counters:
            body.outputs[n] = body.inputs[n]

    changed(itself)
    changed(forever)
    for field in ("condSubgraphIndex", "bodySubgraphIndex"):
        for index in (-1, 0, 77):
            changed(lambda _, op, f=field, i=index: setattr(op.builtinOptions, f, i))


def test_a_loop_that_is_no_recurrent_layer_is_refused(tmp_path: Path) -> None:
    tf = tensorflow()

    def loop(x: Any) -> Any:
        return tf.while_loop(lambda i, y: tf.reduce_sum(y) < 100.0, lambda i, y: (i + 1, y * 2 + 1), [0, x])[1]

    with pytest.raises(ModelError, match="WHILE"):
        source(convert(loop, tmp_path, (1, 3)), LoadOptions())


def test_hostile_files_are_refused(tmp_path: Path) -> None:
    tf = tensorflow()
    w = np.ones((3, 3, 4, 2), np.float32)
    path = convert(lambda x: tf.nn.conv2d(x, w, 2, "SAME"), tmp_path, X)
    whole = path.read_bytes()

    def refused(change: Callable[[Any], None]) -> None:
        model = _tflite.parse(whole, "m")
        change(model)
        path.write_bytes(_tflite.pack(model))
        with pytest.raises(ModelError):
            source(path, LoadOptions())

    def tensors(model: Any) -> Any:
        return model.subgraphs[0].tensors

    def set_shape(index: int, shape: list[int]) -> Callable[[Any], None]:
        return lambda model: setattr(tensors(model)[model.subgraphs[0].operators[0].inputs[index]], "shape", shape)

    def set_options(**values: Any) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            for key, value in values.items():
                setattr(model.subgraphs[0].operators[0].builtinOptions, key, value)

        return change

    def loop(model: Any) -> None:
        op = model.subgraphs[0].operators[0]
        op.inputs[0] = op.outputs[0]

    for change in (
        set_shape(0, [1, 2**31 - 1, 2**31 - 1, 4]), set_shape(0, [1, -7, 6, 4]), set_shape(0, []), set_shape(1, [2**20, 3, 3, 4]),
        set_shape(1, [2, 3, 12]), set_shape(0, [1, 7, 6, 5]), set_options(strideH=0), set_options(strideW=-3),
        set_options(dilationHFactor=2**30), set_options(fusedActivationFunction=77), loop,
        lambda model: setattr(model.subgraphs[0], "outputs", []),
    ):  # fmt: skip
        refused(change)
    for size in range(8, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            source(path, LoadOptions())
    rng = np.random.default_rng(0)
    for _ in range(60):  # vectors whose length lies, offsets that point anywhere: refused, or read as something else
        data = bytearray(whole)
        for place in rng.integers(8, len(whole), 6):
            data[place] = int(rng.integers(256))
        path.write_bytes(bytes(data))
        with contextlib.suppress(ModelError):
            source(path, LoadOptions())


def shared_lists(operators: int, inputs: int, tensors: int, letters: int) -> bytes:
    """A small file whose operators share one list of inputs, and whose tensors one name."""
    import flatbuffers

    s, b = _tflite.schema(), flatbuffers.Builder(1 << 16)
    name, listed = b.CreateString("n" * letters), b.CreateNumpyVector(np.zeros(inputs, np.int32))

    def table(kind: str, **fields: Any) -> Any:
        getattr(s, f"{kind}Start")(b)
        for field, value in fields.items():
            getattr(s, f"{kind}Add{field}")(b, value)
        return getattr(s, f"{kind}End")(b)

    def vector(items: list[Any]) -> Any:
        b.StartVector(4, len(items), 4)
        for item in items:
            b.PrependUOffsetTRelative(item)
        return b.EndVector()

    parts = vector([table("Tensor", Name=name) for _ in range(tensors)])
    steps = vector([table("Operator", Inputs=listed) for _ in range(operators)])
    graphs = vector([table("SubGraph", Tensors=parts, Operators=steps)])
    codes, buffers = vector([table("OperatorCode")]), vector([table("Buffer")])
    b.Finish(table("Model", Subgraphs=graphs, OperatorCodes=codes, Buffers=buffers), b"TFL3")
    return bytes(b.Output())


def test_lists_that_are_shared_over_and_over_are_not_unpacked() -> None:
    _tflite.parse(shared_lists(4, 4, 4, 8), "m")
    for sizes in ((200, 20_000, 1, 1), (1, 1, 200, 100_000)):
        with pytest.raises(ModelError, match="more parts than fit"):
            _tflite.parse(shared_lists(*sizes), "m")


def test_constants_are_not_pooled_in_python() -> None:
    emit, ones = Emit("m"), np.ones((1, 1, 600, 600), np.float32)
    emit("AveragePool", emit.constant(ones), kernel_shape=[300, 300], auto_pad="SAME_UPPER")
    assert [node.op_type for node in emit.nodes] == ["AveragePool"]


def test_every_operator_of_the_table_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "importers" / "tflite.md").read_text()
    assert not [name for name in HANDLERS if f"`{name}`" not in text]


FLOAT = ("mlperf_tiny/ad01_fp32", "mlperf_tiny/pretrainedResnet", "mlperf_tiny/vww_96_float", "tflite_micro/hello_world_float",
         "dtln_speech_enhancement/model_1", "ultraface/version-RFB-320_without_postprocessing",
         "portrait_segmentation/slim_reshape_v2")  # fmt: skip
QUANTIZED = ("coral_test_data/keras_lstm_mnist_ptq", "coral_test_data/mobilenet_v1_0.25_128_quant",
             "coral_test_data/split_concat", "coral_test_data/tf2_mobilenet_v2_1.0_224_ptq",
             "dtln_speech_enhancement/model_quant_1", "mlperf_tiny/ad01_int8", "mlperf_tiny/kws_ref_model",
             "mlperf_tiny/kws_ref_model_float32", "mlperf_tiny/pretrainedResnet_quant", "mlperf_tiny/str_ww_ref_model",
             "mlperf_tiny/vww_96_int8", "siliconlabs_mltk/image_example1", "tflite_micro/hello_world_int8",
             "tflite_micro/person_detect")  # fmt: skip


@pytest.mark.acceptance
@pytest.mark.parametrize("name", FLOAT)
def test_real_float_files(name: str, assets: Path) -> None:
    """Within 1e-4 of LiteRT on the file, as Keras models."""
    loaded = load_tflite(assets / "models" / f"{name}.tflite")
    worst = max(entry["max_relative"] for entry in loaded.proof)
    print(f"\n{name}: {worst:.1e} of LiteRT and ONNX Runtime")
    assert any("LiteRT" in entry["against"] for entry in loaded.proof)
    assert worst <= 1e-4


@pytest.mark.acceptance
@pytest.mark.parametrize("name", QUANTIZED)
def test_real_quantized_files(name: str, assets: Path) -> None:
    """As Keras models within 1e-4 of the dequantized graph; what that is worth is tested where there is data."""
    loaded = load_tflite(assets / "models" / f"{name}.tflite")
    assert max(entry["max_relative"] for entry in loaded.proof) <= 1e-4


@pytest.mark.acceptance
def test_int8_keyword_spotting_has_the_accuracy_of_the_file(assets: Path) -> None:
    """kws_ref_model.tflite on kws01: the int8 file in LiteRT, and what was made of it."""
    tf = tensorflow()
    path = assets / "models/mlperf_tiny/kws_ref_model.tflite"
    data = np.load(assets / "datasets/mlperf_tiny/kws01.npz")
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    (i,), (o,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = i["quantization"]
    theirs = []
    for x in data["x"]:
        interpreter.set_tensor(i["index"], x.reshape(i["shape"]))
        interpreter.invoke()
        theirs.append(int(interpreter.get_tensor(o["index"]).argmax()))
    real = (data["x"].astype(np.float32) - zero) * np.float32(scale)
    ours = load_tflite(path).net.predict(real.reshape(-1, 49, 10, 1), verbose=0).argmax(1)
    accuracy = [float(np.mean(found == data["y"])) for found in (ours, np.array(theirs))]
    print(f"\nkws_ref_model.tflite: {accuracy[0]:.3f} as floats, {accuracy[1]:.3f} as it is")
    assert accuracy[0] >= accuracy[1] - 0.01
