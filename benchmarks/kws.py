"""The keyword-spotting reference model to int8: calibrated on 200 inputs of kws01, scored on the others.

EDGEDL_ASSETS=... python benchmarks/kws.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from common import assets, compress, figure

SCALE, ZERO_POINT = 0.5847029089927673, 83  # of the official int8 input, which kws01 is stored in
CALIBRATION = 200


def main() -> None:
    """Print accuracies."""
    root = assets()
    data = np.load(root / "datasets/mlperf_tiny/kws01.npz")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        order = np.random.default_rng(0).permutation(len(data["x"]))
        np.savez(folder / "calibration.npz", x=data["x"][order[:CALIBRATION]])
        np.savez(folder / "test.npz", x=data["x"][order[CALIBRATION:]], y=data["y"][order[CALIBRATION:]])
        report, _ = compress(
            root / "models/mlperf_tiny/kws_ref_model", "--data", f"{folder}/test.npz",
            "--calibration", f"{folder}/calibration.npz", "--quantize", "int8", "--format", "tflite,onnx",
            "--set", f"data.scale={SCALE}", "--set", f"data.mean=[{SCALE * ZERO_POINT}]",
            "--set", "limits.bench_seconds=0", out=folder / "out",
        )  # fmt: skip
    print(f"float {report['original']['metrics']['accuracy']:.4f} on the {len(order) - CALIBRATION} others")
    for artifact in report["artifacts"]:
        seen = artifact["metrics"]["accuracy"]
        figure(
            f"int8 .{artifact['format']} on the others, {artifact['bytes']:,} bytes",
            f"{seen:.4f}",
            ">= 0.90",
            seen >= 0.90,
        )


if __name__ == "__main__":
    main()
