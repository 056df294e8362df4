"""From a binary layer to what the operators hold: ±1, thresholds, integers and a scale."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bnas_deploy.export.foreign.layers import Found, Window
from bnas_deploy.export.foreign.left_float import NotTranslated
from bnas_deploy.export.foreign.steps import Steps
from bnas_deploy.export.freeze import binary_conv2d

ALIKE = 2.0**-20
"""A number at the padding is a level, or the middle of both, if it differs from it by less than this part of a step."""


@dataclass(frozen=True)
class Operands:
    """The inputs of one `binary_conv2d`; a layer of L levels is a sum of L - 1 of them."""

    signs: Tensor
    threshold: Tensor
    pad: Tensor | None
    offset: Tensor
    scale: Tensor
    bias: Tensor
    sign_of_zero: bool = False

    def tensors(self) -> dict[str, Tensor | None]:
        """Return them by the names of the operator's arguments, in their order."""
        names = ("signs", "threshold", "pad", "offset", "scale", "bias")
        return {name: getattr(self, name) for name in names}

    def options(self, window: Window) -> tuple[list[int] | int | bool, ...]:
        """Return the arguments behind the tensors, in their order."""
        return (
            list(window.stride),
            list(window.padding),
            list(window.extra_padding),
            list(window.dilation),
            window.groups,
            False,
            self.sign_of_zero,
        )

    def __call__(self, x: Tensor, window: Window) -> Tensor:
        """Compute it for images (N, C, H, W)."""
        y: Tensor = binary_conv2d(x, *self.tensors().values(), *self.options(window))
        return y


@dataclass(frozen=True)
class Translation:
    """The operators of a layer, whose results are added, and what is needed to compare it with the original.

    Attributes:
        window: of each.
        steps: what its activations are of x.
        scale: (O), the largest magnitude of the weights.
    """

    operands: tuple[Operands, ...]
    window: Window
    steps: Steps
    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the layer for images (N, C, H, W)."""
        y = self.operands[0](x, self.window)
        for each in self.operands[1:]:
            y = y + each(x, self.window)
        return y


def translation_of(found: Found, *, meets_zero: bool) -> Translation:
    """Translate a layer that was found in a program.

    `meets_zero` tells whether some x is 0 where the activations are torch.sign. Then two operators make -1, 0 and +1
    of it; else one does, with the note that no x may be 0.

    Raises:
        NotTranslated: no operator has the number at its padding.
    """
    weights, steps = found.weights, found.steps
    one_sign = steps.is_sign and not meets_zero
    steps = steps.without_zero() if one_sign else steps
    rows: list[Operands] = []
    for signs, scale in weights.terms:
        bias = None if rows else found.bias
        rows += operands(steps, signs, scale, bias, found.window, found.pad_value)
    if one_sign:
        rows = [replace(row, sign_of_zero=True) for row in rows]
    return Translation(tuple(rows), found.window, found.steps, weights.magnitude)


def check_translatable(found: Found) -> None:
    """Refuse a layer that packed convolutions compute no faster than a float one, or not at all.

    They are counted for numbers that are never 0: where torch.sign meets one, the layer is exact all the same, with
    twice as many.

    Raises:
        NotTranslated: that, with the reason.
    """
    count = len(translation_of(found, meets_zero=False).operands)
    if count > MOST_CONVOLUTIONS:
        parts = f"{len(found.steps.levels)} levels of activations and {_KINDS[len(found.weights.terms)]} of weights"
        raise NotTranslated(
            f"its {parts} are a sum of {count} packed convolutions, and more than {MOST_CONVOLUTIONS} are no faster "
            "than a float one"
        )


_KINDS = {1: "one magnitude", 2: "two magnitudes", 3: "three values"}
"""What weights are, by how many terms they are a sum of."""

MOST_CONVOLUTIONS = 4
"""Packed ones that may stand for one layer."""


def operands(
    steps: Steps, signs: Tensor, scale: Tensor, bias: Tensor | None, window: Window, pad_value: float
) -> list[Operands]:
    """Write y = conv(A, signs * scale) + bias with the signs of comparisons.

    On the image A = m + sum of d_k S_k, where m is the middle of the levels, d_k half a step and S_k = ±1; a falling
    channel has -S_k in the operator, and its weights are negated. At the padding A is `pad_value`. That is m + s sum of
    d_k with one sign s (or 0) for all S_k, or there is no such operator. So

        y = sum of d_k scale conv(S_k padded with s, signs) + m scale (sum of signs) + bias

    Where m is a whole multiple of d_0, as for levels 0 and v, it is an integer that is added to the sum of signs;
    else it becomes part of the bias. A padding of 0 in a sign of three levels is s = 0.

    Raises:
        NotTranslated: the number at the padding is none that an operator has.
    """
    if signs.ndim == 2:
        signs = signs[:, :, None, None]
    heights, middle = steps.heights, steps.middle
    at_padding = _sign_at_padding(steps, pad_value) if window.is_padded else 0
    turn = _turns(steps, signs, window.groups)
    sums = signs.sum(dim=(1, 2, 3))
    zeros = torch.zeros(len(signs))
    whole = middle / heights[0]
    multiple = round(whole) if whole == round(whole) else 0
    found = []
    for number, height in enumerate(heights):
        first = number == 0
        added = zeros if bias is None or not first else bias
        if first and not multiple and middle:
            added = (added.double() + middle * (scale.double() * sums)).float()
        pad = None
        if at_padding:
            falling = torch.from_numpy(np.where(steps.falling, -1, 1).astype(np.float32))
            pad = at_padding * falling
        found.append(
            Operands(
                signs=(signs * turn).contiguous(),
                threshold=torch.from_numpy(steps.thresholds[number].copy()),
                pad=pad,
                offset=((multiple * sums) if first else zeros)[:, None, None].clone(),
                scale=(scale.double() * height).float(),
                bias=added.clone(),
            )
        )
    return found


def _turns(steps: Steps, signs: Tensor, groups: int) -> Tensor:
    """Return what the signs of falling channels are multiplied by, to be broadcast to (O, C/groups, KH, KW)."""
    falling = torch.from_numpy(np.where(steps.falling, -1, 1).astype(np.float32))
    by_group = falling.reshape(groups, -1)
    return by_group.repeat_interleave(len(signs) // groups, dim=0)[:, :, None, None]


def _sign_at_padding(steps: Steps, pad_value: float) -> int:
    whole = sum(steps.heights)
    sign = (pad_value - steps.middle) / whole
    if abs(sign - round(sign)) > ALIKE or abs(round(sign)) > 1:
        levels: Sequence[float] = steps.levels
        raise NotTranslated(
            f"its padding of {pad_value:g} is neither {levels[0]:g} nor {levels[-1]:g} nor half the way between, which "
            "are its activations",
            "pad with one of those",
        )
    return round(sign)
