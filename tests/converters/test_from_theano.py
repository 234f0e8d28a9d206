"""Files in the formats of Keras 1.2 and 2.0, written here with h5py, against PyTorch with the kernels turned by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl import comparing
from edgedl.errors import ModelError
from edgedl.model import LoadOptions, load

pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")
pytest.importorskip("h5py", reason="needs pip install 'edgedl[compress]'")
pytest.importorskip("onnx", reason="needs pip install 'edgedl[onnx]'")

import h5py
import torch

from edgedl.converters.from_theano import source
from edgedl.converters.from_theano.layers import HANDLERS
from edgedl.frameworks import tf_keras

pytestmark = pytest.mark.filterwarnings("ignore")
F = torch.nn.functional
RNG = np.random.default_rng(0)
TOLERANCE = 1e-5  # of the largest value: the same arithmetic in another order


def normal(*shape: int) -> Any:
    return RNG.normal(0, 0.3, shape).astype(np.float32)


def write(path: Path, config: Any, weights: dict[str, list[Any]], version: str, backend: str = "") -> Path:
    """A file as `keras.models.save_model` of that version wrote it."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        file.attrs["model_config"] = json.dumps(config).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [n.encode() for n in weights]
        if backend:
            file.attrs["backend"] = group.attrs["backend"] = backend.encode()
        for name, arrays in weights.items():
            own = group.create_group(name)
            names = [f"{name}_param_{i}" for i in range(len(arrays))]
            own.attrs["weight_names"] = [n.encode() for n in names]
            for n, a in zip(names, arrays, strict=True):
                own[n] = a
    return path


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, "trainable": True, **config}}


def conv1(
    name: str, filters: int, rows: int, columns: int, mode: str = "valid", by: int = 1, **more: Any
) -> dict[str, Any]:
    """Keras 1.2's words for a convolution."""
    return layer(
        "Convolution2D", name, nb_filter=filters, nb_row=rows, nb_col=columns, init="glorot_uniform", activation="relu",
        border_mode=mode, subsample=[by, by], dim_ordering="th", bias=True, W_regularizer=None, **more,
    )  # fmt: skip


def conv2(name: str, filters: int, kernel: int, padding: str = "valid", by: int = 1, **more: Any) -> dict[str, Any]:
    """Keras 2.0's."""
    return layer(
        "Conv2D", name, filters=filters, kernel_size=[kernel, kernel], strides=[by, by], padding=padding,
        data_format="channels_first", dilation_rate=[1, 1], activation="linear", use_bias=True, **more,
    )  # fmt: skip


def t(array: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array))


def turned(w: Any) -> Any:
    return t(w[:, :, ::-1, ::-1])


def agrees(path: Path, x: Any, wanted: Any, **options: Any) -> None:
    """The imported model, NHWC, computes what is wanted in the layout of the file."""
    model = load(path, LoadOptions(**options))
    (spec,), (out,) = model.inputs, model.outputs
    fed = x if spec.name not in model.layouts else x.transpose(model.layouts[spec.name])
    found = np.asarray(model.net(fed))
    wanted = np.asarray(wanted)
    if out.name in model.layouts:
        wanted = wanted.transpose(model.layouts[out.name])
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_keras_1_with_theano(tmp_path: Path) -> None:
    """Kernels [out, in, rows, columns], turned; 'same' with stride 2 pads both sides; Flatten in the file's order."""
    w1, b1, w2, b2 = normal(4, 3, 3, 5), normal(4), normal(6, 4, 3, 3), normal(6)
    gamma, beta, mean, var = normal(6), normal(6), normal(6), np.abs(normal(6)) + 0.5
    w3, b3 = normal(6 * 3 * 2, 5), normal(5)
    config = {"class_name": "Sequential", "config": [
        conv1("convolution2d_1", 4, 3, 5, batch_input_shape=[None, 3, 14, 12], input_dtype="float32"),
        layer("MaxPooling2D", "maxpooling2d_1", pool_size=[2, 2], strides=[2, 2], border_mode="valid", dim_ordering="th"),
        conv1("convolution2d_2", 6, 3, 3, "same", 2),
        layer("BatchNormalization", "batchnormalization_1", epsilon=1e-3, mode=0, axis=1, momentum=0.99),
        layer("Dropout", "dropout_1", p=0.5),
        layer("Flatten", "flatten_1"),
        layer("Dense", "dense_1", output_dim=5, activation="softmax", bias=True, input_dim=None),
    ]}  # fmt: skip
    path = write(tmp_path / "old.h5", config, {
        "convolution2d_1": [w1, b1], "maxpooling2d_1": [], "convolution2d_2": [w2, b2],
        "batchnormalization_1": [gamma, beta, mean, var], "dropout_1": [], "flatten_1": [], "dense_1": [w3, b3],
    }, "1.2.2")  # fmt: skip
    x = normal(2, 3, 14, 12)
    y = F.max_pool2d(F.relu(F.conv2d(t(x), turned(w1), t(b1))), 2)
    y = F.relu(F.conv2d(y, turned(w2), t(b2), stride=2, padding=1))
    y = F.batch_norm(y, t(mean), t(var), t(gamma), t(beta), eps=1e-3)
    agrees(path, x, F.softmax(y.flatten(1) @ t(w3) + t(b3), dim=1))
    assert "taken for Theano's" in source(path, LoadOptions()).notes[0]
    load(path, LoadOptions()).net.save(tmp_path / "new.keras")
    held = comparing.compare(str(tmp_path / "new.keras"), str(path), {"form": "keras"})
    assert held["same"]
    assert "onnxruntime" in held["outputs"][0]["against"]  # to its own graph, node by node


