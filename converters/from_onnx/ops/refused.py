"""Operators that cannot be part of a Keras model of fixed shapes, each with the reason that a user is told."""

from __future__ import annotations

from typing import Any

from ..builder import Builder
from ..node import Node, Unsupported
from . import op

_TRAINING = "an operator of training, which an exported model does not need: export it in evaluation mode"
_RANDOM = "random numbers: the rebuilt model could not be compared with the original"
_COUNT = (
    "an output whose length depends on the data: cut the model before it with --to, and do that step on its outputs"
)
_TEXT = "text: cut the model behind it with --from TENSOR, and prepare the text outside"

_REASONS = {
    _TRAINING: ("Adagrad", "Adam", "Momentum", "Gradient", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"),
    _RANDOM: (
        "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
    ),
    _COUNT: ("NonZero", "Unique", "NonMaxSuppression"),
    _TEXT: (
        "StringConcat", "StringSplit", "StringNormalizer", "RegexFullMatch", "TfIdfVectorizer",
    ),
    "the bytes of an image file: decode it before the model": ("ImageDecoder",),
    "regions whose number and place depend on the data: cut the model before it with --to": ("RoiAlign", "MaxRoiPool"),
    "a determinant, which no layer computes": ("Det",),
    "an inverse, which no layer computes": ("Inverse",),
    "sampling at computed places with computed weights": ("DeformConv",),
    "bits read as another type": ("BitCast",),
    "bounds that are computed from the data": ("Range",),
    "a size that is computed from the data": ("HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix"),
}  # fmt: skip


def _refusal(name: str, reason: str) -> None:
    @op(name)
    def build(b: Builder, node: Node, *inputs: Any) -> Any:
        raise Unsupported(reason)


for _reason, _names in _REASONS.items():
    for _name in _names:
        _refusal(_name, _reason)
