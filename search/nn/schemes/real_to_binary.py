"""Real-to-Binary (Martinez et al. 2020): each channel is scaled by a gate that sees the real input.

Code: larq_zoo/literature/real_to_bin_nets.py at 77c5853 of github.com/larq/zoo, by readers of the paper; its authors
gave none.

Faithful: signs with the clipped gradient on both sides; PReLU behind the BN; the gate, mean over the image -> C/8 ->
ReLU -> O -> sigmoid, without bias. The gate reads the input of the signs. Attention and distillation are
`loss.attention` and `loss.distillation` of a recipe, the stages those of `multi-stage`. The paper leaves open whether
the gate stands beside a learned scale; as in larq, it stands alone.
The convolution, its signs and the product are one operator; the gate is computed in float beside it.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from bnas_deploy.search.nn.float_twin import Composite
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import Scheme

_REDUCTION = 8  # the paper's and larq's r


class GatedConv2d(Composite):
    """conv(x) * gate(x) [+ bias]: (N, C, H, W) to (N, O, OH, OW), the gate a number for each image and channel."""

    def __init__(self, conv: BinaryConv2d, *, bias: bool) -> None:
        super().__init__()
        self.conv = conv
        hidden = max(1, conv.in_channels // _REDUCTION)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(conv.in_channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, conv.out_channels, bias=False),
            nn.Sigmoid(),
        )
        self.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return it."""
        y: Tensor = self.conv(x) * self.gate(x)[:, :, None, None]
        return y if self.bias is None else y + self.bias[:, None, None]

    def real_weight(self) -> Tensor:
        """Return that of the convolution."""
        return self.conv.real_weight()

    def latent(self, weight: Tensor) -> dict[str, Tensor]:
        """Return it for the convolution."""
        return {"conv.weight": weight}


@dataclass(frozen=True)
class RealToBinary(Scheme):
    """sign(x) convolved with sign(W), times a gate."""

    def build(self, geometry: Geometry, *, bias: bool) -> nn.Module:
        """Return a binary convolution and its gate."""
        return GatedConv2d(BinaryConv2d.of(geometry, self), bias=bias)

    def activation(self, channels: int) -> nn.Module:
        """Return a PReLU with a slope per channel."""
        return nn.PReLU(channels)


SCHEME = RealToBinary()
