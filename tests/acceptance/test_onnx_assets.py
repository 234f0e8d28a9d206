"""Real trained models as .onnx, float and int8, held to their own outputs and published figures. Prints what it measures."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.artifact import Artifact
from edgedl.data import Dataset, Split
from edgedl.model import GraphFile, Model, QuantizationPlan, load

pytest.importorskip("onnxruntime", reason="needs pip install 'edgedl[onnx]'")

from edgedl.converters import _onnx
from edgedl.converters.to_onnx import ToOnnx

pytestmark = pytest.mark.acceptance

KERAS = (
    "mlperf_tiny/pretrainedResnet.h5",
    "mlperf_tiny/ad01.h5",
    "mlperf_tiny/vww_96.h5",
    "mlperf_tiny/str_ww_ref_model.h5",
    "mlperf_tiny/kws_ref_model",
    "keras_wild/mnist_cnn.keras",
    "face_classification/fer2013_mini_XCEPTION.102-0.66.hdf5",
    "siliconlabs_mltk/image_example1.h5",
)
ONNX = (
    "stm32_samples/mobilenet_v2_128_0.5_notebook.onnx",
    "stm32_samples/yamnet_256_64x96_tl.onnx",
    "ultraface/version-RFB-320.onnx",
    "ultraface/version-RFB-320_without_postprocessing.onnx",
    "magika/standard_v3_3.onnx",
    "dtln_speech_enhancement/model_1.onnx",
)


def dataset(model: Model, x: dict[str, Any], calibration: int) -> Dataset:
    parts = [{k: v[s] for k, v in x.items()} for s in (slice(calibration), slice(calibration, None))]
    return Dataset(Split(parts[0]), Split(parts[1]), dtypes={s.name: s.dtype for s in model.inputs})


def smooth(shape: tuple[int, ...], n: int, high: float, seed: int = 0) -> Any:
    """Inputs 0..high with some structure: coarse noise, enlarged, and fine noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(size=(n, *[max(1, s // 8) for s in shape]))
    for axis, size in enumerate(shape, 1):
        coarse = np.take(coarse, np.arange(size) * coarse.shape[axis] // size, axis)
    return ((0.8 * coarse + 0.2 * rng.uniform(size=coarse.shape)) * high).astype(np.float32)


def run(artifact: Artifact, feed: dict[str, Any], batch: int) -> list[Any]:
    session = _onnx.session(artifact.path.read_bytes())
    parts = []
    for i in range(0, len(next(iter(feed.values()))) - batch + 1, batch):
        inputs = {s.inside: s.quantize(feed[s.name][i : i + batch]) for s in artifact.inputs}
        found = session.run([s.inside for s in artifact.outputs], inputs)
        parts.append([s.dequantize(a) for s, a in zip(artifact.outputs, found, strict=True)])
    return [np.concatenate(p) for p in zip(*parts, strict=True)]


def decibels(a: Any, b: Any) -> float:
    noise = float(((a.astype(np.float64) - b) ** 2).sum())
    return float(10 * np.log10((a.astype(np.float64) ** 2).sum() / noise)) if noise else np.inf


@pytest.mark.parametrize("path", KERAS)
def test_keras_models(assets: Path, path: str, tmp_path: Path) -> None:
    model = load(assets / "models" / path)
    high = {"pretrainedResnet.h5": 255.0, "ad01.h5": 20.0, "kws_ref_model": 40.0}.get(Path(path).name, 1.0)
    shape = tuple(int(d) for d in model.inputs[0].shape[1:] if d)
    data = dataset(model, {model.inputs[0].name: smooth(shape, 96, high)}, 64)
    feed = data.feed(data.validation)
    expected = np.asarray(model.net(feed[model.inputs[0].name], training=False))
    base = ToOnnx()(model, data, tmp_path / "float.onnx")
    found = run(base, feed, 32)[0]
    relative = np.abs(found - expected).max() / np.abs(expected).max()
    plan = QuantizationPlan()
    artifact = ToOnnx()(replace(model, plan=plan), data, tmp_path / "int8.onnx", base=base.path)
    int8 = run(artifact, feed, 32)[0]
    same = (int8.reshape(len(int8), -1).argmax(1) == expected.reshape(len(int8), -1).argmax(1)).mean()
    moved = [n.op_type for n in _onnx.read(base.path).graph.node].count("Transpose")
    print(
        f"\n{path:58} relerr {relative:.1e}, {moved} transposes; int8 SQNR {decibels(expected, int8):.1f} dB, "
        f"same class {same:.3f}, {base.size:,} -> {artifact.size:,} bytes"
    )
    assert relative <= 1e-4
    assert decibels(expected, int8) > 10


def test_resnet8_keeps_its_accuracy(assets: Path, tmp_path: Path) -> None:
    """Calibrated on other CIFAR-10 images; float 0.855, ONNX Runtime's own quantizer 0.855."""
    model = load(assets / "models/mlperf_tiny/pretrainedResnet.h5")
    test = np.load(assets / "datasets/mlperf_tiny/ic01.npz")
    images = np.load(assets / "datasets/cifar10_jpeg/train_6000.npz")["x"][:200]
    name = model.inputs[0].name
    data = Dataset(Split({name: images}), Split({name: test["x"]}))
    base = ToOnnx()(model, data, tmp_path / "float.onnx")
    converter = partial(ToOnnx(), base=base.path)
    for io in ("float32", "int8", "uint8"):
        for method in ("minmax", "percentile", "mse"):
            plan = QuantizationPlan(io=io, calibration=method)  # type: ignore[arg-type]
            artifact = converter(replace(model, plan=plan), data, tmp_path / "q.onnx")
            found = run(artifact, data.feed(data.validation), 200)[0]
            accuracy = float((found.argmax(1) == test["y"]).mean())
            print(f"\nresnet8 int8 {io} {method}: {accuracy:.3f} at {artifact.size:,} bytes (goal 0.850)", end="")
            assert accuracy >= 0.850


def test_keyword_spotting_keeps_its_accuracy(assets: Path, tmp_path: Path) -> None:
    """Calibrated on the first 200 inputs, measured on the other 800."""
    model = load(assets / "models/mlperf_tiny/kws_ref_model")
    found = np.load(assets / "datasets/mlperf_tiny/kws01.npz")
    x = (found["x"].astype(np.float32) - 83) * np.float32(0.5847029)
    data = dataset(model, {model.inputs[0].name: x}, 200)
    feed, y = data.feed(data.validation), found["y"][200:]
    for scheme in ("float32", "int8", "int16x8"):
        artifact = ToOnnx()(replace(model, plan=QuantizationPlan(scheme=scheme)), data, tmp_path / "q.onnx")  # type: ignore[arg-type]
        accuracy = float((run(artifact, feed, 100)[0].argmax(1) == y).mean())
        print(f"\nkws {scheme}: {accuracy:.4f} at {artifact.size:,} bytes (goal 0.90)", end="")
        assert accuracy >= 0.90


def onnx_inputs(model: Model, assets: Path, n: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for spec in model.inputs:
        shape = tuple(int(d or 1) for d in spec.shape[1:])
        if spec.dtype.startswith("int"):
            text = (assets / "README.md").read_bytes() + (assets / "models/magika/README.md").read_bytes()
            rows = [np.frombuffer((text[i * 7 :] * 8)[: shape[0]], np.uint8) for i in range(n)]
            found[spec.name] = np.stack(rows).astype(spec.dtype)
        elif "ultraface" in str(model.net.path):
            found[spec.name] = faces(assets, n)
        elif len(shape) == 3 and min(shape[1:]) > 8:
            found[spec.name] = smooth(shape, n, 2.0) - 1
        else:
            found[spec.name] = np.abs(rng.normal(0, 0.3, (n, *shape))).astype(np.float32)
    return found


def faces(assets: Path, n: int) -> Any:
    """Crops of a picture of faces as UltraFace takes them."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow").open(assets / "models/ultraface/faces_11.jpg")
    w, h = image.size
    crops = [image.convert("RGB").resize((320, 240), box=(i * w / 60, i * h / 60, w, h)) for i in range(n)]
    return ((np.stack([np.asarray(c, np.float32) for c in crops]) - 127) / 128).transpose(0, 3, 1, 2).copy()


@pytest.mark.parametrize("path", ONNX)
def test_onnx_files_are_quantized_as_they_are(assets: Path, path: str, tmp_path: Path) -> None:
    model = load(assets / "models" / path)
    assert isinstance(model.net, GraphFile)
    data = dataset(model, onnx_inputs(model, assets, 24), 16)
    feed = data.feed(data.validation)
    plain = run(Artifact(model.net.path, "onnx", model.inputs, model.outputs), feed, 1)
    for scheme in ("float32", "fp16", "dynamic", "int8", "int16x8", "int8-weight-only", "int4-weight-only"):
        artifact = ToOnnx()(replace(model, plan=QuantizationPlan(scheme=scheme)), data, tmp_path / "q.onnx")  # type: ignore[arg-type]
        found = [decibels(a, b) for a, b in zip(plain, run(artifact, feed, 1), strict=True)]
        print(f"\n{path:55} {scheme:17} {artifact.size:9,} bytes, SQNR", *(f"{d:.1f}" for d in found), "dB", end="")
        assert min(found) > (80 if scheme == "float32" else 5 if scheme == "int4-weight-only" else 15), scheme
