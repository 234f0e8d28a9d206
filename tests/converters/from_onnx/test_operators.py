"""Every ONNX operator that the importer builds, held to the expected outputs of onnx's own node tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edgedl_node_cases", Path(__file__).with_name("node_cases.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


nodes = _load()

WHOLE = frozenset(
    """
Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BitShift BitwiseAnd
BitwiseNot BitwiseOr BitwiseXor BlackmanWindow CausalConvWithState Ceil Celu CenterCropPad Clip Col2Im Compress Concat
Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumProd CumSum DFT DepthToSpace Div Einsum Elu Erf Exp Expand
EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax InstanceNormalization IsInf IsNaN
LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxUnpool Mean
MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow RMSNormalization Range
Reciprocal Relu ReverseSequence RotaryEmbedding Round STFT Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid
Sign Sin Sinh Size Softmax Softplus Softsign SpaceToDepth Sqrt Squeeze Sub Sum SwiGLU Swish Tan Tanh TensorScatter
ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where Xor
""".split()  # noqa: SIM905
)  # all their node tests pass
REFUSED = frozenset(
    """
Adagrad BitCast Bernoulli DeformConv Det ImageDecoder Momentum NonMaxSuppression NonZero RegexFullMatch StringSplit
TfIdfVectorizer Unique
""".split()  # noqa: SIM905
)
SAME = 12  # of operators with very many tests, so many


def _sampled() -> Iterator[Any]:
    seen: dict[str, int] = {}
    many = [c for c in nodes.cases() if nodes.operator(c) in WHOLE]
    counts = {op: sum(nodes.operator(c) == op for c in many) for op in WHOLE}
    for case in many:
        op = nodes.operator(case)
        seen[op] = seen.get(op, 0) + 1
        if counts[op] <= SAME or seen[op] % -(-counts[op] // SAME) == 0:
            yield pytest.param(case, id=case.name)


@pytest.mark.parametrize("case", _sampled())
def test_operator_computes_what_its_node_test_expects(case: Any) -> None:
    found = nodes.run(case)
    assert found.status == "passed", found.reason


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in nodes.cases() if nodes.operator(c) in REFUSED])
def test_operator_that_cannot_be_built_is_refused_with_a_reason(case: Any) -> None:
    found = nodes.run(case)
    assert found.status == "refused"
    assert len(found.reason) > 20
