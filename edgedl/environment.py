"""The machine a measurement was made on: processor, clock governor, memory, load, system, versions."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "edgedl",
    "numpy",
    "ai-edge-litert",
    "tflite-runtime",
    "onnxruntime",
    "onnx",
    "ai-edge-quantizer",
    "tensorflow",
    "keras",
    "torch",
)
ARM_CORES = {  # CPU part of /proc/cpuinfo (Arm Ltd., implementer 0x41)
    0xC07: "Cortex-A7",
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD40: "Neoverse-V1",
    0xD4F: "Neoverse-V2",
}
CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")


def environment() -> dict[str, Any]:
    """What is known about this machine now, as plain JSON values; what the system does not tell is None.

    `cores`: those this process may use. `governor`: of the clock frequency ("performance" measures best). `load_1m`:
    runnable processes, the mean over a minute; above a fraction of `cores`, something else was running.
    """
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu_model(_read(Path("/proc/cpuinfo"))) or platform.processor() or platform.machine(),
        "board": _read(Path("/proc/device-tree/model")).strip("\0\n ") or None,
        "machine": platform.machine(),
        "cores": usable,
        "governor": _read(CPUFREQ / "scaling_governor").strip() or None,
        "max_mhz": _mhz(_read(CPUFREQ / "cpuinfo_max_freq")),
        "load_1m": None if load is None else round(load[0], 2),
        "memory_bytes": _memory_bytes(),
        "os": _os_name(_read(Path("/etc/os-release"))) or platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The installed packages that have a say in a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_model(cpuinfo: str) -> str:
    """The processor's name in the text of /proc/cpuinfo, or nothing.

    >>> cpu_model("processor : 0\\nmodel name : AMD EPYC 7B13\\n")
    'AMD EPYC 7B13'
    >>> cpu_model("CPU implementer : 0x41\\nCPU part : 0xd0b\\n")
    'Arm Cortex-A76'
    """
    named = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    part = re.search(r"^CPU part\s*:\s*(0x[0-9a-fA-F]+)$", cpuinfo, re.MULTILINE)
    arm = re.search(r"^CPU implementer\s*:\s*0x41$", cpuinfo, re.MULTILINE)
    if part and arm and int(part[1], 16) in ARM_CORES:
        return f"Arm {ARM_CORES[int(part[1], 16)]}"
    return named[1].strip() if named else ""


def _os_name(release: str) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)"?$', release, re.MULTILINE)
    return found[1] if found else ""


def _mhz(khz: str) -> int | None:
    return int(khz) // 1000 if khz.strip().isdigit() else None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
