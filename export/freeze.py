"""Freeze a module: its binary layers compute their signs and their scale once, in PyTorch.

So nothing that decides a bit is computed again by another library.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.module_checks import NORMS, refuse_dropped
from bnas_deploy.search.nn.estimators import activation_scale
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryWeightConv2d, Zeroise, sides_of, with_extra_padding
from bnas_deploy.search.nn.scheme import Exported


def _signs(x: Tensor, threshold: Tensor, sign_of_zero: bool) -> Tensor:
    return torch.sign(x) if sign_of_zero else torch.where(x >= threshold[:, None, None], 1.0, -1.0)


def _padded_with(pad: Tensor, x: Tensor, sides: list[int]) -> Tensor:
    """Return x (N, C, H, W) with `pad` (C) around it. Both are signs or 0, so that no difference is rounded."""
    per_channel = pad[:, None, None]
    return F.pad(x - per_channel, sides) + per_channel


def _operator(name: str) -> Callable[[Callable[..., Tensor]], torch._ops.OpOverload]:
    """Register a function as an operator of torch without a gradient; `custom_op` has one, which tracing pays for."""

    def register(function: Callable[..., Tensor]) -> torch._ops.OpOverload:
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(f"bnas::{name}", schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(f"bnas::{name}", "CompositeExplicitAutograd", function)
        overload: torch._ops.OpOverload = getattr(torch.ops.bnas, name).default
        return overload

    return register


@_operator("binary_conv2d")
def binary_conv2d(
    x: Tensor,
    signs: Tensor,
    threshold: Tensor,
    pad: Tensor | None,
    offset: Tensor,
    scale: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    extra_padding: list[int],
    dilation: list[int],
    groups: int,
    k_map: bool,
    sign_of_zero: bool,
) -> Tensor:
    """A frozen `BinaryConv2d`: what its scheme exports, and its bias, are given.

    `pad` (C) has the signs at the padding, None for zeros; `offset` is (O, 1, 1).
    """
    extra = _pair(extra_padding)
    activations = _signs(x, threshold, sign_of_zero)
    sides = sides_of(_pair(padding), extra)
    padded_signs = F.pad(activations, sides) if pad is None else _padded_with(pad, activations, sides)
    accumulator = F.conv2d(padded_signs, signs, None, stride, 0, dilation, groups) + offset
    y = accumulator * scale[:, None, None]
    if k_map:
        height, width = signs.shape[2:]
        padded = with_extra_padding(x, extra)
        y = y * activation_scale(padded, (height, width), _pair(stride), _pair(padding), _pair(dilation))
    return y + bias[:, None, None]


@torch.library.register_fake("bnas::binary_conv2d")  # type: ignore[untyped-decorator]  # torch leaves it untyped
def _(
    x: Tensor,
    signs: Tensor,
    threshold: Tensor,
    pad: Tensor | None,
    offset: Tensor,
    scale: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    extra_padding: list[int],
    dilation: list[int],
    groups: int,
    *options: bool,
) -> Tensor:
    return F.conv2d(with_extra_padding(x, _pair(extra_padding)), signs, None, stride, padding, dilation, groups)


@_operator("zeroise")
def zeroise(x: Tensor, stride: int) -> Tensor:
    """A `Zeroise` layer."""
    return torch.zeros_like(x[:, :, ::stride, ::stride])


@torch.library.register_fake("bnas::zeroise")  # type: ignore[untyped-decorator]  # torch leaves it untyped
def _(x: Tensor, stride: int) -> Tensor:
    return torch.empty_like(x[:, :, ::stride, ::stride])


class _FrozenBinaryConv2d(nn.Module):
    signs: Tensor
    threshold: Tensor
    pad: Tensor | None
    offset: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, layer: BinaryConv2d, exported: Exported) -> None:
        super().__init__()
        zeros = torch.zeros(layer.out_channels)
        offset = zeros if exported.offset is None else exported.offset.detach().float()
        held = {
            "signs": exported.weight,
            "threshold": exported.threshold,
            "pad": torch.full((layer.in_channels,), float(exported.pad_value)) if exported.pad_value else None,
            "offset": offset[:, None, None].clone(),
            "scale": exported.scale,
            "bias": zeros if layer.bias is None else layer.bias.detach().clone(),
        }
        for name, value in held.items():
            self.register_buffer(name, None if value is None else value.contiguous())
        self.stride, self.dilation = list(layer.stride), list(layer.dilation)
        self.padding, self.extra_padding = list(layer.padding), list(layer.extra_padding)
        self.groups = layer.groups
        self.k_map = layer.scheme.k_map
        self.sign_of_zero = exported.sign_of_zero

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = binary_conv2d(
            x,
            self.signs,
            self.threshold,
            self.pad,
            self.offset,
            self.scale,
            self.bias,
            self.stride,
            self.padding,
            self.extra_padding,
            self.dilation,
            self.groups,
            self.k_map,
            self.sign_of_zero,
        )
        return y


class _FrozenFloatWeightConv2d(nn.Module):
    """Signs in, and the weights of a scheme whose weights are float."""

    weight: Tensor
    threshold: Tensor

    def __init__(self, layer: BinaryConv2d, exported: Exported) -> None:
        super().__init__()
        self.register_buffer("weight", exported.weight * exported.scale[:, None, None, None])
        self.register_buffer("threshold", exported.threshold)
        self.sign_of_zero = exported.sign_of_zero
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        y = layer.convolve(_signs(x, self.threshold, self.sign_of_zero), self.weight)
        if layer.scheme.k_map:
            padded = with_extra_padding(x, layer.extra_padding)
            y = y * activation_scale(padded, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        return y if self.layer.bias is None else y + self.layer.bias[:, None, None]


class _FrozenZeroise(nn.Module):
    def __init__(self, layer: Zeroise) -> None:
        super().__init__()
        self.stride = layer.stride

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = zeroise(x, self.stride)
        return y


def freeze(module: nn.Module) -> nn.Module:
    """Return a copy of `module` on the CPU, in evaluation mode, whose binary layers hold ±1 weights and their scale.

    Raises:
        ExportError: a batch normalisation has no running statistics, so that images would depend on each other; or a
            binary layer has code of its own.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None:
            raise ExportError(
                f"{name}: {type(layer).__name__} without running statistics cannot be exported, since it makes the "
                "answer to an image depend on the others in the batch; train it with track_running_stats=True"
            )
    refuse_dropped(module)
    # Tensors are only read, and those of a large network fill the memory: they are not copied. Moving a parameter to
    # the CPU would change it, so those of a GPU are.
    held = (*module.parameters(), *module.buffers())
    tensors = {id(tensor): tensor for tensor in held if tensor.device.type == "cpu"}
    frozen = copy.deepcopy(module, tensors).cpu().eval()
    with torch.no_grad():
        for layer in frozen.modules():
            for hook in layer._forward_pre_hooks.values():
                if isinstance(hook, NORMS):
                    hook(layer, ())
        return with_layers(frozen, _frozen_layer)


