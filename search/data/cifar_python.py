"""CIFAR-10 and CIFAR-100 in their "Python version": dicts, pickled by Python 2.

A file of images has `data`, uint8 (N, 3072): the red 32x32 plane, then the green, then the blue; and a list of N
labels. Another file has the names of the classes. `bnas_deploy.search.data.inert_pickle` reads them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.dataset import Images
from bnas_deploy.search.data.inert_pickle import read_pickle

_SHAPE = (3, 32, 32)
_PIXEL_BYTES = 3 * 32 * 32
_MOST_BYTES = 400_000_000
"""Of a file; the largest, train of CIFAR-100, has 155 MB."""


@dataclass(frozen=True)
class PythonFormat:
    """Files of one data set, and the keys of labels and class names in them."""

    folder: str  # what its archive unpacks to
    train_files: tuple[str, ...]
    test_file: str
    names_file: str
    names_key: str
    label_key: str
    classes: int


def read_python(folder: Path, form: PythonFormat) -> tuple[tuple[str, ...], Images, Images]:
    """Return the names of the classes, the training images and the test images.

    Raises:
        DataError: a file is missing, damaged, holds something else, or a pickle wants anything but plain data.
    """
    parts = [_read_images(folder / name, form) for name in form.train_files]
    train = Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))
    return _read_names(folder / form.names_file, form), train, _read_images(folder / form.test_file, form)


def _read_images(path: Path, form: PythonFormat) -> Images:
    file = _read(path, form)
    pixels, labels = file.get("data"), file.get(form.label_key)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXEL_BYTES or not len(pixels):
        got = "x".join(map(str, pixels.shape)) if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"{path}: 'data' is {got}, wanted bytes of Nx{_PIXEL_BYTES}; unpack the archive again")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(
            f"{path}: {form.label_key!r} is no list of numbers (it has {', '.join(map(repr, file))}); "
            "is this the file of another data set?"
        )
    if len(labels) != len(pixels):
        raise DataError(f"{path}: {len(labels)} labels for {len(pixels)} images; unpack the archive again")
    wrong = [i for i, label in enumerate(labels) if not 0 <= label < form.classes]
    if wrong:
        raise DataError(
            f"{path}: image {wrong[0]} has label {labels[wrong[0]]}, expected 0 to {form.classes - 1}; "
            "unpack the archive again"
        )
    return Images(torch.from_numpy(pixels.reshape(-1, *_SHAPE).copy()), torch.tensor(labels))


def _read_names(path: Path, form: PythonFormat) -> tuple[str, ...]:
    names = _read(path, form).get(form.names_key)
    if not isinstance(names, list) or len(names) != form.classes:
        raise DataError(
            f"{path}: {form.names_key!r} is no list of {form.classes} names; is this the file of another data set?"
        )
    return tuple(name.decode("utf-8", errors="replace") if isinstance(name, bytes) else str(name) for name in names)


def _read(path: Path, form: PythonFormat) -> dict[Any, Any]:
    try:
        file = read_pickle(path, _MOST_BYTES)
    except FileNotFoundError:
        files = ", ".join((*form.train_files, form.test_file, form.names_file))
        raise DataError(f"{path}: no such file; expected the Python version: {files}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(file, dict):
        raise DataError(f"{path}: a pickle of {type(file).__name__}, wanted a dict; unpack the archive again")
    return file
