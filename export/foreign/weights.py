"""Weights with one magnitude for each output channel, and their signs."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from bnas_deploy.export.bounds import ROUNDING
from bnas_deploy.export.foreign.left_float import BINARISE, FLOAT_WEIGHTS, REGISTER, NotTranslated
from bnas_deploy.export.foreign.program import NotElementwise, Program
from bnas_deploy.export.foreign.steps import ESTIMATOR_ROUNDINGS

ALIKE = 2.0**-40
"""Magnitudes in float64 are one if they differ by less than this part: the roundings of some thousand operations."""


@dataclass(frozen=True)
class Weights:
    """w = signs * scale, within the roundings of the code that computes them.

    Attributes:
        signs: ±1 float32, of the shape of the weights, output channels first.
        scale: (O) float32, not negative.
        rounding: (O), how far w may be from that: 0, or what the code that computes it rounds.
        value: w as PyTorch computes it.
        names: the parameters that it is computed of.
    """

    signs: Tensor
    scale: Tensor
    rounding: Tensor
    value: Tensor
    names: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Tell whether w is signs * scale to the bit."""
        return not bool(self.rounding.any())

    @property
    def error(self) -> Tensor:
        """Return w - signs * scale."""
        return self.value - self.signs * self.scale.reshape(-1, *(1,) * (self.value.ndim - 1))


def weights_of(program: Program, node: Node, *, transposed: bool = False) -> Weights:
    """Read weights that depend on parameters alone; `transposed` ones, (C, O), have the output channels last.

    Raises:
        NotTranslated: they depend on the images, or are float.
    """
    if node in program.varying:
        raise NotTranslated("its weights depend on the images")
    try:
        found = program.constant(node)
    except NotElementwise as reason:
        raise NotTranslated(f"its weights cannot be computed beforehand: {reason}", REGISTER) from None
    value, largest = (each.T if transposed else each for each in (found.value, found.largest))
    if value.ndim < 2 or not value.is_floating_point():
        raise NotTranslated("its weights are no matrix of floats")
    names = tuple(program.parameters_of(node))
    magnitudes = value.abs().flatten(1)
    scale = magnitudes.amax(dim=1)
    if magnitudes.shape[1] == 1:
        raise NotTranslated("it has one weight for each output channel")
    if bool((magnitudes == scale[:, None]).all()):
        return Weights(_signs(value), scale.clone(), torch.zeros_like(scale), value, names)
    zeros = int((value == 0).sum())
    if zeros and bool(((magnitudes == scale[:, None]) | (magnitudes == 0)).all()):
        raise _zeros(zeros, value.numel(), names)
    return _rounded(program, node, value, largest, names, transposed=transposed)


def _rounded(
    program: Program, node: Node, value: Tensor, largest: Tensor, names: tuple[str, ...], *, transposed: bool
) -> Weights:
    """Read weights that a gradient written by hand, such as `binary.detach() - w.detach() + w`, has rounded.

    In float64 what the rounding leaves of their magnitudes is 2^-29 as much, and they are told from float weights.
    """
    precise = program.constant(node, torch.float64).value
    magnitudes = (precise.T if transposed else precise).abs().flatten(1)
    zero = magnitudes <= ALIKE * largest.max()
    scale = magnitudes.masked_fill(zero, torch.nan).nanmedian(dim=1).values.nan_to_num(nan=0.0)
    spread = (magnitudes - scale[:, None]).abs().masked_fill(zero, 0.0)
    if bool((zero & (scale[:, None] > 0)).any()) and bool((spread <= ALIKE * largest.max()).all()):
        raise _zeros(int((zero & (scale[:, None] > 0)).sum()), value.numel(), names)
    if not bool(((magnitudes - scale[:, None]).abs() <= ALIKE * largest.max()).all()):
        channel = int(((magnitudes - scale[:, None]).abs().amax(dim=1) > ALIKE * largest.max()).int().argmax())
        row = magnitudes[channel]
        raise NotTranslated(
            f"{FLOAT_WEIGHTS}: those of output channel {channel} have magnitudes from {row.min():.3g} to "
            f"{row.max():.3g}",
            BINARISE,
        )
    rounding = (ESTIMATOR_ROUNDINGS * ROUNDING * largest).flatten(1).amax(dim=1).float()
    found = Weights(_signs(value), scale.float(), rounding, value, names)
    difference = found.error.abs().flatten(1).amax(dim=1)
    if not bool((difference <= rounding).all()):
        raise NotTranslated(f"its weights differ from one magnitude by up to {difference.max():.3g}")
    return found


FEW_ZEROS = 0.1
"""Weights of which a larger part is 0 are ternary ones by intention."""


def _zeros(zeros: int, count: int, names: tuple[str, ...]) -> NotTranslated:
    """Say what becomes of weights of which some are 0: torch.sign has them so where a weight is exactly 0."""
    reason = f"{zeros:,} of {count:,} weights are exactly 0, and a bit is +1 or -1"
    if zeros > FEW_ZEROS * count:
        return NotTranslated(reason)
    name = names[0] if names else "the weight"
    return NotTranslated(
        reason,
        f"where a value of {name} is 0, give it a small one of the sign that it is to have, such as 1e-9, or take the "
        "sign by torch.where(w >= 0, 1.0, -1.0)",
    )


def _signs(value: Tensor) -> Tensor:
    return torch.where(value < 0, -1.0, 1.0)
