"""Schemes whose activations are 0 and 1: DMS's {0, alpha}, DoReFa-Net, BinaryDuo."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core.errors import ExportError
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import FloatWeights
from bnas_deploy.search.nn.scheme_layer import set_progress
from bnas_deploy.search.nn.schemes import named_scheme

NAMES = ("zero-alpha", "dorefa")


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return `hard` to float64's rounding, with the gradient of `soft`."""
    return soft + (hard - soft).detach()


def zero_alpha_by_hand(x: Tensor, weight: Tensor, alpha: Tensor) -> Tensor:
    """DMS, Eq. 2, and the weights of XNOR-Net of standardised ones, each filter by itself."""
    clipped = (x / alpha).clamp(0, 1)
    activations = alpha * straight_through((x >= alpha / 2).double(), clipped)
    filters = []
    for each in weight:
        latent = (each - each.mean()) / each.std(correction=0)
        signs = straight_through(torch.where(latent >= 0, 1.0, -1.0).double(), latent.clamp(-1, 1))
        filters.append(signs * latent.abs().mean())
    return F.conv2d(activations, torch.stack(filters), stride=2, padding=1)


def dorefa_by_hand(x: Tensor, weight: Tensor, _: Tensor) -> Tensor:
    activations = straight_through((x >= 0.5).double(), x.clamp(0, 1))
    signs = torch.where(weight >= 0, 1.0, -1.0).double()
    return F.conv2d(activations, straight_through(signs * weight.abs().mean(), weight), stride=2, padding=1)


@pytest.mark.parametrize(
    ("name", "by_hand"), [("zero-alpha", zero_alpha_by_hand), ("dorefa", dorefa_by_hand)], ids=NAMES
)
def test_values_and_gradients(name, by_hand) -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(3, 4, 3, stride=2, padding=1, dtype=torch.float64, scheme=named_scheme(name))
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    if name == "zero-alpha":
        with torch.no_grad():
            layer.alpha.copy_(alpha)
    mine = {"x": x, "weight": layer.weight, **layer.learned}
    factors = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    want = by_hand(x, layer.weight, alpha)
    slow = torch.autograd.grad((factors * want).sum(), (x, layer.weight, *([alpha] if "alpha" in mine else [])))
    got = layer(x)
    fast = torch.autograd.grad((factors * got).sum(), tuple(mine.values()))
    close = {"rtol": 1e-9, "atol": 1e-9}  # float64, sums of 27 and then of 60 numbers
    torch.testing.assert_close(got, want, **close)
    for mine_of, slow_of in zip(fast, slow, strict=True):
        torch.testing.assert_close(mine_of, slow_of, **close)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", [0, 1])
def test_signs_with_an_offset_are_the_same_bits(name: str, padding: int) -> None:
    """(conv(S, W) + the sum of W) * scale / 2, S padded with -1, is what the layer gives."""
    torch.manual_seed(1)
    layer = BinaryConv2d(3, 4, 3, padding=padding, scheme=named_scheme(name)).eval()
    if name == "zero-alpha":
        nn.init.constant_(layer.alpha, 0.3)
    exported = layer.exported()
    assert exported.pad_value == (-1 if padding else 0)
    assert exported.offset is not None
    x = torch.randn(2, 3, 5, 6)
    x[0, 0, 0, 0] = exported.threshold[0]  # a tie goes up
    signs = torch.where(x >= exported.threshold[:, None, None], 1.0, -1.0)
    sums = F.conv2d(F.pad(signs, (padding,) * 4, value=-1.0), exported.weight)
    want = (sums + exported.offset[:, None, None]) * exported.scale[:, None, None]
    with torch.no_grad():
        assert torch.equal(layer(x), want)


@pytest.mark.parametrize("name", [*NAMES, "binary-duo"])
def test_a_k_map_is_excluded(name: str) -> None:
    said = r"^the K map is the mean of .*, which scales signs and not activations of 0 and 1$"
    with pytest.raises(ValueError, match=said):
        replace(named_scheme(name), k_map=True).convolution(Geometry.of(4, 4, 3))


