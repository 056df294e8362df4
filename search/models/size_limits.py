"""The sizes that a network may have, for every family; a damaged file that claims more asks for no memory.

The upper limits are far above every network in use.
"""

from bnas_deploy.core.errors import BnasError

MOST = {
    "cells": 1000,
    "channels": 65_536,
    "stem_groups": 65_536,
    "classes": 1_000_000,
    "in_channels": 65_536,
    "height": 65_536,
    "width": 65_536,
}
"""The largest of each size."""


def check_sizes(network: str, *, image_size: tuple[int, int], **sizes: int) -> None:
    """Check sizes by their names in `MOST`, and the (height, width) of images; `network` is named in the error.

    Raises:
        BnasError: one is below 1 or above its largest.
    """
    height, width = image_size
    for name, size in {**sizes, "height": height, "width": width}.items():
        check_size(network, name, size, MOST[name])


def check_size(network: str, name: str, size: int, most: int) -> None:
    """Check that one size is from 1 to `most`.

    Raises:
        BnasError: it is not.
    """
    if not 1 <= size <= most:
        raise BnasError(f"{network}: {name} is {size}; wanted a number from 1 to {most}")
