"""One ONNX node as an operator's builder sees it: its attributes, typed, and its inputs by position."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...errors import ModelError
from .. import _onnx

MISFITS = (  # what numpy, onnx and Keras raise for operands that do not fit together, or into memory
    *(ValueError, TypeError, KeyError, IndexError),
    *(AttributeError, ZeroDivisionError, OverflowError, MemoryError),
)


class Unsupported(Exception):
    """What of a node cannot be built; collected, and reported with all the others."""


@dataclass(slots=True)
class Node:
    """An ONNX node, with the opset that it is written in."""

    proto: Any
    opset: int
    name: str
    attributes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, proto: Any, opset: int) -> Node:
        """From a NodeProto; without a name, it goes by its first output's."""
        o = _onnx.onnx()
        try:
            found = {a.name: o.helper.get_attribute_value(a) for a in proto.attribute}
        except ValueError as error:
            raise ModelError(
                f"node '{proto.name}' ({proto.op_type}) has a damaged attribute: {error}", next="export the model again"
            ) from error
        name = proto.name or next((n for n in proto.output if n), proto.op_type)
        return cls(proto, opset, name, found)

    @property
    def op(self) -> str:
        return str(self.proto.op_type)

    @property
    def outputs(self) -> list[str]:
        return list(self.proto.output)

    def has(self, key: str) -> bool:
        """Whether the attribute is set."""
        return key in self.attributes

    def integer(self, key: str, default: int = 0) -> int:
        """An attribute that is a whole number."""
        return int(self.attributes.get(key, default))

    def real(self, key: str, default: float = 0.0) -> float:
        """An attribute that is a real number."""
        return float(self.attributes.get(key, default))

    def integers(self, key: str, default: Any = ()) -> list[int]:
        """An attribute that is a list of whole numbers."""
        return [int(v) for v in self.attributes.get(key, default)]

    def reals(self, key: str, default: Any = ()) -> list[float]:
        """An attribute that is a list of real numbers."""
        return [float(v) for v in self.attributes.get(key, default)]

    def text(self, key: str, default: str = "") -> str:
        """An attribute that is text."""
        value = self.attributes.get(key, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def texts(self, key: str) -> list[str]:
        """An attribute that is a list of texts."""
        return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in self.attributes.get(key, ())]

    def wants(self, index: int) -> bool:
        """Whether anything is to be done for an output."""
        return index < len(self.proto.output) and bool(self.proto.output[index])


def axis_of(axis: int, rank: int) -> int:
    """A negative axis counted from the front. Raises Unsupported where there is no such axis."""
    found = axis + rank if axis < 0 else axis
    if not 0 <= found < max(rank, 1):
        raise Unsupported(f"axis {axis} of a tensor of rank {rank}")
    return found
