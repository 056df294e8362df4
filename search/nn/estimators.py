"""Sign with the gradients that the papers give it, and the binarisation of weights by XNOR-Net.

The sign follows `bnas_deploy.core.bits`: x >= 0 gives +1. With `sign_of_zero`, the deviation of that name, 0 gives 0.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor


class _Sign(torch.autograd.Function):
    """+1 where x >= 0, else -1, or 0 where x is 0 if that is asked for; the gradient passes where |x| < bound."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float, sign_of_zero: bool) -> Tensor:
        # x itself, which the operations of a cell share, and not where it is inside: each pass over it costs as much.
        ctx.save_for_backward(x)
        ctx.bound = bound
        if sign_of_zero:
            return torch.sign(x)
        # 2 [x >= 0] - 1, written where it is computed: on a CPU ten times as fast as `where` of two numbers.
        return torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        inside: Tensor = torch.ops.aten.hardtanh_backward(grads[0], x, -ctx.bound, ctx.bound)
        return inside, None, None


class _SignWithSlope(torch.autograd.Function):
    """+1 where x >= 0, else -1; the gradient is multiplied by a function of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.slope(x).mul_(grads[0]), None


class _UnitStep(torch.autograd.Function):
    """1 where x >= alpha / 2, else 0; see `unit_step`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha)
        return torch.ge(x, alpha / 2, out=torch.empty_like(x))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        x, alpha = ctx.saved_tensors
        inside = torch.where((x >= 0) & (x <= alpha), grads[0], 0.0) / alpha
        of_alpha = -(inside * x / alpha).sum().reshape(alpha.shape) if ctx.needs_input_grad[1] else None
        return inside, of_alpha


class _StepInWindow(torch.autograd.Function):
    """1 where x >= 0, else `below`; the gradient passes where low <= x <= high."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor, below: float) -> Tensor:
        ctx.save_for_backward(x, low, high)
        return torch.ge(x, 0, out=torch.empty_like(x)).mul_(1 - below).add_(below)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x, low, high = ctx.saved_tensors
        return torch.where((x >= low) & (x <= high), grads[0], 0.0), None, None, None


class _GateAbove(torch.autograd.Function):
    """1 where x >= level, else 0; see `gate_above`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, level: Tensor, steepness: float) -> Tensor:
        ctx.save_for_backward(x, level)
        ctx.steepness = steepness
        return torch.ge(x, level).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, level = ctx.saved_tensors
        soft = torch.sigmoid(ctx.steepness * (x - level))
        slope = torch.where(x >= level, ctx.steepness * soft * (1 - soft) * grads[0], 0.0)
        return slope, -slope.sum_to_size(level.shape), None


class _ScaledSign(torch.autograd.Function):
    """beta(W) sign(W) of XNOR-Net in one step; see `scaled_sign`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        beta = weight_scale(weight)[:, None, None, None]
        # 2 beta [w >= 0] - beta: nothing is rounded.
        scaled = torch.ge(weight, 0, out=torch.empty_like(weight)).mul_(2 * beta).sub_(beta)
        ctx.save_for_backward(weight, beta, scaled)
        return scaled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        weight, beta, scaled = ctx.saved_tensors
        (grad,) = grads
        through_beta = (scaled * grad).mean(dim=(1, 2, 3), keepdim=True)  # beta times what is wanted
        bound = 1 + torch.finfo(weight.dtype).eps
        inside: Tensor = torch.ops.aten.hardtanh_backward(grad, weight, -bound, bound)
        beta_is_not_0 = beta.clamp(min=torch.finfo(beta.dtype).tiny)  # where it is, every sign below is 0
        return inside.mul_(beta).addcmul_(torch.sign(weight), through_beta / beta_is_not_0)


class _CentredAndClamped(torch.autograd.Function):
    """Weights centred and clamped; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, centre: bool, clamp: bool) -> Tensor:
        if centre:
            weight = weight - weight.mean(dim=1, keepdim=True)
        return weight.clamp(-1, 1) if clamp else weight.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None


