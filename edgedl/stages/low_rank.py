"""The low_rank stage: dense layers and convolutions become chains of thinner ones where that saves arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from math import prod
from typing import Any, Literal, get_args

import numpy as np

from ..artifact import Array
from ..data import Dataset
from ..errors import UsageError
from ..macs import layers_of
from ..model import Model, require_keras
from ..registry import did_you_mean
from .factoring.decompose import Metric, singular_values, unfoldings
from .factoring.ranks import Choice, by_energy, by_evidence, discarded, rounded, within
from .factoring.sites import Site, metrics, sites
from .factoring.split import Split, apply, factored
from .training.norm import reestimate

Rule = Literal["energy", "evbmf", "budget"]
Measure = Literal["macs", "parameters"]
LEVELS = 24  # ranks of one mode that a budget chooses from, at most
NAMED = 3  # layers that an error names
GENERATED = "low_rank: no data was given, so the error of weights is made small and not that of outputs"


@dataclass(frozen=True, slots=True)
class LowRank:
    """Split layers into low-rank factors: dense layers and 1x1 convolutions by the singular value decomposition, KxK
    convolutions by Tucker-2 into 1x1, KxK, 1x1 (Kim et al., ICLR 2016); only where MACs and parameters become fewer.

    With `data_aware` factors are best for the outputs on calibration inputs instead of for the weights: the
    decomposition is made in the metric of the inputs' covariance (Zhang et al., TPAMI 2016; Chen et al., NeurIPS 2021).
    """

    rank: Rule = "energy"  # energy: of each layer alone; evbmf: variational Bayes, no option; budget: of all together
    energy: float = 0.9  # share of the squared singular values to keep, of each unfolding
    budget: float = 0.7  # share of the network's `measure` that may remain
    measure: Measure = "macs"  # what the budget counts
    data_aware: bool = True
    samples: int = 256  # calibration inputs that are run for it, at most
    round_to: int = 1  # ranks become multiples of this, where the layer is wide enough
    include: tuple[str, ...] = ("*",)  # patterns of layer paths ("outer/inner") that may be split
    exclude: tuple[str, ...] = ()  # patterns of those that may not
    reestimate: int = 1000  # samples on which BatchNormalization statistics are measured anew; 0: as they are

    def __post_init__(self) -> None:
        for name, known in (("rank", get_args(Rule)), ("measure", get_args(Measure))):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} cannot be '{getattr(self, name)}'", next=f"choose one of {', '.join(map(str, known))}"
                )
        for name in ("energy", "budget"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(
                    f"{name} is {getattr(self, name):g}, but must be above 0 and at most 1", next="use 0.9"
                )
        for name, least in (("samples", 1), ("round_to", 1), ("reestimate", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least {least}", next="leave it out")

    def __call__(self, model: Model, data: Dataset) -> Model:
        """The network with layers split. Raises UsageError for a pattern without a layer, a budget that cannot be met."""
        net = require_keras(model, "low_rank")
        found, left = sites(net)
        known = [s.path for s in found]
        for pattern in (*self.exclude, *(p for p in self.include if p != "*")):
            _refuse_unknown(pattern, known)
        wanted = [s for s in found if _any(s.path, self.include) and not _any(s.path, self.exclude)]
        left += [_left(s, "as asked for") for s in found if s not in wanted]
        aware = self.data_aware and not data.generated
        feed = data.feed(data.calibration, 0, self.samples) if aware else {}
        seen = metrics(net, wanted, [feed[s.name] for s in model.inputs]) if aware and wanted else {}
        chosen = self._ranks(net, wanted, seen)
        splits = {s.path: factored(s, chosen[s.path], seen.get(s.path, Metric())) for s in wanted if chosen.get(s.path)}
        left += [_left(s, "no rank saves arithmetic at this error") for s in wanted if s.path not in splits]
        after = self._normalised(apply(net, splits), data) if splits else net
        record = _record(net, after, list(splits.values()), left, seen)
        text = f"split {len(splits)} of {len(found)} layers into low-rank factors"
        if self.data_aware and data.generated:
            model = replace(model, notes=(*model.notes, GENERATED))
        return model.changed(text, after, record)

    def _ranks(self, net: Any, wanted: Sequence[Site], seen: Mapping[str, Metric]) -> dict[str, tuple[int, ...]]:
        """The ranks of the layers that are to be split, by path."""
        if self.rank == "budget":
            return self._by_budget(net, wanted, seen)
        found = {s.path: self._alone(s, seen.get(s.path, Metric())) for s in wanted}
        return {path: ranks for path, ranks in found.items() if ranks}

    def _alone(self, site: Site, metric: Metric) -> tuple[int, ...]:
        """The ranks of one layer by energy or evidence, the cheapest of the forms they allow; () where none saves."""
        kernel, outs = site.kernel, site.kernel.shape[-1]
        ins = kernel.shape[-2]
        if site.is_matrix:
            values = singular_values(kernel, metric)
            forms: list[tuple[int, ...]] = [(self._rank(values, kernel[..., 0].size, outs, len(values)),)]
        else:
            inner, outer = unfoldings(kernel, metric)
            r = self._rank(inner, ins, kernel.size // ins, ins)
            s = self._rank(outer, kernel.size // outs, outs, outs)
            forms = [(r, s), (ins, s), (r, outs)]
        return min((f for f in forms if _saves(site, f)), key=site.cost, default=())

    def _rank(self, values: Array, rows: int, columns: int, most: int) -> int:
        rank = by_energy(values, self.energy) if self.rank == "energy" else by_evidence(values, rows, columns)
        return rounded(rank, self.round_to, most)

    def _by_budget(self, net: Any, wanted: Sequence[Site], seen: Mapping[str, Metric]) -> dict[str, tuple[int, ...]]:
        """The ranks that keep the network within the budget. Raises UsageError where none do."""
        at = get_args(Measure).index(self.measure)
        total = _totals(net)[at]
        choices = {s.path: list(self._choices(s, seen.get(s.path, Metric()), at)) for s in wanted}
        fixed = total - sum(s.cost(())[at] for s in wanted)
        chosen = within(choices, self.budget * total - fixed)
        cost = fixed + sum(c.cost for c in chosen.values())
        if cost > self.budget * total:
            raise UsageError(
                f"low_rank cannot bring the network to {self.budget:g} of its {self.measure}: the smallest share is "
                f"{cost / total:.3f}{_held_back(net, chosen, at)}",
                next=f"give a budget of at least {np.ceil(1000 * cost / total) / 1000:g}, or prune channels",
            )
        return {path: choice.ranks for path, choice in chosen.items() if choice.ranks}

    def _choices(self, site: Site, metric: Metric, at: int) -> Iterator[Choice]:
        """The ways to write a layer that save arithmetic, and the layer as it is."""
        yield Choice((), site.cost(())[at], 0.0)
        if site.is_matrix:
            modes: list[Array] = [singular_values(site.kernel, metric)]
        else:
            modes = list(unfoldings(site.kernel, metric))
            modes[1] = np.pad(modes[1], (0, site.kernel.shape[-1] - len(modes[1])))
        for ranks in product(*(self._levels(len(values)) for values in modes)):
            if _saves(site, ranks):
                lost = sum(discarded(values, rank) for values, rank in zip(modes, ranks, strict=True))
                yield Choice(ranks, site.cost(ranks)[at], lost)

    def _levels(self, most: int) -> list[int]:
        """Ranks to choose from: about evenly spread, multiples of round_to, and the full one."""
        spread = np.unique(np.linspace(1, most, min(most, LEVELS)).round().astype(int))
        return sorted({rounded(int(rank), self.round_to, most) for rank in spread})

    def _normalised(self, net: Any, data: Dataset) -> Any:
        """BatchNormalization statistics measured anew, behind layers that now give something a little different."""
        if self.reestimate and not data.generated:
            reestimate(net, data, self.reestimate)
        return net


def _saves(site: Site, ranks: Sequence[int]) -> bool:
    """Whether these ranks need fewer multiply-accumulates and fewer weights than the layer as it is, and none is idle."""
    idle = len(ranks) == 2 and prod(site.window) * ranks[0] < ranks[1] < site.kernel.shape[-1]
    return not idle and all(now < was for now, was in zip(site.cost(ranks), site.cost(()), strict=True))


def _totals(net: Any) -> tuple[int, int]:
    """(multiply-accumulates for one input, parameters) of a network."""
    return sum(row.macs for row in layers_of(net)), int(net.count_params())


def _any(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _refuse_unknown(pattern: str, known: Sequence[str]) -> None:
    if not any(fnmatchcase(path, pattern) for path in known):
        shown = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
        raise UsageError(
            f"no layer that low_rank can split matches '{pattern}'{did_you_mean(pattern, known)}",
            next=f"use names or patterns of these: {shown or 'there are none'}",
        )


def _held_back(net: Any, chosen: Mapping[str, Choice], at: int) -> str:
    """Which layers cost the most of what remains, in words."""
    costs = {row.name: (row.macs, row.parameters)[at] for row in layers_of(net)} | {
        p: c.cost for p, c in chosen.items()
    }
    most = [name for name in sorted(costs, key=lambda n: -costs[n])[:NAMED] if costs[name]]
    return f", most of it in {', '.join(most)}" if most else ""


def _left(site: Site, why: str) -> dict[str, str]:
    return {"layer": site.path, "op": type(site.layer).__name__, "why": why}


def _record(
    before: Any, after: Any, splits: Sequence[Split], left: Sequence[Mapping[str, str]], seen: Mapping[str, Metric]
) -> dict[str, Any]:
    """What was done, in plain JSON. "error": root of the share of a layer's output energy that is lost."""
    totals = [_totals(net) for net in (before, after)]
    return {
        "stage": "low_rank",
        "macs": [macs for macs, _ in totals],
        "parameters": [parameters for _, parameters in totals],
        "layers": [
            {
                "layer": split.site.path,
                "kernel": list(split.site.kernel.shape),
                "ranks": list(split.ranks),
                "macs": [split.site.cost(())[0], split.site.cost(split.ranks)[0]],
                "parameters": [split.site.cost(())[1], split.site.cost(split.ranks)[1]],
                "error": split.error,
                "of": "outputs" if split.site.path in seen else "weights",
            }
            for split in splits
        ],
        "left": [dict(entry) for entry in left],
    }
