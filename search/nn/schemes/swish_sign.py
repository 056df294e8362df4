"""BinaryNet with the gradient of SignSwish (Darabi et al., "BNN+", 2018), which larq calls SwishSign, on both sides.

Faithful: the gradient, with the paper's and larq's beta of 5. The regulariser of BNN+ is left out, and so is
its scale per layer: larq has neither, and BN takes a scale in.
"""

from dataclasses import dataclass

from torch import Tensor

from bnas_deploy.search.nn.estimators import swish_sign
from bnas_deploy.search.nn.scheme import Binarised, Learned, Scheme


@dataclass(frozen=True)
class SwishSign(Scheme):
    """sign(x) convolved with sign(W).

    Attributes:
        beta: how narrow the gradient is.
    """

    beta: float = 5.0

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return sign(x)."""
        return swish_sign(x, self.beta)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W)."""
        return Binarised(swish_sign(weight, self.beta), weight.new_ones(len(weight)))


SCHEME = SwishSign()
