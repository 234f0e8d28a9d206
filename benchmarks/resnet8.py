"""ResNet-8 of MLPerf Tiny to int8, on all of ic01, calibrated on CIFAR images; the bare converters beside it.

EDGEDL_ASSETS=... python benchmarks/resnet8.py
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
from common import assets, compress, figure, litert_accuracy, ort_accuracy, quiet_tensorflow

SAMPLES = 200


def peers(model: Path, images: np.ndarray, folder: Path) -> tuple[Path, Path]:
    """TensorFlow's converter and onnxruntime's quantizer, each called once, with their defaults."""
    tf = quiet_tensorflow()
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    net = tf.keras.models.load_model(model)
    converter = tf.lite.TFLiteConverter.from_keras_model(net)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    (folder / "tf.tflite").write_bytes(converter.convert())
    net.export(folder / "float.onnx", format="onnx", verbose=False)

    class Reader(CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self.rows = iter([{name: image[None]} for image in images])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    import onnx

    name = onnx.load(folder / "float.onnx").graph.input[0].name
    quantize_static(folder / "float.onnx", folder / "ort.onnx", Reader(name), per_channel=True)
    return folder / "tf.tflite", folder / "ort.onnx"


def main() -> None:
    """Print accuracies and sizes."""
    root = assets()
    model = root / "models/mlperf_tiny/pretrainedResnet.h5"
    test = np.load(root / "datasets/mlperf_tiny/ic01.npz")
    images = np.load(root / "datasets/cifar10_jpeg/train_6000.npz")["x"][:SAMPLES].astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "test.npz", x=test["x"], y=test["y"])
        np.savez(folder / "calibration.npz", x=images)
        report, out = compress(
            model, "--data", f"{folder}/test.npz", "--calibration", f"{folder}/calibration.npz", "--quantize", "int8",
            "--format", "tflite,onnx", "--set", "limits.bench_seconds=0", out=folder / "out",
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):  # the export prints its endpoints
            tflite, onnx = peers(model, images, folder)
        x, y = test["x"].astype(np.float32), test["y"]
        print(f"float Keras {report['original']['metrics']['accuracy']:.3f} on {len(y)} images")
        print(f"peers: TensorFlow {litert_accuracy(tflite, x, y):.3f}, {tflite.stat().st_size:,} bytes; ", end="")
        print(f"onnxruntime {ort_accuracy(onnx, x, y):.3f}, {onnx.stat().st_size:,} bytes")
        for artifact in report["artifacts"]:
            path = out / artifact["path"]
            check = litert_accuracy if artifact["format"] == "tflite" else ort_accuracy
            seen = check(path, x, y)
            figure(
                f"int8 .{artifact['format']} on ic01, seen by the bare interpreter",
                f"{seen:.3f}",
                ">= 0.850",
                seen >= 0.85,
            )
            if artifact["format"] == "tflite":
                size = path.stat().st_size
                figure("int8 .tflite with its metadata", f"{size:,} bytes", "<= 100,000", size <= 100_000)


if __name__ == "__main__":
    main()
