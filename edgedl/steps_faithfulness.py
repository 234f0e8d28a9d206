"""The steps of a run that ask more of an artifact than its metric: corrupted inputs, FGSM, calibration, flipped decisions.

As in `steps`: functions of folders and plain JSON, run in child processes. The original and the gradients need the one
that holds the training framework, the artifact only an interpreter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import adversarial, corruptions, faithfulness, metrics
from .artifact import Array
from .data import Dataset, Split
from .engine import describe, open_engine, predict
from .layouts import from_file, layouts_of, to_file
from .preprocess import IDENTITY
from .steps import BATCH, filled_up, fixed_batch, load_arrays, outputs_of, recall, save_arrays
from .worker import progress

SAMPLES, FEWEST = 200, 32  # of the validation data that are corrupted, and how few where each takes long
BUDGET = 4e9  # multiply-accumulates that one corruption of all samples may cost
PATIENCE_S = 20.0  # of one step: corruptions that are not reached are left out
GROUP_BYTES = 64 << 20  # of inputs that are run at once

Outputs = dict[str, Array]
Run = Callable[[dict[str, Array]], Outputs]  # outputs for preprocessed inputs, by name


def samples_for(macs: int | None) -> int:
    """How many samples are corrupted, for a network of so many multiply-accumulates."""
    return int(min(SAMPLES, max(FEWEST, BUDGET / max(macs or 1, 1))))


def corrupt_original(
    model: str, data: str, folder: str, ranks: Mapping[str, int], samples: int, channels_last: bool, seed: int
) -> dict[str, Any]:
    """Run the original on corrupted validation inputs, its outputs into `folder`; returns what was corrupted, and what not."""
    net, dataset = recall(model), Dataset.restore(Path(data))
    if dataset.generated:
        return {"rows": [], "why": ["no data was given: corrupting generated inputs says nothing"], "samples": 0}
    few = _few(dataset, samples)
    forms = _forms(dataset, few, ranks, channels_last)
    wanted = corruptions.every(forms)
    made = _each(
        dataset, few, forms, wanted, seed, lambda feed: outputs_of(net, feed), "the original on corrupted inputs"
    )
    for i, outputs in enumerate(made):
        save_arrays(Path(folder) / f"corrupted{i}.npz", outputs)
    why = list(corruptions.reasons(forms))
    if len(made) < len(wanted):
        why.append(f"{len(wanted) - len(made)} of {len(wanted)} corruptions took too long and were left out")
    return {"rows": [asdict(c) for c in wanted[: len(made)]], "why": why, "samples": len(few)}


def _few(dataset: Dataset, samples: int) -> Split:
    """Some validation samples, evenly spread."""
    return dataset.validation.take(faithfulness.subset(len(dataset.validation), samples))


def _forms(dataset: Dataset, few: Split, ranks: Mapping[str, int], channels_last: bool) -> dict[str, corruptions.Form]:
    """What the samples of each input are."""
    dtypes, preprocessing = dataset.dtypes, dataset.preprocessing
    return {
        name: corruptions.form_of(
            x, dtypes.get(name, "float32"), ranks[name], preprocessing.get(name, IDENTITY), channels_last
        )
        for name, x in few.x.items()
    }


def _taken(outputs: Outputs, dataset: Dataset, samples: int) -> Outputs:
    """Outputs on the validation data for these samples."""
    index = faithfulness.subset(len(dataset.validation), samples)
    return {name: a[index] for name, a in outputs.items()}


def _each(
    dataset: Dataset, few: Split, forms: Mapping[str, corruptions.Form], wanted: list[corruptions.Corruption], seed: int,
    run: Run, text: str,
) -> list[Outputs]:  # fmt: skip
    """The outputs for each corruption in turn, several run at once where they are small; fewer where time runs out."""
    start, found = time.perf_counter(), list[Outputs]()
    for group in _groups(dataset, few, forms, wanted, seed):
        feed = {name: np.concatenate([one[name] for one in group]) for name in group[0]}
        outputs = run(feed)
        for i in range(len(group)):
            found.append({name: a[i * len(few) : (i + 1) * len(few)] for name, a in outputs.items()})
        progress(len(found), len(wanted), text)
        if time.perf_counter() - start > PATIENCE_S:
            break
    return found


def _groups(
    dataset: Dataset, few: Split, forms: Mapping[str, corruptions.Form], wanted: list[corruptions.Corruption], seed: int
) -> Iterator[list[dict[str, Array]]]:
    """Preprocessed inputs of the corruptions, in groups of limited size."""
    group: list[dict[str, Array]] = []
    for which in wanted:
        group.append(dataset.feed(Split(corruptions.corrupted(few.x, forms, which, seed))))
        if len(group) * sum(a.nbytes for a in group[0].values()) >= GROUP_BYTES / 2:
            yield group
            group = []
    if group:
        yield group


def attack(model: str, data: str, original: str, folder: str, samples: int) -> dict[str, Any]:
    """Move validation inputs against the model by FGSM; inputs and the model's outputs for them into `folder`.

    Against the labels, or without labels the classes of the original. Returns epsilon, or why there is none.
    """
    net, dataset = recall(model), Dataset.restore(Path(data))
    if dataset.generated:
        return {"why": "no data was given: attacking generated inputs says nothing"}
    if not net.is_keras:
        return {"why": "needs the network's gradients, which a file that stays in its own format does not give"}
    y, before = dataset.validation.y, load_arrays(Path(original) / "validation.npz")
    how = faithfulness.deciding(dataset.metric, before, y)
    if how is None:
        return {"why": "the outputs are values, and FGSM is about decisions on classes"}
    few = _few(dataset, samples)
    feed = dataset.feed(few)
    epsilon = adversarial.epsilons(feed)
    if not epsilon:
        return {"why": "the inputs are integers, which have no gradient"}
    true = _reference(how, dataset, before, samples)
    size = fixed_batch(net)
    whole = {s.name: filled_up(feed[s.name], size or 1) for s in net.inputs}
    at = [s.name for s in net.outputs].index(how.output)
    found = adversarial.fgsm(net.net, how, at, whole, filled_up(true, size or 1), epsilon, size or BATCH)
    if found is None:
        return {"why": "the outputs have no gradient by the inputs"}
    moved = {name: x[: len(few)] for name, x in found.items()}
    save_arrays(Path(folder) / "inputs.npz", moved)
    save_arrays(Path(folder) / "outputs.npz", outputs_of(net, moved))
    return {"epsilon": {k: float(np.mean(e)) for k, e in epsilon.items()}, "share": adversarial.SHARE}


def _reference(how: faithfulness.Decisions, dataset: Dataset, before: Outputs, samples: int) -> Array:
    """The classes of some samples, `[n, decisions]`: the labels, or what the original decides."""
    index, y = faithfulness.subset(len(dataset.validation), samples), dataset.validation.y
    true = faithfulness.decide(how, before)[0] if y is None else np.asarray(y)
    return np.maximum(true.reshape(len(dataset.validation), -1)[index], 0)


def examine(
    path: str, data: str, original: str, evaluated: str, corrupted: str, attacked: list[str], found: Mapping[str, Any],
    ranks: Mapping[str, int], samples: int, channels_last: bool, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """All figures of one artifact, as `faithfulness` in a report.

    `original`, `evaluated`: folders with the outputs on the validation data; `corrupted`: with the original's outputs on
    corrupted inputs, which `found["corrupted"]` lists; `attacked`: with inputs made against the original, and against the
    network that the artifact was made from. `found["attacked"]`: what `attack` returned for both.
    """
    dataset = Dataset.restore(Path(data))
    before, after = (load_arrays(Path(folder) / "validation.npz") for folder in (original, evaluated))
    how = faithfulness.deciding(dataset.metric, before, dataset.validation.y)
    result: dict[str, Any] = {"unit": "value", "labelled": dataset.validation.y is not None, "not_measured": {}}
    missing: dict[str, str] = result["not_measured"]
    if how is None:
        missing["flipped"] = "the outputs are values, not classes"
        missing["calibration"] = missing["flipped"]
    else:
        y = None if dataset.validation.y is None else np.asarray(dataset.validation.y)
        result |= faithfulness.compared(how, before, after, y, dataset.labels)
        if y is None:
            missing["calibration"] = "it needs labels"
    judge = Judge.of(how, dataset, before, samples)
    run = _artifact(path)
    rows, why = _corrupted(judge, dataset, run, corrupted, found["corrupted"], ranks, channels_last, seed)
    clean = [judge.score(outputs) for outputs in (judge.before, _taken(after, dataset, samples))]
    result |= {"measure": judge.measure, "samples": len(judge.few), "clean": clean, "corrupted": rows}
    if why:
        missing["corrupted"] = "; ".join(why)
    refused = [one["why"] for one in found["attacked"] if "why" in one]
    if refused:
        missing["fgsm"] = refused[0]
    else:
        result["fgsm"] = _attacked(judge, run, attacked, found["attacked"])
    return result


@dataclass(frozen=True, slots=True)
class Judge:
    """The measure by which outputs on changed inputs are scored, and what they are scored against."""

    how: faithfulness.Decisions | None
    measure: str  # name of a metric
    output: str
    few: Split  # the samples that are changed
    before: Outputs  # the original's, on these as they are

    @classmethod
    def of(cls, how: faithfulness.Decisions | None, dataset: Dataset, before: Outputs, samples: int) -> Judge:
        """Mean IoU of positions; accuracy with labels, agreement without; of values their own metric, or the fidelity."""
        labelled, bare = dataset.validation.y is not None, dataset.metric.rpartition(":")[2]
        if how is not None:
            measure = "mean_iou" if how.per_sample > 1 else "accuracy" if labelled else "agreement"
        else:
            measure = bare if labelled and bare not in metrics.REFERENCED else "fidelity"
        output = metrics.output_name(dataset.metric, before)
        return cls(how, measure, output, _few(dataset, samples), _taken(before, dataset, samples))

    def score(self, outputs: Outputs) -> float:
        """The measure: against the labels, without any against what the original makes of the clean inputs."""
        y = self.before[self.output]
        if self.measure not in metrics.REFERENCED:
            y = metrics.scores(y).argmax(-1) if self.few.y is None else np.asarray(self.few.y)
        return metrics.find_metric(self.measure)(outputs[self.output], y)

    def confidence(self, outputs: Outputs) -> float | None:
        """Mean confidence of the decisions."""
        return None if self.how is None else float(faithfulness.decide(self.how, outputs)[1].mean())

    def same(self, before: Outputs, after: Outputs) -> float:
        """Share of the decisions that are alike on the same inputs; of values the fidelity."""
        if self.how is None:
            return float(metrics.fidelity(after[self.output], before[self.output]))
        return float(np.mean(np.equal(*(faithfulness.decide(self.how, o)[0] for o in (before, after)))))

    def row(self, before: Outputs, after: Outputs) -> dict[str, Any]:
        """The figures of one change of the inputs."""
        return {
            "before": self.score(before),
            "after": self.score(after),
            "agrees": self.same(before, after),
            "confidence": None if self.how is None else [self.confidence(before), self.confidence(after)],
        }


def _artifact(path: str) -> Run:
    """What runs an artifact on preprocessed inputs with the trainable form's axes."""
    artifact = describe(Path(path))
    layouts = layouts_of(artifact)

    def run(feed: dict[str, Array]) -> Outputs:
        total, parts = len(next(iter(feed.values()))), []
        with open_engine(artifact) as engine:
            for start in range(0, total, BATCH):
                part = {name: a[start : start + BATCH] for name, a in feed.items()}
                parts.append(from_file(predict(engine, to_file(part, layouts)), layouts))
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    return run


