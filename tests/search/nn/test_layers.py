"""The binary layers, against a convolution written out as loops, and the deviations of the official code."""

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.search.models.bnas.scheme import OfficialBnas
from bnas_deploy.search.nn.estimators import activation_scale, sign_activation, sign_weight, weight_scale
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryLinear, BinaryWeightConv2d, Zeroise
from bnas_deploy.search.nn.scheme import Binarised, FloatWeights, Learned, Scheme
from bnas_deploy.search.nn.schemes.xnor_net import XnorNet
from bnas_deploy.search.nn.schemes.xnor_net_plus import XnorNetPlus

NAN, INF = float("nan"), float("inf")

SCHEMES: dict[str, Scheme] = {"binarynet": Scheme(), "xnor-net": XnorNet(), "xnor-net-plus": XnorNetPlus()}
CENTRED_AND_CLAMPED = OfficialBnas(centre_weights=True, clamp_weights=True)


@dataclass(frozen=True)
class SignOfZero(Scheme):
    """Integers with the sign of zero of the official code."""

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        return sign_activation(x, sign_of_zero=True)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        return Binarised(sign_weight(weight, sign_of_zero=True), weight.new_ones(len(weight)))


def binary_weight(layer: BinaryConv2d) -> tuple[Tensor, Tensor]:
    """Return signs and scale as evaluation has them."""
    binarised = layer.scheme.weights(layer.weight, layer.learned)
    return binarised.weight, binarised.scale


def sign(values: np.ndarray) -> np.ndarray:
    return np.where(values >= 0, 1, -1)


