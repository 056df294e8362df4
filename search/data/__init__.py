"""Data sets: where images come from, and how they reach the network.

`--data` names a kind and, for data that lies on disk, its folder: `digits`, `cifar10:FOLDER`, `cifar100:FOLDER`,
`imagefolder:FOLDER`.
"""

import os.path
from collections.abc import Callable, Mapping
from pathlib import Path

from bnas_deploy.core.errors import DataError
from bnas_deploy.core.names import did_you_mean, known_name
from bnas_deploy.search.data.cifar import open_cifar10, open_cifar100
from bnas_deploy.search.data.dataset import Batch, DataDescription, DataSet, InMemoryDataSet
from bnas_deploy.search.data.digits import open_digits
from bnas_deploy.search.data.image_folder import ImageFolder, open_image_folder

__all__ = ["FOLDER_KINDS", "Batch", "DataDescription", "DataSet", "InMemoryDataSet", "open_data", "open_in_memory"]

FOLDER_KINDS: Mapping[str, Callable[[Path], DataSet]] = {
    "cifar10": open_cifar10,
    "cifar100": open_cifar100,
    "imagefolder": open_image_folder,
}
"""The kinds that read a folder, and what opens them."""


def open_data(name: str, *, image_size: tuple[int, int] | None = None, in_channels: int | None = None) -> DataSet:
    """Open a data set by what `--data` gives: `digits` or KIND:FOLDER, in any case.

    `image_size` (height, width) and `in_channels` are those of `open_image_folder`; other data have their own.

    Raises:
        DataError: no such kind, or the folder is missing, truncated or of another format; or images are asked for in a
            size that they do not have.
    """
    given, _, folder = name.partition(":")
    kind = known_name(given, ["digits", *FOLDER_KINDS]) or given
    if kind != "imagefolder" and (image_size or in_channels):
        raise DataError(f"--data {name}: --image-size and --in-channels are for image folders; leave them out")
    if name.lower() == "digits":
        return open_digits()
    if kind in FOLDER_KINDS and not folder:
        raise DataError(f"data {kind!r} without its folder; give {kind}:FOLDER")
    if kind not in FOLDER_KINDS:
        kinds = ", ".join(["digits", *(f"{kind}:FOLDER" for kind in FOLDER_KINDS)])
        near = did_you_mean(given, ["digits", *FOLDER_KINDS])
        raise DataError(f"unknown data {name!r}; expected one of {kinds}{near}")
    path = Path(os.path.expanduser(folder))
    if not os.path.isdir(path):
        found = "not a folder" if os.path.exists(path) else "no such folder"
        raise DataError(f"{path}: {found}; expected the folder of the data set {kind}")
    if kind == "imagefolder":
        return open_image_folder(path, image_size=image_size, in_channels=in_channels)
    return FOLDER_KINDS[kind](path)


def open_in_memory(
    name: str, *, image_size: tuple[int, int] | None = None, in_channels: int | None = None
) -> InMemoryDataSet:
    """Open a data set as `open_data` does, with all its images in memory.

    Raises:
        DataError: as for `open_data`, or an image cannot be read.
    """
    data = open_data(name, image_size=image_size, in_channels=in_channels)
    if isinstance(data, ImageFolder):
        return data.in_memory()
    assert isinstance(data, InMemoryDataSet)
    return data
