"""The float twin of a recognised network has one float convolution for each binary layer."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from torch import nn

from bnas_deploy.core.bundle import FLOAT_TWIN, MODEL, Preprocessing
from bnas_deploy.export import Description, Images, export_module


def _ternary(networks: ModuleType) -> nn.Module:
    """Whole numbers in front of a sign, padded on one side more, and a dense layer behind."""
    blocks = (networks.SignConv(3, 8, 3, bias=False), nn.AvgPool2d(2), networks.SignConv(8, 8, 2, padding="same"))
    return networks.settled(nn.Sequential(*blocks, nn.Flatten(), networks.SignLinear(8 * 49, 9), nn.Linear(9, 5)))


def _nodes(path: Path) -> list[str]:
    kinds = ("BinaryConv2d", "Conv", "Gemm", "MatMul")
    return [node.op_type for node in onnx.load(path).graph.node if node.op_type.startswith(kinds)]


CASES: dict[str, tuple[Callable[[ModuleType], nn.Module], int, int]] = {
    "one operator each": (lambda networks: networks.settled(networks.quick_net()), 2, 5),
    "sums of two": (_ternary, 5, 4),
}
"""A network, its packed convolutions, and the float layers of its twin."""


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize(("make", "packed", "in_twin"), CASES.values(), ids=CASES)
def test_twin(
    make: Callable[[ModuleType], nn.Module], packed: int, in_twin: int, networks: ModuleType, tmp_path: Path
) -> None:
    images = torch.randn(5, *networks.IMAGE, generator=torch.Generator().manual_seed(0))
    description = Description({"name": "theirs"}, tuple("abcde"), Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3), {})

    export_module(make(networks), None, tmp_path / "bundle", Images(images), description)

    assert sum(kind.startswith("BinaryConv2d") for kind in _nodes(tmp_path / "bundle" / MODEL)) == packed
    assert len(_nodes(tmp_path / "bundle" / FLOAT_TWIN)) == in_twin
