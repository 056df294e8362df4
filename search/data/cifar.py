"""CIFAR-10 and CIFAR-100 in their "binary version", or in their "Python version" (see `cifar_python`).

A file of the binary version is a row of records without any header. A record has one label byte (CIFAR-100: the coarse
label, then the fine one) and 3072 bytes of pixels: the red 32x32 plane, then green, then blue.
"""

import os
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import torch

from bnas_deploy.core.errors import DataError
from bnas_deploy.core.files import open_regular
from bnas_deploy.search.data.cifar_python import PythonFormat, read_python
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.data.kinds import CIFAR_SOURCE

_SHAPE = (3, 32, 32)
_PIXEL_BYTES = 3 * 32 * 32
_LARGEST_NAMES = 100_000  # bytes; a hundred class names have one thousand
# Of CIFAR-10, as in the official BNAS code. They serve CIFAR-100 too: the stem begins with a BN of its own.
_MEAN = (0.49139968, 0.48215827, 0.44653124)
_STD = (0.24703233, 0.24348505, 0.26158768)


@dataclass(frozen=True)
class _Format:
    """Files of one data set; the last of `label_bytes` is the label, and `*_records` are counted per file.

    `python` is its other version.
    """

    name: str
    folder: str  # what its archive unpacks to
    train_files: tuple[str, ...]
    train_records: int
    test_file: str
    test_records: int
    names_file: str
    classes: int
    label_bytes: int
    python: PythonFormat


_CIFAR10 = _Format(
    name="CIFAR-10",
    folder="cifar-10-batches-bin",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    train_records=10_000,
    test_file="test_batch.bin",
    test_records=10_000,
    names_file="batches.meta.txt",
    classes=10,
    label_bytes=1,
    python=PythonFormat(
        folder="cifar-10-batches-py",
        train_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test_file="test_batch",
        names_file="batches.meta",
        names_key="label_names",
        label_key="labels",
        classes=10,
    ),
)
_CIFAR100 = _Format(
    name="CIFAR-100",
    folder="cifar-100-binary",
    train_files=("train.bin",),
    train_records=50_000,
    test_file="test.bin",
    test_records=10_000,
    names_file="fine_label_names.txt",
    classes=100,
    label_bytes=2,
    python=PythonFormat(
        folder="cifar-100-python",
        train_files=("train",),
        test_file="test",
        names_file="meta",
        names_key="fine_label_names",
        label_key="fine_labels",
        classes=100,
    ),
)


def open_cifar10(folder: Path) -> InMemoryDataSet:
    """Read CIFAR-10 from `folder`, or from its subfolder cifar-10-batches-bin or cifar-10-batches-py.

    Raises:
        DataError: a file is missing, of the wrong size, or holds something else; nothing in it is executed.
    """
    return _open(folder, _CIFAR10)


def open_cifar100(folder: Path) -> InMemoryDataSet:
    """Read CIFAR-100 with its fine labels from `folder`, or its subfolder cifar-100-binary or cifar-100-python.

    Raises:
        DataError: a file is missing, of the wrong size, or holds something else; nothing in it is executed.
    """
    return _open(folder, _CIFAR100)


def _open(folder: Path, form: _Format) -> InMemoryDataSet:
    subfolders = [name for name in (form.folder, form.python.folder) if os.path.isdir(folder / name)]
    folder = folder / (subfolders or [""])[0]
    is_python = os.path.lexists(folder / form.python.names_file) and not os.path.lexists(folder / form.names_file)
    names, train, test = read_python(folder, form.python) if is_python else _read_binary(folder, form)
    description = DataDescription(
        name=form.name,
        class_names=names,
        in_channels=_SHAPE[0],
        image_size=_SHAPE[1:],
        mean=_MEAN,
        std=_STD,
    )
    return InMemoryDataSet(description, train, test)


def _read_binary(folder: Path, form: _Format) -> tuple[tuple[str, ...], Images, Images]:
    names = _read_names(folder, form)
    parts = [_read_images(folder / name, form.train_records, form) for name in form.train_files]
    train = Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))
    return names, train, _read_images(folder / form.test_file, form.test_records, form)


def _read_images(path: Path, records: int, form: _Format) -> Images:
    record_bytes = form.label_bytes + _PIXEL_BYTES
    with _open_file(path, form) as file:
        size = os.fstat(file.fileno()).st_size  # looked at first: a sparse file may have any
        if size != records * record_bytes:
            raise DataError(
                f"{path}: {size} bytes, expected {records * record_bytes} ({records} images of {form.name}); "
                "download and unpack the archive again"
            )
        data = file.read()
    table = np.frombuffer(data, np.uint8).reshape(records, record_bytes)
    labels = table[:, form.label_bytes - 1].astype(np.int64)
    if labels.max() >= form.classes:
        raise DataError(
            f"{path}: image {labels.argmax()} has label {labels.max()}, expected 0 to {form.classes - 1}; "
            f"is this the binary version of {form.name}?"
        )
    pixels = np.ascontiguousarray(table[:, form.label_bytes :]).reshape(records, *_SHAPE)
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels))


def _read_names(folder: Path, form: _Format) -> tuple[str, ...]:
    path = folder / form.names_file
    with _open_file(path, form) as file:
        lines = file.read(_LARGEST_NAMES).decode("utf-8", errors="replace").split("\n")
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != form.classes:
        raise DataError(
            f"{path}: {len(names)} class names, expected {form.classes}, one a line; unpack the archive again"
        )
    return names


def _open_file(path: Path, form: _Format) -> BufferedReader:
    try:
        return open_regular(path)
    except FileNotFoundError:
        files = ", ".join((*form.train_files, form.test_file, form.names_file))
        raise DataError(
            f"{path}: no such file; expected the binary version of {form.name} ({files}) or its Python version, not "
            f"the one for Matlab; {CIFAR_SOURCE}"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
