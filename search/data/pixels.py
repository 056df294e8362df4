"""An image file as 8-bit pixels: grey or RGB, upright, without transparency.

16-bit grey         the upper 8 bits, as Pillow itself reads 16-bit RGB; of 9 to 15 bits as many
32-bit, float       refused: what is white is not known
transparent         as it looks on a white page
EXIF orientation    applied
several frames      the first one
"""

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from bnas_deploy.core.errors import DataError
from bnas_deploy.core.files import open_regular

_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
"""Formats of images as cameras and programs keep them. Pillow knows others, some of which run other programs."""


@cache
def _formats() -> tuple[str, ...]:
    """Return those of `_FORMATS` that this Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


# What Pillow raises for bad files, and what decoders leave through.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, Image.DecompressionBombError),
    *(EOFError, IndexError, KeyError, OverflowError, TypeError, struct.error, zlib.error),
)

_WHITE_32 = ("PNG", "PPM")  # formats whose 32-bit pixels Pillow has scaled to 16 bits


def image_suffixes() -> frozenset[str]:
    """Return the endings of the files that can be read, in lower case, with their dots."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _formats())


def read_image(path: Path) -> Image.Image:
    """Return the image in mode "L" or "RGB", 8 bits each.

    Raises:
        DataError: the file cannot be read as an image, or its pixels have no known white.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=_formats()) as image:
            image.load()
            kind = str(image.format)
            depth = _depth(image)  # before the orientation is applied, which drops what a TIFF says
            ImageOps.exif_transpose(image, in_place=True)
            return _eight_bits(image, kind, depth, path)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def describe_image(path: Path) -> tuple[tuple[int, int], bool]:
    """Return (height, width) as it lies in the file, and whether the image is grey; most files are not decoded for it.

    Raises:
        DataError: the file cannot be read as an image.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=_formats()) as image:
            return (image.height, image.width), _is_grey(image)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    # Pillow names the open file where it does not know the format.
    reason = "no format that is read here" if isinstance(error, UnidentifiedImageError) else str(error)
    return DataError(f"{path}: cannot be read as an image ({reason}); replace or remove it")


@dataclass(frozen=True)
class _Depth:
    """Bits of a grey pixel, and whether 0 is white: what a TIFF says, and Pillow leaves to its reader above 8 bits."""

    bits: int = 16
    white_is_zero: bool = False


def _depth(image: Image.Image) -> _Depth:
    tags = getattr(image, "tag_v2", None)
    if not tags:
        return _Depth()
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))
    return _Depth(
        bits[0] if isinstance(bits, tuple) else bits, tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    )


def _is_grey(image: Image.Image) -> bool:
    if image.mode in {"P", "PA"}:
        palette = np.array(image.getpalette("RGB") or (), np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in {"1", "L", "LA", "La", "I", "F"} or image.mode.startswith("I;16")


def _eight_bits(image: Image.Image, kind: str, depth: _Depth, path: Path) -> Image.Image:
    wide = image.mode.startswith("I;16") or (image.mode == "I" and kind in _WHITE_32)
    if wide:
        values = np.asarray(image)
        upper = values >> max(depth.bits - 8, 0)
        grey = 255 - upper if depth.white_is_zero else upper
        clear = image.info.get("transparency")  # the one shade of a PNG that is transparent
        if isinstance(clear, int):
            grey = np.where(values == clear, 255, grey)
        return Image.fromarray(grey.astype(np.uint8))
    if image.mode in {"I", "F"}:
        pixels = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise DataError(f"{path}: its pixels are {pixels}, of which no white is known; save it with 8 or 16 bits")
    grey = _is_grey(image)
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image.convert("RGBA"))
    return image.convert("L" if grey else "RGB")
