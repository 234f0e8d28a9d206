"""Files of parameters from strangers: what they unpack to is bounded, and damage is one error."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgedl.converters._jax_files import read
from edgedl.errors import ModelError


def header(text: str) -> bytes:
    """The beginning of a .npy file with a header of this text."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"


def zeros() -> bytes:
    """A .npy file of 80 MB."""
    file = io.BytesIO()
    np.save(file, np.zeros(10 << 20))
    return file.getvalue()


@pytest.mark.parametrize(
    "member", [zeros(), header('"""'), header("(" * 900), header("{'descr': '<f8', 'shape': (3,")], ids=range(4)
)
def test_bombs_and_damaged_headers_are_refused(member: bytes, tmp_path: Path) -> None:
    """The headers are some that numpy's own reader trips over."""
    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", member)
    with pytest.raises(ModelError):
        read(tmp_path / "w.npz")


def test_damaged_and_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    np.savez_compressed(path, a=np.arange(1000.0))
    whole = path.read_bytes()
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[whole.index(b"PK\x01\x02") + 8] |= 1
    for data in (bytes(encrypted), whole[:60] + bytes(b ^ 0x5A for b in whole[60:400]) + whole[400:]):
        path.write_bytes(data)
        with pytest.raises(ModelError):
            read(path)
