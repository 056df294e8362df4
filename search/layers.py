"""Binary layers that any network can be made of. The exporter knows these, and torch's own layers."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.search.binarize import (
    activation_scale,
    centred_and_clamped,
    scale_gradient,
    sign_activation,
    sign_weight,
    weight_scale,
)

Pair = tuple[int, int]
Scale = Literal["beta", "learned", "none"]


class BinaryConv2d(nn.Module):
    """Convolution of sign(x) with 1-bit weights: (N, C, H, W) to (N, O, OH, OW), zero padding, no bias.

        y = conv(sign(x), sign(W)) * scale [* K]

    The sum is over ±1 and 0, so it is an exact integer; the scale is multiplied afterwards.

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: one number or (height, width).
        stride: one number or (vertical, horizontal).
        padding: zeros on each side, one number or (vertical, horizontal).
        dilation: one number or (vertical, horizontal).
        groups: as in `torch.nn.Conv2d`.
        scale: "beta", the mean |W| per output channel (XNOR-Net); "learned", a parameter per output channel
            (XNOR-Net++); "none" (BinaryNet).
        k_map: multiply by the activation scale K of XNOR-Net; needs groups = 1.
        centre_weights, clamp_weights, fan_in_gradient, real_weights, sign_of_zero: departures of the official BNAS
            code, see `bnas_deploy.search.config.DEPARTURES`. The first two change the weights in place whenever the
            layer runs in training mode, as the code does before each step.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        *,
        scale: Scale = "beta",
        k_map: bool = False,
        centre_weights: bool = False,
        clamp_weights: bool = False,
        fan_in_gradient: bool = False,
        real_weights: bool = False,
        sign_of_zero: bool = False,
    ) -> None:
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"{groups} groups do not divide {in_channels} and {out_channels} channels")
        if k_map and groups > 1:
            raise ValueError("the K map is a mean over all channels, so it needs groups=1")
        if scale not in get_args(Scale):
            raise ValueError(f"unknown scale {scale!r}; there are {', '.join(get_args(Scale))}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.scale = scale
        self.k_map = k_map
        self.centre_weights = centre_weights
        self.clamp_weights = clamp_weights
        self.fan_in_gradient = fan_in_gradient
        self.real_weights = real_weights
        self.sign_of_zero = sign_of_zero
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # what nn.Conv2d does
        self.learned_scale = nn.Parameter(torch.ones(out_channels)) if scale == "learned" else None

    def forward(self, x: Tensor) -> Tensor:
        """Return conv(sign(x), sign(W)) * scale, times K if asked for."""
        activations = sign_activation(x, sign_of_zero=self.sign_of_zero)
        if self.real_weights:
            return self.convolve(activations, self.weight)
        if self.training:
            self.renew_weight()
        signs, scale = self.binarised(self.weight, renewed=self.training)
        y = self.convolve(activations, signs) * scale[:, None, None]
        if self.k_map:
            y = y * activation_scale(x, self.kernel_size, self.stride, self.padding, self.dilation)
        return y

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve with the geometry of this layer."""
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def renew_weight(self) -> None:
        """Centre and clamp the weights in place, as far as the departures ask for it."""
        if self.centre_weights or self.clamp_weights:
            with torch.no_grad():
                self.weight.copy_(
                    centred_and_clamped(self.weight, centre=self.centre_weights, clamp=self.clamp_weights)
                )

    def binary_weight(self) -> tuple[Tensor, Tensor]:
        """Return the signs of the weights (O, C/groups, KH, KW) and the scale (O)."""
        return self.binarised(self.weight)

    def binarised(self, weight: Tensor, *, renewed: bool = False) -> tuple[Tensor, Tensor]:
        """Return signs and scale of weights that are like those of this layer; with scale="beta" of any number O.

        `renewed` says that they are centred and clamped already: once more would round them again.
        """
        weight = latent_weight(
            weight,
            centre=self.centre_weights and not renewed,
            clamp=self.clamp_weights and not renewed,
            fan_in_gradient=self.fan_in_gradient,
        )
        scale: Tensor
        if self.learned_scale is not None:
            scale = self.learned_scale
        elif self.scale == "beta":
            scale = weight_scale(weight)
        else:
            scale = torch.ones(self.out_channels, dtype=weight.dtype, device=weight.device)
        return sign_weight(weight, sign_of_zero=self.sign_of_zero), scale

    def extra_repr(self) -> str:
        """Return the settings, for `print(layer)`."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, scale={self.scale!r}"
        )


class BinaryLinear(nn.Module):
    """sign(x) times 1-bit weights: (N, in_features) to (N, out_features); a 1x1 `BinaryConv2d` on one pixel."""

    def __init__(self, in_features: int, out_features: int, *, scale: Scale = "beta") -> None:
        super().__init__()
        self.conv = BinaryConv2d(in_features, out_features, 1, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return sign(x) @ sign(W).T * scale."""
        y: Tensor = self.conv(x.unsqueeze(-1).unsqueeze(-1))
        return y.flatten(1)


class BinaryWeightConv2d(nn.Conv2d):
    """Real activations, weights sign(W) * beta, real bias: the departure "binary-weight-skip".

    W is centred and clamped first, whatever the other departures are: in place when it runs in training mode.

    Args:
        fan_in_gradient, sign_of_zero: departures as in `BinaryConv2d`.
        real_weights: convolve with W itself, as `torch.nn.Conv2d` does.
        args, kwargs: those of `torch.nn.Conv2d`.
    """

    def __init__(
        self,
        *args: Any,
        fan_in_gradient: bool = False,
        sign_of_zero: bool = False,
        real_weights: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.fan_in_gradient = fan_in_gradient
        self.sign_of_zero = sign_of_zero
        self.real_weights = real_weights

    def forward(self, x: Tensor) -> Tensor:
        """Return conv(x, sign(W) * beta) + bias."""
        renew = self.training and not self.real_weights
        if renew:
            with torch.no_grad():
                self.weight.copy_(centred_and_clamped(self.weight, centre=True, clamp=True))
        y: Tensor = self._conv_forward(x, self.effective_weight(renewed=renew), self.bias)
        return y

    def effective_weight(self, *, renewed: bool = False) -> Tensor:
        """Return sign(W) * beta, (O, C, KH, KW); `renewed` as in `BinaryConv2d.binarised`."""
        if self.real_weights:
            return self.weight
        weight = latent_weight(self.weight, centre=not renewed, clamp=not renewed, fan_in_gradient=self.fan_in_gradient)
        return sign_weight(weight, sign_of_zero=self.sign_of_zero) * weight_scale(weight)[:, None, None, None]


class Zeroise(nn.Module):
    """The zero layer: all zeros of the right shape, whatever comes in (BNAS v2, section 4.1.3)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros, (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])

    def extra_repr(self) -> str:
        """Return the stride, for `print(layer)`."""
        return f"stride={self.stride}"


def latent_weight(weight: Tensor, *, centre: bool, clamp: bool, fan_in_gradient: bool) -> Tensor:
    """Return the real weight whose sign and mean magnitude are taken, with the departures asked for."""
    if fan_in_gradient:
        fan_in, channels = weight[0].numel(), weight.shape[1]
        weight = scale_gradient(weight, fan_in * (1 - 1 / channels))
    return centred_and_clamped(weight, centre=centre, clamp=clamp)


def _pair(value: int | Pair) -> Pair:
    return value if isinstance(value, tuple) else (value, value)
