"""The main job: a recipe run from a trained model to verified, measured artifacts and their report; resumable."""

from __future__ import annotations

import datetime
import glob
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from .artifact import Artifact
from .data.sources import require
from .errors import ConversionError, EdgedlError, MissingDependencyError, ModelError, TargetError, UsageError
from .model import GRAPH_FORMATS
from .options import everything
from .outcome import Exported, assemble_document, deliver, firmware, measured
from .recipe import Limits, Recipe, Step, assemble, step
from .registry import names
from .report import clean
from .sniffing import sniff
from .steps import ALLOW_UNSAFE
from .steps_faithfulness import samples_for
from .store import Done, Store, belongings, digest, fingerprint, module_files, open_store
from .worker import GIB, Worker, default_memory_bytes

FOLDER, FINAL = "\0folder", "\0final"  # stand for a step's own folder, while it works and when it is done
KEPT = "\0kept"  # stands for the folder of a step's checkpoints, which outlives a killed run


TRAIN_SHARE = 0.6  # of the data, where stages train and no training data is given
PLANNING = ("quantize",)  # stages that only decide: the network stays as it is
FAILURES = (ConversionError, ModelError, TargetError)  # of one format or scheme: the others go on


class Listener(Protocol):
    """Who is told what a run is doing (the command line's display, or nobody)."""

    def begin(self, step: str) -> None: ...
    def progress(self, done: int, total: int, text: str) -> None: ...
    def end(self, step: str, detail: str, seconds: float, reused: bool) -> None: ...
    def warn(self, text: str) -> None: ...


