"""SavedModels of Keras 2 are rebuilt with the same outputs; bare graphs, code and damage are refused in a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl import model as models
from edgedl.errors import ModelError, UnsafeModelError

pytest.importorskip("tf_keras", reason="needs pip install 'edgedl[compress]'")

from edgedl.frameworks import keras, tensorflow, tf_keras

pytestmark = pytest.mark.filterwarnings("ignore")


def conv_net() -> Any:
    L, tf = tf_keras().layers, tensorflow()
    inner = tf_keras().Sequential([L.Input((8, 8, 4)), L.DepthwiseConv2D(3), L.BatchNormalization()], name="inner")
    x = L.Input((8, 8, 4), name="x")
    y = tf.nn.relu6(inner(x) * 1.5 + inner(x[:, ::-1]))
    net = tf_keras().Model(x, [L.GlobalAveragePooling2D(name="pool")(y), L.Flatten(name="flat")(y[..., :2])])
    net.compile("adam", "mse", metrics={"pool": "mae"})
    return net


def rnn() -> Any:
    L = tf_keras().layers
    return tf_keras().Sequential([L.Input((None, 5)), L.Bidirectional(L.LSTM(4)), L.Dense(2, "softmax")])


def attention() -> Any:
    L = tf_keras().layers
    x = L.Input((6, 8), name="x")
    return tf_keras().Model(x, L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x)))


@pytest.mark.parametrize("build", [conv_net, rnn, attention])
def test_the_outputs_are_those_of_tf_keras(build: Any, tmp_path: Path) -> None:
    net = build()
    net.save(tmp_path / "m", save_format="tf")
    loaded = models.load(tmp_path / "m")
    assert [t.name for t in loaded.inputs] == net.input_names
    x = np.random.default_rng(0).normal(size=(3, *(s or 7 for s in net.input_shape[1:]))).astype(np.float32)
    nest = tensorflow().nest
    for ours, theirs in zip(nest.flatten(loaded.net(x)), nest.flatten(net(x)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def refused(path: Path, *words: str, error: type[ModelError] = ModelError) -> ModelError:
    with pytest.raises(error) as caught:
        models.load(path)
    for word in (path.name, *words):
        assert word in caught.value.message
    assert caught.value.next
    return caught.value


def test_bare_graphs_are_rebuilt(tmp_path: Path) -> None:
    tf = tensorflow()
    net = keras().Sequential([keras().Input((3,), name="x"), keras().layers.Dense(2)])
    net.export(tmp_path / "exported", verbose=False)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_allclose(models.load(tmp_path / "exported").net(x), net(x), rtol=1e-5)
    module = tf.Module()
    module.f = tf.function(lambda x: x * 2, input_signature=[tf.TensorSpec((None, 3))])
    tf.saved_model.save(module, str(tmp_path / "module"))
    np.testing.assert_allclose(models.load(tmp_path / "module").net(x), 2 * x, rtol=1e-6)


def test_custom_layers_and_lambdas_are_named(tmp_path: Path) -> None:
    class Shift(tf_keras().layers.Layer):
        def call(self, x: Any) -> Any:
            return x + 1

    L = tf_keras().layers
    tf_keras().Sequential([L.Input((3,)), Shift(name="up")]).save(tmp_path / "custom", save_format="tf")
    refused(tmp_path / "custom", "'up' (Shift)")
    net = tf_keras().Sequential([L.Input((3,)), L.Lambda(lambda t: t * 2, name="twice")])
    net.save(tmp_path / "lambda", save_format="tf")
    refused(tmp_path / "lambda", "'twice'", error=UnsafeModelError)
    loaded = models.load(tmp_path / "lambda", allow_unsafe=True)
    np.testing.assert_allclose(loaded.net(np.ones((1, 3), np.float32)), 2 * np.ones((1, 3)))


def test_graphs_that_read_files_are_refused(tmp_path: Path) -> None:
    tf = tensorflow()

    class Reader(tf_keras().Model):
        @tf.function(input_signature=[tf.TensorSpec((None, 3))])
        def peek(self, x: Any) -> Any:
            return tf.io.read_file("/etc/hostname")

    L = tf_keras().layers
    x = L.Input((3,))
    Reader(x, L.Dense(2)(x)).save(tmp_path / "m", save_format="tf")
    with pytest.raises(ModelError):
        models.load(tmp_path / "m")
    net = tf_keras().Sequential([L.Input((3,)), L.Dense(2)])
    net.peek = tf.function(lambda: tf.io.read_file("/etc/hostname"), input_signature=[])
    net.save(tmp_path / "r", save_format="tf")
    refused(tmp_path / "r", "ReadFile", error=UnsafeModelError)


def test_damaged_folders(tmp_path: Path) -> None:
    L = tf_keras().layers
    whole = tmp_path / "whole"
    tf_keras().Sequential([L.Input((3,)), L.Dense(2)]).save(whole, save_format="tf")
    for name, damage in (
        ("empty", lambda f: (f / "saved_model.pb").write_bytes(b"")),
        ("noise", lambda f: (f / "saved_model.pb").write_bytes(np.random.default_rng(0).bytes(3000))),
        ("cut", lambda f: (f / "saved_model.pb").write_bytes((whole / "saved_model.pb").read_bytes()[:2000])),
        ("metadata", lambda f: (f / "keras_metadata.pb").write_bytes(b"\xff" * 50)),
        ("no-variables", lambda f: shutil.rmtree(f / "variables")),
        ("half", lambda f: next(f.glob("variables/*data*")).write_bytes(b"\0" * 10)),
        ("link", lambda f: (f / "variables" / "more").symlink_to("/etc/hostname")),
    ):
        folder = tmp_path / name
        shutil.copytree(whole, folder)
        damage(folder)
        refused(folder)


@pytest.mark.acceptance
def test_kws_has_the_outputs_and_the_accuracy_of_the_original(assets: Path) -> None:
    path = assets / "models" / "mlperf_tiny" / "kws_ref_model"
    data = np.load(assets / "datasets" / "mlperf_tiny" / "kws01.npz")
    x = (data["x"].astype(np.float32) - 83) * np.float32(0.5847029089927673)
    ours = models.load(path).net.predict(x, verbose=0)
    theirs = tf_keras().models.load_model(path, compile=False).predict(x, verbose=0)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert (ours.argmax(axis=1) == data["y"]).mean() == 0.913
