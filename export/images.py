"""Which images an export is checked with."""

import torch

from bnas_deploy.core.errors import DataError
from bnas_deploy.export import Images
from bnas_deploy.search.data import open_for
from bnas_deploy.search.data.kinds import DATA_KINDS
from bnas_deploy.search.training.checkpoint import Checkpoint

MOST_IMAGES = 64
MOST_BYTES = 4 * 2**20  # what the images may take in the bundle
FEWEST_IMAGES = 4
FEW_NAMES = 3


def verification_images(checkpoint: Checkpoint, data: str | None, count: int | None) -> Images:
    """Return `count` images to verify the export of `checkpoint` with.

    They are test images of the data set `data`, or of data without a folder if the network was trained on those; else
    normal random numbers, without labels.

    Raises:
        DataError: the data set cannot be read, or is not one of this network.
    """
    shape = (checkpoint.network.in_channels, *checkpoint.network.image_size)
    if count is None:
        count = min(MOST_IMAGES, max(FEWEST_IMAGES, MOST_BYTES // (4 * torch.Size(shape).numel())))
    if data is None and checkpoint.data in DATA_KINDS and not DATA_KINDS[checkpoint.data].folder:
        data = checkpoint.data
    if data is None:
        return Images(torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)))
    network = checkpoint.network
    opened = open_for(data, image_size=network.image_size, in_channels=network.in_channels)
    description = opened.description
    got = (description.in_channels, *description.image_size)
    wanted = f"the network takes images of {shape}, normalised with {checkpoint.preprocessing}"
    if got != shape or description.preprocessing != checkpoint.preprocessing:
        raise DataError(
            f"--data {data}: images of {got}, normalised with {description.preprocessing}; {wanted}; "
            "give the data that it was trained on"
        )
    if description.class_names != checkpoint.labels:
        raise DataError(
            f"--data {data}: classes {_few(description.class_names)}; "
            f"the network tells apart {_few(checkpoint.labels)}; give the data that it was trained on"
        )
    images, labels = next(opened.test_batches(count))
    return Images(images, labels)


def _few(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - FEW_NAMES} more" if len(names) > FEW_NAMES else ""
    return ", ".join(names[:FEW_NAMES]) + more
