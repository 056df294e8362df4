"""Binary layers that any network can be made of. The exporter knows these, and torch's own layers."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.search.nn.estimators import (
    activation_scale,
    centred_and_clamped,
    scale_gradient,
    sign_activation,
    sign_weight,
    weight_scale,
)

Pair = tuple[int, int]
Sizes = int | Sequence[int]
"""One number, or a sequence of two: (vertical, horizontal)."""
Scale = Literal["beta", "learned", "none"]


class BinaryConv2d(nn.Module):
    """Convolution of sign(x) with 1-bit weights: (N, C, H, W) to (N, O, OH, OW), zero padding.

        y = conv(sign(x), sign(W)) * scale [* K] [+ bias]

    The sum is over ±1 and 0, so it is an exact integer; the scale is multiplied and the bias added afterwards.
    The arguments up to `dtype` are those of `torch.nn.Conv2d` in their order, but for the bias, which is off.

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: one number or (height, width).
        stride: one number or (vertical, horizontal).
        padding: zeros on each side, one number or (vertical, horizontal); "valid" for none; "same" for as many as keep
            the size, the odd one at the bottom and at the right, with stride 1.
        dilation: one number or (vertical, horizontal).
        groups: as in `torch.nn.Conv2d`.
        bias: add a parameter (O).
        padding_mode: "zeros"; for another one, put one of torch's padding layers in front.
        device, dtype: of the parameters.
        scale: "beta", the mean |W| per output channel (XNOR-Net); "learned", a parameter per output channel
            (XNOR-Net++); "none" (BinaryNet).
        k_map: multiply by the activation scale K of XNOR-Net; needs groups = 1.
        centre_weights, clamp_weights, fan_in_gradient, real_weights, sign_of_zero: departures of the official BNAS
            code, see `bnas_deploy.search.models.bnas.config.DEPARTURES`. The first two change the weights in place
            whenever the layer runs in training mode, as the code does before each step.

    Attributes:
        padding: zeros above and left, (vertical, horizontal).
        extra_padding: how many more there are below and right; 0 but for "same" with an even kernel.

    Raises:
        ValueError: an argument that no binary convolution has.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
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
        if min(in_channels, out_channels, groups) < 1:
            raise ValueError(f"{in_channels} to {out_channels} channels in {groups} groups; each must be at least 1")
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"{groups} groups do not divide {in_channels} and {out_channels} channels")
        if k_map and groups > 1:
            raise ValueError("the K map is a mean over all channels, so it needs groups=1")
        if scale not in get_args(Scale):
            raise ValueError(f"unknown scale {scale!r}; there are {', '.join(get_args(Scale))}")
        if padding_mode != "zeros":
            raise ValueError(
                f"padding_mode={padding_mode!r}: a binary convolution pads with zeros only; put a padding layer of "
                "torch.nn in front, such as nn.ReflectionPad2d, and give padding=0"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair("kernel_size", kernel_size, least=1)
        self.stride = _pair("stride", stride, least=1)
        self.dilation = _pair("dilation", dilation, least=1)
        self.padding, self.extra_padding = self._zeros(padding)
        self.groups = groups
        self.scale = scale
        self.k_map = k_map
        self.centre_weights = centre_weights
        self.clamp_weights = clamp_weights
        self.fan_in_gradient = fan_in_gradient
        self.real_weights = real_weights
        self.sign_of_zero = sign_of_zero
        group_channels = in_channels // groups
        self.weight = nn.Parameter(
            torch.empty(out_channels, group_channels, *self.kernel_size, device=device, dtype=dtype)
        )
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # what nn.Conv2d does
        self.learned_scale = self._per_channel(1.0) if scale == "learned" else None
        self.bias = self._per_channel(0.0) if bias else None
        if self.bias is not None:
            bound = (group_channels * self.kernel_size[0] * self.kernel_size[1]) ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)  # as nn.Conv2d does

    def _per_channel(self, value: float) -> nn.Parameter:
        return nn.Parameter(self.weight.new_full((self.out_channels,), value))

    def _zeros(self, padding: Sizes | str) -> tuple[Pair, Pair]:
        """Return the padding above and left, and how much more there is below and right."""
        if not isinstance(padding, str):
            return _pair("padding", padding, least=0), (0, 0)
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding != "same":
            raise ValueError(f'padding={padding!r}: wanted a number, (vertical, horizontal), "same" or "valid"')
        if self.stride != (1, 1):
            raise ValueError(f'padding="same" with stride {self.stride}: a strided convolution does not keep the size')
        vertical, horizontal = (step * (size - 1) for step, size in zip(self.dilation, self.kernel_size, strict=True))
        return (vertical // 2, horizontal // 2), (vertical % 2, horizontal % 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return conv(sign(x), sign(W)) * scale, times K and plus the bias if asked for."""
        activations = sign_activation(x, sign_of_zero=self.sign_of_zero)
        if self.real_weights:
            y = self.convolve(activations, self.weight)
        else:
            if self.training:
                self.renew_weight()
            signs, scale = self.binarised(self.weight, renewed=self.training)
            y = self.convolve(activations, signs) * scale[:, None, None]
            if self.k_map:
                padded = with_extra_padding(x, self.extra_padding)
                y = y * activation_scale(padded, self.kernel_size, self.stride, self.padding, self.dilation)
        return y if self.bias is None else y + self.bias[:, None, None]

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve with the geometry of this layer."""
        x = with_extra_padding(x, self.extra_padding)
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
        ) + (", bias=True" if self.bias is not None else "")


class BinaryLinear(nn.Module):
    """sign(x) times 1-bit weights: (..., in_features) to (..., out_features); a 1x1 `BinaryConv2d` on one pixel.

    The arguments are those of `torch.nn.Linear`, but for the bias, which is off.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        scale: Scale = "beta",
    ) -> None:
        super().__init__()
        self.conv = BinaryConv2d(in_features, out_features, 1, bias=bias, device=device, dtype=dtype, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return sign(x) @ sign(W).T * scale, plus the bias if there is one."""
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        y: Tensor = self.conv(rows.unsqueeze(-1).unsqueeze(-1))
        y = y.flatten(1)
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], y.shape[-1])


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


def with_extra_padding(x: Tensor, extra: Pair) -> Tensor:
    """Return x (N, C, H, W) with more zeros below and right, (rows, columns) of them."""
    return F.pad(x, (0, extra[1], 0, extra[0])) if any(extra) else x


def _pair(name: str, value: Sizes, *, least: int) -> Pair:
    sizes = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, Sequence) else ()
    if len(sizes) != 2 or not all(isinstance(size, int) and size >= least for size in sizes):
        raise ValueError(f"{name}={value!r}: wanted a number or (vertical, horizontal), integers of at least {least}")
    return sizes[0], sizes[1]
