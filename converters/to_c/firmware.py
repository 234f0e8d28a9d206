"""firmware(): a .tflite as a Firmware: its C files, where inputs and outputs lie in the arena, and what each layer is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

from ...artifact import TensorSpec
from ...errors import UsageError
from ..inspect_tflite import readable
from .emit import HERE, identifier, kernels, sources, states
from .graph import Tensor, read
from .program import Program, program

PRINTED = {"float32": "float", "int16": "int16_t", "int32": "int32_t", "uint8": "uint8_t"}
LIBRARY = ("CMakeLists.txt", "library.properties", "library.json", "README.md", "example.c", "example.ino")
PLACES = {"example.c": "examples/example.c", "example.ino": "examples/{name}/{name}.ino"}
HEADERS = frozenset(  # of C itself, and of what the firmware always has: a file of such a name would hide them
    [
        "assert",
        "complex",
        "ctype",
        "errno",
        "fenv",
        "float",
        "inttypes",
        "iso646",
        "limits",
        "locale",
        "math",
        "setjmp",
        "signal",
        "stdalign",
        "stdarg",
        "stdatomic",
        "stdbool",
        "stddef",
        "stdint",
        "stdio",
        "stdlib",
        "stdnoreturn",
        "string",
        "tgmath",
        "threads",
        "time",
        "uchar",
        "wchar",
        "wctype",
        "edgedl_nn",
    ]
)
FLOATS = "Its inputs or outputs are float32: they are converted in floating point; all else is integer arithmetic."
INTEGERS = "All of it is integer arithmetic."
STATELESS = "The block may be used for other things between two calls: it is filled anew by each."
STATE = "The block holds the model's state between two calls: keep it as it is, or begin anew with the init function."


@dataclass(frozen=True, slots=True)
class Place:
    """An input or output: `offset` and `nbytes` in the arena."""

    spec: TensorSpec
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One layer in the order of execution: its name and operator in the file, and the kernel that does it."""

    name: str
    op: str
    kernel: str
    macs: int


@dataclass(frozen=True, slots=True)
class Firmware:
    """`sources`: text by file name. The function is `NAME_invoke(uint8_t *arena)`; no plan of its memory could be smaller
    than `bound_bytes`."""

    name: str
    sources: Mapping[str, str]
    arena_bytes: int
    bound_bytes: int
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    layers: tuple[LayerCall, ...]
    states: tuple[tuple[int, int, int], ...] = ()  # kept from run to run: offset, bytes, and the byte that is zero

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    def library(self) -> dict[str, str]:
        """Everything that is handed out, by path: the sources under src/, and the files that build systems look for."""
        values = {
            "name": self.name, "upper": self.name.upper(), "arena": self.arena_bytes,
            "input_bytes": self.inputs[0].nbytes if self.inputs else 0, "ends": _ends(self),
            "arithmetic": FLOATS if any(p.spec.dtype == "float32" for p in (*self.inputs, *self.outputs)) else INTEGERS,
            "clear_example": _cleared(self, "arena.bytes", "    "), "clear_sketch": _cleared(self, "arena", "  "),
            "print_type": PRINTED.get(self.outputs[0].spec.dtype, "int8_t") if self.outputs else "int8_t",
            "print_format": "%g" if self.outputs and self.outputs[0].spec.dtype == "float32" else "%d",
            "print_as": "double" if self.outputs and self.outputs[0].spec.dtype == "float32" else "int",
            "start": f"{self.name}_init(arena); /* once: the model keeps a state from call to call */\n    " if self.states else "",
            "kept": STATE if self.states else STATELESS,
            "start_example": f"{self.name}_init(arena.bytes);\n    " if self.states else "",
            "start_sketch": f" {self.name}_init(arena);" if self.states else "",
            "sources": "\n".join(f"  src/{name}" for name in sorted(self.sources) if name.endswith(".c")),
        }  # fmt: skip
        found = {f"src/{name}": text for name, text in self.sources.items()}
        for file in LIBRARY:
            text = Template((HERE / "templates" / f"{file}.in").read_text("utf-8")).substitute(values)
            found[PLACES.get(file, file).format(name=self.name)] = text
        return found

    def to_json(self) -> dict[str, Any]:
        """All but the sources, as plain JSON."""
        plain = asdict(self)
        del plain["sources"]
        return {**plain, "macs": self.macs}


def firmware(path: Path | str, features: Iterable[str] = (), name: str = "") -> Firmware:
    """The firmware of an int8 or int16x8 .tflite for a core with these `features` ("dsp"; none: plain C).

    `name`: a C identifier, by default made of the file's. Raises ModelError (damaged), ConversionError (float, open
    shapes, operators that firmware cannot have: all at once), UsageError for a name that is no identifier.
    """
    path = Path(path)
    if name and identifier(name) != name:
        raise UsageError(f"'{name}' is no name for C", next=f"use letters, digits and _, such as {identifier(name)}")
    made = program(read(path), frozenset(features))
    taken = HEADERS | {file.partition(".")[0] for file in kernels(made)}
    if name in taken:
        raise UsageError(f"'{name}' is the name of another C file", next=f"use another name, such as {name}_model")
    if not name:
        name = identifier(path.stem).lower()
        name = f"{name}_model" if name in taken else name
    layers = tuple(LayerCall(readable(s.op.name), s.op.kind, s.call.function, s.call.macs) for s in made.steps)
    graph = made.graph
    return Firmware(
        name, sources(made, name), max(made.plan.total, 1), made.plan.bound,
        tuple(_place(made, t) for t in graph.inputs), tuple(_place(made, t) for t in graph.outputs), layers,
        tuple(states(made)),
    )  # fmt: skip


def _cleared(made: Firmware, arena: str, indent: str) -> str:
    """Statements that set every input to zeros."""
    upper = made.name.upper()
    lines = [
        f"memset({arena} + {upper}_INPUT_{i}_OFFSET, 0, {upper}_INPUT_{i}_BYTES);" for i in range(len(made.inputs))
    ]
    return f"\n{indent}".join(lines)


def _place(made: Program, tensor: Tensor) -> Place:
    single = len(tensor.scales) == 1
    spec = TensorSpec(
        tensor.name, tensor.shape, tensor.dtype, float(tensor.scale) if single else None,
        tensor.zero_point if single else None,
    )  # fmt: skip
    return Place(spec, made.places[id(tensor)], tensor.nbytes)


def _ends(made: Firmware) -> str:
    """A table of inputs and outputs in Markdown."""
    rows = ["| | type | shape | real value | offset in the arena |", "|---|---|---|---|---|"]
    for kind, places in (("input", made.inputs), ("output", made.outputs)):
        for i, place in enumerate(places):
            spec = place.spec
            real = "as it is" if spec.scale is None else f"{spec.scale:.8g} x (q - {spec.zero_point})"
            shape = " x ".join(map(str, spec.shape))
            rows.append(f"| {kind} {i} | {spec.dtype} | {shape} | {real} | {place.offset} |")
    return "\n".join(rows)
