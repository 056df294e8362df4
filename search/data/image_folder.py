"""Images in folders, as ImageNet is kept: train/CLASS/*.jpg and val/CLASS/*.jpg, or any other format of images."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.augment import flip, jitter_colours, random_crop, shift_image
from bnas_deploy.search.data.dataset import Batch, DataDescription, DataSet, Images, InMemoryDataSet, generator
from bnas_deploy.search.data.listing import list_folders, list_images
from bnas_deploy.search.data.pixels import centre, describe_image, in_mode, pixels_of, read_image
from bnas_deploy.search.training.recipes import SMALL, Augmentation

_SIZE = (224, 224)
# The usual ones of ImageNet; of grey images their means.
_MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
_STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}
# Batches that are decoded ahead: one that is being used up by the network while another is filled.
_AHEAD = 2
_EXPECTED = "expected train/CLASS/*.jpg and val/CLASS/*.jpg"
_FEW = 3  # of the files that are passed over, how many are named


@dataclass(frozen=True)
class Photo:
    """An image on disk and its label."""

    path: Path
    label: int


Draw = Callable[[Image.Image], Image.Image]
"""Turns an image into one of the network's size."""


def open_image_folder(
    folder: Path, *, image_size: tuple[int, int] | None = None, in_channels: int | None = None
) -> "ImageFolder":
    """Find the images below `folder`; the classes are the names of the subfolders of train, sorted as text.

    Hidden files and folders are ignored, and so is what archives and file managers leave. Other files that are no
    images are passed over, which the notes of the data set say.

    Args:
        folder: holds train and val.
        image_size: (height, width) to make of every image; 224x224 unless given.
        in_channels: 1 for grey, 3 for RGB; unless given, grey if every image is.

    Raises:
        DataError: train or val is missing, has no class folders, a class has no images, or their classes differ; or a
            grey image cannot be read; or `in_channels` is another number.
    """
    passed_over: list[str] = []
    train_classes, test_classes = (_classes(folder / part, passed_over) for part in ("train", "val"))
    if train_classes != test_classes:
        alone = sorted(set(train_classes) ^ set(test_classes))
        where = "train" if alone[0] in train_classes else "val"
        raise DataError(
            f"{folder}: train has {len(train_classes)} classes, val has {len(test_classes)}; {alone[0]} is in {where} "
            "only; both must have a folder for every class"
        )
    train, test = (_photos(folder / part, train_classes, passed_over) for part in ("train", "val"))
    first_size, grey = describe_image(train[0].path)
    # The first coloured image answers, so that only folders of grey ones are looked at to the end.
    found = 1 if grey and all(describe_image(photo.path)[1] for photo in (*train, *test)) else 3
    size, channels = image_size or _SIZE, in_channels or found
    if channels not in _MEAN:
        raise DataError(f"{folder}: images of {channels} channels; a folder gives 1 (grey) or 3 (RGB)")
    description = DataDescription(
        name=f"image folder {folder.resolve().name}",
        class_names=train_classes,
        in_channels=channels,
        image_size=size,
        mean=_MEAN[channels],
        std=_STD[channels],
    )
    notes = [_size_note(size, first_size, asked_for=image_size is not None)]
    if in_channels is None:
        notes.append("every image is grey, so there is 1 channel" if channels == 1 else "there are coloured images")
        notes[-1] += "; --in-channels 1 or 3 decides otherwise"
    if passed_over:
        few = ", ".join(passed_over[:_FEW]) + (", ..." if len(passed_over) > _FEW else "")
        notes.append(f"passed over, since no images: {len(passed_over):,} ({few})")
    return ImageFolder(description, train, test, tuple(notes))


def _size_note(size: tuple[int, int], first: tuple[int, int], *, asked_for: bool) -> str:
    made, found = ("x".join(map(str, each)) for each in (size, first))
    note = f"every image becomes {made}; the first of them is {found}"
    return note if asked_for else f"{note}; --image-size N or HxW decides otherwise"


