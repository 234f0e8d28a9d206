"""Loading `.keras` and `.h5`: the outputs are those of the framework that wrote the file; bad files get one sentence."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedl import model as models
from edgedl.errors import ModelError, UnsafeModelError

pytest.importorskip("tf_keras", reason="needs pip install 'edgedl[compress]'")

from edgedl.frameworks import keras, tensorflow, tf_keras

TOLERANCE = 1e-5  # float32 on both sides: the sums run in another order


def close(ours: Any, theirs: Any) -> None:
    """Outputs (one or several) within TOLERANCE of the largest value."""
    nest = tensorflow().nest
    for a, b in zip(nest.flatten(ours), nest.flatten(theirs), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= TOLERANCE * max(np.abs(b).max(), 1e-6)


def random_weights(net: Any) -> Any:
    """Weights of a trained kind: Keras starts biases, means and embeddings at values that hide mistakes."""
    rng = np.random.default_rng(5)
    net.set_weights([np.abs(rng.normal(0.6, 0.3, w.shape)).astype(w.dtype) * 0.3 + 0.05 for w in net.get_weights()])
    return net


def k() -> Any:
    return tf_keras().layers


def sequential(*layers: Any) -> Any:
    return tf_keras().Sequential(list(layers))


def image(*layers: Any, shape: tuple[int | None, ...] = (12, 10, 4)) -> Any:
    return sequential(k().Input(shape), *layers)


def frames(*layers: Any, shape: tuple[int | None, ...] = (9, 6)) -> Any:
    return sequential(k().Input(shape), *layers)


def tf_functions() -> Any:
    """The TensorFlow functions that people put between layers."""
    tf = tensorflow()
    x = k().Input((8, 8, 4), name="x")
    y = tf.nn.relu6(x * 2.0 + 1.0 - x / 3.0)
    y = tf.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]])[:, 1:-1, ::2, :]
    y = tf.concat([y, tf.nn.silu(y)], axis=-1)
    y = tf.image.resize(y, (4, 4))
    z = tf.reshape(y, [tf.shape(y)[0], 16, 8])
    z = tf.transpose(z, perm=[0, 2, 1])
    a, b = tf.split(z, 2, axis=1)
    z = tf.matmul(a, b, transpose_b=True) + tf.reduce_mean(a, axis=-1, keepdims=True)
    z = tf.nn.softmax(z / tf.sqrt(16.0)) ** 2 + tf.math.l2_normalize(z, axis=-1)
    z = tf.clip_by_value(tf.stack([z, -z], axis=1), -0.5, 0.8)[:, 0]
    z = tf.math.maximum(z, tf.expand_dims(z[:, 0], 1)) * np.arange(1, 5, dtype=np.float32)
    z = tf.nn.gelu(z) + tf.cast(z > 0.1, tf.float32)
    return tf_keras().Model(x, [k().Dense(3)(tf.squeeze(z[:, :1], 1)), tf.math.reduce_max(z, axis=[1, 2])])


def nested() -> Any:
    tf = tensorflow()
    inner = tf_keras().Sequential([k().Input((None, None, 3)), k().Conv2D(4, 3, 2), k().BatchNormalization()])
    node = k().Input((None, None, 3))
    backbone = tf_keras().Model(node, [inner(node), tf.reduce_mean(inner(node), [1, 2])], name="backbone")
    x = k().Input((16, 16, 3))
    features, pooled = backbone(x)
    twice = backbone(x[:, ::-1])[1]
    y = k().Concatenate()([k().GlobalMaxPooling2D()(features), pooled, twice])
    return tf_keras().Model(x, k().Dense(2)(y))


def shared() -> Any:
    dense, embed = k().Dense(5, activation="tanh"), k().Embedding(20, 4, mask_zero=True)
    a, b = k().Input((6,), dtype="int32", name="a"), k().Input((6,), dtype="int32", name="b")
    left, right = (dense(k().LSTM(5, name=f"lstm_{n}")(embed(t))) for n, t in (("a", a), ("b", b)))
    return tf_keras().Model([a, b], [k().Dot(1)([left, right]), k().Subtract(name="gap")([left, right])])


def attention() -> Any:
    x, memory = k().Input((7, 8)), k().Input((5, 8))
    y, scores = k().MultiHeadAttention(2, 4, value_dim=3)(x, memory, return_attention_scores=True)
    z = k().MultiHeadAttention(4, 2)(y, y, y, use_causal_mask=True)
    w = k().Attention(use_scale=True)([z, memory]) + k().AdditiveAttention()([z, memory])
    return tf_keras().Model([x, memory], [k().LayerNormalization()(x + w), scores])


def same_names() -> Any:
    """A layer called as Keras would call its own operation, and two that only a slash sets apart."""
    tf = tensorflow()
    x = k().Input((6,), name="x")
    y = k().Multiply(name="multiply")([x * 2.0, x * 3.0])
    y = k().Dense(3, name="a/b", bias_initializer=tf.constant_initializer(0.5))(y)
    return tf_keras().Model(x, k().Dense(2, name="a_b")(y) * 1.5)


def normalized() -> Any:
    adapted = k().Normalization()
    adapted.adapt(np.random.default_rng(0).normal(3, 2, (50, 12, 10, 4)).astype(np.float32))
    return image(k().Rescaling(1 / 255.0, offset=-0.5), k().Resizing(8, 8), adapted, k().RandomFlip(), k().Conv2D(3, 3))


KERAS2: dict[str, Callable[[], Any]] = {
    "depthwise": lambda: image(
        k().DepthwiseConv2D(3, depth_multiplier=2),
        k().SeparableConv2D(5, 3, padding="same"),
        k().Conv2D(8, 1, groups=1),
    ),
    "grouped": lambda: image(k().Conv2D(8, 3, groups=2, use_bias=False), k().Conv2D(4, 3, dilation_rate=2)),
    "transposed": lambda: image(
        k().Conv2DTranspose(3, 4, 2, padding="same", output_padding=1), k().UpSampling2D(2, interpolation="bilinear")
    ),
    "padding": lambda: image(
        k().ZeroPadding2D(((1, 0), (2, 1))), k().Cropping2D(1), k().AveragePooling2D(3, 2, "same")
    ),
    "activations": lambda: image(
        k().LeakyReLU(0.1),
        k().Conv2D(4, 1),
        k().PReLU(shared_axes=[1, 2]),
        k().ELU(0.5),
        k().Conv2D(4, 1, activation=k().LeakyReLU(0.3)),
        k().ReLU(6.0, 0.1, 0.2),
        k().ThresholdedReLU(0.3),
        k().Activation("swish"),
        k().Dense(4, activation="hard_sigmoid"),
        k().Softmax(axis=[1, 2]),
    ),
    "norms": lambda: image(
        k().BatchNormalization(scale=False),
        k().LayerNormalization(axis=[1, 2]),
        k().GroupNormalization(2),
        k().Dense(3),
    ),
    "training only": lambda: image(
        k().Dropout(0.5),
        k().SpatialDropout2D(0.1),
        k().GaussianNoise(0.2),
        k().AlphaDropout(0.1),
        k().Flatten(),
        k().Dense(2),
    ),
    "regularized": lambda: frames(
        k().Dense(4, kernel_regularizer="l2", kernel_constraint="non_neg"), k().Permute((2, 1))
    ),
    "shapes": lambda: frames(k().Reshape((3, 18)), k().Permute((2, 1)), k().Flatten(), k().RepeatVector(3)),
    "rnn": lambda: frames(
        k().LSTM(5, return_sequences=True),
        k().GRU(4, return_sequences=True, reset_after=False),
        k().GRU(4, return_sequences=True, go_backwards=True),
        k().SimpleRNN(3),
    ),
    "old rnn": lambda: frames(k().LSTM(5, recurrent_activation="hard_sigmoid", unit_forget_bias=False)),
    "bidirectional": lambda: frames(
        k().Masking(0.0),
        k().Bidirectional(k().LSTM(4, return_sequences=True), merge_mode="sum"),
        k().Bidirectional(k().GRU(3), backward_layer=k().GRU(3, go_backwards=True)),
    ),
    "cells": lambda: frames(k().RNN([k().LSTMCell(4), k().GRUCell(3)])),
    "conv lstm": lambda: sequential(k().Input((4, 8, 8, 2)), k().ConvLSTM2D(3, 3)),
    "time distributed": lambda: sequential(
        k().Input((4, 8, 8, 2)), k().TimeDistributed(k().Conv2D(3, 3)), k().TimeDistributed(k().Flatten()), k().Dense(2)
    ),
    "conv1d": lambda: frames(k().Conv1D(4, 3, padding="causal"), k().MaxPooling1D(2), k().GlobalAveragePooling1D()),
    "unknown sizes": lambda: image(k().Conv2D(4, 3), k().GlobalAveragePooling2D(), k().Dense(2), shape=(None, None, 3)),
    "unknown time": lambda: frames(k().GRU(4, return_sequences=True), k().Dense(2), shape=(None, 6)),
    "words": lambda: sequential(k().Input((7,)), k().Embedding(11, 4), k().GlobalMaxPooling1D(), k().Dense(2)),
    "same names": same_names,
    "normalized": normalized,
    "tf functions": tf_functions,
    "nested": nested,
    "shared": shared,
    "attention": attention,
}


def inputs_of(net: Any, seed: int = 3) -> list[Any]:
    rng = np.random.default_rng(seed)
    made = []
    for tensor in net.inputs:
        shape = (4, *(s or 20 for s in tensor.shape[1:]))
        ids = tensor.dtype == "int32" or any(type(layer).__name__ == "Embedding" for layer in net.layers)
        made.append(rng.integers(0, 11, shape).astype("int32") if ids else rng.normal(size=shape).astype("float32"))
    return made


def same_as(net: Any, loaded: models.Model, *, seed: int = 3) -> None:
    x = inputs_of(net, seed)
    close(loaded.net(x, training=False), net(x if len(x) > 1 else x[0], training=False))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KERAS2)
def test_keras2_h5_is_rebuilt_with_the_same_outputs(name: str, tmp_path: Path) -> None:
    net = KERAS2[name]()
    if name != "normalized":
        random_weights(net)
    net.save(tmp_path / "m.h5")
    loaded = models.load(tmp_path / "m.h5")
    assert loaded.net.__class__.__module__.startswith("keras.")
    assert [t.name for t in loaded.inputs] == net.input_names
    assert all(t.shape[0] is None for t in (*loaded.inputs, *loaded.outputs))
    same_as(net, loaded)
    loaded.save(tmp_path)
    restored = models.Model.restore(tmp_path)
    assert restored.inputs == loaded.inputs
    assert restored.outputs == loaded.outputs
    same_as(net, restored, seed=4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["depthwise", "tf functions", "shared"])
def test_zips_of_tf_keras_are_rebuilt_too(name: str, tmp_path: Path) -> None:
    net = random_weights(KERAS2[name]())
    net.save(tmp_path / "m.keras")
    same_as(net, models.load(tmp_path / "m.keras"))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("name", ["cnn", "lstm", "transformer", "twotower", "multi_io", "shared", "nested"])
@pytest.mark.filterwarnings("ignore")
def test_keras3_files(zoo: Any, name: str, suffix: str, tmp_path: Path) -> None:
    net, x, _ = zoo(name)
    net.save(tmp_path / f"m.{suffix}")
    loaded = models.load(tmp_path / f"m.{suffix}")
    assert [t.name for t in loaded.inputs] == [t.name for t in net.inputs]
    assert [t.name for t in loaded.outputs] == net.output_names
    probe = [v[:8] for v in x.values()] if isinstance(x, dict) else x[:8]
    close(loaded.net(probe), net(probe))


def test_a_sequential_model_becomes_functional(tmp_path: Path) -> None:
    L = keras().layers
    net = keras().Sequential([keras().Input((6,), name="numbers"), L.Dense(4, activation="relu"), L.Dense(2)])
    net.save(tmp_path / "m.keras")
    loaded = models.load(tmp_path / "m.keras")
    assert type(loaded.net).__name__ == "Functional"
    assert loaded.inputs[0].shape == (None, 6)
    x = np.eye(6, dtype=np.float32)
    close(loaded.net(x), net(x))


def test_dicts_of_outputs_half_precision_and_fixed_batches_are_made_plain(tmp_path: Path) -> None:
    L = keras().layers
    x = keras().Input(batch_shape=(1, 6), name="numbers")
    dense = L.Dense(4, dtype="mixed_float16")
    inner = keras().Sequential([keras().Input((4,)), L.Dense(3)])
    net = keras().Model({"numbers": x}, {"b": L.Dense(2, name="b")(dense(x)), "a": inner(dense(x * 0.5))})
    net.save(tmp_path / "m.keras")
    loaded = models.load(tmp_path / "m.keras")
    assert loaded.inputs[0].shape == (None, 6)
    assert all(s.dtype == "float32" for s in loaded.outputs)
    assert "half" in loaded.notes[0]
    value = np.full((1, 6), 0.25, np.float32)
    theirs = net({"numbers": value})
    for ours, key in zip(loaded.net([value]), sorted(theirs), strict=True):
        np.testing.assert_allclose(ours, theirs[key], atol=2e-3)  # the original computes in float16


def test_loading_is_silent(small: Path) -> None:
    """TensorFlow's start-up lines stay out of the user's terminal."""
    code = "import sys; from edgedl import model; print(model.load(sys.argv[1]).history[0])"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("TF_", "GRPC_", "GLOG_", "ABSL_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(small / "old" / "m.keras")],
        capture_output=True,
        text=True,
        env=clean,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.stdout == f"loaded m.keras (Keras {tf_keras().__version__}, rebuilt in Keras {keras().__version__})\n"


def test_a_file_by_any_other_name(zoo: Any, tmp_path: Path) -> None:
    net, x, _ = zoo("cnn")
    net.save(tmp_path / "m.keras")
    (tmp_path / "m.keras").rename(tmp_path / "download.bin")
    close(models.load(tmp_path / "download.bin").net(x[:4]), net(x[:4]))


# ---- files that must be refused, each with one sentence


def refused(path: Path, *words: str, error: type[ModelError] = ModelError, **options: Any) -> ModelError:
    with pytest.raises(error) as caught:
        models.load(path, **options)
    for word in (path.name, *words):
        assert word in caught.value.message
    assert caught.value.next
    assert "Traceback" not in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = keras().Sequential([keras().Input((6,)), keras().layers.Dense(4), keras().layers.Dense(2)])
    folder = tmp_path_factory.mktemp("small")
    net.save(folder / "m.keras")
    net.save(folder / "m.h5")
    (folder / "old").mkdir()
    tf_keras().Sequential([k().Input((6,)), k().Dense(4), k().ReLU()]).save(folder / "old" / "m.keras")
    return folder


def repacked(source: Path, out: Path, **members: bytes | None) -> Path:
    """A copy of a zip with some members replaced, added or (None) dropped; `__` in a keyword stands for `/` or `.`."""
    renamed = {key.replace("__", "."): value for key, value in members.items()}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in [*old.namelist(), *(n for n in renamed if n not in old.namelist())]:
            data = renamed[name] if name in renamed else old.read(name)
            if data is not None:
                new.writestr(name, data)
    return out


def edited(small: Path, out: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    config = json.loads(zipfile.ZipFile(small / "m.keras").read("config.json"))
    change(config)
    return repacked(small / "m.keras", out, config__json=json.dumps(config).encode())


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_truncated(small: Path, tmp_path: Path, suffix: str, share: float) -> None:
    whole = (small / f"m.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path)


@pytest.mark.parametrize("position", [0.1, 0.4, 0.7])
def test_flipped_bytes_in_the_zip(small: Path, tmp_path: Path, position: float) -> None:
    data = bytearray((small / "m.keras").read_bytes())
    start = int(len(data) * position)
    data[start : start + 64] = bytes(b ^ 0xFF for b in data[start : start + 64])
    path = tmp_path / "bent.keras"
    path.write_bytes(data)
    refused(path)


def test_h5_of_garbage(tmp_path: Path) -> None:
    path = tmp_path / "noise.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + np.random.default_rng(0).bytes(4000))
    refused(path, "damaged HDF5")


def test_weights_alone(tmp_path: Path) -> None:
    net = tf_keras().Sequential([k().Input((3,)), k().Dense(2)])
    net.save_weights(tmp_path / "w.h5")
    refused(tmp_path / "w.h5", "weights only")
    keras().Sequential([keras().Input((3,)), keras().layers.Dense(2)]).save_weights(tmp_path / "v.weights.h5")
    refused(tmp_path / "v.weights.h5", "weights only")


def test_hdf5_that_is_no_model(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = np.zeros(3)
    refused(tmp_path / "data.h5", "not a Keras model")


def test_config_that_is_no_model(small: Path, tmp_path: Path) -> None:
    refused(repacked(small / "m.keras", tmp_path / "a.keras", config__json=b"[1, 2]"), "does not describe a model")
    refused(repacked(small / "m.keras", tmp_path / "b.keras", config__json=b'{"class_name":'), "not valid JSON")
    deep = b'{"class_name": "Functional", "config": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001
    refused(repacked(small / "m.keras", tmp_path / "c.keras", config__json=deep))
    refused(repacked(small / "m.keras", tmp_path / "d.keras", model__weights__h5=None), "has no weights")


def test_zip_bomb(small: Path, tmp_path: Path) -> None:
    refused(repacked(small / "m.keras", tmp_path / "bomb.keras", assets__x=bytes(80 << 20)), "zip bomb")


def test_hdf5_bomb(tmp_path: Path, small: Path) -> None:
    import h5py

    def bomb(file: Any) -> None:
        file.create_dataset("layers/dense/vars/9", shape=(1 << 40,), chunks=(1 << 20,), dtype="f4")

    path = tmp_path / "bomb.h5"
    path.write_bytes((small / "m.h5").read_bytes())
    with h5py.File(path, "a") as file:
        bomb(file)
    refused(path, "unpack")
    weights = io.BytesIO(zipfile.ZipFile(small / "m.keras").read("model.weights.h5"))
    with h5py.File(weights, "a") as file:
        bomb(file)
    refused(repacked(small / "m.keras", tmp_path / "b.keras", model__weights__h5=weights.getvalue()), "unpack")


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil", "assets/../../evil", "a\\..\\evil", "C:/evil"])
def test_paths_out_of_the_zip(small: Path, tmp_path: Path, name: str) -> None:
    refused(repacked(small / "m.keras", tmp_path / "m.keras", **{name: b"x"}), "outside")
    assert not (tmp_path.parent / "evil.txt").exists()


def test_links_out_of_the_zip(small: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = 0o120777 << 16
    path = tmp_path / "m.keras"
    path.write_bytes((small / "m.keras").read_bytes())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(link, "/etc/passwd")
    refused(path, "outside")


def test_hdf5_links_to_other_files(small: Path, tmp_path: Path) -> None:
    import h5py

    for kind in ("link", "external", "virtual"):
        path = tmp_path / f"{kind}.h5"
        path.write_bytes((small / "m.h5").read_bytes())
        with h5py.File(path, "a") as file:
            if kind == "link":
                file["model_weights/stolen"] = h5py.ExternalLink("/etc/other.h5", "/x")
            elif kind == "external":
                file.create_dataset("stolen", (4,), "f4", external=[("/etc/passwd", 0, 16)])
            else:
                layout = h5py.VirtualLayout((4,), "f4")
                layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (4,))
                file.create_virtual_dataset("stolen", layout)
        refused(path, "another file")


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in pairs for place in [(value, key), *places(inner)]]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 10_000), value=st.sampled_from([None, -1, 1.5, "x", [], {}, [None], True, {"class_name": "Foo"}]))  # fmt: skip
@pytest.mark.parametrize("version", ["3.15.1", "2.15.0"])
def test_any_change_of_a_config_loads_or_gets_one_sentence(
    small: Path, tmp_path: Path, version: str, where: int, value: Any
) -> None:
    def change(config: dict[str, Any]) -> None:
        found = places(config)
        container, key = found[where % len(found)]
        container[key] = value

    path = edited(small if version[0] == "3" else small / "old", tmp_path / "m.keras", change)
    error = None
    try:
        models.load(path)
    except ModelError as caught:
        error = caught
    assert error is None or (path.name in error.message and error.next)


# ---- code in files


class Touch:
    """Leaves a file where it is unpickled or called."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore")
