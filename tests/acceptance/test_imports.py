"""Real foreign models become Keras models that compute the same, and do on real inputs what their authors say."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")
pytest.importorskip("onnxruntime", reason="needs pip install 'edgedl[onnx]'")

import edgedl
from edgedl.data import DataOptions, load
from edgedl.engine import describe, predict
from edgedl.model import Model
from edgedl.registry import find

pytestmark = pytest.mark.acceptance

MEANT = {"yamnet_256_64x96_tl.onnx": 1}  # transposes that the graph itself means: time and frequency change places
MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ultraface/version-RFB-320.onnx", {}),
    ("ultraface/version-RFB-320_without_postprocessing.onnx", {}),
    ("dtln_speech_enhancement/model_1.onnx", {}),
    ("magika/standard_v3_3.onnx", {}),
    ("stm32_samples/mobilenet_v2_128_0.5_notebook.onnx", {}),
    ("stm32_samples/yamnet_256_64x96_tl.onnx", {}),
    ("caffe_lenet_mnist/lenet.prototxt", {}),
    ("ultraface/RFB-320.prototxt", {}),
    ("mtcnn_caffe_mxnet/det1.prototxt", {}),
    ("mtcnn_caffe_mxnet/det2.prototxt", {}),
    ("mtcnn_caffe_mxnet/det1-symbol.json", {"inputs": {"data": "1x3x24x36"}}),
    ("mtcnn_caffe_mxnet/det2-symbol.json", {"inputs": {"data": "1x3x24x24"}}),
    ("arm_kws_frozen_graphs/DNN_S.pb", {"start": ("Mfcc:0",)}),
    ("arm_kws_frozen_graphs/DS_CNN_S.pb", {"start": ("Mfcc:0",)}),
    ("superres_frozen_graphs/FSRCNN_x2.pb", {"inputs": {"IteratorGetNext": "1x48x64x1"}}),
    ("ultraface/version-RFB-320_without_postprocessing.tflite", {}),
    ("dtln_speech_enhancement/model_1.tflite", {}),
    ("dtln_speech_enhancement/model_quant_1.tflite", {}),
    ("portrait_segmentation/slim_reshape_v2.tflite", {}),
    ("coral_test_data/mobilenet_v1_0.25_128_quant.tflite", {}),
    ("coral_test_data/tf2_mobilenet_v2_1.0_224_ptq.tflite", {}),
    ("coral_test_data/keras_lstm_mnist_ptq.tflite", {}),
    ("coral_test_data/split_concat.tflite", {}),
    ("tflite_micro/person_detect.tflite", {}),
)


def imported(assets: Path, name: str) -> Model:
    return edgedl.load(assets / "models" / name, form="keras", **dict(MODELS)[name])


@pytest.mark.parametrize("name", [name for name, _ in MODELS])
def test_an_import_is_the_original_and_so_is_its_tflite(assets: Path, tmp_path: Path, name: str) -> None:
    model = replace(imported(assets, name), plan=None)  # float, also where the original was quantized
    assert model.proof
    worst = max(e["max_relative"] for e in model.proof)
    dataset = load(DataOptions(), model.inputs, model.outputs, seed=0)
    fixed = next((s.shape[0] for s in model.inputs if s.shape[0]), 0)
    feed = dataset.feed(dataset.calibration, 0, fixed or 2)
    out = tmp_path / "model.tflite"
    find("converter", "tflite")()(model, dataset, out)
    found = predict(describe(out), feed)
    values = model.net([feed[s.name] for s in model.inputs], training=False)
    wanted = [np.asarray(v) for v in (values if isinstance(values, list | tuple) else [values])]
    gaps = [
        float(np.abs(found[s.name] - w).max() / max(float(np.abs(w).max()), 1e-6))
        for s, w in zip(model.outputs, wanted, strict=True)
    ]
    transposes = sum(layer.op == "TRANSPOSE" for layer in find("inspector", "tflite")().layers(out))
    print(f"{name}: import {worst:.1e}, .tflite {max(gaps):.1e}, {transposes} transposes")
    assert worst <= 1e-4
    assert max(gaps) <= 1e-3
    assert transposes <= MEANT.get(Path(name).name, 0)


def features(content: bytes) -> np.ndarray:
    """What Magika's own code makes of a file: 1,024 bytes of its stripped beginning and of its stripped end, pad 256."""
    first, last = content[:4096].lstrip(), content[-4096:].rstrip()
    out = np.full(2048, 256, np.int32)
    head, tail = first[:1024], last[-1024:]
    out[: len(head)] = np.frombuffer(head, np.uint8)
    if tail:
        out[2048 - len(tail) :] = np.frombuffer(tail, np.uint8)
    return out


