"""Small trained models of every kind, compressed to int8 .tflite and .onnx by the command: they run and agree.

python benchmarks/architectures.py [NAME ...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import compress, quiet_tensorflow

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
NAMES = (
    "lstm",
    "gru",
    "transformer",
    "generator",
    "twotower",
    "unet",
    "resnet",
    "dscnn",
    "multi_io",
    "shared",
    "nested",
)


def arrays(x: Any, y: Any) -> dict[str, np.ndarray]:
    """A model's inputs and labels as the members of an .npz."""
    members = dict(x) if isinstance(x, dict) else {"x": x}
    return members | ({} if y is None or isinstance(y, dict) else {"y": y})


def main(names: list[str]) -> None:
    """A row a model and format."""
    quiet_tensorflow()
    import zoo

    for name in names:
        model, x, y = zoo.build(name)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            model.save(folder / f"{name}.keras")
            np.savez(folder / "data.npz", **arrays(x, y))
            report, _ = compress(
                folder / f"{name}.keras", "--data", str(folder / "data.npz"), "--quantize", "int8", "--format",
                "tflite,onnx", "--set", "limits.bench_seconds=0", out=folder / "out",
            )  # fmt: skip
        for base, entry in zip(report["baselines"], report["artifacts"], strict=True):
            found, metric = entry["agreement"], report["data"]["metric"]
            top1 = f"top-1 {found['top1_agreement']:.3f}" if found.get("top1_agreement") is not None else " " * 11
            scores = ""
            if entry["metrics"]:
                scores = f"{metric} {entry['original_metrics'][metric]:.4f} -> {entry['metrics'][metric]:.4f}"
            left = sorted({layer["op"] for layer in entry["left_float"]})
            print(
                f"{name:<12} .{entry['format']:<7} {base['bytes']:>8,} -> {entry['bytes']:>8,} bytes  SQNR {found['sqnr_db']:5.1f} dB  "
                f"{top1}  {scores}{'  float: ' + ', '.join(left) if left else ''}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:] or list(NAMES))
