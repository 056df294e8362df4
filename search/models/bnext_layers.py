"""The layers of BNext's blocks, which gate what a convolution gives by a mixture of that and of what it read."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bnas_deploy.search.models.backbone_layers import Layers, Repeated, halving_mean

_REDUCTION = 8


class Recoupling(nn.Module):
    """y times a gate that sees both y and x: (N, C, H, W) each to the same.

    gate = sigmoid(W2 relu(W1 mean(s x + (1 - s) y) + b1) + b2), with the mean over the pixels and a share s of each
    channel, from 0 to 1 ("info-recoupling" of the paper, Guo et al. 2022).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _REDUCTION)
        self.share = nn.Parameter(torch.full((channels, 1, 1), 0.5))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the product."""
        share = self.share.clamp(0, 1)
        gated: Tensor = self.gate(share * x + (1 - share) * y) * y
        return gated


class BNextUnit(nn.Module):
    """norm(gate(branch(x)) [* shortcut]) + shortcut, (N, C, H, W) to (N, O, OH, OW).

    The branch is convolution -> BN -> PReLU. The shortcut is x; where the unit multiplies by it, PReLU(x), which is
    the "element-wise attention" of the paper. A stride of 2 halves it by a mean, other widths repeat its channels.
    """

    def __init__(
        self, layers: Layers, before: int, channels: int, kernel_size: int, stride: int = 1, *, multiplies: bool
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *layers.normalised(before, channels, kernel_size, stride), layers.activation(channels)
        )
        self.smaller = halving_mean() if stride == 2 else nn.Identity()
        self.wider = nn.Identity() if channels == before else Repeated(channels)
        self.recoupling = Recoupling(channels)
        self.factor = nn.PReLU(before) if multiplies else None
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        y = self.recoupling(self.branch(x), self.wider(self.smaller(x)))
        if self.factor is not None:
            shortcut: Tensor = self.wider(self.smaller(self.factor(x)))
            y = y * shortcut
        else:
            shortcut = self.wider(self.smaller(x))
        total: Tensor = self.norm(y) + shortcut
        return total


class SideBySide(nn.Module):
    """The channels of several branches that read the same, one behind another: (N, C, H, W) to (N, O, H, W)."""

    def __init__(self, branches: Iterable[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Return them."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)