def numpy_conv(
    x: np.ndarray,
    weight: np.ndarray,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> np.ndarray:
    """Convolve (N, C, H, W) with (O, C/groups, KH, KW) one tap at a time; a padded tap adds nothing."""
    images, _, height, width = x.shape
    outputs, channels, *kernel = weight.shape
    size = [
        (side + 2 * pad - gap * (taps - 1) - 1) // step + 1
        for side, taps, step, pad, gap in zip((height, width), kernel, stride, padding, dilation, strict=True)
    ]
    y = np.zeros((images, outputs, *size), np.result_type(x, weight))
    for o, i, j, p, q in itertools.product(range(outputs), *map(range, size), *map(range, kernel)):
        row = i * stride[0] - padding[0] + p * dilation[0]
        column = j * stride[1] - padding[1] + q * dilation[1]
        if 0 <= row < height and 0 <= column < width:
            first = o // (outputs // groups) * channels
            y[:, o, i, j] += x[:, first : first + channels, row, column] @ weight[o, :, p, q]
    return y


def centred(weight: np.ndarray) -> np.ndarray:
    return np.subtract(weight, weight.mean(axis=1, keepdims=True))


def random_input(rng: np.random.Generator, *shape: int) -> Tensor:
    """Return float32 values of which some are zeros of both signs."""
    x = rng.normal(size=shape).astype(np.float32)
    x[rng.random(shape) < 0.1] = 0.0
    x[rng.random(shape) < 0.1] = -0.0
    return torch.tensor(x)


GEOMETRIES: dict[str, dict[str, Any]] = {
    "1x1": {"kernel_size": 1},
    "3x3": {"kernel_size": 3, "padding": 1},
    "5x5": {"kernel_size": 5, "padding": 2},
    "stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilation 2": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "5x5 dilation 2 stride 2": {"kernel_size": 5, "stride": 2, "padding": 4, "dilation": 2},
    "oblong": {"kernel_size": (3, 1), "stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)},
    "2 groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 6},
    "no padding": {"kernel_size": 3},
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_binary_convolution_is_an_exact_integer(geometry: dict[str, Any], rng: np.random.Generator) -> None:
    layer = BinaryConv2d(6, 12, **geometry, scheme=Scheme())
    x = random_input(rng, 2, 6, 7, 10)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = 0.0  # a weight of zero is +1
        got = layer(x).numpy()
    want = numpy_conv(
        sign(x.numpy()), sign(layer.weight.detach().numpy()), layer.stride, layer.padding, layer.dilation, layer.groups
    )
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_geometry_is_that_of_torch(geometry: dict[str, Any]) -> None:
    ours, theirs = BinaryConv2d(6, 12, **geometry), nn.Conv2d(6, 12, **geometry)
    assert ours.weight.shape == theirs.weight.shape
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(ours, name) == getattr(theirs, name)


SAME: dict[str, dict[str, Any]] = {
    "odd": {"kernel_size": 3, "padding": "same"},
    "even": {"kernel_size": [2, 4], "padding": "same"},
    "even and dilated": {"kernel_size": (4, 2), "padding": "same", "dilation": [3, 1]},
    "valid": {"kernel_size": 2, "padding": "valid", "stride": [2, 1]},
    "a list": {"kernel_size": [3, 1], "padding": [1, 0], "stride": (2, 1)},
    "numpy's": {"kernel_size": np.int64(3), "padding": [np.int32(1), 0], "stride": np.uint8(2)},
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("arguments", SAME.values(), ids=SAME)
def test_arguments_mean_what_they_do_in_torch(arguments: dict[str, Any], rng: np.random.Generator) -> None:
    ours, theirs = (kind(6, 4, bias=True, **arguments).eval() for kind in (BinaryConv2d, nn.Conv2d))
    x = random_input(rng, 2, 6, 7, 10)
    signs, scale = binary_weight(ours)
    with torch.no_grad():
        theirs.weight.copy_(signs)
        theirs.bias.zero_()
        want = theirs(torch.where(x >= 0, 1.0, -1.0)) * scale[:, None, None] + ours.bias[:, None, None]
        # Integers, a multiplication and an addition: no rounding differs.
        assert torch.equal(ours(x), want)


@pytest.mark.parametrize("pad_value", [-1, 1])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_padding_with_a_sign(geometry: dict[str, Any], pad_value: int, rng: np.random.Generator) -> None:
    layer = BinaryConv2d(6, 12, **geometry, scheme=Scheme(), pad_value=pad_value)
    x = random_input(rng, 2, 6, 7, 10)
    (top, left), signs = layer.padding, sign(x.numpy())
    padded = np.pad(signs, [(0, 0), (0, 0), (top, top), (left, left)], constant_values=pad_value)
    weight = sign(layer.weight.detach().numpy())
    want = numpy_conv(padded, weight, layer.stride, (0, 0), layer.dilation, layer.groups)
    np.testing.assert_array_equal(layer(x).detach().numpy(), want)


def test_the_odd_side_of_same_padding_has_the_sign_too() -> None:
    layer = BinaryConv2d(1, 1, 2, padding="same", scheme=Scheme(), pad_value=-1)
    nn.init.ones_(layer.weight)
    assert layer(torch.ones(1, 1, 2, 2)).tolist() == [[[[4.0, 0.0], [0.0, -2.0]]]]


def test_the_k_map_of_an_even_kernel_pads_below_and_right() -> None:
    layer = BinaryConv2d(1, 1, 2, padding="same", scheme=Scheme(k_map=True))
    nn.init.ones_(layer.weight)
    # 4, 2, 2 and 1 taps are on the image, and of four the mean |x| is 1, 1/2, 1/2 and 1/4.
    assert layer(torch.ones(1, 1, 2, 2)).tolist() == [[[[4.0, 1.0], [1.0, 0.25]]]]


def test_parameters_are_made_as_in_torch() -> None:
    layer = BinaryConv2d(6, 12, 3, 1, 0, 1, 2, True, "zeros", "meta", torch.float64, scheme=XnorNetPlus())
    assert {name: (value.device.type, value.dtype) for name, value in layer.named_parameters()} == dict.fromkeys(
        ("weight", "learned_scale", "bias"), ("meta", torch.float64)
    )
    torch.manual_seed(3)
    ours = BinaryConv2d(6, 12, 3, bias=True)
    torch.manual_seed(3)
    theirs = nn.Conv2d(6, 12, 3)
    assert theirs.bias is not None
    assert torch.equal(ours.bias, theirs.bias)
    assert "bias=True" in repr(ours)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": "full"}, "padding='full': wanted a number, "),
        ({"padding": "same", "stride": 2}, r'padding="same" with stride \(2, 2\): a strided convolution does not keep'),
        (
            {"padding_mode": "reflect"},
            "padding_mode='reflect': .*put a padding layer .* in front, such as nn.Reflection",
        ),
        ({"padding": -1}, "padding=-1: wanted a number or .* integers of at least 0"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size=\(3, 3, 3\): wanted a number or \(vertical, horizontal\)"),
        ({"kernel_size": 2.5}, "kernel_size=2.5: wanted a number"),
        ({"padding": True}, "padding=True: wanted a number"),
        ({"stride": 0}, "stride=0: wanted .* integers of at least 1"),
        ({"dilation": [1, 0]}, r"dilation=\[1, 0\]: wanted .* integers of at least 1"),
        ({"groups": 0}, "4 to 4 channels in 0 groups; each must be at least 1"),
    ],
)
def test_arguments_that_no_binary_convolution_has(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinaryConv2d(4, 4, **{"kernel_size": 3, **arguments})


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5), (2, 3, 4, 5)])
def test_a_linear_layer_takes_leading_axes_and_a_bias(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    layer, x = BinaryLinear(5, 3, bias=True).eval(), random_input(rng, *shape)
    signs, scale = binary_weight(layer.conv)
    with torch.no_grad():
        want = F.linear(torch.where(x >= 0, 1.0, -1.0), signs[:, :, 0, 0]) * scale + layer.conv.bias
        assert torch.equal(layer(x), want)


def test_weights_start_like_those_of_torch() -> None:
    torch.manual_seed(3)
    ours = BinaryConv2d(6, 12, 3)
    torch.manual_seed(3)
    theirs = nn.Conv2d(6, 12, 3, bias=False)
    assert torch.equal(ours.weight, theirs.weight)


def test_beta_is_the_default_scale(rng: np.random.Generator) -> None:
    layer, x = BinaryConv2d(5, 4, 3, padding=1).eval(), random_input(rng, 2, 5, 6, 6)
    integers = numpy_conv(sign(x.numpy()), sign(layer.weight.detach().numpy()), padding=(1, 1))
    beta = weight_scale(layer.weight).detach().numpy()
    # One float32 multiplication on both sides.
    np.testing.assert_array_equal(layer(x).detach().numpy(), integers.astype(np.float32) * beta[:, None, None])
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_learned_scale(rng: np.random.Generator) -> None:
    layer, x = BinaryConv2d(5, 2, 3, scheme=XnorNetPlus()).eval(), random_input(rng, 2, 5, 6, 6)
    integers = numpy_conv(sign(x.numpy()), sign(layer.weight.detach().numpy()))
    assert layer.learned_scale is not None
    np.testing.assert_array_equal(layer(x).detach().numpy(), integers)  # it starts as ones
    with torch.no_grad():
        layer.learned_scale.copy_(torch.tensor([0.3, -1.5]))
    want = integers.astype(np.float32) * np.array([0.3, -1.5], np.float32)[:, None, None]
    np.testing.assert_array_equal(layer(x).detach().numpy(), want)
    layer(x).sum().backward()
    # The scale is multiplied last, so its gradient is the sum of the integers, exact in float32.
    assert layer.learned_scale.grad is not None
    assert layer.learned_scale.grad.tolist() == integers.sum(axis=(0, 2, 3)).tolist()


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_in_training_the_scale_is_in_the_weights_and_every_gradient_is_the_same(
    scheme: Scheme, rng: np.random.Generator
) -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(5, 4, 3, padding=1, bias=True, scheme=scheme)
    x = random_input(rng, 2, 5, 6, 6).requires_grad_()
    grad = random_input(rng, 2, 4, 6, 6)

    def run() -> list[Tensor]:
        y = layer(x)
        return [y, *torch.autograd.grad(y, [x, *layer.parameters()], grad)]

    trained, evaluated = run(), (layer.eval(), run())[1]
    for got, want in zip(trained, evaluated, strict=True):
        # Each is a sum of 2 * 6 * 6 * 45 products at most, of which the largest is a few units.
        torch.testing.assert_close(got, want, rtol=0, atol=2 * 6 * 6 * 45 * 2**-24)


def test_where_convolutions_round_the_scale_stays_outside(rng: np.random.Generator) -> None:
    layer, x = BinaryConv2d(5, 2, 3, scheme=XnorNetPlus()), random_input(rng, 2, 5, 6, 6)
    with torch.no_grad():
        layer.learned_scale.copy_(torch.tensor([0.3, 1.7]))  # bfloat16 has neither
        with torch.autocast("cpu", torch.bfloat16):
            rounded = layer(x)
        # 45 signs are summed exactly, in bfloat16 as well.
        assert torch.equal(rounded, layer.eval()(x))


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_the_k_map_multiplies_last(scheme: Scheme, rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    plain = BinaryConv2d(5, 4, 3, stride=2, padding=1, scheme=scheme)
    torch.manual_seed(0)
    with_k = BinaryConv2d(5, 4, 3, stride=2, padding=1, scheme=replace(scheme, k_map=True))
    x = random_input(rng, 2, 5, 6, 6)
    k = activation_scale(x, (3, 3), (2, 2), (1, 1), (1, 1))
    assert k.shape == (2, 1, 3, 3)
    assert torch.equal(with_k(x), plain(x) * k)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 4}, "4 groups do not divide 6 and 12 channels"),
        ({"groups": 2, "scheme": XnorNet(k_map=True)}, "the K map is a mean over all channels, so it needs groups=1"),
        ({"pad_value": 2}, "pad_value=2: a padded tap holds a sign, wanted -1, 0 or 1"),
        ({"pad_value": 1, "scheme": XnorNet(k_map=True)}, "pad_value=1 with a K map, .*: wanted pad_value=0"),
    ],
)
def test_refused_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinaryConv2d(6, 12, 3, **arguments)