def _corrupted(
    judge: Judge, dataset: Dataset, run: Run, folder: str, found: Mapping[str, Any],
    ranks: Mapping[str, int], channels_last: bool, seed: int,
) -> tuple[list[dict[str, Any]], list[str]]:  # fmt: skip
    """A row for each corruption: the original and the artifact on the same inputs; and why some are missing."""
    why = list(found["why"])
    if not found["rows"]:
        return [], why
    forms = _forms(dataset, judge.few, ranks, channels_last)
    wanted = [corruptions.Corruption(**row) for row in found["rows"]]
    made = _each(dataset, judge.few, forms, wanted, seed, run, "the artifact on corrupted inputs")
    if len(made) < len(wanted):
        why.append(f"{len(wanted) - len(made)} of {len(wanted)} corruptions took too long with this artifact")
    rows = []
    for i, (which, after) in enumerate(zip(wanted, made, strict=False)):
        named = {"kind": which.name, "strength": which.strength, "amount": which.amount, "unit": which.unit}
        rows.append({**named, **judge.row(load_arrays(Path(folder) / f"corrupted{i}.npz"), after)})
    return rows, why


def _attacked(judge: Judge, run: Run, folders: list[str], found: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The original on inputs made against it, the artifact on those made against the network it comes from."""
    before = load_arrays(Path(folders[0]) / "outputs.npz")
    row = judge.row(before, run(load_arrays(Path(folders[1]) / "inputs.npz")))
    kept = {key: row[key] for key in ("before", "after", "confidence")}
    return {"epsilon": found[1]["epsilon"], "share": found[1]["share"], **kept}
