"""An image file as a network sees it: 8-bit pixels, grey or RGB, upright, without transparency, of its size.

Training on image folders and predicting both read images here, so it needs Pillow and numpy and no PyTorch.

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
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from bnas_deploy.core.errors import DataError
from bnas_deploy.core.files import open_regular
from bnas_deploy.search.data.augmentation import SMALL

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

_MARGIN = 256 / 224  # shorter side of a large test image before its centre is cut out, over that of the centre
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
        file = open_regular(path)
    except OSError as error:
        raise unreadable(path, error) from None
    with file:
        return decode_image(file, path)


def decode_image(file: IO[bytes], path: Path) -> Image.Image:
    """Do what `read_image` does to a file that is open; `path` names it in errors."""
    try:
        with Image.open(file, formats=_formats()) as image:
            return plain_image(image, path)
    except _UNREADABLE as error:
        raise unreadable(path, error) from None


def plain_image(image: Image.Image, path: Path) -> Image.Image:
    """Do what `read_image` does to an image that Pillow has opened. `path` names it in errors."""
    try:
        image.load()
        kind = str(image.format)
        depth = _depth(image)  # before the orientation is applied, which drops what a TIFF says
        return _eight_bits(ImageOps.exif_transpose(image), kind, depth, path)
    except _UNREADABLE as error:
        raise unreadable(path, error) from None


def describe_image(path: Path) -> tuple[tuple[int, int], bool]:
    """Return (height, width) as it lies in the file, and whether the image is grey; most files are not decoded for it.

    Raises:
        DataError: the file cannot be read as an image.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=_formats()) as image:
            return (image.height, image.width), _is_grey(image)
    except _UNREADABLE as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error for a file that is no image."""
    # Pillow names the open file where it does not know the format.
    reason = "no format that is read here" if isinstance(error, UnidentifiedImageError) else str(error)
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file; give the path of an image")
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
        shades = 255 - upper if depth.white_is_zero else upper
        clear = image.info.get("transparency")  # the one shade of a PNG that is transparent
        if isinstance(clear, int):
            shades = np.where(values == clear, 255, shades)
        return Image.fromarray(shades.astype(np.uint8))
    if image.mode in {"I", "F"}:
        pixels = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise DataError(f"{path}: its pixels are {pixels}, of which no white is known; save it with 8 or 16 bits")
    grey = _is_grey(image)
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image.convert("RGBA"))
    return image.convert("L" if grey else "RGB")


def in_mode(image: Image.Image, channels: int) -> Image.Image:
    """Return a grey or RGB image as what a network takes: grey for 1 channel, RGB for 3."""
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def centre(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize to cover `size` (H, W), large images with a margin, and cut out the centre.

    For 224x224 the shorter side becomes 256. A small image has nothing to spare at its border, so it has no margin.
    """
    margin = _MARGIN if min(size) >= SMALL else 1.0
    scale = max(round(margin * wanted) / side for wanted, side in zip(reversed(size), image.size, strict=True))
    width, height = (max(round(side * scale), wanted) for side, wanted in zip(image.size, reversed(size), strict=True))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop(centre_box(resized.size, width=size[1], height=size[0]))


def centre_box(size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the middle `width` by `height` of an image of `size` (W, H)."""
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels of an image in mode "L" or "RGB": uint8 (H, W, C)."""
    pixels = np.array(image)
    return pixels.reshape(*pixels.shape[:2], -1)
