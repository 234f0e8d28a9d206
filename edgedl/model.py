"""Model: the one trainable form, what is to become of it, and how it got here; load() reads it from a file."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from .artifact import MAX_METADATA, MEMBER, TensorSpec, spec_from_json
from .errors import ModelError, UsageError
from .layouts import plain, read_layouts
from .registry import did_you_mean, find
from .sniffing import sniff

Scheme = Literal["float32", "fp16", "dynamic", "int8", "int16x8", "int8-weight-only", "int4-weight-only"]
SCHEMES: tuple[Scheme, ...] = ("float32", "fp16", "dynamic", "int8", "int16x8", "int8-weight-only", "int4-weight-only")
STATIC: frozenset[str] = frozenset({"int8", "int16x8"})  # schemes whose activations need ranges from data
Calibration = Literal["minmax", "percentile", "mse"]
IoType = Literal["float32", "int8", "uint8", "int16"]

ALLOW_UNSAFE = "EDGEDL_ALLOW_UNSAFE"  # set in the child of a run whose user trusts the model's own code


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """What is to be quantized, and how; each converter carries it out in its own format.

    `overrides` maps a layer-name pattern (fnmatch, first match wins) to the scheme of these layers.
    `ranges` holds (min, max) of layer outputs that are already decided (trained or repaired); the rest is calibrated.
    """

    scheme: Scheme = "int8"
    calibration: Calibration = "minmax"
    percentile: float = 99.99  # of the absolute values, for calibration = "percentile"
    samples: int = 200  # how many calibration inputs are run
    io: IoType = "float32"  # type of the artifact's inputs and outputs
    overrides: Mapping[str, Scheme] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def is_static(self) -> bool:
        """Whether any layer needs activation ranges."""
        return self.scheme in STATIC or any(s in STATIC for s in self.overrides.values())


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a model file does not say and its user has to."""

    inputs: Mapping[str, str] = field(default_factory=dict)  # NAME -> shape of an input: "1x3x224x224", "?x128:int64"
    start: tuple[str, ...] = ()  # tensors to begin at; what comes before them is cut off
    end: tuple[str, ...] = ()  # tensors to end at
    module: str = ""  # module:callable that builds the network of a file with nothing but weights
    weights: str = ""  # the file of weights, where it is not beside the model under the same name
    form: Literal["auto", "keras"] = "auto"  # auto: .tflite and .onnx stay what they are, for the direct way
    allow_unsafe: bool = False  # let the file run Python code that it carries


def shapes_by_name(given: Mapping[str, str], names: Sequence[str]) -> Mapping[str, str]:
    """`LoadOptions.inputs` with the shape that was given without a name under that of the only input of `names`.

    Raises UsageError where there are several.
    """
    if "" not in given:
        return given
    if len(names) != 1:
        raise UsageError(
            f"a shape without a name is for one input, and the model has {len(names)}",
            next=f"write --input NAME={given['']}, with one of {', '.join(names)}",
        )
    return {**{k: v for k, v in given.items() if k}, names[0]: given[""]}


@dataclass(frozen=True, slots=True)
class GraphFile:
    """A network that stays in its own format (.tflite, .onnx): quantized and benched without a training framework."""

    path: Path
    format: str
    content: bytes | None = field(default=None, repr=False)  # of the whole, where `path` keeps weights in other files


