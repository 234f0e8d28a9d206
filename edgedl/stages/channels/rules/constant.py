"""Rules of tables: embeddings, and edgedl's own layer of a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..call import Call, Shrunk
from ..units import Label
from . import rule


@rule("Embedding", resize=lambda shrunk: shrunk.remade(output_dim=shrunk.weight("embeddings")[-1]))
def embedding(call: Call) -> Sequence[Label]:
    """A row for each token."""
    call.freeze_all()
    if getattr(call.op, "quantization_mode", None) or getattr(call.op, "lora_enabled", False):
        return call.leave_alone("its table is quantized or has LoRA factors")
    out = call.fresh(call.op.output_dim)
    call.weight("embeddings", (None, out))
    return [(*(None,) * (len(call.shapes[0]) - 1), out)]


def _shape(shrunk: Shrunk) -> Any:
    return shrunk.remade(shape=list(shrunk.weight("constant")))


@rule("Constant", resize=_shape)
def constant(call: Call) -> Sequence[Label]:
    """Entries that go with whatever they meet; what they are called with only tells the batch."""
    sizes = call.op.value_shape
    label = tuple(call.fresh(n) if n > 1 and i != call.op.batch_axis else None for i, n in enumerate(sizes))
    call.weight("constant", label)
    return [label]
