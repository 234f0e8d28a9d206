"""Files that tensorflow-model-optimization wrapped: pruning and clustering come off with what they did, QAT is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edgedl.errors import ModelError
from edgedl.model import load

pytest.importorskip("tf_keras", reason="needs pip install 'edgedl[tfmot]'")
pytest.importorskip("tensorflow_model_optimization", reason="needs pip install 'edgedl[tfmot]'")

FORMS = ("{}.h5", "{}.keras", "{}_saved_model")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8, 8, 3)).astype(np.float32)
Y = np.arange(32) % 4


def base() -> Any:
    """A small tf_keras classifier."""
    from edgedl.frameworks import tf_keras

    k = tf_keras()
    k.utils.set_random_seed(0)
    image = k.Input((8, 8, 3), name="image")
    x = k.layers.ReLU()(k.layers.BatchNormalization(name="norm")(k.layers.Conv2D(8, 3, name="conv")(image)))
    return k.Model(image, k.layers.Dense(4, activation="softmax", name="head")(k.layers.Flatten()(x)))


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """By kind: the folder with the three forms of a model that tfmot trained for an epoch, and its outputs on X."""
    import tensorflow_model_optimization as tfmot

    sparse, tables = tfmot.sparsity.keras, tfmot.clustering.keras
    schedule = sparse.ConstantSparsity(0.6, 0, frequency=1)
    made = {
        "pruned": (sparse.prune_low_magnitude(base(), pruning_schedule=schedule), [sparse.UpdatePruningStep()]),
        "clustered": (tables.cluster_weights(base(), 8, tables.CentroidInitialization.LINEAR), []),
    }
    folder, found = tmp_path_factory.mktemp("tfmot"), {}
    for kind, (net, callbacks) in made.items():
        net.compile("adam", "sparse_categorical_crossentropy")
        net.fit(X, Y, epochs=1, verbose=0, callbacks=callbacks)
        for form in FORMS:
            net.save(folder / form.format(kind))
        found[kind] = (folder, net.predict(X, verbose=0))
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["pruned", "clustered"])
def test_the_wrappers_come_off_and_the_outputs_are_the_same(
    wrapped: dict[str, tuple[Path, Any]], kind: str, form: str
) -> None:
    folder, expected = wrapped[kind]
    model = load(folder / form.format(kind))
    assert [layer.name for layer in model.net.layers][1:3] == ["conv", "norm"]
    assert any("wrappers" in note for note in model.notes)
    np.testing.assert_allclose(model.net.predict(X, verbose=0), expected, rtol=0, atol=1e-5)  # float32, two Keras
    for name in ("conv", "head"):
        kernel = np.asarray(model.net.get_layer(name).kernel)
        if kind == "pruned":
            assert np.mean(kernel == 0) == pytest.approx(0.6, abs=1 / kernel.size)
        else:
            assert len(np.unique(kernel)) <= 8


def test_masks_are_applied_to_weights_that_were_saved_without_them(tmp_path: Path) -> None:
    """After the last update of an optimizer tfmot's weights are whole until the next call."""
    import tensorflow_model_optimization as tfmot

    net = tfmot.sparsity.keras.prune_low_magnitude(base())
    layer = net.get_layer("prune_low_magnitude_conv")
    ((weight, mask, _),) = layer.pruning_vars
    mask.assign(np.arange(mask.shape.num_elements()).reshape(mask.shape) % 2)
    net.save(tmp_path / "m.h5")
    kernel = np.asarray(load(tmp_path / "m.h5").net.get_layer("conv").kernel)
    np.testing.assert_array_equal(kernel, weight.numpy() * mask.numpy())
    assert (kernel == 0).sum() == kernel.size // 2


def test_a_wrapped_first_layer_of_a_sequential_model(tmp_path: Path) -> None:
    import tensorflow_model_optimization as tfmot

    from edgedl.frameworks import tf_keras

    k = tf_keras()
    first = tfmot.sparsity.keras.prune_low_magnitude(k.layers.Dense(6, name="first"), input_shape=(5,))
    net = k.Sequential([first, k.layers.Dense(2)])
    net.save(tmp_path / "m.h5")
    x = RNG.normal(size=(3, 5)).astype(np.float32)
    found = load(tmp_path / "m.h5").net.predict(x, verbose=0)
    np.testing.assert_allclose(found, net.predict(x, verbose=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("annotated", [False, True])
def test_quantization_aware_training_is_refused_in_one_sentence(tmp_path: Path, annotated: bool) -> None:
    import tensorflow_model_optimization as tfmot

    quantization = tfmot.quantization.keras
    net = quantization.quantize_annotate_model(base()) if annotated else quantization.quantize_model(base())
    net.save(tmp_path / "m.h5")
    with pytest.raises(ModelError, match="wrapped for quantization-aware training by tensorflow-model") as caught:
        load(tmp_path / "m.h5")
    assert "\n" not in caught.value.message
    assert "before quantize_model" in str(caught.value)


def test_a_wrapper_of_the_same_name_from_another_module_is_refused(tmp_path: Path) -> None:
    """The name alone does not make tf_keras import a module that a file chose."""
    import tensorflow_model_optimization as tfmot

    tfmot.sparsity.keras.prune_low_magnitude(base()).save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "a") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["module"] = "antigravity"
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ModelError, match="module 'antigravity', which is not part of Keras"):
        load(tmp_path / "m.h5")
    assert "antigravity" not in sys.modules


def test_without_tfmot_the_error_names_what_to_install(tmp_path: Path) -> None:
    """In a process of its own whose import path hides the package."""
    import tensorflow_model_optimization as tfmot

    tfmot.sparsity.keras.prune_low_magnitude(base()).save(tmp_path / "m.h5")
    hidden = tmp_path / "hidden" / "tensorflow_model_optimization"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('hidden')")
    code = f"import sys; sys.path.insert(0, {str(hidden.parent)!r}); import edgedl; edgedl.load({str(tmp_path / 'm.h5')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode
    assert "wrapped (PruneLowMagnitude) and needs tensorflow-model-optimization" in done.stderr
    assert "pip install 'edgedl[tfmot]'" in done.stderr
