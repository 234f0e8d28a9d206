"""One run from PyTorch's own weights to int8 files: what the authors publish holds after import, and within a point as int8."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedl.artifact import Artifact
from edgedl.cli import run

pytest.importorskip("torch", reason="needs pip install 'edgedl[torch]'")
pytest.importorskip("tf2onnx", reason="needs pip install 'edgedl[compress]'")

pytestmark = pytest.mark.acceptance
ROOT = Path(__file__).parents[2]


def test_resnet20_from_pytorch_to_int8(assets: Path, tmp_path: Path) -> None:
    weights = assets / "models/pytorch_resnet_cifar10/resnet20-12fca82f.th"
    command = [
        "compress", str(weights), "--module", f"{ROOT}/examples/resnet20_torch.py:ResNet20", "--input", "?x3x32x32",
        "--data", str(assets / "datasets/mlperf_tiny/ic01.npz"),
        "--calibration", str(assets / "datasets/cifar10_jpeg/train_6000.npz"),
        "--set", f"data.scale={1 / 255}", "--set", "data.mean=[0.485, 0.456, 0.406]",
        "--set", "data.std=[0.229, 0.224, 0.225]", "-q", "int8", "-f", "tflite,onnx",
        "--set", "limits.bench_seconds=0", "-o", str(tmp_path / "o"),
    ]  # fmt: skip
    assert run(command) == 0
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert report["original"]["metrics"]["accuracy"] == pytest.approx(0.900)
    assert len(report["model"]["proof"]) == 4, "ONNX Runtime and torch, each on generated and on real inputs"
    assert max(e["max_relative"] for e in report["model"]["proof"]) <= 1e-4
    for entry in (*report["baselines"], *report["artifacts"]):
        artifact = Artifact.load(tmp_path / "o" / entry["path"])
        assert artifact is not None
        print(f"{entry['name']}: accuracy {entry['metrics']['accuracy']:.3f}, {entry['transposes']} transposes")
        assert entry["metrics"]["accuracy"] >= 0.900 - (0.0101 if entry["scheme"] == "int8" else 0)
        assert entry["transposes"] == 0
        assert artifact.inputs[0].shape[1:] == ((3, 32, 32) if entry["format"] == "onnx" else (32, 32, 3))