def test_keras_2_with_theano_and_branches(tmp_path: Path) -> None:
    """A graph: even kernel with 'same' (padding before), ZeroPadding, Concatenate on axis 1, pools with 'same'."""
    w1, w2 = normal(2, 2, 3, 4), normal(3, 3, 3, 4)  # rows, columns, in, out
    b1, b2 = normal(4), normal(4)

    def node(*names: str) -> list[Any]:
        return [[[n, 0, 0, {}] for n in names]]

    layers = [
        {**layer("InputLayer", "input_1", batch_input_shape=[None, 3, 9, 9], dtype="float32", sparse=False), "inbound_nodes": []},
        {**conv2("a", 4, 2, "same"), "inbound_nodes": node("input_1")},
        {**layer("ZeroPadding2D", "pad", padding=[[1, 1], [1, 1]], data_format="channels_first"), "inbound_nodes": node("input_1")},
        {**conv2("b", 4, 3), "inbound_nodes": node("pad")},
        {**layer("Concatenate", "both", axis=1), "inbound_nodes": node("a", "b")},
        {**layer("AveragePooling2D", "pool", pool_size=[3, 3], strides=[2, 2], padding="same", data_format="channels_first"), "inbound_nodes": node("both")},
        {**layer("GlobalMaxPooling2D", "top", data_format="channels_first"), "inbound_nodes": node("pool")},
    ]  # fmt: skip
    for entry in layers:
        entry["name"] = entry["config"]["name"]
    config = {"class_name": "Model", "config": {
        "name": "model_1", "layers": layers, "input_layers": [["input_1", 0, 0]], "output_layers": [["top", 0, 0]]}}  # fmt: skip
    w1, w2 = normal(2, 2, 3, 4), normal(3, 3, 3, 4)
    path = write(tmp_path / "graph.h5", config, {"a": [w1, b1], "b": [w2, b2]}, "2.0.6", "theano")
    x = normal(2, 3, 9, 9)
    a = F.conv2d(F.pad(t(x), (1, 0, 1, 0)), turned(w1.transpose(3, 2, 0, 1)), t(b1))
    b = F.conv2d(t(x), turned(w2.transpose(3, 2, 0, 1)), t(b2), padding=1)
    y = F.avg_pool2d(torch.cat([a, b], 1), 3, 2, padding=1, count_include_pad=False)
    agrees(path, x, y.amax((2, 3)))


@pytest.mark.parametrize("order", [None, "channels_first", "channels_last"])
def test_keras_2_channels_first_with_tensorflow(order: str | None, tmp_path: Path) -> None:
    """No turning; TensorFlow's uneven 'same'; a Flatten that is told channels_first moves them last."""
    w, b, d = normal(3, 3, 3, 4), normal(4), normal(4 * 4 * 5, 2)
    flatten = {} if order is None else {"data_format": order}
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [
        conv2("c", 4, 3, "same", 2, batch_input_shape=[None, 3, 8, 10]),
        layer("Flatten", "f", **flatten),
        layer("Dense", "d", units=2, activation="linear", use_bias=False),
    ]}}  # fmt: skip
    path = write(tmp_path / "tf.h5", config, {"c": [w, b], "d": [d]}, "2.2.4", "tensorflow")
    x = normal(2, 3, 8, 10)
    y = F.conv2d(F.pad(t(x), (0, 1, 0, 1)), t(w.transpose(3, 2, 0, 1)), t(b), stride=2)
    agrees(path, x, (y.permute(0, 2, 3, 1) if order == "channels_first" else y).reshape(2, -1) @ t(d))


