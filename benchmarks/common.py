"""What the benchmarks share: where the assets are, running edgedl, printing a figure beside its goal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def assets() -> Path:
    """The folder of real models and data, or the end of the program with what to do."""
    path = Path(os.environ.get("EDGEDL_ASSETS", ""))
    if not os.environ.get("EDGEDL_ASSETS") or not (path / "models").is_dir():
        sys.exit("set EDGEDL_ASSETS to the folder that holds models/ and datasets/")
    return path


def figure(what: str, value: str, goal: str, ok: bool) -> None:
    """One line: the figure, its goal, and whether it is met."""
    print(f"{what:<58} {value:>16}   goal {goal:<12} {'met' if ok else 'MISSED'}", flush=True)


def compress(model: Path, *options: str, out: Path | None = None) -> tuple[dict[str, Any], Path]:
    """`edgedl compress MODEL ...` in a process of its own; returns (report, output folder)."""
    folder = out or Path(tempfile.mkdtemp(prefix="edgedl-bench-")) / "out"
    command = [sys.executable, "-m", "edgedl", "compress", str(model), *options, "-o", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads((folder / "report.json").read_text()), folder


def accuracy(artifact: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Top-1 of an artifact of edgedl, by its own runtime."""
    from edgedl import runtime

    net = runtime.load(artifact)
    return float(
        np.mean([int(np.argmax(net.run(sample[None]))) == int(label) for sample, label in zip(x, y, strict=True)])
    )


def quiet_tensorflow() -> Any:
    """TensorFlow without its chatter."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow

    tensorflow.get_logger().setLevel("ERROR")
    return tensorflow


def litert_accuracy(path: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Top-1 of any classifier .tflite by LiteRT's interpreter alone (no code of edgedl)."""
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(str(path))
    net.allocate_tensors()
    inside, outside = net.get_input_details()[0], net.get_output_details()[0]
    scale, zero = inside["quantization"]
    right = 0
    for sample, label in zip(x, y, strict=True):
        value = sample[None]
        if inside["dtype"] != np.float32:
            info = np.iinfo(inside["dtype"])
            value = np.clip(np.round(value / scale) + zero, info.min, info.max)
        net.set_tensor(inside["index"], value.astype(inside["dtype"]))
        net.invoke()
        right += int(net.get_tensor(outside["index"])[0].argmax()) == int(label)
    return right / len(y)


def ort_accuracy(path: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Top-1 of a float-input classifier .onnx by ONNX Runtime alone."""
    import onnxruntime

    net = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = net.get_inputs()[0].name
    found = np.concatenate([net.run(None, {name: x[i : i + 50].astype(np.float32)})[0] for i in range(0, len(x), 50)])
    return float((found.argmax(-1) == y).mean())
