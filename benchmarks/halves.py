"""Networks of every kind with half of their multiply-accumulates, by the command: both formats, agreement, time.

EDGEDL_ASSETS=... python benchmarks/halves.py [NAME ...]

Without labels (kws: inputs alone; ad01 and vww: nothing but generated inputs) a network learns from its original.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, compress, figure, quiet_tensorflow

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
REAL = ("pretrainedResnet", "vww_96", "kws_ref_model", "ad01")
ZOO = ("lstm", "gru", "transformer", "generator", "unet")
GOAL = "<= 1/2 MACs"
KWS_SCALE = 0.5847029089927673  # features as integers -> what the network takes


@dataclass(frozen=True, slots=True)
class Case:
    """A model, the options of its data, and for how long it learns after the cut."""

    name: str
    path: Path
    options: tuple[str, ...]
    epochs: int
    how: str  # what it is pruned and scored on


def real(name: str, root: Path, folder: Path) -> Case:
    """A model of the assets with the data there is for it."""
    models = root / "models/mlperf_tiny"
    if name == "pretrainedResnet":
        options = ("--data", str(root / "datasets/mlperf_tiny/ic01.npz"))
        options += ("--train", str(root / "datasets/cifar10_jpeg/train_6000.npz"))
        return Case(name, models / f"{name}.h5", options, 4, "images and labels")
    if name == "kws_ref_model":
        with np.load(root / "datasets/mlperf_tiny/kws01.npz") as file:
            x, y = file["x"], file["y"]
        order = np.random.default_rng(0).permutation(len(x))
        held = len(x) // 5
        np.savez(folder / "train.npz", x=x[order[held:]])
        np.savez(folder / "held.npz", x=x[order[:held]], y=y[order[:held]])
        options = ("--data", str(folder / "held.npz"), "--train", str(folder / "train.npz"))
        options += ("--set", f"data.scale={KWS_SCALE}", "--set", f"data.mean=[{KWS_SCALE * 83}]")
        return Case(name, models / name, options, 10, "features without labels")
    return Case(name, models / f"{name}.h5", (), 10, "generated inputs")


def built(name: str, folder: Path) -> Case:
    """A model of the tests, trained for a few seconds, with its data."""
    quiet_tensorflow()
    import zoo

    model, x, y = zoo.build(name)
    model.save(folder / f"{name}.keras")
    np.savez(folder / "data.npz", x=x, y=y)
    return Case(name, folder / f"{name}.keras", ("--data", str(folder / "data.npz")), 10, "data and targets")


def latencies(report: dict[str, Any], entry: dict[str, Any]) -> str:
    """Microseconds of the file as it came and of the pruned one."""
    for found in report["savings"]:
        if (found["format"], found["scheme"]) == (entry["format"], entry["scheme"]):
            for row in found["rows"]:
                if row["what"] == "latency":
                    return f"{row['before'] / 1000:.3f} -> {row['after'] / 1000:.3f} ms"
    return "not measured"


def scores(report: dict[str, Any], entry: dict[str, Any]) -> str:
    """Agreement with the original, and the metric before and after where there is one."""
    found, metric = entry["agreement"], report["data"]["metric"]
    sqnr = "identical" if found["sqnr_db"] is None else f"SQNR {found['sqnr_db']:5.1f} dB"
    text = f"{sqnr}  top-1 {found['top1_agreement']:.3f}" if found.get("top1_agreement") is not None else sqnr
    if metric in (entry["metrics"] or {}):
        text += f"  {metric} {entry['original_metrics'][metric]:.4f} -> {entry['metrics'][metric]:.4f}"
    return text


def halved(case: Case, folder: Path) -> None:
    """Prune, convert and print."""
    what = f"{case.name} ({case.how}, {case.epochs} epochs)"
    try:
        report, _ = compress(
            case.path, *case.options, "--prune", "2x", "--epochs", str(case.epochs), "--format", "tflite,onnx",
            "--quantize", "int8", "--set", "limits.bench_seconds=0.3", "--set", "limits.faithfulness=false",
            out=folder / "out",
        )  # fmt: skip
    except SystemExit as error:  # the others go on
        print(error, flush=True)
        figure(what, "failed", GOAL, ok=False)
        return
    for entry in (*report["baselines"], *report["artifacts"]):
        print(
            f"  {entry['scheme']:<8} .{entry['format']:<7} {scores(report, entry)}  {latencies(report, entry)}",
            flush=True,
        )
    for stage in report["stages"]:
        for note in (stage["detail"], *(stage["records"][-1].get("notes", ()) if stage["records"] else ())):
            print(f"  {stage['stage']}: {note} ({stage['seconds']:.1f} s)", flush=True)
    before, after = report["model"]["macs"], report["stages"][-1]["macs"]
    formats = {e["format"] for e in report["artifacts"]} & {e["format"] for e in report["baselines"]}
    told = all(e["agreement"] for e in (*report["baselines"], *report["artifacts"]))
    ok = after * 2 <= before and formats == {"tflite", "onnx"} and told and not report["failures"]
    figure(what, f"{after:,} / {before:,}", GOAL, ok)


def cases(wanted: list[str], folder: Path) -> Iterator[tuple[Case, Path]]:
    """Each case with a folder of its own."""
    for name in (*REAL, *ZOO):
        if wanted and name not in wanted:
            continue
        place = folder / name
        place.mkdir()
        yield (real(name, assets(), place) if name in REAL else built(name, place)), place


def main(wanted: list[str]) -> None:
    """A block a model."""
    with tempfile.TemporaryDirectory(prefix="edgedl-halves-") as place:
        for case, folder in cases(wanted, Path(place)):
            halved(case, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
