"""How far before an input an output may begin, so that a kernel never writes over what it still has to read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def lead_of_windows(fields: Mapping[str, int], at_once: int, in_bytes: int = 1, out_bytes: int = 1) -> int:
    """The lead (bytes, at least 0) of a kernel that goes over the output's pixels in raster order, `at_once` of them at a time.

    Each time it must have read all windows of these pixels before it writes their first byte; what it writes next lies
    behind. `fields` are those of `convolution.geometry`. `in_bytes`, `out_bytes`: of one value.

    >>> one = dict(in_h=4, in_w=4, in_c=8, out_h=4, out_w=4, out_c=8, stride_h=1, stride_w=1, pad_top=0, pad_left=0)
    >>> lead_of_windows(one, 2), lead_of_windows({**one, "out_c": 16}, 2)
    (0, 112)
    """
    rows = np.maximum(np.arange(fields["out_h"]) * fields["stride_h"] - fields["pad_top"], 0)
    columns = np.maximum(np.arange(fields["out_w"]) * fields["stride_w"] - fields["pad_left"], 0)
    first = ((rows[:, None] * fields["in_w"] + columns) * fields["in_c"] * in_bytes).ravel()
    needed = np.minimum.accumulate(first[::-1])[::-1]  # the lowest byte that this pixel or a later one reads
    steps = np.arange(at_once, len(first), at_once)  # the pixels before which a step ends and others follow
    written = steps * fields["out_c"] * out_bytes
    return int(max((written - needed[steps]).max(initial=0), 0))
