"""What a device application does with an artifact: load it, run it, read the labels. Needs numpy and an interpreter.

python examples/device_application.py [FOLDER with out/ and data.npz]
"""

import sys
from pathlib import Path

import numpy as np

from edgedl import runtime


def main(folder: str = ".") -> None:
    """Classify five raw inputs; preprocessing and quantization are the artifact's own."""
    net = runtime.load(next((Path(folder) / "out").glob("*_int8.tflite")), threads=1)
    with np.load(Path(folder) / "data.npz") as data:
        for image, label in zip(data["x"][:5], data["y"][:5], strict=True):
            (best, score), *_ = net.classify(image, top=1)
            print(f"digit {label}: {best} with {score:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
