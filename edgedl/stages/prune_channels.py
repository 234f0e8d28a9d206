"""The prune_channels stage: whole channels removed until a budget is met; what is left is a plain, smaller network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from ..artifact import Array
from ..data import Dataset
from ..errors import UsageError
from ..macs import layers_of
from ..model import Model, require_keras
from ..registry import did_you_mean
from ..worker import progress
from .channels.choose import Bounds, Ranking, Scores, choose
from .channels.cost import Cost, Kind, Polynomial
from .channels.criteria import NORMALIZE, Criterion, Normalize, normalized, score
from .channels.graph import ChannelGraph, Group, channel_graph
from .channels.latency import Latency, choose_by_latency
from .channels.progressive import fading
from .channels.reconstruct import reconstruct
from .channels.sensitivity import Scan, bounds_from, scan
from .channels.shrink import Mask, shrink
from .channels.surgeon import surgeon
from .distill import Distill
from .sparsity.goal import goal as objective
from .training.loop import train, training_split
from .training.norm import reestimate
from .training.options import Training

Budget = Literal["macs", "params", "memory", "latency"]
FIT = 256  # inputs on which kernels are fitted
NOTE_GENERATED = (
    "pruned on generated inputs: channels were judged and kernels fitted on these, which hold for real inputs only as far "
    "as they are alike; give the data that the model is for, or set fit = false"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneChannels(Training):
    """Remove whole channels until `ratio` of the budget's cost is gone. Groups follow DepGraph (Fang et al., CVPR 2023).

    After the cut the kernels that lost inputs are fitted to give what they gave before. With `epochs`, each of the `rounds`
    is followed by training (self-distillation from the original, and labels where there are some), or `progressive`, in
    which what goes fades before it is cut. A `distill` or `finetune` stage after it brings accuracy back.
    """

    ratio: float = 0.5  # share of the cost to remove, above 0 and below 1; 0.5 is 2 x fewer
    budget: Budget = "macs"  # what is counted; latency: milliseconds measured on `target`
    criterion: Criterion | Literal["surgeon", "auto"] = (
        "auto"  # how much a channel matters; auto: surgeon for per-layer,
    )
    # fisher for other rankings, l2 where inputs are generated
    ranking: Ranking | Literal["auto"] = (
        "auto"  # per-layer: the same share of every layer; global; per-cost: score lost per
    )
    # cost saved; auto: per-layer
    normalize: Normalize | Literal["auto"] = "auto"  # of scores within a group, before they are compared between groups
    round_to: int = 0  # channels that stay are a multiple of it; 0: the target's for latency, else 1
    min_channels: int = 1  # of a layer, at least
    min_share: float = 0.25  # of a layer's channels that stay, at least
    exclude: tuple[str, ...] = ()  # names or patterns of layers whose channels all stay
    rounds: int = 1  # cuts, each with a share of the `epochs`
    epochs: int = 0  # of training after the cuts (progressive: before them), all together; 0: none
    progressive: bool = False  # channels that go fade during the training, and are cut at its end (GReg, ICLR 2021)
    sensitivity: bool = False  # measure what cutting each group alone costs, for the report
    max_layer_drop: float = 0.0  # of the metric, by any group cut alone: how far each may be cut; 0: as far as it takes
    fit: bool = True  # fit the kernels that lost inputs, by least squares; else BatchNormalization is measured anew
    samples: int = 512  # inputs that criteria look at
    target: str = "cpu"  # where latency is measured
    target_options: Mapping[str, Any] = field(default_factory=dict)  # of that target, as { threads = 2 }
    scheme: Literal["int8", "float32"] = "int8"  # of the file whose latency is measured
    seconds: float = 60.0  # about so long the target's operators are timed, in all

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        if not 0 < self.ratio < 1:
            raise UsageError(f"ratio is {self.ratio:g}, but must be above 0 and below 1", next="use ratio = 0.5")
        if not 0 <= self.min_share <= 1:
            raise UsageError(f"min_share is {self.min_share:g}, but must be in 0..1", next="use min_share = 0.25")
        for name, least in (("rounds", 1), ("round_to", 0), ("min_channels", 1), ("samples", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least {least}", next="leave it out")
        if self.rounds > max(self.epochs, 1):
            raise UsageError(
                f"several rounds need training between them: rounds is {self.rounds}, and epochs is {self.epochs}",
                next="set epochs to as many at least, or rounds = 1",
            )
        if self.progressive and not self.epochs:
            raise UsageError("progressive pruning needs training before the cut", next="set epochs")
        if self.progressive and self.patience:
            raise UsageError(
                "patience goes back to the weights of the best epoch, in which the channels have not faded yet",
                next="leave patience or progressive out",
            )
        if self.seconds <= 0:
            raise UsageError(f"seconds is {self.seconds:g}, but must be above 0", next="leave it out")
        if not 0 <= self.max_layer_drop <= 1:
            raise UsageError(f"max_layer_drop is {self.max_layer_drop:g}, but must be in 0..1", next="use 0.02")

    def __call__(self, model: Model, data: Dataset) -> Model:
        """The smaller model. Raises UsageError: a budget that cannot be met (with the smallest that can), an `exclude`
        that matches nothing; DataError, ConversionError and TargetError of what is measured."""
        net = require_keras(model, "pruning channels")
        before = _size(net)
        record: dict[str, Any] = {"stage": "prune_channels", "widths": {}, "rounds": []}
        trained = model
        for index in range(self.rounds):
            share = 1 - (1 - self.ratio) ** ((index + 1) / self.rounds)
            goal = self._goal(model.net, share, record["rounds"])
            trained, done = self._cut(trained, data, share, goal, self._length(index))
            if "sensitivity" in done:
                record.setdefault("sensitivity", done.pop("sensitivity"))
            record["rounds"].append(done)
            if not self.progressive:
                trained = self._recovered(trained, data, index)
                done |= {"training": trained.records[-1]} if self._length(index) else {}
        record |= self._summary(net, trained.net, before)
        text = _told(record, self.budget)
        notes = [*_notes(record), *([NOTE_GENERATED] if data.generated else [])]
        notes += [note for done in record["rounds"] for note in done.get("training", {}).get("notes", ())]
        return replace(model.changed(text, trained.net, record), notes=(*model.notes, *notes))

    def _goal(self, first: Any, share: float, rounds: Sequence[Mapping[str, Any]]) -> float | None:
        """The cost that is left when `share` of the first network's is gone; None: of a latency not measured yet."""
        if self.budget != "latency":
            return (1 - share) * _total(first, self.budget)
        return (1 - share) * float(rounds[0]["dense_ms"]) if rounds else None

    def _length(self, index: int) -> int:
        """Epochs of a round."""
        return round(self.epochs * (index + 1) / self.rounds) - round(self.epochs * index / self.rounds)

    def _cut(
        self, model: Model, data: Dataset, share: float, goal: float | None, epochs: int
    ) -> tuple[Model, dict[str, Any]]:
        """The model without what has to go until its cost is the goal, or `share` of it is gone."""
        graph = channel_graph(model.net)
        if not graph.prunable:
            raise _nothing(graph)
        inputs = _inputs(data, self.samples, self.seed)
        progress(0, 4, f"scoring channels by {self._criterion(data)}")
        scores = self._scores(graph, data, inputs)
        scanned = self._scanned(graph, scores, model, data)
        progress(1, 4, "choosing channels")
        keep, told = self._chosen(graph, scores, share, goal, scanned)
        if scanned is not None:
            told["sensitivity"] = scanned.to_json()["groups"]
        if self.progressive:
            plan = replace(self, epochs=epochs)
            faded, training = train(
                model.net, data, plan, objective(model, data, "auto")[0], prepare=fading(graph, keep)
            )
            graph, told["training"] = channel_graph(faded), training
        progress(2, 4, "making the smaller network")
        net = shrink(graph, keep)
        fitted: Mapping[str, tuple[float, float]] = {}
        if self.fit:
            progress(3, 4, "fitting kernels")
            fitted = reconstruct(graph, keep, net, [x[:FIT] for x in inputs])
        elif not data.generated:
            reestimate(net, data, self.reestimate)
        told |= {
            "criterion": self._criterion(data),
            "ranking": self._ranking,
            "share": share,
            "left_alone": dict(graph.left_alone),
            "frozen": _frozen(graph),
        }
        told["fitted"] = {path: [round(v, 4) for v in errors] for path, errors in fitted.items()}
        return model.changed("cut", net), told

    @property
    def _ranking(self) -> Ranking:
        if self.ranking == "auto":
            return "per-layer"
        return "per-cost" if self.budget == "latency" and self.ranking == "global" else self.ranking

    def _criterion(self, data: Dataset) -> Criterion | Literal["surgeon"]:
        if self.criterion != "auto":
            return self.criterion
        if data.generated:
            return "l2"
        return "surgeon" if self._ranking == "per-layer" else "fisher"

    def _scores(self, graph: ChannelGraph, data: Dataset, inputs: Sequence[Array]) -> Scores:
        criterion = self._criterion(data)
        if criterion == "surgeon":
            scores, how = surgeon(graph, inputs, seed=self.seed), "none"
            if not np.isnan(scores[np.concatenate([g.channels for g in graph.prunable])]).any():
                return scores
            other = score(graph, "taylor", data, samples=self.samples, seed=self.seed)
            return np.where(np.isnan(scores), other, scores)
        scores = score(graph, criterion, data, samples=self.samples, seed=self.seed)
        how = NORMALIZE[criterion] if self.normalize == "auto" else self.normalize
        return normalized(graph, scores, how)

    def _scanned(self, graph: ChannelGraph, scores: Scores, model: Model, data: Dataset) -> Scan | None:
        """What cutting each group alone costs, where somebody wants to know."""
        if not self.sensitivity and not self.max_layer_drop:
            return None
        names = [s.name for s in model.outputs]
        return scan(graph, scores, data, criterion=self._criterion(data), seed=self.seed, outputs=names)

    def _chosen(
        self, graph: ChannelGraph, scores: Scores, share: float, goal: float | None, scanned: Scan | None
    ) -> tuple[Mask, dict[str, Any]]:
        """The mask, and what there is to tell of the choice."""
        step = self.round_to or 1
        if self.budget == "latency":
            latency = Latency(
                graph, self.target, options=self.target_options, scheme=self.scheme, round_to=self.round_to or None,
                seconds=self.seconds,
            )  # fmt: skip
            bounds = self._bounds(graph, latency.round_to, scanned)
            faster = None if goal is not None else 1 / (1 - share)
            return choose_by_latency(
                graph, scores, latency, ms=goal, speedup=faster, ranking=self._ranking, bounds=bounds
            )
        cost: Cost = Polynomial(graph, self.budget)
        assert goal is not None
        return choose(graph, scores, cost, goal, ranking=self._ranking, bounds=self._bounds(graph, step, scanned)), {}

    def _bounds(self, graph: ChannelGraph, step: int, scanned: Scan | None) -> list[Bounds]:
        """What each group may be cut to. Raises UsageError for a pattern that matches no layer."""
        names = list(graph.calls)
        for pattern in self.exclude:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(
                    f"no layer matches the pattern '{pattern}' of exclude{did_you_mean(pattern, names)}",
                    next="use names as `edgedl inspect` shows them",
                )
        found = [
            Bounds(1, len(group)) if self._excluded(graph, group) else Bounds(step, self.min_channels, self.min_share)
            for group in graph.prunable
        ]
        return bounds_from(scanned, self.max_layer_drop, found) if scanned and self.max_layer_drop else found

    def _excluded(self, graph: ChannelGraph, group: Group) -> bool:
        """Whether the channels come out of a layer that matches."""
        calls = [graph.calls[s.path] for s in group.sites if any(fnmatchcase(s.path, p) for p in self.exclude)]
        given = [ids for call in calls for label in call.outputs for ids in label if ids is not None]
        return any(bool(np.isin(group.channels, graph.units.roots(ids)).any()) for ids in given)

    def _recovered(self, model: Model, data: Dataset, index: int) -> Model:
        """The model after this round's share of the epochs."""
        epochs = self._length(index)
        if not epochs:
            return model
        options = {f.name: getattr(self, f.name) for f in fields(Training)}
        return Distill(**{**options, "epochs": epochs, "seed": self.seed + index})(model, data)

    def _summary(self, before: Any, after: Any, size: dict[str, int]) -> dict[str, Any]:
        widths = _widths(before, after)
        now = _size(after)
        return {"widths": widths, **{key: [size[key], now[key]] for key in size}, "budget": self.budget}