def test_gradient_of_the_input_passes_the_convolution_and_the_sign(rng: np.random.Generator) -> None:
    layer = BinaryConv2d(2, 3, 1, scheme=Scheme())
    x = torch.tensor(rng.integers(-12, 13, (1, 2, 3, 4)) / 8, dtype=torch.float32, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    # With a 1x1 kernel every input reaches each output channel once.
    column = sign(layer.weight.detach().numpy()).sum(axis=(0, 2, 3))
    inside = np.abs(x.detach().numpy()) < 1
    np.testing.assert_array_equal(x.grad.numpy(), column[:, None, None] * inside)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_binary_linear_is_a_product_of_signs(scheme: Scheme, rng: np.random.Generator) -> None:
    layer, x = BinaryLinear(9, 4, scheme=scheme).eval(), random_input(rng, 3, 9)
    with torch.no_grad():
        signs, factor = binary_weight(layer.conv)
        got = layer(x).numpy()
    integers = sign(x.numpy()) @ signs.numpy()[:, :, 0, 0].T
    assert got.shape == (3, 4)
    np.testing.assert_array_equal(got, integers.astype(np.float32) * factor.detach().numpy())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 7)])
def test_zeroise_gives_zeros_for_anything(stride: int, size: tuple[int, int]) -> None:
    x = torch.full((2, 3, *size), NAN)
    x[0], x[1, 0] = INF, -INF
    y = Zeroise(stride)(x)
    assert y.shape == nn.MaxPool2d(3, stride, padding=1)(x).shape
    assert y.dtype == x.dtype
    assert y.tolist() == np.zeros(y.shape).tolist()


