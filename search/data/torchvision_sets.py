"""Data sets of torchvision: `torchvision:NAME:FOLDER`, a class of `torchvision.datasets` and where it keeps its files.

Nothing is downloaded here.
"""

import ast
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

from bnas_deploy.core.errors import DataError
from bnas_deploy.core.names import did_you_mean, known_name
from bnas_deploy.search.data.photos import PhotoDataSet
from bnas_deploy.search.data.samples import from_samples

_TEST_SPLITS = ("test", "val")


def open_torchvision(
    where: str, *, image_size: tuple[int, int] | None = None, in_channels: int | None = None, skip_bad: bool = False
) -> PhotoDataSet:
    """Open a data set by NAME:FOLDER, the name in any case.

    Its class takes `train=`, as MNIST's does, or `split=`, as SVHN's; of the splits test is preferred to val.

    Raises:
        DataError: torchvision is not installed, has no such class, or does not find the files.
    """
    name, colon, folder = where.partition(":")
    if not colon or not folder:
        raise DataError(f"data 'torchvision:{where}' without its folder; give torchvision:NAME:FOLDER")
    make, name = _class_of(name)
    root = os.path.expanduser(folder)
    parts = _keywords(make, name)
    train = _open(make, name, root, parts[0][0])
    test = _open_first(make, name, root, parts[1])
    return from_samples(
        train,
        test,
        class_names=_class_names(train),
        train_labels=_labels(train),
        test_labels=_labels(test),
        name=name,
        image_size=image_size,
        in_channels=in_channels,
        skip_bad=skip_bad,
    )


def _class_of(name: str) -> tuple[Callable[..., Any], str]:
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: made for another PyTorch
        _check_name(name, _named_on_disk())
        absent = isinstance(error, ImportError) and error.name == "torchvision"
        problem = "is not installed" if absent else f"cannot be used, perhaps it is made for another PyTorch ({error})"
        raise DataError(f"data 'torchvision:{name}': the package torchvision {problem}; {_advice(absent)}") from None
    names = [each for each in datasets.__all__ if inspect.isclass(getattr(datasets, each))]
    known = _check_name(name, names)
    return getattr(datasets, known), known


def _check_name(name: str, names: Sequence[str]) -> str:
    """Return a name as torchvision writes it; any where it is not known what torchvision has."""
    known = known_name(name, names)
    if known is None and names:
        raise DataError(f"torchvision has no data set {name!r}; it has {', '.join(names)}{did_you_mean(name, names)}")
    return known or name


def _named_on_disk() -> list[str]:
    """Return the names that a torchvision exports which cannot be imported, as its text has them; perhaps none."""
    try:
        files = importlib.metadata.files("torchvision") or []
        sources = [each for each in files if each.as_posix() == "torchvision/datasets/__init__.py"]
        tree = ast.parse(sources[0].read_text(encoding="utf-8") if sources else "")
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError, SyntaxError):
        return []
    lists = (each.value for each in tree.body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == _ALL)
    names = [constant.value for each in lists for constant in ast.walk(each) if isinstance(constant, ast.Constant)]
    return [name for name in names if isinstance(name, str)]


_ALL = "__all__"


def _advice(absent: bool) -> str:
    """Say how to get the torchvision that belongs to the PyTorch that is here: torch 2.N and torchvision 0.(N+15)."""
    import torch

    _, minor, *_ = torch.__version__.split(".")
    build = torch.__version__.partition("+")[2]
    version = f"0.{int(minor) + 15}.*"
    again = "" if absent else " --force-reinstall --no-deps"
    of_build = f", from where this torch {torch.__version__} is from" if build else ""
    return f"pip install{again} 'torchvision=={version}'{of_build}"


def _keywords(make: Callable[..., Any], name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the keywords that choose the training images, and those that may choose the test images."""
    taken = inspect.signature(make).parameters
    if "train" in taken and "split" not in taken:
        return [{"train": True}], [{"train": False}]
    if "split" in taken and "train" not in taken and taken["split"].default is not inspect.Parameter.empty:
        return [{"split": "train"}], [{"split": split} for split in _TEST_SPLITS]
    raise DataError(
        f"torchvision's {name} is not divided by train= or split=; give its parts to `from_samples` of "
        "bnas_deploy.search.data.samples, or copy its images to train/CLASS and val/CLASS and give imagefolder:FOLDER"
    )


def _open_first(make: Callable[..., Any], name: str, root: str, choices: list[dict[str, Any]]) -> Any:
    for keywords in choices[:-1]:
        try:
            return make(root, **keywords)
        except (RuntimeError, ValueError, OSError):  # it has no such split, or not here
            continue
    return _open(make, name, root, choices[-1])


def _open(make: Callable[..., Any], name: str, root: str, keywords: dict[str, Any]) -> Any:
    try:
        return make(root, **keywords)
    # What torchvision raises for files that are missing or damaged; some sets need a package of their own.
    except (RuntimeError, ValueError, OSError, ImportError, EOFError) as error:
        told = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
        reason = " ".join(str(error).split()) or type(error).__name__
        fetch = "see torchvision's page of it"
        if "download" in inspect.signature(make).parameters:
            fetch = f'python -c "from torchvision.datasets import {name}; {name}({root!r}, {told}, download=True)"'
        raise DataError(
            f"{root}: torchvision cannot open {name} there ({reason}); nothing is downloaded here. To fetch it: {fetch}"
        ) from None


def _class_names(data: Any) -> list[str]:
    """Return what the set calls its classes, or their numbers."""
    names = getattr(data, "classes", None)
    if names:
        return [name[0] if isinstance(name, tuple) else str(name) for name in names]  # ImageNet: several names each
    labels = _labels(data) or [int(label) for _, label in data]
    return [str(number) for number in range(1 + max(labels))]


def _labels(data: Any) -> list[int] | None:
    """Return the labels alone, if the set has them; there is no one name for them."""
    for field in ("targets", "labels", "_labels"):
        labels = getattr(data, field, None)
        if labels is not None and len(labels) == len(data):
            return [int(label) for label in labels]
    return None
