"""The main job by its command on real models and data: the figures that the first release promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl import runtime
from edgedl.cli import run

pytestmark = pytest.mark.acceptance


def compress(model: Path, out: Path, *options: str) -> dict[str, Any]:
    assert run(["compress", str(model), *options, "--set", "limits.bench_seconds=0", "-o", str(out)]) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_resnet8(assets: Path, tmp_path: Path) -> None:
    calibration = tmp_path / "c.npz"
    np.savez(calibration, x=np.load(assets / "datasets/cifar10_jpeg/train_6000.npz")["x"][:200])
    data = assets / "datasets/mlperf_tiny/ic01.npz"
    out = tmp_path / "out"
    report = compress(
        assets / "models/mlperf_tiny/pretrainedResnet.h5", out, "--data", str(data), "--calibration", str(calibration),
        "--quantize", "int8", "--format", "tflite,onnx",
    )  # fmt: skip
    assert report["original"]["metrics"]["accuracy"] == pytest.approx(0.855)
    with np.load(data) as file:
        x, y = file["x"], file["y"]
    for entry in report["artifacts"]:
        assert entry["metrics"]["accuracy"] >= 0.850
        seen = np.mean(np.argmax(runtime.load(out / entry["path"]).run(x.astype(np.float32)), -1) == y)
        assert seen == pytest.approx(entry["metrics"]["accuracy"])
    assert next(a["bytes"] for a in report["artifacts"] if a["format"] == "tflite") <= 100_000


def test_keywords_with_declared_preprocessing(assets: Path, tmp_path: Path) -> None:
    """kws01 holds integers; the artifact carries what turns them into the network's input."""
    with np.load(assets / "datasets/mlperf_tiny/kws01.npz") as file:
        x, y = file["x"], file["y"]
    order = np.random.default_rng(0).permutation(len(x))
    np.savez(tmp_path / "c.npz", x=x[order[:200]])
    np.savez(tmp_path / "t.npz", x=x[order[200:]], y=y[order[200:]])
    scale = 0.5847029089927673
    report = compress(
        assets / "models/mlperf_tiny/kws_ref_model", tmp_path / "out", "--data", str(tmp_path / "t.npz"),
        "--calibration", str(tmp_path / "c.npz"), "--format", "tflite,onnx",
        "--set", f"data.scale={scale}", "--set", f"data.mean=[{scale * 83}]",
    )  # fmt: skip
    for entry in report["artifacts"]:
        assert entry["metrics"]["accuracy"] >= 0.90
        net = runtime.load(tmp_path / "out" / entry["path"])
        seen = np.mean(np.argmax(net.run(x[order[200:]]), -1) == y[order[200:]])
        assert seen == pytest.approx(entry["metrics"]["accuracy"])


@pytest.mark.parametrize(
    "name",
    [
        "stm32_samples/mobilenet_v2_128_0.5_notebook.onnx",
        "stm32_samples/yamnet_256_64x96_tl.onnx",
        "magika/standard_v3_3.onnx",
        "mlperf_tiny/vww_96_float.tflite",
    ],
)
def test_direct_ways(assets: Path, tmp_path: Path, name: str) -> None:
    report = compress(
        assets / "models" / name, tmp_path / "out", "--quantize", "int8", "--format", name.rpartition(".")[2]
    )
    entry, base = report["artifacts"][0], report["baselines"][0]
    assert entry["bytes"] < 0.5 * base["bytes"]
    assert entry["agreement"]["sqnr_db"] > 10
