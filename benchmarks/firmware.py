"""Generated firmware against TensorFlow Lite Micro with CMSIS-NN on a Cortex-M4F: instructions, arena, code, flash; RV32IMC beside it.

EDGEDL_ASSETS=... python benchmarks/firmware.py [--models resnet,kws] [--layers] [--inputs 20] [--core cortex-m4]

Instructions are exact counts of one call in the emulated core (they do not depend on this machine); the peer's figures are data
(tflm.json, with their source). Each model is first held to LiteRT's kernels on `inputs` random inputs inside the emulated core,
every bit (person_detect.tflite is refused by LiteRT 2.3 and is held to its own firmware in plain C). `--layers`: by layer.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import assets, figure

from edgedl.converters.to_c import Firmware, firmware
from edgedl.errors import EdgedlError
from edgedl.targets.mcu.cores import CORES
from edgedl.targets.mcu.image import Image, build
from edgedl.targets.mcu.machine import Machine

PEER = json.loads((Path(__file__).parent / "tflm.json").read_text("utf-8"))
CODE, FLASH = 0.30, 0.75
PLAIN = 1.6  # RV32IMC against plain C on the M4


def main() -> None:
    """Print a block for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help="parts of their names")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--inputs", type=int, default=20)
    parser.add_argument("--core", default="cortex-m4", choices=list(CORES))
    given = parser.parse_args()
    wanted = [part.lower() for part in given.models.split(",") if part]
    print(f"peer: {PEER['source']}")
    for name in PEER["models"]:
        if not wanted or any(part in name.lower() for part in wanted):
            try:
                compared(name, given)
            except EdgedlError as error:
                print(f"{name}: {error.message}")


def compared(name: str, given: argparse.Namespace) -> None:
    """One model."""
    path, peer, goals = assets() / "models" / name, PEER["models"][name], PEER["goals"][name]
    start = time.perf_counter()
    made, image, machine = prepared(path, given.core)
    feeds = inputs(made, given.inputs)
    results = [machine.run(feed) for feed in feeds]
    seconds = time.perf_counter() - start
    counts = results[0].counts
    assert counts is not None
    every = {r.counts.instructions for r in results if r.counts is not None}
    print(
        f"\n{name}: {held(path, made, feeds, results)}; {len(feeds)} inputs, generated, built and run in {seconds:.1f} s"
    )
    if given.layers:
        layers(made, counts.layers)
    for key, ours in (("instructions", max(every)), ("arena", made.arena_bytes)):
        goal = goals.get(key)
        share = ours / peer[key]
        text = f"<= {goal}" if goal else "none"
        figure(f"{key}: {ours:,} of {peer[key]:,}", f"{share:.3f}", text, goal is None or share <= goal)
    sizes, stack = image.sizes, max(r.stack or 0 for r in results)
    figure(
        f"code: {sizes.code:,} of {peer['code']:,} bytes",
        f"{sizes.code / peer['code']:.3f}",
        f"<= {CODE}",
        sizes.code <= CODE * peer["code"],
    )
    figure(
        f"flash: {sizes.flash:,} of {peer['flash']:,} bytes",
        f"{sizes.flash / peer['flash']:.3f}",
        f"<= {FLASH}",
        sizes.flash <= FLASH * peer["flash"],
    )
    over = made.arena_bytes / made.bound_bytes - 1
    figure(f"arena above its lower bound of {made.bound_bytes:,}", f"{over:.1%}", "<= 5 %", over <= 0.05)
    print(
        f"  {counts.instructions / max(made.macs, 1):.2f} instructions a MAC, static {sizes.static} and stack {stack} of {peer['static_and_stack']} bytes"
    )
    plain(path, feeds)


def prepared(path: Path, core: str) -> tuple[Firmware, Image, Machine]:
    """The firmware of a file for a core, ready to run."""
    made = firmware(path, CORES[core].features, "model")
    image = build(made.sources, made.name, made.arena_bytes, CORES[core])
    return made, image, Machine(image)


def inputs(made: Firmware, count: int) -> list[list[tuple[int, bytes]]]:
    """Random inputs, each at its offset."""
    rng = np.random.default_rng(0)
    return [[(p.offset, rng.integers(0, 256, p.nbytes, np.uint8).tobytes()) for p in made.inputs] for _ in range(count)]


def held(path: Path, made: Firmware, feeds: Any, results: Any) -> str:
    """What the outputs were compared with. Exits where a bit differs."""
    found = [[r.arena[p.offset : p.offset + p.nbytes] for p in made.outputs] for r in results]
    if path.stem == "person_detect":
        other, _, machine = prepared(path, "cortex-m3")
        expected = []
        for feed in feeds:
            values = [(p.offset, data) for p, (_, data) in zip(other.inputs, feed, strict=True)]
            arena = machine.run(values, count=False).arena
            expected.append([arena[p.offset : p.offset + p.nbytes] for p in other.outputs])
        told = "every bit as plain C gives it"
    else:
        expected, told = litert(path, made, feeds), "every bit as LiteRT gives it"
    if found != expected:
        raise SystemExit(f"{path.name}: the outputs differ")
    return told


def litert(path: Path, made: Firmware, feeds: Any) -> list[list[bytes]]:
    """LiteRT's own kernels, without XNNPACK."""
    from ai_edge_litert import interpreter

    kernels = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    run = interpreter.Interpreter(str(path), experimental_op_resolver_type=kernels, num_threads=1)
    run.allocate_tensors()
    found = []
    for feed in feeds:
        for detail, place, (_, data) in zip(run.get_input_details(), made.inputs, feed, strict=True):
            run.set_tensor(detail["index"], np.frombuffer(data, place.spec.dtype).reshape(detail["shape"]))
        run.invoke()
        found.append([run.get_tensor(d["index"]).tobytes() for d in run.get_output_details()])
    return found


def layers(made: Firmware, counts: Any) -> None:
    """A line for each layer."""
    for layer, count in zip(made.layers, counts, strict=True):
        each = f"{count / layer.macs:6.2f} a MAC" if layer.macs else ""
        print(f"  {count:>12,}  {layer.op:<20} {layer.name[-40:]:<40} {each}")


def plain(path: Path, feeds: Any) -> None:
    """Plain C on an RV32IMC core and on the M4 without its DSP instructions."""
    counts = {}
    for label, core in (("cortex-m4", "cortex-m4"), ("rv32imc", "rv32imc")):
        made = firmware(path, (), "model")
        machine = Machine(build(made.sources, made.name, made.arena_bytes, CORES[core]))
        feed = [(p.offset, data) for p, (_, data) in zip(made.inputs, feeds[0], strict=True)]
        found = machine.run(feed).counts
        counts[label] = found.instructions if found else 0
    share = counts["rv32imc"] / counts["cortex-m4"]
    figure(
        f"RV32IMC: {counts['rv32imc']:,}, plain C on the M4: {counts['cortex-m4']:,}",
        f"{share:.2f}",
        f"<= {PLAIN}",
        share <= PLAIN,
    )


if __name__ == "__main__":
    main()
