"""DoReFa-Net (Zhou et al. 2016) with 1-bit weights and 1-bit activations; gradients stay float.

Code: tensorpack, examples/DoReFa-Net/dorefa.py.

Faithful: activations round(clip(x, 0, 1)), whose rounding passes the gradient; weights sign(W) times the mean |W| of
the whole layer, where the gradient passes as it is. A tie of the rounding goes up. Quantised gradients are left out:
they save time on devices that train with few bits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnas_deploy.search.nn.estimators import sign_passing_all, unit_step
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.scheme import Binarised, Exported, Learned, Scheme, needs_signs, zero_one_exported


def passing_weights(weight: Tensor) -> Binarised:
    """Return sign(W) and the mean |W| of the layer; the gradient of their product passes to W unchanged.

    The sign is taken of W divided by the mean, whose gradient takes the scale back.
    """
    mean = weight.detach().abs().mean().clamp(min=torch.finfo(weight.dtype).tiny)
    return Binarised(sign_passing_all(weight / mean), mean.expand(len(weight)))


@dataclass(frozen=True)
class DoReFa(Scheme):
    """Activations [x >= 1/2], 0 or 1."""

    def excludes(self, geometry: Geometry) -> str | None:
        """Exclude a K map, and signs at the padding."""
        return needs_signs(self, geometry) or super().excludes(geometry)

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return 0 or 1."""
        return unit_step(x, x.new_ones(1))

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W) and one scale for all channels."""
        return passing_weights(weight)

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Return signs with the threshold 1/2."""
        return zero_one_exported(self.weights(weight, learned), torch.full((channels_in,), 0.5))


SCHEME = DoReFa()
