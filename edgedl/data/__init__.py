"""Data: calibration, validation and training samples that fit a model, with their declared preprocessing."""

from .dataset import Dataset, Split
from .loading import load
from .options import DataOptions

__all__ = ["DataOptions", "Dataset", "Split", "load"]
