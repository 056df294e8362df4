"""The gradients of every scheme against slow ones: soft functions that autograd derives, in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.search.nn.estimators import (
    approximate_sign,
    sign_passing_all,
    standardised,
    swish_sign,
    tanh_sign,
    unit_step,
)
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.image_size import fit_to_images
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.schemes import named_scheme
from bnas_deploy.search.nn.schemes.ir_net import IrNet

CLOSE = {"rtol": 1e-12, "atol": 1e-12}  # float64, and a few operations a number


def points() -> Tensor:
    """Return numbers on both sides of every kink, but none on one."""
    return torch.linspace(-3.005, 3.015, 80, dtype=torch.float64)


def derivative(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    return slope


def parabolas(x: Tensor) -> Tensor:
    """Bi-Real Net: -1, 2x + x^2, 2x - x^2, 1."""
    inner = torch.where(x < 0, 2 * x + x**2, 2 * x - x**2)
    return torch.where(x.abs() < 1, inner, torch.sign(x))


def swish(x: Tensor, beta: float = 5.0) -> Tensor:
    """BNN+: 2 sigmoid(beta x) (1 + beta x (1 - sigmoid(beta x))) - 1."""
    sigmoid = torch.sigmoid(beta * x)
    return 2 * sigmoid * (1 + beta * x * (1 - sigmoid)) - 1


@pytest.mark.parametrize(
    ("estimator", "soft"),
    [
        (approximate_sign, parabolas),
        (lambda x: tanh_sign(x, 0.1), lambda x: 10 * torch.tanh(0.1 * x)),
        (lambda x: tanh_sign(x, 1.0), torch.tanh),
        (lambda x: tanh_sign(x, 10.0), lambda x: torch.tanh(10 * x)),
        (lambda x: swish_sign(x, 5.0), swish),
        (lambda x: swish_sign(x, 2.0), lambda x: swish(x, 2.0)),
        (sign_passing_all, lambda x: x),
    ],
    ids=["parabolas", "tanh 0.1", "tanh 1", "tanh 10", "swish 5", "swish 2", "all"],
)
def test_a_sign_has_the_gradient_of_its_soft_form(
    estimator: Callable[[Tensor], Tensor], soft: Callable[[Tensor], Tensor]
) -> None:
    x = points()
    assert torch.equal(estimator(x), torch.where(x >= 0, 1.0, -1.0).double())
    torch.testing.assert_close(derivative(estimator, x), derivative(soft, x), **CLOSE)
    assert estimator(torch.zeros(1)).item() == 1.0


def test_the_swish_is_finite_far_away() -> None:
    x = torch.tensor([-1e30, -1e3, 1e3, 1e30])
    assert (derivative(lambda each: swish_sign(each, 5.0), x).abs() < 1e-30).all()


def test_a_step_has_the_gradient_of_a_clip_that_is_rounded() -> None:
    """round(clip(x / alpha, 0, 1)) where the rounding passes the gradient, by autograd."""
    for value in (0.5, 1.0, 2.5):
        x, alpha = points().requires_grad_(), torch.tensor(value, dtype=torch.float64, requires_grad=True)
        factors = torch.randn(80, dtype=torch.float64)
        clipped = (x / alpha).clamp(0, 1)
        want = torch.autograd.grad((factors * clipped).sum(), (x, alpha))
        stepped = unit_step(x, alpha)
        assert torch.equal(stepped, clipped.round())
        for got, slow in zip(torch.autograd.grad((factors * stepped).sum(), (x, alpha)), want, strict=True):
            torch.testing.assert_close(got, slow, **CLOSE)


def test_a_tie_goes_up() -> None:
    assert torch.equal(unit_step(torch.tensor([0.75, 0.7499999]), torch.tensor(1.5)), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("correction", [0, 1])
def test_standardised_filters(correction: int) -> None:
    weight = torch.randn(4, 3, 3, 2, dtype=torch.float64)
    want = torch.stack([(each - each.mean()) / each.std(correction=correction) for each in weight])
    torch.testing.assert_close(standardised(weight, correction=correction), want, **CLOSE)
    assert torch.equal(standardised(torch.ones(2, 3, 1, 1)), torch.zeros(2, 3, 1, 1))


def weight_gradient(name: str, weight: Tensor, factors: Tensor) -> Tensor:
    """Return the gradient of the sum of `factors` times the weights of a scheme."""
    weight = weight.clone().requires_grad_()
    scheme = named_scheme(name)
    learned = {key: value.requires_grad_() for key, value in scheme.parameters(weight.detach(), 3).items()}
    (gradient,) = torch.autograd.grad((factors * scheme.effective_weight(weight, learned)).sum(), weight)
    return gradient


def weights_and_factors() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return 1.2 * torch.randn(4, 3, 3, 3, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize("name", ["bi-real", "reactnet"])
def test_weights_whose_gradient_is_aware_of_magnitude(name: str) -> None:
    weight, factors = weights_and_factors()
    want = torch.zeros_like(weight)
    for o in range(4):
        beta = weight[o].abs().sum() / 27
        for index in torch.cartesian_prod(*(torch.arange(3),) * 3).tolist():
            at = (o, *index)
            want[at] = beta * factors[at] if weight[at].abs() <= 1 else 0
    torch.testing.assert_close(weight_gradient(name, weight, factors), want, **CLOSE)


def test_weights_of_ir_net() -> None:
    """The gradient of s k tanh(t W^), with s held, by autograd through W^."""
    weight, factors = weights_and_factors()
    latent = weight.clone().requires_grad_()
    balanced = torch.stack([(each - each.mean()) / each.std() for each in latent])
    mean = balanced.detach().abs().mean(dim=(1, 2, 3))
    scale = torch.tensor([2.0 ** round(math.log2(each)) for each in mean], dtype=torch.float64)[:, None, None, None]
    (want,) = torch.autograd.grad((factors * scale * 10 * torch.tanh(0.1 * balanced)).sum(), latent)
    torch.testing.assert_close(weight_gradient("ir-net", weight, factors), want, **CLOSE)
    binarised = named_scheme("ir-net").weights(weight, {})
    assert torch.equal(binarised.scale, scale.flatten())


@pytest.mark.parametrize(("progress", "t"), [(0.0, 0.1), (0.5, 1.0), (0.75, 10**0.5), (1.0, 10.0)])
def test_how_steep_ir_nets_gradient_is(progress: float, t: float) -> None:
    assert IrNet().at(progress).t == pytest.approx(t, rel=1e-12)
    assert IrNet(least_t=1e-3).at(progress).t == pytest.approx(1e-3 * 1e4**progress, rel=1e-12)


def test_thresholds_of_reactnet() -> None:
    """The gradient of a threshold is that of its channel's signs, with the other sign."""
    layer = BinaryConv2d(3, 4, 1, scheme=named_scheme("reactnet"))
    with torch.no_grad():
        layer.level.copy_(torch.tensor([0.3, -0.2, 0.0]))
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert layer.level.grad is not None
    # 32 sums of float32 a channel
    torch.testing.assert_close(layer.level.grad, -x.grad.sum(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert layer.exported().threshold.equal(torch.tensor([0.3, -0.2, 0.0]))


@pytest.mark.parametrize("name", ["ir-net", "zero-alpha"])
def test_a_filter_of_one_weight_cannot_be_standardised(name: str) -> None:
    with pytest.raises(ValueError, match="a filter of one weight cannot be standardised: its mean is the weight"):
        BinaryConv2d(4, 4, 1, groups=4, scheme=named_scheme(name))
    BinaryConv2d(4, 4, 1, scheme=named_scheme(name))


def test_the_gate_sees_what_signs_are_taken_of() -> None:
    conv = named_scheme("real-to-binary").convolution(Geometry.of(16, 6, 3, 2, 1), bias=True)
    x = torch.randn(2, 16, 5, 5)
    first, second = conv.gate[2].weight, conv.gate[4].weight
    assert first.shape == (2, 16)
    gates = torch.sigmoid(torch.relu(x.mean(dim=(2, 3)) @ first.T) @ second.T)
    signs = torch.where(x >= 0, 1.0, -1.0)
    weight = torch.where(conv.conv.weight >= 0, 1.0, -1.0)
    want = nn.functional.conv2d(signs, weight, stride=2, padding=1) * gates[:, :, None, None]
    torch.testing.assert_close(conv.eval()(x), want, rtol=1e-5, atol=1e-5)  # sums of 16 and 25 numbers in a gate


FORMS = {
    "xnor-net-plus-map": {"scale_map": (6, 3, 4)},
    "xnor-net-plus-outer": {"pixel_scale": (1, 3, 4), "conv.learned_scale": (6,)},
    "xnor-net-plus-axes": {"row_scale": (1, 3, 1), "column_scale": (1, 1, 4), "conv.learned_scale": (6,)},
}


@pytest.mark.parametrize("name", FORMS)
def test_the_forms_of_learned_scales(name: str) -> None:
    conv = named_scheme(name).convolution(Geometry.of(4, 6, 3, 2, 1))
    fit_to_images(conv, 4, (5, 8))
    parameters = dict(conv.named_parameters())
    assert {key: tuple(value.shape) for key, value in parameters.items()} == {
        "conv.weight": (6, 4, 3, 3),
        **FORMS[name],
    }
    factors = [value for key, value in parameters.items() if key != "conv.weight"]
    for factor in factors:
        nn.init.normal_(factor)
    x = torch.randn(2, 4, 5, 8)
    signs, weight = (torch.where(each >= 0, 1.0, -1.0) for each in (x, parameters["conv.weight"]))
    want = nn.functional.conv2d(signs, weight, stride=2, padding=1)
    for factor in factors:
        want = want * (factor[:, None, None] if factor.ndim == 1 else factor)
    torch.testing.assert_close(conv.eval()(x), want)  # up to three factors, in another order


def test_scales_without_a_size() -> None:
    conv = named_scheme("xnor-net-plus-map").convolution(Geometry.of(4, 6, 3))
    with pytest.raises(ValueError, match=r"scale_map has no size yet, .*: call fit_to_images on the network first"):
        conv(torch.randn(1, 4, 5, 5))
    fit_to_images(conv, 4, (5, 5))
    fit_to_images(conv, 4, (5, 5))  # which changes nothing
    with pytest.raises(ValueError, match=r"scale_map is \(6, 3, 3\), made for images of another size: wanted \(6, 4"):
        fit_to_images(conv, 4, (6, 6))
    with pytest.raises(
        ValueError, match=r"scale_map is \(6, 3, 3\), made for images of another size: wanted \(6, 3, 4"
    ):
        conv(torch.randn(1, 4, 5, 6))
