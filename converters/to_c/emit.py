"""The C of a program: pure functions from values to text, and the two templates that they fill."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from string import Template

import numpy as np

from ...artifact import Array
from .call import Argument, Constant, Features, Params, Pointers, Ref
from .graph import C_TYPES
from .program import Program, Step, variables

HERE = Path(__file__).parent
KERNELS = HERE / "kernels"
FOLDERS = ("dsp",)  # features that have a folder of kernels; the first that has a kernel wins
LINE = 112  # characters of a line of numbers
KEYWORDS = frozenset(["auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern", "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed", "sizeof", "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while"])  # fmt: skip


def identifier(text: str) -> str:
    """A C identifier made of any text.

    >>> identifier("3x3/conv;relu"), identifier("for"), identifier("")
    ('m3x3_conv_relu', 'for_model', 'model')
    """
    found = re.sub(r"_+", "_", re.sub(r"[^0-9A-Za-z]", "_", text)).strip("_")
    found = f"m{found}" if found[:1].isdigit() else found or "model"
    return f"{found}_model" if found in KEYWORDS else found


def literal(value: int) -> str:
    """An int32 as C writes it.

    >>> literal(-2147483648), literal(7)
    ('(-2147483647 - 1)', '7')
    """
    return "(-2147483647 - 1)" if value == -(1 << 31) else str(value)


def comment(text: str) -> str:
    """Text that a C comment can hold: printable ASCII, without what would end it.

    >>> comment("a */ b\\n")
    'a * / b '
    """
    plain = re.sub(r"[^ -~]", " ", text)[:200]
    return plain.replace("*/", "* /").replace("/*", "/ *").rstrip("\\")


def wrapped(parts: Iterable[str], indent: str = "    ") -> str:
    """Comma-separated parts in lines."""
    lines, line = [], indent
    for part in parts:
        if len(line) + len(part) + 1 > LINE and line.strip():
            lines.append(line.rstrip())
            line = indent
        line += f"{part}, "
    return "\n".join([*lines, line.rstrip()])


def array(name: str, values: Array, align: int) -> str:
    """A constant array; an empty one has one zero, since C has no arrays of nothing."""
    flat = values.ravel() if values.size else np.zeros(1, values.dtype)
    if flat.dtype == np.bool_:
        flat = flat.astype(np.uint8)
    kind = C_TYPES.get(str(flat.dtype), f"{flat.dtype}_t")
    body = wrapped(literal(int(v)) for v in flat)
    return f"static const {kind} {name}[{len(flat)}] EDNN_ALIGNED({align}) = {{\n{body}\n}};\n"


def kernel_files(kernel: str, features: Features) -> list[Path]:
    """The .c and .h of a kernel for a core: of the first folder that has them, the header perhaps of the portable one."""
    folders = [*(KERNELS / f for f in FOLDERS if f in features), KERNELS / "portable"]
    found = []
    for suffix in (".c", ".h"):
        found.append(next(f / f"{kernel}{suffix}" for f in folders if (f / f"{kernel}{suffix}").is_file()))
    return found


def sources(program: Program, name: str) -> dict[str, str]:
    """All files of the firmware by name: `NAME.h`, `NAME.c`, the kernels that it calls and what these include."""
    return {f"{name}.h": header(program, name), f"{name}.c": code(program, name), **kernels(program)}


def kernels(program: Program) -> dict[str, str]:
    """The files of the kernels that a program calls, and of what these include; they do not depend on the model's name."""
    files: dict[str, str] = {}
    waiting = [
        p
        for kernel in dict.fromkeys(s.call.kernel for s in program.steps)
        for p in kernel_files(kernel, program.features)
    ]
    while waiting:
        path = waiting.pop()
        if path.name in files:
            continue
        files[path.name] = path.read_text("utf-8")
        for included in re.findall(r'^#include "([a-z0-9_]+\.h)"', files[path.name], re.MULTILINE):
            waiting += _with_code(included, program.features)
    return files


def _with_code(name: str, features: Features) -> list[Path]:
    """A header that is included, and the .c of its name if there is one: what several kernels share."""
    folders = [*(KERNELS / f for f in FOLDERS if f in features), KERNELS / "portable"]
    found = [next((f / n for f in folders if (f / n).is_file()), None) for n in (name, f"{name[:-2]}.c")]
    if found[0] is None:
        raise FileNotFoundError(f"no kernel has the header {name}")
    return [path for path in found if path is not None]


