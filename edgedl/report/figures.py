"""Numbers as people read them: three significant digits, always with the unit."""

from __future__ import annotations

import math

from .document import IDENTICAL_DB

NOTHING = "–"
RELATIVE = frozenset({"mae", "mse", "psnr"})  # metrics without a fixed scale: their drop is relative
LOWER_IS_BETTER = frozenset({"mae", "mse"})
TITLES = {
    "accuracy": "Accuracy", "f1": "F1", "roc_auc": "ROC AUC", "mae": "MAE", "mse": "MSE", "psnr": "PSNR",
    "mean_iou": "Mean IoU", "agreement": "Agreement", "fidelity": "Fidelity",
}  # fmt: skip
SHARES = frozenset({"accuracy", "agreement"})  # shares of samples that are right: a binomial interval applies


def bare(metric: str) -> str:
    """The metric's own name: "out:accuracy" -> "accuracy"."""
    return metric.rpartition(":")[2]


def title(metric: str) -> str:
    """The metric as a heading.

    >>> title("accuracy"), title("top5"), title("mask:mean_iou")
    ('Accuracy', 'Top-5 accuracy', 'Mean IoU of mask')
    """
    output, _, name = metric.rpartition(":")
    words = f"Top-{name[3:]} accuracy" if is_share(metric) and name.startswith("top") else TITLES.get(name, name)
    return f"{words} of {output}" if output else words


def is_share(metric: str) -> bool:
    """Whether the metric is a share of the samples (accuracy, top5, agreement)."""
    return bare(metric) in SHARES or (bare(metric).startswith("top") and bare(metric)[3:].isdigit())


def digits(value: float, significant: int = 3) -> str:
    """Fixed-point text with so many significant digits, never scientific between 1e-4 and 1e6.

    >>> [digits(v) for v in (0.0, 1.0, 98.464, 1234.5, 0.01234, -2.5, 3e-7)]
    ['0', '1.00', '98.5', '1234', '0.0123', '−2.50', '3.00e−07']
    """
    if value == 0:
        return "0"
    size = abs(value)
    if not 1e-4 <= size < 1e6:
        return f"{value:.{significant - 1}e}".replace("-", "−")
    decimals = max(0, significant - 1 - math.floor(math.log10(size)))
    return f"{value:.{decimals}f}".replace("-", "−")


def size(count: float | None) -> str:
    """Bytes in decimal units.

    >>> size(98_464), size(512), size(1_500_000), size(None)
    ('98.5 kB', '512 B', '1.50 MB', '–')
    """
    if count is None:
        return NOTHING
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= scale:
            return f"{digits(count / scale)} {unit}"
    return f"{count:.0f} B"


def time(us: float | None) -> str:
    """Microseconds in the unit that suits.

    >>> time(0.31), time(412), time(1500), time(2.5e6)
    ('0.310 µs', '412 µs', '1.50 ms', '2.50 s')
    """
    if us is None:
        return NOTHING
    scale, unit = (1e6, "s") if us >= 1e6 else (1e3, "ms") if us >= 1e3 else (1.0, "µs")
    return f"{digits(us / scale)} {unit}"


def interval(low: float, high: float) -> str:
    """An interval of times, the unit once, with as many digits as tell its ends apart (three to six).

    >>> interval(409, 415.2), interval(990, 1010), interval(27.451, 27.461), interval(1.162, 1.162)
    ('409–415 µs', '0.990–1.01 ms', '27.45–27.46 µs', '1.16 µs')
    """
    scale, unit = (1e6, "s") if high >= 1e6 else (1e3, "ms") if high >= 1e3 else (1.0, "µs")
    for significant in (3, 4, 5, 6):
        ends = [digits(v / scale, significant) for v in (low, high)]
        if ends[0] != ends[1]:
            return f"{ends[0]}–{ends[1]} {unit}"
    return f"{digits(low / scale)} {unit}"


def seconds(value: float) -> str:
    """
    >>> seconds(0.0123), seconds(12.34), seconds(200)
    ('0.01 s', '12.3 s', '3 min 20 s')
    """
    if value >= 120:
        return f"{int(value // 60)} min {value % 60:.0f} s"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def times(ratio: float) -> str:
    """A factor: `3.4×`, from 100 on without decimals."""
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.2f}×" if ratio < 2 else f"{ratio:.1f}×"


def count(value: float | None) -> str:
    """
    >>> count(78_666), count(12_500_000), count(None)
    ('78.7 k', '12.5 M', '–')
    """
    if value is None:
        return NOTHING
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if value >= scale:
            return f"{digits(value / {'G': 1e9, 'M': 1e6, 'k': 1e3}[unit])} {unit}"
    return f"{value:,.0f}"


def percent(share: float | None) -> str:
    """
    >>> percent(1.0), percent(0.985), percent(0.99996), percent(None)
    ('100 %', '98.5 %', '>99.9 %', '–')
    """
    if share is None:
        return NOTHING
    if share == 1:
        return "100 %"
    return ">99.9 %" if 0.9995 <= share < 1 else f"{share * 100:.1f} %"


def decibel(value: float | None) -> str:
    """
    >>> decibel(31.25), decibel(999.0), decibel(-999.0), decibel(None)
    ('31.2 dB', 'identical', 'unlike', '–')
    """
    if value is None:
        return NOTHING
    if abs(value) >= IDENTICAL_DB:
        return "identical" if value > 0 else "unlike"
    return f"{value:.1f} dB".replace("-", "−")


def metric(name: str, value: float | None) -> str:
    """A metric's value: four decimals in 0..1, else four significant digits (psnr in dB).

    >>> metric("accuracy", 0.85), metric("mse", 12.3456), metric("psnr", 30.0)
    ('0.8500', '12.35', '30.0 dB')
    """
    if value is None:
        return NOTHING
    if bare(name) == "psnr":
        return decibel(value)
    return digits(value, 4) if bare(name) in RELATIVE else f"{value:.4f}".replace("-", "−")


def drop(name: str, value: float | None) -> str:
    """A loss, as the change of the metric it is: in points of a hundred, or for metrics without a scale in percent.

    >>> drop("accuracy", 0.005), drop("accuracy", -0.005), drop("accuracy", 0.0), drop("mse", 0.1), drop("psnr", 0.1)
    ('−0.50 points', '+0.50 points', 'unchanged', '+10.0 %', '−10.0 %')
    """
    if value is None:
        return "not comparable"
    if value == 0:
        return "unchanged"
    change = value if bare(name) in LOWER_IS_BETTER else -value
    text = f"{change * 100:+.1f} %" if bare(name) in RELATIVE else f"{change * 100:+.2f} points"
    return text.replace("-", "−")


def wilson(share: float, samples: int) -> tuple[float, float]:
    """95 % interval of a share seen in so many samples (Wilson, JASA 1927).

    >>> [round(v, 3) for v in wilson(0.85, 200)]
    [0.794, 0.893]
    """
    z = 1.959964
    middle = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return max(0.0, middle - half), min(1.0, middle + half)
