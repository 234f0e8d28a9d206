"""Whole `edgedl compress` of ResNet-8 to int8 .tflite and .onnx against a bare script that calls the same tools once each.

Interleaved A B A B, each a fresh process and a fresh folder; verification and benchmark aside, as the steps say.

EDGEDL_ASSETS=... python benchmarks/wall_time.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import assets, compress, figure

ASIDE = ("verify", "evaluate", "layers", "bench", "original", "robustness")  # what the bare script does not do
BARE = Path(__file__).with_name("bare_resnet8.py")


def main(rounds: int) -> None:
    """Print both times of every round and the ratio of the medians."""
    root = assets()
    model = root / "models/mlperf_tiny/pretrainedResnet.h5"
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "calibration.npz", x=np.load(root / "datasets/cifar10_jpeg/train_6000.npz")["x"][:200])
        for i in range(rounds):
            start = time.perf_counter()
            report, _ = compress(
                model, "--data", str(root / "datasets/mlperf_tiny/ic01.npz"), "--calibration", f"{folder}/calibration.npz",
                "--quantize", "int8", "--format", "tflite,onnx", out=folder / f"out{i}",
            )  # fmt: skip
            whole = time.perf_counter() - start
            aside = sum(s["seconds"] for s in report["steps"] if s["name"].split()[0] in ASIDE)
            ours.append(whole - aside)
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, BARE, model, folder / "calibration.npz", folder / f"bare{i}"],
                check=True,
                capture_output=True,
                timeout=600,
            )
            bare.append(time.perf_counter() - start)
            print(
                f"round {i}: edgedl {whole:.1f} s, of which {aside:.1f} s verification and benchmark; bare {bare[-1]:.1f} s",
                flush=True,
            )
    ratio = statistics.median(ours) / statistics.median(bare)
    figure("edgedl compress / bare script, wall time", f"{ratio:.2f}", "<= 1.3", ratio <= 1.3)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
