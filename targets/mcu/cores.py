"""Processor cores: how the compiler is told of them, how they are emulated, what their kernels may use. One line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import UsageError
from ...registry import did_you_mean


@dataclass(frozen=True, slots=True)
class Core:
    """`target` and `cpu` are zig's (-target, -mcpu), `emulated` names unicorn's model of the core (empty: it has none), `gcc`
    are the flags of arm-none-eabi-gcc and `machine` QEMU's board (empty: none). `features` choose kernels.
    """

    name: str
    target: str
    cpu: str
    emulated: str
    features: frozenset[str] = frozenset()
    gcc: tuple[str, ...] = ()
    machine: str = ""
    about: str = ""
    arena: int = 0x2100_0000  # address of RAM for the arena, where QEMU's board has some

    @property
    def architecture(self) -> Literal["arm", "riscv"]:
        """Which of the two instruction sets."""
        return "riscv" if self.target.startswith("riscv") else "arm"


_HARD = "thumb-freestanding-eabihf"
_SOFT = "thumb-freestanding-eabi"
_DSP = frozenset({"dsp"})
_M4 = ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
_M7 = ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16")
_M33 = ("-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16")
_M55 = ("-mcpu=cortex-m55", "-mfloat-abi=hard")

CORES = {
    core.name: core
    for core in (
        Core("cortex-m0plus", _SOFT, "cortex_m0plus", "CORTEX_M0", frozenset(), ("-mcpu=cortex-m0plus",), "", "Armv6-M"),
        Core("cortex-m3", _SOFT, "cortex_m3", "CORTEX_M3", frozenset(), ("-mcpu=cortex-m3",), "mps2-an385", "Armv7-M"),
        Core("cortex-m4", _HARD, "cortex_m4+vfp4d16sp", "CORTEX_M4", _DSP, _M4, "mps2-an386", "Armv7E-M, FPU"),
        Core("cortex-m7", _HARD, "cortex_m7+fp_armv8d16sp", "CORTEX_M7", _DSP, _M7, "mps2-an500", "Armv7E-M, FPU", 0x6000_0000),
        Core("cortex-m33", _HARD, "cortex_m33+dsp+fp_armv8d16sp", "CORTEX_M33", _DSP, _M33, "", "Armv8-M"),
        Core("cortex-m55", _HARD, "cortex_m55", "", frozenset({"dsp", "mve"}), _M55, "mps3-an547", "Armv8.1-M, MVE"),
        Core("rv32imc", "riscv32-freestanding-none", "generic_rv32+m+c", "RISCV32_BASE32", about="RISC-V, no FPU"),
    )
}  # fmt: skip
DEFAULT = "cortex-m4"


def core_of(name: str) -> Core:
    """The core of this name. Raises UsageError.

    >>> core_of("cortex-m4").features
    frozenset({'dsp'})
    """
    if name not in CORES:
        raise UsageError(
            f"there is no core '{name}'{did_you_mean(name, CORES)}", next=f"choose one of {', '.join(CORES)}"
        )
    return CORES[name]
