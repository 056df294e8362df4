"""Branches of a network that are left out at random while it is trained (drop path, or stochastic depth)."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zeros in the place of a branch, with a probability of their own for each image; the identity at evaluation.

    Kept images are divided by their probability of being kept, so that the mean stays.

    Attributes:
        probability: of being left out, at least 0 and below 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.probability = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Map a branch (N, C, H, W) to the same shape."""
        if not self.training or self.probability == 0:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.probability
        return x * (kept / (1 - self.probability)).to(x.dtype)

    def extra_repr(self) -> str:
        """Return the probability, for `print(layer)`."""
        return f"probability={self.probability}"


def set_drop_path(network: nn.Module, probability: float) -> int:
    """Give every `DropPath` of a network its probability; return how many there are."""
    places = [module for module in network.modules() if isinstance(module, DropPath)]
    for place in places:
        place.probability = probability
    return len(places)