def test_transposed_and_dilated_convolutions_are_turned_too(tmp_path: Path) -> None:
    w, v, b = normal(3, 3, 4, 3), normal(3, 3, 4, 2), normal(4)  # transposed: rows, columns, out, in
    config = {"class_name": "Sequential", "config": [
        layer("Conv2DTranspose", "up", filters=4, kernel_size=[3, 3], strides=[2, 2], padding="valid", activation="tanh",
              data_format="channels_first", use_bias=True, batch_input_shape=[None, 3, 5, 6]),
        {**conv2("wide", 2, 3), "config": {**conv2("wide", 2, 3)["config"], "dilation_rate": [2, 2], "use_bias": False}},
    ]}  # fmt: skip
    path = write(tmp_path / "up.h5", config, {"up": [w, b], "wide": [v]}, "2.0.8", "theano")
    x = normal(2, 3, 5, 6)
    y = torch.tanh(F.conv_transpose2d(t(x), turned(w.transpose(3, 2, 0, 1)), t(b), stride=2))
    agrees(path, x, F.conv2d(y, turned(v.transpose(3, 2, 0, 1)), dilation=2))


def test_transposed_convolutions_of_keras_1_say_their_shape(tmp_path: Path) -> None:
    """Its kernels are [out, in, rows, columns]; with a stride of 2, 5 rows become 11 or 12."""
    w, b, x = normal(3, 3, 3, 3), normal(3), normal(2, 3, 5, 6)
    up = conv1("up", 3, 3, 3, by=2, batch_input_shape=[None, 3, 5, 6], output_shape=[None, 3, 12, 13])
    config = {"class_name": "Sequential", "config": [{**up, "class_name": "Deconvolution2D"}]}
    path = write(tmp_path / "up.h5", config, {"up": [w, b]}, "1.2.2", "theano")
    kernel = turned(w.transpose(1, 0, 2, 3))
    y = F.conv_transpose2d(t(x), kernel, t(b), stride=2, output_padding=(1, 0))
    agrees(path, x, torch.relu(y))
    up["config"]["output_shape"] = [None, 3, 15, 13]
    config["config"] = [{**up, "class_name": "Deconvolution2D"}]
    with pytest.raises(ModelError, match="output_shape"):
        load(write(path, config, {"up": [w, b]}, "1.2.2", "theano"))


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_layers_of_a_nested_model_keep_their_own_weights(frozen: bool, tmp_path: Path) -> None:
    """Keras writes all that is trained first: the mean of a frozen layer does not wait for that."""
    more = {"mode": 0, "epsilon": 1e-3, "axis": 1}
    norms = [layer("BatchNormalization", n, **more) for n in "ab"]
    norms[0]["config"]["batch_input_shape"] = [None, 3, 4, 4]
    for one in norms:
        one["config"]["trainable"] = not frozen
    inner = {"class_name": "Sequential", "config": {"name": "base", "layers": norms}}
    act = layer("Activation", "r", activation="relu", data_format="channels_first")
    a, b = ([normal(3), normal(3), normal(3), normal(3) ** 2 + 1] for _ in range(2))
    weights = [*a, *b] if frozen else [*a[:2], *b[:2], *a[2:], *b[2:]]
    path = write(tmp_path / "m.h5", {"class_name": "Sequential", "config": [inner, act]}, {"base": weights}, "1.2.2")
    x = normal(2, 3, 4, 4)
    y = t(x)
    for gamma, beta, mean, variance in (a, b):
        y = F.batch_norm(y, t(mean), t(variance), t(gamma), t(beta), eps=1e-3)
    agrees(path, x, torch.relu(y))