@dataclass(frozen=True, slots=True)
class Model:
    """A trained network with its inputs and outputs, the plan for its quantization, and what was done to it.

    `net` is a Keras 3 functional `keras.Model`, or a GraphFile when no step needs to train or restructure it.
    """

    net: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    plan: QuantizationPlan | None = None
    history: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what the user should know about how it was loaded
    layouts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # by input or output name, where the original
    # had its axes in another order: here = original.transpose(layouts[name])
    proof: tuple[Mapping[str, Any], ...] = ()  # one entry for each output that was held to the original's
    origin: Any = None  # the Keras network before the first stage that changed it: the teacher of a recovery
    records: tuple[Mapping[str, Any], ...] = ()  # what stages measured, one entry a stage, plain JSON, for the report

    @property
    def is_keras(self) -> bool:
        """Whether it is in the trainable form."""
        return not isinstance(self.net, GraphFile)

    def then(self, step: object, **changes: Any) -> Model:
        """A copy with `changes`, whose history says that `step` was done."""
        return replace(self, history=(*self.history, str(step)), **changes)

    def changed(self, step: object, net: Any, record: Mapping[str, Any] | None = None) -> Model:
        """A copy with the network that a stage made of this one; the network it all began with is kept as `origin`.

        Ranges that the plan had of another network are forgotten.
        """
        origin = self.net if self.origin is None else self.origin
        records = self.records if record is None else (*self.records, record)
        plan = None if self.plan is None else replace(self.plan, ranges={})
        return self.then(step, net=net, origin=origin, records=records, plan=plan)

    def save(self, folder: Path) -> None:
        """Write `model.json`, the network and the one it came from into an existing folder."""
        if self.is_keras:
            name = "model.keras"
            self.net.save(folder / name)
            if self.origin is not None:
                self.origin.save(folder / ORIGIN)
        else:
            name = f"model.{self.net.format}"
            if self.net.content is None:
                shutil.copyfile(self.net.path, folder / name)
            else:
                (folder / name).write_bytes(self.net.content)
        data = {
            "file": name,
            "inputs": [asdict(s) for s in self.inputs],
            "outputs": [asdict(s) for s in self.outputs],
            "plan": None if self.plan is None else asdict(self.plan),
            "history": list(self.history),
            "notes": list(self.notes),
            "layouts": plain(self.layouts),
            "proof": [dict(entry) for entry in self.proof],
            "records": [dict(entry) for entry in self.records],
        }
        (folder / "model.json").write_text(json.dumps(data, indent=1))

    @classmethod
    def restore(cls, folder: Path, *, allow_unsafe: bool = False) -> Model:
        """The Model that `save` wrote."""
        data = json.loads((folder / "model.json").read_text())
        path = folder / data["file"]
        origin = None
        if path.suffix == ".keras":
            net, *before = (
                find("importer", "keras")(file, LoadOptions(allow_unsafe=allow_unsafe)).net
                for file in (path, folder / ORIGIN)
                if file.is_file()
            )
            origin = before[0] if before else None
        else:
            net = GraphFile(path, path.suffix[1:])
        plan = None if data["plan"] is None else QuantizationPlan(**data["plan"])
        inputs, outputs = (tuple(map(spec_from_json, data[k])) for k in ("inputs", "outputs"))
        layouts = read_layouts(data["layouts"], {s.name: len(s.shape) for s in (*inputs, *outputs)})
        history, notes, proof, records = (tuple(data[k]) for k in ("history", "notes", "proof", "records"))
        return cls(net, inputs, outputs, plan, history, notes, layouts, proof, origin, records)


ORIGIN = "origin.keras"


def save_keras(model: Model, path: Path) -> None:
    """Write a Keras model as a `.keras` file that keeps what Keras has no place for: original names, layouts, proof."""
    require_keras(model, "a .keras file").save(path)
    data = {
        "edgedl_model": 1,
        "inputs": [s.name for s in model.inputs],
        "outputs": [s.name for s in model.outputs],
        "layouts": plain(model.layouts),
        "history": list(model.history),
        "notes": list(model.notes),
        "ranges": {} if model.plan is None else {k: list(r) for k, r in model.plan.ranges.items()},
        "proof": [dict(entry) for entry in model.proof],
    }
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(MEMBER, json.dumps(data))


