"""Data sets of Hugging Face's package `datasets`: `hf:NAME_OR_FOLDER`.

A folder is what `save_to_disk` wrote, or one of images or tables that `load_dataset` reads. A name is looked up among
what the package has fetched before: nothing is downloaded here.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.photos import PhotoDataSet
from bnas_deploy.search.data.samples import Sample, from_samples

_FIRST_WITHOUT_SCRIPTS = 4
"""Before, `load_dataset` could run a program that a data set brought along."""

_OFFLINE = "HF_HUB_OFFLINE"
_TEST_SPLITS = ("test", "validation", "val", "valid")
_LABELS = ("label", "labels", "fine_label")


def open_hugging_face(
    where: str, *, image_size: tuple[int, int] | None = None, in_channels: int | None = None, skip_bad: bool = False
) -> PhotoDataSet:
    """Open a data set by its name or its folder.

    It has a split `train`, and `test` or `validation`; one column of images, and one of labels, called label or
    fine_label if there are several.

    Raises:
        DataError: `datasets` is not installed or too old, or the data set is not here or has no such columns.
    """
    splits = _load(where)
    if "train" not in splits or not any(name in splits for name in _TEST_SPLITS):
        raise DataError(
            f"hf:{where}: its splits are {', '.join(splits)}; wanted train, and test or validation; divide it with "
            "train_test_split and save_to_disk, and give that folder"
        )
    image, label = _columns(where, splits["train"].features)
    # Where a contest keeps the labels of its test images to itself, there are none, or all are -1.
    named = [name for name in _TEST_SPLITS if name in splits and {image, label} <= set(splits[name].features)]
    train, *others = (_Rows(splits[name], image, label) for name in ("train", *named))
    test = next((each for each in others if max(each.labels, default=-1) >= 0), None)
    if test is None:
        raise DataError(f"hf:{where}: no split for testing has labels ({', '.join(splits)}); divide train, and save it")
    return from_samples(
        train,
        test,
        class_names=_class_names(train),
        name=os.path.basename(os.path.normpath(where)),
        image_size=image_size,
        in_channels=in_channels,
        skip_bad=skip_bad,
        train_labels=train.labels,
        test_labels=test.labels,
    )


@dataclass(frozen=True)
class _Rows:
    """Two columns of a table, as pairs."""

    table: Any
    image: str
    label: str

    @property
    def labels(self) -> list[int]:
        """Return the labels alone."""
        return list(self.table[self.label])

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Sample:
        row = self.table[index]
        return row[self.image], row[self.label]


def _load(where: str) -> Mapping[str, Any]:
    try:
        with _offline():
            import datasets
    except ImportError as error:
        missing = "is not installed" if error.name == "datasets" else f"cannot be used ({error})"
        raise DataError(f"data 'hf:{where}': the package datasets {missing}; pip install datasets") from None
    if int(datasets.__version__.split(".")[0]) < _FIRST_WITHOUT_SCRIPTS:
        raise DataError(
            f"data 'hf:{where}': datasets {datasets.__version__} may run programs that come with a data set; "
            f"pip install 'datasets>={_FIRST_WITHOUT_SCRIPTS}'"
        )
    path = os.path.expanduser(where)
    try:
        if os.path.exists(os.path.join(path, "dataset_dict.json")):
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path if os.path.isdir(path) else where)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        reason = " ".join(str(error).split())
        if os.path.isdir(path):
            raise DataError(
                f"{path}: the package datasets cannot open it ({reason}); expected what save_to_disk wrote, or a "
                "folder that load_dataset reads"
            ) from None
        raise DataError(
            f"hf:{where}: cannot be opened ({reason}); nothing is downloaded here. To fetch it: "
            f"python -c \"from datasets import load_dataset; load_dataset({where!r}).save_to_disk('FOLDER')\", then "
            "give hf:FOLDER"
        ) from None
    return loaded if isinstance(loaded, Mapping) else {"(no split)": loaded}


@contextmanager
def _offline() -> Iterator[None]:
    """Have what is imported meanwhile stay off the net; who has imported it before has chosen otherwise."""
    before = os.environ.get(_OFFLINE)
    os.environ[_OFFLINE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_OFFLINE]
        else:
            os.environ[_OFFLINE] = before


def _columns(where: str, features: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of the columns with images and labels, by the kinds that the table says they are."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    labels = classes if len(classes) == 1 else [name for name in _LABELS if name in features][:1]
    if len(images) != 1 or len(labels) != 1:
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(
            f"hf:{where}: its columns are {found}; wanted one of images, and one of class labels or called "
            f"{', '.join(_LABELS)}"
        )
    return images[0], labels[0]


def _class_names(rows: _Rows) -> list[str]:
    """Return what the table calls its classes, or their numbers."""
    names = getattr(rows.table.features[rows.label], "names", None)
    if names:
        return [str(name) for name in names]
    return [str(number) for number in range(1 + max(rows.labels))]
