"""Blocks of published networks, written with the layers and torch's own modules: each becomes one operator."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core.bundle import MODEL, Preprocessing
from bnas_deploy.export import Description, ExportResult, Images, export_module
from bnas_deploy.runtime.session import create_session, session_options
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.schemes.reactnet import RPReLU

CHANNELS = 12
CLASSES = 3


class ReActNet(nn.Module):
    """conv -> BN -> + x -> RPReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.activation = RPReLU(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(x)) + x)
        return y


class Hardtanh(nn.Module):
    """IR-Net's: hardtanh(BN(conv(x))), and again with the shortcut before the last Hardtanh."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (BinaryConv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardtanh(self.norms[0](self.first(x)))
        return F.hardtanh(self.norms[1](self.second(y)) + x)


class QuickNet(nn.Module):
    """BN(relu(conv(x))) + x, padded with +1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(CHANNELS, CHANNELS, 3, padding=1, pad_value=1)
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(torch.relu(self.conv(x))) + x
        return y


class RealToBinary(nn.Module):
    """prelu(BN(conv(x) * gate(x))) + x."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.gate = nn.Linear(CHANNELS, CHANNELS)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.activation = nn.PReLU(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        y: Tensor = self.activation(self.norm(self.conv(x) * gate)) + x
        return y


class ScaleMap(nn.Module):
    """conv(x) * map, as form 2 of XNOR-Net++."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.map = nn.Parameter(torch.rand(CHANNELS, 8, 8))
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.relu(self.norm(self.conv(x) * self.map) + x)
        return y


BLOCKS: dict[type[nn.Module], list[str]] = {
    ReActNet: ["BinaryConv2dAddPReluAffine"],
    Hardtanh: ["BinaryConv2d", "BinaryConv2dAddClip"],  # signs alone read the first: it is in the second's threshold
    QuickNet: ["BinaryConv2dReluAffineAdd"],
    RealToBinary: ["BinaryConv2dGatePReluAdd"],
    ScaleMap: ["BinaryConv2dGateAddRelu"],
}
ELEMENTWISE = {"Add", "Sub", "Mul", "Relu", "PRelu", "Clip"}


@pytest.fixture(scope="module", params=BLOCKS, ids=lambda block: block.__name__)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[type, ExportResult]:
    torch.manual_seed(0)
    block: type[nn.Module] = request.param
    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES))
    module = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, padding=1), block(), block(), *tail)
    twin = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), *tail)
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False) if not isinstance(layer, BinaryConv2d | nn.Linear) else ():
            nn.init.normal_(parameter)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=2)
            nn.init.uniform_(layer.running_var, 0.1, 2)
    description = Description(
        network={"name": "block"},
        labels=tuple("abc"),
        preprocessing=Preprocessing(8, 8, (0.5,) * 3, (0.25,) * 3),
        metrics={},
    )
    path = tmp_path_factory.mktemp(block.__name__) / "bundle"
    return block, export_module(module.eval(), twin, path, Images(torch.randn(4, 3, 8, 8)), description)


def _nodes(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_nothing_is_left_beside_the_operators(exported: tuple[type, ExportResult]) -> None:
    block, result = exported
    found = _nodes(result.bundle.file(MODEL))
    assert {name: count for name, count in found.items() if "Binary" in name} == dict.fromkeys(BLOCKS[block], 2)
    assert not ELEMENTWISE & found.keys()


def test_it_is_verified(exported: tuple[type, ExportResult]) -> None:
    _, result = exported
    assert result.verification.failures == []
    assert result.verification.pieces is not None
    assert sum(piece.binary for piece in result.verification.pieces.pieces) >= 2


def test_the_function_bodies_give_the_same_bits(exported: tuple[type, ExportResult], rng: np.random.Generator) -> None:
    _, result = exported
    images = rng.normal(size=(3, 3, 8, 8)).astype(np.float32)
    path = result.bundle.file(MODEL)
    answers = []
    for library in (True, False):
        options = session_options(threads=1, library=library)
        # The float convolutions around the operators are the same only if their layout is.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        answers.append(create_session(path, options).run(None, {"images": images})[0])
    np.testing.assert_array_equal(*answers)
