"""Binary layers that any network can be made of. The exporter knows these, and torch's own layers."""

from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.search.nn.estimators import activation_scale
from bnas_deploy.search.nn.geometry import Geometry, Pair, Sizes
from bnas_deploy.search.nn.scheme import Exported, Scheme
from bnas_deploy.search.nn.scheme_layer import SchemeLayer
from bnas_deploy.search.nn.schemes.xnor_net import XnorNet


class BinaryConv2d(SchemeLayer):
    """Convolution of signs with 1-bit weights: (N, C, H, W) to (N, O, OH, OW).

        y = conv(sign(x), sign(W)) * scale [* K] [+ bias]

    The scheme makes the signs and the scale. The sum is over ±1 and 0, so it is an exact integer; the scale is
    multiplied and the bias added afterwards. Only where a CPU trains in float32 are the weights multiplied by the scale
    beforehand: that saves three passes over y and its gradient, and the sum rounds as any other.
    The arguments up to `dtype` are those of `torch.nn.Conv2d` in their order, but for the bias, which is off.

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: one number or (height, width).
        stride: one number or (vertical, horizontal).
        padding: rows and columns on each side, one number or (vertical, horizontal); or "valid" for none. "same" keeps
            the size, with stride 1; an odd row or column is at the bottom or right.
        dilation: one number or (vertical, horizontal).
        groups: as in `torch.nn.Conv2d`.
        bias: add a parameter (O).
        padding_mode: "zeros"; for another one, put one of torch's padding layers in front.
        device, dtype: of the parameters.
        scheme: makes signs and scale; see `bnas_deploy.search.nn.schemes`.
        pad_value: the scheme's activation at the padding: 0, or the sign -1 or +1 (QuickNet has +1).
        extra_padding: rows and columns more below and at the right, one number or (vertical, horizontal).

    Attributes:
        padding: how much there is above and left, (vertical, horizontal).
        extra_padding: how many more there are below and right; of "same" with an even kernel one.

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
        scheme: Scheme = XnorNet(),  # noqa: B008  # a frozen value
        pad_value: int = 0,
        extra_padding: Sizes = 0,
    ) -> None:
        super().__init__()
        if padding_mode != "zeros":
            raise ValueError(
                f"padding_mode={padding_mode!r}: a binary convolution pads with one number, pad_value; put a padding "
                "layer of torch.nn in front, such as nn.ReflectionPad2d, and give padding=0"
            )
        if scheme.k_map and pad_value:
            raise ValueError(
                f"pad_value={pad_value} with a K map, which is the mean of |x| and 0 at the padding: wanted pad_value=0"
            )
        geometry = Geometry.of(
            *(in_channels, out_channels, kernel_size, stride, padding, dilation, groups),
            pad_value=pad_value,
            extra_padding=extra_padding,
        )
        scheme.check(geometry)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = geometry.kernel_size
        self.stride = geometry.stride
        self.dilation = geometry.dilation
        self.padding, self.extra_padding = geometry.sides
        self.groups = groups
        self.pad_value = int(pad_value)
        shape = scheme.latent_shape((out_channels, geometry.group_channels, *self.kernel_size))
        self.weight = nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # what nn.Conv2d does
        self.set_scheme(scheme)
        self.bias = nn.Parameter(self.weight.new_empty(out_channels)) if bias else None
        if self.bias is not None:
            bound = (geometry.group_channels * self.kernel_size[0] * self.kernel_size[1]) ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)  # as nn.Conv2d does

    @classmethod
    def of(cls, geometry: Geometry, scheme: Scheme, *, bias: bool = False) -> Self:
        """Return the layer of a geometry, which a scheme's `convolution` has.

        Raises:
            ValueError: no binary convolution of the scheme has the geometry.
        """
        return cls(
            *geometry.arguments,
            bias=bias,
            scheme=scheme,
            pad_value=geometry.pad_value,
            extra_padding=geometry.extra_padding,
        )

    def has(self, geometry: Geometry) -> bool:
        """Tell whether this is the geometry of the layer."""
        return (
            (self.in_channels, self.out_channels, self.kernel_size) == geometry.arguments[:3]
            and (self.stride, self.dilation, self.groups) == (geometry.stride, geometry.dilation, geometry.groups)
            and (self.padding, self.extra_padding, self.pad_value) == (*geometry.sides, geometry.pad_value)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return conv(sign(x), sign(W)) * scale, times K and plus the bias if asked for."""
        signs = self.scheme_now.activations(x, self.learned)
        if self.training and not _is_rounded(x.device):
            y = self.convolve(signs, self.effective_weight())
        else:
            binarised = self.binarised()
            y = self.convolve(signs, binarised.weight) * binarised.scale[:, None, None]
        if self.scheme.k_map:
            padded = with_extra_padding(x, self.extra_padding)
            y = y * activation_scale(padded, self.kernel_size, self.stride, self.padding, self.dilation)
        return y if self.bias is None else y + self.bias[:, None, None]

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve with the geometry of this layer; x is padded with `pad_value`."""
        if self.pad_value and self.is_padded:
            x = F.pad(x, sides_of(self.padding, self.extra_padding), value=self.pad_value)
            return F.conv2d(x, weight, None, self.stride, 0, self.dilation, self.groups)
        x = with_extra_padding(x, self.extra_padding)
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    @property
    def is_padded(self) -> bool:
        """Tell whether there is any padding."""
        return any((*self.padding, *self.extra_padding))

    def exported(self) -> Exported:
        """Return what an operator holds for this layer.

        Raises:
            ValueError: the scheme gives something else: thresholds of other channels, weights of more than a bit, or
                a padding that no operator has.
        """
        exported = self._with_padding(self.scheme.exported(self.weight, self.learned, self.in_channels))
        if len(exported.threshold) != self.in_channels:
            raise ValueError(
                f"{self.scheme}: {len(exported.threshold)} thresholds, wanted one for each of {self.in_channels} input "
                "channels, all groups together"
            )
        is_bit = exported.weight.abs() == 1
        if exported.sign_of_zero:
            is_bit |= exported.weight == 0
        if self.scheme.weight_bits == 1 and not is_bit.all():
            raise ValueError(f"{self.scheme}: exported weights other than +1 and -1, and its weight_bits are 1")
        return exported

    def _with_padding(self, exported: Exported) -> Exported:
        """Return what the scheme exports with this layer's padding; 0 where there is none."""
        if not self.is_padded:
            return replace(exported, pad_value=0)
        if self.pad_value and exported.pad_value:
            raise ValueError(
                f"pad_value={self.pad_value} with {self.scheme}, whose zeros at the padding are exported as the sign "
                f"{exported.pad_value}: wanted pad_value=0"
            )
        padded = replace(exported, pad_value=self.pad_value or exported.pad_value)
        if padded.pad_value and self.scheme.k_map:
            raise ValueError(
                f"{self.scheme}: signs of {padded.pad_value} at the padding and a K map, which is 0 there: wanted one "
                "of the two"
            )
        return padded

    def extra_repr(self) -> str:
        """Return the settings, for `print(layer)`."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, scheme={self.scheme}"
        )
        text += f", pad_value={self.pad_value}" if self.pad_value else ""
        return text + (", bias=True" if self.bias is not None else "")


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
        scheme: Scheme = XnorNet(),  # noqa: B008  # a frozen value
    ) -> None:
        super().__init__()
        self.conv = BinaryConv2d(in_features, out_features, 1, bias=bias, device=device, dtype=dtype, scheme=scheme)

    def forward(self, x: Tensor) -> Tensor:
        """Return sign(x) @ sign(W).T * scale, plus the bias if there is one."""
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        y: Tensor = self.conv(rows.unsqueeze(-1).unsqueeze(-1))
        y = y.flatten(1)
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], y.shape[-1])


class BinaryWeightConv2d(SchemeLayer, nn.Conv2d):
    """Convolution of float activations with the weights of a scheme, sign(W) times scale, and a float bias.

    Args:
        args, kwargs: those of `torch.nn.Conv2d`.
        scheme: how the weights are made; activations stay as they are.
    """

    def __init__(self, *args: Any, scheme: Scheme = XnorNet(), **kwargs: Any) -> None:  # noqa: B008  # a frozen value
        super().__init__(*args, **kwargs)
        geometry = Geometry.of(self.in_channels, self.out_channels, self.kernel_size, groups=self.groups)
        scheme.check(geometry)
        shape = tuple(self.weight.shape)
        if scheme.latent_shape(shape) != shape:
            self.weight = nn.Parameter(self.weight.new_empty(scheme.latent_shape(shape)))
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.set_scheme(scheme)

    def forward(self, x: Tensor) -> Tensor:
        """Return conv(x, sign(W) * scale) + bias."""
        y: Tensor = self._conv_forward(x, self.effective_weight(), self.bias)
        return y


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


def with_extra_padding(x: Tensor, extra: Pair) -> Tensor:
    """Return x (N, C, H, W) with more zeros below and right, (rows, columns) of them."""
    return F.pad(x, (0, extra[1], 0, extra[0])) if any(extra) else x


def sides_of(padding: Pair, extra: Pair) -> list[int]:
    """Return a layer's padding as `F.pad` wants it: left, right, top, bottom."""
    (vertical, horizontal), (rows, columns) = padding, extra
    return [horizontal, horizontal + columns, vertical, vertical + rows]


def _is_rounded(device: torch.device) -> bool:
    """Tell whether convolutions may round their operands: ±1 stays exact, a scale does not."""
    if device.type == "cuda" and not torch.backends.cudnn.allow_tf32:
        return torch.is_autocast_enabled(device.type)
    return device.type != "cpu" or torch.is_autocast_enabled(device.type)
