"""TensorFlow's GraphDef as plain data: read, checked, its ends found, cut. No framework runs any of it here."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, UnsafeModelError, UsageError
from ..frameworks import tensorflow
from ._keras_files import AGAIN, reason

MAX_BYTES = (1 << 31) - 1  # of a protobuf message
MAX_TEXT = 64 << 20  # of a .pbtxt
MAX_NODES = 200_000
MAX_RANK = 32
FILE_OPS = frozenset(  # operations that leave the graph: files, Python, other programs, other machines
    {"ReadFile", "WriteFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2", "Save", "SaveSlices", "SaveV2"}
    | {"Restore", "RestoreSlice", "RestoreV2", "MergeV2Checkpoints", "ImmutableConst", "PrintV2", "LoadLibrary"}
    | {"PyFunc", "PyFuncStateless", "EagerPyFunc", "RpcCall", "RpcClient", "RpcServer", "DatasetToGraphV2"}
    | {"DebugIdentity", "DebugIdentityV2", "DebugNanCount", "DebugNumericSummary", "DebugNumericSummaryV2"}
    | {"TextLineReader", "TextLineReaderV2", "TFRecordReader", "TFRecordReaderV2", "IdentityReader"}
    | {"FixedLengthRecordReader", "FixedLengthRecordReaderV2", "LMDBReader", "ReaderReadV2", "ReaderReadUpToV2"}
    | {"InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "SdcaFprint", "XlaHostCompute"}
    | {"TFRecordDataset", "TextLineDataset", "FixedLengthRecordDataset", "SqlDataset", "LMDBDataset", "LoadDataset"}
    | {"SaveDataset", "SaveDatasetV2", "SnapshotDataset", "SnapshotDatasetV2", "CacheDataset", "CacheDatasetV2"}
    | {"CreateSummaryFileWriter", "CreateSummaryDbWriter", "WriteSummary", "ImportEvent", "CloseSummaryWriter"}
    | {"WriteScalarSummary", "WriteHistogramSummary", "WriteImageSummary", "WriteAudioSummary", "WriteGraphSummary"}
    | {"WriteRawProtoSummary", "FlushSummaryWriter", "SummaryWriter", "DebugIdentityV3", "FileSystemSetConfiguration"}
    | {"DumpTensor", "CalibrationStatisticsSaver", "DistributedSave", "DTensorRestoreV2", "LoadAndRemapMatrix"}
    | {"GenerateVocabRemapping", "DecodeProtoV2", "EncodeProto", "ReaderRead", "ReaderReadUpTo", "IdentityReaderV2"}
    | {"DatasetToTFRecord", "ExperimentalDatasetToTFRecord", "TFRecordDatasetV2", "FixedLengthRecordDatasetV2"}
    | {"CSVDataset", "CSVDatasetV2", "ExperimentalCSVDataset", "ExperimentalSqlDataset", "ExperimentalLMDBDataset"}
    | {"MatchingFilesDataset", "ExperimentalMatchingFilesDataset", "SnapshotDatasetReader", "ListSnapshotChunksDataset"}
    | {"SnapshotNestedDatasetReader", "SnapshotChunkDataset", "DataServiceDataset", "DataServiceDatasetV2"}
    | {"DataServiceDatasetV3", "DataServiceDatasetV4", "RegisterDataset", "RegisterDatasetV2", "RpcServerStart"}
    | {"RpcServerRegister", "RpcGetValue", "RpcCheckStatus", "RemoteCall", "Send", "Recv", "_Send", "_Recv"}
    | {"_HostSend", "_HostRecv", "XlaCustomCall", "XlaCustomCallV2", "TRTEngineOp", "InitializeTRTResource"}
)
FRONT_END = frozenset(  # what prepares the data: decoding of sound, images and records
    {"DecodeWav", "EncodeWav", "AudioSpectrogram", "Mfcc", "DecodeJpeg", "DecodePng", "DecodeGif", "DecodeBmp"}
    | {"DecodeImage", "DecodeAndCropJpeg", "DecodeRaw", "DecodeCSV", "DecodeBase64", "DecodeCompressed"}
    | {"ParseExample", "ParseExampleV2", "ParseSingleExample", "ParseSequenceExample", "ParseTensor"}
    | {"IteratorGetNext", "IteratorV2", "Iterator", "OneShotIterator", "QueueDequeueV2", "QueueDequeueManyV2"}
    | {"QueueDequeueUpToV2", "FIFOQueueV2", "RandomShuffleQueueV2"}
)
PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})
VARIABLES = frozenset({"Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable"})
NOT_RESULTS = frozenset(  # sinks that are no result
    {"Const", "NoOp", "Assert", "Print", "PrintV2", "Placeholder", "PlaceholderWithDefault"}
    | {"Assign", "AssignAdd", "AssignSub", "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}
    | {"ScalarSummary", "HistogramSummary", "ImageSummary", "MergeSummary", "AudioSummary", "TensorSummaryV2"}
    | {"SaveV2", "RestoreV2", "ShardedFilename", "MergeV2Checkpoints", "VarIsInitializedOp", "IsVariableInitialized"}
    | {"ControlTrigger", "Timestamp", "QueueCloseV2", "QueueEnqueueV2", "QueueEnqueueManyV2", "QueueSizeV2"}
)
TRAINING = ("gradients", "save", "train_op", "report_uninitialized_variables", "init", "summaries")  # scopes


def tensor_name(text: str) -> tuple[str, int]:
    """A reference to a tensor as (node, output); "^node", a control input, as (node, -1).

    >>> tensor_name("Mfcc"), tensor_name("decode:1"), tensor_name("^assert")
    (('Mfcc', 0), ('decode', 1), ('assert', -1))
    """
    if text.startswith("^"):
        return text[1:], -1
    node, _, number = text.rpartition(":")
    return (node, int(number)) if node and number.isdigit() and len(number) < 8 else (text, 0)


def display(node: str, output: int) -> str:
    """A tensor's name as an input or output of a model: the node's, with the number of any output but the first."""
    return node if output == 0 else f"{node}:{output}"


@dataclass(frozen=True, slots=True)
class Ends:
    """Where a graph begins and ends: tensors as (node, output)."""

    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


def read(path: Path) -> Any:
    """The GraphDef of a `.pb` or `.pbtxt` file. Raises ModelError."""
    tensorflow()
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import graph_pb2

    graph = graph_pb2.GraphDef()
    try:
        size = path.stat().st_size
        if size > (MAX_TEXT if path.suffix == ".pbtxt" else MAX_BYTES):
            raise ModelError(f"{path.name} is too large to be a graph ({size:,} bytes)", next="use a smaller model")
        if path.suffix == ".pbtxt":
            text_format.Parse(path.read_bytes(), graph)
        else:
            graph.ParseFromString(path.read_bytes())
    except (OSError, DecodeError, ValueError, text_format.ParseError, RecursionError) as error:
        raise ModelError(
            f"{path.name} is not a TensorFlow graph, or is damaged ({reason(error)})", next=AGAIN
        ) from error
    return graph


def check(name: str, graph: Any) -> None:
    """Raise ModelError for a graph that cannot be: empty, too large, nodes that are there twice or nowhere."""
    if not graph.node:
        raise ModelError(f"{name} is damaged: it holds no nodes", next=AGAIN)
    if len(graph.node) > MAX_NODES:
        raise ModelError(f"{name} has {len(graph.node):,} nodes, more than {MAX_NODES:,}", next="use a smaller model")
    names = {n.name for n in graph.node}
    if len(names) != len(graph.node):
        raise ModelError(f"{name} is damaged: two of its nodes have the same name", next=AGAIN)
    for node in graph.node:
        _check_constant(name, node)
        for source in node.input:
            if tensor_name(source)[0] not in names:
                raise ModelError(f"{name} is damaged: '{node.name}' takes '{source}', which is not there", next=AGAIN)


def _check_constant(name: str, node: Any) -> None:
    """TensorFlow itself aborts on a shape that cannot be."""
    shapes = [node.attr["value"].tensor.tensor_shape] if "value" in node.attr else []
    shapes += [node.attr["shape"].shape] if "shape" in node.attr else []
    for shape in shapes:
        sizes = [d.size for d in shape.dim]
        if len(sizes) > MAX_RANK or math.prod(max(abs(n), 1) for n in sizes) > MAX_BYTES or any(n < -1 for n in sizes):
            raise ModelError(f"{name} is damaged: '{node.name}' has the absurd shape {sizes[:MAX_RANK]}", next=AGAIN)


def refuse_file_ops(name: str, graphs: Iterable[Any]) -> None:
    """Raise UnsafeModelError where a graph, or a function in it, reads or writes files, or runs other code."""
    listed = list(graphs)
    bodies = [g.node for g in listed] + [f.node_def for g in listed for f in g.library.function]
    found = sorted({n.op for nodes in bodies for n in nodes} & FILE_OPS)
    if found:
        raise UnsafeModelError(
            f"{name} is refused: its graph has operations that reach outside of it ({', '.join(found)})",
            next="save the model again without them, or get it from a source you trust",
        )


def refuse_unknown(name: str, graph: Any) -> None:
    """Raise ModelError with all operations that this TensorFlow does not have."""
    from tensorflow.python.framework import op_def_registry

    own = {f.signature.name for f in graph.library.function}
    bodies = [graph.node, *(f.node_def for f in graph.library.function)]
    found = {
        n.op: n.name for nodes in bodies for n in reversed(nodes) if n.op not in own and not op_def_registry.get(n.op)
    }
    if found:
        raise ModelError(
            f"cannot rebuild {name}: TensorFlow has no operation for "
            + ", ".join(f"'{where}' ({op})" for op, where in sorted(found.items())),
            next="cut them off with --from and --to, or export the model without custom operations",
        )


def ancestors(graph: Any, ends: Iterable[str], stop: Iterable[str] = ()) -> set[str]:
    """Names of all nodes that these need, themselves among them; what `stop` needs is not looked at."""
    nodes = {n.name: n for n in graph.node}
    halt, found, waiting = set(stop), set(), list(ends)
    while waiting:
        name = waiting.pop()
        if name in found or name not in nodes:
            continue
        found.add(name)
        if name not in halt:
            waiting += [tensor_name(i)[0] for i in nodes[name].input]
    return found


def sinks(graph: Any) -> list[str]:
    """Nodes that compute a result nobody in the graph uses, bookkeeping and training left out."""
    drop = {n.name for n in graph.node if _is_training(n)}
    while True:
        used = {tensor_name(i)[0] for n in graph.node if n.name not in drop for i in n.input}
        left = [n for n in graph.node if n.name not in drop and n.name not in used]
        more = {n.name for n in left if n.op in NOT_RESULTS or n.op in VARIABLES}
        if not more:
            return [n.name for n in left]
        drop |= more


def _is_training(node: Any) -> bool:
    scopes = node.name.split("/")
    return scopes[0] in TRAINING or node.op.startswith(("ResourceApply", "Apply", "SparseApply"))


def ends_of(name: str, graph: Any, start: Sequence[str], end: Sequence[str], several: bool) -> Ends:
    """Where a graph begins and ends: as asked for, or its placeholders and what nothing uses.

    `several`: whether more than one result may be meant. Raises UsageError for a name that is not there, ModelError
    where nothing is found, or too much.
    """
    outputs = [_known(name, graph, text) for text in end]
    if not outputs:
        placeholders = {n.name for n in graph.node if n.op in PLACEHOLDERS or n.op in FRONT_END}
        given = placeholders | {tensor_name(text)[0] for text in start}
        found = [s for s in sinks(graph) if ancestors(graph, [s]) & given]
        if not found:
            raise ModelError(f"{name} has no result that depends on an input", next="name tensors with --from and --to")
        if len(found) > 1 and not several:
            shown = ", ".join(found[:20]) + (" ..." if len(found) > 20 else "")
            raise UsageError(f"{name} could end at any of {len(found)} nodes: {shown}", next=f"--to {found[0]}")
        outputs = [(s, 0) for s in found]
    inputs = [_known(name, graph, text) for text in start]
    needed = ancestors(graph, [n for n, _ in outputs], [n for n, _ in inputs])
    for node in graph.node:
        if node.name in needed and node.op in PLACEHOLDERS and (node.name, 0) not in inputs and not is_switch(node):
            inputs.append((node.name, 0))
    return Ends(tuple(dict.fromkeys(inputs)), tuple(dict.fromkeys(outputs)))


def is_switch(node: Any) -> bool:
    """A placeholder that is not data: it has a default, or it is a scalar that says whether to train or what to keep."""
    if node.op == "PlaceholderWithDefault":
        return True
    scalar = not node.attr["shape"].shape.unknown_rank and len(node.attr["shape"].shape.dim) == 0
    kind = node.attr["dtype"].type
    if kind == 10:  # DT_BOOL
        return scalar or node.attr["shape"].shape.unknown_rank
    named = any(word in node.name.lower() for word in ("keep_prob", "keepprob", "dropout"))
    return kind == 1 and named  # DT_FLOAT


def _known(name: str, graph: Any, text: str) -> tuple[str, int]:
    node, output = tensor_name(text)
    names = [n.name for n in graph.node]
    if node not in names or output < 0:
        near = difflib.get_close_matches(node, names, 3)
        raise UsageError(
            f"{name} has no tensor '{text}'" + (f": did you mean {', '.join(near)}?" if near else ""),
            next=f"a tensor is NODE or NODE:NUMBER; the graph's last nodes are {', '.join(names[-5:])}",
        )
    return node, output


def borders(graph: Any, needed: set[str]) -> list[str]:
    """Tensors where the front end, and all that feeds it, hands over to the network: the place to begin at."""
    front = ancestors(graph, [n.name for n in graph.node if n.name in needed and n.op in FRONT_END])
    constant = {n.name for n in graph.node if n.op in ("Const", *VARIABLES)}
    found: dict[str, None] = {}
    for node in graph.node:
        if node.name in needed and node.name not in front:
            for text in node.input:
                source, output = tensor_name(text)
                if source in front and source not in constant and output >= 0:
                    found[f"{source}:{output}"] = None
    return list(found)


def refuse_front_end(name: str, graph: Any, needed: set[str]) -> None:
    """Raise ModelError where decoding of sound, images or records is part of what is needed, with where to cut."""
    found = [f"'{n.name}' ({n.op})" for n in graph.node if n.name in needed and n.op in FRONT_END]
    if found:
        cut = " ".join(f"--from {t}" for t in borders(graph, needed))
        raise ModelError(
            f"{name} begins with operations that prepare its data, which no layer stands for: {', '.join(found)}",
            next=f"{cut or '--from TENSOR'}, and compute these before the model",
        )


def cut(graph: Any, ends: Ends, switches: bool = True) -> tuple[Any, dict[tuple[str, int], str]]:
    """(what lies between the ends, the placeholder of each input).

    An input that is a placeholder stays one; another tensor is replaced by a new placeholder. Placeholders that are
    switches become constants: their default, False, or 1.0 (what a dropout keeps).
    """
    from tensorflow.core.framework import graph_pb2

    nodes = {n.name: n for n in graph.node}
    holders: dict[tuple[str, int], str] = {}
    for i, (node, output) in enumerate(ends.inputs):
        plain = nodes[node].op in PLACEHOLDERS
        holders[(node, output)] = node if plain else _free(f"{node}/from{i}", nodes)
    result = graph_pb2.GraphDef()
    result.versions.CopyFrom(graph.versions)
    result.library.CopyFrom(graph.library)
    for key, holder in holders.items():
        made = result.node.add()
        made.name, made.op = holder, "Placeholder"
        if nodes[key[0]].op in PLACEHOLDERS:
            made.attr["shape"].CopyFrom(nodes[key[0]].attr["shape"])
            made.attr["dtype"].CopyFrom(nodes[key[0]].attr["dtype"])
    waiting, done = [n for n, _ in ends.outputs if (n, 0) not in holders], set(holders.values())
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        node = result.node.add()
        node.CopyFrom(nodes[name])
        if switches and node.op in PLACEHOLDERS and is_switch(node):
            _settle(node)
        for i, text in enumerate(node.input):
            key = tensor_name(text)
            if key in holders:
                node.input[i] = holders[key]
            else:
                waiting.append(key[0])
    present = {n.name for n in result.node}
    for node in result.node:
        kept = [t for t in node.input if tensor_name(t)[0] in present]
        del node.input[:]
        node.input.extend(kept)
    return result, holders


def _settle(node: Any) -> None:
    """A switch as what it is when the model is used."""
    if node.op == "PlaceholderWithDefault":
        node.op = "Identity"
        kind = node.attr["dtype"].type
        node.attr.clear()
        node.attr["T"].type = kind
        return
    kind = node.attr["dtype"].type
    node.op = "Const"
    node.attr.clear()
    node.attr["dtype"].type = kind
    node.attr["value"].tensor.dtype = kind
    if kind == 10:
        node.attr["value"].tensor.bool_val.append(False)
    else:
        node.attr["value"].tensor.float_val.append(1.0)


def settled(graph: Any) -> Iterator[str]:
    """What `cut` decides for the user, in words."""
    for node in graph.node:
        if node.op == "PlaceholderWithDefault":
            yield f"'{node.name}' keeps its default"
        elif node.op in PLACEHOLDERS and is_switch(node):
            yield f"'{node.name}' is {'False' if node.attr['dtype'].type == 10 else '1.0'}: the model is used, not trained"


def _free(wish: str, names: Iterable[str]) -> str:
    taken, name = set(names), wish
    while name in taken:
        name += "_"
    return name


RANDOM = "/random_uniform/"
IN_DROPOUT = frozenset(  # what tf.nn.dropout is made of, in all versions
    {"Add", "AddV2", "BiasAdd", "Cast", "Const", "Div", "Floor", "GreaterEqual", "Identity", "Less", "Mul", "Pack"}
    | {"RandomUniform", "RealDiv", "Select", "SelectV2", "Shape", "StridedSlice", "Sub", "ZerosLike"}
)


def without_dropout(graph: Any) -> Any:
    """A copy in which each tf.nn.dropout passes its input on.

    A dropout is the scope around a random number in which nothing else happens: one tensor of data goes in, one comes
    out. What is left of it hangs nowhere.
    """
    copy = type(graph)()
    copy.CopyFrom(graph)
    nodes = {n.name: n for n in copy.node}
    scopes = {n.name[: n.name.rindex(RANDOM)] for n in copy.node if n.op == "RandomUniform" and RANDOM in n.name}
    constants = _constants(copy) if scopes else set()
    passed: dict[str, str] = {}
    for scope in sorted(scopes):
        inside = {n for n in nodes if n.startswith(scope + "/")}
        if any(nodes[n].op not in IN_DROPOUT for n in inside):
            continue
        entering = {
            t for n in inside for t in nodes[n].input if tensor_name(t)[0] not in inside and not t.startswith("^")
        }
        data = {t for t in entering if tensor_name(t)[0] not in constants}
        used = {tensor_name(t)[0] for n in copy.node if n.name not in inside for t in n.input}
        inner = {tensor_name(t)[0] for n in inside for t in nodes[n].input}
        leaving = (used & inside) or {
            n for n in inside if n not in inner and nodes[n].op in ("Mul", "Select", "SelectV2")
        }
        if len(data) == len(leaving) == 1:
            passed[leaving.pop()] = data.pop()
    for name, source in passed.items():
        node = nodes[name]
        kind = node.attr["T"].type
        node.op = "Identity"
        node.attr.clear()
        node.attr["T"].type = kind
        del node.input[:]
        node.input.append(source)
    return copy


def _constants(graph: Any) -> set[str]:
    """Nodes whose values depend on no input and no random number: how much to drop, not what."""
    found = {n.name for n in graph.node if n.op == "Const"}
    waiting = [n for n in graph.node if n.input and n.op != "RandomUniform"]
    progress = True
    while progress:
        ready = [n for n in waiting if all(tensor_name(t)[0] in found for t in n.input)]
        found |= {n.name for n in ready}
        waiting = [n for n in waiting if n.name not in found]
        progress = bool(ready)
    return found