def _as_imported(model: Model, path: Path) -> Model:
    """The model of a `.keras` file with what `save_keras` put into it. Raises ModelError where that is damaged."""
    with zipfile.ZipFile(path) as file:
        if MEMBER not in file.namelist() or file.getinfo(MEMBER).file_size > MAX_METADATA:
            return model
        try:
            data = json.loads(file.read(MEMBER))
            groups = [[str(name) for name in data[k]] for k in ("inputs", "outputs")]
            history, notes = (tuple(str(line) for line in data[k]) for k in ("history", "notes"))
            named = [
                tuple(replace(s, name=name) for s, name in zip(specs, names, strict=True))
                for specs, names in zip((model.inputs, model.outputs), groups, strict=True)
            ]
            layouts = read_layouts(data["layouts"], {s.name: len(s.shape) for group in named for s in group})
            proof = tuple(dict(entry) for entry in data["proof"])
            ranges = {str(k): (float(low), float(high)) for k, (low, high) in data["ranges"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(
                f"what {path.name} says of the model it was imported from is damaged ({error})",
                next="import the original again",
            ) from error
    return replace(
        model,
        inputs=named[0],
        outputs=named[1],
        plan=QuantizationPlan(ranges=ranges) if ranges else model.plan,
        history=(*history, *model.history),
        notes=(*notes, *model.notes),
        layouts=layouts,
        proof=proof,
    )


GRAPH_FORMATS = ("tflite", "onnx")  # formats that have a direct way
SAYS = {"start": "--from", "end": "--to", "inputs": "--input", "module": "--module", "weights": "--weights"}
_CODE = frozenset({"module", "weights"})
NOT_FOR: Mapping[str, frozenset[str]] = {  # options that have no meaning for a format
    "caffe": frozenset({"module"}),
    "checkpoint": _CODE,
    "graphdef": _CODE,
    "h5": frozenset({"start", "end", *_CODE}),
    "jax": frozenset({"start", "end", "weights"}),
    "keras": frozenset(SAYS),
    "mxnet": frozenset({"module"}),
    "onnx": _CODE,
    "saved_model": _CODE,
    "tflite": frozenset({"start", "end", *_CODE}),
    "torch": frozenset({"start", "end", "weights"}),
}


def refuse_unused(path: Path, kind: str, options: LoadOptions) -> None:
    """Raise UsageError for options that a file of this format would silently ignore."""
    given = [SAYS[k] for k in SAYS if getattr(options, k) and k in NOT_FOR.get(kind, frozenset())]
    if given:
        raise UsageError(
            f"{' and '.join(given)} {'means' if len(given) == 1 else 'mean'} nothing for {path.name}, a file of the format '{kind}'",
            next="leave it out" if len(given) == 1 else "leave them out",
        )


def load(path: Path | str, options: LoadOptions | None = None, **more: Any) -> Model:
    """Read a trained model: .tflite and .onnx stay what they are, every other form becomes a Keras 3 functional model.

    `more` are fields of LoadOptions, which win over `options`:

        edgedl.load("model.onnx", form="keras", inputs={"x": "1x3x224x224"})

    Raises ModelError (what, where, why), UnsafeModelError, MissingDependencyError, UsageError.
    """
    path, options = Path(path), _with(options or LoadOptions(), more)
    kind = sniff(path)
    refuse_unused(path, kind, options)
    if kind != "tflite" or options.form == "keras":
        model: Model = find("importer", kind)(path, options)
        return _as_imported(model, path) if kind == "keras" else model
    from .engine import describe

    found = describe(path)
    return Model(GraphFile(path, kind), found.inputs, found.outputs, history=(f"loaded {path.name}",))


def _with(options: LoadOptions, more: Mapping[str, Any]) -> LoadOptions:
    """The options with some replaced. Raises UsageError for a name that is none."""
    known = [f.name for f in fields(LoadOptions)]
    for name in more:
        if name not in known:
            raise UsageError(
                f"load has no option '{name}'{did_you_mean(name, known)}", next=f"its options are {', '.join(known)}"
            )
    return replace(options, **more)


def already_quantized(model: Model) -> UsageError:
    """The error for a network file that is asked to be quantized, or to be float, and was quantized before."""
    return UsageError(f"{model.net.path.name} is already quantized", next="pass the float model that it was made from")


def require_keras(model: Model, what: str) -> Any:
    """The Keras network, or a UsageError that says why `what` cannot work on this model."""
    if model.is_keras:
        return model.net
    raise UsageError(
        f"{what} needs a Keras model, and {model.net.path.name} stays in its own format",
        next="pass the .keras, .h5 or SavedModel it was made from",
    )
