"""A frozen TensorFlow graph as ONNX by way of tf2onnx, with what tf2onnx left undone reported at once."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import MissingDependencyError, ModelError
from ..frameworks import no_stderr, tensorflow
from . import _onnx
from ._keras_files import FAILURES
from ._tf_recurrent import Taken, put_back, take_out

OPSET = 18
LOOPS = frozenset({"Loop", "Scan", "If"})
LISTS = ("TensorList", "TensorArray")  # what tf2onnx leaves of a loop's sequences
KEEP_APART = "remove_back_to_back"  # tf2onnx's pass that melts BatchNormalization into a convolution


def to_onnx(
    name: str, graph_def: Any, inputs: Sequence[str], outputs: Sequence[str], rename: Mapping[str, str]
) -> tuple[Any, tuple[str, ...]]:
    """(ModelProto, notes) of a frozen GraphDef; tensors are "node:0", `rename` gives those of the interface their names.

    BatchNormalization stays on its own. Loops that are LSTMs, GRUs and simple RNNs become operators; others stay loops
    where their length is fixed. Raises ModelError with all operations that ONNX has nothing for, and all loops
    that are not recurrent layers; MissingDependencyError.
    """
    tf, tf2onnx = tensorflow(), _tf2onnx()
    taken = take_out(graph_def, inputs, outputs)
    inputs, outputs = [*inputs, *taken.inputs], [*outputs, *taken.outputs]
    try:
        with _quietly(), no_stderr(), tf.device("/cpu:0"):
            with tf.Graph().as_default():
                frozen = tf2onnx.tf_loader.tf_optimize(list(inputs), list(outputs), taken.graph)
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
    put_back(model, taken)
    return model, tuple(_refuse_left(name, model, taken))


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


def _refuse_left(name: str, model: Any, taken: Taken) -> list[str]:
    """Raise ModelError for operations that are still TensorFlow's, and for loops whose length depends on the data.

    The loops of a fixed length are left, to be unrolled; returns what to say of them.
    """
    o = _onnx.onnx()
    problems, unrolled = [], []
    lists = any(n.op_type.startswith(LISTS) for g in _onnx.graphs(model.graph) for n in g.node)
    for graph in _onnx.graphs(model.graph):
        for node in graph.node:
            known = node.domain in ("", "ai.onnx") and o.defs.has(node.op_type)
            if not known and taken.reasons and node.op_type.startswith(LISTS):
                continue  # of a loop that is named itself
            if not known:
                problems.append(f"'{node.name}' ({node.op_type}): ONNX has no operator for it")
            elif node.op_type in LOOPS and graph is model.graph:
                kind = "a branch" if node.op_type == "If" else "a loop"
                why = _reasons(node, taken)
                if not lists and _is_fixed(model, node, why.values()):
                    which = why or {node.name or node.output[0]: ""}
                    unrolled += [f"'{k}' is a loop that is no recurrent layer and is unrolled" + (f" (it {w})" if w else "")
                                 for k, w in which.items()]  # fmt: skip
                elif why:
                    problems += [f"'{loop}' ({kind}): it {w}" for loop, w in why.items()]
                else:
                    problems.append(f"'{node.name}' ({kind}): it is not an LSTM, GRU or RNN as TensorFlow writes them")
    if problems:
        problems = list(dict.fromkeys(problems))
        listed = problems[0] if len(problems) == 1 else "".join(f"\n  - {p}" for p in problems[:200])
        raise ModelError(
            f"cannot rebuild {name}: {listed}",
            next="cut them off with --from and --to, or export the model without them",
        )
    return unrolled


def _reasons(node: Any, taken: Taken) -> dict[str, str]:
    """What was not standard about a loop; of all, where the names do not tell which it was."""
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    names = [node.name, *node.output, *(o for b in bodies for n in b.node for o in n.output)]
    scopes = {k: k.removesuffix("/while_context") for k in taken.reasons}
    own = {
        k: w for k, w in taken.reasons.items() if any(n == scopes[k] or n.startswith(scopes[k] + "/") for n in names)
    }
    return own or (dict(taken.reasons) if node.op_type == "Loop" else {})


def _is_fixed(model: Any, node: Any, reasons: Iterable[str]) -> bool:
    """Whether the number of steps of a loop follows from constants, or is the length of what it scans."""
    if node.op_type != "Loop":
        return bool(node.op_type == "Scan" and not any(w.startswith("depends on") for w in reasons))
    weights = {t.name for t in model.graph.initializer}
    for n in model.graph.node:
        if n.op_type not in LOOPS and all(t in weights for t in n.input if t):
            weights.update(n.output)
    body = next(a.g for a in node.attribute if a.name == "body")
    if any(t and t not in weights for t in node.input[:2]):
        return False
    made = {o: n for n in body.node for o in n.output}
    constant = weights | {t.name for t in body.initializer} | {i.name for i in body.input[:2]}
    states = {i.name: k for k, i in enumerate(body.input[2:])}
    waiting, seen = [body.output[0].name], set()
    while waiting:
        value = waiting.pop()
        if value in seen or value in constant or not value:
            continue
        seen.add(value)
        if value in made:
            waiting += made[value].input
        elif value in states and node.input[2 + states[value]] in weights:
            waiting.append(body.output[1 + states[value]].name)
        else:
            return False
    return True
