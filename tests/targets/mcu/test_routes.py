"""The same image in unicorn and in QEMU: outputs, instructions of every layer and the stack agree exactly."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from edgedl.errors import MissingDependencyError, TargetError
from edgedl.targets.mcu import qemu, toolchain
from edgedl.targets.mcu.cores import CORES
from edgedl.targets.mcu.image import build
from edgedl.targets.mcu.machine import Machine
from edgedl.targets.mcu.qemu import Qemu

from .models import ARENA, TWO_LAYERS, broken, expected

pytest.importorskip("unicorn", reason="needs unicorn: pip install 'edgedl[mcu]'")
pytest.importorskip("ziglang", reason="needs ziglang: pip install 'edgedl[mcu]'")
needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="needs qemu-system-arm")
needs_gcc = pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="needs gcc-arm-none-eabi")
COMPILERS = ["zig", pytest.param("gcc", marks=needs_gcc)]
X = np.random.default_rng(2).integers(-128, 128, 16).astype(np.int8)


@needs_qemu
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4", "cortex-m7"])
def test_both_routes_agree_to_the_instruction(core: str, compiler: str) -> None:
    image = build(TWO_LAYERS, "net", ARENA, CORES[core], compiler=compiler)  # type: ignore[arg-type]
    ours, other = Machine(image).run([(0, X.tobytes())]), Qemu(image).run([(0, X.tobytes())])
    assert ours == other
    assert ours.counts is not None
    assert len(ours.counts.layers) == 2


@needs_qemu
@pytest.mark.parametrize("compiler", COMPILERS)
def test_mve_in_qemu(compiler: str) -> None:
    image = build(TWO_LAYERS, "net", ARENA, CORES["cortex-m55"], compiler=compiler)  # type: ignore[arg-type]
    found = Qemu(image).run([(0, X.tobytes())])
    np.testing.assert_array_equal(np.frombuffer(found.arena[16:48], np.int32), expected(X))
    assert found.counts is not None
    assert found.counts.before + sum(found.counts.layers) == found.counts.instructions > 200


@needs_qemu
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("for (;;) { ((volatile uint8_t *)arena)[0]++; }", "did not end within 50,000 instructions"),
        ("((volatile uint8_t *)arena)[5] = 2;", "wrote outside of its arena of 4 bytes"),
        ("__builtin_trap();", "did not return in QEMU"),
        ("*(volatile uint32_t *)0xF0000000 = 1;", "did not return in QEMU"),
    ],
)
def test_what_goes_wrong_in_qemu(body: str, why: str) -> None:
    with pytest.raises(TargetError, match=why):
        Qemu(build(broken(body), "net", 4, CORES["cortex-m4"]), limit=50_000).run([])


@needs_qemu
def test_a_process_that_hangs_is_ended() -> None:
    with pytest.raises(TargetError, match=r"did not end within 0\.5 s"):
        Qemu(
            build(broken("for (;;) { ((volatile uint8_t *)arena)[0]++; }"), "net", 4, CORES["cortex-m4"]), seconds=0.5
        ).run([])


@needs_qemu
def test_a_board_that_is_too_small() -> None:
    source = broken("arena[1] = table[arena[2]];", f"static const uint8_t table[{600 << 10}] = {{1}};")
    with pytest.raises(TargetError, match=r"mps3-an547 has 524,288"):
        Qemu(build(source, "net", 4, CORES["cortex-m55"]))


def test_cores_without_a_board() -> None:
    for core in ("rv32imc", "cortex-m0plus"):
        with pytest.raises(TargetError, match="QEMU has no board"):
            Qemu(build(TWO_LAYERS, "net", ARENA, CORES[core]))


def test_programs_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for find, name in ((qemu.program, "qemu-system-arm"), (toolchain.gcc, "arm-none-eabi-gcc")):
        find.cache_clear()
        with pytest.raises(MissingDependencyError, match=name) as told:
            find()
        assert "apt-get install" in told.value.next
        find.cache_clear()
    monkeypatch.undo()


def test_gcc_has_no_riscv() -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("needs gcc-arm-none-eabi")
    with pytest.raises(TargetError, match="has no core rv32imc"):
        build(TWO_LAYERS, "net", ARENA, CORES["rv32imc"], compiler="gcc")
