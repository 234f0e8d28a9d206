"""The second route: the same image in QEMU's model of a board, instructions counted by a plugin of its code generator.

It has cores that unicorn lacks (Cortex-M55 with MVE), and where both have one they agree to the instruction. A firmware's
start-up writes the arena to a file by semihosting, so each inference is a process of its own in a temporary folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ...errors import MissingDependencyError, TargetError
from . import elf, toolchain
from .counting import Counts
from .image import PAGE, RAM, STACK_TOP, VARIABLES, Image, pages
from .machine import LIMIT, PAINT, SECONDS, STACK, Result

_CODE = {"mps3-an547": 512 << 10}  # bytes at address 0 of a board; else
_CODE_ELSE = 4 << 20


@cache
def program() -> str:
    """qemu-system-arm. Raises MissingDependencyError."""
    found = shutil.which("qemu-system-arm")
    if found is None:
        raise MissingDependencyError(
            "there is no qemu-system-arm on this machine",
            next="apt-get install qemu-system-arm, or choose a core that unicorn has",
        )
    return found


class Qemu:
    """A board with a firmware in it. Counting costs little: without `count` it counts as well."""

    is_native = True

    def __init__(self, image: Image, *, seconds: float = SECONDS, limit: int = LIMIT) -> None:
        if not image.core.machine:
            raise TargetError(
                f"QEMU has no board with a {image.core.name} that firmware for measuring runs on",
                next="leave the emulator at auto",
            )
        self.image, self.seconds, self.limit = image, seconds, limit
        self._program, self._plugin = program(), plugin()
        self._file = elf.read(image.data)
        self._check()
        self._marks = [
            self._file.symbol(f"edgedl_layer_{i}")
            for i in range(image.layers)
            if f"edgedl_layer_{i}" in self._file.symbols
        ]

    def _check(self) -> None:
        """That all of it lies where the board has memory."""
        room = _CODE.get(self.image.core.machine, _CODE_ELSE)
        for s in self._file.segments:
            stored = s.stored_at + len(s.data)
            in_ram = s.address >= RAM and s.address + s.size <= RAM + VARIABLES
            if (s.data and stored > room) or not (in_ram or s.address + s.size <= room):
                raise TargetError(
                    f"the firmware needs {stored:,} bytes of flash, and QEMU's {self.image.core.machine} has {room:,}",
                    next="choose a core that unicorn has",
                )

    def run(self, inputs: Sequence[tuple[int, bytes]], *, count: bool = True) -> Result:
        """One inference; see `Machine.run`. Raises TargetError."""
        image, size = self.image, self.image.arena_bytes
        arena = bytearray([PAINT]) * (pages(max(size, 1)) + PAGE)  # and a page behind it
        skip = image.arena - image.core.arena
        for at, data in inputs:
            if at < 0 or at + len(data) > size:
                raise TargetError(
                    f"an input of {len(data):,} bytes does not lie in the arena of {size:,}",
                    next="convert the model again",
                )
            arena[skip + at : skip + at + len(data)] = data
        with tempfile.TemporaryDirectory(prefix="edgedl-qemu-") as temporary:
            folder = Path(temporary)
            (folder / "firmware.elf").write_bytes(image.data)
            (folder / "arena.bin").write_bytes(arena)
            (folder / "stack.bin").write_bytes(bytes([PAINT]) * STACK)
            (folder / "marks").write_text("\n".join(hex(m) for m in self._marks))
            self._call(folder)
            counts = self._counts(folder)
            after = _dumped(folder / "arena.out", len(arena))
            stack = _dumped(folder / "stack.out", STACK)
        if after[:skip].strip(bytes([PAINT])) or after[skip + size :].strip(bytes([PAINT])):
            raise TargetError(
                f"the model wrote outside of its arena of {size:,} bytes", next="report this as a bug of edgedl"
            )
        depth = len(stack.lstrip(bytes([PAINT])))
        return Result(after[skip : skip + size], counts if count else None, depth if count else None)

    def _call(self, folder: Path) -> None:
        text = self._file.sections[".text"]
        options = f"first={text.address:#x},end={text.address + text.size:#x},limit={self.limit},out=counts,marks=marks"
        command = [
            self._program, "-M", self.image.core.machine, "-nographic", "-monitor", "none", "-serial", "none",
            "-semihosting-config", "enable=on,target=native", "-kernel", "firmware.elf",
            "-device", f"loader,file=arena.bin,addr={self.image.core.arena:#x},force-raw=on",
            "-device", f"loader,file=stack.bin,addr={STACK_TOP - STACK:#x},force-raw=on",
            "-plugin", f"{self._plugin},{options}", "-d", "plugin", "-D", os.devnull,
        ]  # fmt: skip
        try:
            done = toolchain.call(command, folder, {}, self.seconds)
        except TargetError as error:
            raise TargetError(f"the model did not end within {self.seconds:g} s", next="use a smaller model") from error
        if done.returncode not in (0, 1, 3):
            raise TargetError(
                f"QEMU ended with {done.returncode}: {toolchain.first_error(done.stderr)}",
                next="run it with emulator = unicorn",
            )

    def _counts(self, folder: Path) -> Counts:
        try:
            state, *numbers = (folder / "counts").read_text().split()
            total, *starts = map(int, numbers)
        except (OSError, ValueError) as error:
            raise TargetError("QEMU's plugin counted nothing", next="run it with emulator = unicorn") from error
        if state == "limit":
            raise TargetError(
                f"the model did not end within {self.limit:,} instructions",
                next="report this as a bug of edgedl, with the model",
            )
        known = sorted(s for s in starts if s >= 0)
        ends = [*known[1:], total]
        layers = tuple(b - a for a, b in zip(known, ends, strict=True)) if known else ()
        return Counts(total, None, layers, None, known[0] if known else 0)


def _dumped(file: Path, size: int) -> bytes:
    """What the start-up code wrote. Raises TargetError."""
    if not file.is_file() or file.stat().st_size != size:
        raise TargetError(
            "the model did not return in QEMU: a fault of the core", next="run it with emulator = unicorn"
        )
    return file.read_bytes()


@cache
def plugin() -> Path:
    """The plugin for this computer, compiled at first use and kept. Raises TargetError."""
    source = (toolchain.FIRMWARE / "plugin.c").read_bytes()
    compiler = toolchain.zig()
    key = hashlib.sha256(source + toolchain.version(compiler).encode() + os.uname().machine.encode()).hexdigest()[:16]
    kept = toolchain.cache_folder() / f"plugin-{key}.so"
    if kept.is_file():
        return kept
    with tempfile.TemporaryDirectory(prefix="edgedl-plugin-", dir=kept.parent) as temporary:
        folder = Path(temporary)
        (folder / "plugin.c").write_bytes(source)
        command = [str(compiler), "cc", "-std=gnu99", "-O2", "-g0", "-w", "-fPIC", "-shared", "-fno-sanitize=all",
                   "-Wl,-z,lazy", "-Wl,--allow-shlib-undefined", "-o", "plugin.so", "plugin.c"]  # fmt: skip
        done: subprocess.CompletedProcess[str] = toolchain.call(command, folder, toolchain.zig_environment(folder))
        if done.returncode:
            raise TargetError(
                f"QEMU's plugin does not build: {toolchain.first_error(done.stderr)}",
                next="report this as a bug of edgedl",
            )
        (folder / "plugin.so").replace(kept)
    return kept
