"""The handwritten digits that come with scikit-learn: 1797 grey images of 8x8 pixels, no download."""

import numpy as np
import torch

from bnas_deploy.core.errors import INSTALL_TRAINING, DataError
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet

_WHITE = 16  # pixels are counts of dark dots in a 4x4 block, 0 to 16
_TEST_EVERY = 5


def open_digits() -> InMemoryDataSet:
    """Return the digits; the images 4, 9, 14, ... are the 359 test images, the other 1438 are for training.

    Neighbouring images are of one writer, so both parts have images of every writer.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(f"digits: scikit-learn holds these images and is not installed; {INSTALL_TRAINING}") from None
    digits = load_digits()
    pixels = torch.from_numpy(np.floor(digits.images * 255 / _WHITE).astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    test = torch.arange(len(labels)) % _TEST_EVERY == _TEST_EVERY - 1
    train = Images(pixels[~test], labels[~test])
    # numpy, because PyTorch's sum depends on the number of threads, and a resumed run must find the same to the bit.
    scaled = train.pixels.numpy() / 255
    description = DataDescription(
        name="digits",
        class_names=tuple(str(name) for name in digits.target_names),
        in_channels=1,
        image_size=(8, 8),
        mean=(float(scaled.mean()),),
        std=(float(scaled.std(ddof=1)),),
    )
    return InMemoryDataSet(description, train, Images(pixels[test], labels[test]))
