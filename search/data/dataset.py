"""What every data set is: a description, and batches that are the same for the same seed and epoch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.augment import flip_half, shift
from bnas_deploy.search.data.augmentation import Augmentation
from bnas_deploy.search.data.kinds import LIMITED

_FEW = 3  # of the images that were left out, how many are named


class Batch(NamedTuple):
    """images: float32 (N, C, H, W), normalised; labels: int64 (N)."""

    images: Tensor
    labels: Tensor


class Share(NamedTuple):
    """The images of a batch that one of several processes takes: every `of`-th, from `number` on."""

    number: int = 0
    of: int = 1

    @property
    def part(self) -> slice:
        """Return them as a slice of the batch."""
        return slice(self.number, None, self.of)


WHOLE = Share()


@dataclass(frozen=True)
class DataDescription:
    """What a network and a checkpoint have to know about a data set.

    Attributes:
        name: of the data set, as people write it.
        class_names: the class of label i is class_names[i].
        in_channels: 1 (grey) or 3 (RGB).
        image_size: (height, width).
        mean, std: per channel, of values scaled to 0..1; a network sees (value - mean) / std.
    """

    name: str
    class_names: tuple[str, ...]
    in_channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    @property
    def sizes(self) -> dict[str, Any]:
        """Return what a network has to fit, by the names of its settings."""
        return {"classes": self.classes, "in_channels": self.in_channels, "image_size": self.image_size}

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how an image becomes an input, as bundles record it."""
        height, width = self.image_size
        return Preprocessing(height, width, self.mean, self.std)