def test_magika_names_the_same_type_for_every_reference_file(assets: Path) -> None:
    folder = assets / "models/magika"
    labels = json.loads((folder / "standard_v3_3.config.json").read_text())["target_labels_space"]
    examples = json.loads(
        gzip.decompress((folder / "standard_v3_3-inference_examples_by_content.json.gz").read_bytes())
    )
    used = [e for e in examples if e["status"] == "ok" and e["prediction"]["dl"] != "undefined"]
    model = imported(assets, "magika/standard_v3_3.onnx")
    x = np.stack([features(base64.b64decode(e["content_base64"])) for e in used])
    scores = np.asarray(model.net(x))
    named = [labels[i] for i in scores.argmax(1)]
    same = sum(n == e["prediction"]["dl"] for n, e in zip(named, used, strict=True))
    gap = max(abs(float(s.max()) - e["prediction"]["score"]) for s, e in zip(scores, used, strict=True))
    print(f"magika: {same} of {len(used)} the same type, largest difference of a score {gap:.1e}")
    assert same == len(used) == 129
    assert (
        gap <= 1e-2
    )  # ONNX Runtime's own scores change by 5e-3 with its batch size: variances near zero, by cancellation


def test_ultraface_sees_the_faces_of_its_own_picture(assets: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = image.open(assets / "models/ultraface/faces_11.jpg").convert("RGB").resize((320, 240))
    x = ((np.asarray(picture, np.float32) - 127) / 128)[None]
    counts = []
    for name in ("version-RFB-320.onnx", "version-RFB-320_without_postprocessing.tflite", "RFB-320.prototxt"):
        model = imported(assets, f"ultraface/{name}")
        outputs = dict(zip([s.name for s in model.outputs], model.net([x]), strict=True))
        scores = next(np.asarray(v) for k, v in outputs.items() if np.asarray(v).shape[-1] == 2)
        counts.append(int((scores.reshape(-1, 2)[:, 1] > 0.7).sum()))
    print(f"ultraface: {counts} anchors above 0.7 in ONNX, TFLite, Caffe")
    assert len(set(counts)) == 1
    assert 60 <= counts[0] <= 72  # 66 with the author's own resizing


def test_lenet_reads_digits_as_well_as_in_caffe(assets: Path) -> None:
    folder = assets / "datasets/mnist_t10k"
    data = np.load(sorted(folder.glob("*.npz"))[0])
    x, y = (data[k] for k in ("x", "y"))
    model = imported(assets, "caffe_lenet_mnist/lenet.prototxt")
    images = (x.reshape(len(x), 28, 28, 1) * np.float32(0.00390625)).astype(np.float32)
    accuracy = float(np.mean(model.net.predict(images, batch_size=500, verbose=0).reshape(len(x), -1).argmax(1) == y))
    right = [accuracy]
    cv2 = pytest.importorskip("cv2", reason="the reference is OpenCV 4: pip install 'opencv-python-headless<5'")
    if hasattr(cv2.dnn, "readNetFromCaffe"):
        folder = assets / "models/caffe_lenet_mnist"
        net = cv2.dnn.readNetFromCaffe(str(folder / "lenet.prototxt"), str(folder / "lenet_iter_10000.caffemodel"))
        net.setInput(images.transpose(0, 3, 1, 2))
        right.append(float(np.mean(net.forward().reshape(len(x), -1).argmax(1) == y)))
    print(f"lenet: {right} on {len(x)} digits (edgedl, OpenCV)")
    assert accuracy == right[-1]
    assert accuracy >= 0.989  # 0.9914 on all 10,000, of which these are the first


@pytest.mark.parametrize("name", ["det1", "det2"])
def test_mtcnn_of_caffe_and_of_mxnet_are_one_network(assets: Path, name: str) -> None:
    size = (24, 36) if name == "det1" else (24, 24)
    options: dict[str, Any] = {"data": f"1x3x{size[0]}x{size[1]}"}
    mxnet = edgedl.load(assets / f"models/mtcnn_caffe_mxnet/{name}-symbol.json", form="keras", inputs=options)
    turned = {"data": f"1x3x{size[1]}x{size[0]}"}
    caffe = edgedl.load(assets / f"models/mtcnn_caffe_mxnet/{name}.prototxt", form="keras", inputs=turned)
    x = np.random.default_rng(0).uniform(-1, 1, (4, *size, 3)).astype(np.float32)
    a = [np.asarray(v) for v in mxnet.net([x])]
    b = [np.asarray(v) for v in caffe.net([x[..., ::-1].transpose(0, 2, 1, 3)])]
    for left in a:
        matches = [np.abs(left - r).max() for right in b for r in _turned(right) if r.shape == left.shape]
        print(f"{name}: output {left.shape}, off by {min(matches):.1e}")
        assert min(matches) <= 1e-5


def _turned(array: np.ndarray) -> list[np.ndarray]:
    """An output of the network whose height and width are the other way round."""
    return [array, array.transpose(0, 2, 1, 3)] if array.ndim == 4 else [array]
