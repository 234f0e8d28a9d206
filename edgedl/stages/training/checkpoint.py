"""Checkpoints of a training that outlive a killed process: one .npz file, replaced at once, that says what it is of."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import scratch
from ...artifact import Array
from ...data import Dataset
from ...options import everything
from .batches import training_split
from .optimizing import Objective, array
from .options import Training

EVERY_S = 60.0  # seconds between two checkpoints inside an epoch
HASHED = 64 << 20  # bytes of each input of which all is looked at to tell data apart; of larger ones, rows of it
PREFIX = "training-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The place of a training's checkpoint: its file is named by what it is of."""

    path: Path
    of: Mapping[str, str]  # digests of network, data, options, objective

    def save(self, header: Mapping[str, Any], groups: Mapping[str, Sequence[Array]]) -> None:
        """Write plain JSON and groups of arrays; a reader finds the file of before or this one, whole."""
        arrays: dict[str, Any] = {f"{name}.{i}": a for name, group in groups.items() for i, a in enumerate(group)}
        counts = {name: len(group) for name, group in groups.items()}
        text = json.dumps({"of": dict(self.of), "counts": counts, **header})
        part = self.path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, header=np.array(text), **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)

    def load(self) -> tuple[dict[str, Any], dict[str, list[Array]]] | None:
        """What `save` wrote, or None where there is nothing, or nothing whole."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                groups = {k: [file[f"{k}.{i}"] for i in range(n)] for k, n in header["counts"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
            return None
        return (header, groups) if header.get("of") == self.of else None

    def others(self) -> list[str]:
        """Notes on trainings that were killed in this folder and are of something else; their files are removed."""
        notes = []
        for path in sorted(self.path.parent.glob(f"{PREFIX}*.npz")):
            found = _header(path)
            if path == self.path or (found is not None and found.get("done")):
                continue
            path.unlink()
            if found is None:
                notes.append("a damaged checkpoint was not used: training began anew")
                continue
            differ = [name for name, digest in self.of.items() if found.get("of", {}).get(name) != digest]
            notes.append(
                f"a checkpoint was not used, because it is of other {' and '.join(differ)}: training began anew"
            )
        return notes


def _header(path: Path) -> dict[str, Any] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = json.loads(str(file["header"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("of"), dict) else None


def checkpoint(
    net: Any, data: Dataset, options: Training, objective: Objective, prepare: Any = None
) -> Checkpoint | None:
    """Where the training of `net` keeps its checkpoints; None where nothing is to be kept.

    `objective` and `prepare` may have a `fingerprint` of what else they depend on.
    """
    folder = scratch.folder()
    if folder is None:
        return None
    plain = [type(options).__qualname__, everything(options)]
    kind = [
        type(objective).__qualname__,
        list(objective.taps),
        *(str(getattr(o, "fingerprint", "")) for o in (objective, prepare)),
    ]
    of = {
        "network": _digest(
            json.dumps(net.get_config(), default=lambda value: type(value).__qualname__).encode(),
            *(array(v) for v in _weights(net)),
        ),
        "data": _data(data),
        "options": _digest(json.dumps(plain, sort_keys=True).encode()),
        "objective": _digest(json.dumps(kind).encode()),
    }
    name = _digest(json.dumps(of, sort_keys=True).encode())[:16]
    return Checkpoint(folder / f"{PREFIX}{name}.npz", of)


def fingerprint(*nets: Any) -> str:
    """A digest of the weights of these networks, for an objective that depends on them (`Objective.fingerprint`)."""
    return _digest(*(array(v) for net in nets for v in _weights(net)))


def _weights(net: Any) -> list[Any]:
    """Without the states of random numbers, which differ from one loading to the next."""
    return [v for v in net.variables if not v.name.startswith("seed_generator_state")]


def _data(data: Dataset) -> str:
    split = training_split(data)
    told = {k: p.to_json() for k, p in data.preprocessing.items()}
    parts: list[bytes | Array] = [json.dumps([told, data.metric, dict(data.dtypes)], sort_keys=True).encode()]
    for part in (split, data.validation):
        for values in (*part.x.values(), *(() if part.y is None else (part.y,))):
            step = max(1, values.nbytes // HASHED)
            parts += [f"{values.shape} {values.dtype}".encode(), np.ascontiguousarray(values[::step])]
    return _digest(*parts)


def _digest(*parts: bytes | Array) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).view(np.uint8).reshape(-1).data)
    return found.hexdigest()
