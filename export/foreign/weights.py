"""Weights with one magnitude for each output channel, and their signs; with two, or three values, a sum of such.

Let a channel have the magnitudes p >= q, and s be the sign of its weights. With t = s where the magnitude is p, else
-s,

    w = (p + q) / 2 * s + (p - q) / 2 * t

since s and t add up to p s in the one case, and to q s in the other. So ternary weights (q = 0), weights of 0 and 1,
two other values, and two bases on each other are two packed convolutions of the same activations, exactly.

Three values a > b > c with other magnitudes, as trained ternary weights have (TTQ: p, 0 and -n), are three:

    w = (a - b) / 2 * s + (b - c) / 2 * t + (a + c) / 2,   s = +1 where w = a, else -1;   t = -1 where w = c, else +1

whose last is a convolution with weights of one sign.
"""

from contextlib import suppress
from dataclasses import dataclass, replace

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
    """w = sum of signs * scale over the terms, within the roundings of what computes them.

    Attributes:
        terms: signs, ±1 float32 of the shape of the weights, output channels first; and their scale, (O) float32, not
            negative.
        rounding: (O), how far w may be from that: 0, or what the code that computes it rounds.
        value: w as PyTorch computes it.
        names: the parameters that it is computed of.
    """

    terms: tuple[tuple[Tensor, Tensor], ...]
    rounding: Tensor
    value: Tensor
    names: tuple[str, ...]

    @property
    def magnitude(self) -> Tensor:
        """The largest magnitude of each output channel, (O)."""
        return torch.stack([scale for _, scale in self.terms]).sum(dim=0)

    @property
    def translated(self) -> Tensor:
        """The weights of the exported layer."""
        ones = (1,) * (self.value.ndim - 1)
        return torch.stack([signs * scale.reshape(-1, *ones) for signs, scale in self.terms]).sum(dim=0)

    @property
    def is_exact(self) -> bool:
        """Tell whether w is the sum of its terms to the bit."""
        return not bool(self.rounding.any())

    @property
    def error(self) -> Tensor:
        """Return what w is more than the weights of the exported layer."""
        return self.value - self.translated


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
    axes = found.value.ndim
    if axes < 2 or (transposed and axes > 2) or not found.value.is_floating_point():
        raise NotTranslated("its weights are no matrix of floats")
    value, largest = (each.T if transposed else each for each in (found.value, found.largest.double()))
    names = tuple(program.parameters_of(node))
    magnitudes = value.abs().flatten(1)
    if magnitudes.shape[1] == 1:
        raise NotTranslated("it has one weight for each output channel")
    parted = _two_of(magnitudes)
    is_two = bool((parted.of_each == magnitudes).all())
    three = None if is_two else _three_of(value)
    if (is_two or three) and _are_rounded_apart(program, node, magnitudes, largest, transposed=transposed):
        # What looks like few values may be one magnitude and its roundings.
        with suppress(NotTranslated):
            return _rounded(program, node, value, largest, names, transposed=transposed)
    if is_two:
        return _made(value, parted, torch.zeros_like(parted.high), names)
    if three:
        _check_taps(value, "three values")
        return _summed(value, three, torch.zeros_like(parted.high), names)
    # Roundings move a magnitude, and the one that it is compared with, this much; no float64 is needed to tell more.
    _check_spread(magnitudes, parted, 4 * ESTIMATOR_ROUNDINGS * ROUNDING * float(largest.max()))
    return _rounded(program, node, value, largest, names, transposed=transposed)


@dataclass(frozen=True)
class _Magnitudes:
    """Magnitudes (O, n) of which each output channel has two: `high` (O) where `is_high`, else `low`."""

    high: Tensor
    low: Tensor
    is_high: Tensor

    @property
    def of_each(self) -> Tensor:
        """The magnitude of each weight, (O, n)."""
        return torch.where(self.is_high, self.high[:, None], self.low[:, None])


def _two_of(magnitudes: Tensor) -> _Magnitudes:
    """Part the magnitudes (O, n) of each channel in the middle of the largest and the smallest."""
    high, low = magnitudes.amax(dim=1), magnitudes.amin(dim=1)
    return _Magnitudes(high, low, magnitudes >= ((high.double() + low.double()) / 2)[:, None])


def _check_spread(magnitudes: Tensor, found: _Magnitudes, allowed: float) -> None:
    """Refuse magnitudes (O, n) that are others than two in some channel by more than is allowed."""
    spread = (magnitudes - found.of_each).abs().amax(dim=1)
    if bool((spread <= allowed).all()):
        return
    channel = int((spread > allowed).int().argmax())
    low, high = float(magnitudes[channel].min()), float(magnitudes[channel].max())
    reason = f"those of output channel {channel} have more than two magnitudes, from {low:.3g} to {high:.3g}"
    reason += ", and more than three values"
    raise NotTranslated(f"{FLOAT_WEIGHTS}: {reason}", BINARISE)


