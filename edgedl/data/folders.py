"""Reads folders of images or WAVs: one folder a class, or files without labels; with parts such as train/ and val/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..artifact import Array
from ..errors import DataError
from ..registry import did_you_mean
from .audio import read_wavs
from .images import read_images
from .options import unreadable
from .raw import TEST, TRAIN, VALIDATION, Raw, Wanted, stratified_order

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
WAVS = (".wav", ".wave")
_Reader = Callable[[Sequence[Path], Wanted, str], tuple[Array, tuple[str, ...]]]


def read_folder(path: Path, wanted: Wanted) -> Raw:
    """A folder of images or WAVs: labels are the names of its subfolders, if it has any."""
    folders, files = _listing(path)
    parts = {p.name.lower(): p for p in folders}
    if folders and not files and set(parts) <= {*TRAIN, *VALIDATION, *TEST}:
        return _read_parts(parts, path, wanted)
    if not folders:
        return _read(files, None, (), path, wanted)
    if files:
        raise DataError(
            f"{path} holds both class folders ({folders[0].name} ...) and files ({files[0].name} ...)",
            next="put every file into the folder of its class",
        )
    labels, numbers = class_numbers([f.name for f in folders], wanted, path)
    found = [(_listing(f, deep=True)[1], n) for f, n in zip(folders, numbers, strict=True)]
    y = np.concatenate([np.full(len(inside), n, np.int64) for inside, n in found])
    return _read([f for inside, _ in found for f in inside], y, labels, path, wanted)


def _listing(path: Path, *, deep: bool = False) -> tuple[list[Path], list[Path]]:
    """Subfolders and readable media files, sorted by name; hidden ones are left out."""
    try:
        entries = sorted(p for p in (path.rglob("*") if deep else path.iterdir()) if not p.name.startswith("."))
    except OSError as error:
        raise unreadable(str(path), error, next="check its permissions") from error
    return [p for p in entries if p.is_dir()], [p for p in entries if p.suffix.lower() in (*IMAGES, *WAVS)]


def _read_parts(parts: dict[str, Path], path: Path, wanted: Wanted) -> Raw:
    def pick(names: tuple[str, ...]) -> Path | None:
        return next((parts[n] for n in names if n in parts), None)

    train, use = pick(TRAIN), pick(VALIDATION) or pick(TEST)
    if use is None:
        return read_folder(next(iter(parts.values())), wanted)
    raw = replace(read_folder(use, wanted), name=str(path))
    raw = raw.noting(f"{path}: '{use.name}' is the validation data") if len(parts) > 1 else raw
    return raw if train is None else replace(raw, train=read_folder(train, wanted))


def class_numbers(names: list[str], wanted: Wanted, path: Path) -> tuple[tuple[str, ...], list[int]]:
    """Class names by number, and the number of each folder.

    With declared labels, their order; folders named 0, 1, 2 ... are these numbers; else the alphabetical order, if there
    are as many folders as the model has classes. Raises DataError for a folder that is no class, or a doubtful order.
    """
    if wanted.calibrating:
        return (), list(range(len(names)))
    labels = wanted.options.labels
    shape = wanted.output.shape
    classes = max(shape[-1] or 0, 2) if shape and shape[-1] else 0
    if labels:
        for name in names:
            if name not in labels:
                raise DataError(
                    f"{path / name} is none of the declared labels{did_you_mean(name, labels)}",
                    next="rename the folder, or correct labels in [data]",
                )
        return tuple(labels), [list(labels).index(n) for n in names]
    if all(n.isdecimal() for n in names) and (not classes or max(map(int, names)) < classes):
        return (), [int(n) for n in names]
    if classes and len(names) != classes:
        raise DataError(
            f"{path} has {len(names)} class folders ({', '.join(names[:4])} ...), and the model has {classes} classes",
            next="declare labels in [data], in the model's order",
        )
    return tuple(names), list(range(len(names)))


def _read(files: list[Path], y: Array | None, labels: tuple[str, ...], path: Path, wanted: Wanted) -> Raw:
    if not files:
        raise DataError(f"{path} holds no image and no WAV", next=f"readable are {', '.join((*IMAGES, WAVS[0]))}")
    kinds = {f.suffix.lower() in WAVS for f in files}
    if len(kinds) > 1:
        raise DataError(f"{path} holds both images and WAVs", next="pass a folder with one kind")
    if 0 < wanted.options.max_samples < len(files):
        keep = np.sort(stratified_order(y, len(files), wanted.seed)[: wanted.options.max_samples])
        files, y = [files[i] for i in keep], None if y is None else y[keep]
    spec = wanted.single_input(str(path), "a folder")
    reader: _Reader = read_wavs if kinds == {True} else read_images
    x, notes = reader(files, wanted, str(path))
    return Raw(str(path), {spec.name: x}, y, labels, notes)
