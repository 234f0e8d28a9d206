"""TFLite's convolutions, pools, resizing and matrix products: NHWC in the file, NCHW between two transposes in ONNX."""

from __future__ import annotations

import math

import numpy as np

from .step import NCHW, NHWC, Step, Unsupported, op

SAME = 0  # Padding of schema.fbs
MAX_WINDOW = 1 << 20  # positions of a kernel: beyond, a file is not to be believed


def same_pads(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's SAME padding along one axis: the odd one goes behind.

    >>> same_pads(224, 3, 2, 1)
    (0, 1)
    """
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def padding(s: Step, kernel: list[int], strides: list[int], dilations: list[int], same: bool) -> dict[str, object]:
    """The attributes of ONNX for SAME or VALID; explicit with a dilation, which ONNX Runtime wants so."""
    if not same:
        return {}
    if max(dilations) == 1:
        return {"auto_pad": "SAME_UPPER"}
    sizes = s.shape()[1:-1]
    if any(n is None for n in sizes):
        raise Unsupported("SAME padding with a dilation needs fixed sizes: give them with --input NAME=SHAPE")
    pads = [same_pads(n or 0, k, t, d) for n, k, t, d in zip(sizes, kernel, strides, dilations, strict=True)]
    return {"pads": [p[0] for p in pads] + [p[1] for p in pads]}


def positive(values: list[int], what: str) -> list[int]:
    """The values. Raises Unsupported where one is not a positive number."""
    if any(not 0 < v < 1 << 20 for v in values):
        raise Unsupported(f"its {what} is {values}")
    return values


def bias_of(s: Step, i: int, channels: int) -> list[str]:
    """The bias as a list of one value, or of none."""
    if not s.has(i):
        return []
    found = s.array(i)
    if found.size != channels:
        raise Unsupported(f"it has {channels} channels and a bias of {found.size}")
    return [s.emit.constant(found.reshape(-1), name=s.graph.wish(s.op.inputs[i]))]


@op("CONV_2D", "DEPTHWISE_CONV_2D")
def conv_2d(s: Step) -> None:
    """Weights O,H,W,I (depthwise 1,H,W,O) become O,I,H,W."""
    depthwise = s.kind != "CONV_2D"
    options = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    w, channels = s.array(1), s.shape()[-1]
    if w.ndim != 4 or channels is None or len(s.shape()) != 4 or w.size == 0:
        raise Unsupported("it needs an input of rank 4 with known channels, and weights of rank 4")
    kernel = w.transpose(3, 0, 1, 2) if depthwise else w.transpose(0, 3, 1, 2)
    groups = channels if depthwise else channels // max(kernel.shape[1], 1)
    if groups * kernel.shape[1] != channels or kernel.shape[0] % groups:
        raise Unsupported(f"its weights {list(w.shape)} do not fit {channels} channels")
    strides = positive([s.option("strideH", options), s.option("strideW", options)], "stride")
    dilations = positive([s.option("dilationHFactor", options), s.option("dilationWFactor", options)], "dilation")
    window = list(kernel.shape[2:])
    x, pads = s.x(), padding(s, window, strides, dilations, s.option("padding", options) == SAME)
    folded = getattr(s.op, "atrous", None)  # (block, pads): see _graph.fold_atrous
    if folded:
        dilations, pads = folded[0], {"pads": folded[1]}
    x = s("Transpose", x, perm=NCHW)
    weights = s.emit.constant(kernel, name=s.graph.wish(s.op.inputs[1]))
    y = s("Conv", x, weights, *bias_of(s, 2, kernel.shape[0]), group=groups, kernel_shape=window,
          strides=strides, dilations=dilations, **pads)  # fmt: skip
    s.last("Transpose", y, perm=NHWC, activation=s.option("fusedActivationFunction", options))


@op("CONV_3D")
def conv_3d(s: Step) -> None:
    """Weights D,H,W,I,O become O,I,D,H,W."""
    kernel = s.array(1)
    if kernel.ndim != 5:
        raise Unsupported("its weights are not of rank 5")
    kernel = kernel.transpose(4, 3, 0, 1, 2)
    strides = positive([s.option(f"stride{a}", "Conv3DOptions") for a in "DHW"], "stride")
    dilations = positive([s.option(f"dilation{a}Factor", "Conv3DOptions") for a in "DHW"], "dilation")
    pads = padding(s, list(kernel.shape[2:]), strides, dilations, s.option("padding", "Conv3DOptions") == SAME)
    y = s("Conv", s("Transpose", s.x(), perm=(0, 4, 1, 2, 3)), s.emit.constant(kernel), *bias_of(s, 2, kernel.shape[0]),
          strides=strides, dilations=dilations, **pads)  # fmt: skip
    s.last("Transpose", y, perm=(0, 2, 3, 4, 1), activation=s.option("fusedActivationFunction", "Conv3DOptions"))


@op("TRANSPOSE_CONV")
def transpose_conv(s: Step) -> None:
    """Weights O,H,W,I become I,O,H,W; the output's size is given, and what SAME would pad of it is cut off."""
    w, out, sizes = s.array(1), s.ints(0), s.fixed(2)
    if w.ndim != 4 or len(out) != 4 or len(sizes) != 4:
        raise Unsupported("it is known for images only")
    options = "TransposeConvOptions"
    strides = positive([s.option("strideH", options), s.option("strideW", options)], "stride")
    same, pads, extra = s.option("padding", options) == SAME, [], []
    for size, k, stride, wanted in zip(sizes[1:3], w.shape[1:3], strides, out[1:3], strict=True):
        full = (size - 1) * stride + k
        surplus = full - wanted
        before = max(surplus, 0) // 2 if same else 0
        pads.append((before, max(surplus - before, 0)))
        extra.append(max(-surplus, 0))
        if extra[-1] >= stride:
            raise Unsupported(f"its output of {wanted} is larger than its input and stride can make")
    y = s("ConvTranspose", s("Transpose", s.x(2), perm=NCHW),
          s.emit.constant(w.transpose(3, 0, 1, 2), name=s.graph.wish(s.op.inputs[1])), *bias_of(s, 3, w.shape[0]),
          strides=strides, kernel_shape=list(w.shape[1:3]), output_padding=extra,
          pads=[p[0] for p in pads] + [p[1] for p in pads])  # fmt: skip
    s.last("Transpose", y, perm=NHWC, activation=s.option("fusedActivationFunction", options))


@op("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")
def pool(s: Step) -> None:
    """Averages leave out what is padded, as ONNX's do."""
    window = positive([s.option("filterHeight", "Pool2DOptions"), s.option("filterWidth", "Pool2DOptions")], "window")
    strides = positive([s.option("strideH", "Pool2DOptions"), s.option("strideW", "Pool2DOptions")], "stride")
    if math.prod(window) > MAX_WINDOW:
        raise Unsupported(f"its window is {window}")
    pads = padding(s, window, strides, [1, 1], s.option("padding", "Pool2DOptions") == SAME)
    x = s("Transpose", s.x(), perm=NCHW)
    if s.kind == "L2_POOL_2D":
        x = s("Mul", x, x)
    kind = "MaxPool" if s.kind == "MAX_POOL_2D" else "AveragePool"
    y = s(kind, x, kernel_shape=window, strides=strides, **pads)
    if s.kind == "L2_POOL_2D":
        y = s("Sqrt", y)
    s.last("Transpose", y, perm=NHWC, activation=s.option("fusedActivationFunction", "Pool2DOptions"))


@op("FULLY_CONNECTED")
def fully_connected(s: Step) -> None:
    """Weights [out, in]; an input of another rank is flattened to rows unless keep_num_dims is set."""
    options = "FullyConnectedOptions"
    activation = s.option("fusedActivationFunction", options)
    if s.option("weightsFormat", options):
        raise Unsupported("its weights are shuffled for one processor")
    x, w = s.x(0), s.maybe_array(1)
    if len(s.shape(1)) != 2:
        raise Unsupported("its weights are not of rank 2")
    keep = s.option("keepNumDims", options) and len(s.shape()) > 2
    if not keep and (len(s.shape()) != 2 or s.shape()[-1] != s.shape(1)[1]):
        x = s("Reshape", x, s.longs([-1, s.fixed(1)[1]]))
    bias = bias_of(s, 2, s.fixed(1)[0])
    if w is None:
        y = s("MatMul", x, s("Transpose", s.x(1), perm=[1, 0]))
        s.last("Add", y, *bias, activation=activation) if bias else s.last("Identity", y, activation=activation)
        return
    kernel = s.emit.constant(w.T, name=s.graph.wish(s.op.inputs[1]))
    if not keep:
        s.last("Gemm", x, kernel, *bias, activation=activation)
    elif bias:
        s.last("Add", s("MatMul", x, kernel), *bias, activation=activation)
    else:
        s.last("MatMul", x, kernel, activation=activation)


@op("BATCH_MATMUL")
def batch_matmul(s: Step) -> None:
    sides = []
    for i, name in enumerate(("adjX", "adjY")):
        rank, x = len(s.shape(i)), s.x(i)
        order = [*range(rank - 2), rank - 1, rank - 2]
        sides.append(s("Transpose", x, perm=order) if s.option(name, "BatchMatMulOptions") and rank > 1 else x)
    s.last("MatMul", *sides)


@op("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def resize(s: Step) -> None:
    """Rounding of the nearest: down, but half up with aligned corners or half-pixel centers."""
    nearest = s.kind == "RESIZE_NEAREST_NEIGHBOR"
    options = "ResizeNearestNeighborOptions" if nearest else "ResizeBilinearOptions"
    corners, half = s.option("alignCorners", options), s.option("halfPixelCenters", options)
    mode = "align_corners" if corners else "half_pixel" if half else "asymmetric"
    size = positive(s.ints(1), "size")
    if len(size) != 2 or len(s.shape()) != 4:
        raise Unsupported("it is known for images only")
    more = {"nearest_mode": "round_prefer_ceil" if corners or half else "floor"} if nearest else {}
    y = s("Resize", s("Transpose", s.x(), perm=NCHW), "", "", s.longs(size), axes=[2, 3],
          mode="nearest" if nearest else "linear", coordinate_transformation_mode=mode, **more)  # fmt: skip
    s.last("Transpose", y, perm=NHWC)


@op("DEPTH_TO_SPACE", "SPACE_TO_DEPTH")
def blocks(s: Step) -> None:
    back = s.kind == "DEPTH_TO_SPACE"
    (size,) = positive([s.option("blockSize", "DepthToSpaceOptions" if back else "SpaceToDepthOptions")], "block")
    x = s("Transpose", s.x(), perm=NCHW)
    y = s("DepthToSpace", x, blocksize=size, mode="DCR") if back else s("SpaceToDepth", x, blocksize=size)
    s.last("Transpose", y, perm=NHWC)


@op("SPACE_TO_BATCH_ND")
def space_to_batch(s: Step) -> None:
    """Cut into blocks whose inner positions become batches (alone; around a convolution it is a dilation)."""
    block, pads, shape = positive(s.ints(1), "block"), s.array(2).reshape(-1, 2), s.fixed()
    m, rest = len(block), shape[1 + len(block) :]
    if len(shape) < m + 1 or len(pads) != m:
        raise Unsupported("its blocks do not fit its input")
    around = [0] * (len(shape) - m - 1)
    begin, end = ([0, *(int(p[i]) for p in pads), *around] for i in (0, 1))
    x = s("Pad", s.x(), s.longs([*begin, *end])) if pads.any() else s.x()
    grid = [(shape[1 + i] + int(pads[i].sum())) // b for i, b in enumerate(block)]
    split = [n for pair in zip(grid, block, strict=True) for n in pair]
    x = s("Reshape", x, s.longs([shape[0], *split, *rest]))
    order = [
        *(2 + 2 * i for i in range(m)),
        0,
        *(1 + 2 * i for i in range(m)),
        *range(1 + 2 * m, 1 + 2 * m + len(rest)),
    ]
    s.last("Reshape", s("Transpose", x, perm=order), s.longs([shape[0] * math.prod(block), *grid, *rest]))


@op("BATCH_TO_SPACE_ND")
def batch_to_space(s: Step) -> None:
    """What SPACE_TO_BATCH_ND did, undone, and the borders cut off."""
    block, crops, shape = positive(s.ints(1), "block"), s.array(2).reshape(-1, 2), s.fixed()
    m, rest = len(block), shape[1 + len(block) :]
    if len(shape) < m + 1 or len(crops) != m or shape[0] % math.prod(block):
        raise Unsupported("its blocks do not fit its input")
    batch = shape[0] // math.prod(block)
    x = s("Reshape", s.x(), s.longs([*block, batch, *shape[1:]]))
    order = [m, *(a for i in range(m) for a in (m + 1 + i, i)), *range(2 * m + 1, 2 * m + 1 + len(rest))]
    sizes = [n * b for n, b in zip(shape[1 : m + 1], block, strict=True)]
    x = s("Reshape", s("Transpose", x, perm=order), s.longs([batch, *sizes, *rest]))
    if not crops.any():
        s.out(x)
        return
    ends = [n - int(c[1]) for n, c in zip(sizes, crops, strict=True)]
    s.last("Slice", x, s.longs([int(c) for c in crops[:, 0]]), s.longs(ends), s.longs(list(range(1, m + 1))))


@op("MIRROR_PAD")
def mirror_pad(s: Step) -> None:
    """REFLECT is ONNX's; SYMMETRIC, which repeats the border, becomes a Gather along each padded axis."""
    pads = s.array(1).reshape(-1, 2)
    if s.option("mode", "MirrorPadOptions") == 0:
        s.last("Pad", s.x(), s.longs([int(p) for p in pads.T.reshape(-1)]), mode="reflect")
        return
    x, sizes = s.x(), s.fixed()
    for axis, (before, after) in enumerate(pads):
        if before or after:
            if not 0 <= min(before, after) <= max(before, after) <= sizes[axis]:
                raise Unsupported("it pads more than its input has")
            order = np.pad(np.arange(sizes[axis]), (int(before), int(after)), "symmetric")
            x = s("Gather", x, s.longs(order.tolist()), axis=axis)
    s.out(x)


@op("PAD", "PADV2")
def pad(s: Step) -> None:
    pads = s.array(1).reshape(-1, 2)
    more = [s.x(2)] if s.kind == "PADV2" else []
    if more and s.shape(2) != ():
        more = [s("Squeeze", more[0])]
    s.last("Pad", s.x(), s.longs([int(p) for p in pads.T.reshape(-1)]), *more)
