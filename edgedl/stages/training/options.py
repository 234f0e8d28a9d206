"""Training: the options that every stage which trains has, as fields; Augment: its table of random changes to inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ...errors import UsageError

Optimizer = Literal["sgd", "adam", "adamw"]
Border = Literal["zero", "reflect"]
Schedule = Literal["cosine", "one-cycle", "constant"]
MAX_SEED = (1 << 31) - 1  # what numpy, Python and TensorFlow take alike
RATES: dict[str, float] = {"sgd": 0.02, "adam": 1e-3, "adamw": 1e-3}  # peak learning rates where none is given


@dataclass(frozen=True, slots=True)
class Augment:
    """Random changes to the training inputs, drawn anew for each sample and epoch; 0 or false is off.

    Images are inputs of rank 4 `[n, height, width, channels]`; integer inputs (token ids) are never changed. `flip` to
    `cutout` work on raw values, before the preprocessing; `noise` and `mixup` on what the network takes. Labels
    that are pictures of the same size as the raw images (masks, targets) move with them.
    """

    flip: bool = False  # left-right, half of the images
    flip_vertical: bool = False  # top-bottom, half of the images
    shift: int = 0  # raw pixels, at most, each way
    border: Border = "zero"  # what a shift brings in: raw zero (black), or the picture mirrored at its edge
    crop: float = 0.0  # share of height and width that a random crop may take away, resized back (bilinear); below 1
    cutout: int = 0  # side in raw pixels of a square set to the image's mean colour (DeVries and Taylor, 2017)
    mixup: float = 0.0  # alpha of the Beta distribution (Zhang et al., ICLR 2018)
    time_shift: float = 0.0  # share of the first axis (time) that a series is moved by, at most, filled with raw zeros
    noise: float = 0.0  # standard deviation of Gaussian noise, as a share of that of the inputs

    def __post_init__(self) -> None:
        for name in ("shift", "cutout"):
            _at_least(f"augment.{name}", getattr(self, name), 0)
        for name, end in (("crop", 1.0), ("time_shift", 1.0), ("mixup", math.inf), ("noise", math.inf)):
            if not 0 <= getattr(self, name) < end:
                raise UsageError(
                    f"augment.{name} is {getattr(self, name):g}, but must be at least 0"
                    + (f" and below {end:g}" if end < math.inf else ""),
                    next="leave it out",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a network is trained; the base of every stage that trains."""

    epochs: int = 10
    batch_size: int = 64
    optimizer: Optimizer = "adam"
    learning_rate: float | None = None  # the peak; not set: 0.02 for sgd, 0.001 for adam and adamw
    schedule: Schedule = "cosine"  # after `warmup`; one-cycle: Smith and Topin, 2017
    warmup: float | None = None  # share of all steps in which the rate rises; not set: 0.3 for one-cycle, else 0.1
    weight_decay: float = 0.0  # on kernels only; sgd and adam: L2 in the gradient; adamw: decoupled
    momentum: float = 0.9  # of sgd, with Nesterov's correction
    clip_norm: float = 0.0  # largest norm of all gradients together; 0: no limit
    ema: float = 0.0  # decay of an exponential moving average of the weights, which is what is kept; 0: none
    patience: int = 0  # epochs without a better result on a held-out tenth of the training data until it stops; 0: all
    reestimate: int = 1000  # samples on which BatchNormalization is measured exactly at the end; 0: left as averaged
    mixed_precision: bool = (
        False  # compute in float16 where a GPU is fast at it, with a scaled loss; weights stay float32
    )
    keep_zeros: bool = True  # weights that an earlier stage made zero, or put in clusters, stay so
    augment: Augment = field(default_factory=Augment)
    seed: int = 0  # of the order of samples, augmentation and dropout

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "reestimate"):
            _at_least(name, getattr(self, name), 0)
        _at_least("batch_size", self.batch_size, 1)
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"seed is {self.seed}, but must be 0 to {MAX_SEED}", next="choose another seed")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise UsageError(f"learning_rate is {self.learning_rate:g}, but must be above 0", next="leave it out")
        for name in ("warmup", "momentum", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"{name} is {value:g}, but must be at least 0 and below 1", next="leave it out")
        for name in ("weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name):g}, but must be at least 0", next="leave it out")

    @property
    def peak(self) -> float:
        """The largest learning rate."""
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    @property
    def rising(self) -> float:
        """The share of all steps in which the rate rises."""
        return (0.3 if self.schedule == "one-cycle" else 0.1) if self.warmup is None else self.warmup


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{name} is {value}, but must be at least {least}", next="leave it out for its default")
