"""Any collection of (image, label) as a data set: what Python code has, and data sets of other packages.

    from bnas_deploy.search.data.samples import from_samples

    data = from_samples(train, test, class_names=("cat", "dog"), image_size=(32, 32))
    result = train(data, config, RECIPES["cifar-standard"], Path("runs/cats"))

An image is one of Pillow's, or unsigned bytes: a numpy array (H, W), (H, W, 1) or (H, W, 3), or a tensor (C, H, W).
Images are resized, cut out and normalised here, as those of image folders are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.photos import LARGE, PhotoDataSet, describe, with_skipping
from bnas_deploy.search.data.pixels import plain_image

Sample = tuple[Any, Any]
"""An image and its label, as other packages give them."""


class Indexed(Protocol):
    """What PyTorch calls a data set."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> Sample:
        """Return one of them."""


_LOOKED_AT = 20
"""Images of which size and colour are looked at before training; to look at all of them could take hours."""


@dataclass(frozen=True)
class SamplePhoto:
    """Item `index` of a collection, which is read when it is needed."""

    samples: Indexed
    index: int
    part: str
    classes: int
    given_label: int | None = None

    @property
    def name(self) -> str:
        """Return what errors call it."""
        return f"{self.part} image {self.index}"

    @property
    def label(self) -> int:
        """Return its label; where that was not given apart, the image is read for it."""
        return self.load()[1] if self.given_label is None else self.given_label

    @property
    def known_label(self) -> int | None:
        """Return the label if it was given apart."""
        return self.given_label

    def load(self) -> tuple[Image.Image, int]:
        """Return the image and its label.

        Raises:
            DataError: one of them is of another kind, or the collection cannot read it.
        """
        try:
            sample = self.samples[self.index]
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises, which most collections read with
            raise DataError(f"{self.name}: cannot be read ({error}); replace or remove it") from None
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise DataError(f"{self.name}: {type(sample).__name__}, wanted a pair of image and label")
        image, label = sample
        return _image(image, self.name), _label(label, self.classes, self.name)


def from_samples(
    train: Indexed | Iterable[Sample],
    test: Indexed | Iterable[Sample],
    *,
    class_names: Sequence[str],
    name: str = "samples",
    image_size: tuple[int, int] | None = None,
    in_channels: int | None = None,
    skip_bad: bool = False,
    train_labels: Sequence[int] | None = None,
    test_labels: Sequence[int] | None = None,
) -> PhotoDataSet:
    """Return a data set of (image, label).

    Args:
        train: training images. A sequence is read when an image is needed, by several threads; another iterable is
            read once and kept in memory.
        test: test images.
        class_names: the name of label i is class_names[i].
        name: of the data set.
        image_size: (height, width) to make of every image. By default that of the first images, if they are of one
            size, else 224x224.
        in_channels: 1 for grey, 3 for RGB; by default grey if the first images are.
        skip_bad: leave out the images that cannot be read.
        train_labels: the labels alone, so that no image has to be read for `limited` and for balanced class weights.
        test_labels: as well.

    Raises:
        DataError: a part is empty, or an image of it is of another kind.
    """
    names = tuple(map(str, class_names))
    trained_on = _photos(train, f"{name}: training", len(names), train_labels)
    tested_on = _photos(test, f"{name}: test", len(names), test_labels)
    found_size, grey = _look(trained_on, skip_bad=skip_bad)
    size, channels = image_size or found_size or LARGE, in_channels or (1 if grey else 3)
    made = "x".join(map(str, size))
    how = "grey" if channels == 1 else "RGB"
    note = f"every image becomes {made} and {how}" + ("" if image_size else ", as the first ones are")
    if not image_size and not found_size:
        note = f"every image becomes {made} and {how}; the first ones are of several sizes"
    return PhotoDataSet(describe(name, names, channels, size), trained_on, tested_on, (note,), skip_bad=skip_bad)


def _photos(
    samples: Indexed | Iterable[Sample], part: str, classes: int, labels: Sequence[int] | None
) -> tuple[SamplePhoto, ...]:
    # By what it can do: many data sets of PyTorch are no Sequence by their type.
    indexed: Any = samples if hasattr(samples, "__getitem__") and hasattr(samples, "__len__") else tuple(samples)
    if not len(indexed):
        raise DataError(f"{part} images: there are none; at least 1 is needed")
    photos = tuple(SamplePhoto(indexed, index, part, classes) for index in range(len(indexed)))
    if labels is None:
        return photos
    if len(labels) != len(photos):
        raise DataError(f"{part} images: {len(labels)} labels for {len(photos)} images; give one each")
    pairs = zip(photos, labels, strict=True)
    return tuple(replace(photo, given_label=_label(label, classes, photo.name)) for photo, label in pairs)


def _look(photos: Sequence[SamplePhoto], *, skip_bad: bool) -> tuple[tuple[int, int] | None, bool]:
    """Return the (height, width) of the first images if they have one, and whether all of them are grey."""
    sizes, modes = set(), set()
    for photo in photos[:_LOOKED_AT]:
        try:
            image, _ = photo.load()
        except DataError as error:
            if not skip_bad:
                raise with_skipping(error) from None
            continue
        sizes.add((image.height, image.width))
        modes.add(image.mode)
    return (sizes.pop() if len(sizes) == 1 else None), modes == {"L"}


def _image(image: Any, where: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return plain_image(image, Path(where))
    if isinstance(image, torch.Tensor):
        if image.ndim == 3:
            image = image.permute(1, 2, 0)
        image = image.numpy()
    if not isinstance(image, np.ndarray):
        raise DataError(f"{where}: an image of type {type(image).__name__}; give one of Pillow, numpy or PyTorch")
    if image.dtype != np.uint8:
        raise DataError(
            f"{where}: pixels of {image.dtype}, wanted uint8; leave out ToTensor and Normalize, which is done here"
        )
    pixels: NDArray[np.uint8] = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)) or not pixels.size:
        shape = "x".join(map(str, image.shape)) or "()"
        raise DataError(f"{where}: an array of {shape}, wanted (H, W), (H, W, 1) or (H, W, 3), of a tensor (C, H, W)")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _label(label: Any, classes: int, where: str) -> int:
    try:
        number = int(label)  # numpy's and PyTorch's numbers as well
    except (TypeError, ValueError):
        raise DataError(f"{where}: its label is {label!r}, wanted a number of 0 to {classes - 1}") from None
    if number != label or not 0 <= number < classes:
        raise DataError(f"{where}: its label is {label}, wanted a number of 0 to {classes - 1}")
    return number
