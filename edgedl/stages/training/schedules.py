"""Learning rates: the rate of every step, from the options."""

from __future__ import annotations

import math

from .options import Training

DIV, FINAL_DIV = 25.0, 1e4  # of one-cycle: peak / DIV at the start, that / FINAL_DIV at the end


def rate(options: Training, step: int, steps: int) -> float:
    """The learning rate of a step, 0..steps-1.

    cosine and constant: linear warmup to the peak, then half a cosine to 0 (Loshchilov and Hutter, "SGDR", ICLR 2017)
    or the peak. one-cycle: Smith and Topin, "Super-Convergence" (2017), the curve of
    torch.optim.lr_scheduler.OneCycleLR with cosine annealing; the momentum stays as it is.
    """
    peak, rising = options.peak, options.rising * steps
    if options.schedule == "one-cycle":
        return _one_cycle(peak, step, rising - 1, steps - 1)
    if step < rising:
        return peak * (step + 1) / (math.floor(rising) + 1)
    if options.schedule == "constant":
        return peak
    return _cosine(peak, 0.0, (step - rising) / max(steps - rising, 1))


def _one_cycle(peak: float, step: int, top: float, last: int) -> float:
    first = peak / DIV
    if last <= 0:
        return peak
    if step <= top:
        return _cosine(first, peak, step / top) if top > 0 else peak
    return _cosine(peak, first / FINAL_DIV, (step - top) / (last - top))


def _cosine(start: float, end: float, share: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))
