"""Networks of convolution, BN, maximum and sign, in the orders that are usual: what is pooled are bits."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.export import Description, Images, export_module
from bnas_deploy.runtime.session import create_session, session_options
from bnas_deploy.search.nn.layers import BinaryConv2d

POOL = nn.MaxPool2d(2)
ORDERS = {
    "conv, BN, maximum, sign": lambda norm: (norm, POOL),
    "conv, maximum, BN, sign": lambda norm: (POOL, norm),
    "conv, BN, Hardtanh, maximum, sign": lambda norm: (norm, nn.Hardtanh(), POOL),
    "conv, maximum, BN, Hardtanh, sign": lambda norm: (POOL, norm, nn.Hardtanh()),
    "conv, ReLU, maximum, BN, sign": lambda norm: (nn.ReLU(), POOL, norm),
    "conv, ReLU, BN, maximum, sign": lambda norm: (nn.ReLU(), norm, POOL),
    "conv, maximum rounded up, BN, sign": lambda norm: (nn.MaxPool2d(2, ceil_mode=True), norm),
}


def network(order: str) -> nn.Module:
    """Return three binary layers of 12 channels, whose BNs rise or fall, with a maximum behind the first two."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 12, 3, padding=1)]
    for _ in range(2):
        norm = nn.BatchNorm2d(12)
        for values in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(values)
        layers += [BinaryConv2d(12, 12, 3, padding=1), *ORDERS[order](norm)]
    return nn.Sequential(*layers, BinaryConv2d(12, 12, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize("order", ORDERS)
def test_the_bits_are_pooled_and_every_answer_is_right(order: str, tmp_path: Path) -> None:
    module, bundle = network(order), tmp_path / "bundle"
    images = torch.randn(4, 3, 16, 24)
    description = Description(
        {"name": "tiny"}, tuple("abcdefghijkl"), Preprocessing(16, 24, (0.0,) * 3, (1.0,) * 3), {}
    )

    twin = nn.Sequential(nn.Conv2d(3, 12, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    result = export_module(module, twin, bundle, Images(images), description)

    model = ir.load(bundle / "model.onnx")
    kinds = [node.op_type for node in model.graph if node.domain]
    assert kinds == ["BinaryConv2dMaxPoolToBits", "BinaryConv2dOfBitsMaxPoolToBits", "BinaryConv2dOfBits"]
    assert not [node for node in model.graph if node.op_type in ("MaxPool", "BatchNormalization", "Clip", "Relu")]
    found = result.verification
    assert found.failures == []
    assert found.pieces is not None
    assert [piece.bits for piece in found.pieces.pieces if piece.binary] == [True, True, False]
    fed = {"images": images.numpy()}
    answers = [
        create_session(bundle / "model.onnx", session_options(library=library)).run(None, fed)[0]
        for library in (True, False)
    ]
    assert np.array_equal(*answers)
