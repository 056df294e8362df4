"""Grey pixels of more than 8 bits: how many bits a TIFF says, whether 0 is white, and which shade is transparent."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.pixels import read_image

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
"""Every number of 12 bits."""


def tiff(data: bytes, *, bits: int, white_is_zero: bool = False) -> bytes:
    """Return an uncompressed grey TIFF of 64 x 64 pixels."""
    short, long = 3, 4
    tags = [
        (256, long, 64),
        (257, long, 64),
        (258, short, bits),
        (259, short, 1),
        (262, short, 0 if white_is_zero else 1),
    ]
    tags += [(273, long, 8), (277, short, 1), (278, long, 64), (279, long, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def packed_12_bits(values: np.ndarray) -> bytes:
    """Two numbers of 12 bits in three bytes."""
    first, second = values.ravel().astype(int).reshape(-1, 2).T
    rows = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    return rows.astype(np.uint8).tobytes()


def png(values: np.ndarray, transparent: int) -> bytes:
    """Return a 16-bit grey PNG in which one shade is transparent."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"tRNS", struct.pack(">H", transparent)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def pixels(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    image = read_image(path)
    assert image.mode == "L"
    return np.asarray(image)


def test_12_bits_are_no_darker_than_16(tmp_path: Path) -> None:
    got = pixels(tmp_path / "x.tif", tiff(packed_12_bits(RAMP), bits=12))
    np.testing.assert_array_equal(got, RAMP >> 4)


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_a_tiff_says_what_is_white(white_is_zero: bool, tmp_path: Path) -> None:
    values = RAMP * 16
    got = pixels(tmp_path / "x.tif", tiff(values.astype("<u2").tobytes(), bits=16, white_is_zero=white_is_zero))
    upper = values >> 8
    np.testing.assert_array_equal(got, 255 - upper if white_is_zero else upper)


def test_a_transparent_shade_is_white(tmp_path: Path) -> None:
    got = pixels(tmp_path / "x.png", png(RAMP * 16, transparent=16 * 17))
    assert got.ravel()[17] == 255
    np.testing.assert_array_equal(np.delete(got.ravel(), 17), np.delete(RAMP.ravel() >> 4, 17))


def test_what_is_no_image_is_told_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"text")
    with pytest.raises(DataError) as error:
        read_image(tmp_path / "x.png")
    assert error.value.message == (
        f"{tmp_path / 'x.png'}: cannot be read as an image (no format that is read here); replace or remove it"
    )
