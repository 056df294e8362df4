"""BNext's blocks against the formula of its paper, written out."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bnas_deploy.search.models.backbone_layers import Layers
from bnas_deploy.search.models.bnext_layers import BNextUnit
from bnas_deploy.search.models.registry import build_network, configure


def by_hand(unit: BNextUnit, x: Tensor, stride: int) -> Tensor:
    convolution, norm, prelu = unit.branch
    signs = [torch.where(each >= 0, 1.0, -1.0) for each in (x - convolution.level[:, None, None], convolution.weight)]
    y = prelu(norm(F.conv2d(*signs, stride=stride, padding=signs[1].shape[-1] // 2)))
    read, shortcut = x, x if unit.factor is None else F.prelu(x, unit.factor.weight)
    read, shortcut = (F.avg_pool2d(each, 2) if stride == 2 else each for each in (read, shortcut))
    mixed = (unit.recoupling.share * read + (1 - unit.recoupling.share) * y).mean(dim=(2, 3))
    _, first, _, second, _ = unit.recoupling.gate
    hidden = torch.relu(mixed @ first.weight[:, :, 0, 0].T + first.bias)
    gate = torch.sigmoid(hidden @ second.weight[:, :, 0, 0].T + second.bias)[:, :, None, None]
    return unit.norm(gate * y * (1.0 if unit.factor is None else shortcut)) + shortcut


@pytest.mark.parametrize("multiplies", [False, True])
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 2), (3, 1), (1, 1)])
def test_a_unit(kernel_size: int, stride: int, multiplies: bool) -> None:
    torch.manual_seed(0)
    layers = Layers(configure("BNext-Tiny"))
    unit = BNextUnit(layers, 8, 8, kernel_size, stride, multiplies=multiplies).eval()
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        unit.recoupling.share.clamp_(0, 1)
        x = torch.randn(2, 8, 6, 4)
        # Float32: sums of 72 terms of some units at most.
        torch.testing.assert_close(unit(x), by_hand(unit, x, stride), rtol=1e-5, atol=1e-5)


def test_shares_beyond_0_and_1_are_clipped() -> None:
    unit = BNextUnit(Layers(configure("BNext-Tiny")), 4, 4, 1, multiplies=False).eval()
    x = torch.randn(1, 4, 3, 3)
    with torch.no_grad():
        answers = [unit(x) for share in (1.0, 3.0) if unit.recoupling.share.fill_(share) is not None]
    assert torch.equal(*answers)


def test_the_tiny_network_is_that_of_the_code() -> None:
    """Units multiply in every second block, and five blocks end with two units side by side."""
    with torch.device("meta"):
        network = build_network(configure("BNext-Tiny"))
    units = [module for module in network.modules() if isinstance(module, BNextUnit)]
    assert len(units) == 13 + 13 + 5
    assert [block[0].factor is not None for block in network.blocks] == [number % 2 == 0 for number in range(1, 14)]
    assert [type(block[1]).__name__ == "SideBySide" for block in network.blocks].count(True) == 5