def header(program: Program, name: str) -> str:
    """`NAME.h`: sizes, scales, where inputs and outputs lie."""
    graph, upper = program.graph, name.upper()
    ends = [
        *((f"INPUT_{i}", t) for i, t in enumerate(graph.inputs)),
        *((f"OUTPUT_{i}", t) for i, t in enumerate(graph.outputs)),
    ]
    lines = []
    for label, tensor in ends:
        lines += [
            f"/* {comment(tensor.name)}: {tensor.dtype} {list(tensor.shape)} */",
            f"#define {upper}_{label}_OFFSET {program.places[id(tensor)]}u",
            f"#define {upper}_{label}_BYTES {tensor.nbytes}u",
        ]
        if tensor.is_quantized:
            lines += [
                f"#define {upper}_{label}_SCALE {float(tensor.scale)!r}f",
                f"#define {upper}_{label}_ZERO {tensor.zero_point}",
            ]
    macros = "\n".join(lines)
    forget = f"\n\n/* Forgets all earlier runs: call it before the first one. */\nvoid {name}_init(uint8_t *arena);"
    return _template("model.h.in").substitute(
        name=name,
        upper=upper,
        init=forget if states(program) else "",
        arena=max(program.plan.total, 1),
        macros=macros,
        source=comment(graph.name),
    )


def code(program: Program, name: str) -> str:
    """`NAME.c`: constants, parameters, and the calls in order."""
    constants = _Constants()
    parameters, calls = [], []
    for at, step in enumerate(program.steps):
        arguments = []
        for argument in step.call.arguments:
            if isinstance(argument, Params):
                parameters.append(_params(argument, f"layer_{at}", constants))
                arguments.append(f"&layer_{at}")
            else:
                arguments.append(_argument(program, step, argument, constants))
        calls.append(f"    EDNN_LAYER({at});")
        calls.append(f"    /* {comment(step.op.name)} ({step.op.kind}) */")
        calls.append(f"    {step.call.function}({', '.join(arguments)});")
    calls.append(f"    EDNN_LAYER({len(program.steps)});")
    if not program.steps:
        calls.append("    (void)arena;")
    included = dict.fromkeys(f'#include "{step.call.kernel}.h"' for step in program.steps)
    return _template("model.c.in").substitute(
        name=name, includes="\n".join(included), constants="\n".join(constants.text), parameters="\n".join(parameters),
        calls="\n".join(calls), source=comment(program.graph.name), init=_init(program, name),
    )  # fmt: skip


def states(program: Program) -> list[tuple[int, int, int]]:
    """Of each tensor that is kept from run to run: its offset in the arena, its bytes, and the byte that stands for zero."""
    return [
        (program.places[id(t)], t.nbytes, t.zero_point % 256 if t.dtype == "int8" else 0)
        for t in variables(program.graph)
    ]


def _init(program: Program, name: str) -> str:
    """The function that makes real zeros of all values that are kept from run to run; none: nothing."""
    lines = [
        f"    for (uint32_t i = 0; i < {size}u; i++) {{\n        arena[{place}u + i] = {zero};\n    }}"
        for place, size, zero in states(program)
    ]
    return "\n".join(["", f"void {name}_init(uint8_t *arena)", "{", *lines, "}", ""]) if lines else ""


class _Constants:
    """Arrays in flash; those with equal bytes and type are stored once."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.names: dict[tuple[str, bytes], str] = {}

    def name(self, constant: Constant) -> str:
        values = np.ascontiguousarray(constant.values)
        key = (str(values.dtype), values.tobytes())
        if key not in self.names:
            self.names[key] = f"data_{len(self.names)}"
            self.text.append(array(self.names[key], values, max(constant.align, values.dtype.itemsize)))
        return self.names[key]


def _params(params: Params, name: str, constants: _Constants) -> str:
    fields = []
    for field, value in params.fields.items():
        text = (
            "NULL" if value is None else constants.name(value) if isinstance(value, Constant) else literal(int(value))
        )
        fields.append(f".{field} = {text}")
    return f"static const {params.type} {name} = {{\n{wrapped(fields)}\n}};\n"


def _argument(program: Program, step: Step, argument: Argument, constants: _Constants) -> str:
    if isinstance(argument, Constant):
        return constants.name(argument)
    if isinstance(argument, Pointers):
        kind = "void *const" if any(ref.kind == "output" for ref in argument.refs) else "const void *const"
        inner = ", ".join(_argument(program, step, ref, constants) for ref in argument.refs)
        return f"({kind}[]){{{inner}}}"
    if not isinstance(argument, Ref):
        assert isinstance(argument, int)
        return literal(argument)
    if argument.kind == "scratch":
        return f"(void *)(arena + {step.scratch})"
    tensor = step.op.outputs[argument.index] if argument.kind == "output" else step.op.input(argument.index)
    if tensor.data is not None:
        return constants.name(Constant(tensor.values))
    return f"(void *)(arena + {program.places[id(tensor)]})"


def _template(name: str) -> Template:
    return Template((HERE / "templates" / name).read_text("utf-8"))