def test_zeroise_passes_no_gradient() -> None:
    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    assert not Zeroise(1)(x).requires_grad


# --------------------------------------------------------------------------------------------------------------------
# Deviations


def test_centred_weights(rng: np.random.Generator) -> None:
    layer = BinaryConv2d(4, 3, 3, scheme=OfficialBnas(centre_weights=True))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rng.integers(-8, 12, layer.weight.shape) / 8))
        signs, beta = binary_weight(layer)
    # Sums of 4 and 36 multiples of 1/32 are exact in float32.
    latent = centred(layer.weight.detach().numpy())
    np.testing.assert_array_equal(signs.numpy(), sign(latent))
    np.testing.assert_array_equal(beta.numpy(), np.abs(latent).sum(axis=(1, 2, 3)) / np.float32(36))
    assert not np.array_equal(signs.numpy(), sign(layer.weight.detach().numpy()))


def test_clamped_weights() -> None:
    layer = BinaryConv2d(4, 1, 1, scheme=OfficialBnas(clamp_weights=True))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([5.0, -3.0, 0.5, -0.5])[:, None, None])
    signs, beta = binary_weight(layer)
    assert signs.flatten().tolist() == [1, -1, 1, -1]
    assert beta.tolist() == [(1 + 1 + 0.5 + 0.5) / 4]


