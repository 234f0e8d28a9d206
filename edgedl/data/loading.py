"""load(): sources -> a Dataset that fits the model, split, with its metric; or generated inputs, and a loud note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import TensorSpec
from ..errors import DataError
from ..layouts import Layouts
from ..preprocess import IDENTITY, Preprocessing
from ..registry import did_you_mean
from .dataset import Dataset, Split
from .fit import Task, choose_metric, fit_inputs, fit_labels, is_integer
from .generate import describe, generate
from .images import image_shape
from .options import DataOptions, unreadable
from .raw import Raw, Wanted, stratified_order
from .sources import read

SHARE = 5  # at most one in so many samples of a source that also has to validate goes to calibration

SAME_DATA = "calibration and validation are the same data: the result may look better than it is"


def load(
    options: DataOptions,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    seed: int = 0,
    layouts: Layouts | None = None,
) -> Dataset:
    """The data of a model with these inputs and outputs, the same for the same seed. Raises DataError.

    `layouts`: of the original file where its axes were others; arrays made for it are transposed.
    """
    options = replace(options, labels=read_labels(options.labels))
    wanted = Wanted(options, inputs, outputs, seed, layouts or {})
    _check_inputs(inputs)
    preprocessing = declared(options, inputs)
    if not options.source:
        return _generated(wanted, preprocessing)
    raw = read(options.source, wanted)
    raws = {"source": raw}
    if options.train:
        raws["train"] = read(options.train, wanted)
    elif raw.train is not None:
        raws["train"] = raw.train
    if options.calibration:
        raws["calibration"] = read(options.calibration, replace(wanted, calibrating=True))
    labels = _class_names(options, raws)
    fitted = {
        key: _fit(found, replace(wanted, calibrating=key == "calibration"), preprocessing, labels)
        for key, found in raws.items()
    }
    parts = {key: split for key, (split, _) in fitted.items()}
    if options.train_share and len(parts["source"]) > 2 and "train" not in parts:
        parts["source"], parts["train"] = _set_aside(parts["source"], options.train_share, seed)
    calibration, validation, notes = _cut(parts, options, seed)
    task = fitted["source"][1]
    return Dataset(
        calibration=calibration,
        validation=validation,
        train=parts.get("train"),
        preprocessing=preprocessing,
        labels=_check_labels(labels, wanted.output, task),
        metric=choose_metric(options.metric, task, wanted.output, inputs),
        source=options.source,
        notes=(
            *(n for r in raws.values() for n in r.notes),
            *notes,
            *_range_notes(parts["source"], preprocessing, inputs),
        ),
        dtypes={s.name: s.dtype if is_integer(s) or s.dtype == "float16" else "float32" for s in inputs},
    )


def _check_inputs(inputs: Sequence[TensorSpec]) -> None:
    for spec in inputs:
        if not spec.shape:
            raise DataError(
                f"the model's input {spec.name} has no batch axis",
                next=f"give it as a number with --input {spec.name}=NUMBER, or export the model with a batch axis",
            )
        if np.dtype(spec.dtype).kind not in "fiub":
            raise DataError(
                f"the model's input {spec.name} takes {spec.dtype}, not numbers",
                next="export the model behind its text processing",
            )


def declared(options: DataOptions, inputs: Sequence[TensorSpec]) -> dict[str, Preprocessing]:
    """The declared preprocessing by input name: the common one for inputs that take reals, or an input's own.

    A resize and a layout are for images only. Raises DataError for an unknown input or key.
    """
    names = [s.name for s in inputs]
    for name in options.inputs:
        if name not in names:
            raise DataError(
                f"[data.inputs] names an input '{name}' that the model does not have{did_you_mean(name, names)}",
                next=f"the inputs are {', '.join(names)}",
            )
    keys = [f.name for f in fields(Preprocessing)]
    common = {k: getattr(options, k) for k in keys}
    out = {}
    for spec in inputs:
        own = dict(options.inputs.get(spec.name, {}))
        if is_integer(spec):
            out[spec.name] = Preprocessing.from_json(own)
            continue
        values: dict[str, Any] = {**common, **own}
        if image_shape(spec.shape) is None:
            values.update(resize=own.get("resize"), layout=own.get("layout", ""))
        prep = Preprocessing.from_json(values)
        out[spec.name] = replace(prep, layout="" if prep.layout == "NHWC" else prep.layout)
        _check_channels(out[spec.name], spec)
    return out


def _check_channels(prep: Preprocessing, spec: TensorSpec) -> None:
    axis = 1 if prep.layout == "NCHW" and len(spec.shape) == 4 else -1
    channels = spec.shape[axis]
    for key in ("mean", "std"):
        values = getattr(prep, key)
        if len(values) != 1 and channels is not None and len(values) != channels:
            raise DataError(
                f"data.{key} has {len(values)} values, and the model's input {spec.name} has {channels} channels",
                next="give one value, or one a channel",
            )


def read_labels(labels: tuple[str, ...] | str) -> tuple[str, ...]:
    """Class names as declared, or the non-empty lines of a text file."""
    if isinstance(labels, str):
        labels = (labels,) if labels else ()
    if len(labels) != 1 or not labels[0].lower().endswith(".txt"):
        return tuple(labels)
    try:
        lines = Path(labels[0]).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(
            f"the labels file {labels[0]}", error, next="pass a UTF-8 text file with one class name a line"
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


def _class_names(options: DataOptions, raws: dict[str, Raw]) -> tuple[str, ...]:
    """Declared, or found with the source (folders, text labels)."""
    if options.labels:
        return tuple(options.labels)
    found = {raw.labels for raw in raws.values() if raw.labels}
    if len(found) > 1:
        raise DataError("the sources have different classes", next="declare labels in [data], in the model's order")
    if found:
        return found.pop()
    text = [
        raw.y for key, raw in raws.items() if key != "calibration" and raw.y is not None and raw.y.dtype.kind in "US"
    ]
    return tuple(map(str, np.unique(np.concatenate(text)))) if text else ()


def _check_labels(labels: tuple[str, ...], output: TensorSpec, task: Task | None) -> tuple[str, ...]:
    classes = output.shape[-1] if output.shape else None
    if not labels or classes is None or task == "targets":
        return labels
    if len(labels) != max(classes, 2):
        raise DataError(
            f"there are {len(labels)} labels ({', '.join(labels[:4])} ...), and the output {output.name} has {max(classes, 2)} classes",
            next="declare labels in [data], one for each class in the model's order",
        )
    return labels


def _fit(
    raw: Raw, wanted: Wanted, preprocessing: dict[str, Preprocessing], labels: tuple[str, ...]
) -> tuple[Split, Task | None]:
    x = fit_inputs(raw, wanted.inputs, preprocessing, wanted.layouts)
    if raw.y is None:
        return _limited(Split(x), wanted), None
    try:
        y, task = fit_labels(raw, raw.y, wanted.output, labels, wanted.layouts)
    except DataError:
        if not wanted.calibrating:
            raise
        return _limited(Split(x), wanted), None
    return _limited(Split(x, y), wanted), task


def _limited(split: Split, wanted: Wanted) -> Split:
    most = wanted.options.max_samples
    if not 0 < most < len(split):
        return split
    return split.take(np.sort(stratified_order(split.y, len(split), wanted.seed)[:most]))


def _set_aside(source: Split, share: float, seed: int) -> tuple[Split, Split]:
    """A source in two, stratified by label, each in the order given: what validates, and `share` of it to train on."""
    order = stratified_order(source.y, len(source), seed)
    count = min(max(1, round(len(source) * share)), len(source) - 1)
    return source.take(np.sort(order[count:])), source.take(np.sort(order[:count]))


def _cut(parts: dict[str, Split], options: DataOptions, seed: int) -> tuple[Split, Split, tuple[str, ...]]:
    """Calibration (in an order of which every prefix is representative), validation (in the order given), notes."""
    source = parts["source"]
    separate = parts.get("calibration", parts.get("train"))
    if separate is not None:
        order = stratified_order(separate.y, len(separate), seed)
        if "calibration" not in parts:
            order = order[: options.calibration_samples]
        same = options.source in (options.calibration, options.train)
        note = SAME_DATA
        return separate.take(order), source, (note,) if same else ()
    if len(source) < 2:
        return source, source, ("there is one sample, which both calibrates and validates",)
    order = stratified_order(source.y, len(source), seed)
    count = max(1, min(options.calibration_samples, len(source) // SHARE))
    return source.take(order[:count]), source.take(np.sort(order[count:])), ()


def _range_notes(split: Split, preprocessing: dict[str, Preprocessing], inputs: Sequence[TensorSpec]) -> list[str]:
    return [
        f"the input {s.name} is 0..255, as given; declare scale = {1 / 255:.6f} if the model expects 0..1"
        for s in inputs
        if split.x[s.name].dtype == np.uint8
        and not is_integer(s)
        and preprocessing[s.name] in (IDENTITY, Preprocessing(layout="NCHW"))
        and int(np.max(split.x[s.name][:64])) > 1
    ]


def _generated(wanted: Wanted, preprocessing: dict[str, Preprocessing]) -> Dataset:
    options, inputs = wanted.options, wanted.inputs
    if options.calibration or options.train:
        what = "calibration" if options.calibration else "training"
        raise DataError(f"there is {what} data and no validation data", next="pass it as the data: it will be split")
    calibration, validation = generate(inputs, preprocessing, options, wanted.seed)
    made = "; ".join(f"{s.name}: {describe(s, preprocessing[s.name], options)}" for s in inputs)
    return Dataset(
        calibration,
        validation,
        preprocessing=preprocessing,
        labels=_check_labels(tuple(options.labels), wanted.output, None),
        metric=choose_metric(options.metric, None, wanted.output, inputs),
        generated=True,
        notes=(
            f"NO DATA WAS GIVEN: inputs were generated ({made}). Ranges and agreement hold for these, not for real inputs; "
            "pass --data before you trust a quantized model",
        ),
        dtypes={s.name: s.dtype if is_integer(s) or s.dtype == "float16" else "float32" for s in inputs},
    )
