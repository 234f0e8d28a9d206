"""What `edgedl.runtime` costs a call, beside the interpreter used by hand, on networks so small that it shows.

    python benchmarks/runtime_overhead.py

By hand: set_tensor + invoke + get_tensor (LiteRT), session.run (ONNX Runtime); for int8 files also the arithmetic of
quantizing the input and dequantizing the output, as numpy code is usually written. The two take turns in short blocks
in one process; the figure is the median over the blocks of the ratio of their times.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgedl import runtime

DATA = Path(__file__).parent.parent / "tests" / "data"
CALLS, BLOCKS = 2000, 40
GOAL = 1.5


def tflite_by_hand(path: Path) -> Callable[[Any], Any]:
    """The interpreter as its documentation shows it."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    into, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    i, o = into["index"], out["index"]
    (scale, zero), (out_scale, out_zero) = into["quantization"], out["quantization"]

    def run_float(x: Any) -> Any:
        interpreter.set_tensor(i, x)
        interpreter.invoke()
        return interpreter.get_tensor(o)

    def run_int8(x: Any) -> Any:
        interpreter.set_tensor(i, np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int8))
        interpreter.invoke()
        return (interpreter.get_tensor(o).astype(np.float32) - out_zero) * out_scale

    return run_int8 if into["dtype"] is np.int8 else run_float


def onnx_by_hand(path: Path) -> Callable[[Any], Any]:
    """The session as its documentation shows it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"features": x})[0]


def tiny_onnx(path: Path) -> Path:
    """Dense 4 -> 3 with softmax."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["scores"])],
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def block(run: Callable[[Any], Any], x: Any) -> float:
    """Seconds a call."""
    start = time.perf_counter()
    for _ in range(CALLS):
        run(x)
    return (time.perf_counter() - start) / CALLS


def compare(name: str, by_hand: Callable[[Any], Any], run: Callable[[Any], Any], x: Any) -> float:
    """Print and return the ratio."""
    np.testing.assert_allclose(run(x), by_hand(x), rtol=1e-6)
    pairs = []
    for turn in range(BLOCKS):
        first, second = (by_hand, run) if turn % 2 else (run, by_hand)
        times = block(first, x), block(second, x)
        pairs.append(times if turn % 2 else times[::-1])
    hand, ours = (statistics.median(p[i] for p in pairs) * 1e6 for i in (0, 1))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{name:<24} by hand {hand:6.2f} us   edgedl.runtime {ours:6.2f} us   ratio {ratio:.2f}")
    return ratio


def main() -> None:
    """Print the table; the figure is on its last line."""
    x = np.random.default_rng(0).uniform(0, 1, (1, 4)).astype(np.float32)
    print(f"{BLOCKS} blocks of {CALLS} calls, one sample, one thread")
    ratios = []
    for name in ("dense_float.tflite", "dense_int8.tflite"):
        with runtime.load(DATA / name) as net:
            ratios.append(compare(name, tflite_by_hand(DATA / name), net.run, x))
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_onnx(Path(folder) / "dense_float.onnx")
        with runtime.load(path) as net:
            compare(path.name, onnx_by_hand(path), net.run, x)
    print(f"runtime overhead: {max(ratios):.2f} x set_tensor + invoke + get_tensor (goal <= {GOAL} x)")


if __name__ == "__main__":
    main()
