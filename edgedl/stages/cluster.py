"""The cluster stage: every kernel gets a table of a few values, which are trained; its weights are chosen from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..data import Dataset
from ..errors import UsageError
from ..model import Model, require_keras
from .rebuilding import clone
from .sparsity import record
from .sparsity.centroids import Init
from .sparsity.clusterer import Clusterer, Tables, one_shot
from .sparsity.folding import fold
from .sparsity.goal import Loss, WithState, goal, statistics
from .sparsity.kernels import Selection, kernels, select
from .sparsity.state import new_state
from .training.loop import train
from .training.options import Training

Engine = Literal["edgedl", "tfmot"]
MOST = 65_536  # clusters; more than a float16 has values is no compression


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster(Training):
    """Share a table of `clusters` values among all weights of a kernel, and train the table.

    Deep Compression (Han, Mao and Dally, ICLR 2016). One table a kernel, which is what firmware looks weights up in;
    biases and normalization stay as they are. Zeros stay zero and count as one of the values. With epochs = 0 the
    weights are clustered at once, without training and without data.
    """

    clusters: int = 16  # distinct values of a kernel, at most
    init: Init = "linear"  # where k-means begins: evenly spaced, by density, or kmeans++
    iterations: int = 100  # of Lloyd's algorithm, at most; 0: the centroids as begun, as tfmot does
    fold: bool = (
        True  # BatchNormalization becomes part of the kernel before it, as in files: a table would not survive that
    )
    include: tuple[str, ...] = ()  # patterns of layer names; none: every layer with a kernel but embeddings
    exclude: tuple[str, ...] = ()
    loss: Loss = "auto"  # labels, where there are any; else the outputs of the origin
    engine: Engine = "edgedl"  # or tensorflow-model-optimization, to check one by the other

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        if not 2 <= self.clusters <= MOST:
            raise UsageError(
                f"clusters is {self.clusters}, but a table has from 2 to {MOST:,} values", next="use clusters = 16"
            )
        if self.iterations < 0:
            raise UsageError(f"iterations is {self.iterations}, but must be at least 0", next="leave it out")

    def __call__(self, model: Model, data: Dataset) -> Model:
        """The clustered model. Raises UsageError, ModelError (no kernels, NaN), DataError (no data, no labels)."""
        before = require_keras(model, "clustering")
        net, folded = fold(before) if self.fold else (before, 0)
        embeddings = {k.name: "an embedding" for k in kernels(net) if k.role == "embedding"}
        chosen = select(net, self.include, self.exclude, embeddings, "cluster")
        found: dict[str, Any] = {}
        if self.engine == "tfmot":
            from .sparsity import tfmot

            after, found = tfmot.cluster(model, net, data, self, chosen)
        elif self.epochs:
            after, found = self._trained(model, net, data, chosen)
        else:
            after = clone(net)
            one_shot(chosen.of(after), self._tables())
            found = {"reestimated": statistics(after, data, self)}
        layers = [record.layer(k) for k in chosen.of(after)]
        entry = {
            "stage": "cluster",
            "engine": self.engine,
            "clusters": self.clusters,
            "folded": folded,
            "before": record.weights(before),
            "after": record.weights(after),
            "layers": layers,
            "left_alone": [{"kernel": k.name, "why": why} for k, why in chosen.left],
            **found,
        }
        most = max(row["distinct"] for row in layers)
        return model.changed(f"{len(layers)} kernels clustered, at most {most} values in each", after, entry)

    def _tables(self) -> Tables:
        return Tables(self.clusters, self.init, self.iterations, self.keep_zeros, self.seed)

    def _trained(self, model: Model, net: Any, data: Dataset, chosen: Selection) -> tuple[Any, dict[str, Any]]:
        objective, aim = goal(model, data, self.loss)
        state, made = new_state(), []

        def prepare(copy: Any, steps: int) -> list[Any]:
            made.append(Clusterer(chosen.of(copy), self._tables(), state))
            return []

        trained, found = train(net, data, self, WithState(objective, state), prepare=prepare)
        made[0].finish()
        return trained, {**found, "aim": aim}
