"""What a caller of the export gives: images and networks, and what is refused of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.description import Description
from bnas_deploy.search.nn.layers import BinaryConv2d

TWIN = "the float twin"
"""What messages call it."""


Progress = Callable[[str], object]
"""Is told what is being done, in a few words, each time that changes."""


def silent(doing: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Images:
    """Images to verify with: (N, C, H, W) float32, normalised; labels (N) int64 where they are known."""

    pixels: Tensor
    labels: Tensor | None = None


def check_twin(twin: nn.Module) -> None:
    """Refuse a float twin with a binary layer."""
    binary = next((name for name, layer in twin.named_modules() if isinstance(layer, BinaryConv2d)), None)
    if binary is not None:
        raise ExportError(
            f"{TWIN}: {binary or 'it'} is a binary layer; give the same network with float layers, such as "
            "torch.nn.Conv2d and Linear, to compare latencies with"
        )


def check_images(images: Images, description: Description) -> None:
    """Refuse images that are not those of the preprocessing, or have values that are no numbers."""
    pixels, preprocessing = images.pixels, description.preprocessing
    wanted = (len(preprocessing.mean), preprocessing.height, preprocessing.width)
    if pixels.dtype != torch.float32 or len(pixels) == 0 or tuple(pixels.shape[1:]) != wanted:
        raise ExportError(
            f"images: got {pixels.dtype} {tuple(pixels.shape)}, the preprocessing makes torch.float32 (N, "
            f"{', '.join(map(str, wanted))}) with N at least 1; give images as the network sees them"
        )
    if not pixels.isfinite().all():
        count = int((~pixels.isfinite()).sum())
        raise ExportError(f"images: {count} of {pixels.numel()} values are NaN or infinite; give images without them")


def check_answers(name: str, answers: object, images: int, labels: int) -> Tensor:
    """Return the answers; refuse what is not one logit per image and label."""
    wanted = f"wanted ({images}, {labels}), one logit per label"
    if not isinstance(answers, Tensor):
        raise ExportError(
            f"{name}: answers {type(answers).__name__} to {images} images, {wanted}; "
            "put it into a module that returns the logits alone"
        )
    got = tuple(answers.shape)
    if got != (images, labels):
        raise ExportError(f"{name}: answers {got} to {images} images, {wanted}")
    if answers.dtype != torch.float32:
        raise ExportError(f"{name}: answers {answers.dtype}, wanted torch.float32; call .float() on the logits")
    return answers
