"""TFLite operators that move, cut, join and gather values, and compute with shapes."""

from __future__ import annotations

import numpy as np

from .step import Step, Unsupported, op

END = (1 << 31) - 1
TYPES = {
    0: np.float32,
    1: np.float32,
    2: np.int32,
    3: np.uint8,
    4: np.int64,
    6: np.bool_,
    7: np.int16,
    9: np.int8,
    10: np.float32,
    12: np.uint64,
    15: np.uint32,
    16: np.uint16,
}  # fmt: skip  TensorType -> type here


@op("RESHAPE")
def reshape(s: Step) -> None:
    given = s.option("newShape", "ReshapeOptions")
    if s.has(1):
        s.last(
            "Reshape", s.x(), s.cast(s.x(1), np.int64), allowzero=int(s.maybe_array(1) is not None and 0 in s.ints(1))
        )
    elif given is not None:
        s.last("Reshape", s.x(), s.longs([int(v) for v in given]))
    else:
        raise Unsupported("it does not say to which shape")


@op("SQUEEZE")
def squeeze(s: Step) -> None:
    axes = s.option("squeezeDims", "SqueezeOptions")
    chosen = [] if axes is None or len(axes) == 0 else [s.longs([int(a) for a in axes])]
    s.last("Squeeze", s.x(), *chosen)


@op("EXPAND_DIMS")
def expand_dims(s: Step) -> None:
    s.last("Unsqueeze", s.x(), s.longs(s.ints(1)))


@op("TRANSPOSE")
def transpose(s: Step) -> None:
    s.last("Transpose", s.x(), perm=s.ints(1))


@op("CONCATENATION")
def concatenation(s: Step) -> None:
    """What is empty is left out: the first and the last step of a loop put nothing before and behind their results."""
    options = "ConcatenationOptions"
    values = [v for v in s.values() if 0 not in (s.emit.shape(v) or ())] or s.values()
    s.last("Concat", *values, axis=s.option("axis", options),
           activation=s.option("fusedActivationFunction", options))  # fmt: skip


@op("PACK")
def pack(s: Step) -> None:
    axis = s.option("axis", "PackOptions")
    s.last("Concat", *(s("Unsqueeze", x, s.longs([axis])) for x in s.values()), axis=axis)


def split(s: Step, x: str, sizes: list[int], axis: int) -> list[str]:
    """Pieces of a value along an axis, named as the results."""
    name = s.graph.wish(s.op.outputs[0])
    return s.emit.many("Split", [x, s.longs(sizes)], len(sizes), name=f"{name};Split", axis=axis)


@op("UNPACK")
def unpack(s: Step) -> None:
    axis, count = s.option("axis", "UnpackOptions"), len(s.op.outputs)
    parts = split(s, s.x(), [1] * count, axis) if count > 1 else [s.x()]
    s.outs([s("Squeeze", part, s.longs([axis])) for part in parts])


