"""Split and Dataset: raw samples by input name, labels, and the preprocessing that turns them into what a model takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Array
from ..errors import DataError
from ..layouts import Layouts, to_file
from ..preprocess import IDENTITY, Preprocessing

FILE = "data.json"
SPLITS = ("calibration", "validation", "train")


@dataclass(frozen=True, slots=True)
class Split:
    """Raw values by input name, first axis = samples, and their labels: classes (int64) or targets (float32)."""

    x: Mapping[str, Array]
    y: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.x.values()))) if self.x else 0

    def take(self, index: Array) -> Split:
        """The samples of these indices, in that order."""
        return Split({k: v[index] for k, v in self.x.items()}, None if self.y is None else self.y[index])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Everything a run knows about its data. Calibration and validation share no sample unless a note says so."""

    calibration: Split
    validation: Split
    train: Split | None = None
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)  # by input name
    labels: tuple[str, ...] = ()  # class names
    metric: str = "agreement"
    source: str = ""  # as the user gave it
    generated: bool = False  # no data was given
    notes: tuple[str, ...] = ()  # what the user should know
    dtypes: Mapping[str, str] = field(default_factory=dict)  # what the model takes, by input name; else float32
    layouts: Layouts = field(default_factory=dict)  # of the file that is fed, where its axes are not the model's

    def feed(self, split: Split, start: int = 0, stop: int | None = None) -> dict[str, Array]:
        """Preprocessed samples `start:stop` of a split by input name: float32 `[n, ...]`, integers for integer inputs.

        Their axes are the trainable form's, or those of the file that `layouts` are of.
        """
        out = {}
        for name, x in split.x.items():
            ready = self.preprocessing.get(name, IDENTITY)(np.asarray(x[start:stop]))
            out[name] = np.ascontiguousarray(ready, dtype=self.dtypes.get(name, "float32"))
        return to_file(out, self.layouts)

    def save(self, folder: Path) -> None:
        """Write `data.json` and one .npy file for each array into an existing folder; nothing is pickled."""
        splits: dict[str, Any] = {}
        for split_name in SPLITS:
            split: Split | None = getattr(self, split_name)
            if split is None:
                continue
            files = {name: f"{split_name}.x{i}.npy" for i, name in enumerate(split.x)}
            for name, file in files.items():
                np.save(folder / file, split.x[name], allow_pickle=False)
            if split.y is not None:
                np.save(folder / f"{split_name}.y.npy", split.y, allow_pickle=False)
            splits[split_name] = {"x": files, "y": split.y is not None}
        data = {
            "splits": splits,
            "preprocessing": {k: p.to_json() for k, p in self.preprocessing.items()},
            "labels": self.labels,
            "metric": self.metric,
            "source": self.source,
            "generated": self.generated,
            "notes": self.notes,
            "dtypes": dict(self.dtypes),
        }
        (folder / FILE).write_text(json.dumps(data, indent=1))

    @classmethod
    def restore(cls, folder: Path) -> Dataset:
        """The Dataset that `save` wrote, its arrays memory-mapped. Raises DataError where it is damaged."""
        try:
            data = json.loads((folder / FILE).read_text())
            splits: dict[str, Any] = {
                name: _restore_split(folder, name, found) for name, found in data.pop("splits").items()
            }
            preprocessing = {k: Preprocessing.from_json(p) for k, p in data.pop("preprocessing").items()}
            data.update(labels=tuple(data["labels"]), notes=tuple(data["notes"]))
            return cls(**splits, preprocessing=preprocessing, **data)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the data kept in {folder} is damaged ({error})", next="remove the folder and run again"
            ) from error


def _restore_split(folder: Path, name: str, found: Mapping[str, Any]) -> Split:
    def read(file: str) -> Array:
        path = folder / file
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        return array

    return Split({k: read(file) for k, file in found["x"].items()}, read(f"{name}.y.npy") if found["y"] else None)
