"""The targets cortex-m4, stm32l4 ...: firmware built for a core and run in an emulator of it, instructions counted exactly.

The artifact is a folder of C files: `metadata["firmware"]` says how its function is called, where inputs and outputs lie
in the arena and what the layers are; `metadata["sources"]`, if given, is the folder of the files (default: `src`).
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ...artifact import Array, Artifact, TensorSpec, spec_from_json
from ...errors import DataError, TargetError, UsageError
from ...model import STATIC
from ...registry import did_you_mean, resolve
from . import boards, cycles
from .boards import Profile
from .cores import Core, core_of
from .counting import Counts
from .image import Compiler, Image, Optimize, build
from .machine import LIMIT, Machine

COUNTED = 8  # inputs whose instructions are counted where only the hook in Python can; later ones run without it
REMEMBERED = 32  # results of inputs that were run already: the same input gives the same
MAX_SOURCE = 256 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """An input or output in the arena."""

    spec: TensorSpec
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Program:
    """What a target needs to know of a firmware: its files, and where inputs and outputs lie."""

    name: str
    sources: Mapping[str, str]
    arena_bytes: int
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    layers: tuple[str, ...] = ()
    states: tuple[tuple[int, bytes], ...] = ()  # what lies in the arena before a run: every run is the first one

    @classmethod
    def made_of(cls, artifact: Artifact, features: frozenset[str]) -> Program:
        """The firmware of a .tflite, for a core with these features, under the artifact's names of inputs and outputs.

        Raises ConversionError for what no firmware can have, ModelError.
        """
        made = resolve(resolve("edgedl.converters:FIRMWARE"))(artifact.path, features, "model")
        ends = [
            tuple(Place(spec, place.offset, place.nbytes) for spec, place in zip(specs, _in_order(specs, places), strict=True))
            for specs, places in ((artifact.inputs, made.inputs), (artifact.outputs, made.outputs))
        ]  # fmt: skip
        return cls(made.name, made.sources, made.arena_bytes, ends[0], ends[1], tuple(x.name for x in made.layers),
                   _states(made.states))  # fmt: skip

    @classmethod
    def of(cls, artifact: Artifact) -> Program:
        """The program of an artifact. Raises TargetError for one that is no firmware, or damaged."""
        told = artifact.metadata.get("firmware")
        if not isinstance(told, Mapping):
            raise TargetError(
                f"{artifact.path.name} is no firmware, which is what runs on a microcontroller",
                next="give the int8 .tflite: edgedl bench MODEL_int8.tflite --target cortex-m4",
            )
        root = artifact.path if artifact.path.is_dir() else artifact.path.parent
        folder = root / str(artifact.metadata.get("sources", "src"))
        try:
            return cls(
                name=str(told["name"]),
                sources=_sources(folder),
                arena_bytes=int(told["arena_bytes"]),
                inputs=tuple(map(_place, told["inputs"])),
                outputs=tuple(map(_place, told["outputs"])),
                layers=tuple(str(layer["name"]) for layer in told.get("layers", ())),
                states=_states(told.get("states", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TargetError(
                f"what {artifact.path.name} says of its firmware is damaged ({error})", next="write the firmware again"
            ) from error


def _in_order(specs: Sequence[TensorSpec], places: Sequence[Any]) -> list[Any]:
    """The places of tensors in the order of `specs`: by their names in the file, or as they come."""
    known = {place.spec.name: place for place in places}
    names = [spec.inside for spec in specs]
    return [known[name] for name in names] if len(known) == len(places) and set(names) == set(known) else list(places)


def _states(told: Sequence[Sequence[int]]) -> tuple[tuple[int, bytes], ...]:
    return tuple((int(offset), bytes([int(zero)]) * int(size)) for offset, size, zero in told)


def _place(told: Mapping[str, Any]) -> Place:
    return Place(spec_from_json(told["spec"]), int(told["offset"]), int(told["nbytes"]))


def _sources(folder: Path) -> dict[str, str]:
    """The C files of a folder. Raises TargetError."""
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix in (".c", ".h") and p.is_file())
        if sum(p.stat().st_size for p in files) > MAX_SOURCE:
            raise TargetError(
                f"the C files in {folder} have more than {MAX_SOURCE:,} bytes", next="use a smaller model"
            )
        return {p.name: p.read_text("utf-8") for p in files}
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"cannot read the C files in {folder}: {error}", next="write the firmware again") from error


@dataclass(frozen=True, slots=True)
class Microcontroller:
    """An emulated core, of a board where its profile is known."""

    core: ClassVar[str] = ""
    board: ClassVar[str] = ""

    optimize: Optimize = "2"  # of the compiler: -O2, -O3 or -Os
    compiler: Compiler = "zig"  # or arm-none-eabi-gcc, where it is installed
    emulator: Literal["auto", "unicorn", "qemu"] = "auto"  # auto: unicorn where it has the core
    max_instructions: int = LIMIT  # of one inference

    def __post_init__(self) -> None:
        if self.max_instructions < 1:
            raise UsageError(f"max_instructions is {self.max_instructions}, and must be 1 or more", next="leave it out")

    @property
    def profile(self) -> Profile | None:
        """The board, or None for a bare core."""
        return boards.profile_of(self.board) if self.board else None

    @property
    def processor(self) -> Core:
        return core_of(self.core or boards.profile_of(self.board).core)

    @property
    def features(self) -> frozenset[str]:
        """What the core's kernels may use."""
        return self.processor.features

    def refuses(self, artifact: Artifact) -> str:
        """Why an artifact cannot become firmware, as far as its format and scheme tell; empty where it can."""
        if artifact.format != "tflite":
            return f"firmware is made of .tflite files, and {artifact.path.name} is .{artifact.format}"
        if artifact.scheme not in (*STATIC, "unknown"):
            return f"firmware computes with integers, and {artifact.path.name} is {artifact.scheme}"
        return ""

    @contextmanager
    def open(self) -> Iterator[McuSession]:
        """A session; the emulator is freed at the end."""
        session = McuSession(self)
        try:
            yield session
        finally:
            session.close()


