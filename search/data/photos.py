"""Images that are decoded when they are needed, wherever they are kept: in files, or in somebody's data set."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bnas_deploy.core import host
from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.augment import flip, jitter_colours, random_crop, shift_image
from bnas_deploy.search.data.augmentation import SMALL, Augmentation
from bnas_deploy.search.data.dataset import (
    WHOLE,
    Batch,
    DataDescription,
    DataSet,
    Images,
    InMemoryDataSet,
    Share,
    generator,
)
from bnas_deploy.search.data.pixels import centre, in_mode, pixels_of

LARGE = (224, 224)
"""Height and width that photographs are made unless another size is asked for."""

# The usual ones of ImageNet; of grey images their means.
MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}
# Batches that are decoded ahead: one that is being used up by the network while another is filled.
_AHEAD = 2
_AT_ONCE = 256  # images that are decoded between two looks at the threads


class Photo(Protocol):
    """One image and its label."""

    @property
    def name(self) -> str:
        """Return what errors call it."""

    @property
    def label(self) -> int:
        """Return its label."""

    @property
    def known_label(self) -> int | None:
        """Return its label if that is known without reading the image."""

    def load(self) -> tuple[Image.Image, int]:
        """Return the image, in mode "L" or "RGB", and its label.

        Raises:
            DataError: it cannot be read.
        """


def with_skipping(error: DataError) -> DataError:
    """Return an error about an image with the option that leaves such images out."""
    return DataError(f"{error.message}, or leave such images out with --skip-bad")


Draw = Callable[[Image.Image], Image.Image]
"""Turns an image into one of the network's size."""


def describe(name: str, class_names: tuple[str, ...], channels: int, size: tuple[int, int]) -> DataDescription:
    """Return the description of photographs of 1 or 3 channels that are made `size` (height, width).

    Raises:
        DataError: another number of channels.
    """
    if channels not in MEAN:
        raise DataError(f"{name}: images of {channels} channels; images of 1 (grey) or 3 (RGB) can be read")
    return DataDescription(name, class_names, channels, size, MEAN[channels], STD[channels])


