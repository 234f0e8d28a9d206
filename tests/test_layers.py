"""Who may import whom: read from the source, so that a lazy import inside a function counts as well."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVEL_1 = {
    "__init__", "errors", "registry", "preprocess", "artifact", "engine", "model", "data", "metrics",
    "calibration", "protocols", "worker", "environment", "verification", "options", "stats", "layouts", "sniffing",
    "frameworks", "macs", "scratch", "user_code",
}  # fmt: skip
KINDS = {"stages", "converters", "targets", "runtime"}
RUNTIME_MAY = {"errors", "preprocess", "artifact", "engine", "runtime"}
FRAMEWORKS = {
    "tensorflow", "keras", "tf_keras", "torch", "onnx", "onnxruntime", "tf2onnx", "ai_edge_litert", "ai_edge_quantizer",
    "sklearn", "PIL", "tflite_runtime", "tensorflow_model_optimization",
}  # fmt: skip


def sources() -> list[Path]:
    found = [p for top in ("edgedl", "converters", "targets") for p in sorted((ROOT / top).rglob("*.py"))]
    return [
        p
        for p in found
        if not p.is_relative_to(ROOT / "edgedl/converters") and not p.is_relative_to(ROOT / "edgedl/targets")
    ]


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "edgedl" else parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def imports(path: Path) -> list[tuple[str, bool]]:
    """(top name below edgedl or "!framework", whether it is at module level), type-checking imports left out."""
    tree = ast.parse(path.read_text())
    module = module_of(path)
    package = module if path.name == "__init__.py" and module != ("__init__",) else module[:-1]
    skip = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for n in ast.walk(block)
    }
    top = {id(n) for n in tree.body}
    found = []
    for node in ast.walk(tree):
        if id(node) in skip:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple(
                (node.module or "").split(".") if node.module else ()
            )
            names = [base[0]] if base else [a.name for a in node.names]
            found += [(name, id(node) in top) for name in names]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            full = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [(f"!{name.split('.')[0]}", id(node) in top) for name in full]
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    module = module_of(path)
    here = module[0]
    for name, at_top in imports(path):
        if name.startswith("!"):
            assert not (at_top and name[1:] in FRAMEWORKS), f"{name[1:]} must be imported inside a function"
            assert name[1:] != "click" or here == "cli", "only cli imports click"
            assert name[1:] not in ("edgedl", "converters", "targets") or here == "__main__", "import edgedl relatively"
            continue
        if name in ("__version__",):
            continue
        if here == "runtime":
            assert name in RUNTIME_MAY, f"the runtime ships alone: not with {name}"
        elif here in KINDS:
            assert name in LEVEL_1 or name == here, f"{here} may not import {name}"
        elif here in LEVEL_1:
            assert name in LEVEL_1, f"{here} is level 1 and may not import {name}"
        elif here not in ("cli", "__main__"):
            assert name not in KINDS | {"cli"}, f"{here} may not import {name}: use the registry"


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split()[-2000:])


@pytest.mark.parametrize(
    "code",
    [
        "import edgedl",
        "import edgedl.runtime",
        "import edgedl.cli",
        "from edgedl.registry import names\nfor k in ('stage', 'converter', 'importer', 'inspector', 'target'): names(k)",
    ],
)
def test_light_imports(code: str) -> None:
    assert not modules_after(code) & FRAMEWORKS


def test_import_edgedl_brings_no_numpy() -> None:
    assert "numpy" not in modules_after("import edgedl")


def test_help_brings_no_numpy() -> None:
    assert "numpy" not in modules_after("from edgedl.cli import run\nrun(['--help'])")
