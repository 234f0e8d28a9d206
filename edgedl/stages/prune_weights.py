"""The prune_weights stage: single weights, or small groups of them, become exactly zero; layers keep their shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..data import Dataset
from ..errors import UsageError
from ..model import Model, require_keras
from .rebuilding import clone
from .sparsity import record
from .sparsity.alone import alone
from .sparsity.goal import Loss, WithState, goal, statistics
from .sparsity.kernels import Selection, select
from .sparsity.patterns import Pattern, Ranking, parse
from .sparsity.pruner import Method, Plan, Pruner, callback, one_shot
from .sparsity.state import new_state
from .training.loop import train
from .training.options import Training

Engine = Literal["edgedl", "tfmot"]
UPDATES = 50  # of the masks during the rise, where `every` is not given


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneWeights(Training):
    """Set the least important weights to zero while training, on the cubic schedule of Zhu and Gupta (2017).

    The network keeps its layers and shapes: what this buys is a smaller zip, and time only where a target has sparse
    kernels. With epochs = 0 the weights go at once, without training and without data.
    """

    sparsity: float | None = None  # share of the chosen kernels' weights; not set: 0.8, or what N:M gives
    method: Method = "magnitude"  # or movement (Sanh et al., 2020)
    pattern: str = (
        "unstructured"  # "N:M": at most N of M inputs in a row are not zero; "RxC": outputs x inputs; "target"
    )
    target: str = "cpu"  # whose block pattern = "target" means
    ranking: Ranking = "layer"  # the share is of each kernel, or of all together: global, lamp (Lee et al., 2021)
    start: float = 0.0  # sparsity at the first step
    rise: float = (
        0.7  # share of the training in which the sparsity rises; the rest is trained with the zeros as they are
    )
    every: int = 0  # steps between updates of the masks; 0: a fiftieth of the rise
    include: tuple[str, ...] = ()  # patterns of layer names; none: every layer but those left alone (see the record)
    exclude: tuple[str, ...] = ()
    loss: Loss = "auto"  # labels, where there are any; else the outputs of the origin
    engine: Engine = "edgedl"  # or tensorflow-model-optimization, to check one by the other

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        pattern = parse(self.pattern, self.target)
        for name, value in (("sparsity", self.sparsity), ("start", self.start)):
            if value is not None and not 0 <= value < 1:
                raise UsageError(
                    f"{name} is {value:g}, but it is a share of the weights, from 0 to below 1",
                    next="use sparsity = 0.8 for four zeros in five weights",
                )
        if not 0 < self.rise <= 1:
            raise UsageError(f"rise is {self.rise:g}, but it is a share of the training, above 0 and at most 1",
                             next="leave it out")  # fmt: skip
        if self.every < 0:
            raise UsageError(f"every is {self.every}, but counts steps", next="leave it out")
        if pattern.share is not None and self.sparsity is not None and abs(self.sparsity - pattern.share) > 1e-6:
            raise UsageError(
                f"the pattern {self.pattern} makes {pattern.share:g} of the weights zero, and sparsity is {self.sparsity:g}",
                next="leave sparsity out, or choose the pattern that gives it",
            )

    def __call__(self, model: Model, data: Dataset) -> Model:
        """The model with zeros. Raises UsageError, ModelError (no kernels, NaN), DataError (no data, no labels)."""
        net = require_keras(model, "pruning weights")
        if self.epochs and self.patience:
            raise UsageError(
                "patience goes back to the weights of the best epoch, which lie before the sparsity is reached",
                next="leave patience out and choose epochs",
            )
        if not self.epochs and self.method == "movement":
            raise UsageError(
                "movement pruning ranks weights by how training moves them, and epochs is 0",
                next='set epochs, or use method = "magnitude"',
            )
        pattern = parse(self.pattern, self.target)
        chosen = select(net, self.include, self.exclude, alone(net), "prune_weights")
        if self.engine == "tfmot":
            pruned, found = self._by_tfmot(model, data, chosen, pattern)
        elif self.epochs:
            pruned, found = self._trained(model, data, chosen, pattern)
        else:
            pruned = clone(net)
            one_shot(chosen.of(pruned), self._plan(pattern, 0))
            found = {"reestimated": statistics(pruned, data, self)}
        entry = self._record(net, pruned, chosen, found)
        return model.changed(f"{entry['zeros']:,} of {entry['weights']:,} weights in {len(chosen.chosen)} kernels are zero "
                             f"({self.pattern}, {self.method})", pruned, entry)  # fmt: skip

    def _share(self, pattern: Pattern) -> float:
        if pattern.share is not None:
            return pattern.share
        return 0.8 if self.sparsity is None else self.sparsity

    def _plan(self, pattern: Pattern, steps: int) -> Plan:
        rise = max(1, round(steps * self.rise))
        every = self.every or max(1, rise // UPDATES)
        share = self._share(pattern)
        return Plan(self.method, pattern, self.ranking, min(self.start, share), share, rise, every)

    def _trained(self, model: Model, data: Dataset, chosen: Selection, pattern: Pattern) -> tuple[Any, dict[str, Any]]:
        objective, aim = goal(model, data, self.loss)
        state, made = new_state(), []

        def prepare(copy: Any, steps: int) -> list[Any]:
            made.append(Pruner(chosen.of(copy), self._plan(pattern, steps), state))
            return [callback(made[0])]

        net, found = train(model.net, data, self, WithState(objective, state), prepare=prepare)
        made[0].finish()
        return net, {**found, "aim": aim}

    def _by_tfmot(self, model: Model, data: Dataset, chosen: Selection, pattern: Pattern) -> tuple[Any, dict[str, Any]]:
        from .sparsity import tfmot

        return tfmot.prune(model, data, self, chosen, pattern, self._share(pattern))

    def _record(self, before: Any, after: Any, chosen: Selection, found: dict[str, Any]) -> dict[str, Any]:
        layers = [record.layer(k) for k in chosen.of(after)]
        return {
            "stage": "prune_weights",
            "engine": self.engine,
            "method": self.method,
            "pattern": self.pattern,
            "weights": sum(row["weights"] for row in layers),
            "zeros": sum(row["zeros"] for row in layers),
            "before": record.weights(before),
            "after": record.weights(after),
            "layers": layers,
            "left_alone": [{"kernel": k.name, "why": why} for k, why in chosen.left],
            **found,
        }
