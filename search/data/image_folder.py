"""Photographs in folders, as ImageNet is kept: train/CLASS/*.jpg and val/CLASS/*.jpg (or .jpeg, .png)."""

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

from bnas_deploy.errors import DataError
from bnas_deploy.files import open_regular
from bnas_deploy.search.data.augment import centre_box, flip, jitter_colours, random_crop
from bnas_deploy.search.data.dataset import Batch, DataDescription, DataSet, generator
from bnas_deploy.search.recipes import Augmentation

_SUFFIXES = (".jpg", ".jpeg", ".png")
_SIZE = (224, 224)
_RESIZED = 256  # shorter side of a test image before its centre is cut out
# The usual ones of ImageNet.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# Batches that are decoded ahead: one that is being used up by the network while another is filled.
_AHEAD = 2


@dataclass(frozen=True)
class Photo:
    """An image on disk and its label."""

    path: Path
    label: int


Draw = Callable[[Image.Image], Image.Image]
"""Turns an image into one of the network's size."""


def open_image_folder(folder: Path) -> "ImageFolder":
    """Find the images below `folder`; the classes are the names of the subfolders of train, sorted as text.

    Raises:
        DataError: train or val is missing, has no class folders, a class has no images, or their classes differ.
    """
    train_classes, test_classes = _classes(folder / "train"), _classes(folder / "val")
    if train_classes != test_classes:
        alone = sorted(set(train_classes) ^ set(test_classes))
        where = "train" if alone[0] in train_classes else "val"
        raise DataError(
            f"{folder}: train has {len(train_classes)} classes, val has {len(test_classes)}; {alone[0]} is in {where} "
            "only; both must have a folder for every class"
        )
    description = DataDescription(
        name=f"image folder {folder.resolve().name}",
        class_names=train_classes,
        in_channels=3,
        image_size=_SIZE,
        mean=_MEAN,
        std=_STD,
    )
    return ImageFolder(description, _photos(folder / "train", train_classes), _photos(folder / "val", train_classes))


class ImageFolder(DataSet):
    """Images that are decoded when they are needed, by threads: Pillow releases the interpreter while it works."""

    def __init__(self, description: DataDescription, train: tuple[Photo, ...], test: tuple[Photo, ...]) -> None:
        super().__init__(description, len(train), len(test))
        self.train = train
        self.test = test

    def refusal(self, augmentation: Augmentation) -> str | None:
        """A shift by pixels is for small images; photographs are cropped."""
        if augmentation.shift:
            return "the recipe shifts images by pixels, which is done for small images only"
        return None

    def raw_train_batches(
        self, batch_size: int, augmentation: Augmentation, *, seed: int, epoch: int, first: int
    ) -> Iterator[Batch]:
        """Yield shuffled batches; every image has its own random numbers, whichever thread draws it."""

        def draw(index: int) -> Draw:
            random = np.random.default_rng((seed, epoch, index))
            return lambda image: _augmented(image, augmentation, random)

        order = torch.randperm(self.train_size, generator=generator(seed, epoch))
        batches = ([(self.train[i], draw(i)) for i in chosen.tolist()] for chosen in torch.split(order, batch_size))
        return _decoded(islice(batches, first, None))

    def raw_test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the test images in order, the shorter side resized to 256 and the centre 224x224 cut out."""
        starts = range(0, self.test_size, batch_size)
        return _decoded([(photo, _centre) for photo in self.test[start : start + batch_size]] for start in starts)


def _decoded(batches: Iterable[list[tuple[Photo, Draw]]]) -> Iterator[Batch]:
    """Decode with one thread per core, `_AHEAD` batches before they are asked for."""
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        ahead: deque[list[Future[tuple[Tensor, int]]]] = deque()
        try:
            for batch in batches:
                ahead.append([pool.submit(_decode, photo, draw) for photo, draw in batch])
                if len(ahead) > _AHEAD:
                    yield _stack(ahead.popleft())
            while ahead:
                yield _stack(ahead.popleft())
        finally:  # also when nobody wants the rest
            pool.shutdown(wait=True, cancel_futures=True)


def _stack(images: list[Future[tuple[Tensor, int]]]) -> Batch:
    pixels, labels = zip(*(image.result() for image in images), strict=True)
    return Batch(torch.stack(pixels), torch.tensor(labels))


def _decode(photo: Photo, draw: Draw) -> tuple[Tensor, int]:
    """Return uint8 (3, H, W) and the label."""
    try:
        with open_regular(photo.path) as file, Image.open(file) as image:
            pixels = np.array(draw(image.convert("RGB")))
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises for bad files
        raise DataError(f"{photo.path}: cannot be read as an image ({error}); replace or remove it") from None
    return torch.from_numpy(pixels).permute(2, 0, 1), photo.label


def _augmented(image: Image.Image, augmentation: Augmentation, random: np.random.Generator) -> Image.Image:
    image = random_crop(image, augmentation.crop_area, _SIZE, random) if augmentation.crop_area else _centre(image)
    if augmentation.flip:
        image = flip(image, random)
    if augmentation.jitter:
        image = jitter_colours(image, augmentation.jitter, random)
    return image


def _centre(image: Image.Image) -> Image.Image:
    """Resize the shorter side to 256 and cut out the centre."""
    width, height = image.size
    scale = _RESIZED / min(width, height)
    resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    return resized.crop(centre_box(resized.size, width=_SIZE[1], height=_SIZE[0]))


def _classes(folder: Path) -> tuple[str, ...]:
    expected = "expected train/CLASS/*.jpg and val/CLASS/*.jpg"
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; {expected}") from None
    if not names:
        raise DataError(f"{folder}: no class folders in it; {expected}")
    return tuple(names)


def _photos(folder: Path, classes: tuple[str, ...]) -> tuple[Photo, ...]:
    photos: list[Photo] = []
    for label, name in enumerate(classes):
        paths = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in _SUFFIXES)
        if not paths:
            raise DataError(f"{folder / name}: no images in it; expected files that end in {', '.join(_SUFFIXES)}")
        photos += (Photo(path, label) for path in paths)
    return tuple(photos)