class Silent:
    """A Listener that says nothing."""

    def begin(self, step: str) -> None: ...
    def progress(self, done: int, total: int, text: str) -> None: ...
    def end(self, step: str, detail: str, seconds: float, reused: bool) -> None: ...
    def warn(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted, verified and evaluated file in the store."""

    artifact: Artifact
    verification: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    drop: float
    stages: tuple[Step, ...]
    outputs: Path  # folder of its outputs on the validation data

    @property
    def class_drop(self) -> dict[str, Any] | None:
        """The class that lost most: label, drop, count; None where there are no classes."""
        found: dict[str, Any] | None = self.evaluation["class_drop"]
        return found

    @property
    def scheme(self) -> str:
        return self.artifact.scheme


@dataclass(slots=True)
class Run:
    """One run: its store, its two children (one holds the training framework, one only interpreters), its notes."""

    recipe: Recipe
    store: Store
    heavy: Worker
    light: Worker
    listener: Listener
    allow_unsafe: bool
    model: Done = field(init=False)
    data: Done = field(init=False)
    original: Done = field(init=False)
    proof: list[dict[str, Any]] = field(default_factory=list)  # of an import, on the data that was given
    steps: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    done: dict[str, Done] = field(default_factory=dict)  # the steps of this run, by function and key
    stages: list[dict[str, Any]] = field(default_factory=list)  # what each stage that changed the network made of it
    dense: dict[str, tuple[Converted, Converted]] = field(default_factory=dict)  # by format, of the unchanged model:
    # its float file, and the one that the stages which only decide make of that

    def step(
        self, worker: Worker, name: str, function: str, key: Any, *, module: str = "edgedl.steps", **arguments: Any
    ) -> Done:
        """Run `module:function` in a child unless its result is in the store."""
        known = json.dumps([function, key], sort_keys=True)
        if known in self.done:
            return self.done[known]
        self.listener.begin(name)
        worker.on_progress = self.listener.progress

        def make(folder: Path, key: str) -> Any:
            places = {FOLDER: str(folder), FINAL: str(self.store.root / f"{function}-{key}")}
            places[KEPT] = str(self.store.root / f"checkpoints-{key}")
            filled = {k: places.get(v, v) if isinstance(v, str) else v for k, v in arguments.items()}
            return worker.call(f"{module}:{function}", **filled)

        done = self.done[known] = self.store.run(function, key, make)
        detail = told(function, done.result)
        self.steps.append({"name": name, "seconds": round(done.seconds, 3), "reused": done.reused, "notes": [detail]})
        self.listener.end(name, detail, done.seconds, done.reused)
        return done

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            self.listener.warn(text)

    # --- the steps in order

    def prepare(self) -> None:
        """Load the model and the data, and run the original on the data."""
        path = Path(self.recipe.model)
        kind = sniff(path)
        for source in (self.recipe.data.source, self.recipe.data.calibration, self.recipe.data.train):
            require(source)  # before the model is read, which may take minutes
        for stage in self.recipe.stages:
            require_files(stage)
        wanted = everything(replace(self.recipe.load, allow_unsafe=self.allow_unsafe))
        others = [digest(p) for p in belongings(path, kind, self.recipe.load)]
        self.model = self.step(
            self.heavy,
            "load",
            "load_model",
            [kind, digest(path), others, wanted],
            path=str(path),
            folder=FOLDER,
            final=FINAL,
            options=wanted,
        )
        found = self.model.result
        options = everything(self.recipe.data.or_preprocessing(found["preprocessing"]))
        sources = [fingerprint(v) for v in options.values() if isinstance(v, str) and v]
        self.data = self.step(
            self.light,
            "data",
            "load_data",
            [options, sources, found["inputs"], found["outputs"], found["layouts"], self.recipe.seed],
            options=options,
            inputs=found["inputs"],
            outputs=found["outputs"],
            layouts=found["layouts"],
            folder=FOLDER,
            seed=self.recipe.seed,
        )
        for note in (*found["notes"], *self.data.result["notes"]):
            self.warn(note)
        self.original = self.step(
            self.heavy,
            "original",
            "run_original",
            [self.model.key, self.data.key],
            model=str(self.model.folder),
            data=str(self.data.folder),
            folder=FOLDER,
        )

        if found["proof"] and not self.data.result["generated"] and kind in names("source"):
            self.proof = self.step(
                self.heavy, "prove", "prove", [self.model.key, self.data.key],
                model=str(self.model.folder), data=str(self.data.folder), path=str(path), options=wanted,
            ).result  # fmt: skip

    def staged(self, stages: Sequence[Step]) -> Done:
        """The model after these stages; one that changes the network is run on the data as the original was."""
        at = self.model
        limits = self.recipe.limits
        for stage in stages:
            options = everything(stage.options)
            self.heavy.timeout_s = limits.timeout_s if stage.name in PLANNING else limits.train_timeout_s
            at = self.step(
                self.heavy, stage.name, "apply_stage",
                [at.key, self.data.key, stage.name, options, *self.named_files(stage)],
                model=str(at.folder), data=str(self.data.folder), stage=stage.name, options=options,
                folder=FOLDER, final=FINAL, kept=KEPT,
            )  # fmt: skip
            self.heavy.timeout_s = limits.timeout_s
            for note in at.result["notes"]:
                self.warn(note)
            if stage.name not in PLANNING:
                self.note_stage(stage, at)
        return at

    def named_files(self, stage: Step) -> list[Any]:
        """What tells whether the files that a stage's options name (a teacher, a student) have changed."""
        values = (getattr(stage.options, f.name) for f in fields(stage.options) if f.metadata.get("file"))
        texts = [v for value in values for v in ([value] if isinstance(value, str) else value) if v]
        return [file_state(t) for t in texts]

    def note_stage(self, stage: Step, made: Done) -> None:
        """Keep for the report what a stage made of the network, once."""
        if any(entry["key"] == made.key for entry in self.stages):
            return
        run = self.reference(made, f"run after {stage.name}")
        entry = {"stage": stage.name, "options": everything(stage.options), "seconds": round(made.seconds, 3)}
        entry |= {"key": made.key, "detail": made.result["detail"], "records": made.result["records"]}
        counted = self.step(
            self.heavy, f"inspect after {stage.name}", "inspect", [made.key, "counts"],
            path=str(made.folder / "model.keras"), format="keras", allow_unsafe=self.allow_unsafe,
        ).result  # fmt: skip
        counts = {key: sum(layer[key] for layer in counted) for key in ("macs", "parameters")}
        self.stages.append({**entry, **counts, "metrics": run.result})

    def reference(self, model: Done, name: str = "run") -> Done:
        """The outputs of the network at this point, which the files made of it are held to."""
        if model.key == self.model.key:
            return self.original
        return self.step(
            self.heavy, name, "run_original", [model.key, self.data.key],
            model=str(model.folder), data=str(self.data.folder), folder=FOLDER,
        )  # fmt: skip

    def converted(self, model: Done, export: Step, stages: tuple[Step, ...], base: Artifact | None) -> Converted:
        """The model in a format, verified and evaluated; quantized by its plan when the float file `base` is given."""
        quantized = base is not None
        name = f"{self.stem}.{export.name}"
        label = f"{export.name} {scheme_of(stages) if quantized else 'float32'}{self._aside(stages)}"
        plain = everything(export.options)
        done = self.step(
            self.heavy, f"convert {label}", "convert",
            [model.key, self.data.key, export.name, plain, dict(base.files) if base else None, name],
            model=str(model.folder), data=str(self.data.folder), format=export.name,
            options=plain, with_plan=quantized, folder=FOLDER, file=name, base=str(base.path) if base else None,
        )  # fmt: skip
        artifact = Artifact.load(done.folder / name)
        if artifact is None:
            raise ConversionError(
                f"{name} carries no metadata", next="this is a bug in the converter; please report it"
            )
        common = {"path": str(artifact.path), "data": str(self.data.folder)}
        float_net = self.reference(self.staged([s for s in stages if s.name not in PLANNING]))
        verified = self.step(
            self.light,
            f"verify {label}",
            "verify",
            [done.key, float_net.key],
            **common,
            reference=str(float_net.folder),
        )
        evaluated = self.step(
            self.light,
            f"evaluate {label}",
            "evaluate",
            [done.key, self.original.key],
            **common,
            original=str(self.original.folder),
            folder=FOLDER,
        )
        return Converted(
            artifact, verified.result, evaluated.result, evaluated.result["drop"], stages, evaluated.folder
        )

    def export(self, export: Step) -> Exported:
        """The float file of a format, the best compressed one, and all attempts."""
        keras = tuple(s for s in self.recipe.stages if s.name not in PLANNING)
        base = self.converted(self.staged(keras), export, keras, None)
        require_classes(self.recipe.limits, base)
        if not changes_numbers(self.recipe.stages):
            return base, base, [self.attempt(base)]
        tried: list[Converted] = []
        failed: EdgedlError | None = None
        attempts = []
        for stages in candidates(self.recipe, self.warn):
            try:
                tried.append(self.converted(self.staged(stages), export, stages, base.artifact))
            except FAILURES as error:
                failed = error
                attempts.append({"scheme": scheme_of(stages), "error": error.to_json()})
                continue
            attempts.append(self.attempt(tried[-1]))
            if self.within(tried[-1]):
                return base, tried[-1], attempts
        if not tried:
            raise failed or UsageError("the recipe has nothing to try", next="add a quantize stage")
        return base, min(tried, key=self.excess), attempts

    def add_dense(self, export: Step, best: Converted) -> None:
        """Convert the model as it came in the same way, for what the stages that change it are compared with."""
        planning = tuple(s for s in best.stages if s.name in PLANNING)
        if not self.recipe.limits.compare_dense or len(planning) == len(best.stages):
            return
        try:
            base = self.converted(self.model, export, (), None)
            same = self.converted(self.staged(planning), export, planning, base.artifact) if planning else base
        except EdgedlError as error:
            self.warn(f"no comparison with the unchanged model in {export.name}: {error.message}")
            return
        self.dense[export.name] = (base, same)

    def _aside(self, stages: Sequence[Step]) -> str:
        """What tells the steps of the model as it came from those of what the stages made of it."""
        changes = [any(s.name not in PLANNING for s in group) for group in (stages, self.recipe.stages)]
        return " as it came" if changes == [False, True] else ""

    def within(self, converted: Converted) -> bool:
        """Whether the limits of the recipe hold."""
        return self.excess(converted) <= 1e-9

    def excess(self, converted: Converted) -> float:
        """By how much the limit is passed that is passed most; negative within the limits, without any minus infinity."""
        limits, worst = self.recipe.limits, converted.class_drop
        passed = [] if limits.max_drop is None else [converted.drop - limits.max_drop]
        if limits.max_class_drop is not None and worst is not None:
            passed.append(worst["drop"] - limits.max_class_drop)
        return max(passed, default=-math.inf)

    def attempt(self, converted: Converted) -> dict[str, Any]:
        """One line of the table of attempts."""
        plan = next((s.options for s in converted.stages if s.name == "quantize"), None)
        return {
            "scheme": converted.scheme,
            "calibration": plan.calibration if plan else "",
            "bytes": converted.artifact.path.stat().st_size,
            "drop": converted.drop,
            "class_drop": converted.class_drop,
            "within_limits": self.within(converted),
        }

    def faithfulness(self, converted: Converted) -> dict[str, Any] | None:
        """How faithful an artifact is beyond its metric; None where that is switched off, or failed, which is told."""
        if not self.recipe.limits.faithfulness:
            return None
        try:
            return faithful(self, converted)
        except EdgedlError as error:
            self.failures.append({"step": f"robustness {converted.artifact.format}", **error.to_json()})
            self.warn(f"not measured on corrupted and adversarial inputs: {error.message}")
            return None

    def layers(self, converted: Converted, base: Converted) -> list[dict[str, Any]]:
        """The error of every layer of a quantized file."""
        if converted is base:
            return []
        done = self.step(
            self.light,
            f"layers {converted.artifact.format}",
            "layer_errors",
            [dict(converted.artifact.files), dict(base.artifact.files), self.data.key],
            path=str(converted.artifact.path),
            float_path=str(base.artifact.path),
            data=str(self.data.folder),
        )
        found: list[dict[str, Any]] = done.result
        return found

    @property
    def stem(self) -> str:
        """The artifacts' name."""
        return Path(self.recipe.model).stem


def file_state(text: str) -> list[Any]:
    """What tells whether a model file, or the code of `module:function`, has changed.

    Files beside a model that begin with its name count as well: checkpoints lie there, and the weights of large .onnx.
    """
    path = Path(text)
    if ":" in text and not path.exists():
        return [digest(p) for p in module_files(text)]
    return [fingerprint(str(p)) for p in sorted(path.parent.glob(f"{glob.escape(path.name)}*"))]


def require_files(stage: Step) -> None:
    """Raise UsageError for a teacher or student that is not there, before other stages have trained for hours."""
    for option in fields(stage.options):
        value = getattr(stage.options, option.name) if option.metadata.get("file") else ()
        for text in (value,) if isinstance(value, str) else value:
            module, colon, _ = text.rpartition(":")
            if not text or (colon and not module.endswith(".py")):
                continue  # an importable module is looked for where it is imported
            path = Path(module or text)
            if not any(path.parent.glob(f"{glob.escape(path.name)}*")):  # a checkpoint is named by a prefix
                raise UsageError(f"there is no {option.name.replace('_', ' ')} at {path}", next="check the path")


def require_classes(limits: Limits, base: Converted) -> None:
    """Raise UsageError where each class has a limit, and the network has none."""
    if limits.max_class_drop is not None and base.class_drop is None:
        raise UsageError(
            "--max-class-drop is about classes, and the outputs of this model are values",
            next="use --max-drop, or give class labels with --data",
        )


def faithful(job: Run, converted: Converted) -> dict[str, Any]:
    """The steps that run the original and an artifact on corrupted inputs, and on those made against each of them."""
    loaded, seed, label = job.model.result, job.recipe.seed, converted.artifact.format
    origin, data = job.original, job.data
    samples, is_keras = samples_for(loaded["macs"]), loaded["form"] == "keras"
    ranks = {spec["name"]: len(spec["shape"]) for spec in loaded["inputs"]}
    common: dict[str, Any] = {"module": "edgedl.steps_faithfulness", "data": str(data.folder), "samples": samples}
    axes: dict[str, Any] = {"ranks": ranks, "channels_last": is_keras, "seed": seed}
    corrupted = job.step(
        job.heavy, "robustness original", "corrupt_original", [job.model.key, data.key, samples, seed],
        model=str(job.model.folder), folder=FOLDER, **axes, **common,
    )  # fmt: skip
    nets = (job.model, job.staged([s for s in converted.stages if s.name not in PLANNING]))
    attacked = [
        job.step(
            job.heavy, "robustness attack", "attack", [net.key, origin.key, samples],
            model=str(net.folder), original=str(origin.folder), folder=FOLDER, **common,
        )
        for net in nets
    ]  # fmt: skip
    found = {"corrupted": corrupted.result, "attacked": [a.result for a in attacked]}
    made: dict[str, Any] = job.step(
        job.light, f"robustness {label}", "examine",
        [dict(converted.artifact.files), origin.key, corrupted.key, [a.key for a in attacked]],
        path=str(converted.artifact.path), original=str(origin.folder), evaluated=str(converted.outputs),
        corrupted=str(corrupted.folder), attacked=[str(a.folder) for a in attacked], found=found, **axes, **common,
    ).result  # fmt: skip
    return made


def told(function: str, result: Any) -> str:
    """What came out of a step, in a few words."""
    if function == "load_model":
        return f"{result['parameters']:,} parameters, {result['macs'] / 1e6:,.2f} MMAC, {result['layers']} layers"
    if function == "load_data":
        count = result.get("train_samples", 0)  # a run that an older version began has none
        training = f"{count} to train, " if count else ""
        return f"{training}{result['calibration_samples']} to calibrate, {result['validation_samples']} to validate by {result['metric']}"
    if function == "apply_stage":
        return str(result["detail"])
    if function == "run_original":
        return values(result) or "no labels: its own outputs are the reference"
    if function == "prove":
        worst = max((e["max_relative"] for e in result), default=0.0)
        return f"differs from the original by at most {worst:.1e} on {result[0]['inputs'] if result else 0} real inputs"
    if function == "convert":
        return f"{result['bytes']:,} bytes"
    if function == "verify":
        return str(result["checks"][-1]["detail"])
    if function == "evaluate":
        return values(result["metrics"]) or f"drop {result['drop']:.4f} against the original"
    if function == "corrupt_original":
        return f"{len(result['rows'])} corruptions of {result['samples']} samples"
    if function == "attack":
        return f"FGSM: {result['why']}" if "why" in result else f"FGSM at {result['share']:g} of the standard deviation"
    if function == "examine":
        return f"{100 * result['flipped']:.1f} % of the {result['unit']}s flipped" if "flipped" in result else ""
    if function == "layer_errors":
        worst = min(result, key=lambda e: float(e["sqnr_db"]), default=None)
        return f"worst {worst['name']} with {worst['sqnr_db']:.1f} dB" if worst else ""
    return ""


def values(metrics: Mapping[str, float]) -> str:
    """Metrics in one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def scheme_of(stages: Sequence[Step]) -> str:
    """What the last quantize stage asks for."""
    return next((str(s.options.scheme) for s in reversed(stages) if s.name == "quantize"), "float32")


def changes_numbers(stages: Sequence[Step]) -> bool:
    """Whether a quantize stage asks for anything but float32."""
    asked = [s.options for s in stages if s.name == "quantize"]
    return any(o.scheme != "float32" or o.overrides for o in asked)


def candidates(recipe: Recipe, warn: Callable[[str], None]) -> Iterator[tuple[Step, ...]]:
    """The stages as they are, then, where a limit may ask for more, with better ranges and finer schemes.

    A scheme that cannot have the inputs and outputs that were asked for is left out, and `warn` is told.
    """
    yield recipe.stages
    at = next(i for i, s in enumerate(recipe.stages) if s.name == "quantize")
    asked = recipe.stages[at].options
    limits = recipe.limits
    if (limits.max_drop is None and limits.max_class_drop is None) or not limits.fallback:
        return
    finer: list[dict[str, Any]] = []
    if asked.scheme == "int8":
        finer += [{"calibration": c} for c in ("mse", "percentile") if c != asked.calibration]
    finer += [{"scheme": s} for s in recipe.limits.fallback if s != asked.scheme]
    for change in finer:
        try:
            options = replace(asked, **change)
        except UsageError as error:
            warn(f"not tried: {error.message}")
            continue
        yield (*recipe.stages[:at], Step("quantize", options), *recipe.stages[at + 1 :])


def run(
    recipe: Recipe, out: Path | str, *, allow_unsafe: bool = False, listener: Listener | None = None
) -> dict[str, Any]:
    """Do what the recipe says and write artifacts, report.json, report.html and recipe.toml into `out`.

    Returns the content of report.json. A second run reuses every finished step. One format or target that fails does
    not stop the others: it is in `failures`. Raises EdgedlError when nothing can be made at all.
    """
    out = Path(out)
    recipe = with_defaults(recipe)
    started = datetime.datetime.now(datetime.UTC)
    limits = recipe.limits
    memory = int(limits.memory_gib * GIB) if limits.memory_gib else default_memory_bytes()
    with open_store(out) as store, ExitStack() as stack:
        trust = {ALLOW_UNSAFE: "1"} if allow_unsafe else {}
        heavy = stack.enter_context(Worker(limits.timeout_s, memory, env=trust))
        light = stack.enter_context(Worker(limits.timeout_s, memory))
        job = Run(recipe, store, heavy, light, listener or Silent(), allow_unsafe)
        job.prepare()
        pairs = exported(job)
        measurements, comparisons = measured(job, [pair[:2] for pair in pairs])
        made = firmware(job, pairs)
        document: dict[str, Any] = clean(assemble_document(job, pairs, measurements, comparisons, started))
        document["firmware"] = [{**found, "files": sorted(found["files"])} for found in made]
        deliver(document, pairs, out, recipe, made)
    return document


def default_format(model: str | Path) -> str:
    """What a model goes out as when nobody says: what it is, if that is a format for devices, else .tflite."""
    kind = sniff(Path(model))
    return kind if kind in GRAPH_FORMATS else "tflite"


def with_defaults(recipe: Recipe) -> Recipe:
    """The recipe with what it leaves open decided by the model's format.

    A .tflite or .onnx stays what it is (the direct way) unless it is to become another format, to be trained or
    restructured, or to be loaded in another way than whole. A source that stands alone is cut for stages that train.
    """
    kind = sniff(Path(recipe.model))
    exports = recipe.exports or (step("converter", default_format(recipe.model)),)
    load = recipe.load
    if kind in GRAPH_FORMATS and (
        any(export.name != kind for export in exports)
        or any(stage.name != "quantize" for stage in recipe.stages)
        or any((load.inputs, load.start, load.end))
    ):
        load = replace(load, form="keras")
    data = recipe.data
    if any(getattr(s.options, "epochs", 0) for s in recipe.stages) and not (data.train or data.train_share):
        data = replace(data, train_share=TRAIN_SHARE)
    return replace(recipe, exports=exports, load=load, data=data)


def exported(job: Run) -> list[Exported]:
    """All formats of the recipe; one that fails is noted and left out. Raises its error when none is left."""
    pairs = []
    error: EdgedlError | None = None
    for export in job.recipe.exports:
        try:
            pairs.append(job.export(export))
            job.add_dense(export, pairs[-1][1])
        except (*FAILURES, MissingDependencyError) as caught:
            error = caught
            job.failures.append({"step": f"export {export.name}", **caught.to_json()})
            job.warn(f"{export.name} failed: {caught.message}")
    if error is not None and not pairs:
        raise error
    return pairs


def compress(
    model: Any, out: Path | str, *, listener: Listener | None = None, allow_unsafe: bool = False, **wanted: Any
) -> dict[str, Any]:
    """Compress a model file (or a `keras.Model`) into the folder `out`; returns the report.

    `wanted`: what `recipe.assemble` takes: load={"module": ...}, data={"source": ...},
    stages=[("prune_channels", {"ratio": 0.5}), ("distill", {"epochs": 10})], quantize={"scheme": ...}, formats=[...],
    targets=[...], limits={"max_drop": ...}, keep_layout=True, recipe=Path. Raises EdgedlError.

        report = edgedl.compress("model.keras", "out", data={"source": "d.npz"}, quantize={"scheme": "int8"})
    """
    path = Path(model) if isinstance(model, str | Path) else kept(model, Path(out))
    return run(assemble(str(path), **wanted), out, listener=listener, allow_unsafe=allow_unsafe)


def kept(net: Any, out: Path) -> Path:
    """A `keras.Model` as a file in the run's own store, the same file for the same network and weights."""
    content = hashlib.sha256(net.to_json().encode())
    for array in net.get_weights():
        content.update(array.tobytes())
    with open_store(out) as store:
        path = store.root / f"model-{content.hexdigest()[:20]}" / f"{net.name}.keras"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            part = path.with_suffix(".part.keras")
            net.save(part)
            part.replace(path)
    return path