class _ScaleGradient(torch.autograd.Function):
    """The identity; the gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


def sign_activation(x: Tensor, *, sign_of_zero: bool = False) -> Tensor:
    """Binarise activations; the gradient passes where -1 < x < 1 and is 0 elsewhere."""
    return _sign(x, 1.0, sign_of_zero)


def sign_weight(weight: Tensor, *, sign_of_zero: bool = False) -> Tensor:
    """Binarise weights; the gradient passes where |w| <= 1, which is below the next number above 1."""
    return _sign(weight, 1 + torch.finfo(weight.dtype).eps, sign_of_zero)


def _sign(x: Tensor, bound: float, sign_of_zero: bool) -> Tensor:
    signed: Tensor = _Sign.apply(x, bound, sign_of_zero)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
    return signed


def approximate_sign(x: Tensor) -> Tensor:
    """Binarise activations with the gradient of Bi-Real Net's ApproxSign, 2 - 2 |x| where |x| < 1 and 0 elsewhere.

    It is the slope of the parabolas 2x + x^2 (x < 0) and 2x - x^2 (Liu et al. 2018).
    """
    return _sign_with(x, _slope_of_parabolas)


def _slope_of_parabolas(x: Tensor) -> Tensor:
    return (2 - 2 * x.abs()).clamp_(min=0)


def tanh_sign(x: Tensor, t: float) -> Tensor:
    """Binarise with the gradient of IR-Net's EDE: that of k tanh(t x), k = max(1/t, 1) (Qin et al. 2020)."""
    return _sign_with(x, partial(_slope_of_tanh, t=t))


def _slope_of_tanh(x: Tensor, t: float) -> Tensor:
    return (1 - torch.tanh(t * x).square_()).mul_(max(1 / t, 1) * t)


def swish_sign(x: Tensor, beta: float) -> Tensor:
    """Binarise with the gradient of SignSwish (Darabi et al. 2018), which larq calls SwishSign:

    beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x))
    """  # noqa: D400, D415  # the formula ends the sentence
    return _sign_with(x, partial(_slope_of_swish, beta=beta))


def _slope_of_swish(x: Tensor, beta: float) -> Tensor:
    # cosh overflows where its inverse is 0 all the same; the product with beta x has to stay finite there.
    bx = (beta * x).clamp(-80, 80)
    return beta * (2 - bx * torch.tanh(bx / 2)) / (1 + torch.cosh(bx))


def sign_passing_all(x: Tensor) -> Tensor:
    """Binarise; the gradient passes everywhere, as DoReFa-Net has it for weights."""
    return _sign_with(x, torch.ones_like)


def _sign_with(x: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
    signed: Tensor = _SignWithSlope.apply(x, slope)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
    return signed


def unit_step(x: Tensor, alpha: Tensor) -> Tensor:
    """Return round(clip(x / alpha, 0, 1)), 0 or 1, where a tie goes up: 1 where x >= alpha / 2.

    With q the result, the rounding passes the gradient as it is, so that

        dq/dx = 1{0 <= x <= alpha} / alpha          dq/dalpha = -1{0 <= x <= alpha} x / alpha^2

    Args:
        x: of any shape.
        alpha: one number, above 0.
    """
    stepped: Tensor = _UnitStep.apply(x, alpha)  # type: ignore[no-untyped-call]  # as above
    return stepped


def step_in_window(x: Tensor, low: Tensor, high: Tensor, *, below: float) -> Tensor:
    """Return 1 where x >= 0, else `below`, which is 0 or -1; the gradient passes where low <= x <= high."""
    stepped: Tensor = _StepInWindow.apply(x, low, high, below)  # type: ignore[no-untyped-call]  # as above
    return stepped


def gate_above(x: Tensor, level: Tensor, steepness: float) -> Tensor:
    """Return 1 where x >= level, else 0; where it is 1 it has the gradient of sigmoid(steepness (x - level)).

    So FracBNN opens a gate (Zhang et al. 2021). Level broadcasts to x.
    """
    gate: Tensor = _GateAbove.apply(x, level, steepness)  # type: ignore[no-untyped-call]  # as above
    return gate


def standardised(weight: Tensor, *, correction: int = 0) -> Tensor:
    """Return weights (O, C, KH, KW) with mean 0 and variance 1 in each output channel (Qiao et al. 2019).

    Autograd goes through both. `correction` is that of the variance, as `torch.var` has it; a filter of equal weights
    becomes 0.
    """
    variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=correction, keepdim=True)
    return (weight - mean) * (variance + _LEAST_VARIANCE).rsqrt()


_LEAST_VARIANCE = 1e-20  # far below that of any weights in use: it keeps 0 / 0 out


def centred_and_clamped(weight: Tensor, *, centre: bool, clamp: bool) -> Tensor:
    """Return weights (O, C, KH, KW) with the mean over C subtracted and then clamped to -1..1, each if asked for.

    The gradient passes as if nothing had been done: the official BNAS code does this to its weights in place.
    """
    if not (centre or clamp):
        return weight
    latent: Tensor = _CentredAndClamped.apply(weight, centre, clamp)  # type: ignore[no-untyped-call]  # as above
    return latent


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


def scaled_sign(weight: Tensor) -> Tensor:
    """Return beta(W) sign(W), (O, C, KH, KW), with the gradient that `weight_scale` derives.

    It is what `sign_weight` and `weight_scale` give, in a third of their passes over the weights.
    """
    scaled: Tensor = _ScaledSign.apply(weight)  # type: ignore[no-untyped-call]  # as above
    return scaled


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
