"""The width of a layer as a logistic variable, and the three candidates that stand for it (DMS, 2.2 to 2.4).

A width is a ratio r times the channels of the base network, r ~ Logistic(mu, sigma), with

    F(x) = 1 / (1 + exp(-(x - mu) / sigma))            f = F' = F (1 - F) / sigma

(Eq. 4 as printed has the other sign in the exponent, 1 - F, and its differences would be negative.) Three candidates
stand for all ratios, mu - 0.8 sigma, mu and mu + 0.8 sigma, each for the interval of half-width 0.4 sigma around it.
Neighbours touch, so with the edges a < b < c < d of the three intervals (the numerator of Eq. 5 is printed as 0)

    p_i = (F(b_i) - F(a_i)) / (F(d) - F(a))

**The gradient to mu.** Would the candidates move with mu, every (x - mu) / sigma would be a number, p would be
(0.3162, 0.3675, 0.3162) whatever mu is, and nothing could be learned. So the candidates are held where they are: at
`centre`, which is mu at the start of a round. Then dF(x)/dmu = -f(x), and

    dp_i/dmu = (f(a_i) - f(b_i) + p_i (f(d) - f(a))) / (F(d) - F(a))

At mu = centre, f(a) = f(d) by symmetry, and dp/dmu = (-0.1161, 0, +0.1161) / sigma: mu moves to the side of the
candidate that the loss likes. After a round the candidates follow mu.

That is so where a network is needed, which has weights for the candidates that it was built with. The cost of any width
is known. So the penalty is of candidates that move with mu. E[w] of fixed ones would move only 2 * 0.8 * 0.1161 = 0.19
times as fast as mu; mu would go five times too far before the penalty shows it.

**Edges.** No candidate is below the ratio 0.3, and no interval reaches below 0.25. Where that moves the candidates
together, the edge between two is their middle; of candidates that were not moved that is the same edge.
"""

import torch
from torch import Tensor, nn

CANDIDATES = 3
SPREAD = 0.8
"""Distance of neighbouring candidates, in sigma."""

LEAST_RATIO = 0.3
LEAST_EDGE = 0.25

_LEAST_PROBABILITY = 1e-12  # where mu has left its candidates far behind, and a logarithm is taken


def candidate_ratios(centre: Tensor, sigma: float) -> Tensor:
    """Return the candidates of each width, ascending: (widths) to (widths, 3)."""
    steps = torch.tensor((-1.0, 0.0, 1.0), dtype=centre.dtype, device=centre.device)
    return (centre[:, None] + SPREAD * sigma * steps).clamp_min(LEAST_RATIO)


def interval_edges(ratios: Tensor, sigma: float) -> Tensor:
    """Return the edges of the intervals that candidates stand for, ascending: (widths, 3) to (widths, 4)."""
    reach = SPREAD / 2 * sigma
    lowest = (ratios[:, :1] - reach).clamp_min(LEAST_EDGE)
    middles = (ratios[:, 1:] + ratios[:, :-1]) / 2
    return torch.cat([lowest, middles, ratios[:, -1:] + reach], dim=1)


def probabilities(mu: Tensor, edges: Tensor, sigma: float) -> Tensor:
    """Return p of each candidate, (widths, 3), differentiable in mu (widths); `edges` (widths, 4) are held fixed."""
    below = torch.sigmoid((edges - mu[:, None]) / sigma)
    parts = below.diff(dim=1).clamp_min(_LEAST_PROBABILITY)
    return parts / parts.sum(dim=1, keepdim=True)


def gumbel_softmax(p: Tensor, temperature: float, random: torch.Generator) -> Tensor:
    """Return relaxed samples pi of probabilities (widths, 3), of the same shape, without straight-through (Eq. 6).

    The noise depends on `random` only.
    """
    uniform = torch.rand(p.shape, dtype=torch.float64, generator=random).to(p.device)
    noise = -(-uniform.clamp_min(1e-30).log()).log()
    return ((p.log() + noise.to(p.dtype)) / temperature).softmax(dim=1)


class WidthDistribution(nn.Module):
    """The logistic variables of all widths of a network.

    Args:
        widths: how many there are.
        first_ratio: mu of each at the start.
        sigma: of all of them.

    Attributes:
        mu: (widths) float64, what is learned.
        centre: (widths) float64, mu at the start of the round, around which the candidates lie.
    """

    def __init__(self, widths: int, first_ratio: float, sigma: float) -> None:
        super().__init__()
        start = torch.full((widths,), first_ratio, dtype=torch.float64)
        self.mu = nn.Parameter(start)
        self.centre: Tensor
        self.sigma_now: Tensor
        self.register_buffer("centre", start.clone())
        self.register_buffer("sigma_now", torch.tensor(sigma, dtype=torch.float64))

    @property
    def sigma(self) -> float:
        """Return sigma of this round."""
        return float(self.sigma_now)

    @property
    def ratios(self) -> Tensor:
        """Return the candidates of this round, (widths, 3)."""
        return candidate_ratios(self.centre, self.sigma)

    def follow(self, sigma: float) -> None:
        """Begin a round: put the candidates around mu as it is, with another sigma."""
        self.centre.copy_(self.mu.detach())
        self.sigma_now.fill_(sigma)

    def keep_in_space(self) -> None:
        """Put every mu that is below the least ratio back on it; upwards there is no bound."""
        with torch.no_grad():
            self.mu.clamp_min_(LEAST_RATIO)

    def moving(self, base: Tensor) -> tuple[Tensor, Tensor]:
        """Return the channels of candidates around mu as it is, and their probabilities, both (widths, 3).

        They are differentiable in mu, and channels are not rounded; `base` (widths) float64 are those of the ratio 1.
        """
        ratios = candidate_ratios(self.mu, self.sigma)
        return ratios * base[:, None], probabilities(self.mu, interval_edges(ratios, self.sigma), self.sigma)

    def forward(self) -> Tensor:
        """Return the probabilities of the candidates, (widths, 3), differentiable in mu."""
        return probabilities(self.mu, interval_edges(self.ratios, self.sigma), self.sigma)
