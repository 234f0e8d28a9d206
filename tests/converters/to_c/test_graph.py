"""Reading .tflite files for firmware: what they hold, and files that were damaged or tampered with, which end in one error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from edgedl.converters import _tflite
from edgedl.converters.to_c.emit import sources
from edgedl.converters.to_c.graph import Unsupported, read
from edgedl.converters.to_c.program import program
from edgedl.errors import ConversionError, EdgedlError, ModelError

from .batch import ints, seeds
from .harness import Firmware, Node, T, write

CONV = {"padding": 1, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}


def network(path: Path) -> Path:
    """PAD, CONV_2D, RESHAPE, SOFTMAX, RESHAPE, ADD, CONCATENATION, MEAN."""
    rng = np.random.default_rng(0)
    kernel = rng.integers(-127, 128, (3, 3, 3, 2)).astype(np.int8)
    tensors = [
        T([1, 6, 6, 2], scale=0.1, zero=3), ints([0, 0], [1, 1], [1, 1], [0, 0]), T([1, 8, 8, 2], scale=0.1, zero=3),
        T([3, 3, 3, 2], scale=[0.01, 0.02, 0.03], data=kernel),
        T([3], "int32", [0.001, 0.002, 0.003], data=np.arange(3, dtype=np.int32)), T([1, 6, 6, 3], scale=0.2, zero=-3),
        ints(1, 36, 3), T([1, 36, 3], scale=0.2, zero=-3), T([1, 36, 3], scale=1 / 256, zero=-128), ints(1, 6, 6, 3),
        T([1, 6, 6, 3], scale=1 / 256, zero=-128), T([1, 6, 6, 3], scale=0.3, zero=1), T([1, 6, 6, 6], scale=0.3, zero=1),
        ints(1, 2), T([1, 1, 1, 6], scale=0.3, zero=1),
    ]  # fmt: skip
    nodes = [
        Node("PAD", [0, 1], [2]), Node("CONV_2D", [2, 3, 4], [5], CONV, "Conv2DOptions"), Node("RESHAPE", [5, 6], [7]),
        Node("SOFTMAX", [7], [8], {"beta": 1.0}, "SoftmaxOptions", 2), Node("RESHAPE", [8, 9], [10]),
        Node("ADD", [5, 10], [11], {}, "AddOptions", 2),
        Node("CONCATENATION", [11, 11], [12], {"axis": 3}, "ConcatenationOptions", 2),
        Node("MEAN", [12, 13], [14], {"keepDims": True}, "ReducerOptions"),
    ]  # fmt: skip
    return write(path, tensors, nodes, [0], [14])


def test_what_a_file_holds(tmp_path: Path) -> None:
    graph = read(network(tmp_path / "m.tflite"))
    assert [op.kind for op in graph.ops] == [
        "PAD",
        "CONV_2D",
        "RESHAPE",
        "SOFTMAX",
        "RESHAPE",
        "ADD",
        "CONCATENATION",
        "MEAN",
    ]
    conv = graph.ops[1]
    assert conv.input(1).scales.tolist() == np.float32([0.01, 0.02, 0.03]).tolist()
    assert conv.input(2).values.tolist() == [0, 1, 2]
    assert (conv.outputs[0].zero_point, conv.outputs[0].nbytes, conv.option("strideH")) == (-3, 108, 1)
    assert graph.readers()[id(conv.outputs[0])] == [graph.ops[2], graph.ops[5]]
    with pytest.raises(Unsupported, match="3 scales"):
        _ = conv.input(1).scale
    with pytest.raises(Unsupported, match="computed"):
        _ = conv.input(0).values


def tampered(model: Any, rng: Any) -> None:
    """One change of a model's parts: a number of a shape, a type, a scale, a zero point, an index, an option, a constant."""
    graph = model.subgraphs[0]
    tensor = graph.tensors[int(rng.integers(len(graph.tensors)))]
    op = graph.operators[int(rng.integers(len(graph.operators)))]
    number = int(rng.choice([-(1 << 31), -2, -1, 0, 1, 2, 3, 5, 7, 255, 256, 65536, (1 << 31) - 1]))
    kind = int(rng.integers(0, 10))
    if kind == 0:
        tensor.shape[int(rng.integers(len(tensor.shape)))] = number
    elif kind == 1:
        tensor.shape = [*tensor.shape, number][int(rng.integers(0, 2)) :]
    elif kind == 2:
        tensor.type = int(rng.integers(0, 20))
    elif kind == 3 and tensor.quantization is not None and tensor.quantization.scale is not None:
        q = tensor.quantization
        q.scale = np.resize(
            rng.choice([0.0, -1.0, np.nan, np.inf, 1e-38, 1e38, 0.1], 1), int(rng.integers(0, 4))
        ).astype(np.float32)
        q.zeroPoint = np.resize(np.array([number]), int(rng.integers(0, 4)))
        q.quantizedDimension = int(rng.integers(0, 5))
    elif kind == 4:
        op.inputs[int(rng.integers(len(op.inputs)))] = int(rng.integers(-1, len(graph.tensors)))
    elif kind == 5:
        op.outputs[0] = int(rng.integers(-1, len(graph.tensors)))
    elif kind == 6 and op.builtinOptions is not None:
        names = [name for name, v in vars(op.builtinOptions).items() if isinstance(v, int)]
        if names:
            setattr(op.builtinOptions, str(rng.choice(names)), number if rng.random() < 0.5 else number % 128)
    elif kind == 7:
        op.opcodeIndex = int(rng.integers(len(model.operatorCodes)))
    elif kind == 8:
        model.buffers[int(rng.integers(len(model.buffers)))].data = rng.integers(
            0, 256, int(rng.integers(0, 200))
        ).astype(np.uint8)
    else:
        op.inputs = list(op.inputs)[int(rng.integers(0, 2)) :][: int(rng.integers(0, 4))]


