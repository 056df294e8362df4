"""Data sets: where images come from, and how they reach the network.

`--data` names a kind and, for data that lies on disk, its folder: `digits`, `cifar10:FOLDER`, `cifar100:FOLDER`,
`imagefolder:FOLDER`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from bnas_deploy.errors import DataError
from bnas_deploy.names import did_you_mean, known_name
from bnas_deploy.search.data.cifar import open_cifar10, open_cifar100
from bnas_deploy.search.data.dataset import Batch, DataDescription, DataSet, InMemoryDataSet
from bnas_deploy.search.data.digits import open_digits
from bnas_deploy.search.data.image_folder import open_image_folder

__all__ = ["FOLDER_KINDS", "Batch", "DataDescription", "DataSet", "InMemoryDataSet", "open_data"]

FOLDER_KINDS: Mapping[str, Callable[[Path], DataSet]] = {
    "cifar10": open_cifar10,
    "cifar100": open_cifar100,
    "imagefolder": open_image_folder,
}
"""The kinds that read a folder, and what opens them."""


def open_data(name: str) -> DataSet:
    """Open a data set by what `--data` gives: `digits` or KIND:FOLDER, in any case.

    Raises:
        DataError: no such kind, or the folder is missing, truncated or of another format.
    """
    given, _, folder = name.partition(":")
    kind = known_name(given, FOLDER_KINDS) or given
    if name.lower() == "digits":
        return open_digits()
    if kind in FOLDER_KINDS and not folder:
        raise DataError(f"data {kind!r} without its folder; give {kind}:FOLDER")
    if kind not in FOLDER_KINDS:
        kinds = ", ".join(["digits", *(f"{kind}:FOLDER" for kind in FOLDER_KINDS)])
        near = did_you_mean(given, ["digits", *FOLDER_KINDS])
        raise DataError(f"unknown data {name!r}; expected one of {kinds}{near}")
    path = Path(folder).expanduser()
    if not path.is_dir():
        found = "not a folder" if path.exists() else "no such folder"
        raise DataError(f"{path}: {found}; expected the folder of the data set {kind}")
    return FOLDER_KINDS[kind](path)
