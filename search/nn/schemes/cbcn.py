"""CBCN (Liu et al., CVPR 2019): circulant filters, each of which is learned once and used in several rotations.

Faithful: a learned 3x3 filter is turned by 360/M degrees M - 1 times, by moving its border around its centre, and all M
are binarised. The gradient of the learned one is the sum of all, turned back, which autograd does (circulant back
propagation). Exported are ordinary 1-bit weights.
Other than the paper: it repeats the channels of the input in front, and adds the center loss. Here the network decides
on the layers around, and there is no such loss. Chosen here: M = 4, and the scale of XNOR-Net.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnas_deploy.search.nn.estimators import sign_weight, weight_scale
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.scheme import Binarised, Learned, Scheme

_BORDER = (0, 1, 2, 5, 8, 7, 6, 3)
"""The taps of a 3x3 filter around its centre, clockwise, each by its number in rows."""

_KERNEL = (3, 3)


@dataclass(frozen=True)
class Cbcn(Scheme):
    """Weights beta sign(W), where every M output channels are rotations of one filter.

    Attributes:
        rotations: M, which divides 8.
    """

    rotations: int = 4

    @property
    def output_multiple(self) -> int:
        """Return M."""
        return self.rotations

    def excludes(self, geometry: Geometry) -> str | None:
        """Exclude kernels that cannot be turned, and channels that are no multiple of the rotations."""
        if geometry.kernel_size != _KERNEL:
            height, width = geometry.kernel_size
            return f"a circulant filter has 3x3 taps, and this one {height}x{width}"
        if geometry.out_channels % self.rotations:
            return f"{geometry.out_channels} output channels are no multiple of {self.rotations} rotations"
        return super().excludes(geometry)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return that of the filters that are learned."""
        return (shape[0] // self.rotations, *shape[1:])

    def turned(self, weight: Tensor) -> Tensor:
        """Return all rotations of filters (O/M, C/groups, 3, 3), those of one filter after each other, (O, ...)."""
        index = torch.tensor([_turn(step * len(_BORDER) // self.rotations) for step in range(self.rotations)])
        rotations = weight.flatten(2)[:, :, index.to(weight.device)]  # (O/M, C/groups, M, 9)
        return rotations.transpose(1, 2).reshape(-1, weight.shape[1], *_KERNEL)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return the signs of all rotations, and beta of each."""
        turned = self.turned(weight)
        return Binarised(sign_weight(turned), weight_scale(turned))

    def real_weights(self, weight: Tensor, learned: Learned) -> Binarised:
        """Return all rotations."""
        return super().real_weights(self.turned(weight), learned)


def _turn(steps: int) -> list[int]:
    """Return which tap stands at each of the 9 after the border was moved clockwise by some steps."""
    taps = list(range(9))
    for place, tap in enumerate(_BORDER):
        taps[_BORDER[(place + steps) % len(_BORDER)]] = tap
    return taps


SCHEME = Cbcn()
