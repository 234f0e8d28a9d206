"""Attention as PyTorch's modules and functions export it, by both of its exporters, becomes keras.layers.MultiHeadAttention.

The oracle is ONNX Runtime on the graph as PyTorch wrote it (the proof of every import); tolerance: float32 rounding.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edgedl.converters.from_onnx.patterns import applied
from edgedl.model import LoadOptions, Model, load

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx", reason="needs pip install 'edgedl[onnx]'")
pytest.importorskip("onnxruntime")

CLOSE = 1e-5


@cache
def modules() -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """By name: a module, example inputs, and what is open of them (none: all is fixed)."""
    nn, f = torch.nn, torch.nn.functional

    class Packed(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(12), nn.MultiheadAttention(12, 3, **options)
            nn.init.normal_(self.attention.in_proj_bias)
            nn.init.normal_(self.attention.out_proj.bias)

        def forward(self, x: Any, y: Any = None) -> Any:
            x = self.norm(x)
            y = x if y is None else y
            return x + self.attention(x, y, y, need_weights=False)[0]

    class Function(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self, causal: bool = False) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))
            self.causal = causal

        def forward(self, x: Any, attention_mask: Any = None) -> Any:
            n, t, c = x.shape
            q, k, v = (p(x).view(n, t, 3, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
            mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
            out = f.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)
            return self.o(out.transpose(1, 2).reshape(n, t, c))

    x, y, mask = torch.randn(2, 7, 12), torch.randn(2, 5, 12), torch.ones(2, 7).long()
    free = {0: "N"}
    return {
        "packed": (Packed(batch_first=True), (x,), {"x": free}),
        "packed, a batch of one": (Packed(batch_first=True), (x[:1],), {}),
        "time first, a batch of one": (Packed(), (x[:1].transpose(0, 1).contiguous(),), {}),
        "to another sequence": (Packed(batch_first=True), (x, y), {"x": free, "y": free}),
        "function": (Function(), (x,), {"x": free}),
        "function, causal": (Function(causal=True), (x,), {"x": free}),
        "function, masked": (Function(), (x, mask), {"x": free, "attention_mask": free}),
    }


def exported(name: str, folder: Path, *, dynamo: bool) -> Path:
    """The file that one of PyTorch's exporters makes."""
    torch.manual_seed(0)
    module, inputs, free = modules()[name]
    names = list(free) or ["x"]
    path = folder / "attention.onnx"
    options: dict[str, Any] = {"dynamic_axes": free} if free and not dynamo else {}
    if free and dynamo:
        options = {"dynamic_shapes": tuple({0: torch.export.Dim("N")} for _ in names)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), inputs, str(path), input_names=names, dynamo=dynamo, external_data=False, **options
        )
    return path


def loaded(name: str, folder: Path, *, dynamo: bool) -> tuple[Path, Model]:
    path = exported(name, folder, dynamo=dynamo)
    return path, load(path, LoadOptions(form="keras"))


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", list(modules()))
def test_attention_of_pytorch_becomes_one_layer(name: str, dynamo: bool, tmp_path: Path) -> None:
    if dynamo:
        pytest.importorskip("onnxscript")
    _, model = loaded(name, tmp_path, dynamo=dynamo)
    kinds = [type(o).__name__ for o in model.net.operations]
    assert kinds.count("MultiHeadAttention") == 1
    assert {"Transpose", "Softmax", "Matmul", "Dense"}.isdisjoint(kinds)
    assert max(e["max_relative"] for e in model.proof) <= CLOSE


def test_heads_that_are_read_elsewhere_stay_operators(tmp_path: Path) -> None:
    proto = onnx.load(exported("function", tmp_path, dynamo=False))
    softmax = next(n for n in proto.graph.node if n.op_type == "Softmax")
    proto.graph.output.append(onnx.helper.make_tensor_value_info(softmax.output[0], 1, None))
    kinds = [n.op_type for n in applied(proto).graph.node]
    assert "Softmax" in kinds
    assert "MultiHeadAttention" not in kinds


@pytest.mark.parametrize("op", ["ConstantOfShape(n)", "Expand(one, n)"])
def test_a_size_without_bounds_is_not_computed(op: str) -> None:
    from edgedl.converters.from_onnx.attention import MOST, Finder
    from edgedl.converters.from_onnx.rewriting import Rewriter

    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y)'
    proto = onnx.parser.parse_model(
        f"{text} <int64[2] n = {{1048576, 1048576}}, float[1] one = {{1}}> {{ z = {op} y = Relu(x) }}"
    )
    assert Finder.of(Rewriter.of(proto)).value("z", most=MOST) is None