def test_lambdas_are_refused_by_name_unless_allowed(tmp_path: Path) -> None:
    L = keras().layers
    x = keras().Input((3,))
    net = keras().Model(x, L.Dense(2)(L.Lambda(lambda t: t * 2 + 1, output_shape=(3,), name="twice")(x)))
    old = tf_keras().Sequential([k().Input((3,)), k().Lambda(lambda t: t * 3, name="thrice"), k().Dense(2)])
    net.save(tmp_path / "new.keras")
    net.save(tmp_path / "new.h5")
    old.save(tmp_path / "old.h5")
    old.save(tmp_path / "old.keras")
    value = np.eye(3, dtype=np.float32)
    for name in ("new.keras", "new.h5", "old.h5", "old.keras"):
        source, layer = (net, "twice") if name.startswith("new") else (old, "thrice")
        assert "--allow-unsafe" in refused(tmp_path / name, f"'{layer}'", error=UnsafeModelError).next
        close(models.load(tmp_path / name, allow_unsafe=True).net(value), source(value))


def test_nothing_is_imported_or_run_that_a_config_names(small: Path, tmp_path: Path) -> None:
    def evil(config: dict[str, Any]) -> None:
        layers = config["config"]["layers"]
        layers[-1]["config"]["activation"] = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}  # fmt: skip

    for version in ("3.15.1", "2.15.0"):
        path = edited(small, tmp_path / f"evil-{version}.keras", evil)
        meta = json.dumps({"keras_version": version}).encode()
        refused(repacked(path, tmp_path / f"m-{version}.keras", metadata__json=meta), "dense")


