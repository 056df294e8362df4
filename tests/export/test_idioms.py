"""Networks as their authors write them, with the package's layers: which nodes are left beside convolutions."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core.bundle import MODEL, Preprocessing
from bnas_deploy.export import Description, Images, export_module
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryLinear

CLASSES = 5
SIDE = 16


class LeNet(nn.Module):
    """Convolution, BN, ReLU, pool; BN, binary convolution, BN, ReLU, pool; BN, binary dense layer, BN, ReLU; dense."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8)
        self.norm2, self.conv2, self.norm3 = nn.BatchNorm2d(8), BinaryConv2d(8, 12, 5, bias=True), nn.BatchNorm2d(12)
        self.norm4, self.dense1, self.norm5 = nn.BatchNorm1d(48), BinaryLinear(48, 20, bias=True), nn.BatchNorm1d(20)
        self.dense2 = nn.Linear(20, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm3(self.conv2(self.norm2(x)))), 2)
        x = x.view(x.size(0), -1)
        x = F.relu(self.norm5(self.dense1(self.norm4(x))))
        return self.dense2(x)


class ScaledConv(nn.Module):
    """A binary convolution with a scale and a bias that are learned beside it."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = BinaryConv2d(channels_in, channels, 3, padding=1)
        self.alpha = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)
        self.bias = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.alpha + self.bias.view(1, -1, 1, 1)


def _vgg() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)]
    for channels_in, channels in ((8, 8), (8, 16), (16, 16)):
        layers += [ScaledConv(channels_in, channels), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2), nn.BatchNorm2d(channels)] if channels_in == 8 else []
    return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, CLASSES))


class IrNetBlock(nn.Module):
    """Convolution, BN, shortcut of option A, Hardtanh; twice."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = BinaryConv2d(channels_in, channels, 3, stride, 1), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = BinaryConv2d(channels, channels, 3, 1, 1), nn.BatchNorm2d(channels)
        self.stride, self.more = stride, channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride > 1:
            around = (0, 0, 0, 0, self.more // 2, self.more // 2)
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], around, "constant", 0)
        x = F.hardtanh(self.norm1(self.conv1(x)) + shortcut)
        return F.hardtanh(self.norm2(self.conv2(x)) + x)


def _ir_net() -> nn.Module:
    stem = (nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardtanh())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))
    return nn.Sequential(*stem, IrNetBlock(8, 8, 1), IrNetBlock(8, 16, 2), *head)


class QuickNetBlock(nn.Module):
    """Padding with +1, convolution, ReLU, BN, shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = BinaryConv2d(channels, channels, 3), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.relu(self.conv(F.pad(x, (1, 1, 1, 1), value=1.0)))) + x


def _quick_net() -> nn.Module:
    transition = (nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16))
    head = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))
    stem = (nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8))
    return nn.Sequential(*stem, QuickNetBlock(8), QuickNetBlock(8), *transition, QuickNetBlock(16), *head)


class LearnedBias(nn.Module):
    """One number for each channel, expanded to the image as the authors of ReActNet do it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.expand_as(x)


class ReActBlock(nn.Module):
    """RSign, 3x3, BN, shortcut, RPReLU; RSign, 1x1, BN, shortcut, RPReLU; two 1x1 where the channels double."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.shift1, self.conv1 = LearnedBias(channels_in), BinaryConv2d(channels_in, channels_in, 3, stride, 1)
        self.norm1, self.activation1 = nn.BatchNorm2d(channels_in), self._rprelu(channels_in)
        self.shortcut = nn.AvgPool2d(2) if stride == 2 else nn.Identity()
        self.shift2 = LearnedBias(channels_in)
        count = channels // channels_in
        self.convs = nn.ModuleList(BinaryConv2d(channels_in, channels_in, 1) for _ in range(count))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels_in) for _ in range(count))
        self.activation2 = self._rprelu(channels)

    @staticmethod
    def _rprelu(channels: int) -> nn.Module:
        return nn.Sequential(LearnedBias(channels), nn.PReLU(channels), LearnedBias(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation1(self.norm1(self.conv1(self.shift1(x))) + self.shortcut(x))
        shifted = self.shift2(x)
        parts = [norm(conv(shifted)) + x for conv, norm in zip(self.convs, self.norms, strict=True)]
        return self.activation2(torch.cat(parts, dim=1))


def _react_net() -> nn.Module:
    stem = (nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))
    return nn.Sequential(*stem, ReActBlock(8, 8, 1), ReActBlock(8, 16, 2), *head)


class BinaryNet(nn.Module):
    """Convolution, pool, BN, Hardtanh; and dense layers with BN1d."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.Hardtanh(inplace=True)),
            *(BinaryConv2d(8, 16, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.Hardtanh(inplace=True)),
            *(BinaryConv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Hardtanh(), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(
            *(BinaryLinear(64, 32, bias=True), nn.BatchNorm1d(32), nn.Hardtanh(inplace=True)),
            *(BinaryLinear(32, CLASSES, bias=True), nn.BatchNorm1d(CLASSES)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).view(-1, 64))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lenet": LeNet,
    "vgg": _vgg,
    "ir-net": _ir_net,
    "quicknet": _quick_net,
    "reactnet": _react_net,
    "binarynet": BinaryNet,
}

# A pool works on floats, but for one of 2x2 between binary layers. Reshapes move no data: one behind a dense layer, and
# one before it where its threshold differs from pixel to pixel.
LEFT = {
    # onnxruntime runs the ReLU of a float stem with its convolution.
    "lenet": {"Relu": 1, "MaxPool": 2, "Reshape": 2},
    # Average pools stay. Both maxima are of bits.
    "vgg": {"Relu": 1, "AveragePool": 1, "Reshape": 1},
    # The Hardtanh behind the float convolution, which the shortcut reads; the shortcut that halves the resolution.
    "ir-net": {"AveragePool": 1, "Pad": 1, "Clip": 1, "ReduceMean": 1, "Reshape": 1},
    # A ReLU behind a shortcut and a second one behind a BN, which no operator has.
    "quicknet": {"Relu": 2, "MaxPool": 1, "ReduceMean": 1, "Reshape": 1},
    # The shifts behind the last concatenation are in the classifier.
    "reactnet": {"Concat": 1, "ReduceMean": 1},
    # The pool behind the float convolution; the dense layers read bits through the other one.
    "binarynet": {"MaxPool": 1, "Reshape": 1},
}
"""Nodes that neither convolve nor multiply matrices."""


def _randomise(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.1, 2)
        if isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, 0.05, 0.5)
    return module.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_left_beside_convolutions(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = _randomise(NETWORKS[name]())
    twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    description = Description({}, tuple("abcde"), Preprocessing(SIDE, SIDE, (0.5,) * 3, (0.5,) * 3), {})

    result = export_module(network, twin, tmp_path / "bundle", Images(torch.randn(4, 3, SIDE, SIDE)), description)

    assert result.verification.failures == []
    assert result.verification.pieces is not None
    binary = [piece for piece in result.verification.pieces.pieces if piece.binary]
    layers = [layer for layer in network.modules() if isinstance(layer, BinaryConv2d)]
    assert len(binary) == len(layers)
    model = onnx.load(tmp_path / "bundle" / MODEL)
    kinds = Counter(node.op_type for node in model.graph.node if node.domain == "")
    left = {kind: count for kind, count in kinds.items() if kind not in ("Conv", "Gemm", "MatMul")}
    assert left == LEFT[name]
