"""Compress a Keras model from Python and look at what came out.

python examples/compress_from_python.py [FOLDER with model.keras and data.npz]
"""

import sys
import tempfile
from pathlib import Path

import edgedl


def main(folder: str = ".") -> None:
    """int8 .tflite of model.keras, at most one point worse."""
    with tempfile.TemporaryDirectory() as out:
        report = edgedl.compress(
            Path(folder) / "model.keras",
            out,
            data={"source": str(Path(folder) / "data.npz")},
            quantize={"scheme": "int8", "calibration": "mse"},
            formats=["tflite"],
            limits={"max_drop": 0.01, "bench_seconds": 0.0},
        )
        artifact = report["artifacts"][0]
        before, now = artifact["original_metrics"]["accuracy"], artifact["metrics"]["accuracy"]
        print(f"{artifact['name']}: {artifact['bytes']:,} bytes, accuracy {before:.4f} -> {now:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
