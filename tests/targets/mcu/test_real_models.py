"""Real models in the emulated core against LiteRT's reference kernels, every byte; both routes; marks that add nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.converters.to_c import firmware
from edgedl.targets.mcu import elf
from edgedl.targets.mcu.cores import CORES
from edgedl.targets.mcu.image import Image, build
from edgedl.targets.mcu.machine import Machine
from edgedl.targets.mcu.qemu import Qemu

pytest.importorskip("unicorn", reason="needs unicorn: pip install 'edgedl[mcu]'")
pytest.importorskip("ziglang", reason="needs ziglang: pip install 'edgedl[mcu]'")
litert = pytest.importorskip("ai_edge_litert.interpreter")
pytestmark = pytest.mark.acceptance
MODELS = {
    "hello_world": "tflite_micro/hello_world_int8.tflite",
    "ad01": "mlperf_tiny/ad01_int8.tflite",
    "resnet": "mlperf_tiny/pretrainedResnet_quant.tflite",
    "kws": "mlperf_tiny/kws_ref_model.tflite",
    "str_ww": "mlperf_tiny/str_ww_ref_model.tflite",
    "vww": "mlperf_tiny/vww_96_int8.tflite",
}


def reference(path: Path, feeds: list[list[Any]]) -> list[list[bytes]]:
    run = litert.Interpreter(
        str(path), experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, num_threads=1
    )
    run.allocate_tensors()
    found = []
    for feed in feeds:
        for detail, x in zip(run.get_input_details(), feed, strict=True):
            run.set_tensor(detail["index"], x)
        run.invoke()
        found.append([run.get_tensor(d["index"]).tobytes() for d in run.get_output_details()])
    return found


def run_all(made: Any, machine: Any, feeds: list[list[Any]]) -> list[list[bytes]]:
    found = []
    for feed in feeds:
        arena = machine.run([(p.offset, x.tobytes()) for p, x in zip(made.inputs, feed, strict=True)]).arena
        found.append([arena[p.offset : p.offset + p.nbytes] for p in made.outputs])
    return found


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m0plus", "rv32imc"])
@pytest.mark.parametrize("name", list(MODELS))
def test_outputs_are_litert_s(name: str, core: str, assets: Path) -> None:
    path = assets / "models" / MODELS[name]
    made = firmware(path, CORES[core].features, "model")
    machine = Machine(build(made.sources, "model", made.arena_bytes, CORES[core]))
    rng = np.random.default_rng(0)
    feeds = [[rng.integers(-128, 128, p.spec.shape).astype(np.int8) for p in made.inputs] for _ in range(3)]
    assert run_all(made, machine, feeds) == reference(path, feeds)


def test_all_of_ic01(assets: Path) -> None:
    data = np.load(assets / "datasets/mlperf_tiny/ic01.npz")
    feeds = [[(x.astype(np.int16) - 128).astype(np.int8)[None]] for x in data["x"]]
    path = assets / "models" / MODELS["resnet"]
    made = firmware(path, CORES["cortex-m4"].features, "model")
    found = run_all(made, Machine(build(made.sources, "model", made.arena_bytes, CORES["cortex-m4"])), feeds)
    assert found == reference(path, feeds)
    guesses = np.array([np.frombuffer(outputs[0], np.int8).argmax() for outputs in found])
    assert (guesses == data["y"]).mean() > 0.84


@pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="needs qemu-system-arm")
@pytest.mark.parametrize("name", list(MODELS))
def test_both_routes_agree_to_the_instruction(name: str, assets: Path) -> None:
    made = firmware(assets / "models" / MODELS[name], CORES["cortex-m4"].features, "model")
    image = build(made.sources, "model", made.arena_bytes, CORES["cortex-m4"])
    inputs = [(p.offset, np.random.default_rng(1).bytes(p.nbytes)) for p in made.inputs]
    assert Machine(image).run(inputs) == Qemu(image).run(inputs)


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m0plus", "cortex-m7", "rv32imc"])
@pytest.mark.parametrize("name", ["hello_world", "ad01", "kws"])
def test_marks_of_layers_add_no_instruction(name: str, core: str, assets: Path) -> None:
    made = firmware(assets / "models" / MODELS[name], CORES[core].features, "model")
    images = [build(made.sources, "model", made.arena_bytes, CORES[core], mark=mark) for mark in (True, False)]
    assert images[0].layers == len(made.layers)
    counts = [Machine(image).run([]).counts for image in images]
    assert counts[0] is not None
    assert counts[1] is not None
    assert counts[0].instructions == counts[1].instructions
    assert len(_text(images[0])) == len(_text(images[1]))
    if core != "cortex-m7":  # for which the compiler orders a few instructions otherwise
        assert _text(images[0]) == _text(images[1])


def _text(image: Image) -> bytes:
    read = elf.read(image.data)
    section = read.sections[".text"]
    segment = next(s for s in read.segments if s.address <= section.address < s.address + s.size)
    return segment.data[section.address - segment.address :][: section.size]
