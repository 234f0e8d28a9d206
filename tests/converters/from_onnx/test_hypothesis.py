"""Random graphs and windows through the importer, held to ONNX Runtime with another batch size than any that was probed."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")
pytest.importorskip("onnxruntime")
hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgedl.converters.from_onnx.build import NotFree, build  # noqa: E402
from edgedl.converters.from_onnx.graph import prepared  # noqa: E402
from edgedl.converters.from_onnx.proof import difference, run_keras, run_session  # noqa: E402
from edgedl.errors import ModelError  # noqa: E402
from edgedl.model import LoadOptions  # noqa: E402

BATCH = 3
BOUND = 2e-4  # of max|a - b| / max|b|: float32 in another order
QUICK = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@dataclass(frozen=True, slots=True)
class Free:
    """A length that is `times` the batch."""

    times: int = 1


Shape = tuple[Any, ...]


@dataclass
class Chain:
    """A graph under construction: its nodes, its constants, and the shape of every tensor so far."""

    pick: random.Random
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def node(self, op: str, inputs: list[str], shape: Shape, **attributes: Any) -> str:
        """A node of one output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{len(self.nodes)}", **attributes))
        self.shapes[name] = shape
        return name

    def constant(self, array: Any) -> str:
        """An initializer."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def numbers(self, shape: tuple[int, ...]) -> str:
        """Random reals."""
        rng = np.random.default_rng(self.pick.randrange(1 << 30))
        return self.constant(rng.normal(0, 1, shape).astype(np.float32))

    def model(self, inputs: dict[str, Shape], outputs: list[str]) -> Any:
        """The whole as a ModelProto."""
        made = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N" if isinstance(d, Free) else d for d in s])
            for n, s in inputs.items()
        ]
        out = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
        graph = helper.make_graph(self.nodes, "chain", made, out, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def length(dims: Shape) -> Any:
    """The product of lengths."""
    times = math.prod(d.times if isinstance(d, Free) else d for d in dims)
    return Free(times) if any(isinstance(d, Free) for d in dims) else times


def fixed(shape: Shape) -> list[int]:
    """The dimensions without the batch in them."""
    return [i for i, d in enumerate(shape) if not isinstance(d, Free)]


def transpose(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    order = list(range(len(shape)))
    c.pick.shuffle(order)
    return c.node("Transpose", [x], tuple(shape[i] for i in order), perm=order)


def _target(c: Chain, x: str, shape: Shape) -> str:
    values = [-1 if isinstance(d, Free) else d for d in shape]
    return c.node("Reshape", [x, c.constant(np.array(values, np.int64))], shape)


def merge(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    if len(shape) < 2:
        return None
    i = c.pick.randrange(len(shape) - 1)
    j = c.pick.randrange(i + 1, len(shape)) + 1
    return _target(c, x, (*shape[:i], length(shape[i:j]), *shape[j:]))


def divide(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    i = c.pick.randrange(len(shape)) if shape else 0
    if not shape or len(shape) > 5:
        return None
    d = shape[i]
    n = d.times if isinstance(d, Free) else d
    parts = [k for k in range(1, n + 1) if n % k == 0]
    k = c.pick.choice(parts)
    if isinstance(d, Free):
        pair = c.pick.choice([(Free(k), n // k), (n // k, Free(k))])
        if pair[0] != Free(k):
            return None  # [times, N] where the data lies as N * times: another meaning, and as legal; kept out
    else:
        pair = (k, n // k)
    return _target(c, x, (*shape[:i], *pair, *shape[i + 1 :]))


def redistribute(c: Chain, x: str) -> str | None:
    """Two neighbouring dimensions a, b as c, d with a b = c d."""
    shape = c.shapes[x]
    if len(shape) < 2:
        return None
    i = c.pick.randrange(len(shape) - 1)
    a, b = shape[i], shape[i + 1]
    if isinstance(a, Free) or isinstance(b, Free):
        return None
    k = c.pick.choice([k for k in range(1, a * b + 1) if a * b % k == 0])
    return _target(c, x, (*shape[:i], k, a * b // k, *shape[i + 2 :]))


def flatten(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    axis = c.pick.randrange(len(shape) + 1)
    return c.node("Flatten", [x], (length(shape[:axis]), length(shape[axis:])), axis=axis)


def unsqueeze(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    if len(shape) > 5:
        return None
    axis = c.pick.randrange(len(shape) + 1)
    return c.node("Unsqueeze", [x, c.constant(np.array([axis]))], (*shape[:axis], 1, *shape[axis:]))


def squeeze(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    ones = [i for i, d in enumerate(shape) if d == 1]
    if not ones:
        return None
    i = c.pick.choice(ones)
    return c.node("Squeeze", [x, c.constant(np.array([i]))], (*shape[:i], *shape[i + 1 :]))


def split(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    able = [i for i in fixed(shape) if shape[i] >= 2]
    if not able:
        return None
    axis = c.pick.choice(able)
    first = c.pick.randrange(1, shape[axis])
    names = [f"t{len(c.nodes)}_{i}" for i in range(2)]
    sizes = c.constant(np.array([first, shape[axis] - first]))
    c.nodes.append(helper.make_node("Split", [x, sizes], names, name=f"Split_{len(c.nodes)}", axis=axis))
    for name, n in zip(names, (first, shape[axis] - first), strict=True):
        c.shapes[name] = (*shape[:axis], n, *shape[axis + 1 :])
    c.nodes.append(helper.make_node("Identity", [names[0]], [f"t{len(c.nodes)}"]))
    c.shapes[f"t{len(c.nodes) - 1}"] = c.shapes[names[0]]
    return c.pick.choice(names)


def concat(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    able = fixed(shape)
    if not able or math.prod(d.times if isinstance(d, Free) else d for d in shape) > 400:
        return None
    axis = c.pick.choice(able)

    def fits(s: Shape) -> bool:
        return len(s) == len(shape) and all(i == axis or a == b for i, (a, b) in enumerate(zip(s, shape, strict=True)))

    others = [n for n, s in c.shapes.items() if fits(s)]
    parts = [x, c.pick.choice(others)]
    if all(not isinstance(d, Free) for d in shape) or c.pick.random() < 0.1:
        extra = [d if i != axis else 2 for i, d in enumerate(shape)]
        if not any(isinstance(d, Free) for d in extra):
            name = c.numbers(tuple(extra))
            c.shapes[name] = tuple(extra)
            parts.append(name)
    c.pick.shuffle(parts)
    total = sum(c.shapes[p][axis] for p in parts)
    made = c.node("Concat", parts, (*shape[:axis], total, *shape[axis + 1 :]), axis=axis)
    for p in parts:
        if p.startswith("c"):
            del c.shapes[p]
    return made


def cut(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    able = [i for i in fixed(shape) if shape[i] >= 2]
    if not able:
        return None
    axis = c.pick.choice(able)
    n, step = shape[axis], c.pick.choice([1, 1, 2, -1, -2])
    low = c.pick.randrange(n)
    begin, end = (low, c.pick.randrange(low, n) + 1) if step > 0 else (n - 1 - low, -n - 1)
    kept = len(range(n)[slice(begin, None if end < -n else end, step)])
    given = [c.constant(np.array([v], np.int64)) for v in (begin, end, axis, step)]
    return c.node("Slice", [x, *given], (*shape[:axis], kept, *shape[axis + 1 :]))


def pad(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    able = fixed(shape)
    if not able:
        return None
    pads = np.zeros((2, len(shape)), np.int64)
    for i in c.pick.sample(able, c.pick.randrange(1, len(able) + 1)):
        pads[:, i] = c.pick.randrange(3), c.pick.randrange(2)
    mode = c.pick.choice(["constant", "edge"])
    out = tuple(d if isinstance(d, Free) else d + int(pads[:, i].sum()) for i, d in enumerate(shape))
    return c.node("Pad", [x, c.constant(pads.reshape(-1))], out, mode=mode)


def gather(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    able = fixed(shape)
    if not able:
        return None
    axis = c.pick.choice(able)
    form = c.pick.choice([(), (1,), (3,), (2, 2)]) if len(shape) > 1 else (2,)
    index = np.array([c.pick.randrange(-shape[axis], shape[axis]) for _ in range(math.prod(form))]).reshape(form)
    return c.node("Gather", [x, c.constant(index)], (*shape[:axis], *form, *shape[axis + 1 :]), axis=axis)


def arithmetic(c: Chain, x: str) -> str | None:
    """With a constant that broadcasts, or with any other tensor that does."""
    shape, op = c.shapes[x], c.pick.choice(["Add", "Mul", "Max"])
    if c.pick.random() < 0.4:
        lengths = [1 if isinstance(d, Free) or c.pick.random() < 0.5 else d for d in shape]
        drop = c.pick.randrange(len(lengths) + 1)
        pair = [x, c.numbers(tuple(lengths[drop:]))]
        c.pick.shuffle(pair)
        return c.node(op, pair, shape)
    able = [(n, s) for n in c.shapes if (s := _broadcast(shape, c.shapes[n])) is not None]
    name, out = c.pick.choice(able)
    if math.prod(d.times if isinstance(d, Free) else d for d in out) > 2000:
        return None
    pair = [x, name]
    c.pick.shuffle(pair)
    return c.node(op, pair, out)


def _broadcast(a: Shape, b: Shape) -> Shape | None:
    rank = max(len(a), len(b))
    left, right = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    out = []
    for m, n in zip(left, right, strict=True):
        if m != n and 1 not in (m, n):
            return None
        out.append(n if m == 1 else m)
    return tuple(out) if sum(isinstance(d, Free) for d in out) < 2 else None


def reduction(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    able = fixed(shape)
    if not able:
        return None
    axes = sorted(c.pick.sample(able, c.pick.randrange(1, len(able) + 1)))
    keep = c.pick.randrange(2)
    out = tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes)
    op = c.pick.choice(["ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2"])
    return c.node(op, [x, c.constant(np.array(axes))], out, keepdims=keep)


def product(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    if not shape or isinstance(shape[-1], Free):
        return None
    if c.pick.random() < 0.5 or len(shape) < 2:
        n = c.pick.choice([1, 2, 5])
        return c.node("MatMul", [x, c.numbers((shape[-1], n))], (*shape[:-1], n))
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    turned = c.node("Transpose", [x], tuple(shape[i] for i in order), perm=order)
    if isinstance(shape[-2], Free):
        return None
    return c.node("MatMul", [x, turned], (*shape[:-1], shape[-2]))


def softmax(c: Chain, x: str) -> str | None:
    able = fixed(c.shapes[x])
    if not able:
        return None
    return c.node("Softmax", [x], c.shapes[x], axis=c.pick.choice(able))


def activation(c: Chain, x: str) -> str | None:
    return c.node(c.pick.choice(["Relu", "Sigmoid", "LeakyRelu", "Abs"]), [x], c.shapes[x])


def image(c: Chain, x: str) -> str | None:
    """What wants (batch, channels, ...)."""
    shape = c.shapes[x]
    if not 3 <= len(shape) <= 5 or not isinstance(shape[0], Free) or any(isinstance(d, Free) for d in shape[1:]):
        return None
    n, channels = len(shape) - 2, shape[1]
    kind = c.pick.choice(
        [
            "Conv",
            "Conv",
            "BatchNormalization",
            "MaxPool",
            "GlobalAveragePool",
            "InstanceNormalization",
            "Resize",
            "DepthToSpace",
            "ConvTranspose",
            "PRelu",
            "LRN",
        ]
    )
    ones = (1,) * n
    if kind == "Conv":
        out, k = c.pick.choice([2, 4, 6]), c.pick.choice([1, 3])
        weights = c.numbers((out, channels, *[k] * n))
        return c.node("Conv", [x, weights, c.numbers((out,))], (shape[0], out, *shape[2:]), pads=[k // 2] * 2 * n)
    if kind == "ConvTranspose":
        return c.node(
            "ConvTranspose",
            [x, c.numbers((channels, 2, *[2] * n))],
            (shape[0], 2, *[2 * d for d in shape[2:]]),
            strides=[2] * n,
        )
    if kind == "BatchNormalization":
        given = [c.numbers((channels,)) for _ in range(3)] + [c.constant(np.full(channels, 0.7, np.float32))]
        return c.node(kind, [x, *given], shape)
    if kind == "InstanceNormalization":
        if math.prod(shape[2:]) < 4:
            return None
        return c.node(kind, [x, *(c.numbers((channels,)) for _ in range(2))], shape, epsilon=0.1)
    if kind == "MaxPool":
        return c.node(kind, [x], shape, kernel_shape=[3] * n, pads=[1] * 2 * n)
    if kind == "GlobalAveragePool":
        return c.node(kind, [x], (*shape[:2], *ones))
    if kind == "PRelu":
        return c.node(kind, [x, c.numbers((channels, *ones))], shape)
    if kind == "LRN":
        return c.node(kind, [x], shape, size=3) if n == 2 else None
    if kind == "DepthToSpace":
        if n != 2 or channels % 4:
            return None
        mode = c.pick.choice(["DCR", "CRD"])
        return c.node(kind, [x], (shape[0], channels // 4, 2 * shape[2], 2 * shape[3]), blocksize=2, mode=mode)
    if math.prod(shape[1:]) > 400:
        return None
    scales = c.constant(np.array([1, 1, *[2] * n], np.float32))
    return c.node(
        "Resize", [x, "", scales], (*shape[:2], *[2 * d for d in shape[2:]]), mode=c.pick.choice(["nearest", "linear"])
    )


def tile(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    able = fixed(shape)
    if not able or math.prod(d.times if isinstance(d, Free) else d for d in shape) > 300:
        return None
    counts = [c.pick.choice([1, 2]) if i in able else 1 for i in range(len(shape))]
    out = tuple(d if isinstance(d, Free) else d * k for d, k in zip(shape, counts, strict=True))
    return c.node("Tile", [x, c.constant(np.array(counts))], out)


def expand(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    ones = [i for i, d in enumerate(shape) if d == 1]
    if not ones or math.prod(d.times if isinstance(d, Free) else d for d in shape) > 300:
        return None
    at = c.pick.choice(ones)
    target = [3 if i == at else 1 for i in range(len(shape))]
    return c.node("Expand", [x, c.constant(np.array(target))], (*shape[:at], 3, *shape[at + 1 :]))


def where(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    other = c.node("Sigmoid", [x], shape)
    lengths = [1 if isinstance(d, Free) or c.pick.random() < 0.5 else d for d in shape]
    rng = np.random.default_rng(c.pick.randrange(1 << 30))
    mask = c.constant(rng.random(lengths) < 0.5)
    return c.node("Where", [mask, x, other], shape)


def top(c: Chain, x: str) -> str | None:
    shape = c.shapes[x]
    able = fixed(shape)
    if not able:
        return None
    axis = c.pick.choice(able)
    k = c.pick.randrange(1, shape[axis] + 1)
    out = (*shape[:axis], k, *shape[axis + 1 :])
    made = c.node("TopK", [x, c.constant(np.array([k]))], out, axis=axis, largest=c.pick.randrange(2))
    c.nodes[-1].output.append(f"{made}_index")
    return made


STEPS = (
    transpose, transpose, merge, divide, redistribute, flatten, unsqueeze, squeeze, split, concat, cut, pad, gather,
    tile, expand, where, top, arithmetic, arithmetic, arithmetic, reduction, product, softmax, activation, image, image, image,
)  # fmt: skip


def chain(pick: random.Random, steps: int) -> Any:
    """A random graph, its inputs of shape (N, ...)."""
    c = Chain(pick)
    inputs: dict[str, Shape] = {}
    for i in range(pick.choice([1, 1, 2])):
        inputs[f"x{i}"] = (Free(), *(pick.choice([1, 2, 3, 4, 6]) for _ in range(pick.choice([1, 2, 3, 3, 3, 4]))))
    c.shapes.update(inputs)
    at = "x0"
    for _ in range(steps):
        if pick.random() < 0.25:
            at = pick.choice(list(c.shapes))
        made = pick.choice(STEPS)(c, at)
        at = made or at
    used = {n for node in c.nodes for n in node.input}
    ends = [n for n in c.shapes if n not in used and n not in inputs] or [at]
    if at in inputs:
        ends = [c.node("Relu", [at], c.shapes[at])]
    return c.model(inputs, ends)


def compared(model: Any, seed: int = 0) -> tuple[str, float]:
    """("", how far apart) where the model was built, else (why not, 0)."""
    import onnxruntime

    graph = prepared(model, LoadOptions(form="keras"), "chain")
    try:
        imported = build(graph, freed=False, name="model")
    except NotFree:
        return "NotFree", 0.0
    except ModelError as error:
        return str(error), 0.0
    rng = np.random.default_rng(seed)
    feed = {
        i.name: rng.normal(0, 1, [BATCH if n is None else n for n in i.shape]).astype(np.float32) for i in graph.inputs
    }
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted, found = run_session(session, feed), run_keras(imported, feed)
    return "", max(difference(found[n], wanted[n])[0] for n in graph.outputs)


@QUICK
@given(st.randoms(use_true_random=False), st.integers(2, 10))
def test_random_graphs_compute_the_same(pick: random.Random, steps: int) -> None:
    why, gap = compared(chain(pick, steps))
    assert not why
    assert gap <= BOUND


# --- windows


def _single(
    op: str, shape: Shape, constants: list[Any], *, between: bool = False, opset: int = 18, **attributes: Any
) -> Any:
    """A model of one node; `between`: with a transposed copy as a second output, so that the layout is not plain."""
    c = Chain(random.Random(0))
    c.shapes["x"] = shape
    names = ["" if a is None else c.constant(a) for a in constants]
    y = c.node(op, ["x", *names], shape, **attributes)
    ends = [y]
    if between:
        rank = len(shape)
        ends.append(c.node("Transpose", [y], shape, perm=[*range(1, rank), 0]))
    model = c.model({"x": shape}, ends)
    model.opset_import[0].version = opset
    return model


def _window(pick: random.Random, n: int, *, dilation: bool = True, small: bool = False) -> dict[str, Any]:
    """kernel_shape, strides, dilations and pads or auto_pad."""
    kernel = [pick.choice([1, 2, 3, 3, 5] if n < 3 else [1, 2, 3]) for _ in range(n)]
    found: dict[str, Any] = {"kernel_shape": kernel, "strides": [pick.choice([1, 1, 2, 3]) for _ in range(n)]}
    if pick.random() < 0.3:
        found["strides"] = [found["strides"][0]] * n
    if dilation and pick.random() < 0.3:
        found["dilations"] = [pick.choice([1, 2]) for _ in range(n)]
    how = pick.choice(["pads", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID", ""])
    if how == "pads":
        most = [k - 1 for k in kernel] if small else [3] * n
        found["pads"] = [pick.randrange(0, most[i % n] + 1) for i in range(2 * n)]
    elif how:
        found["auto_pad"] = how
    if how.startswith("SAME"):  # ONNX Runtime pads pools without regard to dilations, and by less than nothing
        found["strides"] = [min(s, k) for s, k in zip(found["strides"], kernel, strict=True)]
        found.pop("dilations", None)
    return found


def convolution(pick: random.Random) -> Any:
    """Conv over 1 to 3 dimensions, grouped, depthwise or plain."""
    n = pick.choice([1, 2, 2, 3])
    groups = pick.choice([1, 1, 2, 4])
    channels = groups * pick.choice([1, 1, 2])
    out = groups * pick.choice([1, 2, 3])
    found = _window(pick, n)
    rng = np.random.default_rng(pick.randrange(1 << 30))
    weights = rng.normal(0, 1, (out, channels // groups, *found["kernel_shape"])).astype(np.float32)
    bias = [rng.normal(0, 1, out).astype(np.float32)] if pick.random() < 0.5 else []
    shape = (Free(), channels, *(pick.randrange(9, 13) for _ in range(n)))
    return _single("Conv", shape, [weights, *bias], between=pick.random() < 0.3, group=groups, **found)


def deconvolution(pick: random.Random) -> Any:
    """ConvTranspose over 1 to 3 dimensions; ONNX Runtime knows output_shape and output_padding differently by auto_pad."""
    n = pick.choice([1, 2, 2, 3])
    groups = pick.choice([1, 1, 2])
    channels = groups * pick.choice([1, 2])
    found = _window(pick, n, small=True)
    if found.get("auto_pad") == "SAME_LOWER":
        del found["auto_pad"]
    if "auto_pad" not in found and pick.random() < 0.4:
        found["output_padding"] = [pick.randrange(0, s) for s in found["strides"]]
    rng = np.random.default_rng(pick.randrange(1 << 30))
    out = pick.choice([1, 2, 3])
    weights = rng.normal(0, 1, (channels, out, *found["kernel_shape"])).astype(np.float32)
    bias = [rng.normal(0, 1, out * groups).astype(np.float32)] if pick.random() < 0.5 else []
    shape = (Free(), channels, *(pick.randrange(4, 8) for _ in range(n)))
    return _single("ConvTranspose", shape, [weights, *bias], between=pick.random() < 0.3, group=groups, **found)


def pooling(pick: random.Random) -> Any:
    """MaxPool, AveragePool and LpPool over 1 to 3 dimensions."""
    n = pick.choice([1, 2, 2, 3])
    op = pick.choice(["MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool"])
    found = _window(pick, n, dilation=op == "MaxPool", small=True)
    if "auto_pad" not in found and op != "LpPool" and pick.random() < 0.4:
        found["ceil_mode"] = 1
    if op == "AveragePool" and pick.random() < 0.5:
        found["count_include_pad"] = 1
    shape = (Free(), pick.choice([1, 3]), *(pick.randrange(7, 12) for _ in range(n)))
    return _single(op, shape, [], between=pick.random() < 0.3, opset=22 if op == "AveragePool" else 18, **found)


def resizing(pick: random.Random) -> Any:
    """Resize in every mode that ONNX Runtime has for it."""
    n = pick.choice([1, 2, 2, 3])
    mode = pick.choice(["nearest", "linear", "cubic"]) if n == 2 else pick.choice(["nearest", "linear"])
    how = pick.choice(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": how}
    if mode == "nearest":
        attributes["nearest_mode"] = pick.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
        if how == "asymmetric" and attributes["nearest_mode"] == "round_prefer_ceil":
            attributes["nearest_mode"] = "floor"  # there ONNX Runtime decides ties of single precision in its own way
    if mode == "cubic":
        attributes["cubic_coeff_a"] = pick.choice([-0.75, -0.5])
        attributes["exclude_outside"] = pick.choice([0, 0, 1])
    lengths = [pick.randrange(2, 8) for _ in range(n)]
    shape = (Free(), pick.choice([1, 3]), *lengths)
    if pick.random() < 0.5:
        scales = [pick.choice([1.0, 2.0, 3.0, 0.5]) for _ in range(n)]
        scales = [s if (s * d) == int(s * d) else 2.0 for s, d in zip(scales, lengths, strict=True)]
        return _single("Resize", shape, [None, np.array([1, 1, *scales], np.float32)], **attributes)
    sizes = np.array([pick.randrange(1, 12) for _ in range(n)], np.int64)
    return _single("Resize", shape, [None, None, sizes], axes=list(range(2, n + 2)), **attributes)


@pytest.mark.parametrize("made", [convolution, deconvolution, pooling, resizing])
@QUICK
@given(pick=st.randoms(use_true_random=False))
def test_windows_compute_the_same(made: Any, pick: random.Random) -> None:
    why, gap = compared(made(pick))
    assert not why
    assert gap <= BOUND