def test_pickles_instead_of_weights(small: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = repacked(small / "m.keras", tmp_path / "m.keras", model__weights__h5=pickle.dumps(Touch(mark)))
    refused(path, "damaged")
    assert not mark.exists()


def test_tensorflow_functions_that_write_files_are_refused(tmp_path: Path) -> None:
    tf, x = tensorflow(), k().Input((3,))
    net = tf_keras().Model(x, tf.strings.reduce_join(tf.strings.as_string(x), axis=1))
    net.save(tmp_path / "m.h5")
    error = refused(tmp_path / "m.h5", "TFOpLambda", "tf.strings.as_string", "tf.strings.reduce_join")
    assert "keras.ops" in error.next


@pytest.mark.filterwarnings("ignore")
def test_every_unknown_class_is_named_at_once(tmp_path: Path) -> None:
    class Shift(tf_keras().layers.Layer):
        def call(self, x: Any) -> Any:
            return x + 1

    class Twist(keras().layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    tf_keras().Sequential([k().Input((3,)), Shift(name="a"), k().Dense(2), Shift(name="b")]).save(tmp_path / "old.h5")
    refused(tmp_path / "old.h5", "'a' (Shift)", "'b' (Shift)")
    new = keras().Sequential([keras().Input((3,)), Twist(name="c"), Twist(name="d")])
    new.save(tmp_path / "new.keras")
    assert "register" in refused(tmp_path / "new.keras", "'c' (Twist)", "'d' (Twist)").next
    keras().saving.register_keras_serializable(package="ours")(Twist)
    new.save(tmp_path / "known.keras")
    close(models.load(tmp_path / "known.keras").net(np.eye(3)), 4 * np.eye(3))


def test_subclassed_models_and_channels_first_are_explained(tmp_path: Path) -> None:
    x = keras().Input((3, 8, 8))
    keras().Model(x, keras().layers.Flatten(data_format="channels_first")(x)).save(tmp_path / "m.keras")
    refused(tmp_path / "m.keras", "flatten", "channels first")
    unbuilt = keras().Sequential([keras().layers.Dense(3)])
    unbuilt.save(tmp_path / "u.keras")
    refused(tmp_path / "u.keras")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("call", ["missing", "itself", "late", "number", "none"])
def test_graphs_that_keras2_would_wait_for_for_ever(tmp_path: Path, call: str) -> None:
    import h5py

    net = image(k().Conv2D(2, 3, name="first"), k().Flatten(name="second"))
    tf_keras().Model(net.inputs, net.outputs).save(tmp_path / "m.h5")
    source = {"missing": ["nobody", 0, 0, {}], "itself": ["second", 0, 0, {}], "late": ["first", 1, 0, {}]}
    with h5py.File(tmp_path / "m.h5", "a") as file:
        config = json.loads(file.attrs["model_config"])
        found = config["config"]["layers"][2]
        found["inbound_nodes"] = [] if call == "none" else [[source.get(call, ["first", "0", 0, {}])]]
        file.attrs["model_config"] = json.dumps(config)
    refused(tmp_path / "m.h5")


# ---- real files


KERAS_ASSETS = [
    "mlperf_tiny/ad01.h5",
    "mlperf_tiny/pretrainedResnet.h5",
    "mlperf_tiny/str_ww_ref_model.h5",
    "mlperf_tiny/vww_96.h5",
    "face_classification/fer2013_mini_XCEPTION.102-0.66.hdf5",
    "siliconlabs_mltk/image_example1.h5",
    "keras_wild/mnist_cnn.keras",
]


@pytest.mark.acceptance
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", KERAS_ASSETS)
def test_real_files_have_the_outputs_of_their_framework(assets: Path, file: str) -> None:
    path = assets / "models" / file
    framework = keras() if path.suffix == ".keras" else tf_keras()
    net = framework.models.load_model(path, compile=False)
    same_as(net, models.load(path), seed=11)


@pytest.mark.acceptance
def test_resnet8_is_as_accurate_as_published(assets: Path) -> None:
    data = np.load(assets / "datasets" / "mlperf_tiny" / "ic01.npz")
    net = models.load(assets / "models" / "mlperf_tiny" / "pretrainedResnet.h5").net
    found = net.predict(data["x"].astype(np.float32), verbose=0).argmax(axis=1)
    assert (found == data["y"]).mean() == 0.855


@pytest.mark.acceptance
def test_a_lambda_of_another_python_is_refused(assets: Path) -> None:
    path = assets / "models" / "portrait_segmentation" / "gpucom_model6.h5"
    refused(path, "lambda_1", error=UnsafeModelError)
    refused(path, allow_unsafe=True)


def test_a_batch_that_is_fixed_is_freed_only_where_that_is_the_same_model(tmp_path: Path) -> None:
    keras3 = keras()
    x = keras3.Input(batch_shape=(1, 4, 6), name="x")
    free = keras3.Model(x, keras3.layers.Dense(3)(keras3.layers.Flatten()(x)))
    bound = keras3.Model(x, keras3.layers.Dense(3)(keras3.ops.reshape(x, (1, 24))))
    for net, shape in ((free, None), (bound, 1)):
        net.save(tmp_path / "m.keras")
        loaded = models.load(tmp_path / "m.keras")
        assert loaded.inputs[0].shape == (shape, 4, 6)
        one = np.random.default_rng(0).normal(size=(1, 4, 6)).astype("float32")
        np.testing.assert_allclose(np.asarray(loaded.net(one)), np.asarray(net(one)), 1e-5, 1e-6)