def test_weights_are_centred_before_they_are_clamped() -> None:
    layer = BinaryConv2d(4, 1, 1, scheme=OfficialBnas(centre_weights=True, clamp_weights=True))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([7.0, 1.0, 1.0, -1.0])[:, None, None])
    signs, beta = binary_weight(layer)
    # The mean is 2, so 5, -1, -1 and -3 are clamped to 1, -1, -1 and -1.
    assert signs.flatten().tolist() == [1, -1, -1, -1]
    assert beta.tolist() == [1]


def test_a_clamped_weight_gets_the_gradient_of_what_it_is_clamped_to() -> None:
    layer = BinaryConv2d(4, 1, 1, scheme=OfficialBnas(clamp_weights=True))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([5.0, -3.0, 1.0, -0.5])[:, None, None])
    signs, beta = binary_weight(layer)
    (signs * beta * torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None, None]).sum().backward()
    assert layer.weight.grad is not None
    # beta = 3.5 / 4; through beta come (1 - 2 + 4 - 8) / 4 times the sign.
    want = [0.875 - 1.25, 2 * 0.875 + 1.25, 4 * 0.875 - 1.25, 8 * 0.875 + 1.25]
    assert layer.weight.grad.flatten().tolist() == want


def effective_weight(layer: BinaryConv2d) -> Tensor:
    signs, beta = binary_weight(layer)
    return signs * beta[:, None, None, None]


def gradient(layer: BinaryConv2d, g: np.ndarray) -> np.ndarray:
    """Return dL/dW where dL/dW~ is g."""
    (found,) = torch.autograd.grad(effective_weight(layer), layer.weight, torch.tensor(g))
    return found.numpy()


