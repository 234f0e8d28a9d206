"""Documents as a run makes them, from seeded random figures: ordinary ones and extreme ones."""

from __future__ import annotations

import random
import statistics
from typing import Any

KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "AVERAGE_POOL_2D", "FULLY_CONNECTED", "SOFTMAX")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HOSTILE = "<script>alert('x')</script>\"'&<img src=x onerror=alert(1)>\x1b[31m\u202e\x00 {{ 7*7 }}"
SCHEMES = ("int8", "int16x8", "fp16", "dynamic", "int8-weight-only", "int4-weight-only")
RECIPE = """model = "resnet8.h5"
seed = 0

[data]
source = "ic01.npz"
calibration = "cifar10_jpeg"
metric = "auto"

[[stages]]
stage = "quantize"
scheme = "int8"
calibration = "minmax"
samples = 200
io = "float32"

[[exports]]
format = "tflite"

[[targets]]
target = "cpu"
threads = 1

[limits]
max_drop = 0.01
timeout_s = 900.0
bench_seconds = 3.0
"""


def latency(random: random.Random, middle: float, runs: int = 2000) -> dict[str, Any]:
    """A long-tailed distribution around `middle` microseconds."""
    samples = [round(middle * (0.97 + random.gammavariate(2.0, 0.015)) * (random.random() > 0.985) * 1.4
                     or middle * (0.97 + random.gammavariate(2.0, 0.015)), 3) for _ in range(runs)]  # fmt: skip
    ordered = sorted(samples)
    p50 = statistics.median(samples)
    return {
        "p50": p50, "p90": ordered[int(runs * 0.9)], "p99": ordered[int(runs * 0.99)], "mean": statistics.fmean(samples),
        "min": ordered[0], "max": ordered[-1], "std": statistics.pstdev(samples), "ci95": [p50 * 0.995, p50 * 1.006],
        "runs": runs, "warmup": {"runs": 40, "seconds": 0.1, "stationary": True}, "samples": samples,
    }  # fmt: skip


def layers(random: random.Random, count: int) -> list[dict[str, Any]]:
    """Errors that grow along the network, with some steps; one identical, one unknown."""
    found = []
    for i in range(count):
        op = KINDS[i % 4] if i < count - 2 else KINDS[4 + (i == count - 1)]
        weights = int(2 ** random.uniform(6, 15)) if op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") else 0
        noise = max(6.0, 44 - 14 * (i / count) + random.gauss(0, 3) - 14 * (random.random() > 0.96))
        sqnr = 999.0 if op == "AVERAGE_POOL_2D" and i == 3 else None if i == 7 else round(noise, 2)
        found.append({"name": f"block_{i // 4}/{op.lower()}_{i}", "op": op, "sqnr_db": sqnr, "bytes": weights})
    return found


def per_class(random: random.Random, labels: tuple[str, ...], each: int) -> list[dict[str, Any]]:
    found = []
    for label in labels:
        right = random.randint(int(each * 0.7), each)
        now = min(each, max(0, right + random.choice((-2, -1, -1, 0, 0, 0, 0, 1))))
        found.append({"label": label, "original": right / each, "now": now / each, "count": each})
    return found


def entry(
    random: random.Random, format: str, scheme: str, size: int, drop: float, middle: float | None, **more: Any
) -> dict[str, Any]:
    """One artifact or baseline."""
    lossless = scheme == "float32"
    return {
        "name": f"resnet8_{scheme}.{format}", "path": f"resnet8_{scheme}.{format}", "format": format, "scheme": scheme,
        "io": "float32", "bytes": size, "metrics": {"accuracy": 0.855 - drop}, "original_metrics": {"accuracy": 0.855},
        "agreement": {"sqnr_db": 118.4 if lossless else 24.7, "max_relative_error": 2e-6 if lossless else 0.061, "top1_agreement": 1.0 if lossless else 0.965},
        "drop": drop, "within_limits": drop <= 0.01,
        "per_class": [] if lossless else per_class(random, CIFAR, 20),
        "left_float": [], "layers": [] if lossless else layers(random, 26),
        "verification": {"ok": True, "checks": [
            {"name": "runs", "ok": True, "detail": "16 probe inputs"},
            {"name": "finite", "ok": True, "detail": "no NaN, no infinity"},
            {"name": "agrees: dense", "ok": True, "detail": "SQNR 24.7 dB, bound 5 dB, same class for 100%"}]},
        "latency_us": {} if middle is None else {"cpu": latency(random, middle)},
        "load_ms": None if middle is None else 3.2, "peak_bytes": None if middle is None else 2_310_144,
        "attempts": [{"scheme": scheme, "calibration": "minmax", "bytes": size, "drop": drop, "within_limits": drop <= 0.01}],
        "warnings": [], **more,
    }  # fmt: skip


