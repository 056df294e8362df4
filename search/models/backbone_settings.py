"""The settings of backbones: the form, the widths and their factor, and larq's way; `Widths` and the file of them."""

import os.path
from dataclasses import dataclass
from pathlib import Path

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.json_records import from_json, read_json
from bnas_deploy.search.models.settings import Choice, Setting, Switch, Text
from bnas_deploy.search.models.size_limits import MOST, check_size

FORMS = ("cifar", "imagenet")

LARGE_IMAGE = 64
"""Height from which on images get the form for large ones, unless it is asked for."""


@dataclass(frozen=True)
class Widths:
    """Channels of the layers of a network, as a file or a command line gives them.

    The others are None where a command line lists numbers only.

    Attributes:
        channels: of each width, in the order of the network's names for them.
        network, form: whose they are.
        scheme: that they were searched in, and are trained in unless another is asked for.
        found: how they came about, for people.
    """

    channels: tuple[int, ...]
    network: str | None = None
    form: str | None = None
    scheme: str | None = None
    found: "Found | None" = None


@dataclass(frozen=True)
class Found:
    """What a search for widths aimed at on which data, and what the network of these widths costs.

    Attributes:
        data: name of the data set.
        goal: "memory" or "latency".
        unit: of `target` and `cost`.
    """

    data: str
    goal: str
    unit: str
    target: float
    cost: float


def read_widths(text: str) -> Widths:
    """Read the widths that an option gives: numbers between commas, or a file that search-widths wrote.

    Raises:
        BnasError: neither of the two, or a width that no layer has.
    """
    parts = [part.strip() for part in text.split(",")]
    if os.path.lexists(text) or not any(map(_is_number, parts)):
        return read_widths_file(Path(text))
    for number, part in enumerate(parts, start=1):
        if not (part.isascii() and part.isdecimal() and len(part) <= 9):
            raise BnasError(
                f"--widths: width {number} is {part!r}; wanted whole numbers from 1 to {MOST['channels']} between "
                "commas, or a file of search-widths"
            )
    return Widths(checked_widths("--widths", tuple(map(int, parts))))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def checked_widths(where: str, channels: tuple[int, ...]) -> tuple[int, ...]:
    """Return channels of layers; `where` names their origin in errors.

    Raises:
        BnasError: a layer cannot have so many.
    """
    for number, width in enumerate(channels, start=1):
        check_size(where, f"width {number}", width, MOST["channels"])
    return channels


def read_widths_file(path: Path) -> Widths:
    """Read the file of widths that `search-widths` writes.

    Raises:
        BnasError: it cannot be read, is none, or has a width that no layer has.
    """
    data = read_json(path, "a file of widths, as search-widths writes it, or numbers between commas")
    try:
        added = {"scheme": None, "found": None}  # which older files lack
        widths: Widths = from_json(Widths, {**added, **data} if isinstance(data, dict) else data)
    except ValueError as error:
        raise BnasError(f"{path}: {error}; expected a file of widths, as search-widths writes it") from None
    checked_widths(str(path), widths.channels)
    return widths


def _read_factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0.001 <= factor <= 1000:
        raise BnasError(f"--width-factor is {text!r}; wanted a number from 0.001 to 1000, such as 2 or 0.25")
    return factor


FORM = Setting(
    "form",
    "--form",
    Choice(FORMS),
    f"The form for small images or that for large ones. [default: by the images, large from {LARGE_IMAGE} pixels on]",
)

WIDTH_FACTOR = Setting(
    "width_factor",
    "--width-factor",
    Text("FACTOR", _read_factor),
    "Multiply every number of channels, such as 2 or 0.25. [default: 1]",
)

WIDTHS = Setting(
    "widths",
    "--widths",
    Text("FILE|N,N,...", read_widths),
    "The channels of every layer: a file of search-widths, or numbers. [default: as published]",
)

LIKE_LARQ = Setting(
    "like_larq",
    "--like-larq",
    Switch(),
    "Pad strided layers as TensorFlow does, and take the constants of BN from larq, whose weights need both.",
)
