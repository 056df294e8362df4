"""BONN (Gu et al., ICCV 2019): weights are to be two Gaussians around what they are binarised to.

Faithful: the Bayesian kernel loss; lambda 1e-4 is the best of the authors' book ("Binary Neural Networks", Table 3.4):

    lambda/2 sum over filters of |a sign(k) - k|^2 + nu sum over weights (k - mu)^2 / psi

a is a learned scale of the filter. mu and psi are mean and variance of its positive weights and, for the others, of its
negative ones, in this step. They are constants of the gradient, so log det Psi is one too and left out.
The first term is the paper's |k^ - w o k|^2 with w = 1/a, divided by w^2, which cannot be made small by a small w.
The paper leaves open nu, here 1e-3, at which both terms are of one size at the usual initialisation.
Left out: the Bayesian feature loss, which is one of the whole network and of its classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnas_deploy.search.nn.estimators import sign_weight, weight_scale
from bnas_deploy.search.nn.scheme import Binarised, Learned, Scheme

_LEAST_VARIANCE = 1e-6  # of the weights of one sign: a filter with one of them has none


@dataclass(frozen=True)
class Bonn(Scheme):
    """Weights a sign(W), a parameter `learned_scale` (O) that starts as the mean |W|.

    Attributes:
        loss_weight: lambda.
        mode_weight: nu.
    """

    loss_weight: float = 1e-4
    mode_weight: float = 1e-3

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return the scale."""
        return {"learned_scale": weight_scale(weight)}

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W) and the learned scale."""
        return Binarised(sign_weight(weight), learned["learned_scale"])

    def regulariser(self, weight: Tensor, learned: Learned) -> Tensor:
        """Return the Bayesian kernel loss."""
        kernels = weight.flatten(1)  # (O, n)
        positive = kernels.detach() >= 0
        signs = torch.where(positive, 1.0, -1.0)
        reconstruction = (learned["learned_scale"][:, None] * signs - kernels).square().sum()
        mean, variance = modes(kernels.detach(), positive)
        modal = ((kernels - mean).square() / variance).sum()
        return self.loss_weight / 2 * (reconstruction + self.mode_weight * modal)


def modes(kernels: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each weight (O, n), mean and variance of the weights of its filter that have its sign."""
    mean, variance = torch.zeros_like(kernels), torch.zeros_like(kernels)
    for of_sign in (positive, ~positive):
        count = of_sign.sum(dim=1, keepdim=True).clamp(min=1)
        center = torch.where(of_sign, kernels, 0.0).sum(dim=1, keepdim=True) / count
        spread = torch.where(of_sign, (kernels - center).square(), 0.0).sum(dim=1, keepdim=True) / count
        mean = torch.where(of_sign, center, mean)
        variance = torch.where(of_sign, spread.clamp(min=_LEAST_VARIANCE), variance)
    return mean, variance


SCHEME = Bonn()
