"""What training descends: the cross-entropy, and the terms that a recipe adds to it.

The activation-distribution term is that of Ding et al., "Regularizing Activation Distribution for Training Binarized
Deep Networks" (CVPR 2019), as its code has it (github.com/ruizhoud/DistributionLoss, models/distrloss_layer.py).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training.recipes import Loss


class TrainingLoss:
    """The loss of a recipe on a network; `watched` counts the layers that its terms look at.

    Args:
        loss: of the recipe.
        network: is trained.
        class_weights: how much each class counts in the cross-entropy (classes); None: all the same.
    """

    def __init__(self, loss: Loss, network: nn.Module, class_weights: Tensor | None = None) -> None:
        self.loss = loss
        self.class_weights = class_weights
        signs = [module for module in network.modules() if isinstance(module, BinaryConv2d)]
        self.watched = len(signs)
        self.inputs = _Seen(signs if loss.activation_distribution else (), inputs=True)

    def __call__(self, logits: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Return the mean loss of a batch that went through the network just now, `progress` the share of epochs done.

        Args:
            logits: (N, classes).
            labels: (N).
            progress: from 0.
        """
        loss = F.cross_entropy(logits, labels, self.class_weights, label_smoothing=self.loss.label_smoothing)
        inputs = self.inputs.take()
        if inputs and progress < self.loss.activation_distribution_share:
            term = torch.stack([activation_distribution(x) for x in inputs]).mean()
            loss = loss + self.loss.activation_distribution * term
        return loss


def activation_distribution(x: Tensor) -> Tensor:
    """Return the term of Ding et al. for what a layer takes the sign of, (N, C, H, W).

    With m and s the mean and the standard deviation of a channel, and [.]+ the positive part, it is the mean over the
    channels of

        [2 - |m| - s]+^2  +  [s - 4]+^2  +  [m^2 - s^2]+

    The variance has 1e-10 added, so that a constant channel has a gradient.
    """
    variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
    variance = variance + 1e-10
    deviation = variance.sqrt()
    narrow = (2 - mean.abs() - deviation).clamp(min=0).square()
    wide = (deviation - 4).clamp(min=0).square()
    one_sided = (mean.square() - variance).clamp(min=0)
    return (narrow + wide + one_sided).mean()


class _Seen:
    """The inputs or the outputs of some modules in the last forward pass, in the order in which they ran.

    In evaluation mode nothing is seen.
    """

    def __init__(self, modules: Iterable[nn.Module], *, inputs: bool) -> None:
        self.tensors: list[Tensor] = []

        def see(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if module.training:
                self.tensors.append(inputs[0])

        for module in modules:
            if inputs:
                module.register_forward_pre_hook(see)
            else:
                module.register_forward_hook(lambda module, _, output: see(module, (output,)))

    def take(self) -> list[Tensor]:
        """Return them, and forget them."""
        tensors, self.tensors = self.tensors, []
        return tensors
