"""What tests of the C backend share: .tflite files of one operator, LiteRT's reference kernels, the C built and run here."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.converters import _tflite
from edgedl.converters.to_c.call import Features
from edgedl.converters.to_c.emit import sources
from edgedl.converters.to_c.graph import read
from edgedl.converters.to_c.program import Program, program, variables

TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9, "int4": 17}
FLAGS = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fPIC", "-shared"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
_COUNT = itertools.count()  # a library that is loaded once stays: each needs its own name
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@dataclass(frozen=True)
class T:
    """A tensor of a test model: `data` makes it a constant; `scale` one number or one for each index of `axis`."""

    shape: Sequence[int]
    dtype: str = "int8"
    scale: Any = None
    zero: Any = 0
    data: Any = None
    axis: int = 0
    variable: bool = False


@dataclass(frozen=True)
class Node:
    """One operator: its name in schema.fbs, indices into the list of tensors (-1: left out), its options by their names
    there, and the class of the options (e.g. "Conv2DOptions")."""

    kind: str
    inputs: Sequence[int]
    outputs: Sequence[int]
    options: Mapping[str, Any] = field(default_factory=dict)
    table: str = ""
    version: int = 1
    intermediates: Sequence[int] = ()


def write(
    path: Path, tensors: Sequence[T], nodes: Sequence[Node], inputs: Sequence[int], outputs: Sequence[int]
) -> Path:
    """A .tflite of these tensors and operators."""
    fb = _tflite.schema()
    model, graph = fb.ModelT(), fb.SubGraphT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [], [fb.BufferT()]
    graph.tensors, graph.operators = [], []
    for i, given in enumerate(tensors):
        tensor = fb.TensorT()
        tensor.shape, tensor.type, tensor.name = list(given.shape), TYPES[given.dtype], f"t{i}".encode()
        tensor.isVariable = given.variable
        if given.scale is not None:
            q = tensor.quantization = fb.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(given.scale, np.float32))
            q.zeroPoint = np.resize(np.asarray(given.zero, np.int64), len(q.scale))
            q.quantizedDimension = given.axis
        if given.data is not None:
            buffer = fb.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(given.data).tobytes(), np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        graph.tensors.append(tensor)
    for node in nodes:
        code = getattr(fb.BuiltinOperator, node.kind)
        op = fb.OperatorT()
        op.opcodeIndex = _tflite.opcode(model, code, node.version)
        op.inputs, op.outputs = list(node.inputs), list(node.outputs)
        op.intermediates = list(node.intermediates) or None
        if node.table:
            op.builtinOptionsType = getattr(fb.BuiltinOptions, node.table)
            op.builtinOptions = getattr(fb, f"{node.table}T")()
            for name, value in node.options.items():
                assert hasattr(op.builtinOptions, name), f"{node.table} has no {name}"
                setattr(op.builtinOptions, name, value)
        graph.operators.append(op)
    graph.inputs, graph.outputs = list(inputs), list(outputs)
    path.write_bytes(_tflite.pack(model))
    return path


def reference(path: Path, feeds: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """What LiteRT's own kernels (no XNNPACK) give for each feed: a list of outputs, in the graph's order."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    run = litert.Interpreter(
        str(path), experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, num_threads=1
    )
    run.allocate_tensors()
    found = []
    for feed in feeds:
        for detail, x in zip(run.get_input_details(), feed, strict=True):
            run.set_tensor(detail["index"], x)
        run.invoke()
        found.append([run.get_tensor(d["index"]).copy() for d in run.get_output_details()])
    return found


