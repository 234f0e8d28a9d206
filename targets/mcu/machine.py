"""Machine: a firmware's image in an emulated core (unicorn), its memory guarded on all sides.

It runs in the process that opens it. A target's session is opened in a child process (`worker`), so that a crash of the
emulator is an error message there.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ...errors import MissingDependencyError, TargetError
from . import elf
from .counting import UNLIMITED, Cost, Counter, Counts, native_hook
from .image import MAX_ARENA, PAGE, RAM, STACK_TOP, VARIABLES, Image, pages
from .toolchain import EXTRA

STACK = 64 << 10  # bytes of the emulated stack
PAINT = 0xA5
SECONDS = 120.0  # of one inference
LIMIT = 20_000_000_000  # instructions of one inference
BOOT_LIMIT_S = 10.0
_SYSTEM = 0xE000_E000  # the page of Arm's system registers, where start-up code switches the FPU on
_BAND = 64 << 20  # flash lies in the first 64 MiB


@dataclass(frozen=True, slots=True)
class Result:
    """One inference: the arena after it, and, if they were wanted, its counts and the deepest stack in bytes."""

    arena: bytes
    counts: Counts | None
    stack: int | None


def unicorn(name: str = "unicorn") -> ModuleType:
    """The package unicorn, or a module of it. Raises MissingDependencyError."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"emulating a microcontroller needs unicorn, which cannot be imported here ({error})", next=EXTRA
        ) from error


