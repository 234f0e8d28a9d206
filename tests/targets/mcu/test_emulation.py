"""Firmware built by zig's clang and run in unicorn: outputs, exact counts, layers, memory, and all that may go wrong."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedl.errors import MissingDependencyError, TargetError
from edgedl.targets.mcu import counting, elf, machine, toolchain
from edgedl.targets.mcu.cores import CORES as TABLE
from edgedl.targets.mcu.image import Image, arena_address, build
from edgedl.targets.mcu.machine import Machine

from .models import ARENA, CORES, TWO_LAYERS, broken, expected

pytest.importorskip("unicorn", reason="needs unicorn: pip install 'edgedl[mcu]'")
pytest.importorskip("ziglang", reason="needs ziglang: pip install 'edgedl[mcu]'")

M4 = TABLE["cortex-m4"]
X = np.random.default_rng(1).integers(-128, 128, 16).astype(np.int8)


def net(core: str = "cortex-m4", **how: object) -> Image:
    return build(TWO_LAYERS, "net", ARENA, TABLE[core], **how)  # type: ignore[arg-type]


def outputs(arena: bytes) -> np.ndarray:
    return np.frombuffer(arena[16:48], np.int32)


@pytest.mark.parametrize("core", CORES)
def test_outputs_and_equal_counts_of_both_hooks(core: str) -> None:
    image = net(core)
    native, plain = Machine(image), Machine(image, native=False)
    assert native.is_native, "the hook in C was not compiled"
    assert not plain.is_native
    for seed in range(3):
        x = np.random.default_rng(seed).integers(-128, 128, 16).astype(np.int8)
        a, b, bare = (
            m.run([(0, x.tobytes())], **how) for m, how in ((native, {}), (plain, {}), (native, {"count": False}))
        )
        np.testing.assert_array_equal(outputs(a.arena), expected(x))
        assert a.arena == b.arena == bare.arena
        assert a.counts == b.counts
        assert a.counts is not None
        assert bare.counts is None
        assert len(a.counts.layers) == 2
        assert a.counts.before + sum(a.counts.layers) == a.counts.instructions
        assert a.counts.layers[0] > 128 > a.counts.layers[1] > 24 or core == "cortex-m0plus"
        assert a.stack == b.stack
        assert 0 < (a.stack or 0) < 512


@pytest.mark.parametrize("core", CORES)
def test_marks_of_layers_add_no_instruction(core: str) -> None:
    marked, bare = net(core), net(core, mark=False)
    texts = [_section(image.data, ".text") for image in (marked, bare)]
    assert texts[0] == texts[1]
    counts = [Machine(image).run([(0, X.tobytes())]).counts for image in (marked, bare)]
    assert counts[0] is not None
    assert counts[1] is not None
    assert counts[0].instructions == counts[1].instructions
    assert counts[1].layers == ()


def _section(data: bytes, name: str) -> bytes:
    read = elf.read(data)
    section = read.sections[name]
    segment = next(s for s in read.segments if s.address <= section.address < s.address + s.size)
    return segment.data[section.address - segment.address :][: section.size]


def test_counts_equal_what_single_steps_count() -> None:
    """The oracle: unicorn's hook at every instruction."""
    import unicorn as uc

    image = net()
    core, steps = Machine(image), [0]
    core._engine.hook_add(uc.UC_HOOK_CODE, lambda *_: steps.__setitem__(0, steps[0] + 1))
    counts = core.run([(0, X.tobytes())]).counts
    assert counts is not None
    assert counts.instructions == steps[0] > 500


def test_a_known_number_of_instructions() -> None:
    body = '__asm__ volatile("movs r0, #10\\n1: subs r0, r0, #1\\nbne 1b" ::: "r0", "cc");'
    counts = Machine(build(broken(body), "net", 4, M4)).run([]).counts
    assert counts is not None
    assert counts.layers[1] == 1 + 10 * 2 + 1  # and the return


def test_sizes_are_those_of_the_sections() -> None:
    sizes = net().sizes
    assert 100 < sizes.code < 1000
    assert 128 <= sizes.constants < 160
    assert (sizes.data, sizes.bss) == (4, 20)
    assert (sizes.flash, sizes.static) == (sizes.code + sizes.constants + 4, 24)
    assert net(optimize="s").sizes.code < sizes.code


@pytest.mark.parametrize("optimize", ["2", "3", "s"])
def test_every_optimization_gives_the_same_outputs(optimize: str) -> None:
    found = Machine(net(optimize=optimize)).run([(0, X.tobytes())])
    np.testing.assert_array_equal(outputs(found.arena), expected(X))
    assert found.counts is not None
    assert len(found.counts.layers) == 2


def test_variables_are_set_before_main() -> None:
    body = "for (int i = 0; i < 5; i++) arena[i] = (uint8_t)(given[i] + cleared[i]);"
    source = broken(body, "volatile uint8_t given[5] = {1, 2, 3, 4, 5};\nvolatile uint8_t cleared[5];")
    assert Machine(build(source, "net", 8, M4)).run([]).arena[:5] == bytes([1, 2, 3, 4, 5])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.binary(min_size=96, max_size=96))
