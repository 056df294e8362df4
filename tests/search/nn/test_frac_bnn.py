"""FracBNN: activations of two bits behind a gate, and images in thermometer code, against slow forms of the paper's."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bnas_deploy.search.nn.estimators import gate_above
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.scheme import ExcludedError
from bnas_deploy.search.nn.schemes import named_scheme
from bnas_deploy.search.nn.thermometer import Marks, ThermometerConv2d

CLOSE = {"rtol": 1e-9, "atol": 1e-9}  # float64, and sums of some dozens


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return `hard` to float64's rounding, with the gradient of `soft`."""
    return soft + (hard - soft).detach()


def signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).double()


def by_hand(x: Tensor, weight: Tensor, threshold: Tensor) -> Tensor:
    """Round to two bits, convolve these where the sum of the first bits is large, and the first bits elsewhere."""
    clipped = x.clamp(-1, 1)
    two_bits = straight_through(((clipped + 1) * 1.5).round() / 1.5 - 1, clipped)
    one_bit = straight_through(signs(two_bits), clipped)
    binary = straight_through(signs(weight), weight.clamp(-1.3, 1.3))
    first, both = (F.conv2d(each, binary, stride=2, padding=1) for each in (one_bit * 2 / 3, two_bits))
    level = threshold[:, None, None]
    is_open = (first >= level).double()
    gate = straight_through(is_open, torch.sigmoid(5 * (first - level)) * is_open)
    return (1 - gate) * first + gate * both


def test_values_and_gradients() -> None:
    torch.manual_seed(0)
    layer = named_scheme("frac-bnn").convolution(Geometry.of(3, 4, 3, 2, 1)).double()
    first = layer.first
    with torch.no_grad():
        first.weight.mul_(10)  # some beyond 1.3
        first.gate.copy_(torch.tensor([-1.0, 0.0, 1.0, 1e3]))  # the last gate stays shut
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    got, want = layer(x), by_hand(x, first.weight, first.gate)
    torch.testing.assert_close(got, want, **CLOSE)
    factors, inputs = torch.randn_like(want), (x, first.weight, first.gate)
    slow = torch.autograd.grad((factors * want).sum(), inputs)
    for mine, other in zip(torch.autograd.grad((factors * got).sum(), inputs), slow, strict=True):
        torch.testing.assert_close(mine, other, **CLOSE)


def test_ties_of_the_rounding_are_those_of_the_code() -> None:
    """The code rounds ties to even: -2/3 to -1, 0 to 1/3, 2/3 to 1/3."""
    layer = named_scheme("frac-bnn").convolution(Geometry.of(1, 1, 1)).eval()
    with torch.no_grad():
        layer.first.weight.fill_(1.0)
        y = layer(torch.tensor([-2 / 3, 0.0, 2 / 3, 1.0]).reshape(1, 1, 1, 4))
    torch.testing.assert_close(y.flatten(), torch.tensor([-1.0, 1 / 3, 1 / 3, 1.0]))


def test_a_copy_shares_its_own_parameters() -> None:
    layer = copy.deepcopy(named_scheme("frac-bnn").convolution(Geometry.of(3, 4, 3), bias=True)).double()
    assert set(dict(layer.named_parameters())) == {"bias", "first.weight", "first.gate"}
    assert layer.second.weight is layer.first.weight
    assert layer.gate is layer.first.gate


def test_a_gate_opens_at_its_level() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    gate = gate_above(x, torch.zeros(()), 2.0)
    gate.sum().backward()
    assert gate.tolist() == [0.0, 1.0, 1.0]
    soft = torch.sigmoid(2 * x.detach())
    torch.testing.assert_close(x.grad, torch.where(x >= 0, 2 * soft * (1 - soft), 0.0))


@pytest.mark.parametrize("pad_value", [-1, 1])
def test_two_bits_have_no_sign_at_the_padding(pad_value: int) -> None:
    with pytest.raises(ExcludedError, match=rf"its padding holds the sign \{pad_value:+}, and"):
        named_scheme("frac-bnn").convolution(Geometry.of(3, 4, 3, 1, 1, pad_value=pad_value))


def test_images_in_thermometer_code() -> None:
    torch.manual_seed(0)
    marks = Marks(count=4, low=-1.0, high=1.0)
    layer = ThermometerConv2d(Geometry.of(2, 3, 3, 1, 1), marks)
    images = torch.randn(2, 2, 5, 4)
    code = torch.stack([signs(images - mark) for mark in (-0.75, -0.25, 0.25, 0.75)], dim=2).flatten(1, 2)
    want = F.conv2d(code, signs(layer.conv.weight), padding=1).float()
    assert torch.equal(layer.eval()(images), want)
    float_weight = torch.randn(3, 2, 3, 3)
    layer.load_state_dict(layer.latent(float_weight))
    torch.testing.assert_close(layer.real_weight(), float_weight)