def ordinary(seed: int = 0) -> dict[str, Any]:
    """ResNet-8 to int8 in both formats."""
    r = random.Random(seed)
    tflite = entry(r, "tflite", "int8", 98_464, 0.005, 161.0)
    tflite["left_float"] = [
        {"layer": "softmax", "op": "SOFTMAX", "why": "the scheme has no int8 kernel with these ranges"}
    ]
    tflite["attempts"].insert(
        0, {"scheme": "int8", "calibration": "percentile", "bytes": 98_464, "drop": 0.02, "within_limits": False}
    )
    onnx = entry(r, "onnx", "int8", 101_822, 0.015, 342.0)
    baselines = [entry(r, "tflite", "float32", 318_056, 0.0, 352.0), entry(r, "onnx", "float32", 314_922, 0.0, 344.0)]
    for base in baselines:
        base["path"] = f"baseline/{base['path']}"
    return {
        "edgedl": "0.1.0", "created": "2026-11-21T10:32:07+00:00",
        "model": {
            "path": "models/resnet8.h5", "format": "h5", "sha256": "9f2c" * 16, "bytes": 1_017_344, "parameters": 78_666,
            "macs": 12_501_632, "layers": 38,
            "inputs": [{"name": "input_1", "shape": [None, 32, 32, 3], "dtype": "float32", "scale": None, "zero_point": None, "tensor": ""}],
            "outputs": [{"name": "dense", "shape": [None, 10], "dtype": "float32", "scale": None, "zero_point": None, "tensor": ""}],
        },
        "data": {
            "source": "ic01.npz", "calibration_samples": 200, "validation_samples": 200, "labelled": True, "metric": "accuracy",
            "generated": False, "labels": list(CIFAR), "notes": ["calibration images are those of cifar10_jpeg"],
        },
        "original": {"metrics": {"accuracy": 0.855}, "bytes": 1_017_344},
        "artifacts": [tflite, onnx], "baselines": baselines,
        "comparisons": [
            {"a": "resnet8_int8.tflite", "b": "resnet8_float32.tflite", "target": "cpu", "ratio": 0.457, "interval": [0.452, 0.463],
             "verdict": "faster", "paired": True, "blocks": 30, "noise": 0.01},
            {"a": "resnet8_int8.onnx", "b": "resnet8_float32.onnx", "target": "cpu", "ratio": 0.996, "interval": [0.985, 1.006],
             "verdict": "no difference found", "paired": True, "blocks": 30, "noise": 0.01},
        ],
        "recipe": RECIPE, "limits": {"max_drop": 0.01, "fallback": ["int16x8", "fp16"], "timeout_s": 900.0, "memory_gib": None, "bench_seconds": 3.0},
        "steps": [
            {"name": name, "seconds": s, "reused": name == "load", "notes": []}
            for name, s in (("load", 4.1), ("data", 0.32), ("original", 1.9), ("quantize", 0.01), ("convert tflite float32", 6.2), ("convert tflite int8", 3.4),
                            ("verify tflite int8", 0.2), ("evaluate tflite int8", 0.4), ("bench cpu", 12.3))
        ],
        "failures": [], "warnings": ["resnet8_int8.onnx drops by 1.50%, more than max_drop = 1.00%"],
        "environment": {"cpu": "Intel Xeon", "cores": 2, "governor": None, "load_1m": 0.8, "memory_bytes": 8_200_000_000,
                        "python": "3.11.2", "versions": {"tensorflow": "2.21.0", "onnxruntime": "1.31.1"}},
    }  # fmt: skip


