"""How long an import of an .onnx file takes: MobileNetV2 in a fresh process, and a curve over graphs of 125 to 2,000 nodes.

The import is all of it: reading, rewriting, building the Keras model, and the proof against ONNX Runtime.

EDGEDL_ASSETS=... python benchmarks/import_time.py [NODES ...]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, figure, quiet_tensorflow

NODES = (125, 250, 500, 1000, 2000)
CHANNELS, SIZE = 8, 16


def graph(nodes: int) -> Any:
    """Convolution, BatchNormalization, ReLU, addition and concatenation in turns, `nodes` in all."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    made: list[Any] = []
    weights: list[Any] = []
    last = before = "x"

    def constant(name: str, array: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def add(op: str, inputs: list[str], **options: Any) -> str:
        made.append(helper.make_node(op, inputs, [f"t{len(made)}"], name=f"{op}_{len(made)}", **options))
        return f"t{len(made) - 1}"

    def conv(source: str, channels: int) -> str:
        kernel = rng.normal(0, 0.2, (CHANNELS, channels, 3, 3))
        return add("Conv", [source, constant(f"w{len(made)}", kernel)], pads=[1, 1, 1, 1])

    while len(made) < nodes:
        at = len(made)
        last = conv(last, CHANNELS)
        scale = [constant(f"{k}{at}", rng.uniform(0.5, 1.0, CHANNELS)) for k in ("s", "b", "m", "v")]
        last = add("Relu", [add("BatchNormalization", [last, *scale])])
        last = add("Add", [last, before])
        if at % 2:
            last = conv(add("Concat", [last, before], axis=1), 2 * CHANNELS)
        before = last
    shape = ["N", CHANNELS, SIZE, SIZE]
    infos = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("x", made[nodes - 1].output[0])]
    body = helper.make_graph(made[:nodes], "g", infos[:1], infos[1:], weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def imported(path: Path) -> float:
    """Seconds of one import."""
    import edgedl

    start = time.perf_counter()
    edgedl.load(path, form="keras")
    return time.perf_counter() - start


def main(sizes: list[int]) -> None:
    """Print the seconds of each, their straight line, and how far the largest lies above it."""
    import onnx

    path = assets() / "models/stm32_samples/mobilenet_v2_128_0.5_notebook.onnx"
    code = "import sys, edgedl; edgedl.load(sys.argv[1], form='keras')"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, timeout=300)
    whole = time.perf_counter() - start
    quiet_tensorflow()
    imported(path)  # TensorFlow's own start
    print(f"mobilenet_v2_128_0.5_notebook: {imported(path):.2f} s in a warm process")
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            file = Path(folder) / f"nodes_{n}.onnx"
            onnx.save(graph(n), file)
            seconds.append(imported(file))
            print(f"{n:6d} nodes  {seconds[-1]:7.2f} s  {1000 * seconds[-1] / n:6.2f} ms each", flush=True)
    figure("import of MobileNetV2, a fresh process", f"{whole:.1f} s", "<= 20 s", whole <= 20)
    if len(sizes) > 2:
        slope, offset = np.polyfit(sizes, seconds, 1)
        each = [s / n for s, n in zip(seconds, sizes, strict=True)]
        print(
            f"straight line: {1000 * slope:.2f} ms for each node, {offset:+.2f} s; power {_power(sizes, seconds):.2f}"
        )
        figure(
            "ms for each node, largest graph / smallest",
            f"{each[-1] / each[0]:.2f}",
            "<= 1.3",
            each[-1] <= 1.3 * each[0],
        )


def _power(sizes: list[int], seconds: list[float]) -> float:
    """The exponent p of seconds = c * nodes ** p."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]] or list(NODES))
