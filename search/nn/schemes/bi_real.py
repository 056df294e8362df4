"""Bi-Real Net (Liu et al., "Bi-Real Net", ECCV 2018): ApproxSign, and weights with a gradient aware of magnitude.

Code: github.com/liuzechun/Bi-Real-net, pytorch_implementation/BiReal18_34/birealnet.py.

Faithful: the gradients of activations and of weights; the mean |W| of a filter scales the latter and is a constant of
it. The shortcut around each convolution is the network's business.
The paper leaves open what its scale does at inference, where BN takes it in; here it stays, as in the code. The code
scales the forward pass only, so its gradient is that of the paper divided by the mean |W| of the filter.
"""

from dataclasses import dataclass

from torch import Tensor

from bnas_deploy.search.nn.estimators import approximate_sign, sign_weight, weight_scale
from bnas_deploy.search.nn.scheme import Binarised, Learned, Scheme


@dataclass(frozen=True)
class BiReal(Scheme):
    """Weights beta sign(W), beta the mean |W| of an output channel, through which no gradient passes."""

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return sign(x) with the gradient of ApproxSign."""
        return approximate_sign(x)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W) and beta."""
        return Binarised(sign_weight(weight), weight_scale(weight.detach()))


SCHEME = BiReal()
