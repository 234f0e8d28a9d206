"""Firmware of real models: LiteRT's numbers in the emulated Cortex-M4, on real images too, within the goals of instructions and memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.converters.to_c import Firmware, firmware
from edgedl.targets.mcu.cores import CORES
from edgedl.targets.mcu.image import build
from edgedl.targets.mcu.machine import Machine

pytest.importorskip("unicorn", reason="needs unicorn: pip install 'edgedl[mcu]'")
pytest.importorskip("ziglang", reason="needs ziglang: pip install 'edgedl[mcu]'")
pytestmark = pytest.mark.acceptance
PEER = json.loads((Path(__file__).parents[2] / "benchmarks/tflm.json").read_text("utf-8"))


def emulated(
    made: Firmware, core: str, feeds: Sequence[Sequence[Any]], count: bool = False
) -> tuple[list[list[bytes]], Any]:
    """Outputs for each feed as bytes, and the counts of the first."""
    machine = Machine(build(made.sources, made.name, made.arena_bytes, CORES[core]))
    found, first = [], None
    for feed in feeds:
        written = [(p.offset, np.ascontiguousarray(x).tobytes()) for p, x in zip(made.inputs, feed, strict=True)]
        result = machine.run(written, count=count and first is None)
        first = first or result.counts
        found.append([result.arena[p.offset : p.offset + p.nbytes] for p in made.outputs])
    return found, first


def reference(path: Path, feeds: Sequence[Sequence[Any]]) -> list[list[bytes]]:
    """LiteRT without XNNPACK."""
    from ai_edge_litert import interpreter

    run = interpreter.Interpreter(
        str(path), experimental_op_resolver_type=interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    run.allocate_tensors()
    found = []
    for feed in feeds:
        for detail, x in zip(run.get_input_details(), feed, strict=True):
            run.set_tensor(detail["index"], x.reshape(detail["shape"]))
        run.invoke()
        found.append([run.get_tensor(d["index"]).tobytes() for d in run.get_output_details()])
    return found


def random_feeds(made: Firmware, count: int) -> list[list[Any]]:
    rng = np.random.default_rng(0)
    return [[rng.integers(0, 256, p.nbytes, np.uint8).view(p.spec.dtype) for p in made.inputs] for _ in range(count)]


@pytest.mark.parametrize("name", PEER["models"])
def test_the_emulated_core_gives_litert_s_numbers_within_the_goals(name: str, assets: Path) -> None:
    path = assets / "models" / name
    made = firmware(path, CORES["cortex-m4"].features, "model")
    feeds = random_feeds(made, 3)
    found, counts = emulated(made, "cortex-m4", feeds, count=True)
    if "person_detect" in name:  # LiteRT 2.3 refuses this file
        expected, _ = emulated(firmware(path, (), "model"), "cortex-m3", feeds)
    else:
        expected = reference(path, feeds)
    assert found == expected
    for what, ours in (("instructions", counts.instructions), ("arena", made.arena_bytes)):
        goal = PEER["goals"][name].get(what)
        if goal is not None:
            assert ours <= goal * PEER["models"][name][what], f"{what}: {ours}"
    assert made.bound_bytes <= made.arena_bytes <= 1.05 * made.bound_bytes


def test_resnet_8_is_as_accurate_in_the_emulated_core(assets: Path) -> None:
    """On every image of ic01 the same scores as LiteRT, and so the same accuracy."""
    path = assets / "models/mlperf_tiny/pretrainedResnet_quant.tflite"
    with np.load(assets / "datasets/mlperf_tiny/ic01.npz") as file:
        x, y = file["x"], file["y"]
    made = firmware(path, CORES["cortex-m4"].features, "model")
    spec = made.inputs[0].spec
    images = [[spec.quantize(image.astype(np.float32))] for image in x]
    found, _ = emulated(made, "cortex-m4", images)
    assert found == reference(path, images)
    classes = [int(np.frombuffer(scores[0], np.int8).argmax()) for scores in found]
    assert np.mean(np.array(classes) == y) > 0.8