@given(seeds)
@settings(
    max_examples=100,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_tampered_parts_end_in_one_error_or_in_c(tmp_path: Path, rng: Any) -> None:
    model = _tflite.read(network(tmp_path / "m.tflite"))
    for _ in range(int(rng.integers(1, 3))):
        tampered(model, rng)
    try:
        (tmp_path / "m.tflite").write_bytes(_tflite.pack(model))
    except (OverflowError, TypeError, ValueError, AttributeError, AssertionError):
        return  # no such file can be written; struct.error is a ValueError
    try:
        sources(program(read(tmp_path / "m.tflite")), "model")
    except EdgedlError:
        return  # and no other error


@given(seeds)
@settings(
    max_examples=100,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_changed_bytes_end_in_one_error_or_in_c(tmp_path: Path, rng: Any) -> None:
    data = np.frombuffer(network(tmp_path / "m.tflite").read_bytes(), np.uint8).copy()
    for _ in range(int(rng.integers(1, 4))):
        data[rng.integers(len(data))] = rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))])
    (tmp_path / "m.tflite").write_bytes(
        data[: len(data) - int(rng.integers(0, 2)) * int(rng.integers(len(data)))].tobytes()
    )
    try:
        sources(program(read(tmp_path / "m.tflite")), "model")
    except EdgedlError:
        return  # and no other error


@pytest.mark.parametrize("seed", [3])
def test_tampered_files_that_become_c_stay_in_bounds(tmp_path: Path, seed: int) -> None:
    """The first files of a row of tampered ones that are taken run under the sanitizers."""
    rng = np.random.default_rng(seed)
    done = 0
    while done < 3:
        model = _tflite.read(network(tmp_path / "m.tflite"))
        before = (tmp_path / "m.tflite").read_bytes()
        tampered(model, rng)
        try:
            data = _tflite.pack(model)
            (tmp_path / "m.tflite").write_bytes(data)
            if data == before:
                continue
            made = Firmware(tmp_path / "m.tflite", tmp_path / f"c{done}", sanitize=True)
        except (EdgedlError, OverflowError, TypeError, ValueError, AttributeError):
            continue
        feed = [np.full(t.shape, 77).astype(t.dtype) for t in made.program.graph.inputs]
        made.run([feed])
        done += 1


def one(path: Path, x: T, y: T, kind: str = "RELU", inputs: int = 1) -> Path:
    return write(path, [x, y], [Node(kind, [0] * inputs, [1])], [0], [1])


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (T([1, 4], "float32"), T([1, 4], "float32"), ConversionError, "quantize it"),
        (T([1, -4], scale=0.1), T([1, 4], scale=0.1), ConversionError, "needs every size"),
        (T([1, 1 << 30], scale=0.1), T([1, 4], scale=0.1), ModelError, "absurd"),
        (T([1, 4], scale=float("nan")), T([1, 4], scale=0.1), ModelError, "no positive number"),
        (T([1, 4], scale=0.1, zero=200), T([1, 4], scale=0.1), ModelError, "outside its type"),
        (T([1, 4], scale=[0.1, 0.2, 0.3]), T([1, 4], scale=0.1), ModelError, "3 scales"),
        (T([1, 4], scale=[0.1, 0.2, 0.3, 0.4], axis=1), T([1, 4], scale=0.1), ConversionError, "scales"),
        (T([1, 4], scale=0.1), T([1, 4], scale=0.1, data=np.zeros((1, 4), np.int8)), ModelError, "twice"),
    ],
)
def test_what_is_refused(tmp_path: Path, x: T, y: T, error: type[EdgedlError], message: str) -> None:
    with pytest.raises(error, match=message):
        program(read(one(tmp_path / "m.tflite", x, y)))


def test_a_reshape_to_another_size_is_refused(tmp_path: Path) -> None:
    tensors = [T([1, 4], scale=0.1), T([1, 9], scale=0.1), T([1, 9], scale=0.1)]
    path = write(tmp_path / "m.tflite", tensors, [Node("RESHAPE", [0], [1]), Node("RELU", [1], [2])], [0], [2])
    with pytest.raises(ConversionError, match=r"int8 \[1, 9\] of int8 \[1, 4\]"):
        program(read(path))


def test_all_that_is_unknown_is_named_at_once(tmp_path: Path) -> None:
    tensors = [T([1, 4], scale=0.1)] * 3
    nodes = [Node("COS", [0], [1]), Node("RELU", [1], [2], version=99)]
    with pytest.raises(ConversionError, match=r"2 operators.*'t1' \(COS\).*not known.*'t2' \(RELU\): version 99"):
        program(read(write(tmp_path / "m.tflite", tensors, nodes, [0], [2])))


def test_names_cannot_end_a_comment(tmp_path: Path) -> None:
    graph = replace(read(network(tmp_path / "m.tflite")), name="x */ int main() { /*.tflite")
    text = sources(program(graph), "model")["model.c"]
    assert "x * / int main() { / *.tflite" in text.splitlines()[0]
