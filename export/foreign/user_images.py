"""What the command line is told of the inputs and the classes of a user's module, which has no checkpoint to say it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import ExportError
from bnas_deploy.core.npz import read_arrays
from bnas_deploy.export import Description, Images, Inputs
from bnas_deploy.export.images import random_images, usual_count
from bnas_deploy.export.inputs import Source, taken_by
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
        inputs: a file of numpy's savez with an array for each argument of forward, in place of images.
        fixed: names of those that have no axis of examples.
    """

    data: str | None = None
    image_size: tuple[int, int] | None = None
    in_channels: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: Path | None = None
    count: int | None = None
    inputs: Path | None = None
    fixed: tuple[str, ...] = ()


def images_for(module: nn.Module, name: str, said: UserImages) -> tuple[Images | Inputs, Description]:
    """Return images, or other inputs, to verify the export of a module with, and what its bundle says of them.

    What is not said is what the data set has. Without one the images are normal random numbers, the module sees values
    of 0 to 1 as they are, and the classes have numbers. A module that answers something else than a logit for each
    class has none.

    Raises:
        ExportError: the size of the images is not known; mean or std do not fit their channels; the file of inputs
            cannot be read; or the module has names of classes and does not answer one logit for each.
        DataError: the data set cannot be read.
        BnasError: the names of the classes cannot be read, or there are others than logits.
    """
    if said.inputs is not None:
        return _inputs_for(module, name, said)
    if said.fixed:
        raise ExportError(f"{name}: --fixed {said.fixed[0]} is of the arrays of --inputs FILE.npz; give that, too")
    opened = None
    if said.data is not None:
        opened = open_data(said.data, image_size=said.image_size, in_channels=said.in_channels)
    preprocessing = _preprocessing(name, said, opened)
    source = _source(said, preprocessing)
    shape = (len(preprocessing.mean), preprocessing.height, preprocessing.width)
    count = said.count or usual_count(shape)
    images = random_images(shape, count) if opened is None else _of_data(opened, preprocessing, count)
    ours = prepared(module, name)
    feed, structure = taken_by(ours, Inputs(images.pixels[:1]), name, source)
    answer = answers_of(ours, feed, name, structure, source)
    labels: tuple[str, ...] | None = None
    if said.labels is not None:
        labels = read_names(said.labels, _classes(answer, name))
    elif _are_logits(answer):
        count = _classes(answer, name)
        labels = tuple(map(str, range(count))) if opened is None else opened.description.class_names
    data = None if opened is None else opened.named
    return images, Description({"name": name}, labels, preprocessing, {}, data=data)


def _source(said: UserImages, made: Preprocessing) -> Source:
    """Say which options decide how many channels the images have, and how large they are."""
    data = f"--data {said.data}" if said.data is not None else ""
    option, numbers = next((each for each in _numbers(said) if each[1]), ("", ()))
    listed = f"{option} {_listed(numbers)}" if option else "default"
    channels = f"--in-channels {said.in_channels}" if said.in_channels else data or listed
    size = "--image-size" if said.image_size else data
    remedy = "give --in-channels and --image-size, or other --data, as the network takes them"
    if option and channels == listed:
        remedy = f"give {option} a number for each channel that the network takes, and its --image-size"
    return Source(
        f"its {counted(len(made.mean), 'channel')} by {channels}, its {made.height}x{made.width} by {size}",
        remedy,
        "give --inputs FILE.npz with an array of examples for each",
    )


def _numbers(said: UserImages) -> tuple[tuple[str, tuple[float, ...]], ...]:
    return ("--mean", said.mean), ("--std", said.std)


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


def _inputs_for(module: nn.Module, name: str, said: UserImages) -> tuple[Inputs, Description]:
    assert said.inputs is not None
    given = {
        "--data": said.data,
        "--image-size": said.image_size,
        "--in-channels": said.in_channels,
        "--mean": said.mean,
        "--std": said.std,
        "--images": said.count,
    }
    if others := [option for option, value in given.items() if value]:
        raise ExportError(f"{name}: --inputs {said.inputs} has the examples; leave {others[0]} out")
    try:
        arrays = read_arrays(said.inputs)
    except OSError as error:
        raise ExportError(f"{said.inputs}: cannot be read: {error.strerror}; give a file of numpy.savez") from None
    except ValueError as error:
        raise ExportError(
            f"{said.inputs}: no file of arrays: {error}; write it with numpy.savez(FILE, NAME=array, ...), a name for "
            "each argument of forward"
        ) from None
    inputs = Inputs({each: torch.from_numpy(array) for each, array in arrays.items()}, said.fixed)
    source = Source(
        f"the arrays of {said.inputs}",
        "write them as the network takes them",
        f"write {said.inputs} with an array of that name for each argument",
        fixed="--fixed",
    )
    ours = prepared(module, name)
    feed, structure = taken_by(ours, inputs, name, source)
    answer = answers_of(ours, feed[:1], name, structure, source)
    labels = None if said.labels is None else read_names(said.labels, _classes(answer, name))
    return inputs, Description({"name": name}, labels)


def _are_logits(answer: object) -> bool:
    return isinstance(answer, Tensor) and answer.ndim == 2 and answer.shape[0] == 1


def _classes(answer: object, name: str) -> int:
    """Return how many logits a module makes of an image (1, C, H, W)."""
    if not isinstance(answer, Tensor) or not _are_logits(answer):
        got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ExportError(
            f"{name}: answers {got} to an image, and --labels names classes; wanted (1, classes), one logit per class: "
            "leave --labels out if it is no classifier"
        )
    return answer.shape[1]


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
