"""Sign with a straight-through gradient, and the binarisation of weights by XNOR-Net.

The convention of the sign is that of `bnas_deploy.bits`: x >= 0 gives +1.
"""

from typing import Any

import torch
from torch import Tensor


class _Sign(torch.autograd.Function):
    """+1 where x >= 0, else -1; the gradient passes where `window` is 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Tensor) -> Tensor:
        ctx.save_for_backward(window)
        # 2 [x >= 0] - 1, written where it is computed: on a CPU twenty times as fast as `where` of two numbers.
        return torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (window,) = ctx.saved_tensors
        return grads[0] * window, None


class _ScaleGradient(torch.autograd.Function):
    """The identity; the gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


def sign_activation(x: Tensor) -> Tensor:
    """Binarise activations; the gradient passes where -1 < x < 1 and is 0 elsewhere."""
    return _sign(x, x.abs() < 1)


def sign_weight(weight: Tensor) -> Tensor:
    """Binarise weights; the gradient passes where |w| <= 1."""
    return _sign(weight, weight.abs() <= 1)


def _sign(x: Tensor, window: Tensor) -> Tensor:
    signed: Tensor = _Sign.apply(x, window)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
    return signed


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return x; multiply its gradient by `factor`."""
    scaled: Tensor = _ScaleGradient.apply(x, factor)  # type: ignore[no-untyped-call]  # as above
    return scaled


def weight_scale(weight: Tensor) -> Tensor:
    """Return beta of XNOR-Net, the mean |W| of each output channel: (O, C, KH, KW) to (O).

    With W~ = beta(W) sign(W), autograd gives, for an incoming gradient g of W~ and n weights per output channel,

        dL/dW_i = beta 1{|W_i| <= 1} g_i + sign(W_i) / n * sum_j sign(W_j) g_j

    that is, the gradient passes through beta as well (BNAS v2, Eq. 3; XNOR-Net, Eq. 6). Where W_i is exactly 0 the
    second term is 0, since |W| has no slope there.
    """
    return weight.abs().mean(dim=(1, 2, 3))


def activation_scale(
    x: Tensor,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """K of XNOR-Net: the mean |x| over the channels, averaged over the kernel: (N, C, H, W) to (N, 1, OH, OW).

    Padded taps count as zeros (BNAS v2, below Eq. 3).
    """
    height, width = kernel_size
    box = torch.ones(1, 1, height, width, dtype=x.dtype, device=x.device)
    summed = torch.nn.functional.conv2d(x.abs().mean(dim=1, keepdim=True), box, None, stride, padding, dilation)
    return summed / (height * width)
