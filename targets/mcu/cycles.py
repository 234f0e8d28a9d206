"""An estimate of cycles: each instruction's class looked up in the timings that Arm publishes for the core.

It knows nothing of flash wait states, caches, bus contention or operands that end a division early; docs/microcontrollers.md
says how far that leads.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from .cores import Core
from .counting import Cost


@dataclass(frozen=True, slots=True)
class Timing:
    """Cycles by class. `load` and `store`: single ones; `after_load`: a load right behind another load or store;
    `multiple`: of LDM, STM, PUSH, POP and doubles, plus one for each register; `jump`: refilling the pipeline."""

    source: str
    load: int
    after_load: int
    store: int
    multiple: int
    jump: int
    call: int  # like `jump`, of BL
    return_: int  # like `jump`, of a POP of the program counter
    multiply: int
    accumulate: int
    long: int  # 32 x 32 -> 64
    divide: int


TIMINGS = {
    "cortex-m0plus": Timing("Arm DDI 0484C, table 3-1, fast multiplier", 2, 2, 2, 1, 1, 2, 2, 1, 1, 1, 1),
    "cortex-m3": Timing("Arm DDI 0337I, table 3-1; jumps 2, long multiplications 4, divisions 7", 2, 1, 1, 1, 2, 2, 2, 1, 2, 4, 7),
    "cortex-m4": Timing("Arm DDI 0439D, table 3-1 and 7-1; jumps 2, divisions 7", 2, 1, 1, 1, 2, 2, 2, 1, 1, 1, 7),
}  # fmt: skip
_FLOAT = {"vdiv": 14, "vsqrt": 14, "vmla": 3, "vmls": 3, "vnmla": 3, "vnmls": 3, "vfma": 3, "vfms": 3, "vfnma": 3, "vfnms": 3,
          "vldr": 2, "vstr": 2}  # fmt: skip
_CONDITIONS = "(?:eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?"
_LOAD = re.compile(r"ldr(?:b|h|sb|sh)?(?:t|ex|exb|exh)?" + _CONDITIONS + "$")
_STORE = re.compile(r"str(?:b|h)?(?:t|ex|exb|exh)?" + _CONDITIONS + "$")
_MULTIPLE = re.compile(r"(?:push|pop|ldm|stm|vldm|vstm|vpush|vpop|vldmia|vstmia)(?:ia|db)?" + _CONDITIONS + "$")
_JUMP = re.compile(r"(?:b|bx|blx|cbz|cbnz|tbb|tbh)" + _CONDITIONS + "$")


def cost_of(core: Core) -> Cost | None:
    """The estimate for a core; None where it has no published timings, or the package capstone is not installed."""
    timing = TIMINGS.get(core.name)
    reader = _capstone()
    if timing is None or reader is None:
        return None

    def cost(address: int, code: bytes) -> tuple[int, int]:
        found = [(m, o) for _, _, m, o in reader.disasm_lite(code, address)]
        return cycles_of(found, timing), _penalty(found, timing)

    return cost


@cache
def _capstone() -> Any:
    try:
        capstone = importlib.import_module("capstone")
    except ImportError:
        return None
    reader = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
    reader.skipdata = True  # what it does not know counts as one cycle
    return reader


def cycles_of(instructions: Sequence[tuple[str, str]], timing: Timing) -> int:
    """Cycles of (mnemonic, operands) in a row, jumps not taken.

    >>> cycles_of([("ldr", "r0, [r1]"), ("ldr", "r2, [r3]"), ("smlad", "r0, r1, r2, r3")], TIMINGS["cortex-m4"])
    4
    """
    total, piped = 0, False
    for mnemonic, operands in instructions:
        name = mnemonic.removesuffix(".w").removesuffix(".n").partition(".")[0]
        is_load, is_store = bool(_LOAD.match(name)), bool(_STORE.match(name))
        total += _cycles(name, operands, piped, timing)
        piped = is_load or (is_store and not _has_index(operands))
    return total


def _cycles(name: str, operands: str, piped: bool, timing: Timing) -> int:
    if _LOAD.match(name):
        return timing.after_load if piped else timing.load
    if _STORE.match(name):
        return timing.store + (timing.store < timing.load and _has_index(operands) and not piped)
    if name.startswith(("ldrd", "strd")):
        return timing.multiple + 2
    if _MULTIPLE.match(name):
        return timing.multiple + _registers(operands)
    for prefix, cycles in _FLOAT.items():
        if name.startswith(prefix):
            return cycles
    if name.startswith(("udiv", "sdiv")):
        return timing.divide
    if name.startswith(("umull", "smull", "umlal", "smlal", "umaal")):
        return timing.long
    if name.startswith(("mla", "mls")):
        return timing.accumulate
    return timing.multiply if name.startswith("mul") else 1


def _penalty(instructions: Sequence[tuple[str, str]], timing: Timing) -> int:
    if not instructions:
        return 0
    mnemonic, operands = instructions[-1]
    name = mnemonic.removesuffix(".w").partition(".")[0]
    if name.startswith(("pop", "ldm")) and "pc" in operands:
        return timing.return_
    if name == "bl":
        return timing.call
    return timing.jump if _JUMP.match(name) else 0


def _has_index(operands: str) -> bool:
    """Whether an address is made of two registers.

    >>> _has_index("r0, [r1, r2]"), _has_index("r0, [r1, #4]")
    (True, False)
    """
    return bool(re.search(r"\[\w+, r\d", operands))


def _registers(operands: str) -> int:
    """How many registers a list names.

    >>> _registers("{r4, r5, pc}"), _registers("r0!, {r1, r2}"), _registers("{s0-s3}")
    (3, 2, 4)
    """
    inside = operands.partition("{")[2].partition("}")[0]
    count = 0
    for part in filter(None, (p.strip() for p in inside.split(","))):
        first, dash, last = part.partition("-")
        count += int(last[1:]) - int(first[1:]) + 1 if dash and first[1:].isdigit() and last[1:].isdigit() else 1
    return count
