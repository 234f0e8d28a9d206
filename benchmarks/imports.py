"""Every foreign model of the assets: how far the rebuilt Keras model and its float .tflite are from the original.

EDGEDL_ASSETS=... python benchmarks/imports.py [--peer PYTHON] [NAME ...]

`--peer`: a Python with onnx2keras 0.0.25, run on the same .onnx files and inputs, the best kept of its kind.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, figure, quiet_tensorflow

Options = dict[str, Any]
HERE = Path(__file__).parent
MODELS: tuple[tuple[str, Options], ...] = (
    ("ultraface/version-RFB-320.onnx", {}),
    ("ultraface/version-RFB-320_without_postprocessing.onnx", {}),
    ("dtln_speech_enhancement/model_1.onnx", {}),
    ("magika/standard_v3_3.onnx", {}),
    ("stm32_samples/mobilenet_v2_128_0.5_notebook.onnx", {}),
    ("stm32_samples/yamnet_256_64x96_tl.onnx", {}),
    (
        "pytorch_resnet_cifar10/resnet20-12fca82f.th",
        {"module": f"{HERE.parent}/examples/resnet20_torch.py:ResNet20", "inputs": {"x": "1x3x32x32"}},
    ),
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
    ("portrait_segmentation/slim_reshape_v2.tflite", {}),
    ("tflite_micro/hello_world_float.tflite", {}),
    ("mlperf_tiny/vww_96_float.tflite", {}),
    ("mlperf_tiny/ad01_fp32.tflite", {}),
)
MEANT = {"yamnet_256_64x96_tl.onnx": 1}  # transposes that the graph itself means: time and frequency change places


def main() -> None:
    """A row for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default="")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    quiet_tensorflow()
    root = assets() / "models"
    for name, options in MODELS:
        if given.names and not any(n in name for n in given.names):
            continue
        row(root / name, options, given.peer)


def row(path: Path, options: Options, peer: str) -> None:
    """Import, prove, export, count; then the peer."""
    import edgedl
    from edgedl.errors import EdgedlError

    start = time.perf_counter()
    try:
        model = edgedl.load(path, form="keras", **options)
    except EdgedlError as error:
        figure(path.name, "refused", "<= 1e-4", False)
        print(f"    {error.message.splitlines()[0][:150]}")
        return
    seconds = time.perf_counter() - start
    worst = max((e["max_relative"] for e in model.proof), default=float("nan"))
    figure(f"{path.name} import", f"{worst:.1e}", "<= 1e-4", worst <= 1e-4)
    error, transposes = exported(model)
    figure(f"{path.name} float .tflite", f"{error:.1e}", "<= 1e-3", error <= 1e-3)
    meant = MEANT.get(path.name, 0)
    figure(f"{path.name} transposes", str(transposes), f"<= {meant}", transposes <= meant)
    print(f"    {seconds:.1f} s, against {', '.join(dict.fromkeys(e['against'] for e in model.proof))}")
    if peer and path.suffix == ".onnx":
        print(f"    onnx2keras: {of_peer(peer, path, model)}", flush=True)


def exported(model: Any) -> tuple[float, int]:
    """(largest relative difference of the float .tflite from the Keras model, its TRANSPOSE operators)."""
    from edgedl import data
    from edgedl.converters.to_tflite import ToTflite
    from edgedl.data import DataOptions
    from edgedl.engine import describe, predict
    from edgedl.registry import find

    dataset = data.load(DataOptions(), model.inputs, model.outputs, seed=0)
    fixed = next((s.shape[0] for s in model.inputs if s.shape and s.shape[0]), 0)
    feed = dataset.feed(dataset.calibration, 0, fixed or 2)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.tflite"
        ToTflite()(model, dataset, out)
        found = predict(describe(out), feed)
        transposes = sum(layer.op == "TRANSPOSE" for layer in find("inspector", "tflite")().layers(out))
    given = [feed[s.name] for s in model.inputs]
    values = model.net.predict(given if len(given) > 1 else given[0], batch_size=len(given[0]), verbose=0)
    wanted = values if isinstance(values, list) else [values]
    gaps = [
        float(np.abs(found[s.name].reshape(-1) - w.reshape(-1)).max() / max(float(np.abs(w).max()), 1e-6))
        for s, w in zip(model.outputs, map(np.asarray, wanted), strict=True)
    ]
    return max(gaps), transposes


def of_peer(python: str, path: Path, model: Any) -> str:
    """What onnx2keras makes of the same file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feed = {}
    for i in session.get_inputs():
        shape = [d if isinstance(d, int) else 1 for d in i.shape]
        feed[i.name] = (
            rng.integers(0, 100, shape).astype(np.int32)
            if "int32" in i.type
            else rng.normal(0, 1, shape).astype(np.float32)
        )
    with tempfile.TemporaryDirectory() as folder:
        ins, outs = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(ins, names=np.array(list(feed)), **{f"x{i}": v for i, v in enumerate(feed.values())})
        np.savez(outs, **{f"y{i}": v for i, v in enumerate(session.run(None, feed))})
        command = [python, str(HERE / "bare_onnx2keras.py"), str(path), str(ins), str(outs)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    lines = (done.stdout if not done.returncode else done.stderr).strip().splitlines()
    last = lines[-1] if lines else "no output"
    return f"off by {float(last):.1e}" if not done.returncode else f"failed: {last[:110]}"


if __name__ == "__main__":
    main()
