"""Random changes to training images: whole batches of small images, and single photographs."""

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from bnas_deploy.search.data.augmentation import ColourJitter
from bnas_deploy.search.data.pixels import centre_box

_NARROWEST, _WIDEST = 3 / 4, 4 / 3
_ATTEMPTS = 10  # a random area and aspect can be wider or taller than the image; then they are drawn again


def shift(pixels: Tensor, most: int, random: torch.Generator) -> Tensor:
    """Move each image by up to `most` pixels each way, (N, C, H, W); black comes in from outside.

    That is padding by `most` and cropping at a random place.
    """
    height, width = pixels.shape[2:]
    padded = torch.nn.functional.pad(pixels, (most,) * 4)
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, top, left, H, W)
    top, left = torch.randint(2 * most + 1, (2, len(pixels)), generator=random).unbind()
    return crops[torch.arange(len(pixels)), :, top, left]


def shift_image(image: Image.Image, most: int, random: np.random.Generator) -> Image.Image:
    """Do what `shift` does to one image."""
    left, top = (int(number) for number in random.integers(-most, most + 1, size=2))
    moved = Image.new(image.mode, image.size)
    moved.paste(image, (left, top))
    return moved


def flip_half(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2, (N, C, H, W)."""
    mirrored = torch.rand(len(pixels), generator=random) < 0.5
    return torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)


def flip(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Mirror left to right with probability 1/2."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def random_crop(
    image: Image.Image, area: tuple[float, float], size: tuple[int, int], random: np.random.Generator
) -> Image.Image:
    """Cut out a part with a random share of the area and a random aspect ratio, and resize it to `size` (H, W).

    As in "Going deeper with convolutions" (Szegedy et al., 2015), section 6: the aspect is log-uniform.
    """
    height, width = size
    return image.resize((width, height), Image.Resampling.BILINEAR, box=_crop_box(image.size, area, random))


def _crop_box(
    size: tuple[int, int], area: tuple[float, float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) inside an image of `size` (W, H)."""
    width, height = size
    for _ in range(_ATTEMPTS):
        target = width * height * random.uniform(area[0], area[1])
        aspect = math.exp(random.uniform(math.log(_NARROWEST), math.log(_WIDEST)))
        crop_width, crop_height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(random.integers(width - crop_width + 1))
            top = int(random.integers(height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    return centre_box(size, min(width, round(height * _WIDEST)), min(height, round(width / _NARROWEST)))


def jitter_colours(image: Image.Image, jitter: ColourJitter, random: np.random.Generator) -> Image.Image:
    """Change brightness, contrast, saturation and hue by random amounts, in random order; grey has the first two."""

    def around_one(strength: float) -> float:
        return random.uniform(1 - strength, 1 + strength)

    changes: tuple[Callable[[Image.Image], Image.Image], ...] = (
        lambda image: ImageEnhance.Brightness(image).enhance(around_one(jitter.brightness)),
        lambda image: ImageEnhance.Contrast(image).enhance(around_one(jitter.contrast)),
        lambda image: ImageEnhance.Color(image).enhance(around_one(jitter.saturation)),
        lambda image: _turn_hue(image, random.uniform(-jitter.hue, jitter.hue)),
    )
    if image.mode == "L":
        changes = changes[:2]
    for index in random.permutation(len(changes)):
        image = changes[index](image)
    return image


def _turn_hue(image: Image.Image, turns: float) -> Image.Image:
    """Add `turns` to the hue, which wraps around after one turn."""
    hue, saturation, value = image.convert("HSV").split()
    step = round(turns * 256)
    hue = hue.point([(level + step) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
