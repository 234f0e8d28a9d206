"""Writes mxnet_goldens.npz: small MXNet networks as MXNet saves them, with inputs and the outputs MXNet computes.

Run where MXNet still runs: Python 3.11, pip install mxnet==1.9.1 numpy==1.23.5.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

IMAGE = (2, 4, 7, 6)


def cases(mx: Any) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Networks and the shapes of their inputs, by name."""
    S = mx.sym
    X = S.Variable("data")

    def conv(**options: Any) -> Any:
        return S.Convolution(X, num_filter=6, **options)

    def pool(**options: Any) -> Any:
        return S.Pooling(X, **options)

    return {
        "conv": (conv(kernel=(3, 2), stride=(2, 1), pad=(1, 0), dilate=(1, 2), num_group=2), IMAGE),
        "conv_no_bias": (conv(kernel=(1, 1), no_bias=True), IMAGE),
        "conv_1d": (S.Convolution(X, kernel=(3,), num_filter=5, stride=(2,)), (2, 3, 11)),
        "conv_3d": (S.Convolution(X, kernel=(2, 2, 2), num_filter=3), (1, 2, 4, 5, 4)),
        "deconv": (S.Deconvolution(X, kernel=(3, 3), stride=(2, 2), pad=(1, 1), adj=(1, 0), num_filter=6, num_group=2), IMAGE),
        "deconv_bias": (S.Deconvolution(X, kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=3, no_bias=False), IMAGE),
        "deconv_target": (S.Deconvolution(X, kernel=(4, 3), stride=(2, 2), target_shape=(13, 12), num_filter=3), IMAGE),
        "dense": (S.FullyConnected(X, num_hidden=5), IMAGE),
        "dense_rows": (S.FullyConnected(X, num_hidden=5, flatten=False), (2, 3, 7)),
        "dense_rows_plain": (S.FullyConnected(X, num_hidden=5, flatten=False, no_bias=True), (2, 3, 7)),
        "embedding": (S.Embedding(S.abs(S.floor(X)), input_dim=9, output_dim=3), (2, 5)),
        "batch_norm": (S.BatchNorm(X, fix_gamma=False, eps=1e-4), IMAGE),
        "batch_norm_fixed": (S.BatchNorm(X), IMAGE),
        "instance_norm": (S.InstanceNorm(X), IMAGE),
        "layer_norm": (S.LayerNorm(X), (2, 3, 8)),
        "lrn": (S.LRN(X, nsize=3, alpha=0.1), IMAGE),
        "l2_instance": (S.L2Normalization(X), IMAGE),
        "l2_channel": (S.L2Normalization(X, mode="channel"), IMAGE),
        "l2_spatial": (S.L2Normalization(X, mode="spatial"), IMAGE),
        "pool_max_valid": (pool(kernel=(3, 3), stride=(2, 2), pool_type="max"), IMAGE),
        "pool_max_full": (pool(kernel=(3, 3), stride=(2, 2), pool_type="max", pooling_convention="full"), IMAGE),
        "pool_max_full_pad": (
            pool(kernel=(3, 2), stride=(2, 2), pad=(1, 1), pool_type="max", pooling_convention="full"), IMAGE,
        ),
        "pool_avg_valid_pad": (pool(kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg"), IMAGE),
        "pool_avg_full": (pool(kernel=(3, 3), stride=(2, 2), pool_type="avg", pooling_convention="full"), IMAGE),
        "pool_avg_full_pad": (
            pool(kernel=(3, 3), stride=(2, 3), pad=(1, 1), pool_type="avg", pooling_convention="full"), IMAGE,
        ),
        "pool_avg_no_count": (
            pool(kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", count_include_pad=False), IMAGE,
        ),
        "pool_avg_full_no_count": (
            pool(
                kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", count_include_pad=False, pooling_convention="full"
            ),
            IMAGE,
        ),
        "pool_sum": (pool(kernel=(2, 3), stride=(2, 2), pad=(0, 1), pool_type="sum"), IMAGE),
        "pool_global_max": (pool(kernel=(2, 2), global_pool=True, pool_type="max"), IMAGE),
        "pool_global_avg": (pool(global_pool=True, pool_type="avg"), IMAGE),
        "pool_1d": (pool(kernel=(3,), stride=(2,), pool_type="max"), (2, 3, 11)),
        "pool_v1_avg": (S.Pooling_v1(X, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg"), IMAGE),
        "pool_v1_full": (
            S.Pooling_v1(X, kernel=(3, 3), stride=(2, 2), pool_type="avg", pooling_convention="full"), IMAGE,
        ),
        "adaptive": (S.contrib.AdaptiveAvgPooling2D(X, output_size=1), IMAGE),
        "relu": (S.Activation(X, act_type="relu"), IMAGE),
        "softrelu": (S.Activation(X, act_type="softrelu"), IMAGE),
        "softsign": (S.Activation(X, act_type="softsign"), IMAGE),
        "leaky": (S.LeakyReLU(X), IMAGE),
        "prelu": (S.LeakyReLU(X, act_type="prelu"), IMAGE),
        "elu": (S.LeakyReLU(X, act_type="elu", slope=0.7), IMAGE),
        "selu": (S.LeakyReLU(X, act_type="selu"), IMAGE),
        "gelu": (S.LeakyReLU(X, act_type="gelu"), IMAGE),
        "rrelu": (S.LeakyReLU(X, act_type="rrelu")[0], IMAGE),
        "hard_sigmoid": (S.hard_sigmoid(X, alpha=0.3), IMAGE),
        "clip": (S.clip(X, a_min=-0.5, a_max=1.0), IMAGE),
        "dropout": (S.Dropout(X, p=0.3), IMAGE),
        "softmax": (S.softmax(X), IMAGE),
        "softmax_axis": (S.softmax(X, axis=1, temperature=2.0), IMAGE),
        "log_softmax": (S.log_softmax(X), IMAGE),
        "softmax_output": (S.SoftmaxOutput(X, name="softmax"), (3, 7)),
        "softmax_output_multi": (S.SoftmaxOutput(X, name="softmax", multi_output=True), IMAGE),
        "softmax_output_preserve": (S.SoftmaxOutput(X, name="softmax", preserve_shape=True), IMAGE),
        "softmax_output_image": (S.SoftmaxOutput(X, name="softmax"), IMAGE),
        "softmax_activation": (S.SoftmaxActivation(X), (3, 7)),
        "softmax_activation_image": (S.SoftmaxActivation(X), IMAGE),
        "softmax_activation_channel": (S.SoftmaxActivation(X, mode="channel"), IMAGE),
        "logistic": (S.LogisticRegressionOutput(X, name="logistic"), (3, 7)),
        "scalars": (1.5 / (((2 - X) * 0.3 + 4) / 2 - 0.25), IMAGE),
        "scalar_powers": (S.abs(X) ** 1.5 + 2 ** X, IMAGE),
        "maximum_scalar": (S.maximum(S.minimum(X, 0.7), -0.2), IMAGE),
        "binary": (X * S.exp(X) + S.sqrt(S.abs(X)) - X / (2 + S.square(X)), IMAGE),
        "broadcast": (S.broadcast_add(S.broadcast_mul(X, S.mean(X, axis=(2, 3), keepdims=True)), S.max(X, axis=1, keepdims=True)), IMAGE),
        "add_n": (S.add_n(X, S.tanh(X), S.sigmoid(X), S.erf(X)), IMAGE),
        "flatten": (S.Flatten(X), IMAGE),
        "reshape_codes": (S.reshape(X, shape=(0, -4, 2, -1, -3)), IMAGE),
        "reshape_rest": (S.reshape(X, shape=(-3, -2)), IMAGE),
        "reshape_plain": (S.reshape(X, shape=(-1, 12)), IMAGE),
        "transpose": (S.transpose(X, axes=(0, 2, 3, 1)), IMAGE),
        "transpose_all": (S.transpose(X), IMAGE),
        "swap": (S.SwapAxis(X, dim1=1, dim2=3), IMAGE),
        "expand_squeeze": (S.squeeze(S.expand_dims(S.expand_dims(X, axis=2), axis=-1), axis=(2,)), IMAGE),
        "concat": (S.Concat(X, S.relu(X), X, dim=2), IMAGE),
        "stack": (S.stack(X, S.relu(X), axis=1), IMAGE),
        "split": (S.Concat(*reversed(list(S.SliceChannel(X, num_outputs=2))), dim=1), IMAGE),
        "split_squeeze": (S.SliceChannel(X, num_outputs=7, axis=2, squeeze_axis=True)[4], IMAGE),
        "slice_axis": (S.slice_axis(X, axis=2, begin=1, end=-2), IMAGE),
        "slice_axis_open": (S.slice_axis(X, axis=-1, begin=3, end=None), IMAGE),
        "slice": (S.slice(X, begin=(None, 1, 2), end=(None, 3, None), step=(1, 1, 2)), IMAGE),
        "slice_like": (S.slice_like(X, S.slice_axis(X, axis=2, begin=0, end=4), axes=(2,)), IMAGE),
        "tile": (S.tile(X, reps=(1, 2, 1, 3)), IMAGE),
        "pad": (S.Pad(X, mode="constant", pad_width=(0, 0, 0, 0, 1, 2, 0, 3), constant_value=0.5), IMAGE),
        "pad_edge": (S.Pad(X, mode="edge", pad_width=(0, 0, 0, 0, 1, 2, 0, 3)), IMAGE),
        "pad_reflect": (S.Pad(X, mode="reflect", pad_width=(0, 0, 0, 0, 1, 2, 0, 3)), IMAGE),
        "mean": (S.mean(X, axis=(2, 3)), IMAGE),
        "mean_all": (S.mean(X), IMAGE),
        "sum_exclude": (S.sum(X, axis=1, exclude=True), IMAGE),
        "min_keep": (S.min(X, axis=-1, keepdims=True), IMAGE),
        "norm": (S.norm(X, axis=1), IMAGE),
        "argmax": (S.argmax(X, axis=1), IMAGE),
        "dot": (S.dot(X, S.Variable("m_weight", shape=(7, 5)), transpose_b=False), (3, 7)),
        "dot_turned": (S.dot(X, S.Variable("m_weight", shape=(5, 7)), transpose_b=True), (3, 7)),
        "batch_dot": (S.batch_dot(X, X, transpose_b=True), (2, 3, 5)),
        "up_sampling": (S.UpSampling(X, scale=2, sample_type="nearest"), IMAGE),
        "depth_to_space": (S.depth_to_space(X, block_size=2), IMAGE),
        "space_to_depth": (S.space_to_depth(X, block_size=2), (2, 3, 8, 6)),
        "where": (S.where(S.relu(X), X, S.square(X)), IMAGE),
        "two_outputs": (S.Group([S.relu(X, name="a"), S.sigmoid(X, name="b")]), IMAGE),
    }  # fmt: skip


def record(mx: Any, name: str, symbol: Any, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """A case as MXNet saves and computes it."""
    rng = np.random.default_rng(len(name))
    x = mx.nd.array(np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32) * 2)
    shapes, _, states = symbol.infer_shape(data=shape)
    arguments = {
        k: values(mx, k, s, rng)
        for k, s in zip(symbol.list_arguments(), shapes, strict=True)
        if not k.endswith("_label")
    }
    auxiliary = {k: values(mx, k, s, rng) for k, s in zip(symbol.list_auxiliary_states(), states, strict=True)}
    labels = {k: mx.nd.zeros(s) for k, s in zip(symbol.list_arguments(), shapes, strict=True) if k.endswith("_label")}
    arguments.pop("data", None)
    found = symbol.bind(mx.cpu(), {"data": x, **arguments, **labels}, aux_states=auxiliary).forward(is_train=False)
    prefix = str(folder / name)
    mx.model.save_checkpoint(prefix, 1, symbol, arguments, auxiliary)
    return {
        f"{name}/symbol": np.frombuffer(Path(f"{prefix}-symbol.json").read_bytes(), np.uint8),
        f"{name}/params": np.frombuffer(Path(f"{prefix}-0001.params").read_bytes(), np.uint8),
        f"x/{shape}": x.asnumpy(),
        f"{name}/shape": np.asarray(shape),
        **{f"{name}/y{i}": y.asnumpy() for i, y in enumerate(found)},
    }


def values(mx: Any, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Random weights; variances are positive."""
    a = rng.normal(size=shape).astype(np.float32)
    return mx.nd.array(np.abs(a) + 0.5 if name.endswith("var") else a)


if __name__ == "__main__":
    os.environ["MXNET_MKLDNN_ENABLED"] = "0"  # MXNet's own kernels, which have no gaps
    import mxnet

    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {}
        for case, (net, size) in cases(mxnet).items():
            found.update(record(mxnet, case, net, size, Path(folder)))
        np.savez_compressed(Path(__file__).with_name("mxnet_goldens.npz"), **found)
