"""A run that ends on a microcontroller: firmware measured in the emulated core and delivered; what cannot run there is said."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from edgedl.artifact import Artifact, TensorSpec
from edgedl.cli import cli
from edgedl.errors import TargetError
from edgedl.outcome import runnable
from edgedl.recipe import step

pytest.importorskip("unicorn", reason="needs unicorn: pip install 'edgedl[mcu]'")
pytest.importorskip("ziglang", reason="needs ziglang: pip install 'edgedl[mcu]'")
ROOT = Path(__file__).parents[1]


def harness() -> ModuleType:
    """The module beside the tests of the C backend that writes .tflite files of a few operators."""
    name = "edgedl_tests_to_c_harness"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "converters/to_c/harness.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def dense(path: Path, quantized: bool) -> Path:
    """16 -> 4, int8 or float32."""
    h, rng = harness(), np.random.default_rng(0)
    weights = rng.integers(-127, 128, (4, 16), np.int8)
    if quantized:
        tensors = [
            h.T([1, 16], scale=0.05, zero=3),
            h.T([4, 16], scale=0.01, data=weights),
            h.T([1, 4], scale=0.1, zero=-9),
        ]
    else:
        real = (0.01 * weights).astype(np.float32)
        tensors = [h.T([1, 16], "float32"), h.T([4, 16], "float32", data=real), h.T([1, 4], "float32")]
    nodes = [h.Node("FULLY_CONNECTED", [0, 1], [2], {}, "FullyConnectedOptions")]
    found: Path = h.write(path, tensors, nodes, [0], [2])
    return found


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False)


def test_a_run_for_a_board_delivers_firmware_and_its_figures(tmp_path: Path) -> None:
    out, model = tmp_path / "out", dense(tmp_path / "small.tflite", quantized=False)
    done = invoke(
        "compress", str(model), "--quantize", "int8", "--target", "cortex-m4", "--target", "stm32l4", "-o", str(out),
        "--set", "limits.bench_seconds=1",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    jsonschema.validate(report, json.loads((ROOT / "docs/schema/report.schema.json").read_text()))
    told = report["artifacts"][0]["devices"]
    assert set(told) == {"cortex-m4", "stm32l4"}
    assert 64 < told["stm32l4"]["instructions"]["total"] < 4000
    assert told["stm32l4"]["board"]["fits"]
    assert [made["folder"] for made in report["firmware"]] == ["firmware_cortex-m4", "firmware_stm32l4"]
    for made in report["firmware"]:
        assert all((out / made["folder"] / name).is_file() for name in made["files"])
    (code,) = (out / "firmware_stm32l4/src").glob("small*.c")
    assert "EDNN_LAYER(0);" in code.read_text()
    assert "firmware  firmware_cortex-m4" in done.output


def test_bench_says_it_in_json_as_the_schema_has_it(tmp_path: Path) -> None:
    done = invoke(
        "bench",
        str(dense(tmp_path / "small.tflite", quantized=True)),
        "--target",
        "rp2040",
        "--json",
        "--max-seconds",
        "1",
    )
    assert done.exit_code == 0, done.output
    found = json.loads(
        done.output[done.output.index("{") :] if not done.output.lstrip().startswith("[") else done.output
    )
    jsonschema.validate(found, json.loads((ROOT / "docs/schema/bench.schema.json").read_text()))


def artifact(format: str, scheme: str) -> Artifact:
    spec = (TensorSpec("x", (1, 4), "float32"),)
    return Artifact(Path(f"m_{scheme}.{format}"), format, spec, spec, {}, {"scheme": scheme})


def test_what_no_firmware_can_be_is_not_run_there() -> None:
    good, plain, other = artifact("tflite", "int8"), artifact("tflite", "float32"), artifact("onnx", "int8")
    assert runnable(step("target", "cortex-m4"), [good, plain, other]) == [good.path]
    assert len(runnable(step("target", "cpu"), [good, plain, other])) == 3
    with pytest.raises(TargetError, match=r"computes with integers.*is float32.*is .onnx") as told:
        runnable(step("target", "cortex-m4"), [plain, other])
    assert "--quantize int8" in told.value.next


def test_a_float_model_is_told_and_the_rest_of_the_run_is_kept(tmp_path: Path) -> None:
    path = dense(tmp_path / "plain.tflite", quantized=False)
    with pytest.raises(TargetError, match=r"firmware computes with integers, and plain.tflite is float32"):
        invoke("compress", str(path), "--quantize", "float32", "--target", "cortex-m4", "-o", str(tmp_path / "out"))
    assert (tmp_path / "out/plain_float32.tflite").is_file()


def test_a_model_with_a_state_begins_anew_with_every_run(tmp_path: Path) -> None:
    """An SVDF keeps what it saw: the folder says how it is begun, and the emulated core begins it for each inference."""
    from edgedl.converters.to_c import firmware
    from edgedl.engine import describe
    from edgedl.targets.mcu.target import CortexM4

    h, rng = harness(), np.random.default_rng(1)
    feature, time = rng.integers(-9, 9, (4, 8), np.int8), rng.integers(-9, 9, (4, 3), np.int16)
    tensors = [
        h.T([1, 8], scale=0.05), h.T([4, 8], scale=0.02, data=feature), h.T([4, 3], "int16", scale=0.001, data=time),
        h.T([4], "int32", scale=1e-4, data=np.zeros(4, np.int32)), h.T([1, 12], "int16", scale=0.1, variable=True),
        h.T([1, 4], scale=0.02, zero=-3),
    ]  # fmt: skip
    options = {"rank": 1, "fusedActivationFunction": 1}
    path = h.write(
        tmp_path / "m.tflite", tensors, [h.Node("SVDF", [0, 1, 2, 3, 4], [5], options, "SVDFOptions")], [0], [5]
    )
    library = firmware(path).library()
    assert "m_init(arena);" in library["README.md"]
    assert "m_init(arena);" in library["examples/m/m.ino"]
    x = rng.integers(-128, 128, (1, 8), np.int8)
    expected = h.Firmware(path, tmp_path / "host").run([[x]])[0][0]
    with CortexM4().open() as session:
        session.load(describe(path))
        name = describe(path).inputs[0].name
        for other in (x, -x, x):  # the one between must leave nothing behind
            outputs, _ = session.run({name: other})
        np.testing.assert_array_equal(next(iter(outputs.values())), expected)
