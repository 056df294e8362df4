"""DMS (Differentiable Dimension Search, section 2 and appendix B.2.3): activations 0 or alpha, standardised weights.

Faithful: X^b = alpha round(clip(X / alpha, 0, 1)) with a learned alpha for each layer (Eq. 2); weights standardised per
filter, then those of XNOR-Net, sign times the mean absolute value, with its gradient. A tie of the rounding goes up, as
everywhere in this package.
The paper leaves open: how alpha begins (here 1, behind a BN), its gradient (here LSQ's, in which the rounding passes
the gradient unchanged), and the small number in the variance.
The convolution is of 0 and 1; alpha is part of the scale. An operator takes signs, see `scheme.Exported`: an integer is
added to its sums, and its scale is halved, which is exact.
"""

from dataclasses import dataclass

from torch import Tensor

from bnas_deploy.search.nn.estimators import sign_weight, standardised, unit_step, weight_scale
from bnas_deploy.search.nn.geometry import Geometry, lone_weight
from bnas_deploy.search.nn.scheme import (
    Binarised,
    Exported,
    Learned,
    Scheme,
    needs_signs,
    zero_one_exported,
)

LEAST_ALPHA = 2.0**-20
"""A smaller alpha counts as this; its sign does not count."""


def alpha_of(learned: Learned) -> Tensor:
    """Return alpha (1), above 0."""
    return learned["alpha"].abs().clamp(min=LEAST_ALPHA)


@dataclass(frozen=True)
class ZeroAlpha(Scheme):
    """Activations alpha [x >= alpha / 2], a parameter `alpha` (1) that starts as 1; weights beta(W^) sign(W^)."""

    def excludes(self, geometry: Geometry) -> str | None:
        """Exclude filters of one weight, which standardised is 0, a K map, and signs at the padding."""
        return lone_weight(geometry) or needs_signs(self, geometry) or super().excludes(geometry)

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return alpha."""
        return {"alpha": weight.new_ones(1)}

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return the activations divided by alpha, 0 or 1."""
        return unit_step(x, alpha_of(learned))

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W^), and beta(W^) times alpha."""
        latent = standardised(weight)
        return Binarised(sign_weight(latent), weight_scale(latent) * alpha_of(learned))

    def real_weights(self, weight: Tensor, learned: Learned) -> Binarised:
        """Return W^, and alpha for each channel."""
        return Binarised(standardised(weight), alpha_of(learned).expand(len(weight)))

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Return signs with the threshold alpha / 2."""
        threshold = (alpha_of(learned) / 2).expand(channels_in).clone()
        return zero_one_exported(self.weights(weight, learned), threshold)


SCHEME = ZeroAlpha()
