"""Float layers that look binary are named, and zeros in front of a sign are counted."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.export import Description, Images, LooksBinaryWarning, export_module
from bnas_deploy.export.capture import capture
from bnas_deploy.export.doubts import Doubts, LikelyBinary, find_doubts, no_binary_layer
from bnas_deploy.export.foreign.left_float import BINARISE, FLOAT_WEIGHTS, REGISTER, Left
from bnas_deploy.export.ties import ZeroActivations
from bnas_deploy.report.verification import describe_export
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryWeightConv2d
from bnas_deploy.search.nn.scheme import FloatWeights


class Theirs(nn.Conv2d):
    """A binary convolution as other repositories write it: XNOR-Net's weights, a comparison for the activations."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        return self._conv_forward(torch.where(x >= 0, 1.0, -1.0), self.weight.sign() * scale, self.bias)


class TwoValues(nn.Conv2d):
    """Weights that are stored as two values, behind activations that are compared."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward((x > 0.1).float(), torch.where(self.weight > 0, 0.7, -0.2), None)


class BinaryWeights(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch.sign(self.weight), self.bias)


class BinaryInput(nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.sign(x) * 0.5)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(torch.sign(x), torch.sign(self.weight), padding=1)


class PartlyReplaced(nn.Module):
    """One layer of the package among others, and float layers that are none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.scale = nn.Conv2d(8, 8, 1, groups=8)  # one weight a channel has one magnitude, of course
        self.box = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)  # a blur: all weights alike, none negative
        nn.init.constant_(self.box.weight, 1 / 9)
        self.ours = BinaryConv2d(8, 8, 3, padding=1)
        self.after_relu = BinaryConv2d(8, 8, 1)
        self.meant = BinaryWeightConv2d(8, 8, kernel_size=1)
        self.also_meant = BinaryConv2d(8, 8, 1, scheme=FloatWeights())
        self.shift = nn.Conv2d(8, 8, 3, padding=1, bias=False)  # moves channels: zeros and ones, one 1 a channel
        nn.init.dirac_(self.shift.weight)
        self.theirs = Theirs(8, 8, 3, padding=1)
        self.two = TwoValues(8, 8, 3, padding=1)
        self.functional = Functional()
        self.up = BinaryInput(8, 8, 1)
        self.head = BinaryWeights(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ours(self.box(self.scale(self.stem(x))))
        y = self.after_relu(F.max_pool2d(torch.relu(y + 0.1), 2))
        y = self.also_meant(self.meant(y))
        y = self.up(self.functional(self.two(self.theirs(self.shift(y)))))
        return self.head(y.mean((2, 3)))


LOOK_BINARY = (
    LikelyBinary("theirs", weights=True, input=True),
    LikelyBinary("two", weights=True, input=True),
    LikelyBinary("functional", weights=True, input=True),
    LikelyBinary("up", weights=False, input=True),
    LikelyBinary("head", weights=True, input=False),
)


@pytest.fixture(scope="module")
def module() -> PartlyReplaced:
    torch.manual_seed(0)
    return PartlyReplaced().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    # Black and white, which is ±1 too; more than one batch of those that are run at once.
    return torch.where(torch.rand(9, 1, 8, 8) < 0.5, -1.0, 1.0)


def _doubts(module: nn.Module, images: Tensor) -> Doubts:
    captured = capture(module, images.shape[1:])
    return find_doubts(captured, captured.values_of(images[:1]), module, images)


def _zeros_after_relu(module: PartlyReplaced, images: Tensor) -> ZeroActivations:
    counted = []
    handle = module.after_relu.register_forward_hook(lambda layer, inputs, output: counted.append(inputs[0]))
    with torch.no_grad():
        module(images)
    handle.remove()
    return ZeroActivations("after_relu", int((counted[0] == 0).sum()), 9 * 8 * 4 * 4)


def test_layers_that_look_binary_and_zeros_are_found(module: PartlyReplaced, images: Tensor) -> None:
    doubts = _doubts(module, images)

    assert doubts.likely_binary == LOOK_BINARY
    assert doubts.zero_activations == (_zeros_after_relu(module, images),)
    assert doubts.zero_activations[0].zeros > 0


def test_a_network_of_the_package_alone_raises_no_doubts(images: Tensor) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), BinaryConv2d(8, 5, 3), nn.BatchNorm2d(5)).eval()

    assert _doubts(module, images) == Doubts((), ())


def test_the_report_names_them(module: PartlyReplaced, images: Tensor, tmp_path: Path) -> None:
    twin = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 5))
    description = Description({}, tuple("abcde"), Preprocessing(8, 8, (0.5,), (0.5,)), {})

    with pytest.warns(LooksBinaryWarning, match=r"^up .*stay float$") as warned:
        result = export_module(module, twin, tmp_path / "bundle", Images(images), description)

    assert warned[0].filename == __file__
    card = (tmp_path / "bundle/README.md").read_text()
    assert "* WARNING: look binary: up " in card
    assert "* activations of exactly 0: " in card
    # The others were recognised and translated.
    assert [layer.name for layer in result.doubts.likely_binary] == ["up", "head"]
    assert {"theirs", "two", "functional"} < {layer.name for layer in result.layers}
    zeros = _zeros_after_relu(module, images)
    text = " ".join(describe_export(result).split())
    assert (
        "WARNING: look binary up (input of two values; but a transposed convolution, which no "
        "binary operator is; upsample, and convolve then); head (weights of two values; but its input is float, made "
        "by mean): meant to be binary? As they are, they stay float" in text
    )
    assert (
        f"activations of exactly 0 {zeros.zeros:,} of {zeros.activations:,} before after_relu; sign(0) is +1 here, and "
        "0 in torch.sign" in text
    )


def test_the_remedy_is_said_once() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3))
    unread = no_binary_layer(module, [Left("0", "its input is not recognised: sort in 0", REGISTER)])
    plain = no_binary_layer(module, [Left("0", FLOAT_WEIGHTS, BINARISE)])
    assert [said.count(REGISTER[1:]) for said in (unread, plain)] == [1, 1]
    assert plain.endswith("Float networks are for torch.onnx")
    assert "Float networks" not in unread


def test_a_layer_without_a_name_of_its_own_is_told_by_its_line() -> None:
    assert Left("conv2d_1", "it is float", line="net.py:3").called == "conv2d_1 (net.py:3)"
    assert Left("3.conv", "it is float").called == "3.conv"


def test_a_remedy_of_several_layers_is_said_once() -> None:
    left = [Left("a", "its scale is no number", BINARISE), Left("b", "its input has five levels", BINARISE)]
    said = no_binary_layer(nn.Linear(1, 1), left)
    assert "a: its scale is no number; b: its input has five levels. If a training loop makes " in said
    assert said.count(BINARISE[1:]) == 1