def _made(value: Tensor, found: _Magnitudes, rounding: Tensor, names: tuple[str, ...]) -> Weights:
    """Return the weights of these magnitudes; those of one are no sum."""
    signs, high, low = _signs(value), found.high.double(), found.low.double()
    if bool((high == low).all()):
        return Weights(((signs, found.high.float()),), rounding, value, names)
    _check_taps(value, "two magnitudes")
    second = torch.where(found.is_high.reshape(value.shape), signs, -signs)
    return _summed(value, ((signs, (high + low) / 2), (second, (high - low) / 2)), rounding, names)


def _three_of(value: Tensor) -> tuple[tuple[Tensor, Tensor], ...] | None:
    """Return signs and scales (O) float64 of weights of at most three values in each output channel; None of others."""
    flat = value.double().flatten(1)
    high, low = flat.amax(dim=1, keepdim=True), flat.amin(dim=1, keepdim=True)
    is_high, is_low = flat == high, flat == low
    middle = flat.masked_fill(is_high | is_low, -torch.inf).amax(dim=1, keepdim=True)
    middle = torch.where(middle.isinf(), low, middle)
    if not bool((is_high | is_low | (flat == middle)).all()):
        return None
    added = (high + low)[:, 0] / 2
    last = torch.where(added < 0, -1.0, 1.0).float()[:, None].expand(flat.shape)
    first, second = torch.where(is_high, 1.0, -1.0), torch.where(is_low & ~is_high, -1.0, 1.0)
    signs = (each.reshape(value.shape) for each in (first, second, last))
    scales = (high - middle)[:, 0] / 2, (middle - low)[:, 0] / 2, added.abs()
    return tuple(zip(signs, scales, strict=True))


def _check_taps(value: Tensor, what: str) -> None:
    """Refuse to see binary weights in a few float ones."""
    if value[0].numel() < FEWEST_TAPS:
        count = value[0].numel()
        raise NotTranslated(f"{FLOAT_WEIGHTS}: {what} say nothing of {count} for each output channel", BINARISE)


def _summed(
    value: Tensor, terms: tuple[tuple[Tensor, Tensor], ...], rounding: Tensor, names: tuple[str, ...]
) -> Weights:
    """Return weights of several terms, whose scales are float64 and are rounded: half of a sum may be no float."""
    made = Weights(tuple((signs, scale.float()) for signs, scale in terms), rounding, value, names)
    rounded = made.error.abs().flatten(1).amax(dim=1)
    return replace(made, rounding=torch.maximum(rounding, 2 * rounded))


FEWEST_TAPS = 4
"""Of fewer float weights in an output channel, two magnitudes or three values say nothing."""


def _are_rounded_apart(program: Program, node: Node, magnitudes: Tensor, largest: Tensor, *, transposed: bool) -> bool:
    """Tell whether magnitudes (O, n) of one channel differ by their roundings alone: in float64 they are one."""
    ordered, order = magnitudes.sort(dim=1)
    differ = ordered[:, 1:] != ordered[:, :-1]
    if not bool(differ.any()):
        return False
    precise = _precise_magnitudes(program, node, transposed=transposed)
    if torch.equal(precise, magnitudes.double()):
        return False
    gaps = precise.gather(1, order).diff(dim=1).abs()
    return bool((differ & (gaps <= ALIKE * largest.max())).any())


def _precise_magnitudes(program: Program, node: Node, *, transposed: bool) -> Tensor:
    """Return the magnitudes (O, n) of weights as float64 gives them."""
    precise = program.constant(node, torch.float64).value
    return (precise.T if transposed else precise).abs().flatten(1)


def _rounded(
    program: Program, node: Node, value: Tensor, largest: Tensor, names: tuple[str, ...], *, transposed: bool
) -> Weights:
    """Read weights that a gradient written by hand, such as `binary.detach() - w.detach() + w`, has rounded.

    In float64 what the rounding leaves of their magnitudes is 2^-29 as much, and they are told from float weights.
    """
    magnitudes, alike = _precise_magnitudes(program, node, transposed=transposed), ALIKE * largest.max()
    found = _two_of(magnitudes)
    apart = found.high - found.low > alike
    high, low = (
        magnitudes.masked_fill(mask, torch.nan).nanmedian(dim=1).values
        for mask in (~found.is_high & apart[:, None], found.is_high & apart[:, None])
    )
    low = torch.where(apart, low.masked_fill(low <= alike, 0.0), high)
    found = _Magnitudes(high, low, found.is_high)
    _check_spread(magnitudes, found, float(alike))
    rounding = (ESTIMATOR_ROUNDINGS * ROUNDING * largest).flatten(1).amax(dim=1).float()
    made = _made(value, found, rounding, names)
    difference = made.error.abs().flatten(1).amax(dim=1)
    if not bool((difference <= made.rounding).all()) or bool((made.rounding > 2 * rounding).any()):
        raise NotTranslated(f"its weights differ from their magnitudes by up to {difference.max():.3g}")
    return made


def _signs(value: Tensor) -> Tensor:
    return torch.where(value < 0, -1.0, 1.0)