@pytest.mark.parametrize(("alpha", "stands_for"), [(-0.5, 0.5), (0.0, 2.0**-20), (1e-30, 2.0**-20)])
def test_an_alpha_that_is_not_above_0(alpha: float, stands_for: float) -> None:
    layer = BinaryConv2d(3, 4, 3, scheme=named_scheme("zero-alpha"))
    nn.init.constant_(layer.alpha, alpha)
    layer(torch.randn(1, 3, 4, 4)).sum().backward()
    assert layer.alpha.grad.isfinite().all()
    assert torch.equal(layer.exported().threshold, torch.full((3,), stands_for / 2))


def test_float_weights_keep_alpha_and_are_not_exported() -> None:
    layer = BinaryConv2d(3, 4, 3, scheme=FloatWeights(of=named_scheme("zero-alpha"))).eval()
    nn.init.constant_(layer.alpha, 0.5)
    x = torch.randn(1, 3, 4, 4)
    latent = (layer.weight - layer.weight.mean((1, 2, 3), keepdim=True)) / layer.weight.std(
        (1, 2, 3), correction=0, keepdim=True
    )
    torch.testing.assert_close(layer(x), F.conv2d(0.5 * (x >= 0.25), latent))  # another order of float32
    with pytest.raises(ExportError, match=r"float weights of activations that are not \+1 and -1 cannot be exported"):
        layer.exported()


# ---- BinaryDuo


def duo_by_hand(x: Tensor, weight: Tensor, thresholds: tuple[float, float]) -> Tensor:
    """The code's: clip to 0..1, then a step at each threshold; a scale of the layer, and a gradient that passes."""
    halves = [straight_through((x >= threshold).double(), x.clamp(0, 1)) for threshold in thresholds]
    signs = torch.where(weight >= 0, 1.0, -1.0).double()
    return F.conv2d(torch.cat(halves, 1), straight_through(signs * weight.abs().mean(), weight), padding=1)


def test_two_thresholds() -> None:
    torch.manual_seed(0)
    conv = named_scheme("binary-duo").convolution(Geometry.of(3, 4, 3, 1, 1)).double()
    set_progress(conv, 0.5)  # decoupled
    nn.init.normal_(conv.conv.weight)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    factors = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    want, got = duo_by_hand(x, conv.conv.weight, (0.25, 0.75)), conv(x)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)  # float64, sums of 54
    inputs = (x, conv.conv.weight)
    slow = torch.autograd.grad((factors * want).sum(), inputs)
    for mine, by_hand in zip(torch.autograd.grad((factors * got).sum(), inputs), slow, strict=True):
        torch.testing.assert_close(mine, by_hand, rtol=1e-9, atol=1e-9)


def test_coupled_halves_are_one_ternary_activation_and_stay_alike() -> None:
    torch.manual_seed(0)
    conv = named_scheme("binary-duo").convolution(Geometry.of(3, 4, 3, 1, 1))
    first, second = conv.conv.weight.chunk(2, dim=1)
    assert torch.equal(first, second)
    x = torch.rand(2, 3, 5, 5) * 1.4 - 0.2
    ternary = (2 * x).clamp(0, 2).round() / 2
    scale = first.abs().mean()
    want = F.conv2d(ternary, torch.where(first >= 0, 1.0, -1.0) * 2 * scale, padding=1)
    torch.testing.assert_close(conv.eval()(x), want)  # two roundings of float32
    optimizer = torch.optim.Adam(conv.parameters(), lr=0.01)
    for step in range(6):
        set_progress(conv.train(), step / 6)
        conv(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        first, second = conv.conv.weight.chunk(2, dim=1)
        assert torch.equal(first, second) == (step < 3)
        # In the first step of two halves, both still see the same: the one window and one weight.
        assert torch.equal(*conv.conv.shift.chunk(2)) == (step < 4)


def test_a_float_twin_has_the_sum_of_both_halves() -> None:
    conv = named_scheme("binary-duo").convolution(Geometry.of(3, 4, 3))
    nn.init.normal_(conv.conv.weight)
    assert torch.equal(conv.real_weight(), conv.conv.weight[:, :3] + conv.conv.weight[:, 3:])


def test_groups_are_excluded() -> None:
    with pytest.raises(
        ValueError, match="both halves of a BinaryDuo layer have to meet in every filter, so it needs g"
    ):
        named_scheme("binary-duo").convolution(Geometry.of(4, 4, 3, groups=2))
    assert named_scheme("binary-duo").excludes(Geometry(4, 4, (3, 3))) is None
