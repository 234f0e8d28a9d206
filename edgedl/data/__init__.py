"""Data: calibration, validation and training samples that fit a model, with their declared preprocessing."""

from .dataset import Dataset, Split
from .loading import SAME_DATA, load
from .options import DataOptions

__all__ = ["SAME_DATA", "DataOptions", "Dataset", "Split", "load"]
