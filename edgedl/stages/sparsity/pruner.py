"""The Keras callback that thins kernels out while they are trained: masks by magnitude or movement, on a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...artifact import Array
from ...frameworks import keras
from .kernels import Kernel
from .patterns import Pattern, Ranking, choose, schedule
from .state import hold

Method = Literal["magnitude", "movement"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How far the masks are to go, and when."""

    method: Method
    pattern: Pattern
    ranking: Ranking
    start: float  # sparsity at the first step
    sparsity: float  # at the end of the rise
    steps: int  # of the rise
    every: int  # steps between updates of the masks


def masks(targets: Sequence[Kernel], scores: Sequence[Array], plan: Plan, sparsity: float) -> list[Array]:
    """Masks (bool) in the kernels' own shapes from scores of the same shapes, larger is better."""
    rows = [k.rows(s) for k, s in zip(targets, scores, strict=True)]
    chosen = choose(rows, plan.pattern, sparsity, plan.ranking)
    return [k.back(m) for k, m in zip(targets, chosen, strict=True)]


def one_shot(targets: Sequence[Kernel], plan: Plan) -> None:
    """Set the smallest weights to zero, at once."""
    values = [k.value() for k in targets]
    for kernel, value, mask in zip(targets, values, masks(targets, [np.abs(v) for v in values], plan, plan.sparsity), strict=True):  # fmt: skip
        kernel.assign(value * mask)


class Pruner:
    """Masks over the kernels of a network in training.

    magnitude: what is masked stays zero, and the smallest weights join it as the schedule rises. movement (Sanh, Wolf
    and Rush, "Movement Pruning", NeurIPS 2020): a weight's score is the sum of -weight x gradient x rate over all
    steps, taken as weight x its update by the optimizer, so that any optimizer will do; the masked weight keeps its
    value aside and comes back when its score rises.
    """

    def __init__(self, targets: Sequence[Kernel], plan: Plan, state: Any) -> None:
        self.targets, self.plan = list(targets), plan
        values = [k.value() for k in targets]
        self.step = hold(state, "step", np.zeros((), np.int32))
        self.masks = [hold(state, f"{k.name}.mask", np.ones_like(v)) for k, v in zip(targets, values, strict=True)]
        moves = plan.method == "movement"
        if not moves:  # where movement is measured, an update must be seen before it is masked
            for kernel, mask in zip(self.targets, self.masks, strict=True):
                kernel.variable.constraint = _masked(mask)
        self.whole = [hold(state, f"{k.name}.whole", v) for k, v in zip(targets, values, strict=True)] if moves else []
        self.scores = [hold(state, f"{k.name}.score", np.zeros_like(v)) for k, v in zip(targets, values, strict=True)] if moves else []  # fmt: skip

    def begin(self) -> None:
        """Masks for the first step, where the schedule does not begin at nothing."""
        if int(self.step.numpy()) == 0 and self.plan.start > 0:
            self._choose(self.plan.start)
            self.apply()

    def after_step(self) -> None:
        """What is done after each update by the optimizer."""
        step = int(self.step.numpy()) + 1
        self.step.assign(step)
        if self.plan.method == "movement":
            self._move()
        rising = step <= self.plan.steps
        if (rising and step % self.plan.every == 0) or step == self.plan.steps:
            self._choose(schedule(step, self.plan.steps, self.plan.start, self.plan.sparsity))
            self.apply()
        elif self.whole:
            self.apply()

    def apply(self) -> None:
        """Put the masked weights into the network."""
        ops = keras().ops
        kept = self.whole or [k.variable for k in self.targets]
        for kernel, value, mask in zip(self.targets, kept, self.masks, strict=True):
            kernel.variable.assign(ops.where(mask > 0, value, ops.zeros_like(value)))  # also where the value is -0.0

    def finish(self) -> None:
        """The masks of the end, on weights that an average or a checkpoint may have put back.

        Where the training ended before its schedule (a checkpoint of the best epoch), the masks are chosen now.
        """
        if int(self.step.numpy()) < self.plan.steps:
            self._choose(self.plan.sparsity)
        ops = keras().ops
        for kernel, mask in zip(self.targets, self.masks, strict=True):
            kernel.variable.assign(ops.where(mask > 0, kernel.variable, ops.zeros_like(kernel.variable)))

    def _move(self) -> None:
        """Scores and whole weights after an update: what the optimizer changed is added to both.

        Weights that are masked keep their value (their gradient is that of the mask alone), their score moves.
        """
        for kernel, whole, score, mask in zip(self.targets, self.whole, self.scores, self.masks, strict=True):
            update = kernel.variable - whole * mask
            score.assign_add(whole * update)
            whole.assign_add(update * mask)

    def _choose(self, sparsity: float) -> None:
        found = [np.asarray(s) for s in self.scores] if self.scores else [np.abs(k.value()) for k in self.targets]
        for mask, new in zip(self.masks, masks(self.targets, found, self.plan, sparsity), strict=True):
            mask.assign(new.astype(np.float32))


def _masked(mask: Any) -> Callable[[Any], Any]:
    """A constraint, which Keras applies after each update of a weight."""
    return lambda weights: weights * mask


def callback(pruner: Any) -> Any:
    """A Keras callback that calls `begin` before the first batch and `after_step` after each."""
    return keras().callbacks.LambdaCallback(
        on_train_begin=lambda logs: pruner.begin(), on_train_batch_end=lambda batch, logs: pruner.after_step()
    )
