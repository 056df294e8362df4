"""PCNN (Gu et al., AAAI 2019): kernels are projected onto two numbers through a learned matrix.

Faithful: the projection of W o C onto {-a, +a}, a the mean |C| of the layer, where W has the size of a kernel and is
the same for all channels. Its gradient passes to W and to C where |W o C| <= 1 (discrete back propagation via
projection). The projection loss is lambda/2 |C^ - W o C|^2 with C^ held, lambda 1e-4 as for the authors' pictures of
weights. With J projections, every J output channels have one kernel C.
Left out: the term eta delta in the projection loss, which would contain the gradient of this very step. Also left out:
the mean of W in the forward pass, from the authors' later book ("Binary Neural Networks", section 3.5). Left open, as
far as we know: how W begins. Here the first is ones, and further ones are normal: alike, they would stay alike. The
default is one projection.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnas_deploy.search.nn.estimators import sign_weight
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.scheme import Binarised, Learned, Scheme


@dataclass(frozen=True)
class Pcnn(Scheme):
    """Weights a sign(W o C), a parameter `projection` (J, KH, KW).

    Attributes:
        projections: J.
        loss_weight: lambda.
    """

    projections: int = 1
    loss_weight: float = 1e-4

    @property
    def output_multiple(self) -> int:
        """Return J."""
        return self.projections

    def excludes(self, geometry: Geometry) -> str | None:
        """Exclude channels that are no multiple of the projections."""
        if geometry.out_channels % self.projections:
            return f"{geometry.out_channels} output channels are no multiple of {self.projections} projections"
        return super().excludes(geometry)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return that of the kernels C."""
        return (shape[0] // self.projections, *shape[1:])

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return the projections."""
        first = weight.new_ones(1, *weight.shape[2:])
        return {"projection": torch.cat([first, torch.randn_like(first.expand(self.projections - 1, -1, -1))])}

    def projected(self, weight: Tensor, learned: Learned) -> Tensor:
        """Return W o C of all projections, those of one kernel after each other, (O, C/groups, KH, KW)."""
        return (weight[:, None] * learned["projection"][:, None]).flatten(0, 1)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W o C) and a, which is a constant of the gradient."""
        signs = sign_weight(self.projected(weight, learned))
        return Binarised(signs, weight.detach().abs().mean().expand(len(signs)))

    def real_weights(self, weight: Tensor, learned: Learned) -> Binarised:
        """Return W o C."""
        return super().real_weights(self.projected(weight, learned), learned)

    def regulariser(self, weight: Tensor, learned: Learned) -> Tensor:
        """Return the projection loss."""
        projected = self.projected(weight, learned)
        quantised = torch.where(projected >= 0, 1.0, -1.0) * weight.detach().abs().mean()
        return self.loss_weight / 2 * (quantised - projected).square().sum()


SCHEME = Pcnn()
