"""build(): C sources to the image of a firmware for a core, kept in a cache by the digest of all that it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

from ...errors import TargetError
from . import elf, toolchain
from .cores import Core

Compiler = Literal["zig", "gcc"]
Optimize = Literal["2", "3", "s"]

RAM, STACK_TOP = 0x2000_0000, 0x2004_0000  # addresses; the machine guards what lies between
VARIABLES = 128 << 10  # bytes of RAM for them
MAX_FLASH, MAX_ARENA = 60 << 20, 15 << 20  # bytes
PAGE = 4096
MAX_SOURCES = 256 << 20  # bytes of text
KEPT = 100  # images in the cache
_FLAGS = (
    "-std=c99", "-ffreestanding", "-fno-stack-protector", "-ffunction-sections", "-fdata-sections", "-w",
    "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-fno-strict-aliasing", "-fomit-frame-pointer", "-isystem", "lib",
)  # fmt: skip
_ZIG_FLAGS = ("-fno-sanitize=all", "-fno-PIC")
_SUPPORT = ("start.c", "runtime.c")
_LAYER = re.compile(r"^    EDNN_LAYER\((\d+)\);$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the parts of a firmware, without its start-up code: of the linked file, padding included."""

    code: int
    constants: int
    data: int  # initialised variables: in flash and in RAM
    bss: int  # variables that start as zero

    @property
    def flash(self) -> int:
        return self.code + self.constants + self.data

    @property
    def static(self) -> int:
        """RAM besides arena and stack."""
        return self.data + self.bss


@dataclass(frozen=True, slots=True)
class Image:
    """A linked firmware. `layers`: how many the generated code marks; `seconds`: that building took; `cached`: long ago."""

    core: Core
    name: str
    data: bytes
    sizes: Sizes
    arena_bytes: int
    layers: int
    compiler: str
    flags: tuple[str, ...]
    seconds: float
    cached: bool

    @property
    def arena(self) -> int:
        """Address of the arena, aligned to 4: its end is as near as that allows to the end of a page."""
        return arena_address(self.core, self.arena_bytes)


def arena_address(core: Core, size: int) -> int:
    """Where an arena of this size lies.

    >>> from edgedl.targets.mcu.cores import CORES
    >>> hex(arena_address(CORES["cortex-m4"], 10)), hex(arena_address(CORES["cortex-m4"], 5000))
    ('0x21000ff4', '0x21000c78')
    """
    return core.arena + (-size % PAGE) // 4 * 4


def build(
    sources: Mapping[str, str],
    name: str,
    arena_bytes: int,
    core: Core,
    *,
    optimize: Optimize = "2",
    compiler: Compiler = "zig",
    extra: Sequence[str] = (),
    mark: bool = True,
) -> Image:
    """Compile and link `sources` (file name -> text), whose function `NAME_invoke(arena)` runs the model.

    `extra`: further flags of the compiler; `mark`: let the layers be told apart. Raises TargetError (what the compiler found
    wrong; a model too large for any microcontroller), MissingDependencyError.
    """
    _check(sources, name, arena_bytes)
    start = time.perf_counter()
    program = toolchain.zig() if compiler == "zig" else toolchain.gcc()
    layers = max((int(i) for i in _LAYER.findall(sources[f"{name}.c"])), default=0) if mark else 0
    symbols = (
        "-g1" if optimize == "s" and compiler == "zig" else "-g0"
    )  # zig drops all symbols of what is small, but with -g
    flags = (f"-O{optimize}", symbols, *_FLAGS, *_for_core(core, compiler), *extra)
    key = _digest(sources, name, arena_bytes, layers, flags, toolchain.version(program))
    kept = toolchain.cache_folder() / "firmware" / f"{key}.elf"
    data = _from_cache(kept)
    cached = data is not None
    if data is None:
        data = _compiled(program, sources, name, arena_bytes, layers, flags, core)
        _into_cache(kept, data)
    seconds = time.perf_counter() - start
    return Image(core, name, data, _sizes(elf.read(data)), arena_bytes, layers, compiler, flags, seconds, cached)


def _check(sources: Mapping[str, str], name: str, arena_bytes: int) -> None:
    """Raises TargetError for names and sizes that no generated code has."""
    if not re.fullmatch(r"[A-Za-z_]\w{0,99}", name) or f"{name}.c" not in sources:
        raise TargetError(f"there is no file {name}.c with the model among the sources", next="convert the model again")
    for file in sources:
        if not re.fullmatch(r"[A-Za-z_][\w]{0,99}\.[ch]", file):
            raise TargetError(f"'{file[:100]}' is no name of a C file", next="convert the model again")
    if sum(map(len, sources.values())) > MAX_SOURCES:
        raise TargetError(f"the C files have more than {MAX_SOURCES:,} bytes", next="use a smaller model")
    if not 0 <= arena_bytes <= MAX_ARENA:
        raise TargetError(
            f"the model needs {arena_bytes:,} bytes of working memory, and the emulated core has {MAX_ARENA:,}",
            next="use a smaller model or a smaller input",
        )