def test_memory_functions_are_the_c_librarys(to: int, start: int, size: int, data: bytes) -> None:
    body = "(memcpy)(arena + 16 + arena[12], arena + 112 + arena[13], arena[14]); (memset)(arena + 208 + arena[13], 7, arena[14]);"
    body += "(memmove)(arena + 304 + arena[12], arena + 304 + arena[13], arena[14]);"
    for core in ("cortex-m4", "rv32imc"):
        found = MEMORY.setdefault(core, Machine(build(broken(body), "net", 400, TABLE[core])))
        filled = bytearray(16) + data * 4
        filled[12:15] = to, start, size
        want = bytearray(filled)
        want[0] = 1
        want[16 + to : 16 + to + size] = want[112 + start : 112 + start + size]
        want[208 + start : 208 + start + size] = bytes([7]) * size
        want[304 + to : 304 + to + size] = want[304 + start : 304 + start + size]
        assert found.run([(0, bytes(filled))], count=False).arena == bytes(want)


MEMORY: dict[str, Machine] = {}


@settings(max_examples=25)
@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, 63))
def test_arithmetic_that_armv6_has_no_instruction_for(a: int, b: int, by: int) -> None:
    body = """int64_t a; int32_t b, c; memcpy(&a, arena + 8, 8); memcpy(&b, arena + 16, 4); memcpy(&c, arena + 20, 4);
    int64_t out[4] = {(int64_t)((uint64_t)a * (uint64_t)b), (int64_t)((uint64_t)a << c), (int64_t)((uint64_t)a >> c), a >> c};
    int32_t low = (int32_t)a; if (b == 0 || b == -1) b = 3;
    int32_t more[4] = {low / b, low % b, (int32_t)((uint32_t)low / (uint32_t)b), (int32_t)((uint32_t)low % (uint32_t)b)};
    memcpy(arena + 24, out, 32); memcpy(arena + 56, more, 16);"""
    found = MEMORY.setdefault("m0", Machine(build(broken(body), "net", 72, TABLE["cortex-m0plus"])))
    arena = found.run([(8, struct.pack("<qii", a, b, by))], count=False).arena
    u64 = a & (1 << 64) - 1
    want = [_signed(u64 * b, 64), _signed(u64 << by, 64), _signed(u64 >> by, 64), a >> by]
    assert list(struct.unpack("<4q", arena[24:56])) == want
    low, b = _signed(a, 32), 3 if b in (0, -1) else b
    quotient = int(abs(low) // abs(b)) * (1 if (low < 0) == (b < 0) else -1)
    ulow, ub = low & 0xFFFFFFFF, b & 0xFFFFFFFF
    more = [quotient, low - quotient * b, _signed(ulow // ub, 32), _signed(ulow % ub, 32)]
    assert list(struct.unpack("<4i", arena[56:72])) == more


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


# --- what may go wrong


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("core", ["cortex-m4", "rv32imc"])
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("((volatile uint8_t *)arena)[41] = 2;", r"1 byte at 0x[0-9a-f]+, 1 bytes behind its arena of 40.* in layer 1"),
        (
            "arena[1] = ((volatile uint8_t *)arena)[4000];",
            r"read 1 byte.*3,960 bytes behind its arena of 40.* in layer 1",
        ),
        ("*(volatile uint32_t *)(arena - 4056 - 4) = 2;", r"wrote 4 bytes.*4,060 bytes before its arena.* in layer 1"),
        ("*(volatile uint32_t *)(arena - 8) = 2;", "wrote before its arena of 40 bytes"),
        ("*(volatile uint32_t *)(uintptr_t)arena[3] = 2;", "by a null pointer"),
        ("*(volatile uint32_t *)net_invoke = 2;", "wrote 4 bytes at .*, in flash"),
        ("((void (*)(void))(arena + 1))();", "jumped to .*outside of its memory|jumped to .*arena|exception"),
        ("__builtin_trap();", "exception|stopped"),
    ],
)
def test_wrong_use_of_memory_names_address_and_layer(body: str, why: str, core: str, native: bool) -> None:
    image = build(broken(body), "net", 40, TABLE[core])
    for how in ({}, {"count": False}):
        with pytest.raises(TargetError, match=why):
            Machine(image, native=native).run([(0, bytes(40))], **how)


def test_a_stack_that_is_too_deep() -> None:
    source = broken(
        "arena[1] = deep(arena, 0);",
        """
    uint8_t deep(uint8_t *arena, int at);
    __attribute__((noinline)) uint8_t deep(uint8_t *arena, int at)
    { volatile uint8_t here[512]; here[at & 511] = arena[0]; return at > 1000 ? 0 : (uint8_t)(deep(arena, at + 1) + here[0]); }""",
    )
    with pytest.raises(TargetError, match=r"more than 65,536 bytes of stack.*in layer 1"):
        Machine(build(source, "net", 4, M4)).run([(0, bytes(4))])


@pytest.mark.parametrize("native", [True, False])
def test_a_model_that_hangs_meets_its_limits(native: bool) -> None:
    image = build(broken("for (;;) { ((volatile uint8_t *)arena)[0]++; }"), "net", 4, M4)
    with pytest.raises(TargetError, match=r"did not end within 100,000 instructions.* in layer 1"):
        Machine(image, native=native, limit=100_000).run([])
    with pytest.raises(TargetError, match=r"did not end within 0\.2 s.* in layer 1"):
        Machine(image, native=native, seconds=0.2).run([], count=False)


def test_what_the_compiler_finds_wrong_is_one_sentence() -> None:
    with pytest.raises(TargetError, match=r"^the C of net does not build for cortex-m4: net\.c:9: [^\n]*\n?") as told:
        build(broken("this is no C;"), "net", 4, M4)
    assert "\n" not in told.value.message
    with pytest.raises(TargetError, match=r"does not build for cortex-m4: .*nowhere"):
        build(broken("nowhere();", "void nowhere(void);"), "net", 4, M4)


@pytest.mark.parametrize(
    "files", [{}, {"net.c": "", "../x.c": ""}, {"net.c": "", "a b.c": ""}, {"net.c": "", "x.s": ""}]
)
def test_files_that_no_converter_writes_are_refused(files: dict[str, str]) -> None:
    with pytest.raises(TargetError, match=r"no name of a C file|no file net"):
        build(files, "net", 4, M4)


def test_inputs_outside_of_the_arena_are_refused() -> None:
    ready = Machine(net())
    for at, data in ((40, bytes(9)), (-1, bytes(4)), (1 << 31, b"1")):
        with pytest.raises(TargetError, match="does not lie in the arena of 48"):
            ready.run([(at, data)])


def test_an_arena_that_no_core_has() -> None:
    with pytest.raises(TargetError, match=r"needs 1,073,741,824 bytes"):
        build(TWO_LAYERS, "net", 1 << 30, M4)


def test_a_core_that_the_emulator_has_not() -> None:
    with pytest.raises(TargetError, match="has no cortex-m55") as told:
        Machine(net("cortex-m55"))
    assert "qemu-system-arm" in told.value.next


def test_an_image_for_another_core_is_refused() -> None:
    image = net("rv32imc")
    with pytest.raises(TargetError, match="is for riscv, and cortex-m4 is arm"):
        Machine(Image(M4, *[getattr(image, f) for f in Image.__dataclass_fields__ if f != "core"]))


def test_a_cut_file_is_an_error() -> None:
    data = net().data
    for size in (0, 3, 51, 60, 200, len(data) // 2, len(data) - 1):
        with pytest.raises(TargetError, match="cannot be used"):
            elf.read(data[:size])


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_a_tampered_file_is_read_within_bounds_or_refused(changes: list[tuple[int, int]], in_tables: bool) -> None:
    image = net()
    data = bytearray(image.data)
    tables = struct.unpack_from("<I", data, 32)[0]
    for at, value in changes:
        data[(tables + at % (len(data) - tables)) if in_tables else at % len(data)] = value
    tampered = Image(M4, image.name, bytes(data), image.sizes, ARENA, 2, "zig", (), 0.0, False)
    with contextlib.suppress(TargetError):
        Machine(tampered, limit=200_000, seconds=2).run([])


def test_images_are_kept_and_a_damaged_one_is_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEDL_CACHE", str(tmp_path))
    first, second = net(), net()
    assert not first.cached
    assert second.cached
    assert first.data == second.data
    assert second.seconds < 0.5
    kept = next((tmp_path / "firmware").glob("*.elf"))
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    third = net()
    assert not third.cached
    assert third.data == first.data
    assert not net(optimize="s").cached, "another flag is another image"
    assert {p.name for p in tmp_path.iterdir()} <= {"firmware", "zig"}


def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain.zig.cache_clear()
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="ziglang") as told:
        net()
    assert "edgedl[mcu]" in told.value.next
    toolchain.zig.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "unicorn", None)
    with pytest.raises(MissingDependencyError, match="unicorn") as told:
        machine.unicorn()
    assert "edgedl[mcu]" in told.value.next


def test_without_the_hook_in_c_the_one_in_python_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    image = net()
    native = Machine(image).run([(0, X.tobytes())]).counts
    monkeypatch.setattr(machine, "native_hook", lambda: None)
    plain = Machine(image)
    assert not plain.is_native
    assert plain.run([(0, X.tobytes())]).counts == native


def test_arenas_end_where_a_page_ends() -> None:
    for size in (1, 3, 4, 40, 4096, 4097, 55_000):
        end = arena_address(M4, size) + size
        assert arena_address(M4, size) % 4 == 0
        assert -end % 4096 < 4


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_count_that_fails_is_no_count(native: bool) -> None:
    def cost(address: int, code: bytes) -> tuple[int, int]:
        raise ZeroDivisionError

    with pytest.raises((TargetError, ZeroDivisionError), match=r"could not be counted|^$"):
        Machine(net(), cost=cost, native=native).run([(0, X.tobytes())])


def test_lengths_of_instructions() -> None:
    assert counting.instructions_in(b"", "arm") == 0
    assert counting.instructions_in(bytes.fromhex("704700f001f80020"), "arm") == 3
