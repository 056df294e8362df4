"""Images in folders, as ImageNet is kept: train/CLASS/*.jpg and val/CLASS/*.jpg, or any other format of images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.listing import list_folders, list_images
from bnas_deploy.search.data.photos import LARGE, PhotoDataSet, describe, with_skipping
from bnas_deploy.search.data.pixels import describe_image, read_image

_EXPECTED = "expected train/CLASS/*.jpg and val/CLASS/*.jpg"
_FEW = 3  # of the files that are passed over, how many are named


@dataclass(frozen=True)
class ImageFile:
    """An image on disk and its label."""

    path: Path
    label: int

    @property
    def name(self) -> str:
        """Return its path."""
        return str(self.path)

    @property
    def known_label(self) -> int:
        """Return the label: the folder says it."""
        return self.label

    def load(self) -> tuple[Image.Image, int]:
        """Return the image and its label.

        Raises:
            DataError: it cannot be read.
        """
        return read_image(self.path), self.label


def open_image_folder(
    folder: Path,
    *,
    image_size: tuple[int, int] | None = None,
    in_channels: int | None = None,
    skip_bad: bool = False,
) -> PhotoDataSet:
    """Find the images below `folder`; the classes are the names of the subfolders of train, sorted as text.

    Hidden files and folders are ignored, and so is what archives and file managers leave. Other files that are no
    images are passed over, which the notes of the data set say.

    Args:
        folder: holds train and val.
        image_size: (height, width) to make of every image; 224x224 unless given.
        in_channels: 1 for grey, 3 for RGB; unless given, grey if every image is.
        skip_bad: leave out the images that cannot be read.

    Raises:
        DataError: train or val is missing or has no class folders, their classes differ, or a class has no images; a
            grey image cannot be read; or `in_channels` is another number.
    """
    passed_over: list[str] = []
    train_classes, test_classes = (_classes(folder / part, passed_over) for part in ("train", "val"))
    if train_classes != test_classes:
        parts = {"train": train_classes, "val": test_classes}
        alone = {part: sorted({*train_classes, *test_classes} - {*others}) for part, others in parts.items()}
        raise DataError(
            f"{folder}: train has {len(train_classes)} classes, val has {len(test_classes)}; "
            + "; ".join(f"{part} lacks {_few(names)}" for part, names in alone.items() if names)
            + "; both must have a folder for every class"
        )
    if len(train_classes) == 1:
        raise DataError(
            f"{folder}: has one class, {train_classes[0]}, so there is nothing to tell apart; wanted a folder for each "
            "of at least two in train and val"
        )
    train, test = (_photos(folder / part, train_classes, passed_over) for part in ("train", "val"))
    # With the channels said, an image that cannot be read matters where it is needed: `eval` reads no training images.
    found = _described((*train, *test), skip_bad=skip_bad or in_channels is not None)
    first_size, grey = next(found)
    # The first coloured image answers, so that only folders of grey ones are looked at to the end.
    all_grey = in_channels is None and grey and all(grey for _, grey in found)
    size, channels = image_size or LARGE, in_channels or (1 if all_grey else 3)
    description = describe(f"image folder {folder.resolve().name}", train_classes, channels, size)
    notes = [_size_note(size, first_size, asked_for=image_size is not None)]
    if in_channels is None:
        notes.append("every image is grey, so there is 1 channel" if channels == 1 else "there are coloured images")
        notes[-1] += "; --in-channels 1 or 3 decides otherwise"
    if passed_over:
        notes.append(f"passed over, not an image by its name: {len(passed_over):,} ({_few(passed_over)})")
    return PhotoDataSet(description, train, test, tuple(notes), skip_bad=skip_bad)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (", ..." if len(names) > _FEW else "")


def _described(photos: Sequence[ImageFile], *, skip_bad: bool) -> Iterator[tuple[tuple[int, int], bool]]:
    """Yield size and greyness of each image that can be read.

    Raises:
        DataError: one cannot be read, and bad ones are not left out, or none can.
    """
    readable = 0
    for number, photo in enumerate(photos, start=1):
        try:
            described = describe_image(photo.path)
        except DataError as error:
            if not skip_bad:
                raise with_skipping(error) from None
            if number == len(photos) and not readable:
                raise
            continue
        readable += 1
        yield described


def _size_note(size: tuple[int, int], first: tuple[int, int], *, asked_for: bool) -> str:
    made, found = ("x".join(map(str, each)) for each in (size, first))
    note = f"every image becomes {made}; the first of them is {found}"
    return note if asked_for else f"{note}; --image-size N or HxW decides otherwise"


def _classes(folder: Path, passed_over: list[str]) -> tuple[str, ...]:
    folders, others = _listed(list_folders, folder)
    passed_over += map(_short, others)
    if not folders:
        raise DataError(f"{folder}: no class folders in it; {_EXPECTED}")
    return tuple(path.name for path in folders)


def _photos(folder: Path, classes: tuple[str, ...], passed_over: list[str]) -> tuple[ImageFile, ...]:
    photos: list[ImageFile] = []
    for label, name in enumerate(classes):
        images, others = _listed(list_images, folder / name)
        passed_over += map(_short, others)
        photos += (ImageFile(path, label) for path in images)
    return tuple(photos)


def _listed(list_kind: Callable[[Path], tuple[list[Path], list[Path]]], folder: Path) -> tuple[list[Path], list[Path]]:
    try:
        return list_kind(folder)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; {_EXPECTED}") from None


def _short(path: Path) -> str:
    """Return the last parts of a path, such as train/cat/notes.txt."""
    return "/".join(path.parts[-3:])
