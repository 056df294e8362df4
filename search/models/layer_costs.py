"""Count the layers of a network in PyTorch, by running it on no data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bnas_deploy.core.counting.rules import Network
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.nn.layers import BinaryConv2d

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class NetworkSize:
    """The layers of a network in running order, and the number of its parameters, those of a BN included.

    `other_parameters` are those that are no layer's weights, `binary_parameters` those that take one bit, which layers
    may share.
    """

    layers: list[LayerCost]
    parameters: int
    other_parameters: int
    binary_parameters: int

    @property
    def counted(self) -> Network:
        """Return what the rules of papers count."""
        return Network(tuple(self.layers), self.other_parameters)


def layer_costs(config: ModelConfig) -> list[LayerCost]:
    """Return the layers of the network of `config`, in running order; dead branches are counted like the others."""
    return network_size(config).layers


def network_size(config: ModelConfig) -> NetworkSize:
    """Return what the network of `config` is made of."""
    with torch.device("meta"):  # shapes without data
        network = build_network(config).eval()
        images = torch.empty(1, config.in_channels, *config.image_size)
    layers: list[LayerCost] = []
    weights: dict[int, str] = {}  # the layer that has each first
    for name, module in network.named_modules():
        if isinstance(module, BinaryConv2d | nn.Conv2d | nn.Linear):
            module.register_forward_hook(partial(_record, name, layers.append))
            weights.setdefault(id(module.weight), name)
    network(images)
    parameters = list(network.parameters())
    # By identity, since the bases of ABC-Net share one weight.
    others = sum(parameter.numel() for parameter in parameters if id(parameter) not in weights)
    first = set(weights.values())
    binary = sum(layer.weights for layer in layers if layer.is_binary and layer.name in first)
    return NetworkSize(layers, sum(parameter.numel() for parameter in parameters), others, binary)


def _record(
    name: str, keep: Callable[[LayerCost], None], module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    geometry: dict[str, Any] = {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "groups": 1}
    if isinstance(module, BinaryConv2d | nn.Conv2d):
        geometry = {
            "kernel": module.kernel_size,
            "stride": module.stride,
            "dilation": module.dilation,
            "groups": module.groups,
        }
    bits = module.scheme.weight_bits if isinstance(module, BinaryConv2d) else 32
    keep(LayerCost(name, _shape(inputs[0]), _shape(output), weight_bits=bits, **geometry))


def _shape(x: Tensor) -> Shape:
    channels, height, width = (*x.shape[1:], 1, 1)[:3]
    return channels, height, width
