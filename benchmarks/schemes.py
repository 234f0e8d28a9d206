"""ResNet-8 of MLPerf Tiny in every scheme and both formats: bytes, accuracy on ic01, latency beside the float file's.

EDGEDL_ASSETS=... python benchmarks/schemes.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from common import assets, compress

SCHEMES = ("fp16", "dynamic", "int8", "int16x8", "int8-weight-only", "int4-weight-only")


def main() -> None:
    """A row a scheme and format; ratio: median latency over that of the float file, measured in turns with it."""
    root = assets()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "c.npz", x=np.load(root / "datasets/cifar10_jpeg/train_6000.npz")["x"][:200])
        for scheme in SCHEMES:
            report, _ = compress(
                root / "models/mlperf_tiny/pretrainedResnet.h5", "--data", str(root / "datasets/mlperf_tiny/ic01.npz"),
                "--calibration", str(folder / "c.npz"), "--quantize", scheme, "--format", "tflite,onnx",
                "--set", "limits.bench_seconds=1", out=folder / scheme,
            )  # fmt: skip
            for entry, compared in zip(report["artifacts"], report["comparisons"], strict=True):
                accuracy, before = (entry[k]["accuracy"] for k in ("metrics", "original_metrics"))
                print(
                    f"{scheme:<17} .{entry['format']:<7} {entry['bytes']:>8,} bytes  accuracy {before:.3f} -> {accuracy:.3f}  "
                    f"SQNR {entry['agreement']['sqnr_db']:5.1f} dB  latency x {compared['ratio']:.2f} ({compared['verdict']})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
