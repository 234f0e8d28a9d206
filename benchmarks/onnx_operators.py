"""Every ONNX operator through the importer: onnx's own node tests, as pass/all for each, with the reason for the rest.

python benchmarks/onnx_operators.py [--doc docs/importers/onnx.md] [--expanded] [OPERATOR ...]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- operators: made by benchmarks/onnx_operators.py -->", "<!-- end of operators -->"
Found = dict[str, list[tuple[str, Any]]]

sys.path.insert(0, str(ROOT / "tests" / "converters" / "from_onnx"))


def measured(wanted: Sequence[str], *, expanded: bool) -> Found:
    """By operator, (test, outcome) of each of its tests."""
    import node_cases

    found: Found = {}
    for case in node_cases.cases(expanded):
        op = node_cases.operator(case)
        if not wanted or op in wanted:
            found.setdefault(op, []).append((case.name, node_cases.run(case)))
    return found


def passed(results: Iterable[tuple[str, Any]]) -> int:
    """How many passed."""
    return sum(outcome.status == "passed" for _, outcome in results)


def printed(found: Found) -> None:
    """A line an operator, and below it what did not pass."""
    for op, results in sorted(found.items()):
        print(f"{op:<28} {passed(results):>4}/{len(results)}")
        for name, outcome in results:
            if outcome.status != "passed":
                print(f"    {name}: {outcome.status}: {outcome.reason}")


def totals(found: Found) -> Counter[str]:
    """How many tests passed, were refused, gave other numbers, crashed."""
    return Counter(outcome.status for results in found.values() for _, outcome in results)


def versions() -> str:
    """What ran."""
    import keras
    import onnx
    import tensorflow as tf

    return f"onnx {onnx.__version__}, Keras {keras.__version__}, TensorFlow {tf.__version__}"


def table(found: Found, expanded: Found) -> str:
    """The operators as Markdown: those whose tests all pass, those of which some do, those that are refused."""
    whole = sorted(op for op, r in found.items() if passed(r) == len(r))
    some = sorted(op for op, r in found.items() if 0 < passed(r) < len(r))
    none = sorted(op for op, r in found.items() if not passed(r))
    total, larger = totals(found), totals(expanded)
    lines = [
        f"{len(whole)} operators pass all their tests, {len(some)} some, {len(none)} none: {total['passed']} of "
        f"{sum(total.values())} tests pass, {total['refused']} are refused with a reason, {total['wrong']} give other "
        f"numbers, {total['crashed']} crash. Of onnx's functions written out as graphs, {larger['passed']} of "
        f"{sum(larger.values())} pass ({larger['refused']} refused, {larger['wrong']} other numbers, "
        f"{larger['crashed']} crashes). {versions()}.",
        "",
        "All tests pass: " + ", ".join(f"`{op}` {len(found[op])}" for op in whole) + ".",
        "",
        "| operator | tests | what does not pass |",
        "|---|---|---|",
        *(f"| `{op}` | {passed(found[op])}/{len(found[op])} | {_reasons(found[op])} |" for op in [*some, *none]),
    ]
    return "\n".join(lines)


def _reasons(results: Iterable[tuple[str, Any]]) -> str:
    """The reasons without the names in them, each once, with how often."""
    found: Counter[str] = Counter()
    for name, outcome in results:
        if outcome.status == "refused":
            found[_general(outcome.reason, name)] += 1
        elif outcome.status != "passed":
            found[f"{outcome.status}: {outcome.reason}".replace("|", "\\|")] += 1
    return "; ".join(f"{why} ({n})" for why, n in found.most_common(4))


def _general(reason: str, name: str) -> str:
    told = reason.partition(") has ")[2] or reason.replace(f" of {name}", "")
    if ") is not an operator" in reason or "no builder" in told:
        return "no such operator here"
    return told.replace("|", "\\|")


def written(path: Path, text: str) -> None:
    """Put the table between the markers of a page."""
    page = path.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in page:
        sys.exit(f"{path} lacks the lines '{BEGIN}' and '{END}'")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main(arguments: Sequence[str]) -> None:
    """Run, print, and write the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operator", nargs="*")
    parser.add_argument("--doc", type=Path)
    parser.add_argument("--expanded", action="store_true", help="also the functions written out as graphs")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    begun = time.perf_counter()
    found = measured(given.operator, expanded=False)
    expanded: Mapping[str, Any] = measured((), expanded=True) if given.expanded or given.doc else {}
    printed(found)
    if expanded:
        print("\nwritten out as graphs")
        printed(dict(expanded))
    print(f"\n{dict(totals(found))}, written out {dict(totals(dict(expanded)))}, {time.perf_counter() - begun:.0f} s")
    if given.doc:
        written(given.doc, table(found, dict(expanded)))


if __name__ == "__main__":
    main(sys.argv[1:])
