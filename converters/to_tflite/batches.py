"""A free batch without its price: a .tflite converted for a batch of 1 is made to take any, and is run to see that it does.

TensorFlow's converter knows a dilated convolution, a product of matrices and a reshape only where every size is fixed;
a batch that it does not know costs SPACE_TO_BATCH_ND, SHAPE, PACK, GATHER and the like at every one of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...artifact import Array
from .. import _tflite as fb

MEMBERS = 3  # of the batch that is tried
BOUND = 1e-4  # of the largest value: kernels sum in another order for another batch


def must_be_one(content: bytes) -> bool:
    """Whether an operator has the batch in a constant: a transposed convolution is slow, and none for TFLM, without."""
    model = fb.parse(content, "the converter's output")
    return any(fb.op_name(model, op) == "TRANSPOSE_CONV" for graph in model.subgraphs for op in graph.operators)


def freed(content: bytes) -> bytes | None:
    """A float .tflite for a batch of 1 as one for any batch; None where that gives something else than member by member."""
    model = fb.parse(content, "the converter's output")
    if len(model.subgraphs) != 1 or not _free(model):
        return None
    made = fb.pack(model)
    shapes = _check(content, made, len(model.subgraphs[0].tensors))
    if shapes is None:
        return None
    graph = model.subgraphs[0]
    for tensor, (one, many) in zip(graph.tensors, shapes, strict=True):
        if one != many:
            tensor.shapeSignature = [-1 if a != b else a for a, b in zip(one, many, strict=True)]
    return fb.pack(model)


def _free(model: Any) -> bool:
    """Let every reshape keep the batch, which is its first dimension; False where there is another one."""
    graph = model.subgraphs[0]
    if any(not graph.tensors[i].shape or graph.tensors[i].shape[0] != 1 for i in graph.inputs):
        return False
    for op in graph.operators:
        if fb.op_name(model, op) != "RESHAPE":
            continue
        target = list(graph.tensors[op.outputs[0]].shape)
        if not target or fb.is_constant(model, graph.tensors[op.inputs[0]]):
            return False
        target[0] = -1
        op.inputs = [op.inputs[0], _constant(model, graph, target)]
        if op.builtinOptions is not None:
            op.builtinOptions.newShape = target
    return True


def _constant(model: Any, graph: Any, target: list[int]) -> int:
    """The index of a constant tensor with a shape in it, made where there is none."""
    name = ("shape/" + "x".join("any" if n < 0 else str(n) for n in target)).encode()
    found = next((i for i, t in enumerate(graph.tensors) if t.name == name), None)
    if found is not None:
        return found
    tensor = fb.schema().TensorT()
    tensor.name, tensor.shape, tensor.type = name, [len(target)], fb.INT32
    fb.store(model, tensor, np.array(target, np.int32))
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _check(one: bytes, any_batch: bytes, count: int) -> list[tuple[list[int], list[int]]] | None:
    """Run both on the same members, alone and together; the shape of `count` tensors, alone and together. None: they differ."""
    try:
        single, several = (_interpreter(c) for c in (one, any_batch))
        inputs = [_values(d) for d in single.get_input_details()]
        alone = [_run(single, [x[i : i + 1] for x in inputs]) for i in range(MEMBERS)]
        small = _run(several, [x[:1] for x in inputs])
        before = _shapes(several, count)
        for detail, x in zip(several.get_input_details(), inputs, strict=True):
            several.resize_tensor_input(detail["index"], x.shape)
        several.allocate_tensors()
        together = _run(several, inputs)
    except (RuntimeError, ValueError):
        return None
    wanted = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
    same = all(_close(a, b) for a, b in zip((*together, *small), (*wanted, *alone[0]), strict=True))
    after = _shapes(several, count)
    ranks = all(len(a) == len(b) for a, b in zip(before, after, strict=True))
    return list(zip(before, after, strict=True)) if same and ranks else None


def _interpreter(content: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # XNNPACK is content with shapes that kernels refuse
    made = Interpreter(model_content=content, num_threads=2, experimental_op_resolver_type=plain)
    made.allocate_tensors()
    return made


def _values(detail: Any) -> Array:
    """Members that differ from each other; whole numbers stay so small that they are an index anywhere."""
    rng = np.random.default_rng(0)
    shape = (MEMBERS, *detail["shape"][1:])
    if np.dtype(detail["dtype"]).kind == "f":
        return rng.normal(0, 1, shape).astype(detail["dtype"])
    return rng.integers(0, 2, shape).astype(detail["dtype"])


def _run(interpreter: Any, inputs: list[Array]) -> list[Array]:
    for detail, x in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], x)
    interpreter.invoke()
    return [np.atleast_1d(interpreter.get_tensor(d["index"])) for d in interpreter.get_output_details()]


def _shapes(interpreter: Any, count: int) -> list[list[int]]:
    # behind the tensors of the file are those that kernels keep for themselves
    details = sorted(interpreter.get_tensor_details(), key=lambda d: d["index"])
    return [[int(n) for n in d["shape"]] for d in details[:count]]


def _close(a: Array, b: Array) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    finite = np.abs(b[np.isfinite(b)])
    return bool(np.allclose(a, b, rtol=BOUND, atol=BOUND * float(finite.max(initial=0.0)), equal_nan=True))


__all__ = ["freed", "must_be_one"]
