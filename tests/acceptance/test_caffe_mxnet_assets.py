"""Real Caffe and MXNet models held to OpenCV, to their ONNX twins, to each other and to published figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.model import LoadOptions, Model

pytest.importorskip("onnxruntime", reason="needs pip install 'edgedl[onnx]'")

from edgedl.converters import _onnx
from edgedl.converters.from_caffe import load_caffe
from edgedl.converters.from_caffe import source as caffe
from edgedl.converters.from_mxnet import load_mxnet
from edgedl.converters.from_mxnet import source as mxnet

pytestmark = pytest.mark.acceptance

CAFFE = (
    "caffe_lenet_mnist/lenet.prototxt",
    "mtcnn_caffe_mxnet/det1.prototxt",
    "mtcnn_caffe_mxnet/det2.caffemodel",
    "ultraface/RFB-320.prototxt",
)


def run(proto: Any, x: Any) -> dict[str, Any]:
    session = _onnx.session(proto)
    found = session.run(None, {session.get_inputs()[0].name: x})
    return dict(zip([o.name for o in session.get_outputs()], found, strict=True))


def predicted(model: Model, x: Any) -> dict[str, Any]:
    """The Keras model's outputs for inputs in the original layout."""
    name = model.inputs[0].name
    values = model.net.predict({name: x.transpose(model.layouts.get(name, range(x.ndim)))}, verbose=0)
    values = values if isinstance(values, list | tuple | dict) else [values]
    named = values if isinstance(values, dict) else dict(zip([o.name for o in model.outputs], values, strict=True))
    return {k: v.transpose(np.argsort(model.layouts[k])) if k in model.layouts else v for k, v in named.items()}


def relative(a: Any, b: Any) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def noise(proto: Any, n: int, seed: int = 0) -> Any:
    dims = proto.graph.input[0].type.tensor_type.shape.dim[1:]
    return np.random.default_rng(seed).normal(size=(n, *(d.dim_value for d in dims))).astype(np.float32)


@pytest.mark.parametrize("name", CAFFE)
def test_caffe_agrees_with_opencv(assets: Path, name: str) -> None:
    pytest.importorskip("cv2", reason="needs pip install 'opencv-python-headless<5'")
    found = caffe(assets / "models" / name, LoadOptions())
    assert found.reference is not None
    x = noise(found.proto, 3)
    wanted = found.reference({found.proto.graph.input[0].name: x})
    for output, value in run(found.proto, x).items():
        error = relative(value, wanted[output])
        print(f"{name:36} {output:10} {found.reference_name} {error:.1e}")
        assert error <= 1e-5


@pytest.mark.parametrize("name", CAFFE)
def test_caffe_becomes_a_keras_model(assets: Path, name: str) -> None:
    path = assets / "models" / name
    model = load_caffe(path)
    found = caffe(path, LoadOptions())
    x = noise(found.proto, 2, seed=1)
    wanted = run(found.proto, x)
    for output, value in predicted(model, x).items():
        error = relative(value, wanted[output])
        print(f"{name:36} {output:10} keras {error:.1e}")
        assert error <= 1e-4


def test_lenet_reads_digits(assets: Path) -> None:
    """Published: 0.9914 on all 10,000; here are the first 7,000, of which OpenCV reads as many."""
    data = np.load(assets / "datasets/mnist_t10k/first_7000.npz")
    x = data["x"][:, None].astype(np.float32) * np.float32(0.00390625)
    model = load_caffe(assets / "models/caffe_lenet_mnist/lenet_iter_10000.caffemodel")
    score = float((predicted(model, x)["prob"].argmax(1) == data["y"]).mean())
    reference = caffe(assets / "models/caffe_lenet_mnist/lenet.prototxt", LoadOptions()).reference
    theirs = float((reference({"data": x})["prob"].argmax(1) == data["y"]).mean()) if reference else score
    print(f"LeNet (Caffe) on {len(x)} digits: Keras {score:.4f}, OpenCV {theirs:.4f}")
    assert score == theirs
    assert score >= 0.989


def test_ultraface_is_its_onnx_twin(assets: Path) -> None:
    """The twin's boxes and scores, within 1e-4: the Caffe file's weights were converted from the same training."""
    folder = assets / "models/ultraface"
    found = caffe(folder / "RFB-320.prototxt", LoadOptions())
    twin = _onnx.session((folder / "version-RFB-320_without_postprocessing.onnx").read_bytes())
    x = noise(found.proto, 1)
    values = run(found.proto, x)
    wanted = dict(
        zip([o.name for o in twin.get_outputs()], twin.run(None, {twin.get_inputs()[0].name: x}), strict=True)
    )
    for output, value in wanted.items():
        print(f"RFB-320 {output:8} Caffe against ONNX {relative(values[output], value):.1e}")
        assert relative(values[output], value) <= 1e-4


@pytest.mark.parametrize(("name", "size"), [("det1", 12), ("det1", 41), ("det2", 24)])
def test_mtcnn_is_the_same_in_caffe_and_mxnet(assets: Path, name: str, size: int) -> None:
    """MXNet(x) = Caffe(x[:, ::-1].transpose(0, 1, 3, 2)): its weights have height and width, and red and blue, exchanged.

    So its maps are transposed too; their channels keep their order.
    """
    folder = assets / "models/mtcnn_caffe_mxnet"
    shape = f"?x3x{size}x{size - (size > 24)}"
    x = np.random.default_rng(0).normal(size=(2, 3, size, size - (size > 24))).astype(np.float32)
    turned = np.ascontiguousarray(x[:, ::-1].transpose(0, 1, 3, 2))
    options = LoadOptions(inputs={"data": f"?x3x{turned.shape[2]}x{turned.shape[3]}"})
    wanted = run(caffe(folder / f"{name}.prototxt", options).proto, turned)
    found = run(mxnet(folder / f"{name}-symbol.json", LoadOptions(inputs={"data": shape})).proto, x)
    for (ours, a), (theirs, b) in zip(found.items(), wanted.items(), strict=True):
        b = b.transpose(0, 1, 3, 2) if b.ndim == 4 else b
        print(f"{name} {size} {ours} = {theirs} {a.shape}: {np.abs(a - b).max():.1e}")
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-5


@pytest.mark.parametrize(("name", "size"), [("det1", 12), ("det2", 24)])
def test_mxnet_becomes_a_keras_model(assets: Path, name: str, size: int) -> None:
    path = assets / f"models/mtcnn_caffe_mxnet/{name}-0001.params"
    options = LoadOptions(inputs={"data": f"?x3x{size}x{size}"})
    model = load_mxnet(path, options)
    proto = mxnet(path, options).proto
    x = noise(proto, 2)
    wanted = run(proto, x)
    for output, value in predicted(model, x).items():
        print(f"{name} {output} keras {relative(value, wanted[output]):.1e}")
        assert relative(value, wanted[output]) <= 1e-4