def official_gradient(weight: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return the gradient that the official code writes over autograd's.

    [beta 1{|W| <= 1} g + sign(W) / n * sum_j sign(W_j) g_j] (1 - 1/C) n, for weights that it has centred and clamped
    in place before; C input channels, n = C KH KW.
    """
    axes = (1, 2, 3)
    n = weight[0].size
    beta = np.abs(weight).sum(axis=axes, keepdims=True) / n
    through_beta = np.sign(weight) / n * (np.sign(weight) * g).sum(axis=axes, keepdims=True)
    return np.multiply(beta * (np.abs(weight) <= 1) * g + through_beta, (1 - 1 / weight.shape[1]) * n)


@pytest.fixture
def official(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Weights as the official code has them before a step, centred and within -1..1, none 0, and a gradient of W~."""
    weight = centred(rng.uniform(-0.4, 0.4, size=(3, 5, 3, 3)))
    return weight, rng.normal(size=weight.shape)


def layer_with(weight: np.ndarray, **deviations: Any) -> BinaryConv2d:
    kernel = weight.shape[2]
    layer = BinaryConv2d(
        weight.shape[1], weight.shape[0], kernel, padding=kernel // 2, scheme=OfficialBnas(**deviations)
    ).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
    return layer


# float64 has 1.1e-16; a gradient here is a sum of 45 terms, below 1000 after its factor of 36.
ROUNDING = 1e-11


def test_fan_in_gradient_is_the_official_one(official: tuple[np.ndarray, np.ndarray]) -> None:
    """For weights that need no centring and no clamping the official gradient is that of beta, times a constant."""
    weight, g = official
    got = gradient(layer_with(weight, fan_in_gradient=True), g)
    np.testing.assert_allclose(got, official_gradient(weight, g), rtol=0, atol=ROUNDING)
    paper = gradient(layer_with(weight), g)
    np.testing.assert_allclose(got, paper * 45 * (1 - 1 / 5), rtol=0, atol=ROUNDING)


def test_the_gradient_passes_centring_and_clamping(official: tuple[np.ndarray, np.ndarray]) -> None:
    """The official code has centred and clamped its weights in place by then, and no gradient goes through that."""
    weight, g = official
    weight = 4 * weight + 0.3  # neither centred nor within -1..1
    layer = layer_with(weight, centre_weights=True, clamp_weights=True, fan_in_gradient=True)
    latent = np.clip(centred(weight), -1, 1)
    assert (np.abs(latent) == 1).mean() > 0.1
    np.testing.assert_allclose(gradient(layer, g), official_gradient(latent, g), rtol=0, atol=ROUNDING)


def test_a_kernel_of_which_half_is_clamped() -> None:
    """Values that the official code was run on: outputs, gradients, and the weights afterwards."""
    layer = BinaryConv2d(
        4, 1, 1, scheme=OfficialBnas(centre_weights=True, clamp_weights=True, fan_in_gradient=True)
    ).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.5, -1.5, 0.2, -0.2])[:, None, None])
    x = torch.tensor([0.5, 2.0, -0.1, 3.0], dtype=torch.float64)[:, None, None]
    y = layer(x[None])
    # sign(x) = (1, 1, -1, 1), sign(W) = (1, -1, 1, -1), beta = (1 + 1 + 0.2 + 0.2) / 4
    assert y.item() == pytest.approx(-2 * 0.6, abs=1e-7)  # the weights come from float32
    y.sum().backward()
    assert layer.weight.grad is not None
    np.testing.assert_allclose(layer.weight.grad.flatten(), [0.3, 3.3, -3.3, 3.3], rtol=0, atol=1e-6)
    np.testing.assert_allclose(layer.weight.detach().flatten(), [1, -1, 0.2, -0.2], rtol=0, atol=1e-7)


def official_forward(weight: np.ndarray) -> np.ndarray:
    """Centre and clamp `weight` in place, and return sign(W) * beta, sign(0) being 0, as the official code does."""
    weight -= weight.mean(axis=1, keepdims=True)
    np.clip(weight, -1, 1, out=weight)
    return np.multiply(np.sign(weight), np.abs(weight).sum(axis=(1, 2, 3), keepdims=True) / weight[0].size)


OFFICIAL = dict.fromkeys(("centre_weights", "clamp_weights", "fan_in_gradient", "sign_of_zero"), True)
"""Every deviation that is a setting of a binary convolution."""


