"""A free batch without its price: a .tflite converted for a batch of 2 is made to take any, and is run to see that it does.

TensorFlow's converter knows a dilated convolution, a product of matrices and a reshape only where every size is fixed;
a batch that it does not know costs SPACE_TO_BATCH_ND, SHAPE, PACK, GATHER and the like at every one of them. (Of a batch
of 1 it drops the reshapes that only put it back, so that what it writes goes for no other.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...artifact import Array
from .. import _tflite as fb
from .graph import new_tensor

BATCH = 2  # that the file is converted for
MEMBERS = 3  # of the batch that is tried
BROADCASTING = frozenset({"ADD", "SUB", "MUL", "DIV", "SELECT_V2", "LOGICAL_AND", "LOGICAL_OR"})
BOUND = 1e-4  # of the largest value: kernels sum in another order for another batch


def must_be_one(content: bytes) -> bool:
    """Whether an operator has the batch in a constant: a transposed convolution is slow, and none for TFLM, without."""
    model = fb.parse(content, "the converter's output")
    return any(fb.op_name(model, op) == "TRANSPOSE_CONV" for graph in model.subgraphs for op in graph.operators)


def freed(content: bytes) -> bytes | None:
    """A float .tflite for a batch of BATCH as one for any; None where that gives something else."""
    model = fb.parse(content, "the converter's output")
    if len(model.subgraphs) != 1 or not _free(model):
        return None
    graph = model.subgraphs[0]
    shapes = _check(content, fb.pack(model), len(graph.tensors))
    if shapes is None:
        return None
    for tensor, (one, many) in zip(graph.tensors, shapes, strict=True):
        if one != many:
            tensor.shape = one
            tensor.shapeSignature = [-1 if a != b else a for a, b in zip(one, many, strict=True)]
    return fb.pack(model)


def _free(model: Any) -> bool:
    """Let every reshape keep the batch, which is its first dimension; False where it cannot."""
    graph = model.subgraphs[0]
    for i in graph.inputs:
        tensor = graph.tensors[i]
        if not tensor.shape or tensor.shape[0] != BATCH:
            return False
        tensor.shape = [1, *tensor.shape[1:]]
        tensor.shapeSignature = [-1, *tensor.shape[1:]]
    _drop_truths(model, graph)
    _one_for_all(model, graph)
    graph.operators = [part for op in graph.operators for part in _as_sum(model, graph, op) or [op]]
    for op in graph.operators:
        if fb.op_name(model, op) != "RESHAPE":
            continue
        target = list(graph.tensors[op.outputs[0]].shape)
        if not target or target[0] % BATCH or fb.is_constant(model, graph.tensors[op.inputs[0]]):
            return False
        target[0] = -1
        label = "shape/" + "x".join("any" if n < 0 else str(n) for n in target)
        op.inputs = [op.inputs[0], _constant(model, graph, label, np.array(target, np.int32))]
        if op.builtinOptions is not None:
            op.builtinOptions.newShape = target
    return True


def _drop_truths(model: Any, graph: Any) -> None:
    """Let SELECT_V2, which broadcasts, read a mask before all that is done to it is to be repeated for every head."""
    for op in [o for o in graph.operators if fb.op_name(model, o) == "LOGICAL_AND"]:
        truths = [i for i in op.inputs if _is_true(model, graph.tensors[i])]
        readers = [r for r in graph.operators if op.outputs[0] in r.inputs]
        if len(truths) != 1 or op.outputs[0] in graph.outputs or not readers:
            continue
        if all(fb.op_name(model, r) == "SELECT_V2" and r.inputs.index(op.outputs[0]) == 0 for r in readers):
            for reader in readers:
                reader.inputs = [next(i for i in op.inputs if i not in truths), *reader.inputs[1:]]
            graph.operators.remove(op)


def _is_true(model: Any, tensor: Any) -> bool:
    data = fb.raw(model, tensor)
    return data is not None and tensor.type == fb.schema().TensorType.BOOL and bool(np.all(data))


def _one_for_all(model: Any, graph: Any) -> None:
    """Constants that an operator which broadcasts combines with every member of the batch, once and not for each."""
    for op in graph.operators:
        shape = list(graph.tensors[op.outputs[0]].shape)
        if fb.op_name(model, op) not in BROADCASTING or shape[:1] != [BATCH]:
            continue
        for at, i in enumerate(op.inputs):
            t = graph.tensors[i]
            data = fb.raw(model, t)
            if data is None or len(t.shape) != len(shape) or t.shape[0] != BATCH:
                continue
            members = data.reshape(BATCH, -1)
            if np.all(members == members[:1]):
                op.inputs[at] = new_tensor(graph, t, "/one", shape=[1, *t.shape[1:]])
                fb.store(model, graph.tensors[op.inputs[at]], members[0])


def _as_sum(model: Any, graph: Any, op: Any) -> list[Any] | None:
    """Joining a constant (a class token) to one computed tensor, as the padded tensor plus the padded constant, which goes
    for every member of a batch; None for any other operator."""
    if fb.op_name(model, op) != "CONCATENATION" or op.builtinOptions.fusedActivationFunction:
        return None
    parts, out = [graph.tensors[i] for i in op.inputs], graph.tensors[op.outputs[0]]
    computed = [i for i, t in enumerate(parts) if not fb.is_constant(model, t)]
    axis = op.builtinOptions.axis % len(out.shape)
    if len(computed) != 1 or len(parts) < 2 or axis == 0 or out.type != fb.FLOAT32 or out.shape[0] != BATCH:
        return None
    starts = np.cumsum([0, *(t.shape[axis] for t in parts)])
    at, total = computed[0], np.zeros((1, *out.shape[1:]), np.float32)
    for i, t in enumerate(parts):
        if i != at:
            values = fb.values(model, t)
            if not np.array_equal(values[:1], values[1:]):
                return None
            total[(slice(None),) * axis + (slice(starts[i], starts[i + 1]),)] = values[:1]
    pads = np.zeros((len(out.shape), 2), np.int32)
    pads[axis] = starts[at], starts[-1] - starts[at + 1]
    name = fb.text(out.name)
    padded = new_tensor(graph, out, "/padded")
    inside = [op.inputs[at], _constant(model, graph, f"{name}/pads", pads)]
    return [
        _operator(model, "PAD", "PadOptions", inside, padded),
        _operator(
            model, "ADD", "AddOptions", [padded, _constant(model, graph, f"{name}/joined", total)], op.outputs[0]
        ),
    ]


def _operator(model: Any, kind: str, options: str, inputs: list[int], output: int) -> Any:
    schema = fb.schema()
    op = schema.OperatorT()
    op.opcodeIndex = fb.opcode(model, getattr(schema.BuiltinOperator, kind))
    op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    op.builtinOptions = getattr(schema, f"{options}T")()
    op.inputs, op.outputs = inputs, [output]
    return op


def _constant(model: Any, graph: Any, label: str, array: Array) -> int:
    """The index of a constant tensor, made where there is none of that name."""
    name = label.encode()
    found = next((i for i, t in enumerate(graph.tensors) if t.name == name), None)
    if found is not None:
        return found
    tensor = fb.schema().TensorT()
    tensor.name, tensor.shape = name, list(array.shape)
    tensor.type = fb.INT32 if array.dtype == np.int32 else fb.FLOAT32
    fb.store(model, tensor, array)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _check(pair: bytes, any_batch: bytes, count: int) -> list[tuple[list[int], list[int]]] | None:
    """Run both on the same members, in pairs, alone and all together; the shape of `count` tensors, alone and together.
    None: they differ, or make NaN, which tells nothing."""
    try:
        pairs, several = (_interpreter(c) for c in (pair, any_batch))
        inputs = [_values(d) for d in several.get_input_details()]
        wanted = _one_by_one(pairs, inputs)
        if _has_nan(wanted):  # as a logarithm or a root makes of reals around 0: it would be the same as any other NaN
            inputs = [np.abs(x) / (1 + np.abs(x)) if x.dtype.kind == "f" else x for x in inputs]
            wanted = _one_by_one(pairs, inputs)
            if _has_nan(wanted):
                return None
        alone = [_run(several, [x[i : i + 1] for x in inputs]) for i in range(MEMBERS)]
        before = _shapes(several, count)
        for detail, x in zip(several.get_input_details(), inputs, strict=True):
            several.resize_tensor_input(detail["index"], x.shape)
        several.allocate_tensors()
        together = _run(several, inputs)
    except (RuntimeError, ValueError):
        return None
    whole = [np.concatenate(parts) for parts in zip(*([y[:1] for y in ys] for ys in wanted), strict=True)]
    single = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
    same = all(_close(y, w) and _close(z, w) for y, z, w in zip(together, single, whole, strict=True))
    after = _shapes(several, count)
    ranks = all(len(a) == len(b) for a, b in zip(before, after, strict=True))
    return list(zip(before, after, strict=True)) if same and ranks else None


def _one_by_one(pairs: Any, inputs: list[Array]) -> list[list[Array]]:
    return [_run(pairs, [x[[i, i]] for x in inputs]) for i in range(MEMBERS)]


def _has_nan(runs: list[list[Array]]) -> bool:
    return any(np.isnan(y).any() for ys in runs for y in ys if y.dtype.kind == "f")


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


__all__ = ["BATCH", "freed", "must_be_one"]
