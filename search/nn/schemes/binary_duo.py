"""BinaryDuo (Kim et al., ICLR 2020): a network of ternary activations, each of which is then two binary ones.

Code: github.com/Hyungjun-K1m/BinaryDuo at 291e2c1, models/*_coupled.lua, *_decoupled.lua and newLayers.

A ternary activation of 0, 1/2 and 1 is the mean of two binary ones, x >= 1/4 and x >= 3/4. Both read the same channel
and have the same weight: they are coupled. Decoupled, each has a weight and a threshold of its own.
Faithful: thresholds, activations with the gradient of clip(x, 0, 1), weights sign(W) times the mean |W| of the layer
with a gradient that passes. The decoupled layer has twice the input channels, as in the code.
Other than the paper: one run trains both. While it is coupled, both halves use the mean of their weights and shifts; as
they begin alike and get the same gradients, they stay alike. The code decouples the BN in front as well; here a shift
of each threshold is learned in its place. That networks get narrower, so that the number of weights stays, is a choice
of their widths.
The paper leaves open when to decouple within one run; here at half of the epochs.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from bnas_deploy.search.nn.estimators import step_in_window
from bnas_deploy.search.nn.float_twin import Composite
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import (
    Binarised,
    Exported,
    Learned,
    Scheme,
    zero_one_exported,
)
from bnas_deploy.search.nn.schemes.dorefa import DoReFa, passing_weights

_THRESHOLDS = (0.25, 0.75)


class DuplicatedConv2d(Composite):
    """A binary convolution of an input that stands there twice: (N, C, H, W) to (N, O, OH, OW)."""

    def __init__(self, conv: BinaryConv2d) -> None:
        super().__init__()
        self.conv = conv
        first, second = conv.weight.chunk(2, dim=1)
        with torch.no_grad():
            second.copy_(first)

    def forward(self, x: Tensor) -> Tensor:
        """Return it."""
        y: Tensor = self.conv(torch.cat([x, x], dim=1))
        return y

    def real_weight(self) -> Tensor:
        """Return the sum of both halves: both would read the same float channel."""
        first, second = self.conv.real_weight().chunk(2, dim=1)
        return first + second

    def latent(self, weight: Tensor) -> dict[str, Tensor]:
        """Return half of it for each half."""
        return {"conv.weight": torch.cat([weight / 2, weight / 2], dim=1)}


@dataclass(frozen=True)
class Halves(Scheme):
    """Activations [x - shift >= 1/4] in the first half of the channels, [x - shift >= 3/4] in the second; 0 or 1.

    Attributes:
        decoupled_from: the share of the epochs at which the halves become two.
        coupled: whether they are one.
    """

    decoupled_from: float = 0.5
    coupled: bool = False

    def at(self, progress: float) -> Self:
        """Return the scheme coupled before its share of the epochs, and not from there on."""
        return replace(self, coupled=progress < self.decoupled_from)

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return the shifts of all thresholds."""
        return {"shift": weight.new_zeros(channels_in)}

    def _together(self, halves: Tensor, dim: int) -> Tensor:
        """Return the mean of both halves in the place of each, while they are coupled; equal ones stay as they are."""
        if not self.coupled:
            return halves
        first, second = halves.chunk(2, dim)
        mean = (first + second) / 2
        return torch.cat([mean, mean], dim)

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return 0 or 1; the gradient is that of clip(x - shift, 0, 1)."""
        shift = self._together(learned["shift"], 0)
        threshold = _thresholds(shift)
        window = threshold[:, None, None]
        return step_in_window(x - (shift + threshold)[:, None, None], -window, 1 - window, below=0.0)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W) and one scale for all channels."""
        return passing_weights(self._together(weight, 1))

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Return the shifted thresholds; x minus one of them is 0 only where they are equal."""
        shift = learned["shift"].detach()
        return zero_one_exported(self.weights(weight, learned), shift + _thresholds(shift))


def _thresholds(like: Tensor) -> Tensor:
    """Return the threshold of each channel before its shift, for as many channels (2C) as `like` has."""
    return torch.cat([like.new_full((len(like) // 2,), threshold) for threshold in _THRESHOLDS])


@dataclass(frozen=True)
class BinaryDuo(DoReFa):
    """A convolution of `Halves`; a single layer, such as a dense one, has one threshold, as DoReFa-Net.

    Attributes:
        decoupled_from: the share of the epochs at which the halves become two.
    """

    decoupled_from: float = 0.5

    def excludes(self, geometry: Geometry) -> str | None:
        """Exclude groups, since both halves have to meet in every filter."""
        if geometry.groups > 1:
            return "both halves of a BinaryDuo layer have to meet in every filter, so it needs groups=1"
        return super().excludes(geometry)

    def build(self, geometry: Geometry, *, bias: bool) -> nn.Module:
        """Return a binary convolution of twice the channels."""
        twice = replace(geometry, in_channels=2 * geometry.in_channels)
        halves = Halves(decoupled_from=self.decoupled_from)
        return DuplicatedConv2d(BinaryConv2d.of(twice, halves, bias=bias))


SCHEME = BinaryDuo()
