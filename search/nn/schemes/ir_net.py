"""IR-Net (Qin et al., "Forward and Backward Information Retention", CVPR 2020): Libra-PB and EDE.

Code: github.com/htqin/IR-Net at 831282f, ImageNet/ResNet18/1w1a/models/modules/ir_1w1a.py, and trainer.py.

Faithful: weights are standardised, with the code's unbiased variance. Their signs are shifted by s bits, s =
round(log2(mean |W^|)), through which no gradient passes. Every sign has the gradient of k tanh(t x), where t goes from
0.1 to 10 over the epochs, on a line in its logarithm.
The paper's range of t is used; the code's begins at 0.001 in ResNet-20 for CIFAR, `least_t` makes it so.
The shifts are ordinary scales in an operator.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from bnas_deploy.search.nn.estimators import standardised, tanh_sign, weight_scale
from bnas_deploy.search.nn.geometry import Geometry, lone_weight
from bnas_deploy.search.nn.scheme import Binarised, Learned, Scheme


@dataclass(frozen=True)
class IrNet(Scheme):
    """Weights 2^s sign(W^), W^ the standardised ones.

    Attributes:
        least_t: of the first epoch.
        greatest_t: which the last epoch comes near to.
        progress: the share of the epochs that are done.
    """

    least_t: float = 0.1
    greatest_t: float = 10.0
    progress: float = 0.0

    @property
    def t(self) -> float:
        """Return how steep the gradient's tanh is now."""
        return float(self.least_t * (self.greatest_t / self.least_t) ** self.progress)

    def excludes(self, geometry: Geometry) -> str | None:
        """Exclude filters of one weight, which standardised is 0."""
        return lone_weight(geometry) or super().excludes(geometry)

    def at(self, progress: float) -> Self:
        """Return the scheme with that progress."""
        return replace(self, progress=progress)

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return sign(x) with the gradient of EDE."""
        return tanh_sign(x, self.t)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W^) and the power of two."""
        balanced = standardised(weight, correction=1)
        shift = weight_scale(balanced.detach()).log2().round()
        return Binarised(tanh_sign(balanced, self.t), torch.ldexp(torch.ones_like(shift), shift))

    def real_weights(self, weight: Tensor, learned: Learned) -> Binarised:
        """Return W^."""
        return super().real_weights(standardised(weight, correction=1), learned)


SCHEME = IrNet()
