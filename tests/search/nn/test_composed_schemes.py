"""Schemes of several bases or of filters that are made of others, and those with a loss: ABC-Net, CBCN, PCNN, BONN."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import ExcludedError
from bnas_deploy.search.nn.schemes import named_scheme
from bnas_deploy.search.nn.schemes.abc_net import AbcNet, least_squares
from bnas_deploy.search.nn.schemes.bonn import modes
from bnas_deploy.search.nn.schemes.cbcn import Cbcn
from bnas_deploy.search.nn.schemes.pcnn import Pcnn

CLOSE = {"rtol": 1e-9, "atol": 1e-9}  # float64, and sums of some dozens


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return `hard` to float64's rounding, with the gradient of `soft`."""
    return soft + (hard - soft).detach()


def signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).double()


def assert_same_gradients(got: Tensor, want: Tensor, inputs: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(got, want, **CLOSE)
    factors = torch.randn_like(want)
    slow = torch.autograd.grad((factors * want).sum(), inputs)
    for mine, by_hand in zip(torch.autograd.grad((factors * got).sum(), inputs), slow, strict=True):
        torch.testing.assert_close(mine, by_hand, **CLOSE)


# ---- ABC-Net


def abc_by_hand(x: Tensor, weight: Tensor, levels: list[Tensor], factors: list[Tensor], count: int) -> Tensor:
    us = [-1 + 2 * index / (count - 1) for index in range(count)]
    filters = []
    for each in weight:
        flat = each.detach().numpy().ravel()
        bases = np.stack([np.where(flat - flat.mean() + u * flat.std() >= 0, 1.0, -1.0) for u in us], axis=1)
        alpha = np.linalg.solve(bases.T @ bases / len(flat) + 1e-6 * np.eye(count), bases.T @ flat / len(flat))
        summed = torch.from_numpy(bases @ alpha).reshape(each.shape)
        filters.append(straight_through(summed, float(alpha.sum()) * each))
    activations = [
        factor * straight_through(signs(x - level), (x - level + 0.5).clamp(0, 1))
        for level, factor in zip(levels, factors, strict=True)
    ]
    return F.conv2d(torch.stack(activations).sum(0), torch.stack(filters), padding=1)


def test_bases_of_weights_and_activations() -> None:
    torch.manual_seed(0)
    scheme = AbcNet(weight_bases=3, activation_bases=2)
    conv = scheme.convolution(Geometry.of(3, 4, 3, 1, 1)).double()
    names = [name for name, _ in conv.named_parameters()]
    row = ["level", "factor"]
    assert names == ["rows.0.0.weight", *(f"rows.{n}.0.{name}" for n in range(2) for name in row)]
    rows = [each[0] for each in conv.rows]
    assert [each.level.item() for each in rows] == [0.25, 0.75]
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    levels, factors = [each.level for each in rows], [each.factor for each in rows]
    weight = rows[0].weight
    assert_same_gradients(conv(x), abc_by_hand(x, weight, levels, factors, 3), (x, weight, *levels, *factors))


def test_least_squares_of_equal_bases_share_a_factor() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0]])
    bases = torch.tensor([[[1.0, -1.0, 1.0], [1.0, -1.0, 1.0]]])
    torch.testing.assert_close(least_squares(bases, weight), torch.tensor([[1.0, 1.0]]), rtol=1e-3, atol=0)


def test_layers_share_their_weight_through_copies_devices_and_files() -> None:
    conv = named_scheme("abc-net").convolution(Geometry.of(3, 4, 3), bias=True)
    other = copy.deepcopy(conv).to(torch.float64).float()
    with torch.no_grad():
        for parameter in other.parameters():
            nn.init.normal_(parameter)
    layers = [layer for layer in other.modules() if isinstance(layer, BinaryConv2d)]
    assert len(layers) == 9
    assert all(layer.weight is layers[0].weight for layer in layers)
    assert conv.real_weight() is not other.real_weight()
    conv.load_state_dict(other.state_dict())
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(conv.eval()(x), other.eval()(x))
    with torch.device("meta"):
        empty = named_scheme("abc-net").convolution(Geometry.of(3, 4, 3))
        assert empty.eval()(torch.empty(1, 3, 4, 4)).shape == (1, 4, 2, 2)
    made = empty.to_empty(device="cpu")
    assert made.rows[2][2].weight is made.rows[0][0].weight
    assert not made.rows[2][2].level.is_meta


def test_a_k_map_is_excluded() -> None:
    said = "^the K map is of one basis of activations, and abc-net has several$"
    with pytest.raises(ExcludedError, match=said):
        BinaryConv2d(3, 4, 3, scheme=AbcNet(k_map=True))
    with pytest.raises(ExcludedError, match=said):
        AbcNet(k_map=True).convolution(Geometry.of(3, 4, 3))