def with_layers(module: nn.Module, made_of: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Put what `made_of` makes of a layer in its place, in `module` itself, unless it gives the layer back.

    What it makes is not looked into. A layer that is registered twice stays one layer.
    """
    return _with_layers(module, made_of, {})


def _with_layers(
    module: nn.Module, made_of: Callable[[nn.Module], nn.Module], done: dict[nn.Module, nn.Module]
) -> nn.Module:
    if module in done:
        return done[module]
    done[module] = made_of(module)
    if done[module] is module:
        # Not named_children, which passes over the second name of a layer.
        for name, child in list(module._modules.items()):
            if child is not None:
                setattr(module, name, _with_layers(child, made_of, done))
    return done[module]


def _frozen_layer(module: nn.Module) -> nn.Module:
    """Return the frozen form of a binary layer; any other module is its own."""
    match module:
        case BinaryConv2d():
            kind = _FrozenBinaryConv2d if module.scheme.weight_bits == 1 else _FrozenFloatWeightConv2d
            return kind(module, module.exported())
        case Zeroise():
            return _FrozenZeroise(module)
        case BinaryWeightConv2d():
            return _frozen_binary_weight(module)
    return module


def _frozen_binary_weight(layer: BinaryWeightConv2d) -> nn.Conv2d:
    plain = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        _pair(layer.kernel_size),
        _pair(layer.stride),
        layer.padding if isinstance(layer.padding, str) else _pair(layer.padding),
        _pair(layer.dilation),
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
    )
    plain.weight.copy_(layer.effective_weight())
    if layer.bias is not None and plain.bias is not None:
        plain.bias.copy_(layer.bias)
    return plain.eval()


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second
