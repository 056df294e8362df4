"""How alphas become the weights with which an edge mixes its operations.

A strategy is a small class; the supernet, the bilevel loop and the derivation are the same for all.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from bnas_deploy.search.cells.config import SearchConfig


class Strategy(ABC):
    """Maps alphas (edges, operations) to mixing weights of the same shape."""

    single = False
    """Whether exactly one operation of each edge has a weight other than 0, so that the others need not run."""

    @abstractmethod
    def mix(self, alphas: Tensor, progress: float, random: torch.Generator | None) -> Tensor:
        """Return the mixing weights.

        Args:
            alphas: (edges, operations).
            progress: the share of the search that is done, 0 to 1.
            random: where a strategy that samples takes its noise from; None: without noise, for evaluation.
        """


class Softmax(Strategy):
    """DARTS: w = softmax(alpha). BNAS is the same with another objective."""

    def mix(self, alphas: Tensor, progress: float, random: torch.Generator | None) -> Tensor:
        """Return the softmax; nothing is sampled."""
        return alphas.softmax(dim=1)


@dataclass(frozen=True)
class GumbelSoftmax(Strategy):
    """SNAS: w = softmax((log p + g) / T) with p = softmax(alpha), g Gumbel noise and T falling along a line.

    log p differs from alpha by a constant per edge, which a softmax does not see.
    """

    first_temperature: float
    last_temperature: float

    def mix(self, alphas: Tensor, progress: float, random: torch.Generator | None) -> Tensor:
        """Return the relaxed sample."""
        temperature = self.first_temperature + progress * (self.last_temperature - self.first_temperature)
        noise = _gumbel(alphas, random) if random else 0.0
        return ((alphas + noise) / temperature).softmax(dim=1)


class HardGumbelSoftmax(GumbelSoftmax):
    """GDAS: the sample is made one-hot, and its gradient is that of the relaxed one; only what was sampled runs."""

    single = True

    def mix(self, alphas: Tensor, progress: float, random: torch.Generator | None) -> Tensor:
        """Return zeros and one 1 per edge."""
        soft = super().mix(alphas, progress, random)
        one_hot = torch.zeros_like(soft).scatter(1, soft.argmax(dim=1, keepdim=True), 1.0)
        return (soft - soft.detach()) + one_hot  # in this order what is not chosen is exactly 0


def _gumbel(like: Tensor, random: torch.Generator) -> Tensor:
    """Return -log(-log U); drawn on the CPU, so that it is the same on every device."""
    uniform = torch.rand(like.shape, generator=random, dtype=torch.float64)
    return (-torch.log(-torch.log(uniform.clamp_min(1e-300)))).to(like)


def build_strategy(config: SearchConfig) -> Strategy:
    """Return the strategy that a configuration names."""
    temperatures = config.first_temperature, config.last_temperature
    strategies: dict[str, Strategy] = {
        "bnas": Softmax(),
        "darts": Softmax(),
        "snas": GumbelSoftmax(*temperatures),
        "gdas": HardGumbelSoftmax(*temperatures),
    }
    return strategies[config.strategy]
