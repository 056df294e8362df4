"""A binary input layer: the numbers of an image become signs, as many for each as a thermometer has marks."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bnas_deploy.search.nn.estimators import sign_activation
from bnas_deploy.search.nn.float_twin import Composite
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import Exported, Learned, Scheme


@dataclass(frozen=True)
class Marks(Scheme):
    """Channel c, k of x is +1 from mark k on: `count` marks divide `low` to `high` evenly, and stay as they are.

    Attributes:
        count: marks of each channel of an image.
        low, high: the range of the image's numbers.
    """

    count: int = 32
    low: float = -2.0
    high: float = 2.0

    def _levels(self, channels_in: int) -> Tensor:
        """Return the mark of each channel, (C)."""
        step = (self.high - self.low) / self.count
        marks = self.low + step * (torch.arange(self.count) + 0.5)
        return marks.repeat(channels_in // self.count)

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return S, ±1."""
        return sign_activation(x - self._levels(x.shape[1]).to(x)[:, None, None])

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Return the marks as thresholds; x minus one of them is 0 only where they are equal."""
        return replace(super().exported(weight, learned, channels_in), threshold=self._levels(channels_in))


class ThermometerConv2d(Composite):
    """A binary convolution of an image in thermometer code: (N, C, H, W) float to (N, O, OH, OW).

    Args:
        geometry: of the convolution of the image.
        marks: of the code.
    """

    def __init__(self, geometry: Geometry, marks: Marks) -> None:
        super().__init__()
        self.conv = BinaryConv2d.of(replace(geometry, in_channels=marks.count * geometry.in_channels), marks)
        self.count = marks.count
        each = torch.arange(geometry.in_channels).repeat_interleave(marks.count)
        self.register_buffer("channels", each, persistent=False)
        self.channels: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return it."""
        y: Tensor = self.conv(x.index_select(1, self.channels))
        return y

    def real_weight(self) -> Tensor:
        """Return the sum over the marks of a channel: a float convolution reads each channel once."""
        weight = self.conv.real_weight()
        return weight.reshape(len(weight), -1, self.count, *weight.shape[2:]).sum(dim=2)

    def latent(self, weight: Tensor) -> dict[str, Tensor]:
        """Return an equal share of it for each mark."""
        return {"conv.weight": (weight / self.count).repeat_interleave(self.count, dim=1)}
