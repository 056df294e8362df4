"""The seven candidate operations and the block of which four are made, against short numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from bnas_deploy.core.genotype import EXTRA_OPERATIONS, GENOTYPES, LEARNABLE, OPERATIONS
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.operations import OPERATION_BUILDERS, BatsBlock, ConvBlock, SeparableBlock
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.schemes.xnor_net import XnorNet

CONFIG = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["cifar"], classes=2, in_channels=3, image_size=(8, 8))
CONVOLUTIONS = {
    "bin_conv_3x3": (3, 1),
    "bin_conv_5x5": (5, 1),
    "bin_dil_conv_3x3": (3, 2),
    "bin_dil_conv_5x5": (5, 2),
}
"""Name -> kernel size and dilation."""
NAN = float("nan")


def build(name: str, stride: int, config: NetworkConfig = CONFIG) -> nn.Module:
    return OPERATION_BUILDERS[name](4, stride, config)


def windows(x: np.ndarray, stride: int, padding: float) -> np.ndarray:
    """Return the 3x3 neighbourhoods of a padded x, (N, C, H, W, 3, 3), at every `stride`-th pixel."""
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=padding)
    return sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]


@pytest.fixture
def x(rng: np.random.Generator) -> Tensor:
    """Multiples of 36, so that means over 4, 6 and 9 pixels are exact; all negative, which a padded 0 would beat."""
    return torch.tensor(-36 * rng.integers(1, 100, (2, 4, 6, 7)), dtype=torch.float32)


def test_every_operation_has_a_builder() -> None:
    assert tuple(OPERATION_BUILDERS) == OPERATIONS + EXTRA_OPERATIONS


@pytest.mark.parametrize("name", OPERATIONS + EXTRA_OPERATIONS)
@pytest.mark.parametrize("config", [CONFIG, CONFIG.float_twin()], ids=["binary", "float"])
def test_stride_halves_the_resolution_and_keeps_the_channels(name: str, config: NetworkConfig) -> None:
    x = torch.randn(2, 12, 6, 7)
    assert OPERATION_BUILDERS[name](12, 1, config)(x).shape == (2, 12, 6, 7)
    assert OPERATION_BUILDERS[name](12, 2, config)(x).shape == (2, 12, 3, 4)


@pytest.mark.parametrize("name", sorted(LEARNABLE | {"skip_connect"}))
@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_has_parameters_unless_told_otherwise(name: str, affine: bool) -> None:
    module = OPERATION_BUILDERS[name](12, 2, CONFIG, affine=affine)
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert norms
    assert all(norm.affine == affine for norm in norms)


def test_operations_with_parameters_are_the_learnable_ones() -> None:
    for name in OPERATIONS + EXTRA_OPERATIONS:
        assert bool(list(OPERATION_BUILDERS[name](12, 1, CONFIG).parameters())) == (name in LEARNABLE), name


def test_a_skip_is_the_state_itself_or_a_convolution(x: Tensor) -> None:
    torch.testing.assert_close(build("skip_connect", 1)(x), x, rtol=0, atol=0)
    assert isinstance(build("skip_connect", 2), ConvBlock)


def signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


@pytest.mark.parametrize(("name", "kernel", "dilation"), [("bin_sep_conv_5x5", 5, 1), ("bin_dil_sep_conv_3x3", 3, 2)])
def test_a_separable_convolution_is_two_binary_ones(name: str, kernel: int, dilation: int) -> None:
    block = OPERATION_BUILDERS[name](4, 2, CONFIG)
    assert isinstance(block, SeparableBlock)
    x = torch.randn(3, 4, 8, 8)
    first, second = block.depthwise.weight, block.pointwise.conv.weight
    assert first.shape == (4, 1, kernel, kernel)
    assert second.shape == (4, 4, 1, 1)
    y = signs(x - x.mean((0, 2, 3), keepdim=True))
    padding = dilation * (kernel // 2)
    y = nn.functional.conv2d(y, signs(first), None, 2, padding, dilation, groups=4)
    y = y * first.abs().mean((1, 2, 3))[:, None, None]
    y = signs(y - y.mean((0, 2, 3), keepdim=True))
    want = torch.relu(nn.functional.conv2d(y, signs(second)) * second.abs().mean((1, 2, 3))[:, None, None])
    torch.testing.assert_close(block(x), want, rtol=1e-6, atol=0)  # one multiply after exact sums


@pytest.mark.parametrize("stride", [1, 2])
def test_the_operation_of_bats(stride: int) -> None:
    block = OPERATION_BUILDERS["bats_dil_conv_3x3"](24, stride, CONFIG)
    assert isinstance(block, BatsBlock)
    x = torch.randn(3, 24, 8, 8)
    weight = block.conv.weight
    assert weight.shape == (24, 2, 3, 3)
    y = signs(x - x.mean((0, 2, 3), keepdim=True))
    y = nn.functional.conv2d(y, signs(weight), None, stride, 2, 2, groups=12)
    y = y * weight.abs().mean((1, 2, 3))[:, None, None]
    y = torch.where(y >= 0, y, 0.25 * y)  # the initial slope of a PReLU
    # 4 groups of 6 channels, dealt out like cards: the first of each group, then the second of each, ...
    y = y[:, [group * 6 + place for place in range(6) for group in range(4)]]
    torch.testing.assert_close(block(x), y + x if stride == 1 else y, rtol=1e-6, atol=1e-6)  # |y| < 10, two roundings


@pytest.mark.parametrize("stride", [1, 2])
def test_zeroise(stride: int, x: Tensor) -> None:
    got = build("none", stride)(torch.full_like(x, NAN))
    np.testing.assert_array_equal(got.numpy(), np.zeros_like(x.numpy()[:, :, ::stride, ::stride]))


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool_ignores_the_padding(stride: int, x: Tensor) -> None:
    want = windows(x.numpy(), stride, padding=-np.inf).max(axis=(-2, -1))
    np.testing.assert_array_equal(build("max_pool_3x3", stride)(x).numpy(), want)


@pytest.mark.parametrize("stride", [1, 2])
def test_average_pool_counts_only_pixels(stride: int, x: Tensor) -> None:
    want = np.nanmean(windows(x.numpy(), stride, padding=np.nan), axis=(-2, -1))
    np.testing.assert_array_equal(build("avg_pool_3x3", stride)(x).numpy(), want)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("real", [False, True], ids=["binary", "float"])
def test_geometry_of_a_convolution(name: str, stride: int, real: bool) -> None:
    kernel, dilation = CONVOLUTIONS[name]
    block = build(name, stride, CONFIG.float_twin() if real else CONFIG)
    assert isinstance(block, ConvBlock)
    conv = block.conv
    assert type(conv) is (nn.Conv2d if real else BinaryConv2d)
    assert conv.weight.shape == (4, 4, kernel, kernel)
    assert conv.stride == (stride, stride)
    assert conv.dilation == (dilation, dilation)
    assert conv.padding == (dilation * (kernel // 2),) * 2
    assert conv.groups == 1
    assert getattr(conv, "bias", None) is None


def normalised(block: ConvBlock, x: np.ndarray) -> np.ndarray:
    """Give the block statistics that are no identity, a negative gamma among them; return BN(x)."""
    mean, gamma, beta = np.array([1.0, -2.0]), np.array([2.0, -4.0]), np.array([-0.5, 1.0])
    block.eval()
    block.norm.eps = 0.0
    with torch.no_grad():
        for tensor, value in (
            (block.norm.running_mean, mean),
            (block.norm.running_var, np.array([4.0, 0.25])),
            (block.norm.weight, gamma),
            (block.norm.bias, beta),
        ):
            tensor.copy_(torch.tensor(value))
    slope = gamma / np.array([2.0, 0.5])
    return (x - mean[:, None, None]) * slope[:, None, None] + beta[:, None, None]


@pytest.mark.parametrize("real", [False, True], ids=["binary", "float"])
def test_a_block_normalises_then_takes_signs_then_convolves_then_rectifies(
    real: bool, rng: np.random.Generator
) -> None:
    block = ConvBlock(2, 3, CONFIG.float_twin() if real else CONFIG, kernel_size=1)
    weight = rng.integers(-8, 9, (3, 2)) / 8
    with torch.no_grad():
        block.conv.weight.copy_(torch.tensor(weight[:, :, None, None]))
    x = rng.integers(-8, 9, (2, 2, 4, 4)) / 4
    bn = normalised(block, x)
    got = block(torch.tensor(x, dtype=torch.float32)).detach().numpy()
    if not real:
        bn, weight = np.where(bn >= 0, 1, -1), np.where(weight >= 0, 1, -1) * np.abs(weight).mean(axis=1, keepdims=True)
    # All multiples of a power of two, so nothing rounds.
    want = np.einsum("oc,nchw->nohw", weight, bn)
    np.testing.assert_array_equal(got, np.maximum(want, 0))
    assert (want < 0).any()


def test_a_block_may_lack_gamma_and_beta() -> None:
    block = ConvBlock(2, 3, CONFIG, kernel_size=3, affine=False)
    assert [name for name, _ in block.named_parameters()] == ["conv.weight"]
    assert "norm.running_mean" in block.state_dict()


@pytest.mark.parametrize("affine", [False, True])
def test_the_float_twin_of_a_block_has_the_same_tensors(affine: bool) -> None:
    binary, real = (
        ConvBlock(2, 3, config, kernel_size=3, dilation=2, affine=affine).state_dict()
        for config in (CONFIG, CONFIG.float_twin())
    )
    assert {name: tensor.shape for name, tensor in binary.items()} == {
        name: tensor.shape for name, tensor in real.items()
    }


DEVIATION_SETTINGS = {
    "centre-weights": "centre_weights",
    "clamp-weights": "clamp_weights",
    "fan-in-gradient": "fan_in_gradient",
    "sign-of-zero": "sign_of_zero",
}
"""The deviations that are settings of every binary convolution, and the name of the setting."""


@pytest.mark.parametrize("asked", [(), *((name,) for name in DEVIATION_SETTINGS), tuple(DEVIATION_SETTINGS)], ids=str)
def test_deviations_reach_the_convolution_one_by_one(asked: tuple[str, ...]) -> None:
    block = ConvBlock(2, 3, replace(CONFIG, deviations=asked), kernel_size=3)
    scheme = block.conv.scheme
    got = {name for name, setting in DEVIATION_SETTINGS.items() if getattr(scheme, setting, False)}
    assert got == set(asked)
    assert isinstance(scheme, XnorNet)
    assert not scheme.k_map
    assert scheme.weight_bits == 1


def test_the_k_map_reaches_the_convolution() -> None:
    assert ConvBlock(2, 3, replace(CONFIG, k_map=True), kernel_size=3).conv.scheme.k_map
