"""The wheel holds the right tree, and works installed alone (marked `package`: needs the network for its dependencies)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=900, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out, ROOT)
    return next(out.glob("*.whl"))


def tree_packages() -> set[str]:
    found = set()
    for top in ("edgedl", "converters", "targets"):
        for init in (ROOT / top).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            if parts[:2] not in (("edgedl", "converters"), ("edgedl", "targets")):
                found.add(".".join(parts if parts[0] == "edgedl" else ("edgedl", *parts)))
    return found


def test_every_subpackage_is_declared() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == tree_packages()


def test_the_links_are_links() -> None:
    for name in ("converters", "targets"):
        assert (ROOT / "edgedl" / name).readlink() == Path("..") / name


def test_the_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = {n for n in file.namelist() if ".dist-info/" not in n}
    assert {n.split("/")[0] for n in names} == {"edgedl"}
    expected = {f"{p.replace('.', '/')}/__init__.py" for p in tree_packages()} | {"edgedl/py.typed"}
    assert expected <= names
    assert not [n for n in names if "test" in n or n.endswith((".npz", ".tflite", ".keras"))]
    templates = {p.name for p in (ROOT / "edgedl/report").iterdir() if p.suffix in (".html", ".css", ".js")}
    assert {f"edgedl/report/{t}" for t in templates} <= names


@pytest.mark.package
def test_core_only_install_runs_and_benches(wheel: Path, tmp_path: Path) -> None:
    """A fresh environment with only the core dependencies: the command, the bench and the runtime work."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    env = {**os.environ, "PYTHONPATH": ""}
    tiny = ROOT / "tests/data/tiny_int8.tflite"
    run(python, "-m", "edgedl", "--help", cwd=tmp_path, env=env)
    done = run(
        python,
        "-m",
        "edgedl",
        "bench",
        tiny,
        "--json",
        "--max-seconds",
        "1",
        "--min-seconds",
        "0.1",
        cwd=tmp_path,
        env=env,
    )
    assert json.loads(done.stdout)[0]["latency_us"]["p50"] > 0
    code = "import edgedl.runtime, numpy, sys; n = edgedl.runtime.load(sys.argv[1]); s = n.inputs[0]; print(n.run(numpy.zeros([1, *s.shape[1:]], 'float32')).shape)"
    run(python, "-c", code, tiny, cwd=tmp_path, env=env)
    refused = subprocess.run(
        [python, "-m", "edgedl", "inspect", ROOT / "examples/digits.keras"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    )
    assert refused.returncode == 8
    assert "pip install 'edgedl[compress]'" in refused.stderr
    size = sum(f.stat().st_size for f in (tmp_path / "env").rglob("*") if f.is_file() and "/pip" not in str(f))
    print(f"core install: {size / 1e6:.0f} MB")


@pytest.mark.package
def test_onnx_direct_way_needs_no_training_framework(wheel: Path, tmp_path: Path) -> None:
    """`edgedl compress model.onnx --format onnx --quantize int8` with onnx and onnxruntime alone."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"edgedl[onnx] @ {wheel.as_uri()}")
    absent = subprocess.run([python, "-c", "import tensorflow"], capture_output=True)
    assert absent.returncode != 0
    env = {**os.environ, "PYTHONPATH": ""}
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx())
    for scheme in ("int8", "fp16", "dynamic", "int16x8", "int4-weight-only"):
        out = tmp_path / scheme
        command = (
            "compress",
            "tiny.onnx",
            "--format",
            "onnx",
            "--quantize",
            scheme,
            "--set",
            "limits.bench_seconds=0.2",
        )
        run(python, "-m", "edgedl", *command, "-o", out, cwd=tmp_path, env=env)
        report = json.loads((out / "report.json").read_text())
        assert [a["scheme"] for a in report["artifacts"]] == [scheme]
        assert (out / "report.html").is_file()


def tiny_onnx() -> bytes:
    """Convolution, ReLU, mean, dense: float, 8x8x3 in, 5 out."""
    import numpy as np
    from onnx import helper as h
    from onnx import numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(16, 3, 3, 3)),
        "b": rng.normal(size=16),
        "d": rng.normal(size=(16, 5)),
        "e": rng.normal(size=5),
    }
    nodes = [
        h.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        h.make_node("Relu", ["c"], ["r"], "relu"),
        h.make_node("GlobalAveragePool", ["r"], ["g"], "pool"),
        h.make_node("Flatten", ["g"], ["f"], "flat"),
        h.make_node("Gemm", ["f", "d", "e"], ["y"], "dense"),
    ]
    graph = h.make_graph(
        nodes,
        "tiny",
        [h.make_tensor_value_info("x", 1, ["n", 3, 8, 8])],
        [h.make_tensor_value_info("y", 1, ["n", 5])],
        [numpy_helper.from_array(a.astype("float32"), k) for k, a in weights.items()],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