class Machine:
    """A core with a firmware in it, started up and waiting at `main`.

    `native`: count by the hook in C if it can be compiled; the one in Python gives the same counts. `cost`: see `counting`.
    """

    def __init__(
        self,
        image: Image,
        *,
        cost: Cost | None = None,
        native: bool = True,
        seconds: float = SECONDS,
        limit: int = LIMIT,
    ) -> None:
        self.image, self.seconds, self.limit = image, seconds, limit
        self._uc = unicorn()
        self._file = elf.read(image.data)
        if self._file.machine != image.core.architecture:
            raise TargetError(
                f"the firmware is for {self._file.machine}, and {image.core.name} is {image.core.architecture}",
                next="build it again for this core",
            )
        self._engine = self._opened()
        self._registers = _registers_of(image.core.architecture)
        self._main = self._file.symbol("edgedl_main")
        self._invoke = self._file.symbol(f"{image.name}_invoke")
        self._fault: tuple[int, int, int] | None = None
        self._load()
        self._counter = Counter(*self._code(), image.core.architecture, self._marks(), cost)
        self._hook: Any = None
        self._native = native and self._native_handle() is not None
        self._engine.hook_add(self._uc.UC_HOOK_MEM_INVALID, self._note)
        self._engine.hook_add(self._uc.UC_HOOK_INTR, self._interrupt)
        self._boot()

    @property
    def is_native(self) -> bool:
        """Whether the hook in C counts."""
        return self._native

    def run(self, inputs: Sequence[tuple[int, bytes]], *, count: bool = True) -> Result:
        """One inference: each of `inputs` is written at its offset in the arena. Raises TargetError.

        Without `count` it runs at the emulator's full speed; should it fail, it runs again with it, to say where.
        """
        self._prepare(inputs)
        paint = count
        if paint:
            self._engine.mem_write(STACK_TOP - STACK, bytes([PAINT]) * STACK)
        if count:
            self._hooked()
        else:
            self._unhooked()
        self._counter.begin(self._invoke, self.limit if count else UNLIMITED)
        problem = self._go()
        if problem and not count:
            return self.run(inputs)
        if problem:
            raise TargetError(problem, next="report this as a bug of edgedl, with the model")
        return Result(
            bytes(self._engine.mem_read(self.image.arena, self.image.arena_bytes)) if self.image.arena_bytes else b"",
            self._counter.counts() if count else None,
            self._depth() if paint else None,
        )

    # --- putting it together

    def _opened(self) -> Any:
        uc, name = self._uc, self.image.core.emulated
        if not name:
            raise TargetError(
                f"the emulator of the package unicorn has no {self.image.core.name}",
                next="install qemu-system-arm and gcc-arm-none-eabi, or choose another core",
            )
        if self.image.core.architecture == "riscv":
            engine = uc.Uc(uc.UC_ARCH_RISCV, uc.UC_MODE_RISCV32)
            model = getattr(unicorn("unicorn.riscv_const"), f"UC_CPU_{name}")
        else:
            engine = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB | uc.UC_MODE_MCLASS)
            model = getattr(unicorn("unicorn.arm_const"), f"UC_CPU_ARM_{name}")
        engine.ctl_set_cpu_model(model)
        return engine

    def _load(self) -> None:
        """Flash (read only), variables, stack and arena, each on pages of its own with unmapped ones around."""
        uc = self._uc
        flash = [(s.stored_at, s.data, s.executable) for s in self._file.segments if s.stored_at < _BAND and s.data]
        for at, data, _ in flash:
            if at + len(data) > _BAND:
                raise TargetError(
                    f"the firmware stores {len(data):,} bytes at {at:#x}, outside of flash", next="build it again"
                )
        end = max((at + len(data) for at, data, _ in flash), default=0)
        self._engine.mem_map(0, pages(end + PAGE), uc.UC_PROT_READ | uc.UC_PROT_EXEC)
        for at, data, _ in flash:
            self._engine.mem_write(at, data)
        for segment in self._file.segments:
            if segment.stored_at >= _BAND and segment.data:
                raise TargetError(
                    f"the firmware stores bytes at {segment.stored_at:#x}, outside of flash", next="build it again"
                )
        sections = self._file.sections
        tail = max((s.address + s.size for n, s in sections.items() if n in (".data", ".bss")), default=0)
        start = min((s.address for n, s in sections.items() if n in (".data", ".bss") and s.size), default=tail)
        if tail > start:
            first = start // PAGE * PAGE
            if not RAM <= first <= tail <= RAM + VARIABLES:
                raise TargetError("the variables of the firmware lie outside of RAM", next="build it again")
            self._engine.mem_map(first, pages(tail - first), uc.UC_PROT_READ | uc.UC_PROT_WRITE)
        self._engine.mem_map(STACK_TOP - STACK, STACK, uc.UC_PROT_READ | uc.UC_PROT_WRITE)
        if not 0 <= self.image.arena_bytes <= MAX_ARENA:
            raise TargetError(f"an arena of {self.image.arena_bytes:,} bytes is too large", next="use a smaller model")
        self._engine.mem_map(
            self.image.core.arena, pages(max(self.image.arena_bytes, 1)), uc.UC_PROT_READ | uc.UC_PROT_WRITE
        )

    def _code(self) -> tuple[int, bytes]:
        """Address and bytes of all that can run."""
        parts = [s for s in self._file.segments if s.executable]
        if not parts:
            raise TargetError("the firmware has no code", next="build it again")
        base = min(s.address for s in parts)
        end = max(s.address + len(s.data) for s in parts)
        if end - base > _BAND:
            raise TargetError("the code of the firmware lies too far apart", next="build it again")
        code = bytearray(end - base)
        for s in parts:
            code[s.address - base : s.address - base + len(s.data)] = s.data
        return base, bytes(code)

    def _marks(self) -> Mapping[int, int]:
        """Where layers begin; of several at one place the last: the others have no instruction."""
        found = {}
        for i in range(self.image.layers):
            if f"edgedl_layer_{i}" in self._file.symbols:
                found[self._file.symbol(f"edgedl_layer_{i}")] = i
        return found

    def _boot(self) -> None:
        if self.image.core.architecture == "arm":
            self._engine.mem_map(_SYSTEM, PAGE, self._uc.UC_PROT_READ | self._uc.UC_PROT_WRITE)
        self._set("sp", STACK_TOP)
        problem = self._go(self._file.entry, self._main, BOOT_LIMIT_S)
        if problem:
            raise TargetError(f"the firmware does not start: {problem}", next="build it again")
        if self.image.core.architecture == "arm":
            self._engine.mem_unmap(_SYSTEM, PAGE)
        self._engine.mem_unmap(0, PAGE)  # from here on a null pointer is an error

    # --- one inference

    def _prepare(self, inputs: Sequence[tuple[int, bytes]]) -> None:
        size = self.image.arena_bytes
        self._engine.mem_write(self.image.core.arena, bytes([PAINT]) * pages(max(size, 1)))
        for at, data in inputs:
            if at < 0 or at + len(data) > size:
                raise TargetError(
                    f"an input of {len(data):,} bytes does not lie in the arena of {size:,}",
                    next="convert the model again",
                )
            self._engine.mem_write(self.image.arena + at, data)
        self._set("sp", STACK_TOP)
        self._set("argument", self.image.arena)
        self._set("return", self._main | (self.image.core.architecture == "arm"))

    def _go(self, start: int | None = None, until: int | None = None, seconds: float | None = None) -> str:
        """Run from one address to another; what went wrong, or nothing."""
        begin = self._invoke if start is None else start
        thumb = 1 if self.image.core.architecture == "arm" else 0
        end = self._main if until is None else until
        allowed = self.seconds if seconds is None else seconds
        self._fault = None
        timer = threading.Timer(allowed, self._engine.emu_stop)  # unicorn's own polls, which takes a fifth of its speed
        timer.daemon = True
        timer.start()
        try:
            self._engine.emu_start(begin | thumb, end)
        except self._uc.UcError as error:
            return self._described(error)
        finally:
            timer.cancel()
        if self._counter_failure() is not None:
            return str(self._counter_failure())
        if self._fault is not None:
            return self._described(None)
        if self._get("pc") & ~1 == end:
            return "" if start is not None else self._checked()
        if start is None and self._counter.state.instructions > self._counter.state.limit:
            return f"the model did not end within {self.limit:,} instructions{self._where()}"
        return f"the model did not end within {allowed:g} s{self._where()}"

    def _counter_failure(self) -> str | None:
        counter: Counter | None = getattr(self, "_counter", None)
        return None if counter is None or counter.failure is None else counter.failure.message

    def _checked(self) -> str:
        """Whether the bytes that the arena leaves of its pages are as they were."""
        if self._get("sp") != STACK_TOP:
            return "the model returned with another stack pointer"
        size = self.image.arena_bytes
        before = self.image.arena - self.image.core.arena
        after = pages(max(size, 1)) - before - size
        for at, length, place in (
            (self.image.core.arena, before, "before"),
            (self.image.arena + size, after, "behind"),
        ):
            if length and bytes(self._engine.mem_read(at, length)) != bytes([PAINT]) * length:
                return f"the model wrote {place} its arena of {size:,} bytes"
        return ""

    def _depth(self) -> int:
        """Bytes of the stack that were written."""
        stack = bytes(self._engine.mem_read(STACK_TOP - STACK, STACK))
        return len(stack.lstrip(bytes([PAINT])))

    # --- hooks

    def _hooked(self) -> None:
        if self._hook is not None:
            return
        self._engine.ctl_flush_tb()  # what was translated without it
        if self._native:
            self._hook = self._native_hook()
        else:
            self._hook = self._engine.hook_add(self._uc.UC_HOOK_BLOCK, self._counter.block)

    def _unhooked(self) -> None:
        """Let go of the hook; what was translated with it must be translated again."""
        if self._hook is None:
            return
        if self._native:
            found = self._native_handle()
            assert found is not None
            found[0].uc_hook_del(found[1], ctypes.c_size_t(self._hook))
        else:
            self._engine.hook_del(self._hook)
        self._hook = None
        self._engine.ctl_flush_tb()

    def _native_handle(self) -> tuple[Any, Any, Any] | None:
        """The emulator's library, its handle and the hook in C; None where one of them is missing."""
        binding = getattr(self._uc, "unicorn_py3", None)
        library = getattr(getattr(binding, "unicorn", None), "uclib", None)
        handle = getattr(self._engine, "_uch", None)
        hook = native_hook()
        return None if None in (library, handle, hook) else (library, handle, hook)

    def _native_hook(self) -> Any:
        found = self._native_handle()
        assert found is not None
        library, handle, hook = found
        self._counter.state.stop = ctypes.cast(library.uc_emu_stop, ctypes.c_void_p)
        place = ctypes.c_size_t()
        status = library.uc_hook_add(
            handle, ctypes.byref(place), self._uc.UC_HOOK_BLOCK, ctypes.cast(hook, ctypes.c_void_p),
            ctypes.byref(self._counter.state), ctypes.c_uint64(1), ctypes.c_uint64(0),
        )  # fmt: skip
        if status:
            raise TargetError(f"the emulator takes no hook (error {status})", next="report this as a bug of edgedl")
        return place.value

    def _note(self, _engine: Any, kind: int, address: int, size: int, _value: int, _user: Any) -> bool:
        self._fault = kind, address, size
        return False

    def _interrupt(self, engine: Any, number: int, _user: Any) -> None:
        self._fault = -1, number, 0
        engine.emu_stop()

    # --- what went wrong

    def _described(self, error: Any) -> str:
        if self._fault is None:
            return f"the emulated core stopped ({error}){self._where()}"
        kind, address, size = self._fault
        if kind == -1:
            return f"the emulated core met an exception (number {address}){self._where()}"
        uc = self._uc
        verb = {
            uc.UC_MEM_READ_UNMAPPED: "read", uc.UC_MEM_READ_PROT: "read",
            uc.UC_MEM_WRITE_UNMAPPED: "wrote", uc.UC_MEM_WRITE_PROT: "wrote",
        }.get(kind, "jumped to")  # fmt: skip
        what = f"{size} byte{'s' if size != 1 else ''} at " if verb != "jumped to" else ""
        if STACK_TOP - STACK - (1 << 15) <= address < STACK_TOP - STACK:
            return f"the model needs more than {STACK:,} bytes of stack{self._where()}"
        return f"the model {verb} {what}{address:#x}, {self._place(address)}{self._where()}"

    def _place(self, address: int) -> str:
        base, arena, size = self.image.core.arena, self.image.arena, self.image.arena_bytes
        if base - (1 << 20) <= address < arena:
            return f"{arena - address:,} bytes before its arena"
        if arena + size <= address < arena + size + (1 << 20):
            return f"{address - arena - size:,} bytes behind its arena of {size:,}"
        if address < PAGE:
            return "by a null pointer"
        if address < _BAND:
            return "in flash"
        return "outside of its memory"

    def _where(self) -> str:
        counter: Counter | None = getattr(self, "_counter", None)
        if counter is None:
            return ""
        layer = counter.layer
        return f", at {self._get('pc'):#x}{'' if layer is None else f' in layer {layer}'}"

    # --- registers

    def _get(self, name: str) -> int:
        return int(self._engine.reg_read(self._registers[name]))

    def _set(self, name: str, value: int) -> None:
        self._engine.reg_write(self._registers[name], value)


def _registers_of(architecture: str) -> dict[str, int]:
    if architecture == "riscv":
        const = unicorn("unicorn.riscv_const")
        return {"pc": const.UC_RISCV_REG_PC, "sp": const.UC_RISCV_REG_SP, "argument": const.UC_RISCV_REG_A0,
                "return": const.UC_RISCV_REG_RA}  # fmt: skip
    const = unicorn("unicorn.arm_const")
    return {"pc": const.UC_ARM_REG_PC, "sp": const.UC_ARM_REG_SP, "argument": const.UC_ARM_REG_R0,
            "return": const.UC_ARM_REG_LR}  # fmt: skip
