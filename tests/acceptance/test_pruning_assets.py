"""Real networks with half of their channels: the graph understands them, foretells their costs, and what is left runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedl
from edgedl.frameworks import keras
from edgedl.macs import layers_of
from edgedl.stages.channels.graph import ChannelGraph, channel_graph
from edgedl.stages.channels.shrink import shrink

pytestmark = pytest.mark.acceptance

WHOLE = (  # every multiply-accumulate depends on channels that may go
    "mlperf_tiny/pretrainedResnet.h5",
    "mlperf_tiny/vww_96.h5",
    "mlperf_tiny/ad01.h5",
    "mlperf_tiny/kws_ref_model.tflite",
    "face_classification/fer2013_mini_XCEPTION.102-0.66.hdf5",
    "stm32_samples/mobilenet_v2_128_0.5_notebook.onnx",
    "stm32_samples/yamnet_256_64x96_tl.onnx",
    "ultraface/version-RFB-320.onnx",
    "portrait_segmentation/slim_reshape_v2.tflite",
    "magika/standard_v3_3.onnx",
    "coral_test_data/keras_lstm_mnist_ptq.tflite",
    "caffe_lenet_mnist/lenet_iter_10000.caffemodel",
)


def load(path: Path) -> Any:
    """The file as a Keras network."""
    return edgedl.load(str(path), form="keras" if path.suffix in (".onnx", ".tflite") else "auto").net


def costs(graph: ChannelGraph, keep: Any, kind: str) -> float:
    """The terms of a kind under a mask."""
    return sum(t.coefficient * float(np.prod([graph.kept(keep, a).sum() for a in t.axes]))
               for t in graph.terms if t.kind == kind)  # fmt: skip


def run(net: Any) -> list[Any]:
    inputs = [np.ones((1, *(d or 8 for d in t.shape[1:])), t.dtype) for t in net.inputs]
    return [np.asarray(t) for t in keras().tree.flatten(net(inputs if len(inputs) > 1 else inputs[0], training=False))]


@pytest.mark.parametrize("name", WHOLE)
def test_half_of_the_channels_go(name: str, assets: Path) -> None:
    net, rng = load(assets / "models" / name), np.random.default_rng(0)
    graph = channel_graph(net)
    assert not graph.left_alone
    keep = graph.everything()
    for group in graph.prunable:
        keep[rng.choice(group.channels, len(group) // 2, replace=False)] = False
    small = shrink(graph, keep)
    for mask, which in ((graph.everything(), net), (keep, small)):
        rows = layers_of(which)
        assert costs(graph, mask, "macs") == sum(r.macs for r in rows)
        assert costs(graph, mask, "params") == sum(r.parameters for r in rows)
    assert costs(graph, keep, "macs") <= 0.41 * costs(graph, graph.everything(), "macs")
    for found, whole in zip(run(small), run(net), strict=True):
        assert found.shape == whole.shape
        assert np.isfinite(found).all()


def test_states_that_are_inputs_and_outputs_keep_a_recurrent_network_whole(assets: Path) -> None:
    """DTLN passes the state of its LSTM in and out, so that every unit is part of its interface."""
    graph = channel_graph(load(assets / "models/dtln_speech_enhancement/model_1.onnx"))
    assert not graph.prunable
    assert not graph.left_alone
    assert {g.frozen for g in graph.groups} == {
        "lstm_4 starts from a state that cannot be made smaller",
        "it is an output of the network",
    }
