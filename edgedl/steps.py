"""The steps of a run as functions of folders and plain JSON, which the pipeline runs in child processes.

Each reads what earlier steps left in their folders, writes into its own, and returns what the report needs.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import data as datasets
from . import faithfulness, metrics, scratch, verification
from .artifact import Array, Artifact, TensorSpec, spec_from_json
from .data import DataOptions, Dataset, Split
from .engine import describe, open_engine, predict
from .errors import ConversionError, ModelError, VerificationError
from .frameworks import fed
from .layouts import from_file, layouts_of, original_layouts, plain, preprocessing_from_file, read_layouts, to_file
from .model import ALLOW_UNSAFE as ALLOW_UNSAFE
from .model import GRAPH_FORMATS, LoadOptions, Model, load
from .options import build
from .registry import find, resolve
from .sniffing import sniff
from .worker import progress

PROBE = 16  # inputs on which every converted file is compared with the model before it
LAYER_PROBE = 8  # inputs for the error of single layers
MAX_OUTPUT_BYTES = 1 << 30  # of the validation outputs that are kept; validation is cut to stay below
BATCH = 64

_models: dict[str, Model] = {}  # the last models of this process, so that they are not read again


def remember(key: str, model: Model) -> None:
    """Keep a model for the next steps in this process (at most four)."""
    while len(_models) >= 4:
        _models.pop(next(iter(_models)))
    _models[key] = model


def recall(folder: str) -> Model:
    """The model of an earlier step: from this process if it made it, else from its folder."""
    if folder not in _models:
        remember(folder, Model.restore(Path(folder), allow_unsafe=ALLOW_UNSAFE in os.environ))
    return _models[folder]


def load_model(path: str, folder: str, final: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Read the user's model into `folder` (later renamed `final`); returns what it is."""
    start = time.perf_counter()
    wanted = build(LoadOptions, options, "load")
    model = load(path, wanted)
    seconds = time.perf_counter() - start
    model.save(Path(folder))
    remember(final, model)
    file = next(p for p in Path(folder).iterdir() if p.stem == "model" and p.suffix != ".json")
    layers = _inspector(file.suffix[1:], wanted.allow_unsafe).layers(file)
    return {
        "load_ms": seconds * 1e3,
        "form": file.suffix[1:],
        "file": file.name,
        "layers": len(layers),
        "parameters": sum(layer.parameters for layer in layers),
        "macs": sum(layer.macs for layer in layers),
        "inputs": [asdict(s) for s in model.inputs],
        "outputs": [asdict(s) for s in model.outputs],
        "preprocessing": _declared(Path(path), model),
        "notes": list(model.notes),
        "layouts": plain(model.layouts),
        "proof": [dict(entry) for entry in model.proof],
    }