class ImageFolder(DataSet):
    """Images that are decoded when they are needed, by threads: Pillow releases the interpreter while it works."""

    def __init__(
        self, description: DataDescription, train: tuple[Photo, ...], test: tuple[Photo, ...], notes: tuple[str, ...]
    ) -> None:
        super().__init__(description, len(train), len(test), notes)
        self.train = train
        self.test = test

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
        self, batch_size: int, augmentation: Augmentation, *, seed: int, epoch: int, first: int
    ) -> Iterator[Batch]:
        """Yield shuffled batches; every image has its own random numbers, whichever thread draws it."""
        size = self.description.image_size

        def draw(index: int) -> Draw:
            random = np.random.default_rng((seed, epoch, index))
            return lambda image: _augmented(image, size, augmentation, random)

        order = torch.randperm(self.train_size, generator=generator(seed, epoch))
        batches = ([(self.train[i], draw(i)) for i in chosen.tolist()] for chosen in torch.split(order, batch_size))
        return self._decoded(islice(batches, first, None))

    def raw_test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the test images in order, as `centre` makes them."""
        return self._as_they_are(self.test, batch_size)

    def in_memory(self) -> InMemoryDataSet:
        """Return the same images, decoded; augmentations that change the size are not made with these.

        Raises:
            DataError: an image cannot be read.
        """
        train, test = (
            Images(*(torch.cat(parts) for parts in zip(*self._as_they_are(photos, _AT_ONCE), strict=True)))
            for photos in (self.train, self.test)
        )
        return InMemoryDataSet(self.description, train, test, self.notes)

    def labels(self) -> tuple[Tensor, Tensor]:
        """Return the labels of the training and of the test images."""
        train, test = (torch.tensor([photo.label for photo in photos]) for photos in (self.train, self.test))
        return train, test

    def selected(self, description: DataDescription, train: Tensor, test: Tensor) -> "ImageFolder":
        """Return a data set of another name with some of the images."""
        some_train, some_test = (
            tuple(photos[i] for i in chosen.tolist()) for photos, chosen in ((self.train, train), (self.test, test))
        )
        return ImageFolder(description, some_train, some_test, self.notes)

    def _as_they_are(self, photos: tuple[Photo, ...], batch_size: int) -> Iterator[Batch]:
        size = self.description.image_size

        def draw(image: Image.Image) -> Image.Image:
            return centre(image, size)

        starts = range(0, len(photos), batch_size)
        return self._decoded([(photo, draw) for photo in photos[start : start + batch_size]] for start in starts)

    def _decoded(self, batches: Iterable[list[tuple[Photo, Draw]]]) -> Iterator[Batch]:
        """Decode with one thread per core, `_AHEAD` batches before they are asked for."""
        threads = len(os.sched_getaffinity(0))
        channels = self.description.in_channels
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            ahead: deque[list[Future[tuple[Tensor, int]]]] = deque()
            try:
                for batch in batches:
                    ahead.append([pool.submit(_decode, photo, channels, draw) for photo, draw in batch])
                    if len(ahead) > _AHEAD:
                        yield _stack(ahead.popleft())
                while ahead:
                    yield _stack(ahead.popleft())
            finally:  # also when nobody wants the rest
                pool.shutdown(wait=True, cancel_futures=True)


_AT_ONCE = 256  # images that are decoded between two looks at the threads


def _stack(images: list[Future[tuple[Tensor, int]]]) -> Batch:
    pixels, labels = zip(*(image.result() for image in images), strict=True)
    return Batch(torch.stack(pixels), torch.tensor(labels))


def _decode(photo: Photo, channels: int, draw: Draw) -> tuple[Tensor, int]:
    """Return uint8 (C, H, W) and the label."""
    pixels = pixels_of(draw(in_mode(read_image(photo.path), channels)))
    return torch.from_numpy(pixels).permute(2, 0, 1), photo.label


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


def _classes(folder: Path, passed_over: list[str]) -> tuple[str, ...]:
    folders, others = _listed(list_folders, folder)
    passed_over += map(_short, others)
    if not folders:
        raise DataError(f"{folder}: no class folders in it; {_EXPECTED}")
    return tuple(path.name for path in folders)


def _photos(folder: Path, classes: tuple[str, ...], passed_over: list[str]) -> tuple[Photo, ...]:
    photos: list[Photo] = []
    for label, name in enumerate(classes):
        images, others = _listed(list_images, folder / name)
        passed_over += map(_short, others)
        photos += (Photo(path, label) for path in images)
    return tuple(photos)


def _listed(list_kind: Callable[[Path], tuple[list[Path], list[Path]]], folder: Path) -> tuple[list[Path], list[Path]]:
    try:
        return list_kind(folder)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; {_EXPECTED}") from None


def _short(path: Path) -> str:
    """Return the last parts of a path, such as train/cat/notes.txt."""
    return "/".join(path.parts[-3:])