class PhotoDataSet(DataSet):
    """Images that are decoded when they are needed, by threads: Pillow releases the interpreter while it works.

    With `skip_bad` an image that cannot be read is left out of its batch, and `skipped` has its name.
    """

    def __init__(
        self,
        description: DataDescription,
        train: Sequence[Photo],
        test: Sequence[Photo],
        notes: tuple[str, ...],
        *,
        skip_bad: bool = False,
    ) -> None:
        super().__init__(description, len(train), len(test), notes)
        self.train = train
        self.test = test
        self.skip_bad = skip_bad
        self._classes_are_checked = not skip_bad

    def check(self, augmentation: Augmentation) -> None:
        """Make sure that these images can be trained with: also that none of their classes is left out.

        Raises:
            DataError: they cannot.
        """
        super().check(augmentation)
        self._check_classes()

    def _check_classes(self) -> None:
        """Make sure that a training image of each class can be read: the others may be left out, not a class.

        Raises:
            DataError: there is a class without one.
        """
        if self._classes_are_checked:
            return
        self._classes_are_checked = True
        photos: dict[int, list[Photo]] = {}
        for photo in self.train:
            if photo.known_label is not None:
                photos.setdefault(photo.known_label, []).append(photo)
        for label, ours in sorted(photos.items()):
            if not any(map(_is_readable, ours)):
                about = self.description
                raise DataError(
                    f"{about.name}: of the class {about.class_names[label]!r} no training image can be read, out of "
                    f"{len(ours):,} such as {ours[0].name}; replace them, or leave the class out"
                )

    def refusal(self, augmentation: Augmentation) -> str | None:
        """A shift by pixels is for small images; larger ones are cropped."""
        size = self.description.image_size
        if augmentation.shift and min(size) >= SMALL:
            return (
                f"the recipe shifts images by pixels, which is done for images of less than {SMALL}x{SMALL} only; "
                f"these are {size[0]}x{size[1]}"
            )
        return None

    def raw_train_batches(
        self, batch_size: int, augmentation: Augmentation, *, seed: int, epoch: int, first: int, share: Share
    ) -> Iterator[Batch]:
        """Yield shuffled batches; every image has its own random numbers, whichever thread draws it."""
        size = self.description.image_size

        def draw(index: int) -> Draw:
            random = np.random.default_rng((seed, epoch, index))
            return lambda image: _augmented(image, size, augmentation, random)

        order = torch.randperm(self.train_size, generator=generator(seed, epoch))
        batches: Iterable[list[tuple[Photo, Draw]]] = (
            [(self.train[i], draw(i)) for i in chosen[share.part].tolist()] for chosen in torch.split(order, batch_size)
        )
        return self._decoded(islice(batches, first, None))

    def raw_test_batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[Batch]:
        """Yield the test images in order, as `centre` makes them."""
        return self._as_they_are(self.test, batch_size, share)

    def in_memory(self) -> InMemoryDataSet:
        """Return the same images, decoded; augmentations that change the size are not made with these.

        Raises:
            DataError: an image cannot be read.
        """
        self._check_classes()
        train, test = (
            Images(*(torch.cat(parts) for parts in zip(*self._as_they_are(photos, _AT_ONCE), strict=True)))
            for photos in (self.train, self.test)
        )
        data = InMemoryDataSet(self.description, train, test, self.notes)
        data.skipped = self.skipped
        return data

    def labels(self) -> tuple[Tensor, Tensor]:
        """Return the labels of the training and of the test images."""
        train, test = (torch.tensor([photo.label for photo in photos]) for photos in (self.train, self.test))
        return train, test

    def selected(self, description: DataDescription, train: Tensor, test: Tensor) -> "PhotoDataSet":
        """Return a data set of another name with some of the images."""
        some_train, some_test = (
            tuple(photos[i] for i in chosen.tolist()) for photos, chosen in ((self.train, train), (self.test, test))
        )
        return PhotoDataSet(description, some_train, some_test, self.notes, skip_bad=self.skip_bad)

    def _as_they_are(self, photos: Sequence[Photo], batch_size: int, share: Share = WHOLE) -> Iterator[Batch]:
        size = self.description.image_size

        def draw(image: Image.Image) -> Image.Image:
            return centre(image, size)

        starts = range(0, len(photos), batch_size)
        batches = (photos[start : start + batch_size][share.part] for start in starts)
        return self._decoded([(photo, draw) for photo in batch] for batch in batches)

    def _decoded(self, batches: Iterable[list[tuple[Photo, Draw]]]) -> Iterator[Batch]:
        """Decode with one thread per core, `_AHEAD` batches before they are asked for.

        Raises:
            DataError: an image cannot be read, and bad ones are not left out.
        """
        threads = host.usable_cpus()
        channels = self.description.in_channels
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            ahead: deque[list[_Decoding]] = deque()
            try:
                for batch in batches:
                    ahead.append(
                        [_Decoding(photo, pool.submit(_decode, photo, channels, draw)) for photo, draw in batch]
                    )
                    if len(ahead) > _AHEAD:
                        yield self._stack(ahead.popleft())
                while ahead:
                    yield self._stack(ahead.popleft())
            finally:  # also when nobody wants the rest
                pool.shutdown(wait=True, cancel_futures=True)

    def _stack(self, decoding: Sequence["_Decoding"]) -> Batch:
        """Return the images of a batch that can be read; there may be none."""
        pixels = [torch.empty(0, self.description.in_channels, *self.description.image_size, dtype=torch.uint8)]
        labels = []
        for each in decoding:
            try:
                image, label = each.result.result()
            except DataError as error:
                if not self.skip_bad:
                    raise with_skipping(error) from None
                self.skipped.add(each.photo.name)
            else:
                pixels.append(image[None])
                labels.append(label)
        return Batch(torch.cat(pixels), torch.tensor(labels, dtype=torch.int64))


def _is_readable(photo: Photo) -> bool:
    try:
        photo.load()
    except DataError:
        return False
    return True


class _Decoding(NamedTuple):
    """A photo, and what a thread makes of it."""

    photo: Photo
    result: Future[tuple[Tensor, int]]


def _decode(photo: Photo, channels: int, draw: Draw) -> tuple[Tensor, int]:
    """Return uint8 (C, H, W) and the label."""
    image, label = photo.load()
    return torch.from_numpy(pixels_of(draw(in_mode(image, channels)))).permute(2, 0, 1), label


def _augmented(
    image: Image.Image, size: tuple[int, int], augmentation: Augmentation, random: np.random.Generator
) -> Image.Image:
    image = random_crop(image, augmentation.crop_area, size, random) if augmentation.crop_area else centre(image, size)
    if augmentation.shift:
        image = shift_image(image, augmentation.shift, random)
    if augmentation.flip:
        image = flip(image, random)
    if augmentation.jitter:
        image = jitter_colours(image, augmentation.jitter, random)
    return image
