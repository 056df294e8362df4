"""Image files -> the classes that a bundle sees in them: numpy, onnxruntime and Pillow, no PyTorch."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.errors import BnasError, BundleError, DataError
from bnas_deploy.core.memory import memory_bytes
from bnas_deploy.evaluation.classifiers import image_classifier
from bnas_deploy.evaluation.metrics import log_probabilities
from bnas_deploy.runtime.session import Model

STDIN = Path("-")
"""The name of the standard input among sources; a file of that name is ./-."""


@dataclass(frozen=True)
class Prediction:
    """What a model sees in an image: its most likely classes and their probabilities, the likeliest first.

    `error` says why there are none.
    """

    path: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def predict_images(model: Model, sources: Sequence[Path], stdin: IO[bytes], *, top: int) -> Iterator[Prediction]:
    """Yield what `model` sees in every image of `sources`: files, folders (their images, by name), or "-" for stdin.

    An image that cannot be read, or a folder without images, yields its error, and the others follow. Images are read
    as training on an image folder reads its test images.

    Args:
        model: the bundle.
        sources: where the images are.
        stdin: one image.
        top: how many classes, or all where there are fewer.

    Raises:
        BnasError: Pillow is not installed.
        BundleError: the model cannot be run, answers what is no number, or is no classifier of images.
    """
    pixels = import_pixels()
    labels, preprocessing = image_classifier(model.bundle)
    for source in sources:
        try:
            paths = _images_at(source)
        except DataError as error:
            yield Prediction(source, error=error.message)
            continue
        for path in paths:
            try:
                image = pixels.decode_image(_read_stdin(stdin), path) if path == STDIN else pixels.read_image(path)
            except DataError as error:
                yield Prediction(path, error=error.message)
                continue
            fitted = pixels.centre(
                pixels.in_mode(image, len(preprocessing.mean)), (preprocessing.height, preprocessing.width)
            )
            yield Prediction(path, _classes(model, labels, pixels.pixels_of(fitted), top))


def import_pixels() -> ModuleType:
    """Import what reads images.

    Raises:
        BnasError: Pillow is not installed.
    """
    try:
        from bnas_deploy.search.data import pixels
    except ModuleNotFoundError as error:
        if error.name != "PIL":
            raise
        raise BnasError("images are read by Pillow, which is not installed; run: pip install pillow") from None
    return pixels


def _images_at(source: Path) -> list[Path]:
    """Return the images that a source stands for: its own path, or those in the folder.

    Raises:
        DataError: the folder cannot be read, or has no images.
    """
    from bnas_deploy.search.data.listing import list_images

    if source == STDIN or not os.path.isdir(source):
        return [source]
    try:
        return list_images(source)[0]
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}; check its permissions") from None


def _read_stdin(stdin: IO[bytes]) -> IO[bytes]:
    """Return one image from a pipe as a file that can be read in any order.

    Raises:
        DataError: there is more than memory holds.
    """
    most = (memory_bytes() or sys.maxsize) // 4
    data = stdin.read(most + 1)
    if len(data) > most:
        raise DataError(f"-: more than {most:,} bytes on the standard input; give one image")
    return io.BytesIO(data)


def _classes(model: Model, labels: Sequence[str], pixels: NDArray[np.uint8], top: int) -> tuple[tuple[str, float], ...]:
    """Run one image, uint8 (H, W, C)."""
    logits = model.predict(model.preprocess(pixels[None]))[0]
    if not np.isfinite(logits).all():
        raise BundleError(f"{model.bundle.path}: the model gives logits that are no numbers; train and export it again")
    probabilities = np.exp(log_probabilities(logits))
    order = np.argsort(-logits, kind="stable")[:top]  # the first of equal logits first, as everywhere
    return tuple((labels[i], float(probabilities[i])) for i in order)
