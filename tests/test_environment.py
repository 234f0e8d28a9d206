"""What is said about the machine is JSON and agrees with the system's own words."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata

from edgedl.environment import cpu_model, environment, versions

RASPBERRY = """processor\t: 0
BogoMIPS\t: 108.00
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""


def test_agrees_with_the_system() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"]
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["python"] == platform.python_version()
    assert found["kernel"] == platform.release()
    assert found["memory_bytes"] > 1 << 28
    assert 0 <= found["load_1m"] < 10_000


def test_versions_are_those_installed() -> None:
    found = versions()
    assert found["numpy"] == metadata.version("numpy")
    assert all(isinstance(v, str) for v in found.values())


def test_cpu_names() -> None:
    assert cpu_model(RASPBERRY) == "Arm Cortex-A72"
    assert cpu_model(RASPBERRY.replace("0xd08", "0xfff")) == "Raspberry Pi 4 Model B Rev 1.4"
    assert cpu_model("model name\t: AMD EPYC 7B13\nmodel name\t: AMD EPYC 7B13\n") == "AMD EPYC 7B13"
    assert cpu_model("") == ""
