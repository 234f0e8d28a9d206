"""DataOptions: the [data] table of a recipe; its fields are the only declaration of the options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import DataError, EdgedlError
from ..metrics import find_metric
from ..preprocess import Layout


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where the data is, how it is cut, what the labels are, and the preprocessing that the artifact will carry.

    A source is a path (.npz; .npy, or "x.npy,y.npy"; a folder of class folders of images or WAVs; .csv or .tsv),
    "module:function" (which returns x, or (x, y), or a dict), "digits" (scikit-learn's 8x8 digits), or "" (generated).
    One source alone is cut in two, stratified by label: calibration, at most `calibration_samples` and a fifth of it,
    and validation, the rest. A separate `calibration` or `train` source leaves all of `source` for validation;
    calibration is then cut from `train`, which stays whole. `train_share` of `source` is for training where there is no `train`.
    """

    source: str = ""
    calibration: str = ""  # a separate source of inputs for calibration; it needs no labels
    train: str = ""  # a separate training source
    train_share: float = 0.0  # of `source`, where there is no `train`: how much is for training; not scored
    calibration_samples: int = 200  # most that are cut from another source for calibration
    max_samples: int = 0  # most that are used of each source, chosen with the seed; 0: all
    metric: str = "auto"  # or accuracy, top5, f1, roc_auc, mae, mse, psnr, mean_iou, agreement; "output:metric" for another output
    labels: tuple[str, ...] | str = ()  # class names in the model's order, or a text file with one a line
    label_column: str = (
        ""  # of a table; not set: the one named label, target, y or class, else the last; "none": no labels
    )
    sample_rate: int = 0  # Hz the WAVs must have; 0: whatever they have, if they agree
    scale: float = 1.0  # preprocessing: (x * scale - mean) / std
    mean: tuple[float, ...] = (0.0,)  # one value, or one a channel
    std: tuple[float, ...] = (1.0,)
    resize: tuple[int, int] | None = None  # height, width in pixels, done by the runtime on every image
    layout: Layout = ""  # what the network takes: NCHW transposes images given as NHWC
    inputs: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # by input name: its own scale, mean, std, resize, layout
    generated_max: int = 9  # largest value generated for an integer input (the last index of its vocabulary)
    memory_gib: float = 4.0  # most that one source may take when read

    def __post_init__(self) -> None:
        for name in ("calibration_samples", "memory_gib"):
            if not getattr(self, name) > 0:
                raise DataError(
                    f"data.{name} is {getattr(self, name)}, but must be above 0", next="leave it out for its default"
                )
        for name in ("max_samples", "sample_rate", "generated_max"):
            if getattr(self, name) < 0:
                raise DataError(
                    f"data.{name} is {getattr(self, name)}, but cannot be negative", next="leave it out for its default"
                )
        if not 0 <= self.train_share < 1:
            raise DataError(
                f"data.train_share is {self.train_share}, but must be at least 0 and below 1",
                next="use train_share = 0.6",
            )
        if self.resize is not None and min(self.resize) < 1:
            raise DataError(f"data.resize is {self.resize}, which is no image", next="give height and width in pixels")
        if self.metric.rpartition(":")[2] != "auto":
            find_metric(self.metric)

    def or_preprocessing(self, found: Mapping[str, Mapping[str, Any]]) -> DataOptions:
        """These options with the preprocessing that a file carries (by input name), unless they declare one."""
        keys = ("scale", "mean", "std", "resize", "layout", "inputs")
        declared = any(getattr(self, k) != getattr(DataOptions(), k) for k in keys)
        return self if declared else replace(self, inputs=found)

    @property
    def max_bytes(self) -> int:
        """Most bytes that one source may take when read."""
        return int(self.memory_gib * (1 << 30))


def unreadable(what: str, error: Exception, next: str = "copy the file again, or leave it out") -> EdgedlError:
    """The DataError for a file that cannot be read, with the reason its reader gave."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DataError(f"{what} cannot be read: {' '.join(reason.split())[:200]}", next=next)
