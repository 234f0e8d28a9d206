"""The float .onnx of a model: a Keras network by way of tf2onnx, or an .onnx file as it is."""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...artifact import TensorSpec
from ...errors import ConversionError, EdgedlError, MissingDependencyError, UsageError
from ...layouts import Layouts, inverse, specs_in_file
from ...model import GraphFile, Model, already_quantized
from .. import _onnx
from .flatten import fold_transposes
from .graph import in_order, opset

if TYPE_CHECKING:
    from .layers import Marks

NUMBER = re.compile(r"__\d+(?=$|:)")  # what tf2onnx adds to the names of what it makes
LOWEST_OPSET = 13  # the first with per-channel DequantizeLinear


def float_model(model: Model, version: int, layouts: Layouts) -> Any:
    """The float ModelProto of a model, with inputs and outputs named and ordered as in `model`, their axes by `layouts`.

    Raises ConversionError when it cannot be written in ONNX, UsageError for a file of another format, or
    one that is quantized already.
    """
    if not isinstance(model.net, GraphFile):
        return fold_transposes(_named(_from_keras(model, version, layouts), model))
    if model.net.format != "onnx":
        raise UsageError(
            f"{model.net.path.name} is a .{model.net.format} file, which cannot be written as .onnx",
            next="pass the Keras model it was made from, or ask for --format " + model.net.format,
        )
    proto = from_file(model.net.path)
    if _onnx.is_quantized(proto):
        raise already_quantized(model)
    return proto


def from_file(path: Path) -> Any:
    """A float .onnx file, with its constants no longer among its inputs. Raises ModelError, ConversionError."""
    proto = _onnx.read(path)
    refuse_foreign(proto, path.name)
    constants = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in constants]
    if len(inputs) != len(proto.graph.input):
        kept = [_onnx.onnx().ValueInfoProto.FromString(i.SerializeToString()) for i in inputs]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
    for node in proto.graph.node:
        node.name = node.name or next((name for name in node.output if name), "")  # as the inspector calls it
    proto.ir_version = max(proto.ir_version, 4)  # since 4, initializers need not be inputs
    return proto


def refuse_foreign(proto: Any, name: str) -> None:
    """Raise ConversionError for operators that a stock ONNX Runtime has not."""
    foreign = _onnx.foreign_ops(proto)
    if foreign:
        raise ConversionError(
            f"{name} uses operators outside ONNX: {', '.join(foreign)}",
            next="replace these layers by standard ones, or export without them",
        )


def refuse_nan(proto: Any, name: str) -> None:
    """Raise ConversionError when a weight is NaN."""
    for tensor in _onnx.tensors(proto.graph):
        value = _onnx.array(tensor) if tensor.data_type in (1, 10, 11, 16) else None
        if value is not None and np.isnan(value.astype(np.float32)).any():
            raise ConversionError(
                f"the weights '{tensor.name}' of {name} hold NaN", next="train it again, or take an earlier checkpoint"
            )


def raised(proto: Any, version: int) -> Any:
    """The model in opset `version` or newer. Raises ConversionError when ONNX cannot rewrite it."""
    if opset(proto) >= version:
        return proto
    o = _onnx.onnx()
    try:
        done = o.version_converter.convert_version(proto, version)
        o.checker.check_model(done)
        _onnx.session(done)
    except (*_onnx.proto_errors(), *_onnx.runtime_errors()) as error:
        if opset(proto) >= LOWEST_OPSET:
            return proto
        raise ConversionError(
            f"the model is written in ONNX opset {opset(proto)}, and raising it to {version} failed: {_onnx.last_line(error)}",
            next=f"export it again with opset {LOWEST_OPSET} or newer",
        ) from error
    return done


# --- Keras


def _from_keras(model: Model, version: int, layouts: Layouts) -> Any:
    from ...frameworks import fed, keras, tensorflow
    from .layers import marked

    tf, k = tensorflow(), keras()
    try:
        convert = importlib.import_module("tf2onnx.convert")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "writing a Keras model as .onnx needs tf2onnx, which is not installed",
            next="pip install 'edgedl[compress]'",
        ) from error
    importlib.import_module("tf2onnx").utils.INTERNAL_NAME = 1  # the same names in every run
    shapes = [s.shape for s in specs_in_file(model.inputs, layouts)]
    signature = [
        tf.TensorSpec(shapes[i] if model.inputs[i].name in layouts else t.shape, t.dtype, name=f"edgedl_input_{i}")
        for i, t in enumerate(model.net.inputs)
    ]
    befores, afters = ([layouts.get(s.name) for s in specs] for specs in (model.inputs, model.outputs))

    def call(*given: Any) -> list[Any]:
        inputs = [x if p is None else tf.transpose(x, p) for x, p in zip(given, befores, strict=True)]
        found = k.tree.flatten(model.net(fed(model.net, inputs), training=False))
        outs = [x if p is None else tf.transpose(x, inverse(p)) for x, p in zip(found, afters, strict=True)]
        return [tf.identity(t, name=f"edgedl_output_{i}") for i, t in enumerate(outs)]

    with _quiet(), marked(model.net, version) as marks:
        try:
            proto, _ = convert.from_function(
                tf.function(call, autograph=False),
                input_signature=signature,
                opset=version,
                custom_op_handlers={"Erfc": (_erfc, []), **marks.handlers},
            )
        except EdgedlError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError, AssertionError,
                IndexError, tf.errors.OpError) as error:  # fmt: skip
            raise ConversionError(
                f"tf2onnx cannot write the model: {_onnx.last_line(error)}",
                next="use --format tflite, or replace the layer it names",
            ) from error
    _name_by_layer(in_order(proto), marks)
    refuse_foreign(proto, "the model")
    _refuse_unknown(proto)
    return proto


