"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..errors import UsageError
from ..model import SCHEMES
from ..options import parse_value

F = TypeVar("F", bound=Callable[..., Any])


class Percent(click.ParamType[float]):
    """A share as `1%` or `0.01`."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"'{value}' is not a percentage; write 1% or 0.01", param, ctx)
        if not 0 <= number <= 1:
            self.fail(f"'{value}' is outside 0..100%; write 1% or 0.01", param, ctx)
        return number


def joined(ctx: click.Context, param: click.Parameter, given: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Lists of an option that may be repeated, as one, each name once."""
    return tuple(dict.fromkeys(name for names in given for name in names))


class Smaller(click.ParamType[float]):
    """How much is to go: `50%`, `0.5`, or `2x` for half."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        try:
            if text.endswith("x"):
                number = 1 - 1 / float(text[:-1])
            else:
                number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except (ValueError, ZeroDivisionError):
            self.fail(f"'{value}' is no share; write 2x, 50% or 0.5", param, ctx)
        if not 0 < number < 1:
            self.fail(f"'{value}' leaves nothing, or everything; write 2x, 50% or 0.5", param, ctx)
        return number


class Seconds(click.FloatRange):
    """A number of seconds that is a number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"'{value}' is no number of seconds", param, ctx)
        return number


class Names(click.ParamType[tuple[str, ...]]):
    """Comma-separated names."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(n.strip() for n in str(value).split(",") if n.strip())


class Setting(click.ParamType[tuple[str, Any]]):
    """PLACE.OPTION=VALUE."""

    name = "place.option=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        place, equals, text = str(value).partition("=")
        if not equals:
            self.fail(f"'{value}' has no '='; write PLACE.OPTION=VALUE", param, ctx)
        return place.strip(), parse_value(text)


class InputShape(click.ParamType[tuple[str, str]]):
    """NAME=SHAPE, or SHAPE alone for the only input; the name may hold any characters."""

    name = "name=shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, _, shape = str(value).rpartition("=")
        if not re.fullmatch(r"(\?|\d+)(x(\?|\d+))*(:\w+)?", shape):
            self.fail(f"'{shape}' is no shape; write 1x3x224x224, ? for any length, :int64 for a type", param, ctx)
        return name, shape


def apply(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several click options as one decorator, in the order given."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


smaller = apply(
    click.option(
        "--prune",
        type=Smaller(),
        metavar="SHARE",
        help="Remove channels until this share of the cost is gone: 2x, 50%.",
    ),
    click.option(
        "--budget",
        type=click.Choice(["macs", "params", "memory", "latency"]),
        help="What --prune counts; latency is measured on the target [macs].",
    ),
    click.option(
        "--low-rank", type=Smaller(), metavar="SHARE", help="Split layers until this share of the MACs is gone."
    ),
    click.option("--sparsity", type=Percent(), help="Make this share of the weights zero, e.g. 90%."),
    click.option("--cluster", type=click.IntRange(2, 65536), help="Distinct values a kernel may have, e.g. 16."),
    click.option(
        "--teacher",
        metavar="MODEL",
        multiple=True,
        help="Distil from this model [the original]. Repeatable: an ensemble.",
    ),
    click.option(
        "--student",
        metavar="MODEL",
        help="Train this smaller model in place of the original: a file or MODULE:FUNCTION.",
    ),
    click.option("--finetune", is_flag=True, help="Train on the labels afterwards instead of distilling."),
    click.option(
        "--epochs", type=click.IntRange(0), help="Of each training that brings accuracy back; 0 trains nothing [10]."
    ),
    click.option("--train", metavar="DATA", help="Training data [60% of --data], in the forms of --data."),
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
allow_unsafe = click.option(
    "--allow-unsafe",
    is_flag=True,
    help="Let the model file run Python code it carries (Lambda layers). Only for files you trust.",
)
data = click.option(
    "--data",
    "-d",
    metavar="DATA",
    help="x.npz with arrays x and y; x.npy,y.npy; a folder of class folders of images or WAVs; .csv; module:function; digits.",
)
scheme = click.option("--quantize", "-q", type=click.Choice(SCHEMES), help="Quantization scheme.")
quantization = apply(
    scheme,
    click.option(
        "--io",
        type=click.Choice(["float32", "int8", "uint8", "int16"]),
        help="Type of the artifact's inputs and outputs [float32].",
    ),
    click.option("--calibration", metavar="DATA", help="Separate calibration data, in the forms of --data."),
    click.option(
        "--calibration-method",
        type=click.Choice(["minmax", "percentile", "mse"]),
        help="How activation ranges are chosen [minmax].",
    ),
)
loading = apply(
    click.option(
        "--input",
        "inputs",
        type=InputShape(),
        multiple=True,
        help="Shape of an input that the file leaves open, e.g. x=1x3x224x224 (? for any length, :int64 for a type). Repeatable.",
    ),
    click.option(
        "--from",
        "start",
        metavar="TENSOR",
        multiple=True,
        help="Begin at this tensor, cut off what is before it. Repeatable.",
    ),
    click.option("--to", "end", metavar="TENSOR", multiple=True, help="End at this tensor. Repeatable."),
    click.option(
        "--module", metavar="MODULE:CALLABLE", help="What builds the network of a file that has only weights."
    ),
    click.option("--weights", metavar="FILE", help="The file of the weights, where it is another."),
)
keep_layout = click.option(
    "--keep-layout/--no-keep-layout",
    default=None,
    help="Inputs and outputs with the axes of the original (NCHW), or as NHWC [.onnx keeps them, .tflite does not].",
)
settings = click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    help="Any option of a recipe, e.g. data.scale=0.00392 or quantize.percentile=99.9. Repeatable.",
)
targets = click.option(
    "--target",
    "-t",
    "targets",
    type=Names(),
    multiple=True,
    callback=joined,
    help="Targets to measure on (see `edgedl targets`) [cpu]; may be repeated.",
)
timeout = click.option("--timeout", type=Seconds(min=1), help="Seconds one conversion may take [900].")


def tables(
    data: str | None,
    calibration: str | None,
    quantize: str | None,
    calibration_method: str | None,
    io: str | None,
    max_drop: float | None = None,
    train: str | None = None,
    max_class_drop: float | None = None,
    timeout: float | None = None,
    **loading: Any,
) -> dict[str, Any]:
    """The tables of a recipe that these options stand for; what was not given is left out."""
    given: dict[str, dict[str, Any]] = {
        "load": load_table(**loading),
        "data": {"source": data, "calibration": calibration, "train": train},
        "quantize": {"scheme": quantize, "calibration": calibration_method, "io": io},
        "limits": {"max_drop": max_drop, "max_class_drop": max_class_drop, "timeout_s": timeout},
    }
    return {name: {k: v for k, v in table.items() if v is not None} for name, table in given.items()}


def stages(
    prune: float | None,
    budget: str | None,
    low_rank: float | None,
    sparsity: float | None,
    cluster: int | None,
    teacher: tuple[str, ...],
    student: str | None,
    finetune: bool,
    epochs: int | None,
) -> list[tuple[str, dict[str, Any]]]:
    """The stages that these options stand for, in order: what cuts, what brings accuracy back, what thins weights."""
    found: list[tuple[str, dict[str, Any]]] = []
    if budget and prune is None:
        raise UsageError("--budget says what --prune counts", next="add --prune, or leave --budget out")
    if finetune and (teacher or student):
        raise UsageError("--finetune has no teacher", next="leave --finetune out to distil")
    if student and (prune is not None or low_rank is not None):
        raise UsageError(
            "--student takes the place of the network that --prune and --low-rank would cut",
            next="leave --student out, or make two runs",
        )
    if prune is not None:
        found.append(("prune_channels", {"ratio": prune, **({"budget": budget} if budget else {})}))
    if low_rank is not None:
        found.append(("low_rank", {"rank": "budget", "budget": 1 - low_rank}))
    length = {} if epochs is None else {"epochs": epochs}
    if finetune and epochs != 0:
        found.append(("finetune", length))
    elif student or teacher or (found and epochs != 0):
        more: dict[str, Any] = {"teacher": list(teacher)} if teacher else {}
        found.append(("distill", {**length, **more, **({"student": student} if student else {})}))
    if sparsity == 0:
        raise UsageError("--sparsity 0 makes no weight zero", next="use --sparsity 80%, or leave it out")
    if sparsity is not None:
        found.append(("prune_weights", {"sparsity": sparsity, **length}))
    if cluster is not None:
        found.append(("cluster", {"clusters": cluster, **length}))
    if epochs is not None and not found:
        raise UsageError("there is nothing to train", next="add --finetune, --teacher, --prune or --sparsity")
    return found


def load_table(
    inputs: tuple[tuple[str, str], ...],
    start: tuple[str, ...],
    end: tuple[str, ...],
    module: str | None,
    weights: str | None,
) -> dict[str, Any]:
    """The fields of LoadOptions that these options stand for; what was not given is left out."""
    twice = [name for i, (name, _) in enumerate(inputs) if name in [other for other, _ in inputs[:i]]]
    if twice:
        raise UsageError(f"--input is given twice for {twice[0] or 'the only input'}", next="leave one out")
    found = {"inputs": dict(inputs), "start": list(start), "end": list(end), "module": module, "weights": weights}
    return {k: v for k, v in found.items() if v}


def print_json(value: Any) -> None:
    """JSON on stdout."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))