def test_a_shape_without_a_name_is_that_of_the_only_input(tmp_path: Path) -> None:
    one = conv1("c", 2, 3, 3)
    path = write(
        tmp_path / "m.h5",
        {"class_name": "Sequential", "config": [one]},
        {"c": [normal(2, 3, 3, 3), normal(2)]},
        "1.2.2",
    )
    model = load(path, LoadOptions(inputs={"": "?x3x8x9"}))
    assert model.inputs[0].shape == (None, 8, 9, 3)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_gates_of_keras_1_are_arrays_of_their_own(kind: str, tmp_path: Path) -> None:
    """LSTM i, c, f, o and GRU z, r, h, three arrays each; the oracle is tf_keras with them joined in its order."""
    units, gates = 5, 4 if kind == "LSTM" else 3
    arrays = [a for _ in range(gates) for a in (normal(3, units), normal(units, units), normal(units))]
    config = {"class_name": "Sequential", "config": [
        layer(kind, "rnn", output_dim=units, activation="tanh", inner_activation="hard_sigmoid", return_sequences=False,
              go_backwards=True, stateful=False, batch_input_shape=[None, 7, 3]),
    ]}  # fmt: skip
    config["config"].append(conv_free := layer("Reshape", "r", target_shape=[units, 1]))
    conv_free["config"]["dim_ordering"] = "th"  # so that the file is one of Theano's
    path = write(tmp_path / "rnn.h5", config, {"rnn": arrays}, "1.2.0")
    order = (0, 2, 1, 3) if kind == "LSTM" else (0, 1, 2)
    L = tf_keras().layers
    more = {} if kind == "LSTM" else {"reset_after": False}
    oracle = getattr(L, kind)(units, recurrent_activation="hard_sigmoid", go_backwards=True, **more)
    x = normal(4, 7, 3)
    oracle(x)
    oracle.set_weights([np.concatenate([arrays[3 * g + i] for g in order], axis=-1) for i in range(3)])
    agrees(path, x, np.asarray(oracle(x))[..., None])


def test_all_unknown_layers_are_named_at_once(tmp_path: Path) -> None:
    config = {"class_name": "Sequential", "config": [
        conv1("c", 2, 3, 3, batch_input_shape=[None, 1, 8, 8]),
        layer("MaxoutDense", "m", output_dim=3),
        layer("Highway", "h"),
        layer("Merge", "dotted", mode="dot"),
    ]}  # fmt: skip
    path = write(tmp_path / "m.h5", config, {"c": [normal(2, 1, 3, 3), normal(2)]}, "1.1.0")
    with pytest.raises(ModelError) as caught:
        load(path)
    for word in ("'m' (MaxoutDense)", "'h' (Highway)", "'dotted' (Merge)"):
        assert word in caught.value.message


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    one = conv1("c", 2, 3, 3, batch_input_shape=[None, 1, 8, 8])
    sequential = {"class_name": "Sequential", "config": [one]}
    weights = {"c": [normal(2, 1, 3, 3), normal(2)]}
    waits = {**one, "name": "c", "inbound_nodes": [[["c", 0, 0]]]}
    cyclic = {"class_name": "Model", "config": {"layers": [waits], "input_layers": [], "output_layers": [["c", 0, 0]]}}
    cases: dict[str, tuple[Any, Any]] = {
        "weightless": (sequential, {}),
        "rank": (sequential, {"c": [normal(3), normal(2)]}),
        "channels": (sequential, {"c": [normal(2, 5, 3, 3), normal(2)]}),
        "cyclic": (cyclic, weights),
        "size": ({"class_name": "Sequential", "config": [{**one, "config": {**one["config"], "subsample": [0, "x"]}}]}, weights),
        "shape": ({"class_name": "Sequential", "config": [{**one, "config": {**one["config"], "batch_input_shape": 3}}]}, weights),
        "text": (sequential, {"c": [np.array([b"x"] * 18).reshape(2, 1, 3, 3), normal(2)]}),
    }  # fmt: skip
    for name, (config, arrays) in cases.items():
        with pytest.raises(ModelError):
            load(write(tmp_path / f"{name}.h5", config, arrays, "1.2.2"))
    whole = write(tmp_path / "whole.h5", sequential, weights, "1.2.2").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError):
        load(tmp_path / "cut.h5")


def test_one_array_under_a_thousand_names_is_not_read_a_thousand_times(tmp_path: Path) -> None:
    one = conv1("c", 2, 3, 3, batch_input_shape=[None, 1, 8, 8])
    arrays = {"c": [np.zeros(1 << 20, np.float32)]}
    path = write(tmp_path / "m.h5", {"class_name": "Sequential", "config": [one]}, arrays, "1.2.2")
    with h5py.File(path, "r+") as file:
        names = file["model_weights/c"].attrs
        names["weight_names"] = [names["weight_names"][0]] * 1000
    with pytest.raises(ModelError, match="unpack to"):
        load(path)


def test_every_layer_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "importers" / "theano.md").read_text()
    assert not [name for name in HANDLERS if f"`{name}`" not in text]
