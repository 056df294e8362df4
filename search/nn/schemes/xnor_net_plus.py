"""XNOR-Net++ (Bulat and Tzimiropoulos 2019) with a scale per output channel, learned by gradient descent."""

from dataclasses import dataclass

from torch import Tensor

from bnas_deploy.search.nn.estimators import sign_weight
from bnas_deploy.search.nn.scheme import Binarised, Learned, Scheme


@dataclass(frozen=True)
class XnorNetPlus(Scheme):
    """Weights Gamma sign(W), Gamma a parameter `learned_scale` (O) that starts as ones."""

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return the scale."""
        return {"learned_scale": weight.new_ones(len(weight))}

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W) and the learned scale."""
        return Binarised(sign_weight(weight), learned["learned_scale"])


SCHEME = XnorNetPlus()
