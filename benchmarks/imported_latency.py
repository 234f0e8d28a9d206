"""Latency of float .tflite files made of imported models, against those of the tools that people use today.

PyTorch's ResNet-20 against litert-torch 0.10.0, MobileNetV2 and UltraFace from ONNX against onnx2tf 1.29.0: both files in
one process, by LiteRT's interpreter with XNNPACK, interleaved; the figure is the median of the ratios of the rounds.

EDGEDL_ASSETS=... python benchmarks/imported_latency.py [--litert-torch-python PATH] [--onnx2tf-python PATH] [NAME ...]

A peer without a path gets a virtual environment of its own, in ~/.cache/edgedl-benchmarks.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, figure, quiet_tensorflow

from edgedl.stats import compare_blocks

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache/edgedl-benchmarks"
PEERS = {
    "litert-torch": ("torch==2.13.0", "litert-torch==0.10.0"),
    "onnx2tf": ("onnx2tf==1.29.0", "tensorflow==2.19.0", "tf-keras==2.19.0", "onnx", "onnxruntime", "onnx-graphsurgeon",
                "sng4onnx", "psutil", "ai-edge-litert", "onnxsim"),
}  # fmt: skip
ONNX = (
    "stm32_samples/mobilenet_v2_128_0.5_notebook.onnx",
    "ultraface/version-RFB-320_without_postprocessing.onnx",
    "ultraface/version-RFB-320.onnx",
)
RESNET = "pytorch_resnet_cifar10/resnet20-12fca82f.th"
ROUNDS, SECONDS = 41, 0.05  # rounds, and how long each file runs in one
GOAL = 1.0


def main() -> None:
    """A line for each model: medians of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--litert-torch-python", default="")
    parser.add_argument("--onnx2tf-python", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    quiet_tensorflow()
    root = assets() / "models"
    sys.path.insert(0, str(HERE.parent / "examples"))
    resnet = {"module": "resnet20_torch:ResNet20", "inputs": {"x": "1x3x32x32"}}
    todo = [(RESNET, "litert-torch", resnet)] + [(name, "onnx2tf", {"form": "keras"}) for name in ONNX]
    pythons = {"litert-torch": given.litert_torch_python, "onnx2tf": given.onnx2tf_python}
    with tempfile.TemporaryDirectory(prefix="edgedl-bench-") as folder:
        for name, peer, options in todo:
            if given.names and not any(n in name for n in given.names):
                continue
            ours, theirs = Path(folder) / "ours.tflite", Path(folder) / "theirs.tflite"
            convert(root / name, options, ours)
            python = pythons[peer] = pythons[peer] or environment(peer)
            if not run_peer(python, peer, root / name, theirs):
                continue
            report(f"{Path(name).name} / {peer}", ours, theirs, given.threads)


def convert(path: Path, options: dict[str, Any], out: Path) -> None:
    """A model through edgedl to a float .tflite."""
    import edgedl
    from edgedl.data import Dataset, Split
    from edgedl.registry import find

    model = edgedl.load(path, **options)
    none = Split({s.name: np.zeros((0, *s.shape[1:]), s.dtype) for s in model.inputs})
    find("converter", "tflite")()(model, Dataset(none, none), out)


def environment(peer: str) -> str:
    """The Python of a virtual environment that has the peer, made where it is missing."""
    folder = CACHE / peer
    python = folder / "bin/python"
    if not python.exists():
        print(f"installing {' '.join(PEERS[peer])} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEERS[peer]], check=True, timeout=1800)
    return str(python)


def run_peer(python: str, peer: str, model: Path, out: Path) -> bool:
    """Whether the peer made a file."""
    script = HERE / f"bare_{peer.replace('-', '_')}.py"
    arguments = [str(out), str(model)] if peer == "litert-torch" else [str(model), str(out)]
    try:
        done = subprocess.run([python, str(script), *arguments], capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        print(f"{model.name}: {peer} did not end within 900 s")
        return False
    if done.returncode or not out.exists():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{model.name}: {peer} failed: {last[:200]}")
        return False
    return True


def interpreter(path: Path, threads: int) -> Any:
    """A loaded file with an input of random numbers."""
    from ai_edge_litert.interpreter import Interpreter

    made = Interpreter(str(path), num_threads=threads)
    made.allocate_tensors()
    rng = np.random.default_rng(0)
    for detail in made.get_input_details():
        made.set_tensor(detail["index"], rng.normal(size=detail["shape"]).astype(detail["dtype"]))
    made.invoke()
    return made


def block(net: Any, count: int) -> float:
    """Milliseconds of one inference, `count` in a row."""
    start = time.perf_counter()
    for _ in range(count):
        net.invoke()
    return 1000 * (time.perf_counter() - start) / count


def operators(path: Path) -> str:
    """The operators of a file and how many there are of each."""
    from edgedl.converters import _tflite as fb

    model = fb.read(path)
    found = Counter(fb.op_name(model, op) for graph in model.subgraphs for op in graph.operators)
    return ", ".join(f"{n} {op}" for op, n in sorted(found.items()))


def report(what: str, ours: Path, theirs: Path, threads: int) -> None:
    """Run both in turns, print the medians and the ratio."""
    nets = [interpreter(path, threads) for path in (ours, theirs)]
    for net in nets:
        block(net, 5)
    counts = [max(1, int(1000 * SECONDS / block(net, 5))) for net in nets]
    times: list[list[float]] = [[], []]
    for i in range(ROUNDS):
        for which in (0, 1) if i % 2 else (1, 0):
            times[which].append(block(nets[which], counts[which]))
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    print(f"{what}: edgedl {statistics.median(times[0]):.3f} ms, peer {statistics.median(times[1]):.3f} ms")
    for name, path in (("edgedl", ours), ("peer", theirs)):
        print(f"  {name:7s} {operators(path)}", flush=True)
    found = compare_blocks(*([np.array([t]) for t in series] for series in times), paired=True)
    low, high = found.interval
    print(
        f"  interval of 95 % of the ratio: {low:.3f} to {high:.3f}; below 1 % no difference is claimed: {found.verdict}"
    )
    figure(f"{what}, latency", f"{ratio:.3f} x", f"<= {GOAL} x", ratio <= GOAL or found.verdict != "slower")


if __name__ == "__main__":
    main()
