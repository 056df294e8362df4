"""Opening the data of a network that is there already: its images and classes have to be the network's."""

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data import open_for
from bnas_deploy.search.data.dataset import DataSet

FEW_NAMES = 3


def open_matching(
    data: str,
    *,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
    limit: int | None = None,
    skip_bad: bool = False,
) -> DataSet:
    """Open what `--data` gives for a network that tells apart `labels` and sees images as `preprocessing` makes them.

    Images that can be resized are made to fit it; `limit` and `skip_bad` as for `open_data`.

    Raises:
        DataError: the data set cannot be read, or its images or classes are not those of the network.
    """
    size = (preprocessing.height, preprocessing.width)
    shape = (len(preprocessing.mean), *size)
    opened = open_for(data, image_size=size, in_channels=shape[0], limit=limit, skip_bad=skip_bad)
    description = opened.description
    got = (description.in_channels, *description.image_size)
    wanted = f"the network takes images of {shape}, {_normalisation(preprocessing)}"
    if got != shape or description.preprocessing != preprocessing:
        raise DataError(
            f"--data {data}: images of {got}, {_normalisation(description.preprocessing)}; {wanted}; "
            "give the data that it was trained on"
        )
    if description.class_names != labels:
        raise DataError(
            f"--data {data}: classes {_few(description.class_names)}; "
            f"the network tells apart {_few(labels)}; give the data that it was trained on"
        )
    return opened


def _normalisation(preprocessing: Preprocessing) -> str:
    mean, std = (", ".join(f"{number:g}" for number in part) for part in (preprocessing.mean, preprocessing.std))
    return f"normalised with a mean of {mean} and a deviation of {std}"


def _few(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - FEW_NAMES} more" if len(names) > FEW_NAMES else ""
    return ", ".join(names[:FEW_NAMES]) + more
