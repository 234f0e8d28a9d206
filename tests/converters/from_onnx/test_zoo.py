"""Every architecture of tests/torch_zoo.py: in from its .onnx, out to .tflite and .onnx, with the transposes that it means.

Oracles: ONNX Runtime on the original for the import (1e-4 of the largest value is the goal; float32 rounding is held
here), LiteRT and ONNX Runtime on what is written (1e-3). The batch is free, and files are run with one of three.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl import steps
from edgedl.converters import _tflite as fb
from edgedl.data import Dataset, Split
from edgedl.layouts import from_file, layouts_of, to_file
from edgedl.model import LoadOptions, Model, load
from edgedl.registry import find

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime", reason="needs pip install 'edgedl[onnx]'")

IMPORTED, EXPORTED = 1e-5, 1e-3  # of the largest value
QUICK = ("vit", "dcgan", "shufflenet_v2", "tcn", "pixel_shuffle")  # the others take minutes: `make acceptance`
# transposes in the Keras model and in the .tflite, and why they are there
TRANSPOSES: dict[str, int] = {
    "resnet": 0,
    "resnet_bottleneck": 0,
    "resnext": 0,
    "mobilenet_v2": 0,
    "mobilenet_v3": 0,
    "efficientnet": 0,
    "vit": 0,  # its attention is keras.layers.MultiHeadAttention
    "vit_mha": 0,  # as vit, with the time before the batch
    "convnext": 0,  # those written around its layer normalization and Dense layers are what NHWC makes needless
    "unet": 0,
    "unet_upsample": 0,
    "lstm": 0,
    "lstm_bidirectional": 0,
    "gru": 0,
    "gru_bidirectional": 0,
    "rnn": 0,
    "bert": 0,  # as vit, with a mask
    "dcgan": 0,
    "shufflenet_v2": 3,  # one for each shuffle; that of the last unit, before the mean, is in the weights of its Dense
    "ssd": 0,  # permute(0, 2, 3, 1) is how NHWC lies
    "tcn": 0,
    "stft_conv": 0,
    "stft": 0,
    "speech_stateful": 0,
    "byte_cnn": 0,
    "pixel_shuffle": 0,  # DEPTH_TO_SPACE, the channels put in its order by the weights before it
    "activations": 0,
    "norms": 0,
}
INSIDE = {
    "vit": 8,
    "vit_mha": 8,
    "bert": 8,
}  # transposes in the .tflite that are inside a Keras layer: four for each attention
WASTE = ("SHAPE", "PACK", "REDUCE_PROD", "BROADCAST_TO", "FILL", "SPACE_TO_BATCH_ND", "EXPAND_DIMS")  # of a free batch
RECURRENT = {"lstm", "lstm_bidirectional", "gru", "gru_bidirectional", "rnn", "speech_stateful"}  # loops have their own


@cache
def zoo() -> Any:
    """The module with the torch models."""
    path = Path(__file__).parents[2] / "torch_zoo.py"
    spec = importlib.util.spec_from_file_location("edgedl_tests_torch_zoo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def marked() -> list[Any]:
    """The quick ones, and the others for `make acceptance`."""
    return [pytest.param(n, marks=() if n in QUICK else (pytest.mark.acceptance,)) for n in TRANSPOSES]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`imported(name)` -> (path of the .onnx, the Keras model, inputs with three members in the model's layout)."""
    folder = tmp_path_factory.mktemp("zoo")

    @cache
    def get(name: str) -> tuple[Path, Model, dict[str, Any]]:
        path = zoo().export(name, folder)
        model = load(path, LoadOptions(form="keras"))
        _, example = zoo().build(name)
        axes = zoo().BATCH_AXES.get(name, {})
        given = {k: v.numpy() for k, v in example.items()}
        three = {k: np.concatenate([v, np.take(v, [0], axes.get(k, 0))], axes.get(k, 0)) for k, v in given.items()}
        return path, model, three

    return get


def transposes(net: Any) -> int:
    """Operations of a Keras network that are transposes."""
    return sum(type(operation).__name__ == "Transpose" for operation in net.operations)


@pytest.mark.parametrize("name", marked())
def test_an_architecture_comes_in_with_a_free_batch_and_no_transpose_too_many(imported: Any, name: str) -> None:
    _, model, _ = imported(name)
    assert max(e["max_relative"] for e in model.proof) <= IMPORTED
    assert all(s.shape[0] is None for s in model.inputs)
    assert transposes(model.net) == TRANSPOSES[name]


def wanted(path: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """What ONNX Runtime computes of the original."""
    from edgedl.converters.from_onnx.proof import run_onnx

    return run_onnx(path.read_bytes(), inputs)


def agree(found: dict[str, Any], reference: dict[str, Any]) -> None:
    for name, there in reference.items():
        here = np.asarray(found[name])
        assert here.shape == there.shape
        assert np.abs(here - there).max() <= EXPORTED * np.abs(there).max()


@pytest.mark.parametrize("name", marked())
@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_what_came_in_goes_out_and_computes_the_same(imported: Any, form: str, name: str, tmp_path: Path) -> None:
    path, model, inputs = imported(name)
    if name in zoo().BATCH_AXES:
        inputs = {k: np.take(v, [0], zoo().BATCH_AXES[name].get(k, 0)) for k, v in inputs.items()}
    keras_inputs = {k: v.transpose(model.layouts[k]) if k in model.layouts else v for k, v in inputs.items()}
    split = Split(keras_inputs)
    artifact = find("converter", form)()(model, Dataset(split, split), tmp_path / f"m.{form}")
    layouts = layouts_of(artifact)
    found = from_file(steps.predict(artifact, to_file(keras_inputs, layouts)), layouts)
    found = {k: v.transpose(np.argsort(model.layouts[k])) if k in model.layouts else v for k, v in found.items()}
    agree(found, wanted(path, inputs))
    if form == "tflite":
        there = operators(artifact.path)
        assert there["TRANSPOSE"] == TRANSPOSES[name] + INSIDE.get(name, 0)
        assert name in RECURRENT or {op: there[op] for op in WASTE if there[op]} == {}


def operators(path: Path) -> Counter[str]:
    """How many operators of each kind a .tflite has."""
    graph = fb.read(path)
    return Counter(fb.op_name(graph, op) for part in graph.subgraphs for op in part.operators)


def test_attention_becomes_a_layer_whose_heads_can_be_pruned(imported: Any) -> None:
    _, model, _ = imported("vit")
    layers = [layer for layer in model.net.layers if type(layer).__name__ == "MultiHeadAttention"]
    assert [(layer.num_heads, layer.key_dim) for layer in layers] == [(3, 8), (3, 8)]
