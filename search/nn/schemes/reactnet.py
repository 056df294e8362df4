"""ReActNet (Liu et al. 2020): signs around learned thresholds (RSign), and a PReLU between two learned shifts (RPReLU).

Code: github.com/liuzechun/ReActNet at 8f50116, mobilenet/2_step2/reactnet.py.

Faithful: RSign with the gradient of ApproxSign, RPReLU, weights as in Bi-Real Net. The threshold is
the paper's, so the code's bias with the other sign. The distributional loss is `loss.distillation` of a recipe: the
network learns the answers of the stage before, where the paper's teacher is a ResNet-34 of others. The paper leaves the
initialisation open; the code has thresholds and shifts at 0 and slopes at 0.25, and so has this.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bnas_deploy.search.nn.estimators import approximate_sign
from bnas_deploy.search.nn.scheme import Exported, Learned
from bnas_deploy.search.nn.schemes.bi_real import BiReal


class RPReLU(nn.Module):
    """PReLU(x - gamma) + zeta with a slope, a gamma and a zeta per channel: (N, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift_in = nn.Parameter(torch.zeros(channels, 1, 1))
        self.prelu = nn.PReLU(channels)
        self.shift_out = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return it."""
        y: Tensor = self.prelu(x - self.shift_in) + self.shift_out
        return y


@dataclass(frozen=True)
class ReActNet(BiReal):
    """sign(x - a), a parameter `level` (C) that starts as zeros."""

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return the thresholds."""
        return {"level": weight.new_zeros(channels_in)}

    def activation(self, channels: int) -> nn.Module:
        """Return an RPReLU."""
        return RPReLU(channels)

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return sign(x - a)."""
        return approximate_sign(x - learned["level"][:, None, None])

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Return the thresholds too: by gradual underflow x - a is 0 only where x is a, so x - a >= 0 is x >= a."""
        return replace(super().exported(weight, learned, channels_in), threshold=learned["level"].detach().float())


SCHEME = ReActNet()