def _for_core(core: Core, compiler: Compiler) -> tuple[str, ...]:
    if compiler == "gcc":
        if not core.gcc:
            raise TargetError(f"arm-none-eabi-gcc has no core {core.name}", next="leave the compiler at zig")
        return (*core.gcc, "-mthumb")
    return (*_ZIG_FLAGS, "-target", core.target, f"-mcpu={core.cpu}")


def _digest(*parts: object) -> str:
    """Of all that an image depends on, the support files included."""
    support = {p.name: p.read_text("utf-8") for p in sorted(toolchain.FIRMWARE.iterdir()) if p.is_file()}
    plain = [dict(p) if isinstance(p, Mapping) else p for p in parts]
    return hashlib.sha256(json.dumps([plain, support], sort_keys=True).encode()).hexdigest()[:32]


def _compiled(
    program: Path,
    sources: Mapping[str, str],
    name: str,
    arena_bytes: int,
    layers: int,
    flags: Sequence[str],
    core: Core,
) -> bytes:
    with tempfile.TemporaryDirectory(prefix="edgedl-firmware-") as temporary:
        folder = Path(temporary)
        (folder / "lib").mkdir()
        for file, text in sources.items():
            (folder / file).write_text(text, "utf-8")
        for support in _SUPPORT:
            (folder / f"edgedl_{support}").write_text((toolchain.FIRMWARE / support).read_text("utf-8"), "utf-8")
        for header in ("string.h", "layers.h"):
            (folder / "lib" / header).write_text((toolchain.FIRMWARE / header).read_text("utf-8"), "utf-8")
        (folder / "link.ld").write_text(_script(core, arena_bytes), "utf-8")
        units = [*sorted(f for f in sources if f.endswith(".c")), *(f"edgedl_{s}" for s in _SUPPORT)]
        marks = [f"-DEDNN_LAYERS={layers}", "-include", "lib/layers.h"] if layers else []
        command = [
            str(program), *(["cc"] if program.name == "zig" else []), *flags, *marks, f"-DEDGEDL_INVOKE={name}_invoke",
            "-Wl,--gc-sections", "-Wl,--entry=edgedl_reset", "-T", "link.ld", "-o", "out.elf", *units,
        ]  # fmt: skip
        environment = toolchain.zig_environment(folder) if program.name == "zig" else {}
        bare = [*command, "-nostdlib", *([] if program.name == "zig" else ["-Wl,--no-warn-rwx-segments", "-lgcc"])]
        done = toolchain.call(bare, folder, environment)
        missing = re.findall(r"undefined symbol: (\S+)", done.stderr)
        if done.returncode and missing and all(m.startswith("__") for m in missing) and program.name == "zig":
            done = toolchain.call(command, folder, environment)  # with the compiler's own library, which it makes first
        out = folder / "out.elf"
        if done.returncode or not out.is_file():
            raise TargetError(
                f"the C of {name} does not build for {core.name}: {toolchain.first_error(done.stderr)}",
                next="report this as a bug of edgedl if the C was not changed",
            )
        return out.read_bytes()


def _script(core: Core, arena_bytes: int) -> str:
    text = (toolchain.FIRMWARE / "link.ld.in").read_text("utf-8")
    return Template(text).substitute(
        flash=MAX_FLASH, ram=hex(RAM), stack_top=hex(STACK_TOP), arena=hex(arena_address(core, arena_bytes)),
        dump=hex(core.arena), dump_bytes=hex(pages(max(arena_bytes, 1)) + PAGE),
    )  # fmt: skip


def pages(size: int) -> int:
    """Bytes of the pages that hold so many.

    >>> pages(1), pages(4096), pages(4097)
    (4096, 4096, 8192)
    """
    return -(-size // PAGE) * PAGE


def _sizes(read: elf.Elf) -> Sizes:
    of = {name: section.size for name, section in read.sections.items()}
    return Sizes(of.get(".text", 0), of.get(".rodata", 0), of.get(".data", 0), of.get(".bss", 0))


def _from_cache(path: Path) -> bytes | None:
    """What was built before, if it is whole: its digest stands before it."""
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    return content[32:] if hashlib.sha256(content[32:]).digest() == content[:32] else None


def _into_cache(path: Path, data: bytes) -> None:
    """Keep an image, drop the oldest ones; a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(data).digest() + data)
        Path(name).replace(path)
        for old in sorted(path.parent.glob("*.elf"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        return
