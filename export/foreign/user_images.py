"""What the command line is told of the images and the classes of a user's module, which has no checkpoint to say it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export import Description, Images
from bnas_deploy.export.images import random_images, usual_count
from bnas_deploy.export.module_checks import answers_of, prepared
from bnas_deploy.search.data import open_data
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.training.import_weights import read_names


@dataclass(frozen=True)
class UserImages:
    """What a user says; None for what is not said.

    Attributes:
        data: a data set, as `--data` names it.
        image_size: (height, width).
        in_channels: of an image.
        mean, std: per channel, of values scaled to 0..1; the module sees (value - mean) / std.
        labels: a text file with the name of a class in each line.
        count: of images.
    """

    data: str | None = None
    image_size: tuple[int, int] | None = None
    in_channels: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: Path | None = None
    count: int | None = None


def images_for(module: nn.Module, name: str, said: UserImages) -> tuple[Images, Description]:
    """Return images to verify the export of a module with, and what its bundle says of them.

    What is not said is what the data set has. Without one the images are normal random numbers, the module sees values
    of 0 to 1 as they are, and the classes have numbers.

    Raises:
        ExportError: the size of the images is not known; mean or std do not fit their channels; or the module does not
            answer one logit for each class.
        DataError: the data set cannot be read.
        BnasError: the names of the classes cannot be read, or there are others than logits.
    """
    opened = None
    if said.data is not None:
        opened = open_data(said.data, image_size=said.image_size, in_channels=said.in_channels)
    preprocessing = _preprocessing(name, said, opened)
    shape = (len(preprocessing.mean), preprocessing.height, preprocessing.width)
    count = said.count or usual_count(shape)
    images = random_images(shape, count) if opened is None else _of_data(opened, preprocessing, count)
    classes = _classes(module, name, images.pixels[:1])
    if said.labels is not None:
        labels = read_names(said.labels, classes)
    elif opened is not None:
        labels = opened.description.class_names
    else:
        labels = tuple(str(number) for number in range(classes))
    data = None if opened is None else opened.named
    return images, Description({"name": name}, labels, preprocessing, {}, data=data)


def _preprocessing(name: str, said: UserImages, opened: DataSet | None) -> Preprocessing:
    if opened is not None:
        about = opened.description
        channels, size, usual = about.in_channels, about.image_size, (about.mean, about.std)
    elif said.image_size is not None:
        channels = said.in_channels or len(said.mean) or len(said.std) or 3
        size, usual = said.image_size, ((0.0,) * channels, (1.0,) * channels)
    else:
        raise ExportError(f"{name}: the size of its images is not known; give --image-size, or --data")
    mean, std = said.mean or usual[0], said.std or usual[1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ExportError(
            f"{name}: --mean {_listed(mean)} and --std {_listed(std)} for images of {channels} channels; give a number "
            "for each, for --std above 0"
        )
    return Preprocessing(*size, mean, std)


def _of_data(opened: DataSet, wanted: Preprocessing, count: int) -> Images:
    pixels, labels = next(opened.test_batches(count))
    about = opened.description
    if (about.mean, about.std) != (wanted.mean, wanted.std):
        mean, std, their_mean, their_std = map(_per_channel, (about.mean, about.std, wanted.mean, wanted.std))
        pixels = (pixels * std + mean - their_mean) / their_std
    return Images(pixels, labels)


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def _classes(module: nn.Module, name: str, image: Tensor) -> int:
    """Return how many logits a module makes of an image (1, C, H, W)."""
    answers: object = answers_of(prepared(module, name), image, name)
    if not isinstance(answers, Tensor) or answers.ndim != 2:
        got = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
        raise ExportError(f"{name}: answers {got} to an image, wanted (1, classes), one logit per class")
    return answers.shape[1]


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
