"""Every Keras model of the assets: loads, float files within 1e-4 of the original, int8 agreement as measured.

EDGEDL_ASSETS=... python benchmarks/every_model.py [NAME ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import assets, compress, figure

MODELS = (
    "mlperf_tiny/pretrainedResnet.h5", "mlperf_tiny/ad01.h5", "mlperf_tiny/vww_96.h5", "mlperf_tiny/str_ww_ref_model.h5",
    "mlperf_tiny/kws_ref_model", "keras_wild/mnist_cnn.keras",
    "face_classification/fer2013_mini_XCEPTION.102-0.66.hdf5", "siliconlabs_mltk/image_example1.h5",
)  # fmt: skip


def main(wanted: list[str]) -> None:
    """Print a row a model and format. Inputs are generated where no data is at hand, which the last column says."""
    root = assets()
    for name in MODELS:
        if wanted and not any(w in name for w in wanted):
            continue
        path = root / "models" / name
        report, _ = compress(path, *data_for(name, root), "--format", "tflite,onnx", "--set", "limits.bench_seconds=0")
        how = (
            "generated inputs" if report["data"]["generated"] else f"{report['data']['validation_samples']} real inputs"
        )
        for entry in report["baselines"]:
            error = entry["agreement"]["max_relative_error"]
            figure(f"{Path(name).name} float .{entry['format']}", f"{error:.1e}", "<= 1e-4", error <= 1e-4)
        for entry in report["artifacts"]:
            found = entry["agreement"]
            top1 = f"top-1 {found['top1_agreement']:.3f}" if "top1_agreement" in found else ""
            sqnr = "identical" if found["sqnr_db"] is None else f"SQNR {found['sqnr_db']:.1f} dB"
            print(
                f"{Path(name).name} int8 .{entry['format']}: {entry['bytes']:,} bytes, {sqnr} {top1} ({how})",
                flush=True,
            )


def data_for(name: str, root: Path) -> list[str]:
    """The real inputs of a model, where there are some."""
    if "pretrainedResnet" in name:
        return [
            "--data",
            str(root / "datasets/mlperf_tiny/ic01.npz"),
            "--calibration",
            str(root / "datasets/cifar10_jpeg/val_1000_from_test.npz"),
        ]
    if "kws_ref" in name:
        return [
            "--data",
            str(root / "datasets/mlperf_tiny/kws01.npz"),
            "--set",
            "data.scale=0.5847029089927673",
            "--set",
            "data.mean=[48.5303414454]",
        ]
    if "mnist_cnn" in name:
        return [
            "--data",
            str(root / "datasets/mnist_t10k/first_7000.npz"),
            "--set",
            "data.scale=0.00392156862745098",
            "--set",
            "data.max_samples=1500",
        ]
    return []


if __name__ == "__main__":
    main(sys.argv[1:])
