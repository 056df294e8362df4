"""Sign, its gradient, beta and K, against numpy written out as loops.

Where values are compared exactly they are multiples of a power of two, so that no sum rounds.
"""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from bnas_deploy.core import bits
from bnas_deploy.search.nn.estimators import (
    activation_scale,
    scale_gradient,
    scaled_sign,
    sign_activation,
    sign_weight,
    weight_scale,
)

NAN, INF = float("nan"), float("inf")
BELOW_1 = float(np.nextafter(np.float32(1), np.float32(0)))
ABOVE_1 = float(np.nextafter(np.float32(1), np.float32(2)))
CORNERS = [0.0, -0.0, NAN, INF, -INF, 1e-45, -1e-45, 0.5, -0.5, 1.0, -1.0]


def gradient(y: Tensor, x: Tensor, g: Tensor | None = None) -> np.ndarray:
    """Return dL/dx where dL/dy is g, or all ones."""
    (found,) = torch.autograd.grad(y, x, torch.ones_like(y) if g is None else g)
    return found.numpy()


@pytest.mark.parametrize("binarise", [sign_activation, sign_weight])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_sign_is_that_of_the_bit_convention(binarise: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    x = torch.tensor(CORNERS, dtype=dtype)
    y = binarise(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.float().numpy(), bits.sign(x.float().numpy()))


def test_sign_of_zero_and_nan() -> None:
    assert sign_activation(torch.tensor([0.0, -0.0, NAN, INF, -INF])).tolist() == [1, 1, -1, 1, -1]


@pytest.mark.parametrize(
    ("x", "want"),
    [
        *((x, 1) for x in (0.0, -0.0, 0.5, -0.5, BELOW_1, -BELOW_1)),
        *((x, 0) for x in (1.0, -1.0, ABOVE_1, -ABOVE_1, 7.0, -7.0, INF, -INF)),
    ],
)
def test_gradient_of_an_activation_passes_inside_the_open_interval(x: float, want: int) -> None:
    values = torch.tensor([x], requires_grad=True)
    assert gradient(sign_activation(values), values, torch.tensor([3.0])) == 3 * want


@pytest.mark.parametrize(
    ("w", "want"),
    [
        *((w, 1) for w in (0.0, -0.0, 0.5, -0.5, 1.0, -1.0)),
        *((w, 0) for w in (ABOVE_1, -ABOVE_1, 7.0, -7.0, INF, -INF)),
    ],
)
def test_gradient_of_a_weight_passes_inside_the_closed_interval(w: float, want: int) -> None:
    values = torch.tensor([w], requires_grad=True)
    assert gradient(sign_weight(values), values, torch.tensor([3.0])) == 3 * want


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_closed_interval_ends_at_1_in_every_type(dtype: torch.dtype) -> None:
    above = 1 + torch.finfo(dtype).eps
    values = torch.tensor([1.0, -1.0, above, -above], dtype=dtype, requires_grad=True)
    sign_weight(values).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 1, 0, 0]


def test_the_scaled_sign_is_the_sign_times_the_scale_in_values_and_gradient() -> None:
    random = torch.Generator().manual_seed(5)
    weight = torch.randn(5, 6, 3, 3, generator=random, dtype=torch.float64)
    weight[0, 0, 0] = torch.tensor([0.0, -0.0, 1.0])
    weight[1] = 0.0
    weight.requires_grad_()
    grad = torch.randn(weight.shape, generator=random, dtype=torch.float64)
    want = sign_weight(weight) * weight_scale(weight)[:, None, None, None]
    got = scaled_sign(weight)
    assert torch.equal(got, want)
    (wanted,), (gradient_got,) = (torch.autograd.grad(each, weight, grad) for each in (want, got))
    # A sum of 54 products, each below 20, and its rounding in float64.
    torch.testing.assert_close(gradient_got, wanted, rtol=0, atol=54 * 20 * 2**-53)
    assert gradient_got.abs().max() > 0.5


def test_scale_gradient_changes_the_gradient_only() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = scale_gradient(x, 2.5)
    assert y.tolist() == x.tolist()
    assert gradient(y, x).tolist() == [2.5, 2.5]


