"""What the alphas descend beside the cross-entropy: terms that are added to it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bnas_deploy.core.history import Tables


@dataclass(frozen=True, eq=False)
class Probabilities:
    """The softmax of the alphas of both cells, (edges, operations) each; rows in the order of `space.EDGES`."""

    normal: Tensor
    reduction: Tensor


class Objective(Protocol):
    """A term of the search objective."""

    def __call__(self, probabilities: Probabilities, epoch: int, cross_entropy: Tensor) -> Tensor:
        """Return a scalar that is added to the cross-entropy; `epoch` counts from 0.

        `cross_entropy` is that of the step, a scalar without a gradient, for terms that are measured against it.
        """

    def settings(self) -> Mapping[str, Any]:
        """Return what must be the same for a search to be resumed, as JSON holds it."""


@dataclass(frozen=True)
class Diversity:
    """-weight * H(p) * exp(-epoch / time_constant), the diversity regulariser (BNAS v2, Eq. 6).

    Attributes:
        weight: lambda.
        time_constant: tau, in epochs.
        stale_index: the deviation "stale-entropy-index", see `bnas_deploy.search.cells.config`.
    """

    weight: float
    time_constant: float
    stale_index: bool = False

    def __call__(self, probabilities: Probabilities, epoch: int, cross_entropy: Tensor) -> Tensor:
        """Return the term; `epoch` is t, the cross-entropy does not matter."""
        reduction = probabilities.reduction
        if self.stale_index:
            reduction = reduction[-1:].expand_as(reduction)
        entropy = mean_entropy(Probabilities(probabilities.normal, reduction))
        return -self.weight * math.exp(-epoch / self.time_constant) * entropy

    def settings(self) -> Mapping[str, Any]:
        """Return all fields."""
        return asdict(self)


def mean_entropy(probabilities: Probabilities) -> Tensor:
    """Return the entropy of an edge's operations, natural logarithm, mean over the edges of both cells.

    An operation that has got the probability 0 adds nothing, as the limit of p log p.
    """
    both = torch.cat([probabilities.normal, probabilities.reduction])
    entropies: Tensor = torch.special.entr(both).sum(dim=1)
    return entropies.mean()


def learnable_share(tables: Tables, learnable: tuple[bool, ...]) -> tuple[float, float]:
    """Return the share of edges whose most probable operation has weights, and the mean probability of those."""
    rows = tables.normal + tables.reduction
    share = sum(learnable[row.index(max(row))] for row in rows) / len(rows)
    mass = sum(p for row in rows for p, has_weights in zip(row, learnable, strict=True) if has_weights) / len(rows)
    return share, mass
