"""What the network of some widths costs, for sure and in expectation: the memory of its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from bnas_deploy.core.counting.rules import RULES
from bnas_deploy.search.models.width_layout import Channels, Layer, Layout

RULE = RULES["dms"]
"""How the memory is counted."""

_LARGEST_RATIO = 2.0**20  # where looking for a uniform network ends


class Cost(Protocol):
    """What a search for widths lowers, in the unit of its goal."""

    def of(self, widths: Sequence[int]) -> float:
        """Return the cost of the network of some widths."""

    def expected(self, channels: Tensor, p: Tensor) -> Tensor:
        """Return the expectation over candidates of some channels, and of probabilities p, both float64 (widths, 3).

        It is a number, differentiable in both; channels need not be whole, and widths are independent of each other.
        """

    def settings(self) -> Mapping[str, Any]:
        """Return what must be the same for a search to go on."""


class Memory:
    """The MB of all weights, as `RULE` counts them.

    The weights of a layer are a product of two sums of widths, the channels that it writes and those that one of them
    reads. With the means m and variances v of the widths

        E[out * fan] = E[out] E[fan] + sum over widths of share_out * share_fan * v

    so the second term is there only where a layer reads and writes the same width.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def of(self, widths: Sequence[int]) -> float:
        """Return the MB of the network of some widths."""
        return sum(_mb(layer, layer.out.at(widths) * layer.fan.at(widths)) for layer in self.layout.layers)

    def expected(self, channels: Tensor, p: Tensor) -> Tensor:
        """Return the expected MB."""
        means = (p * channels).sum(dim=1)
        variances = (p * (channels - means[:, None]) ** 2).sum(dim=1)
        total = means.new_zeros(())
        for layer in self.layout.layers:
            weights = _sum(layer.out, means) * _sum(layer.fan, means)
            for i in set(layer.out.of_widths) & set(layer.fan.of_widths):
                weights = weights + layer.out.shares[i] * layer.fan.shares[i] * variances[i]
            total = total + _mb(layer, 1) * weights
        return total

    def settings(self) -> Mapping[str, Any]:
        """Return nothing: memory depends on the network alone."""
        return {}


def _mb(layer: Layer, weights: float) -> float:
    """Return the MB of so many kernels of a layer."""
    kernel = replace(layer.cost, input=(1, 1, 1), output=(1, 1, 1), groups=1)
    return RULE.megabytes(RULE.bits_of(kernel) * weights)


def _sum(channels: Channels, means: Tensor) -> Tensor:
    total = means.new_tensor(channels.constant)
    for i in channels.of_widths:
        total = total + channels.shares[i] * means[i]
    return total


def uniform_widths(cost: Cost, layout: Layout, value: float) -> tuple[int, ...]:
    """Return the channels of the network of one ratio for all widths whose cost is nearest to `value`.

    Widths are whole, and multiples of what groups divide, so the cost goes in steps. Of the two networks beside a step
    it is the nearer one; of two that are as near, the smaller.
    """

    def at(ratio: float) -> tuple[int, ...]:
        return layout.channels([ratio] * len(layout.multiples))

    low, high = 0.0, 1.0
    while cost.of(at(high)) < value and high < _LARGEST_RATIO:
        high *= 2
    for _ in range(40):  # then they differ by less than a channel of any network
        middle = (low + high) / 2
        low, high = (middle, high) if cost.of(at(middle)) < value else (low, middle)
    return min(at(low), at(high), key=lambda widths: abs(cost.of(widths) - value))