def load_data(
    options: Mapping[str, Any],
    inputs: list[Any],
    outputs: list[Any],
    folder: str,
    seed: int,
    whole: bool = False,
    layouts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Read the data into `folder`; returns what it is. `whole`: all of it is validation, nothing is set aside.

    `layouts`: of the original file, where the axes of its inputs and outputs are not the model's.
    """
    specs = [[spec_from_json(s) for s in group] for group in (inputs, outputs)]
    axes = read_layouts(layouts, {s.name: len(s.shape) for group in specs for s in group})
    wanted = build(DataOptions, options, "data")
    if whole and not wanted.calibration:
        wanted = replace(wanted, calibration=wanted.source)
    dataset = _bounded(datasets.load(wanted, *specs, seed=seed, layouts=axes), specs[1])
    if whole and datasets.SAME_DATA in dataset.notes:
        rest = tuple(n for n in dataset.notes if n != datasets.SAME_DATA)
        dataset = replace(dataset, notes=(*rest, "every sample is scored, also those that calibration has seen"))
    dataset.save(Path(folder))
    return {
        "source": dataset.source,
        "calibration_samples": len(dataset.calibration),
        "validation_samples": len(dataset.validation),
        "train_samples": 0 if dataset.train is None else len(dataset.train),
        "labelled": dataset.validation.y is not None,
        "metric": dataset.metric,
        "generated": dataset.generated,
        "labels": list(dataset.labels),
        "notes": list(dataset.notes),
    }


def _bounded(dataset: Dataset, outputs: list[TensorSpec]) -> Dataset:
    """The dataset with its validation split cut to what can be kept of its outputs."""
    one = sum(4 * int(np.prod([d or 1 for d in s.shape[1:]])) for s in outputs)
    most = max(1, MAX_OUTPUT_BYTES // max(one, 1))
    if len(dataset.validation) <= most:
        return dataset
    split = dataset.validation
    y = None if split.y is None else split.y[:most]
    cut = Split({k: v[:most] for k, v in split.x.items()}, y)
    note = f"validation uses the first {most} of {len(split)} samples: the outputs of all would take too much room"
    return replace(dataset, validation=cut, notes=(*dataset.notes, note))


def describe_file(path: str) -> dict[str, Any]:
    """Inputs, outputs, declared preprocessing of a .tflite or .onnx, its layouts and those of its original."""
    found = describe(Path(path))
    return {
        "inputs": [asdict(s) for s in found.inputs],
        "outputs": [asdict(s) for s in found.outputs],
        "preprocessing": dict(found.metadata.get("preprocessing", {})),
        "layouts": plain(layouts_of(found)),
        "original_layouts": plain(original_layouts(found)),
    }


def _declared(path: Path, model: Model) -> dict[str, Any]:
    """The preprocessing that a .tflite or .onnx declares, as the model takes it that was made from it."""
    artifact = Artifact.load(path) if path.is_file() and sniff(path) in GRAPH_FORMATS else None
    found = {} if artifact is None else dict(artifact.metadata.get("preprocessing", {}))
    return preprocessing_from_file(found, model.layouts) if model.is_keras else found


def apply_stage(
    model: str, data: str, stage: str, options: Mapping[str, Any], folder: str, final: str, kept: str
) -> dict[str, Any]:
    """Run one stage on the model of an earlier step; its checkpoints lie in `kept` until it is done."""
    before = recall(model)
    with scratch.using(Path(kept)) as checkpoints:
        after: Model = build(find("stage", stage), options, stage)(before, Dataset.restore(Path(data)))
    after.save(Path(folder))
    remember(final, after)
    shutil.rmtree(checkpoints, ignore_errors=True)
    made = after.records[len(before.records) :]
    told = [f"{stage}: {note}" for record in made for note in record.get("notes", ())]
    return {
        "history": list(after.history),
        "notes": [*(note for note in after.notes if note not in before.notes), *told],
        "records": [dict(record) for record in after.records],
        "detail": after.history[-1] if len(after.history) > len(before.history) else "",
    }


def run_original(model: str, data: str, folder: str) -> dict[str, Any]:
    """Outputs of the model as it came, on the probe and on the validation inputs; returns its metrics."""
    net, dataset = recall(model), Dataset.restore(Path(data))
    probe = outputs_of(net, dataset.feed(dataset.calibration, 0, PROBE))
    save_arrays(Path(folder) / "probe.npz", probe)
    total = len(dataset.validation)
    parts = []
    for start in range(0, total, BATCH * 4):
        parts.append(outputs_of(net, dataset.feed(dataset.validation, start, min(start + BATCH * 4, total))))
        progress(min(start + BATCH * 4, total), total, "original model on the validation data")
    outputs = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    save_arrays(Path(folder) / "validation.npz", outputs)
    return score(dataset, outputs, outputs)


def prove(model: str, data: str, path: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold an imported model to the original on real inputs; entries as in `Model.proof`. Raises VerificationError."""
    imported, dataset, wanted = recall(model), Dataset.restore(Path(data)), build(LoadOptions, options, "load")
    source = find("source", sniff(Path(path)))(Path(path), wanted)
    held = resolve(resolve("edgedl.converters:PROVE"))
    feed = dataset.feed(dataset.calibration, 0, fixed_batch(imported) or PROBE)
    found: list[dict[str, Any]] = held(source, Path(path), wanted, imported, feed)
    return found


def outputs_of(model: Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the model computes, by output name."""
    if not model.is_keras:
        return predict(describe(model.net.path), inputs)
    size = fixed_batch(model)
    count = max(len(inputs[s.name]) for s in model.inputs)
    feed = [filled_up(inputs[s.name], size or 1) for s in model.inputs]
    found = model.net.predict(fed(model.net, feed), batch_size=size or BATCH, verbose=0)
    arrays = list(found.values()) if isinstance(found, dict) else found if isinstance(found, list | tuple) else [found]
    return {s.name: np.asarray(a)[:count] for s, a in zip(model.outputs, arrays, strict=True)}


def fixed_batch(model: Model) -> int:
    """The batch that a Keras model insists on, or 0. Raises ModelError where its inputs' first axes are not one batch."""
    sizes = {t.shape[0] for t in model.net.inputs if t.shape} - {None}
    if len(sizes) > 1:
        raise ModelError(
            f"the inputs of the model have the first axes {', '.join(map(str, sorted(sizes)))}, which are no common batch",
            next="export the model with one batch axis, first in every input",
        )
    return int(sizes.pop()) if sizes else 0


def filled_up(x: Array, size: int) -> Array:
    """Samples in whole batches: the last one is filled up with copies of the last sample."""
    missing = -len(x) % size
    return np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing else x


def score(dataset: Dataset, outputs: Mapping[str, Array], original: Mapping[str, Array]) -> dict[str, Any]:
    """The declared metric first, then others of its kind; nothing where there are no labels."""
    if dataset.validation.y is None:
        return {}
    return metrics.evaluate_all(dataset.metric, outputs, truth(dataset, original))


def truth(dataset: Dataset, original: Mapping[str, Array]) -> Array:
    """What outputs are scored against: the labels, or the original's outputs where the metric is about these."""
    y = dataset.validation.y
    if y is None or dataset.metric.rpartition(":")[2] in metrics.REFERENCED:
        return original[metrics.output_name(dataset.metric, original)]
    return y


def drop(dataset: Dataset, before: Mapping[str, Array], after: Mapping[str, Array]) -> float:
    """How much worse than the original: of the metric, or without labels of the agreement with the original's outputs."""
    y = truth(dataset, before)
    was, now = (metrics.evaluate(dataset.metric, outputs, y) for outputs in (before, after))
    return metrics.drop(dataset.metric, was, now)


def convert(
    model: str,
    data: str,
    format: str,
    options: Mapping[str, Any],
    with_plan: bool,
    folder: str,
    file: str,
    base: str | None = None,
) -> dict[str, Any]:
    """Write the model of an earlier step as `folder/file`; `base`: its float file. Returns the artifact as JSON."""
    source = recall(model)
    if not with_plan:
        source = replace(source, plan=None)
    if source.plan is not None and source.plan.scheme == "float32" and not source.plan.overrides:
        source = replace(source, plan=None)
    converter = build(find("converter", format), options, format)
    dataset = Dataset.restore(Path(data))
    artifact: Artifact = converter(source, dataset, Path(folder) / file, base=Path(base) if base else None)
    return {**artifact.to_json(), "bytes": artifact.size}


def verify(path: str, data: str, reference: str) -> dict[str, Any]:
    """Hold a converted file to the outputs in `reference`. Raises VerificationError when it is not the model."""
    artifact, dataset = describe(Path(path)), Dataset.restore(Path(data))
    _refuse_custom_ops(artifact)
    layouts = layouts_of(artifact)
    expected = to_file(load_arrays(Path(reference) / "probe.npz"), layouts)
    feed = to_file(dataset.feed(dataset.calibration, 0, PROBE), layouts)
    checks = verification.verify(artifact, feed, expected)
    bad = [c for c in checks if not c.ok]
    if bad:
        raise VerificationError(
            f"{artifact.path.name} was written, but it is not the model: {'; '.join(f'{c.name}: {c.detail}' for c in bad)}",
            next=_remedy(artifact.scheme),
        )
    return {"ok": True, "checks": verification.to_json(checks)}


def _remedy(scheme: str) -> str:
    if scheme in ("float32", "unknown"):
        return "try the other format with --format; please report the model"
    if scheme == "int4-weight-only":
        return "four bits are too few for this model: try --quantize int8-weight-only"
    return "try --calibration-method mse, --quantize dynamic or --quantize fp16, and check that the data is scaled as in training"


def _refuse_custom_ops(artifact: Artifact) -> None:
    custom = find("inspector", artifact.format)().custom_ops(artifact.path)
    if custom:
        raise ConversionError(
            f"{artifact.path.name} needs operators outside the standard set: {', '.join(custom)}",
            next="replace these layers; `edgedl inspect MODEL` shows them",
        )


def evaluate(path: str, data: str, original: str, folder: str) -> dict[str, Any]:
    """Run the artifact on the validation data; returns metrics, agreement with the original and change per class."""
    artifact, dataset = describe(Path(path)), Dataset.restore(Path(data))
    total, layouts = len(dataset.validation), layouts_of(artifact)
    parts = []
    with open_engine(artifact) as engine:
        for start in range(0, total, BATCH):
            feed = to_file(dataset.feed(dataset.validation, start, min(start + BATCH, total)), layouts)
            parts.append(from_file(predict(engine, feed), layouts))
            progress(min(start + BATCH, total), total, f"{artifact.path.name} on the validation data")
    outputs = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    save_arrays(Path(folder) / "validation.npz", outputs)
    before = load_arrays(Path(original) / "validation.npz")
    return {
        "metrics": score(dataset, outputs, before),
        "drop": drop(dataset, before, outputs),
        "agreement": agreement(before, outputs),
        "per_class": per_class(dataset, before, outputs),
        "class_drop": class_drop(dataset, before, outputs),
    }


def class_drop(dataset: Dataset, before: Mapping[str, Array], after: Mapping[str, Array]) -> dict[str, Any] | None:
    """The class that lost most, without labels of those that the original decides on; None where there are no classes."""
    y = None if dataset.validation.y is None else np.asarray(dataset.validation.y)
    how = faithfulness.deciding(dataset.metric, before, y)
    if how is None:
        return None
    return faithfulness.worst_class(faithfulness.class_changes(how, before, after, y, dataset.labels))


def agreement(before: Mapping[str, Array], after: Mapping[str, Array]) -> dict[str, Any]:
    """Over all outputs the worst: SQNR in dB, relative error, share of the same top class; and each by output name."""
    each = {name: dict(found) for name, found in metrics.agreement(before, after).items()}
    worst: dict[str, Any] = {
        "sqnr_db": min(e["sqnr_db"] for e in each.values()),
        "max_relative_error": max(e["max_relative_error"] for e in each.values()),
    }
    tops = [e["top1_agreement"] for e in each.values() if e.get("top1_agreement") is not None]
    if tops:
        worst["top1_agreement"] = min(tops)
    return {**worst, "outputs": each} if len(each) > 1 else worst


def per_class(dataset: Dataset, before: Mapping[str, Array], after: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Accuracy of each class before and after, where the task is classification."""
    y, first = dataset.validation.y, metrics.output_name(dataset.metric, before)
    if y is None or dataset.metric.rpartition(":")[2] not in ("accuracy", "f1") or before[first].ndim != 2:
        return []
    classes = max(before[first].shape[-1], 2)
    labels = dataset.labels or tuple(map(str, range(classes)))
    was = metrics.per_class_accuracy(before[first], y, classes)
    now = metrics.per_class_accuracy(after[first], y, classes)
    counts = np.bincount(np.asarray(y).astype(int).ravel(), minlength=classes)
    return [
        {"label": labels[c], "original": float(was[c]), "now": float(now[c]), "count": int(counts[c])}
        for c in range(classes)
        if counts[c]
    ]


def layer_errors(path: str, float_path: str, data: str) -> list[dict[str, Any]]:
    """The error of every layer of a quantized file against the float file of the same format."""
    artifact, dataset = describe(Path(path)), Dataset.restore(Path(data))
    probe = to_file(dataset.feed(dataset.calibration, 0, LAYER_PROBE), layouts_of(artifact))
    found = find("inspector", artifact.format)().compare(Path(float_path), Path(path), probe)
    return [asdict(e) for e in found]


def inspect(path: str, format: str, allow_unsafe: bool = False) -> list[dict[str, Any]]:
    """The layers of a network file."""
    return [asdict(layer) for layer in _inspector(format, allow_unsafe).layers(Path(path))]


def _inspector(format: str, allow_unsafe: bool) -> Any:
    """The inspector of a format; only Keras files can hold code that must be allowed."""
    found = find("inspector", format)
    return found(allow_unsafe=allow_unsafe) if format == "keras" else found()


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Arrays by any name (names may hold slashes, which a zip member should not)."""
    members: dict[str, Any] = {f"a{i}": a for i, a in enumerate(arrays.values())}
    np.savez(path, allow_pickle=False, names=np.array(list(arrays)), **members)


def load_arrays(path: Path) -> dict[str, Array]:
    """Inverse of `save_arrays`."""
    with np.load(path, allow_pickle=False) as file:
        return {str(name): file[f"a{i}"] for i, name in enumerate(file["names"])}
