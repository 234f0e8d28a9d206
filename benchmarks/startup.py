"""How long `edgedl --help` and `import edgedl` take, each a fresh process; an empty Python beside them.

python benchmarks/startup.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import figure

EDGEDL = Path(sys.executable).with_name("edgedl")


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main(rounds: int) -> None:
    """Print medians of interleaved runs."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import edgedl": [sys.executable, "-c", "import edgedl"],
        "edgedl --help": [str(EDGEDL), "--help"],
        "import edgedl.runtime": [sys.executable, "-c", "import edgedl.runtime"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            times[name].append(seconds(command))
    middle = {name: statistics.median(t) for name, t in times.items()}
    print(f"python -c pass         {middle['python -c pass']:.3f} s")
    print(f"import edgedl.runtime  {middle['import edgedl.runtime']:.3f} s (with numpy)")
    extra = middle["import edgedl"] - middle["python -c pass"]
    figure("import edgedl, above an empty Python", f"{extra:.3f} s", "<= 0.1 s", extra <= 0.1)
    whole = middle["edgedl --help"]
    figure("edgedl --help, whole process", f"{whole:.3f} s", "<= 0.25 s", whole <= 0.25)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