@pytest.mark.parametrize("deviations", [OFFICIAL, {}], ids=["official", "paper"])
def test_steps_are_those_of_the_official_code(deviations: dict[str, bool], rng: np.random.Generator) -> None:
    """Eight steps of SGD at a rate that drives weights to 1; without the deviations the weights go elsewhere."""
    weight = rng.uniform(-0.5, 0.5, size=(3, 4, 3, 3))
    layer = layer_with(weight, **deviations)
    rate, momentum, decay = 0.05, 0.9, 1e-3
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=momentum, weight_decay=decay)
    moved, weight = np.zeros_like(weight), weight.copy()
    close = []
    for _ in range(8):
        x = rng.integers(-3, 4, size=(2, 4, 5, 5)).astype(float)  # a seventh are 0
        g = rng.normal(size=(2, 3, 5, 5))
        # A convolution is linear in its weights, so torch's is as good as a loop here.
        effective = torch.tensor(official_forward(weight), requires_grad=True)
        y = torch.nn.functional.conv2d(torch.tensor(np.sign(x)), effective, padding=1)
        (through,) = torch.autograd.grad(y, effective, torch.tensor(g))
        step = official_gradient(weight, through.numpy()) + decay * weight
        moved = momentum * moved + step
        answer = layer(torch.tensor(x))
        close.append(np.allclose(answer.detach(), y.detach(), rtol=0, atol=1e-9))
        optimizer.zero_grad()
        answer.backward(torch.tensor(g))
        optimizer.step()
        weight -= rate * moved
    assert all(close) == bool(deviations)
    # Numbers of size 100 at most, some thousand float64 operations: 1e-16 * 100 * 1000.
    assert np.allclose(layer.weight.detach(), weight, rtol=0, atol=1e-9) == bool(deviations)
    assert (np.abs(weight) > 1).any()


@pytest.mark.parametrize("make", [BinaryConv2d, BinaryWeightConv2d], ids=["binary", "binary weights"])
def test_weights_are_renewed_in_place_by_training_only(make: Any, rng: np.random.Generator) -> None:
    layer = make(4, 3, 3, scheme=CENTRED_AND_CLAMPED)
    with torch.no_grad():
        layer.weight.mul_(20)
    before = layer.weight.detach().clone()
    x = random_input(rng, 1, 4, 5, 5)
    evaluated = layer.eval()(x)
    assert torch.equal(layer.weight, before)
    trained = layer.train()(x)
    want = np.clip(centred(before.numpy()), -1, 1)
    # Centring sums four numbers below 16 in float32.
    np.testing.assert_allclose(layer.weight.detach(), want, rtol=0, atol=4 * 16 * 2**-23)
    assert not torch.equal(layer.weight, before)
    # The scale is in the weights of one and behind the sum of the other: 4 * 9 products at most, and one more.
    torch.testing.assert_close(
        trained, evaluated, rtol=0, atol=(4 * 9 + 1) * float(evaluated.detach().abs().max()) * 2**-23
    )
    layer.set_scheme(FloatWeights(of=layer.scheme))
    with torch.no_grad():
        layer.weight.copy_(before)
    layer(x)
    assert torch.equal(layer.weight, before)


def test_weights_stay_where_no_deviation_moves_them(rng: np.random.Generator) -> None:
    layer = BinaryConv2d(4, 3, 3, scheme=OfficialBnas(fan_in_gradient=True, sign_of_zero=True))
    with torch.no_grad():
        layer.weight.mul_(50)
    before = layer.weight.detach().clone()
    layer(random_input(rng, 1, 4, 5, 5))
    assert torch.equal(layer.weight, before)


def test_the_sign_of_zero(rng: np.random.Generator) -> None:
    """Zeros of either sign, in activations and weights: 0 in the sum, and the gradients of the official code."""
    layer = BinaryConv2d(2, 3, 3, padding=1, scheme=SignOfZero())
    x = random_input(rng, 2, 2, 5, 5).requires_grad_()
    with torch.no_grad():
        layer.weight[rng.random(layer.weight.shape) < 0.3] = 0.0
        layer.weight[0, 0, 0, 0] = -0.0
    want = numpy_conv(np.sign(x.detach().numpy()), np.sign(layer.weight.detach().numpy()), padding=(1, 1))
    y = layer(x)
    np.testing.assert_array_equal(y.detach().numpy(), want)
    assert not np.array_equal(BinaryConv2d(2, 3, 3, padding=1, scheme=Scheme())(x).detach().numpy(), want)
    y.sum().backward()
    assert x.grad is not None
    assert (x.grad[x == 0] != 0).any()  # it passes at 0, as everywhere within -1..1
    assert (x.grad[x.abs() >= 1] == 0).all()


