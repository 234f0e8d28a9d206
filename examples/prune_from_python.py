"""Prune a Keras model to half its work, distil it without labels, quantize it, and look at what each step left.

python examples/prune_from_python.py [FOLDER with model.keras and data.npz]
"""

import sys
import tempfile
from pathlib import Path

import edgedl


def main(folder: str = ".") -> None:
    """Half the multiply-accumulates as int8 .tflite; the original network is the teacher."""
    with tempfile.TemporaryDirectory() as out:
        report = edgedl.compress(
            Path(folder) / "model.keras",
            out,
            data={"source": str(Path(folder) / "data.npz")},
            stages=[("prune_channels", {"ratio": 0.5}), ("distill", {"epochs": 5, "label_weight": 0.0})],
            quantize={"scheme": "int8"},
            formats=["tflite"],
            limits={"bench_seconds": 0.0, "compare_dense": False},
        )
        print(f"original: {report['original']['metrics']['accuracy']:.4f}")
        for stage in report["stages"]:
            print(f"after {stage['stage']}: accuracy {stage['metrics']['accuracy']:.4f}; {stage['detail']}")
        artifact = report["artifacts"][0]
        print(f"{artifact['name']}: {artifact['bytes']:,} bytes, accuracy {artifact['metrics']['accuracy']:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
