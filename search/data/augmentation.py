"""Which random changes training makes to images; `augment` makes them. No framework is imported."""

from dataclasses import dataclass, field

from bnas_deploy.core.errors import RecipeError
from bnas_deploy.core.ranges import SHARE, Checked, Range

SMALL = 64
"""Images of which a side is less are small: their pixels are too few to cut some off, so they are shifted instead."""


@dataclass(frozen=True)
class ColourJitter(Checked):
    """How far brightness, contrast and saturation may move from 1, and the hue from 0 (in turns, at most 0.5)."""

    table = "augmentation.jitter"

    brightness: float = field(metadata=SHARE)
    contrast: float = field(metadata=SHARE)
    saturation: float = field(metadata=SHARE)
    hue: float = field(metadata=Range(0, 0.5).of_field())


@dataclass(frozen=True)
class Augmentation(Checked):
    """Random changes to a training image, in the order in which they are made.

    Attributes:
        crop_area: smallest and largest share of the image that a random crop keeps before it is resized, at a
            random aspect ratio of 3/4 to 4/3; None: no such crop.
        shift: move the image by up to this many pixels each way; what comes in from outside is black.
        flip: mirror every second image, left to right.
        jitter: change the colours.
    """

    table = "augmentation"

    crop_area: tuple[float, float] | None = None
    shift: int = field(default=0, metadata=Range(0, 1000).of_field())
    flip: bool = False
    jitter: ColourJitter | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_area is not None and not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise RecipeError(
                f"augmentation.crop_area: got {list(self.crop_area)}, wanted two shares above 0 and at most 1, the "
                "smaller first"
            )
