"""Boards: what fits into them, how long an inference takes there, and what it costs in energy; read from profiles/*.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...registry import did_you_mean
from .cores import Core, core_of

PROFILES = Path(__file__).parent / "profiles"
KIB = 1024


@dataclass(frozen=True, slots=True)
class Profile:
    """A board. `ram` is the largest single piece of its RAM, in which arena, variables and stack lie; bytes, MHz.

    `current_ua_per_mhz` at `volts`: of the core running from flash, as the maker gives it; None: nothing to go by.
    """

    name: str
    about: str
    core: str
    flash: int
    ram: int
    clock_mhz: float
    source: str
    note: str = ""
    current_ua_per_mhz: float | None = None
    volts: float | None = None
    current_source: str = ""

    @property
    def joules_per_cycle(self) -> float | None:
        """Volts x amperes / hertz."""
        if self.current_ua_per_mhz is None or self.volts is None:
            return None
        return self.current_ua_per_mhz * 1e-12 * self.volts

    @property
    def processor(self) -> Core:
        return core_of(self.core)


@dataclass(frozen=True, slots=True)
class Fit:
    """Bytes that a firmware needs and a board has; `advice` is empty where it fits."""

    flash_needed: int
    flash: int
    ram_needed: int
    ram: int
    advice: str

    @property
    def fits(self) -> bool:
        return self.flash_needed <= self.flash and self.ram_needed <= self.ram


@cache
def profiles() -> Mapping[str, Profile]:
    """All boards by name."""
    found = {}
    for file in sorted(PROFILES.glob("*.toml")):
        table = tomllib.loads(file.read_text("utf-8"))
        memory = {key: table.pop(f"{key}_kib") * KIB for key in ("flash", "ram")}
        found[file.stem] = Profile(name=file.stem, **memory, **table)
    return found


def profile_of(name: str) -> Profile:
    """The board of this name. Raises UsageError."""
    known = profiles()
    if name not in known:
        raise UsageError(
            f"there is no board '{name}'{did_you_mean(name, known)}", next=f"choose one of {', '.join(known)}"
        )
    return known[name]


def fits(flash_needed: int, arena: int, stack: int, static: int, profile: Profile) -> Fit:
    """Whether a firmware of so many bytes fits into a board, and what would help where it does not.

    >>> fits(2 << 20, 300 << 10, 1000, 24, profile_of("nrf52840")).advice[:65]
    'it needs 1,048,576 bytes of flash more than nrf52840 has (1,048,5'
    """
    ram_needed = arena + stack + static
    parts, helps = [], []
    if flash_needed > profile.flash:
        over = flash_needed - profile.flash
        parts.append(f"{over:,} bytes of flash more than {profile.name} has ({profile.flash:,})")
        share = over / flash_needed
        helps.append(f"{share:.0%} of the weights pruned (--prune)")
    if ram_needed > profile.ram:
        over = ram_needed - profile.ram
        parts.append(f"{over:,} bytes of RAM more than the {profile.ram:,} of {profile.name} (arena {arena:,}, stack {stack:,}, "
                     f"variables {static:,})")  # fmt: skip
        helps.append(
            "a smaller input, or fewer channels in the layers with the largest activations (--prune --budget memory)"
        )
    if not parts:
        return Fit(flash_needed, profile.flash, ram_needed, profile.ram, "")
    larger = [
        p.name
        for p in sorted(profiles().values(), key=lambda p: (p.flash, p.ram))
        if flash_needed <= p.flash and ram_needed <= p.ram
    ]
    if larger:
        helps.append(f"another board: {', '.join(larger)}")
    return Fit(
        flash_needed, profile.flash, ram_needed, profile.ram, f"it needs {' and '.join(parts)}; {'; '.join(helps)}"
    )


def energy(profile: Profile, cycles: float) -> dict[str, Any] | None:
    """Joules of so many cycles by the maker's figure of current, labelled as what it is; None where there is none."""
    each = profile.joules_per_cycle
    if each is None:
        return None
    return {
        "joules": each * cycles,
        "estimate": True,
        "source": f"{profile.current_ua_per_mhz:g} µA/MHz at {profile.volts:g} V: {profile.current_source}",
    }