# ---- CBCN


@pytest.mark.parametrize("rotations", [1, 2, 4, 8])
def test_filters_are_turned(rotations: int) -> None:
    """A quarter turn is that of `torch.rot90`; an eighth moves the border by one tap."""
    weight = torch.arange(18.0).reshape(1, 2, 3, 3)
    turned = Cbcn(rotations=rotations).turned(weight)
    assert turned.shape == (rotations, 2, 3, 3)
    assert torch.equal(turned[0], weight[0])
    for step in range(rotations):
        if step * 4 % rotations == 0:
            assert torch.equal(turned[step], torch.rot90(weight[0], -step * 4 // rotations, (1, 2)))
    if rotations == 8:
        assert turned[1, 0].tolist() == [[3.0, 0.0, 1.0], [6.0, 4.0, 2.0], [7.0, 8.0, 5.0]]


def test_the_gradient_of_a_filter_is_the_sum_of_all_turned_back() -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(3, 8, 3, dtype=torch.float64, scheme=named_scheme("cbcn"))
    assert conv.weight.shape == (2, 3, 3, 3)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    filters = []
    for each in conv.weight:
        beta = each.abs().mean()
        for turn in range(4):
            latent = torch.rot90(each, -turn, (1, 2))
            filters.append(beta * straight_through(signs(latent), latent.clamp(-1, 1)))
    want = F.conv2d(signs(x), torch.stack(filters))
    assert_same_gradients(conv(x), want, (conv.weight,))


@pytest.mark.parametrize(
    ("channels", "kernel", "message"),
    [
        (8, 1, "a circulant filter has 3x3 taps, and this one 1x1"),
        (8, (3, 5), "a circulant filter has 3x3 taps, and this one 3x5"),
        (6, 3, "6 output channels are no multiple of 4 rotations"),
    ],
)
def test_what_cannot_be_turned(channels: int, kernel: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinaryConv2d(4, channels, kernel, scheme=named_scheme("cbcn"))


# ---- PCNN


@pytest.mark.parametrize("projections", [1, 2])
def test_kernels_are_projected(projections: int) -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(3, 4, 3, dtype=torch.float64, scheme=Pcnn(projections=projections))
    assert conv.weight.shape == (4 // projections, 3, 3, 3)
    assert conv.projection.shape == (projections, 3, 3)
    nn.init.normal_(conv.weight)
    nn.init.normal_(conv.projection)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    mean = conv.weight.detach().abs().mean()

    def projected() -> list[Tensor]:
        return [kernel * matrix for kernel in conv.weight for matrix in conv.projection]

    filters = [mean * straight_through(signs(each), each.clamp(-1, 1)) for each in projected()]
    assert_same_gradients(conv(x), F.conv2d(signs(x), torch.stack(filters)), (conv.weight, conv.projection))
    loss = conv.regulariser()
    assert loss is not None
    want = sum(((signs(each) * mean).detach() - each).square().sum() for each in projected()) * 1e-4 / 2
    assert_same_gradients(loss, want, (conv.weight, conv.projection))


def test_projections_that_do_not_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="6 output channels are no multiple of 4 projections"):
        BinaryConv2d(4, 6, 3, scheme=Pcnn(projections=4))


# ---- BONN


def test_the_bayesian_kernel_loss() -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(3, 4, 3, dtype=torch.float64, scheme=named_scheme("bonn"))
    assert torch.equal(conv.learned_scale, conv.weight.abs().mean(dim=(1, 2, 3)))
    nn.init.uniform_(conv.learned_scale, 0.1, 0.3)
    want = torch.zeros((), dtype=torch.float64)
    for kernel, scale in zip(conv.weight, conv.learned_scale, strict=True):
        want = want + (scale * signs(kernel) - kernel).square().sum()
        for part in (kernel[kernel >= 0], kernel[kernel < 0]):
            mean, variance = part.detach().mean(), part.detach().var(correction=0)
            want = want + 1e-3 * ((part - mean).square() / variance).sum()
    loss = conv.regulariser()
    assert loss is not None
    assert_same_gradients(loss, want * 1e-4 / 2, (conv.weight, conv.learned_scale))


def test_modes_of_filters_of_one_sign_and_of_one_weight() -> None:
    kernels = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 4.0, -1.0]])
    mean, variance = modes(kernels, kernels >= 0)
    assert torch.equal(mean, torch.tensor([[2.0, 2.0, 2.0], [-1.0, 4.0, -1.0]]))
    torch.testing.assert_close(variance, torch.tensor([[2 / 3] * 3, [1e-6] * 3]))
