"""Arrays come back as numpy wrote them; sizes that lie and zip's tricks are refused."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bnas_deploy.core import npz
from bnas_deploy.core.npz import read_arrays

ARRAYS = {
    "images": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "one": np.arange(3, dtype=np.uint8),
    "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "scalar": np.float64(0.5),
    "none": np.empty((0, 4), np.float16),
    "truth": np.array([True, False]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(save, tmp_path: Path) -> None:
    save(tmp_path / "a.npz", **ARRAYS)
    read = read_arrays(tmp_path / "a.npz")
    assert read.keys() == ARRAYS.keys()
    for name, wanted in ARRAYS.items():
        assert read[name].dtype == wanted.dtype
        np.testing.assert_array_equal(read[name], wanted, strict=True)
        assert read[name].flags.writeable


def array_bytes(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def with_header(shape: str, dtype: str = "<f4") -> bytes:
    """An array of one float whose header says something else."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_header("(1000000000000,)"), "x.npy has 4 bytes of numbers, and its header promises 4,000,000,000,000"),
        (with_header(f"({10**17}, {10**17})"), "its header promises 4"),
        (with_header("(0,)"), "x.npy has 4 bytes of numbers, and its header promises 0"),
        (with_header("(-1,)"), "x.npy is no array of numbers in version 1.0 of numpy's format"),
        (with_header("((((("), "is no array of numbers"),
        (with_header("(1,)", dtype="|O"), "is no array of numbers"),
        (with_header("(1,)", dtype="<f3"), "is no array of numbers"),
        (array_bytes(np.array(["text"])), "is no array of numbers"),
        (array_bytes(np.zeros(1))[:20], "is no array of numbers"),
        (array_bytes(np.zeros(1))[:-1], "x.npy has 7 bytes of numbers, and its header promises 8"),
        (b"", "is no array of numbers"),
    ],
)
def test_an_array_that_lies(data: bytes, message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(ValueError, match=message):
        read_arrays(tmp_path / "a.npz")


def changed(path: Path, find: bytes, offset: int, new: bytes) -> None:
    """Change bytes `offset` after the last `find` of a file."""
    data = bytearray(path.read_bytes())
    at = data.rindex(find) + offset
    data[at : at + len(new)] = new
    path.write_bytes(data)


CENTRAL = b"PK\x01\x02"
"""What an entry of a zip file's directory begins with."""


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (8, b"\x01", "x.npy is encrypted"),
        (8, b"\x40", "x.npy is encrypted|strong encryption"),
        (10, b"\x0e", "x.npy is compressed in a way that numpy does not write"),
        (10, b"\x63", "x.npy is compressed in a way that numpy does not write"),
        (16, b"\x00\x00\x00\x01", "Bad CRC-32"),
        (24, b"\xf0\xff\xff\xff", "its arrays have 4,294,967,280 bytes, more than this machine's memory"),
        (42, b"\x10", "Bad magic number for file header"),
    ],
    ids=["encrypted", "strongly", "lzma", "unknown", "CRC", "bomb", "offset"],
)
def test_tricks_of_zip(offset: int, new: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "memory_bytes", lambda: 2**32 - 100)
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros(3))
    changed(path, CENTRAL, offset, new)
    with pytest.raises(ValueError, match=message):
        read_arrays(path)


def test_damaged_compression(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros(3))
    data = bytearray(path.read_bytes())
    start = data.index(b"x.npy") + len("x.npy") + 20
    data[start : start + 10] = 10 * b"\xff"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"Error -3 while decompressing|Bad CRC|invalid"):
        read_arrays(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive", 1000 * b"PK\x05\x06"])
def test_what_is_no_archive(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r".+"):
        read_arrays(tmp_path / "a.npz")