class Firmware:
    """A model as C, compiled for this machine; `run` calls it in an arena whose surroundings are checked.

    `features` choose the kernels; those with inline assembly have a twin in C for other machines. With `sanitize` it
    runs in a process of its own (the sanitizer's runtime must be loaded first), all feeds at once.
    """

    def __init__(self, path: Path, folder: Path, features: Features = frozenset(), sanitize: bool = False) -> None:
        if COMPILER is None:
            pytest.skip("no C compiler")
        self.program: Program = program(read(path), features)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        files = sources(self.program, "model")
        for name, text in files.items():
            (folder / name).write_text(text)
        code = sorted(name for name in files if name.endswith(".c"))
        self.sanitize = sanitize
        flags = [f for f in FLAGS if not (sanitize and f in ("-fPIC", "-shared"))]
        if sanitize:
            begun = (
                "model_init(arena); model_invoke(arena);" if variables(self.program.graph) else "model_invoke(arena);"
            )
            (folder / "main.c").write_text(MAIN.replace("model_invoke(arena);", begun))
            code.append("main.c")
        out = "model.bin" if sanitize else f"model{next(_COUNT)}.so"
        command = [COMPILER, *flags, *(SANITIZE if sanitize else []), "-o", out, *code]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        self.library = None if sanitize else ctypes.CDLL(str(folder / out))

    def run(self, feeds: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Outputs for each feed."""
        return self._apart(feeds) if self.sanitize else [self.sequence([feed])[0] for feed in feeds]

    def sequence(self, feeds: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Outputs for feeds that follow one another: tensors that keep their values are zero only before the first."""
        size = max(self.program.plan.total, 1)
        guarded = np.full(size + 128, 0xA5, np.uint8)
        skip = 64 - guarded.ctypes.data % 64 if guarded.ctypes.data % 64 else 64
        arena = guarded[skip : skip + size]
        assert self.library is not None
        if variables(self.program.graph):
            self.library.model_init(ctypes.c_void_p(arena.ctypes.data))
        found = []
        for feed in feeds:
            self._fill(arena, feed)
            self.library.model_invoke(ctypes.c_void_p(arena.ctypes.data))
            found.append(self._outputs(arena))
        assert (guarded[:skip] == 0xA5).all(), "bytes before the arena were written"
        assert (guarded[skip + size :] == 0xA5).all(), "bytes behind the arena were written"
        return found

    def _fill(self, arena: Any, feed: Sequence[Any]) -> None:
        graph = self.program.graph
        for tensor, x in zip(graph.inputs, feed, strict=True):
            at = self.program.places[id(tensor)]
            arena[at : at + tensor.nbytes] = np.ascontiguousarray(x).view(np.uint8).reshape(-1)

    def _outputs(self, arena: Any) -> list[Any]:
        found = []
        for tensor in self.program.graph.outputs:
            at = self.program.places[id(tensor)]
            raw = arena[at : at + tensor.nbytes]
            found.append(np.frombuffer(raw.tobytes(), tensor.dtype).reshape(tensor.shape))
        return found

    def _apart(self, feeds: Sequence[Sequence[Any]]) -> list[list[Any]]:
        size = max(self.program.plan.total, 1)
        arenas = np.full((len(feeds), size), 0xA5, np.uint8)
        for arena, feed in zip(arenas, feeds, strict=True):
            self._fill(arena, feed)
        (self.folder / "in.bin").write_bytes(arenas.tobytes())
        command = [str(self.folder / "model.bin"), "in.bin", "out.bin", str(len(feeds))]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        after = np.fromfile(self.folder / "out.bin", np.uint8).reshape(arenas.shape)
        return [self._outputs(arena) for arena in after]


MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "model.h"
int main(int argc, char **argv)
{
    FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
    if (argc != 4 || !in || !out) return 2;
    for (int n = atoi(argv[3]); n > 0; n--) {
        uint8_t *arena = malloc(MODEL_ARENA_BYTES); /* exact: the sanitizer sees one byte too many */
        if (!arena || fread(arena, 1, MODEL_ARENA_BYTES, in) != MODEL_ARENA_BYTES) return 3;
        model_invoke(arena);
        if (fwrite(arena, 1, MODEL_ARENA_BYTES, out) != MODEL_ARENA_BYTES) return 4;
        free(arena);
    }
    return fclose(out) ? 5 : 0;
}
"""


def check(
    path: Path, folder: Path, feeds: Sequence[Sequence[Any]], features: Features = frozenset(), **how: Any
) -> Firmware:
    """Assert that the C gives LiteRT's outputs, every bit. Returns the firmware."""
    made = Firmware(path, folder, features, **how)
    for feed, found, expected in zip(feeds, made.run(feeds), reference(path, feeds), strict=True):
        del feed
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    return made