class DataSet(ABC):
    """Training and test images with their labels.

    `notes` are what a user should know of how they are read. `named` is what `--data` names them, a folder as FOLDER;
    None where they were made in Python. `limit` is what `limited` took, None for all images. With `skip_bad`, images
    that cannot be read are left out, and `skipped` has the names of those that were met so far; without it they are
    errors.
    """

    def __init__(
        self, description: DataDescription, train_size: int, test_size: int, notes: tuple[str, ...] = ()
    ) -> None:
        self.description = description
        self.notes = notes
        self.train_size = train_size
        self.test_size = test_size
        self.named: str | None = None
        self.limit: int | None = None
        self.skip_bad = False
        self.skipped: set[str] = set()

    @property
    def summary(self) -> str:
        """Say in a line what the images are, and in further ones the notes."""
        about = self.description
        height, width = about.image_size
        first = (
            f"{about.name}: {self.train_size:,} training and {counted(self.test_size, 'test image')} of "
            f"{height}x{width}, {'grey' if about.in_channels == 1 else 'RGB'}, "
            f"{counted(about.classes, 'class', 'classes')}"
        )
        return "\n".join([first, *(f"  {note}" for note in self.notes)])

    @property
    def skipped_note(self) -> str | None:
        """Say which images were left out so far, None if there were none."""
        if not self.skipped:
            return None
        few = ", ".join(sorted(self.skipped)[:_FEW]) + (", ..." if len(self.skipped) > _FEW else "")
        return f"left out, since they cannot be read: {counted(len(self.skipped), 'image')} ({few})"

    @abstractmethod
    def refusal(self, augmentation: Augmentation) -> str | None:
        """Say which part of `augmentation` this data set cannot do, or None if it can do all of it."""

    @abstractmethod
    def raw_train_batches(
        self, batch_size: int, augmentation: Augmentation, *, seed: int, epoch: int, first: int, share: Share
    ) -> Iterator[Batch]:
        """Yield uint8 batches on the CPU; otherwise as `train_batches`."""

    @abstractmethod
    def raw_test_batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[Batch]:
        """Yield uint8 batches on the CPU; otherwise as `test_batches`."""

    @abstractmethod
    def in_memory(self) -> "InMemoryDataSet":
        """Return the same images, all of them in memory.

        Raises:
            DataError: an image cannot be read.
        """

    def limited(self, most: int) -> "DataSet":
        """Return `most` training and `most` test images, evenly from the classes: of each class the first ones.

        A part that has no more images is kept as it is, and a data set whose parts have none is the same. Otherwise
        name and notes tell of the limit, and so does a checkpoint.

        Raises:
            DataError: `most` is less than the number of classes.
        """
        about = self.description
        if most < about.classes:
            raise DataError(
                f"{about.name}: a limit of {most} images for {about.classes} classes; at least one of each is needed"
            )
        if most >= max(self.train_size, self.test_size):
            return self
        parts = [_first_of_each_class(labels, most) for labels in self.labels()]
        kept = self.selected(replace(about, name=f"{about.name}{LIMITED}{most:,}"), *parts)
        kept.named, kept.limit = self.named, most
        kept.notes += (f"the first images of each class, out of {self.train_size:,} and {self.test_size:,}",)
        return kept

    @abstractmethod
    def labels(self) -> tuple[Tensor, Tensor]:
        """Return the labels of the training and of the test images, int64 (N)."""

    @abstractmethod
    def selected(self, description: DataDescription, train: Tensor, test: Tensor) -> "DataSet":
        """Return a data set of another name with some of the images, by their numbers."""

    def check(self, augmentation: Augmentation) -> None:
        """Make sure that this data set can do all of `augmentation`.

        Raises:
            DataError: it cannot.
        """
        size = self.description.image_size
        if augmentation.shift >= min(size):
            raise DataError(
                f"{self.description.name}: augmentation.shift: got {augmentation.shift}, and images of "
                f"{size[0]}x{size[1]} would be moved out of sight; wanted less than {min(size)}, such as "
                f"--set augmentation.shift={min(size) // 8}"
            )
        refusal = self.refusal(augmentation)
        if refusal:
            raise DataError(f"{self.description.name}: {refusal}; choose another recipe")

    def train_batches(
        self,
        batch_size: int,
        augmentation: Augmentation,
        *,
        seed: int,
        epoch: int,
        first: int = 0,
        share: Share = WHOLE,
        device: torch.device | None = None,
    ) -> Iterator[Batch]:
        """Yield every training image once, shuffled and augmented; the last batch may be smaller.

        The batches depend on nothing but the arguments. With `first`, that many batches are left out and the
        others are the same, so that an epoch can be continued. With `share`, of each batch that part only.

        Raises:
            DataError: the augmentation does not suit these images, or an image cannot be read.
        """
        self.check(augmentation)
        raw = self.raw_train_batches(batch_size, augmentation, seed=seed, epoch=epoch, first=first, share=share)
        yield from self._normalised(raw, device or torch.device("cpu"))

    def test_batches(
        self, batch_size: int, *, share: Share = WHOLE, device: torch.device | None = None
    ) -> Iterator[Batch]:
        """Yield every test image once, in order; with `share`, of each batch that part only.

        Raises:
            DataError: an image cannot be read.
        """
        yield from self._normalised(self.raw_test_batches(batch_size, share), device or torch.device("cpu"))

    def _normalised(self, batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
        """Move to the device as bytes, a quarter of the floats, and normalise there."""
        mean = torch.tensor(self.description.mean, device=device)[:, None, None]
        std = torch.tensor(self.description.std, device=device)[:, None, None]
        for batch in batches:
            # From pinned memory the copy runs beside the computation of the previous batch.
            images, labels = (
                x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x for x in batch
            )
            yield Batch((images.float() / 255 - mean) / std, labels)


@dataclass(frozen=True)
class Images:
    """Images that fit into memory: pixels uint8 (N, C, H, W), labels int64 (N)."""

    pixels: Tensor
    labels: Tensor

    def __getitem__(self, chosen: Tensor) -> "Images":
        return Images(self.pixels[chosen], self.labels[chosen])


class InMemoryDataSet(DataSet):
    """A data set of small images."""

    def __init__(self, description: DataDescription, train: Images, test: Images, notes: tuple[str, ...] = ()) -> None:
        super().__init__(description, len(train.labels), len(test.labels), notes)
        self.train = train
        self.test = test

    def in_memory(self) -> "InMemoryDataSet":
        """Return this data set: its images are in memory."""
        return self

    def labels(self) -> tuple[Tensor, Tensor]:
        """Return the labels of the training and of the test images."""
        return self.train.labels, self.test.labels

    def selected(self, description: DataDescription, train: Tensor, test: Tensor) -> "InMemoryDataSet":
        """Return a data set of another name with some of the images."""
        return InMemoryDataSet(description, self.train[train], self.test[test], self.notes)

    def halves(self, seed: int) -> tuple["InMemoryDataSet", "InMemoryDataSet"]:
        """Split the training images at random into two halves that differ by one at most.

        Returns:
            Two data sets; each has one half for training and the other for testing, the first the smaller one for
            training. The test images of this data set are in neither.

        Raises:
            DataError: there are fewer than two training images.
        """
        if self.train_size < 2:
            raise DataError(
                f"{self.description.name}: {self.train_size} training images cannot be split into two halves; "
                "a search needs a larger data set"
            )
        order = torch.randperm(self.train_size, generator=generator(seed))
        first, second = self.train[order[: self.train_size // 2]], self.train[order[self.train_size // 2 :]]
        return InMemoryDataSet(self.description, first, second), InMemoryDataSet(self.description, second, first)

    def refusal(self, augmentation: Augmentation) -> str | None:
        """Cropping by area and colour jitter are for photographs."""
        if augmentation.crop_area or augmentation.jitter:
            without = [name for name in ("crop_area", "jitter") if getattr(augmentation, name)]
            advice = " ".join(f"--set augmentation.{name}=false" for name in without)
            return (
                f"the recipe crops by area or jitters colours, which is done for image folders only ({advice} ends it)"
            )
        return None

    def raw_train_batches(
        self, batch_size: int, augmentation: Augmentation, *, seed: int, epoch: int, first: int, share: Share
    ) -> Iterator[Batch]:
        """Yield shuffled batches; every batch has its own random numbers, so any of them can be the first."""
        order = torch.randperm(self.train_size, generator=generator(seed, epoch))
        for number, chosen in enumerate(torch.split(order, batch_size)):
            if number < first:
                continue
            random = generator(seed, epoch, number)
            pixels = self.train.pixels[chosen]
            if augmentation.shift:
                pixels = shift(pixels, augmentation.shift, random)
            if augmentation.flip:
                pixels = flip_half(pixels, random)
            yield Batch(pixels[share.part], self.train.labels[chosen][share.part])

    def raw_test_batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[Batch]:
        """Yield the test images in order."""
        for start in range(0, self.test_size, batch_size):
            batch = slice(start, start + batch_size)
            yield Batch(self.test.pixels[batch][share.part], self.test.labels[batch][share.part])


def _first_of_each_class(labels: Tensor, most: int) -> Tensor:
    """Return the numbers of at most `most` images, in order: the first of every class, then the second, and so on."""
    turns = torch.empty_like(labels)
    for label in set(labels.tolist()):
        of_class = labels == label
        turns[of_class] = torch.arange(int(of_class.sum()))
    # Of the last turn, which may be cut short, the first classes.
    return (turns * (1 + labels.max()) + labels).argsort()[:most].sort().values


def generator(*keys: int) -> torch.Generator:
    """Return a source of random numbers of its own for every sequence of keys."""
    seed = np.random.SeedSequence(keys).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))  # 63 bits: manual_seed takes a signed number