def _refuse_unknown(proto: Any) -> None:
    """tf2onnx writes operators that ONNX does not have under their TensorFlow name, without an error."""
    o = _onnx.onnx()
    known = {s.name for s in o.defs.get_all_schemas()}
    bad = sorted({n.op_type for g in _onnx.graphs(proto.graph) for n in g.node if not n.domain} - known)
    if bad:
        raise ConversionError(
            f"ONNX has no operator for TensorFlow's {', '.join(bad)}", next="use --format tflite, or replace the layer"
        )


def _erfc(ctx: Any, node: Any, name: str, arguments: Any) -> Any:
    """erfc(x) = 1 - erf(x): exact GELU, for which tf2onnx writes an op that ONNX does not have."""
    node.type = "Erf"
    one = ctx.make_const(f"{name}/one", np.array(1, np.float32))
    after = ctx.insert_new_node_on_output("Sub", node.output[0], name=f"{name}/sub")
    ctx.replace_inputs(after, [one.output[0], node.output[0]])
    return after


@contextmanager
def _quiet() -> Iterator[None]:
    """tf2onnx logs what it does at each step, Keras warns of a list of one input; errors are raised all the same."""
    logger = logging.getLogger("tf2onnx")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _name_by_layer(proto: Any, marks: Marks) -> None:
    """Nodes and tensors are named by the path of their layer, alike in every run (tf2onnx numbers what it makes)."""
    tensors: set[str] = set()
    nodes: set[str] = set()

    def free(name: str, taken: set[str]) -> str:
        found, n = name, 1
        while found in taken:
            found, n = f"{name}_{n}", n + 1
        taken.add(found)
        return found

    constants = {t.name: t for t in proto.graph.initializer}
    used = [name for node in proto.graph.node for name in node.input if name in constants]
    kept = [constants[name] for name in dict.fromkeys([*used, *constants])]
    kept = [_onnx.onnx().TensorProto.FromString(t.SerializeToString()) for t in kept]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)  # in the order of their use: tf2onnx's is that of a set
    ends = {v.name for v in (*proto.graph.input, *proto.graph.output)}
    table: dict[str, str] = {}
    for node in proto.graph.node:
        node.name = free(_path(node, marks), nodes)
        for i, name in enumerate(node.input):
            if name in constants and name not in table:  # tf2onnx merges equal constants under the name of any of them
                table[name] = free(f"{node.name}/{i}", tensors)
        for i, name in enumerate(node.output):
            table[name] = name if name in ends else free(f"{node.name}:{i}", tensors)
    del proto.graph.value_info[:]
    proto.graph.doc_string = ""
    _rename(proto, table)


def _path(node: Any, marks: Marks) -> str:
    """A node's path: its own; where tf2onnx gave it none, that of its weights' or its output's layer."""
    own = marks.clean(node.name)
    if own != node.name:
        plain = NUMBER.sub("", own)
        return plain if plain == own else f"{plain}/{node.op_type}"  # a helper beside the node of that name
    for name in (*node.input[1:], *node.output):
        layer = marks.layer(name)
        if layer:
            return f"{layer}/{node.op_type}"
    return str(NUMBER.sub("", node.name))


def _named(proto: Any, model: Model) -> Any:
    """Give inputs and outputs the names of the model's TensorSpecs, in its order."""
    found = {i.name.removesuffix(":0"): i for i in proto.graph.input}
    inputs = [found[f"edgedl_input_{i}"] for i in range(len(model.inputs)) if f"edgedl_input_{i}" in found]
    if len(inputs) != len(model.inputs):
        unused = [s.name for i, s in enumerate(model.inputs) if f"edgedl_input_{i}" not in found]
        raise ConversionError(
            f"the outputs do not depend on input '{', '.join(unused)}', and ONNX drops such an input",
            next="leave the input out of the model",
        )
    outputs = list(proto.graph.output)
    if len(outputs) != len(model.outputs):
        raise ConversionError(
            f"tf2onnx wrote {len(outputs)} outputs for a model with {len(model.outputs)}", next="use --format tflite"
        )
    new = {i.name: s.name for i, s in zip(inputs, model.inputs, strict=True)}
    new.update({o.name: s.name for o, s in zip(outputs, model.outputs, strict=True)})
    _rename(proto, new)
    by_name = {i.name: i for i in proto.graph.input}
    ordered = [_onnx.onnx().ValueInfoProto.FromString(by_name[s.name].SerializeToString()) for s in model.inputs]
    del proto.graph.input[:]
    proto.graph.input.extend(ordered)
    _name_batch(proto, model.inputs)
    return proto


def _rename(proto: Any, new: dict[str, str]) -> None:
    """Rename tensors everywhere; an inner tensor that already has a wanted name gets out of the way."""
    all_names = {n for g in _onnx.graphs(proto.graph) for node in g.node for n in (*node.input, *node.output)}
    table = {name: f"{name}__inner" for name in new.values() if name in all_names and name not in new}
    table.update(new)
    for g in _onnx.graphs(proto.graph):
        for node in g.node:
            for names in (node.input, node.output):
                names[:] = [table.get(n, n) for n in names]
        for info in (*g.input, *g.output, *g.value_info, *g.initializer):
            info.name = table.get(info.name, info.name)


def _name_batch(proto: Any, inputs: Sequence[TensorSpec]) -> None:
    """tf2onnx invents a name for every dynamic dimension; the first of each input and output is the batch."""
    free = {None} >= {s.shape[0] for s in inputs if s.shape}
    for info in (*proto.graph.input, *proto.graph.output):
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                dim.dim_param = "batch" if axis == 0 and free else f"{info.name}_{axis}"
