"""What training descends: the cross-entropy, and the terms that a recipe and the schemes of the layers add to it.

The activation-distribution term is by Ding et al., "Regularizing Activation Distribution for Training Binarized Deep
Networks" (CVPR 2019), as its code has it (github.com/ruizhoud/DistributionLoss, models/distrloss_layer.py). The terms
of a teacher are by Martinez et al., "Training Binary Neural Networks with Real-to-Binary Convolutions" (ICLR 2020), as
larq has them (github.com/larq/zoo, training/knowledge_distillation/knowledge_distillation.py).
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import FloatTanh
from bnas_deploy.search.nn.scheme_layer import regularisers
from bnas_deploy.search.training.recipes import Loss


class TrainingLoss:
    """The loss of a recipe on a network.

    Args:
        loss: of the recipe.
        network: is trained; it is in training mode.
        teacher: the network of the stage before, in evaluation mode; None if nothing is learned of it.
        class_weights: how much each class counts in the cross-entropy (classes); None: all the same.
    """

    def __init__(
        self,
        loss: Loss,
        network: nn.Module,
        teacher: nn.Module | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        self.loss = loss
        self.network = network
        self.class_weights = class_weights
        self.teacher = teacher
        self.inputs = _Seen(takes_signs(network) if loss.activation_distribution else (), inputs=True)
        attends = teacher is not None and loss.attention > 0
        self.outputs, self.teacher_outputs = (
            _Seen(cast(nn.ModuleList, each.blocks) if attends and each else (), inputs=False)
            for each in (network, teacher)
        )

    def __call__(
        self, images: Tensor, logits: Tensor, labels: Tensor, progress: float, class_weight: float = 1.0
    ) -> Tensor:
        """Return the mean loss of a batch that went through the network just now, `progress` the share of epochs done.

        Args:
            images: (N, C, H, W).
            logits: (N, classes).
            labels: (N).
            progress: from 0.
            class_weight: the mean weight of the classes of these images, divided by that of the batch that they are a
                part of.
        """
        loss = F.cross_entropy(logits, labels, self.class_weights, label_smoothing=self.loss.label_smoothing)
        if class_weight != 1:
            loss = loss * class_weight
        inputs = self.inputs.take()
        if inputs and progress < self.loss.activation_distribution_share:
            term = torch.stack([activation_distribution(x) for x in inputs]).mean()
            loss = loss + self.loss.activation_distribution * term
        of_schemes = regularisers(self.network)
        if of_schemes is not None:
            loss = loss + of_schemes
        return loss if self.teacher is None else loss + self._of_teacher(self.teacher, images, logits)

    def _of_teacher(self, teacher: nn.Module, images: Tensor, logits: Tensor) -> Tensor:
        """Return what is to be learned of the teacher."""
        with torch.no_grad():
            answers = teacher(images)
        term = logits.new_zeros(())
        if self.loss.distillation:
            term = term + self.loss.distillation * distillation(logits, answers, self.loss.temperature)
        if self.loss.attention:
            term = term + self.loss.attention * attention(self.outputs.take(), self.teacher_outputs.take())
        return term


def takes_signs(network: nn.Module) -> list[BinaryConv2d]:
    """Return the layers that take the signs of what they read."""
    layers = (module for module in network.modules() if isinstance(module, BinaryConv2d))
    return [layer for layer in layers if not isinstance(layer.scheme, FloatTanh)]


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


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student) of the softmax of logits / T, (N, classes), the mean over the images."""
    student, teacher = ((each.float() / temperature).log_softmax(dim=1) for each in (logits, teacher))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def attention(blocks: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference of the attention maps of blocks (N, C, H, W), the mean over blocks."""
    pairs = zip(blocks, teacher, strict=True)
    return torch.stack([F.mse_loss(attention_map(mine), attention_map(other)) for mine, other in pairs]).mean()


def attention_map(x: Tensor) -> Tensor:
    """Return the mean square over the channels, divided by the largest in each image: (N, C, H, W) to (N, H W).

    An image of zeros has zeros.
    """
    area = x.float().square().mean(dim=1).flatten(1)
    largest = area.amax(dim=1, keepdim=True)
    return area / largest.clamp(min=torch.finfo(torch.float32).tiny)


class _Seen:
    """The inputs or the outputs of some modules in the last forward pass, in the order in which they ran.

    Only in the mode that they are in now, since test images go through a network that is trained as well.
    """

    def __init__(self, modules: Iterable[nn.Module], *, inputs: bool) -> None:
        self.tensors: list[Tensor] = []
        for module in modules:
            mode = module.training
            if inputs:
                module.register_forward_pre_hook(partial(self._see_input, mode))
            else:
                module.register_forward_hook(partial(self._see_output, mode))

    def _see_input(self, mode: bool, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module.training == mode:
            self.tensors.append(inputs[0])

    def _see_output(self, mode: bool, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if module.training == mode:
            self.tensors.append(output)

    def take(self) -> list[Tensor]:
        """Return them, and forget them."""
        tensors, self.tensors = self.tensors, []
        return tensors
