"""A frozen TensorFlow graph as ONNX by way of tf2onnx, with what tf2onnx left undone reported at once."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import MissingDependencyError, ModelError
from . import _onnx
from ._frameworks import no_stderr, tensorflow
from ._keras_files import FAILURES
from ._tf_loops import replace_loops

OPSET = 18
LOOPS = frozenset({"Loop", "Scan", "If"})
KEEP_APART = "remove_back_to_back"  # tf2onnx's pass that melts BatchNormalization into a convolution


def to_onnx(name: str, graph_def: Any, inputs: Sequence[str], outputs: Sequence[str], rename: Mapping[str, str]) -> Any:
    """The ModelProto of a frozen GraphDef; tensors are "node:0", `rename` gives those of the interface their names.

    BatchNormalization stays on its own. Raises ModelError with all operations that ONNX has nothing for, and all loops
    that are not recurrent layers; MissingDependencyError.
    """
    tf, tf2onnx = tensorflow(), _tf2onnx()
    try:
        with _quietly(), no_stderr(), tf.device("/cpu:0"):
            with tf.Graph().as_default():
                frozen = tf2onnx.tf_loader.tf_optimize(list(inputs), list(outputs), graph_def)
            with tf.Graph().as_default() as graph:
                tf.import_graph_def(frozen, name="")
                made = tf2onnx.tfonnx.process_tf_graph(
                    graph, continue_on_error=True, opset=OPSET, input_names=list(inputs), output_names=list(outputs),
                    tensors_to_rename=dict(rename),
                )  # fmt: skip
            passes = OrderedDict((k, v) for k, v in tf2onnx.optimizer._optimizers.items() if k != KEEP_APART)
            model = tf2onnx.optimizer.optimize_graph(made, optimizers=passes).make_model(name)
    except (*FAILURES, tf.errors.OpError) as error:
        raise ModelError(
            f"tf2onnx cannot convert {name}: {_onnx.last_line(error)}", next="cut the graph with --from and --to"
        ) from error
    replace_loops(model)
    _refuse_left(name, model, graph_def)
    return model


def _tf2onnx() -> Any:
    try:
        for module in ("tf_loader", "tfonnx", "optimizer", "utils"):
            importlib.import_module(f"tf2onnx.{module}")
    except ImportError as error:
        raise MissingDependencyError(
            "reading TensorFlow graphs needs tf2onnx, which is not installed", next="pip install 'edgedl[compress]'"
        ) from error
    package = importlib.import_module("tf2onnx")
    package.utils.INTERNAL_NAME = 1  # the same names in every run
    return package


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """tf2onnx logs every operation it has nothing for; they are reported together afterwards."""
    logger = logging.getLogger("tf2onnx")
    level, disabled = logger.level, logger.disabled
    logger.setLevel(logging.CRITICAL + 1)
    children = [logging.getLogger(n) for n in logging.root.manager.loggerDict if n.startswith("tf2onnx.")]
    levels = [c.level for c in children]
    for child in children:
        child.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.disabled = disabled
        for child, before in zip(children, levels, strict=True):
            child.setLevel(before)


def _refuse_left(name: str, model: Any, graph_def: Any) -> None:
    """Raise ModelError for operations that are still TensorFlow's, and for loops."""
    o = _onnx.onnx()
    problems = []
    for graph in _onnx.graphs(model.graph):
        for node in graph.node:
            known = node.domain in ("", "ai.onnx") and o.defs.has(node.op_type)
            if not known:
                problems.append(f"'{node.name}' ({node.op_type}): ONNX has no operator for it")
            elif node.op_type in LOOPS and graph is model.graph:
                problems.append(f"'{node.name}' ({_loop(node, graph_def)}): it is not an LSTM, GRU or RNN as Keras "
                                "writes them")  # fmt: skip
    if problems:
        problems = list(dict.fromkeys(problems))
        listed = problems[0] if len(problems) == 1 else "".join(f"\n  - {p}" for p in problems[:200])
        raise ModelError(
            f"cannot rebuild {name}: {listed}",
            next="cut them off with --from and --to, or export the model without them",
        )


def _loop(node: Any, graph_def: Any) -> str:
    """What a loop was in the original."""
    frames = sorted({n.attr["frame_name"].s.decode("utf-8", "replace") for n in graph_def.node if n.op == "Enter"})
    kind = "a branch" if node.op_type == "If" else "a loop"
    return f"{kind}, {', '.join(frames[:5])}" if frames else kind
