"""ResNet-20 with 2 x fewer multiply-accumulates as firmware for a Cortex-M4: instructions against the dense int8 one, and accuracy.

EDGEDL_ASSETS=... python benchmarks/pruned_firmware.py [--seeds 1] [--epochs 10] [--cache FOLDER]

Pruned and trained as in pruning.py; both are quantized to int8, and one inference of each is counted in the emulated core. The
accuracy is of the int8 file on val_1000_from_test, by LiteRT (whose numbers the firmware gives bit by bit, see firmware.py).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import figure, quiet_tensorflow
from firmware import inputs, prepared
from pruned_latency import convert, score, teacher, train
from pruning import model_and_data

INSTRUCTIONS, ACCURACY = 0.5, 0.840
CORE = "cortex-m4"


def main() -> None:
    """Print a line for the dense network and one for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--cache", type=Path, help="where teachers are kept for the next run")
    given = parser.parse_args()
    quiet_tensorflow()
    from edgedl.stages.prune_channels import PruneChannels

    model, data = model_and_data()
    with tempfile.TemporaryDirectory(prefix="edgedl-bench-") as folder:
        given.cache = given.cache or Path(folder) / "cache"
        given.cache.mkdir(parents=True, exist_ok=True)
        dense = instructions(convert(model, data, Path(folder) / "dense.tflite"))
        print(f"dense: {dense:,} instructions", flush=True)
        shares, scores = [], []
        for seed in range(given.seeds):
            small = PruneChannels(ratio=0.5, seed=seed)(model, data)
            if given.epochs:
                small = train(small, data, teacher(model, data, given, seed), given.epochs, seed)
            path = convert(small, data, Path(folder) / f"{seed}.tflite")
            shares.append(instructions(path) / dense)
            scores.append(score(path, data))
            print(f"seed {seed}: {shares[-1]:.3f} of the instructions, int8 accuracy {scores[-1]:.3f}", flush=True)
    share, accuracy = float(np.mean(shares)), float(np.mean(scores))
    figure("2 x fewer MACs on a Cortex-M4, instructions", f"{share:.3f}", f"<= {INSTRUCTIONS}", share <= INSTRUCTIONS)
    figure("its int8 accuracy", f"{accuracy:.3f}", f">= {ACCURACY}", accuracy >= ACCURACY)


def instructions(path: Any) -> int:
    """Of one inference in the emulated core."""
    made, _, machine = prepared(path, CORE)
    counts = machine.run(inputs(made, 1)[0]).counts
    assert counts is not None
    return int(counts.instructions)


if __name__ == "__main__":
    main()
