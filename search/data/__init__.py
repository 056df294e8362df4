"""Data sets: where images come from, and how they reach the network.

`--data` names a kind and, for data that lies on disk, its folder, such as `digits` or `cifar10:FOLDER`;
`bnas_deploy.search.data.kinds` has the table.
"""

import os.path
from pathlib import Path
from typing import TYPE_CHECKING

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.kinds import FOLDER, kind_of, without_folders

if TYPE_CHECKING:
    from bnas_deploy.search.data.dataset import DataSet, InMemoryDataSet

__all__ = ["open_data", "open_for", "open_in_memory"]


def open_data(
    name: str,
    *,
    image_size: tuple[int, int] | None = None,
    in_channels: int | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
) -> "DataSet":
    """Open a data set by what `--data` gives: KIND or KIND:WHERE, the kind in any case.

    Args:
        name: what `--data` gives.
        image_size: (height, width), for kinds that resize their images; other data have their own.
        in_channels: 1 or 3, for the same kinds.
        limit: images of each part at most, see `DataSet.limited`.
        skip_bad: leave out the images that cannot be read, for the same kinds as `image_size`.

    Raises:
        DataError: no such kind, or the folder is missing, truncated or of another format; or images are asked for in a
            size that they do not have; or the limit is too small.
    """
    data = _open_all(name, image_size=image_size, in_channels=in_channels, skip_bad=skip_bad)
    data = data if limit is None else data.limited(limit)
    data.named = without_folders(name)
    return data


def _open_all(name: str, *, image_size: tuple[int, int] | None, in_channels: int | None, skip_bad: bool) -> "DataSet":
    kind = kind_of(name)
    given = {"image_size": image_size, "in_channels": in_channels, "skip_bad": skip_bad}
    if not kind.resizes and any(given.values()):
        raise DataError(
            f"--data {name}: --image-size, --in-channels and --skip-bad are for image files; leave them out"
        )
    settings = given if kind.resizes else {}
    where = name.partition(":")[2]
    if kind.takes != FOLDER:
        return kind.open(*([where] if kind.takes else []), **settings)
    path = Path(os.path.expanduser(where))
    if not os.path.isdir(path):
        found = "not a folder" if os.path.exists(path) else "no such folder"
        source = f"; {kind.source}" if kind.source else ""
        raise DataError(f"{path}: {found}; expected the folder of the data set {kind.name}{source}")
    return kind.open(path, **settings)


def open_for(
    name: str, *, image_size: tuple[int, int], in_channels: int, limit: int | None = None, skip_bad: bool = False
) -> "DataSet":
    """Open a data set for a network: images that can be resized are made to fit it, others are as they are.

    Raises:
        DataError: as for `open_data`.
    """
    if kind_of(name).resizes:
        return open_data(name, image_size=image_size, in_channels=in_channels, limit=limit, skip_bad=skip_bad)
    return open_data(name, limit=limit, skip_bad=skip_bad)


def open_in_memory(
    name: str,
    *,
    image_size: tuple[int, int] | None = None,
    in_channels: int | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
) -> "InMemoryDataSet":
    """Open a data set as `open_data` does, with all its images in memory.

    Raises:
        DataError: as for `open_data`, or an image cannot be read.
    """
    data = open_data(name, image_size=image_size, in_channels=in_channels, limit=limit, skip_bad=skip_bad)
    return data.in_memory()
