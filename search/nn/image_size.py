"""Layers whose parameters depend on the size of the images, and how a network makes them."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from bnas_deploy.search.nn.geometry import Pair


class Sized(nn.Module, ABC):
    """A layer whose parameters depend on the size of its images, which it learns from one run; see `fit_to_images`."""

    @abstractmethod
    def fit_to(self, x: Tensor) -> None:
        """Make the parameters for inputs like x, (N, C, H, W), unless they are there; another size is an error.

        Raises:
            ValueError: the layer was made for another size.
        """


def fit_to_images(network: nn.Module, in_channels: int, image_size: Pair) -> None:
    """Give the layers of a network that depend on the size of the images, `Sized`, their parameters.

    The network runs once on an image of zeros, in evaluation mode and without gradients, unless it has no such layer.
    Its other parameters and its statistics stay as they are.

    Args:
        network: maps images (N, in_channels, H, W) to anything.
        in_channels: of an image.
        image_size: (H, W).
    """
    layers = [module for module in network.modules() if isinstance(module, Sized)]
    if not layers:
        return
    modes = [(module, module.training) for module in network.modules()]
    hooks = [layer.register_forward_pre_hook(_fit) for layer in layers]
    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, in_channels, *image_size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode


def _fit(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(layer, Sized)
    layer.fit_to(inputs[0])
