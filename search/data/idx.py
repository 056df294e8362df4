"""IDX files: MNIST, Fashion-MNIST, KMNIST and EMNIST, as their authors publish them, packed with gzip or not.

A file begins with two zero bytes, the type of its numbers (8: unsigned bytes), the number of axes, and the length of
each axis, big-endian, in 32 bits. Images have three axes (N, H, W), labels one (N).
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bnas_deploy.core.errors import DataError
from bnas_deploy.core.files import open_regular
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.data.kinds import IDX_SOURCE

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
NAMES = "classes.txt"

_UNSIGNED_BYTES = 8
_MOST_BYTES = 2**30
"""Of one file, unpacked: MNIST has 47 MB, the largest EMNIST 550."""
_LARGEST_NAMES = 100_000  # bytes; 256 class names have a few thousand
_WHERE = f"the four files of MNIST, Fashion-MNIST or KMNIST, or of one EMNIST set; {IDX_SOURCE}"


def open_idx(folder: Path) -> InMemoryDataSet:
    """Read the training and test images of `folder`.

    The files end as MNIST's do, `train-images-idx3-ubyte` and so on, `.gz` behind that or not. A test file has `t10k`
    or `test` for `train`. A line of classes.txt names a class; without it the classes are called by their numbers.
    Images of EMNIST, whose files begin with `emnist`, are turned: they are stored with rows and columns exchanged.

    MNIST, Fashion-MNIST and KMNIST have the same file names and sizes; they are recognised by mean and standard
    deviation of their training images. Other data are called after what their files begin with, as EMNIST's do, or
    after their folder.

    Raises:
        DataError: a file is missing, ambiguous, damaged or of another kind, or images and labels do not fit.
    """
    train, test = (_read_part(folder, words) for words in (("train",), ("t10k", "test")))
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        sizes = " and ".join("x".join(map(str, part.pixels.shape[2:])) for part in (train, test))
        raise DataError(f"{folder}: training and test images are {sizes}, wanted one size; are they of one data set?")
    classes = 1 + int(max(part.labels.max() for part in (train, test)))
    values = train.pixels.to(torch.float64) / 255
    mean, std = (round(float(value), 4) for value in (values.mean(), values.std()))
    if not std:
        raise DataError(f"{folder}: all training images are one shade; copy the files again")
    counts = (*train.pixels.shape, len(test.pixels))
    description = DataDescription(
        name=_KNOWN.get((counts, mean, std)) or _prefix(folder) or _folder_name(folder),
        class_names=_read_names(folder, classes),
        in_channels=1,
        image_size=(train.pixels.shape[2], train.pixels.shape[3]),
        mean=(mean,),
        std=(std,),
    )
    empty = sorted(set(range(classes)) - set(train.labels.tolist()))
    notes = (f"no training image of class {', '.join(map(str, empty))}",) if empty else ()
    return InMemoryDataSet(description, train, test, notes)


_SIZES = (60_000, 1, 28, 28, 10_000)
_KNOWN: Mapping[tuple[tuple[int, ...], float, float], str] = {
    (_SIZES, 0.1307, 0.3081): "MNIST",
    (_SIZES, 0.2860, 0.3530): "Fashion-MNIST",
    (_SIZES, 0.1918, 0.3483): "KMNIST",
}
"""By training images (N, C, H, W), the number of test images, mean and standard deviation to four digits."""

_SAY_NOTHING = frozenset(
    ("data", "dataset", "datasets", "download", "downloads", "files", "gzip", "idx", "images", "package", "raw", "..")
)
"""Names of folders that do not tell what is in them: MNIST/raw is torchvision's, package/data npm's."""


def _prefix(folder: Path) -> str:
    """Return what stands before `train` in the name of the training images, such as emnist-letters; "" if nothing."""
    return _find(folder, ("train",), IMAGES).name.rpartition("train-")[0].strip("-_. ")


def _folder_name(folder: Path) -> str:
    """Return the last part of the path that tells something; where none does, the name of the folder all the same."""
    parts = Path(os.path.normpath(folder)).parts
    telling = [part for part in parts if part.lower() not in _SAY_NOTHING and part != folder.anchor]
    return telling[-1] if telling else folder.resolve().name or "idx"


def _read_part(folder: Path, words: tuple[str, ...]) -> Images:
    image_path, label_path = (_find(folder, words, ending) for ending in (IMAGES, LABELS))
    pixels, labels = _read(image_path, axes=3), _read(label_path, axes=1)
    if len(pixels) != len(labels) or not len(pixels):
        raise DataError(
            f"{label_path}: {len(labels)} labels for the {len(pixels)} images of {image_path.name}, wanted one for "
            "each, and at least 1; are they of one data set?"
        )
    if image_path.name.startswith("emnist"):
        pixels = np.ascontiguousarray(pixels.swapaxes(1, 2))
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels.astype(np.int64)))


def _find(folder: Path, words: tuple[str, ...], ending: str) -> Path:
    """Return the one file whose name has one of `words` before `ending`; `.` may stand for the first dash of it."""
    endings = tuple(f"{word}-{form}{gz}" for word in words for form in _forms(ending) for gz in ("", ".gz"))
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(endings))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from None
    if len(names) > 1 and names == [names[0], f"{names[0]}.gz"]:
        names = names[:1]  # unpacked beside the packed file
    if len(names) == 1:
        return folder / names[0]
    found = f"{len(names)} of them ({', '.join(names)})" if names else "no such file"
    raise DataError(f"{folder}: {found} for {words[0]}-{ending}, wanted one; expected {_WHERE}")


def _forms(ending: str) -> tuple[str, str]:
    return ending, ending.replace("-idx", ".idx")


def _read(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """Return the array of a file, uint8."""
    try:
        with open_regular(path) as file:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    return _array(path, unpacked, axes)
            return _array(path, file, axes)
    except (OSError, EOFError, zlib.error) as error:  # gzip's own errors among them
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: cannot be read: {reason}; copy it again") from None


def _array(path: Path, file: BufferedReader | gzip.GzipFile, axes: int) -> NDArray[np.uint8]:
    header = file.read(4 * (1 + axes))
    start = struct.pack(">HBB", 0, _UNSIGNED_BYTES, axes)
    if not header.startswith(start) or len(header) < 4 * (1 + axes):
        raise DataError(
            f"{path}: begins with {header[:4].hex(' ') or 'nothing'}, wanted {start.hex(' ')}, an IDX file of unsigned "
            f"bytes with {axes} {'axis' if axes == 1 else 'axes'}; copy it again"
        )
    shape = struct.unpack(f">{axes}I", header[4:])
    size = math.prod(shape)
    if size > _MOST_BYTES:
        raise DataError(f"{path}: claims {'x'.join(map(str, shape))} bytes, more than any data set; copy it again")
    data = file.read(size + 1)
    if len(data) != size:
        got = "more" if len(data) > size else f"{len(data)} bytes"
        raise DataError(f"{path}: {got} behind its header, wanted {size} ({'x'.join(map(str, shape))}); copy it again")
    return np.frombuffer(data, np.uint8).reshape(shape).copy()


def _read_names(folder: Path, classes: int) -> tuple[str, ...]:
    path = folder / NAMES
    try:
        with open_regular(path) as file:
            lines = file.read(_LARGEST_NAMES).decode("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return tuple(map(str, range(classes)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != classes:
        raise DataError(
            f"{path}: {len(names)} class names, wanted {classes}, one a line, for the labels 0 to {classes - 1}"
        )
    return names
