"""Float twins that are other networks than the captured one with float convolutions, and are captured by themselves.

ABC-Net has several convolutions where a float network has one, BinaryDuo has each channel twice, Real-to-Binary a gate.
A twin that convolves nine times would be slow, and the binary network would look faster than it is. Families say
themselves what their float twin is: most have a ReLU there in the place of a sign. A layer that takes signs and has
float weights is a sign and a convolution in the program, which does not tell that the sign has to go.
"""

import copy

import torch
from torch import Tensor, nn

from bnas_deploy.export.freeze import with_layers
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.nn.float_twin import Composite, float_state
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryWeightConv2d, sides_of


def needs_own_capture(module: nn.Module) -> bool:
    """Tell whether the float twin of `module` is more than its program with other convolutions."""
    return any(
        isinstance(layer, Composite) or (isinstance(layer, BinaryConv2d) and layer.scheme.weight_bits > 1)
        for layer in module.modules()
    )


def with_float_layers(module: nn.Module) -> nn.Module:
    """Return a copy of `module` with one float convolution where a binary layer or a composite of them was."""
    ours = copy.deepcopy(module)
    with torch.no_grad():
        return with_layers(ours, _float_layer)


def twin_of_family(config: ModelConfig, network: nn.Module) -> nn.Module | None:
    """Return the float twin of a network as its family builds it, with the weights of `network`.

    None where that is `network` with a float layer for each binary one, which needs no capture of its own.
    """
    with torch.device("meta"):
        twin = dict(build_network(config.float_twin()).named_modules())
    ours = dict(network.named_modules())
    alike = ours.keys() == twin.keys() and all(_stands_for(layer, twin[name]) for name, layer in ours.items())
    if alike and not needs_own_capture(network):
        return None
    built = build_network(config.float_twin())
    state = float_state(network)
    built.load_state_dict({name: state[name] for name in built.state_dict()})
    return built


def _stands_for(layer: nn.Module, twin: nn.Module) -> bool:
    """Tell whether `twin` is a float layer for `layer`, or the same as that."""
    if isinstance(layer, BinaryConv2d | BinaryWeightConv2d):
        return type(twin) is nn.Conv2d
    return type(layer) is type(twin) and layer.extra_repr() == twin.extra_repr()


def _float_layer(module: nn.Module) -> nn.Module:
    """Return the float convolution for a binary layer; any other module is its own.

    Layers with float inputs stay: `derived_twin` gives them their weights.
    """
    match module:
        case Composite():
            binary = next(layer for layer in module.modules() if isinstance(layer, BinaryConv2d))
            bias = getattr(module, "bias", None)
            return _convolution(binary, module.real_weight(), binary.bias if bias is None else bias)
        case BinaryConv2d():
            return _convolution(module, module.real_weight(), module.bias)
    return module


def _convolution(binary: BinaryConv2d, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return a float convolution of these weights (O, C/groups, KH, KW), with the geometry of a binary one."""
    is_even = any(binary.extra_padding)
    plain = nn.Conv2d(
        weight.shape[1] * binary.groups,
        weight.shape[0],
        binary.kernel_size,
        binary.stride,
        0 if is_even else binary.padding,
        binary.dilation,
        binary.groups,
        bias=bias is not None,
    )
    plain.weight.copy_(weight)
    if plain.bias is not None and bias is not None:
        plain.bias.copy_(bias)
    if is_even:
        left, right, top, bottom = sides_of(binary.padding, binary.extra_padding)
        return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), plain.eval())
    return plain.eval()