def test_beta_is_the_mean_magnitude_of_an_output_channel(rng: np.random.Generator) -> None:
    weight = rng.integers(-8, 9, (3, 2, 4, 2)) / 8
    beta = weight_scale(torch.tensor(weight))
    # 16 multiples of 1/8, divided by 16: exact in float64.
    assert beta.tolist() == [sum(abs(w) for w in channel.flat) / 16 for channel in weight]


def numpy_gradient(weight: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return dL/dW for g = dL/dW~, W~ = beta(W) sign(W), by the formula in `weight_scale`, one weight at a time."""
    found = np.zeros_like(weight)
    for channel, (w, g_channel) in enumerate(zip(weight, g, strict=True)):
        n = w.size
        beta = sum(abs(each) for each in w.flat) / n
        through_beta = sum((1 if w_j >= 0 else -1) * g_j for w_j, g_j in zip(w.flat, g_channel.flat, strict=True))
        for at in np.ndindex(w.shape):
            slope = np.sign(w[at])  # of |W|: 0 where the weight is 0
            found[channel][at] = beta * (abs(w[at]) <= 1) * g_channel[at] + slope / n * through_beta
    return found


def test_gradient_through_beta(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(3, 2, 3, 3))
    weight[0, 0, 0] = (0.0, 1.0, -1.0)  # the corners of both terms
    weight[1, 0, 0] = (-0.0, ABOVE_1, -ABOVE_1)
    g = rng.normal(size=weight.shape)
    w = torch.tensor(weight, requires_grad=True)
    got = gradient(sign_weight(w) * weight_scale(w)[:, None, None, None], w, torch.tensor(g))
    # Sums of 18 float64 terms, none above 10 or so: an error of at most 18 * 1.1e-16 * 180.
    np.testing.assert_allclose(got, numpy_gradient(weight, g), rtol=0, atol=1e-12)


def numpy_k(
    x: np.ndarray,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> np.ndarray:
    """Return K, (N, 1, OH, OW), one tap at a time."""
    images, channels, height, width = x.shape
    size = [
        (side + 2 * pad - gap * (taps - 1) - 1) // step + 1
        for side, taps, step, pad, gap in zip((height, width), kernel, stride, padding, dilation, strict=True)
    ]
    k = np.zeros((images, 1, *size), x.dtype)
    for n, i, j in itertools.product(range(images), range(size[0]), range(size[1])):
        for p, q in itertools.product(range(kernel[0]), range(kernel[1])):
            row = i * stride[0] - padding[0] + p * dilation[0]
            column = j * stride[1] - padding[1] + q * dilation[1]
            if 0 <= row < height and 0 <= column < width:
                k[n, 0, i, j] += sum(abs(each) for each in x[n, :, row, column]) / channels
    return k / (kernel[0] * kernel[1])


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((1, 1), (1, 1), (0, 0), (1, 1)),
        ((2, 2), (2, 2), (0, 0), (1, 1)),
        ((3, 3), (1, 1), (1, 1), (1, 1)),
        ((3, 3), (2, 2), (1, 1), (1, 1)),
        ((3, 3), (1, 1), (2, 2), (2, 2)),
        ((5, 5), (2, 2), (4, 4), (2, 2)),
        ((3, 5), (2, 1), (0, 2), (1, 2)),
    ],
)
def test_k_map(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    x = rng.integers(-8, 9, (2, 4, 9, 12)) / 8
    got = activation_scale(torch.tensor(x), kernel, stride, padding, dilation)
    # Means of 4 multiples of 1/8 are exact, and so is their sum; the division is one rounding on both sides.
    np.testing.assert_array_equal(got.numpy(), numpy_k(x, kernel, stride, padding, dilation))


def test_a_padded_tap_of_k_counts_as_zero() -> None:
    k = activation_scale(torch.ones(1, 1, 3, 3), (3, 3), (1, 1), (1, 1), (1, 1))
    assert (9 * k).round().int().flatten().tolist() == [4, 6, 4, 6, 9, 6, 4, 6, 4]