def test_the_gradient_of_a_weight_of_zero() -> None:
    layer = layer_with(np.array([0.0, 0.5, -0.25, 0.25]).reshape(1, 4, 1, 1), sign_of_zero=True, fan_in_gradient=True)
    weight, g = layer.weight.detach().numpy(), np.array([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1, 1)
    signs, beta = binary_weight(layer)
    assert (signs.flatten().tolist(), beta.tolist()) == ([0, 1, -1, 1], [0.25])
    # 3 (0.25 g + sign / 4 (2 - 4 + 8))
    np.testing.assert_array_equal(gradient(layer, g).ravel(), [0.75, 1.5 + 4.5, 3 - 4.5, 6 + 4.5])
    np.testing.assert_array_equal(gradient(layer, g), official_gradient(weight, g))


@pytest.mark.parametrize(("channels", "factor"), [(32, 124), (64, 252)])
def test_the_fan_in_gradient_of_binary_weights(channels: int, factor: int, rng: np.random.Generator) -> None:
    weight, g = rng.uniform(-0.4, 0.4, size=(2, channels, 2, 2)), rng.normal(size=(2, channels, 2, 2))
    gradients = []
    for scheme in (CENTRED_AND_CLAMPED, replace(CENTRED_AND_CLAMPED, fan_in_gradient=True)):
        layer = BinaryWeightConv2d(channels, 2, kernel_size=2, stride=2, scheme=scheme).double()
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(weight))
        (found,) = torch.autograd.grad(layer.effective_weight(), layer.weight, torch.tensor(g))
        gradients.append(found.numpy())
    latent = np.clip(centred(weight), -1, 1)
    np.testing.assert_allclose(gradients[1], official_gradient(latent, g), rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(gradients[1], factor * gradients[0], rtol=0, atol=ROUNDING)


def test_deviations_are_off_by_default() -> None:
    assert BinaryConv2d(4, 3, 3).scheme == XnorNet(k_map=False)
    assert not any(asdict(OfficialBnas()).values())


def test_real_weights_leave_the_signs_of_the_input(rng: np.random.Generator) -> None:
    layer = BinaryConv2d(4, 3, 3, stride=2, padding=1, scheme=FloatWeights(of=XnorNet(k_map=True)))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rng.integers(-8, 9, layer.weight.shape) / 8))
    x = random_input(rng, 2, 4, 5, 5)
    # Sums of 36 multiples of 1/8: exact in any order. Neither beta nor K is multiplied.
    want = numpy_conv(sign(x.numpy()), layer.weight.detach().numpy(), stride=(2, 2), padding=(1, 1))
    np.testing.assert_array_equal(layer(x).detach().numpy(), want)


def test_a_convolution_with_binary_weights_only(rng: np.random.Generator) -> None:
    layer = BinaryWeightConv2d(4, 2, kernel_size=2, stride=2, scheme=CENTRED_AND_CLAMPED)
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rng.integers(-16, 17, layer.weight.shape) / 8))
        layer.bias.copy_(torch.tensor([0.5, -3.0]))
    x = torch.tensor(rng.integers(-8, 9, (2, 4, 6, 4)), dtype=torch.float32)
    latent = np.clip(centred(layer.weight.detach().numpy()), -1, 1)
    beta = np.abs(latent).sum(axis=(1, 2, 3)) / 16
    # Multiples of 2^-9 below 2^7: every product and every sum is exact in float32.
    want = numpy_conv(x.numpy(), sign(latent) * beta[:, None, None, None], stride=(2, 2))
    want += np.array([0.5, -3.0])[:, None, None]
    np.testing.assert_array_equal(layer(x).detach().numpy(), want)


@pytest.mark.parametrize("make", [lambda: BinaryConv2d(4, 3, 5, stride=2, groups=1), lambda: Zeroise(2)])
def test_settings_are_shown(make: Callable[[], nn.Module]) -> None:
    assert "stride=" in repr(make())


def test_the_pad_value_is_shown_where_it_is_not_0() -> None:
    assert "pad_value=-1" in repr(BinaryConv2d(4, 3, 5, pad_value=-1))
    assert "pad_value" not in repr(BinaryConv2d(4, 3, 5))
