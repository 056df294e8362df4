"""Which images an export is checked with."""

import torch

from bnas_deploy.export import Images
from bnas_deploy.search.data.kinds import DATA_KINDS, LIMITED
from bnas_deploy.search.data.matching import open_matching
from bnas_deploy.search.training.checkpoint import Checkpoint

MOST_IMAGES = 64
MOST_BYTES = 4 * 2**20  # what the images may take in the bundle
FEWEST_IMAGES = 4


def verification_images(checkpoint: Checkpoint, data: str | None, count: int | None) -> Images:
    """Return `count` images to verify the export of `checkpoint` with.

    They are test images of the data set `data`, or of data without a folder if the network was trained on those; else
    normal random numbers, without labels.

    Raises:
        DataError: the data set cannot be read, or is not one of this network.
    """
    shape = (checkpoint.network.in_channels, *checkpoint.network.image_size)
    count = count or usual_count(shape)
    trained_on = checkpoint.data.partition(LIMITED)[0]
    if data is None and trained_on in DATA_KINDS and not DATA_KINDS[trained_on].takes:
        data = trained_on
    if data is None:
        return random_images(shape, count)
    opened = open_matching(data, labels=checkpoint.labels, preprocessing=checkpoint.preprocessing)
    images, labels = next(opened.test_batches(count))
    return Images(images, labels)


def usual_count(shape: tuple[int, ...]) -> int:
    """Return how many images (C, H, W) an export is verified with, fewer if they are large."""
    return min(MOST_IMAGES, max(FEWEST_IMAGES, MOST_BYTES // (4 * torch.Size(shape).numel())))


def random_images(shape: tuple[int, ...], count: int) -> Images:
    """Return images (C, H, W) of normal random numbers, without labels; always the same."""
    return Images(torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)))