def one() -> dict[str, Any]:
    """A single artifact, float32: no baseline, nothing compared, one step."""
    document = ordinary(1)
    document["artifacts"] = [entry(random.Random(1), "tflite", "float32", 318_056, 0.0, 352.0)]
    return document | {"baselines": [], "comparisons": [], "warnings": [], "steps": document["steps"][:1]}


def many() -> dict[str, Any]:
    """Ten artifacts, some close together."""
    r, document = random.Random(2), ordinary(2)
    found = []
    for i in range(10):
        format, scheme = ("tflite", "onnx")[i % 2], SCHEMES[i // 2]
        found.append(
            entry(
                r,
                format,
                scheme,
                int(318_056 / r.uniform(1.9, 7)),
                r.choice((0.0, 0.0, 0.005, 0.01, 0.04)),
                r.uniform(90, 380),
            )
        )
    return document | {"artifacts": found, "comparisons": []}


def no_labels() -> dict[str, Any]:
    """Generated inputs, an output that is no classification: SQNR alone."""
    document = ordinary(3)
    document["data"] |= {
        "source": "generated",
        "labelled": False,
        "metric": "agreement",
        "generated": True,
        "labels": [],
    }
    document["original"]["metrics"] = {}
    document["warnings"] = [
        "calibrated on generated inputs: the ranges are guesses, and accuracy was not measured; pass --data"
    ]
    for item in (*document["artifacts"], *document["baselines"]):
        item |= {
            "metrics": {},
            "original_metrics": {},
            "per_class": [],
            "drop": 10 ** (-item["agreement"]["sqnr_db"] / 20),
        }
        del item["agreement"]["top1_agreement"]
    document["baselines"][0]["agreement"]["sqnr_db"] = 999.0
    return document


def thousand_classes() -> dict[str, Any]:
    document, r = ordinary(4), random.Random(4)
    for item in document["artifacts"]:
        item["per_class"] = per_class(r, tuple(f"class {i:04d}" for i in range(1000)), 50)
    document["data"]["validation_samples"] = 50_000
    return document


def deep() -> dict[str, Any]:
    """500 layers, many left float."""
    document, r = ordinary(5), random.Random(5)
    for item in document["artifacts"]:
        item["layers"] = layers(r, 500)
        item["left_float"] = [{"layer": f"lstm_{i}", "op": "LSTM", "why": "no integer kernel"} for i in range(260)]
    return document


def hostile() -> dict[str, Any]:
    """Markup, escapes and template code wherever a text comes from outside, and very long names."""

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            return (
                value if key in ("created", "verdict", "format", "target", "a", "b", "metric") else f"{value}{HOSTILE}"
            )
        if isinstance(value, dict):
            return {k: spoil(v, k) for k, v in value.items()}
        return [spoil(v, key) for v in value] if isinstance(value, list) else value

    document: dict[str, Any] = spoil(ordinary(6))
    document["artifacts"][0]["layers"][2]["name"] = "very_long_" * 60
    document["artifacts"][0]["per_class"][0]["label"] = "unbroken" * 40
    document["artifacts"][0]["latency_us"] = {HOSTILE: document["artifacts"][0]["latency_us"]["cpu"]}
    return document


def unmeasured() -> dict[str, Any]:
    """No latency, no layers, a format that failed, unknown figures."""
    document = ordinary(7)
    for item in (*document["artifacts"], *document["baselines"]):
        for key in (
            "latency_us",
            "load_ms",
            "peak_bytes",
            "layers",
            "per_class",
            "left_float",
            "io",
            "attempts",
            "warnings",
            "within_limits",
            "drop",
        ):
            item.pop(key, None)
    document["artifacts"].pop()
    document["comparisons"] = []
    document["model"] |= {"parameters": None, "macs": None}
    document["failures"] = [
        {
            "step": "export onnx",
            "type": "ConversionError",
            "message": "tf2onnx has no Erfc",
            "next": "use --format tflite",
        }
    ]
    return document


def empty() -> dict[str, Any]:
    """Nothing was made."""
    return ordinary(8) | {
        "artifacts": [],
        "baselines": [],
        "comparisons": [],
        "steps": [],
        "warnings": [],
        "environment": {},
        "limits": {},
    }


DOCUMENTS = {
    f.__name__: f for f in (ordinary, one, many, no_labels, thousand_classes, deep, hostile, unmeasured, empty)
}