@op("SPLIT")
def split_even(s: Step) -> None:
    (axis,), count = s.ints(0), len(s.op.outputs)
    shape = s.shape(1)
    if not -len(shape) <= axis < len(shape) or (size := shape[axis]) is None or size % count:
        raise Unsupported("it does not divide evenly")
    s.outs(split(s, s.x(1), [size // count] * count, axis))


@op("SPLIT_V")
def split_given(s: Step) -> None:
    sizes, (axis,), shape = s.ints(1), s.ints(2), s.shape()
    if len(sizes) != len(s.op.outputs) or not -len(shape) <= axis < len(shape) or sizes.count(-1) > 1:
        raise Unsupported("its sizes do not fit its outputs")
    if -1 in sizes:
        whole = shape[axis]
        if whole is None:
            raise Unsupported("the size of one part depends on the input's")
        sizes[sizes.index(-1)] = whole - sum(n for n in sizes if n >= 0)
    s.outs(split(s, s.x(), sizes, axis))


@op("SLICE")
def slice_(s: Step) -> None:
    """From `begin` on, `size` entries, or all the rest where that is -1; in loops both are computed."""
    if s.maybe_array(1) is None or s.maybe_array(2) is None:
        first, count = (s.cast(s.x(i), np.int64) for i in (1, 2))
        rest = s("Less", count, s.longs([0]))
        s.last("Slice", s.x(), first, s("Where", rest, s.longs([END]), s("Add", first, count)))
        return
    begin, size = s.ints(1), s.ints(2)
    ends = [END if n == -1 else b + n for b, n in zip(begin, size, strict=True)]
    s.last("Slice", s.x(), s.longs(begin), s.longs(ends))


@op("STRIDED_SLICE")
def strided_slice(s: Step) -> None:
    """x[begin:end:stride] with numpy's new axes, dropped axes and ellipsis."""
    begin, end, strides = s.ints(1), s.ints(2), s.ints(3)
    masks = {k: int(s.option(k, "StridedSliceOptions")) for k in
             ("beginMask", "endMask", "ellipsisMask", "newAxisMask", "shrinkAxisMask")}  # fmt: skip
    if not len(begin) == len(end) == len(strides) or 0 in strides:
        raise Unsupported("its begin, end and strides do not fit one another")
    if s.option("offset", "StridedSliceOptions"):
        end = [b + e for b, e in zip(begin, end, strict=True)]
    cuts, new, dropped = _cuts(begin, end, strides, masks, len(s.shape()))
    x = s.x()
    cuts = [c for c in cuts if c[1:] != (0, END, 1)]
    if cuts:
        axes, starts, ends, steps = (list(v) for v in zip(*cuts, strict=True))
        x = s("Slice", x, s.longs(starts), s.longs(ends), s.longs(axes), s.longs(steps))
    if dropped:
        x = s("Squeeze", x, s.longs(dropped))
    s.last("Unsqueeze", x, s.longs(new)) if new else s.last("Identity", x)


Cut = tuple[int, int, int, int]  # axis, start, end, step


def _cuts(
    begin: list[int], end: list[int], strides: list[int], masks: dict[str, int], rank: int
) -> tuple[list[Cut], list[int], list[int]]:
    """(cuts, axes of the result that are new, axes of the input that are dropped)."""

    def masked(kind: str, i: int) -> bool:
        return bool(masks[kind] >> i & 1)

    consumed = sum(not masked("newAxisMask", i) and not masked("ellipsisMask", i) for i in range(len(begin)))
    if consumed > rank:
        raise Unsupported("it slices more axes than its input has")
    cuts: list[Cut] = []
    new, dropped = [], []
    axis = place = 0  # of the input, of the result
    for i in range(len(begin)):
        if masked("ellipsisMask", i):
            skip = rank - consumed
            axis, place = axis + skip, place + skip
        elif masked("newAxisMask", i):
            new.append(place)
            place += 1
        elif masked("shrinkAxisMask", i):
            start = 0 if masked("beginMask", i) else begin[i]  # as LiteRT has it
            cuts.append((axis, start, start + 1 if start != -1 else END, 1))
            dropped.append(axis)
            axis += 1
        else:
            forward = strides[i] > 0
            start = (0 if forward else END) if masked("beginMask", i) else begin[i]
            stop = (END if forward else -END) if masked("endMask", i) else end[i]
            cuts.append((axis, start, stop, strides[i]))
            axis, place = axis + 1, place + 1
    return cuts, new, dropped


@op("REVERSE_V2")
def reverse(s: Step) -> None:
    axes = s.ints(1)
    s.last("Slice", s.x(), s.longs([-1] * len(axes)), s.longs([-END] * len(axes)), s.longs(axes),
           s.longs([-1] * len(axes)))  # fmt: skip


@op("GATHER")
def gather(s: Step) -> None:
    axis, batch = s.option("axis", "GatherOptions"), s.option("batchDims", "GatherOptions")
    if batch == 0:
        s.last("Gather", s.x(0), s.x(1), axis=axis)
    elif batch == axis and batch > 0:
        where = s("Unsqueeze", s.cast(s.x(1), np.int64), s.longs([-1]))
        s.last("GatherND", s.x(0), where, batch_dims=batch)
    else:
        raise Unsupported(f"batch_dims={batch} with axis={axis}")


@op("GATHER_ND")
def gather_nd(s: Step) -> None:
    s.last("GatherND", s.x(0), s.cast(s.x(1), np.int64))


@op("EMBEDDING_LOOKUP")
def embedding_lookup(s: Step) -> None:
    s.last("Gather", s.x(1), s.x(0), axis=0)


@op("SHAPE")
def shape(s: Step) -> None:
    wide = s.option("outType", "ShapeOptions") == 4  # TensorType.INT64
    s.out(s.cast(s("Shape", s.x()), np.int64 if wide else np.int32))


@op("RANK")
def rank(s: Step) -> None:
    s.out(s.emit.constant(np.int32(len(s.shape()))))


@op("FILL")
def fill(s: Step) -> None:
    s.last("Expand", s.x(1), s.cast(s.x(0), np.int64))


@op("TILE")
def tile(s: Step) -> None:
    s.last("Tile", s.x(0), s.cast(s.x(1), np.int64))


@op("BROADCAST_TO")
def broadcast_to(s: Step) -> None:
    s.last("Expand", s.x(0), s.cast(s.x(1), np.int64))


@op("RANGE")
def range_(s: Step) -> None:
    s.last("Range", s.x(0), s.x(1), s.x(2))


@op("ONE_HOT")
def one_hot(s: Step) -> None:
    axis = s.option("axis", "OneHotOptions")
    off, on = (s("Reshape", s.x(i), s.longs([1])) for i in (3, 2))
    s.last("OneHot", s.x(0), s.x(1), s("Concat", off, on, axis=0), axis=axis)


@op("CAST")
def cast(s: Step) -> None:
    """To the type of the output tensor; quantized and half types are float32 here."""
    tensor = s.graph.tensor(s.op.outputs[0])
    dtype = TYPES.get(tensor.type)
    if dtype is None:
        raise Unsupported(f"it casts to the type {tensor.type}, which is not known")
    s.last("Cast", s.x(), to=int(s.emit.o.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))