def _inputs(data: Dataset, samples: int, seed: int) -> list[Array]:
    """Inputs drawn from the training data, which may lie class by class, in the network's order."""
    split = training_split(data)
    drawn = np.random.default_rng(seed).permutation(len(split))[:samples]
    return list(data.feed(split.take(drawn)).values())


def _size(net: Any) -> dict[str, int]:
    rows = layers_of(net)
    return {
        "macs": sum(r.macs for r in rows),
        "params": sum(r.parameters for r in rows),
        "memory": sum(r.activation_bytes for r in rows),
    }


def _total(net: Any, budget: Kind) -> float:
    """The whole cost of a network, what cannot be pruned with it, as its own graph counts it."""
    graph = channel_graph(net)
    return float(Polynomial(graph, budget).parts(np.array([len(g) for g in graph.prunable])).sum())


def _widths(before: Any, after: Any) -> dict[str, list[int]]:
    """Channels of each layer before and after, of those that changed."""
    now = {r.name: r.output for r in layers_of(after)}
    found = {}
    for row in layers_of(before):
        if row.parameters and row.name in now and row.output != now[row.name]:
            axis = next(i for i, (a, b) in enumerate(zip(row.output, now[row.name], strict=True)) if a != b)
            found[row.name] = [int(row.output[axis] or 0), int(now[row.name][axis] or 0)]
    return found


