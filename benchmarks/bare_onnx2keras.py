"""One .onnx through onnx2keras, as its README says, held to given outputs: prints the largest relative difference.

python benchmarks/bare_onnx2keras.py MODEL.onnx INPUTS.npz OUTPUTS.npz   (in an environment with onnx2keras)
"""

from __future__ import annotations

import logging
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def main(model: str, inputs: str, outputs: str) -> None:
    """Convert, run, compare; what goes wrong ends the program with its own message."""
    import numpy as np
    import onnx
    from onnx2keras import onnx_to_keras

    logging.disable(logging.CRITICAL)
    feed, wanted = np.load(inputs), np.load(outputs)
    names = [str(n) for n in feed["names"]]
    net = onnx_to_keras(onnx.load(model), names, verbose=False)
    found = net([feed[f"x{i}"] for i in range(len(names))] if len(names) > 1 else feed["x0"])
    found = found if isinstance(found, list | tuple) else [found]
    worst = 0.0
    for i, value in enumerate(found):
        want = wanted[f"y{i}"]
        have = np.asarray(value)
        if have.shape != want.shape:
            sys.exit(f"shape {have.shape} instead of {want.shape}")
        worst = max(worst, float(np.abs(have - want).max() / np.abs(want).max()))
    print(worst)


if __name__ == "__main__":
    main(*sys.argv[1:4])
