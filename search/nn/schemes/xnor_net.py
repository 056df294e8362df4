"""XNOR-Net (Rastegari et al. 2016): a scale per output channel, the mean |W|; with `k_map` also K of the input."""

from dataclasses import dataclass

from torch import Tensor

from bnas_deploy.search.nn.estimators import scaled_sign, sign_weight, weight_scale
from bnas_deploy.search.nn.scheme import Binarised, Learned, Scheme


@dataclass(frozen=True)
class XnorNet(Scheme):
    """Weights beta sign(W); the gradient passes through beta as well (see `estimators.weight_scale`)."""

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W) and beta; each output channel by itself, so that any number O may come."""
        return Binarised(sign_weight(weight), weight_scale(weight))

    def effective_weight(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Tensor:
        """Return beta sign(W), made at once."""
        return scaled_sign(weight)


SCHEME = XnorNet()