class McuSession:
    """One firmware in one emulated core."""

    def __init__(self, target: Microcontroller) -> None:
        self._target = target
        self._program: Program | None = None
        self._image: Image | None = None
        self._machine: Machine | Any = None
        self._counts: list[Counts] = []
        self._stack = 0
        self._known: dict[bytes, tuple[dict[str, Array], int]] = {}

    def load(self, artifact: Artifact) -> None:
        """Build the firmware and start it, in place of what was loaded before; of a .tflite it is made first.

        Raises TargetError, ConversionError, MissingDependencyError.
        """
        if artifact.format == "tflite":
            self.load_program(Program.made_of(artifact, self._target.processor.features))
        else:
            self.load_program(Program.of(artifact))

    def load_program(self, program: Program) -> None:
        """The same for a firmware that is in memory."""
        self.close()
        target = self._target
        core = target.processor
        image = build(
            program.sources, program.name, program.arena_bytes, core, optimize=target.optimize, compiler=target.compiler
        )
        profile = target.profile
        if profile is not None:
            self._refuse(image, profile)
        self._program, self._image = program, image
        if self._route() == "qemu":
            from .qemu import Qemu

            self._machine = Qemu(image, limit=target.max_instructions)
        else:
            self._machine = Machine(image, cost=cycles.cost_of(core), limit=target.max_instructions)

    def _route(self) -> str:
        asked = self._target.emulator
        return asked if asked != "auto" else "unicorn" if self._target.processor.emulated else "qemu"

    def _refuse(self, image: Image, profile: Profile) -> None:
        """What no stack could make fit is refused before it runs."""
        fit = boards.fits(image.sizes.flash, image.arena_bytes, 0, image.sizes.static, profile)
        if not fit.fits:
            raise TargetError(f"{image.name} does not fit into {profile.name}: {fit.advice.partition(';')[0]}",
                              next=fit.advice.partition("; ")[2])  # fmt: skip

    def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], int]:
        """Outputs, and the nanoseconds that the estimated cycles take at the board's clock (a bare core: at 100 MHz).

        Several samples at once run one after the other. Raises DataError for inputs that do not fit, TargetError for what
        goes wrong in the core.
        """
        program = self._loaded()
        samples = _samples(program.inputs, inputs)
        found = [self._once(program, [*program.states, *_written(program.inputs, sample)]) for sample in samples]
        outputs = {name: np.concatenate([o[name] for o, _ in found]) if len(found) > 1 else values.copy()
                   for name, values in found[0][0].items()}  # fmt: skip
        return outputs, sum(elapsed for _, elapsed in found)

    def _once(self, program: Program, written: list[tuple[int, bytes]]) -> tuple[dict[str, Array], int]:
        """One inference, or what it gave before."""
        key = hashlib.sha256(b"".join(data for _, data in written)).digest()
        if key not in self._known:
            count = len(self._counts) < COUNTED or self._machine.is_native
            result = self._machine.run(written, count=count)
            if result.counts is not None:
                self._counts.append(result.counts)
                self._stack = max(self._stack, result.stack or 0)
            outputs = {p.spec.name: _output(p, result.arena) for p in program.outputs}
            while len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[key] = outputs, self._nanoseconds(result.counts or self._typical())
        return self._known[key]

    def _loaded(self) -> Program:
        if self._program is None:
            raise TargetError("nothing is loaded on this microcontroller", next="load a firmware first")
        return self._program

    def _typical(self) -> Counts:
        """The counted inference in the middle."""
        ordered = sorted(self._counts, key=lambda c: c.instructions)
        return ordered[len(ordered) // 2]

    def _nanoseconds(self, counts: Counts) -> int:
        used = counts.instructions if counts.cycles is None else counts.cycles
        return max(1, round(used / self._clock_mhz * 1e3))

    @property
    def _clock_mhz(self) -> float:
        profile = self._target.profile
        return 100.0 if profile is None else profile.clock_mhz

    def environment(self) -> Mapping[str, object]:
        """The core, the board, and what built and ran the firmware."""
        target = self._target
        found: dict[str, object] = {"device": target.board or target.core, "core": target.processor.name,
                                    "emulator": self._route(), "clock_mhz": self._clock_mhz}  # fmt: skip
        if self._image is not None:
            found |= {"compiler": self._image.compiler, "flags": " ".join(self._image.flags)}
        return found

    def figures(self) -> dict[str, Any]:
        """Instructions of an inference and of its layers, flash and RAM by their parts, estimates of cycles and energy."""
        program, image, target = self._loaded(), self._image, self._target
        assert image is not None
        if not self._counts:
            self.run({p.spec.name: np.zeros(p.spec.shape, p.spec.dtype) for p in program.inputs})  # type: ignore[arg-type]
        counts, sizes = self._typical(), image.sizes
        totals = [c.instructions for c in self._counts]
        ram = {"arena": image.arena_bytes, "stack": self._stack, "static": sizes.static}
        found: dict[str, Any] = {
            "instructions": {
                "total": counts.instructions, "least": min(totals), "most": max(totals), "inputs": len(totals),
                "layers": [{"name": n, "instructions": i} for n, i in zip(_names(program, counts), counts.layers, strict=True)],
            },
            "flash": {"code": sizes.code, "constants": sizes.constants, "data": sizes.data, "total": sizes.flash},
            "ram": {**ram, "total": sum(ram.values())},
            "cycles": self._cycles(counts),
            "build": {"seconds": round(image.seconds, 3), "cached": image.cached},
            "peak_bytes": sum(ram.values()),
            "load_ms": 0.0,
        }  # fmt: skip
        if target.profile is not None:
            fit = boards.fits(sizes.flash, image.arena_bytes, self._stack, sizes.static, target.profile)
            found["board"] = {
                "name": target.board,
                "fits": fit.fits,
                "flash": fit.flash,
                "ram": fit.ram,
                "advice": fit.advice,
            }
            typical = statistics.median(c.instructions if c.cycles is None else c.cycles for c in self._counts)
            found["energy"] = boards.energy(target.profile, typical)
        return found

    def _cycles(self, counts: Counts) -> dict[str, Any]:
        """The estimate, and what it is made of."""
        timing = cycles.TIMINGS.get(self._target.processor.name)
        if counts.cycles is None or timing is None:
            lacks = "there are no published timings of this core" if timing is None else "capstone is not installed"
            lacks = "QEMU is asked for instructions only" if timing is not None and self._route() == "qemu" else lacks
            why = f"one for each instruction: {lacks}"
            return {"total": counts.instructions, "estimate": True, "source": why}
        return {"total": counts.cycles, "estimate": True, "source": timing.source}

    def close(self) -> None:
        """Forget the firmware."""
        self._program = self._image = self._machine = None
        self._counts, self._stack = [], 0
        self._known.clear()


def _names(program: Program, counts: Counts) -> Sequence[str]:
    """A name for every layer that was counted."""
    return [program.layers[i] if i < len(program.layers) else f"layer {i}" for i in range(len(counts.layers))]


def _samples(places: Sequence[Place], inputs: Mapping[str, Array]) -> list[Mapping[str, Array]]:
    """Single samples of inputs that hold several along their first axis, as many each."""
    counts = {len(inputs[p.spec.name]) // (p.spec.shape[0] or 1)
              for p in places if p.spec.name in inputs and p.spec.shape and inputs[p.spec.name].shape[1:] == p.spec.shape[1:]}  # fmt: skip
    count = counts.pop() if len(counts) == 1 else 1
    if count < 2 or any(
        len(inputs.get(p.spec.name, ())) != count * (p.spec.shape[0] or 1) for p in places if p.spec.shape
    ):
        return [inputs]
    return [dict(zip(inputs, parts, strict=True))
            for parts in zip(*(np.split(x, count) for x in inputs.values()), strict=True)]  # fmt: skip


def _written(places: Sequence[Place], inputs: Mapping[str, Array]) -> list[tuple[int, bytes]]:
    """Inputs as bytes at their offsets. Raises DataError."""
    found = []
    for place in places:
        spec = place.spec
        if spec.name not in inputs:
            raise DataError(
                f"the input '{spec.name}' is missing{did_you_mean(spec.name, inputs)}",
                next=f"give {', '.join(p.spec.name for p in places)}",
            )
        x = np.ascontiguousarray(inputs[spec.name])
        if str(x.dtype) != spec.dtype or x.size != math.prod(d or 1 for d in spec.shape) or x.nbytes != place.nbytes:
            raise DataError(
                f"the input '{spec.name}' is {x.dtype} {list(x.shape)}, and the firmware takes {spec.dtype} {list(spec.shape)}",
                next="give it one sample at a time, quantized as the model is",
            )
        found.append((place.offset, x.tobytes()))
    return found


def _output(place: Place, arena: bytes) -> Array:
    raw = arena[place.offset : place.offset + place.nbytes]
    shape = tuple(d or 1 for d in place.spec.shape)
    if len(raw) != place.nbytes or place.nbytes != math.prod(shape) * np.dtype(place.spec.dtype).itemsize:
        raise TargetError(f"the output '{place.spec.name}' does not lie in the arena", next="write the firmware again")
    return np.frombuffer(raw, place.spec.dtype).reshape(shape)


# --- one class for each name in the registry: the first line is what `edgedl targets` shows


class CortexM0Plus(Microcontroller):
    """Emulated Cortex-M0+ (Armv6-M): plain C kernels."""

    __slots__ = ()
    core: ClassVar[str] = "cortex-m0plus"


class CortexM3(Microcontroller):
    """Emulated Cortex-M3 (Armv7-M): plain C kernels."""

    __slots__ = ()
    core: ClassVar[str] = "cortex-m3"


class CortexM4(Microcontroller):
    """Emulated Cortex-M4F (Armv7E-M with DSP instructions and FPU)."""

    __slots__ = ()
    core: ClassVar[str] = "cortex-m4"


class CortexM7(Microcontroller):
    """Emulated Cortex-M7 (Armv7E-M with DSP instructions and FPU)."""

    __slots__ = ()
    core: ClassVar[str] = "cortex-m7"


class CortexM33(Microcontroller):
    """Emulated Cortex-M33 (Armv8-M with DSP instructions and FPU)."""

    __slots__ = ()
    core: ClassVar[str] = "cortex-m33"


class CortexM55(Microcontroller):
    """Emulated Cortex-M55 (Armv8.1-M with MVE), by QEMU alone."""

    __slots__ = ()
    core: ClassVar[str] = "cortex-m55"


class Rv32imc(Microcontroller):
    """Emulated RISC-V RV32IMC: plain C kernels."""

    __slots__ = ()
    core: ClassVar[str] = "rv32imc"


class Stm32F4(Microcontroller):
    """STM32F407VG, Cortex-M4F at 168 MHz, emulated: whether it fits, cycles, energy."""

    __slots__ = ()
    board: ClassVar[str] = "stm32f4"


class Stm32L4(Microcontroller):
    """STM32L476RG, Cortex-M4F at 80 MHz, emulated: whether it fits, cycles, energy."""

    __slots__ = ()
    board: ClassVar[str] = "stm32l4"


class Stm32H7(Microcontroller):
    """STM32H743ZI, Cortex-M7 at 480 MHz, emulated: whether it fits, instructions."""

    __slots__ = ()
    board: ClassVar[str] = "stm32h7"


class Nrf52840(Microcontroller):
    """nRF52840, Cortex-M4F at 64 MHz, emulated: whether it fits, cycles, energy."""

    __slots__ = ()
    board: ClassVar[str] = "nrf52840"


class Rp2040(Microcontroller):
    """RP2040, Cortex-M0+ at 133 MHz, emulated: whether it fits, cycles."""

    __slots__ = ()
    board: ClassVar[str] = "rp2040"


class Esp32C3(Microcontroller):
    """ESP32-C3, RV32IMC at 160 MHz, emulated: whether it fits, instructions, energy."""

    __slots__ = ()
    board: ClassVar[str] = "esp32c3"


class Apollo4(Microcontroller):
    """Ambiq Apollo4, Cortex-M4F at 96 MHz, emulated: whether it fits, cycles."""

    __slots__ = ()
    board: ClassVar[str] = "apollo4"


class M55(Microcontroller):
    """Alif Ensemble E3, Cortex-M55 at 400 MHz, emulated by QEMU: whether it fits, instructions."""

    __slots__ = ()
    board: ClassVar[str] = "m55"
