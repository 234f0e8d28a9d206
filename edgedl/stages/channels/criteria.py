"""score(): how much each channel matters, by weights or by data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..rebuilding import weighted
from .choose import Scores
from .graph import ChannelGraph, Site


def magnitude(graph: ChannelGraph, power: int) -> Scores:
    """The L1 (`power` 1) or L2 (2) norm of all kernel entries of a channel, where it is made and where it is read.

    Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017), over all sites of a group as in DepGraph.
    """
    scores = np.zeros(len(graph.units.parent))
    layers = weighted(graph.net)
    for site in kernel_sites(graph):
        kernel = np.abs(weights_of(layers, site)) ** power
        add(scores, graph, site, kernel)
    return scores ** (1 / power)


def kernel_sites(graph: ChannelGraph) -> list[Site]:
    """Sites in weights with at least two axes, each once."""
    found = {}
    for group in graph.groups:
        for site in group.sites:
            if len(graph.calls[site.path].op.weights[site.index].shape) > 1:
                found[(site.path, site.index, site.axis)] = site
    return list(found.values())


def weights_of(layers: dict[str, Any], site: Site) -> Any:
    """The weight of a site, float64."""
    return np.asarray(layers[site.path].weights[site.index], np.float64)


def add(scores: Scores, graph: ChannelGraph, site: Site, values: Any) -> None:
    """Add values of a weight's entries (its shape) to the channels they belong to."""
    others = tuple(i for i in range(values.ndim) if i != site.axis)
    np.add.at(scores, graph.units.roots(site.ids), values.sum(axis=others))