def _frozen(graph: ChannelGraph) -> dict[str, str]:
    return {g.name: g.frozen for g in graph.groups if g.frozen and len(g) > 1}


def _told(record: dict[str, Any], budget: Budget) -> str:
    (macs, left), (params, rest) = record["macs"], record["params"]
    text = f"{macs / max(left, 1):.2f} x fewer multiply-accumulates, {params / max(rest, 1):.2f} x fewer parameters"
    rounds = record["rounds"]
    if budget == "latency" and "measured_ms" in rounds[-1]:
        text += f", {rounds[0]['dense_ms'] / rounds[-1]['measured_ms']:.2f} x faster"
    return f"pruned channels: {text}"


def _notes(record: dict[str, Any]) -> list[str]:
    alone = record["rounds"][0]["left_alone"]
    if not alone:
        return []
    shown = ", ".join(f"{path} ({op})" for path, op in list(alone.items())[:6])
    more = f" and {len(alone) - 6} more" if len(alone) > 6 else ""
    return [f"pruning left alone what it does not understand, with its neighbours: {shown}{more}"]


def _nothing(graph: ChannelGraph) -> UsageError:
    why = [f"{g.name}: {g.frozen}" for g in graph.groups if g.frozen][:4]
    return UsageError(
        f"this network has no channels that can be removed ({'; '.join(why) or 'no layer has more than one'})",
        next="use quantization, prune_weights or low_rank",
    )
