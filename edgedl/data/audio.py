"""Reads PCM WAVs with the standard library into one array of the length the model takes."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..artifact import Array
from ..errors import DataError
from .options import unreadable
from .raw import Wanted, bounded


def read_wavs(files: Sequence[Path], wanted: Wanted, where: str) -> tuple[Array, tuple[str, ...]]:
    """Clips `[n, samples]` float32, -1..1, and notes: mono (the mean of the channels), padded with zeros or cut at the end.

    Raises DataError for mixed sampling rates and for models that take features instead of samples.
    """
    spec = wanted.inputs[0]
    inner = [d for d in spec.shape[1:] if d != 1]
    if len(inner) > 1:
        raise DataError(
            f"{where} holds WAVs, and the model's input {spec.name} {list(spec.shape)} takes features, not samples",
            next="compute the features as in training and pass an .npz, or 'module:function'",
        )
    clips, rates = zip(*(read_wav(file) for file in files), strict=True)
    _same_rate(files, rates, wanted)
    length = inner[0] if inner and inner[0] else max(map(len, clips))
    bounded(len(clips) * length * 4, wanted, f"{where}: {len(clips):,} clips")
    out = np.zeros((len(clips), length), np.float32)
    for row, clip in zip(out, clips, strict=True):
        row[: len(clip)] = clip[:length]
    cut, short = sum(len(c) > length for c in clips), sum(len(c) < length for c in clips)
    notes = (
        [f"{where}: {cut} of {len(clips)} clips are longer than the model's {length} samples and were cut"]
        if cut
        else []
    )
    notes += (
        [f"{where}: {short} of {len(clips)} clips are shorter than {length} samples and were padded with zeros"]
        if short
        else []
    )
    return out, tuple(notes)


def _same_rate(files: Sequence[Path], rates: Sequence[int], wanted: Wanted) -> None:
    expected = wanted.options.sample_rate or rates[0]
    for file, rate in zip(files, rates, strict=True):
        if rate != expected:
            other = (
                f"sample_rate is {expected:,} Hz" if wanted.options.sample_rate else f"{files[0]} has {expected:,} Hz"
            )
            raise DataError(
                f"{file} has {rate:,} Hz, and {other}; edgedl does not resample",
                next=f"resample it, for example: ffmpeg -i {file.name} -ar {expected} OUT.wav",
            )


def read_wav(file: Path) -> tuple[Array, int]:
    """Samples `[n]` float32 in -1..1 and the rate in Hz of a PCM WAV of 8, 16, 24 or 32 bits."""
    try:
        with wave.open(str(file), "rb") as wav:
            width, channels, rate = wav.getsampwidth(), wav.getnchannels(), wav.getframerate()
            data = wav.readframes(wav.getnframes())
    except (wave.Error, EOFError, OSError, RuntimeError) as error:
        raise unreadable(str(file), error, next="save it as PCM (ffmpeg -i IN -c:a pcm_s16le OUT.wav)") from error
    frame = width * channels
    if width not in (1, 2, 3, 4) or not frame or len(data) < frame:
        raise DataError(f"{file} holds no PCM samples", next="leave it out, or record it again")
    samples = _decode(data[: len(data) // frame * frame], width)
    return samples.reshape(-1, channels).mean(1, dtype=np.float32), rate


def _decode(data: bytes, width: int) -> Array:
    """Little-endian PCM -> float32 in -1..1 (8 bits are unsigned, the others signed)."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return (padded.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return (np.frombuffer(data, f"<i{width}") / 2.0 ** (8 * width - 1)).astype(np.float32)
