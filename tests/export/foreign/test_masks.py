"""Signs that are written into a tensor by masks, in place or through `.data`, as much code of the field does."""

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Translate = Callable[[nn.Module, Tensor], tuple[Any, Callable[[Tensor], Tensor]]]


def _written(made: Tensor, x: Tensor) -> Tensor:
    made[x >= 0] = 1
    made[x < 0] = -1
    return made


def _by_one_mask(x: Tensor) -> Tensor:
    mask, made = x.ge(0), torch.empty_like(x)
    made[mask], made[~mask] = 1.0, -1.0
    return made


def _added(x: Tensor) -> Tensor:
    made = torch.zeros_like(x)
    made[x >= 0] += 1
    made[x < 0] -= 1
    return made


def _zeros_up(x: Tensor) -> Tensor:
    signs = torch.sign(x)
    signs[signs == 0] = 1
    return signs


def _copied_by_mask(x: Tensor) -> Tensor:
    made = -torch.ones_like(x)
    made[x >= 0] = torch.ones_like(x)[x >= 0]
    return made


def _counted(x: Tensor) -> Tensor:
    made = -torch.ones_like(x)
    made[torch.nonzero(x >= 0, as_tuple=True)] = 1
    return made


def _into_slices(x: Tensor) -> Tensor:
    made = torch.empty_like(x)
    made[:, :] = torch.where(x < 0, -1.0, 1.0)
    return made


WRITTEN: dict[str, Callable[[Tensor], Tensor]] = {
    "new": lambda x: _written(x.new(x.size()), x),
    "zeros_like": lambda x: _written(torch.zeros_like(x), x),
    "zeros of the size": lambda x: _written(torch.zeros(x.size(), device=x.device), x),
    "clone": lambda x: _written(x.clone(), x),
    "data": lambda x: _written(x.data.clone(), x.data),
    "one mask": _by_one_mask,
    "added": _added,
    "zeros up": _zeros_up,
    "copied by a mask": _copied_by_mask,
    "nonzero": _counted,
    "slices": _into_slices,
    "fill, masked_fill_": lambda x: x.new(x.size()).fill_(1).masked_fill_(x < 0, -1),
    "masked_scatter": lambda x: torch.ones_like(x).masked_scatter(x < 0, torch.full_like(x, -1)),
    "in place": lambda x: x.clone().ge_(0).mul_(2).sub_(1),
    "copy_": lambda x: torch.empty_like(x).copy_((x >= 0).int() * 2 - 1),
}
"""sign(x) with sign(0) = +1."""


def _function(written: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return it as an autograd function, in which such code mostly stands."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
            return written(x)

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
            return gradient

    return Function.apply  # type: ignore[no-any-return]  # apply has no type


class Written(nn.Conv2d):
    """Activations and weights are written by functions."""

    def __init__(self, of_x: Callable[[Tensor], Tensor], of_weight: Callable[[Tensor], Tensor]) -> None:
        super().__init__(8, 8, 1, bias=False)
        self.of_x, self.of_weight = of_x, of_weight

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.of_x(x), self.of_weight(self.weight)) + x


def _network(networks: ModuleType, *layers: nn.Module) -> nn.Module:
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, networks.CLASSES))
    return networks.settled(nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), *layers, *pool))


def test_signs_written_by_masks(networks: ModuleType, translate: Translate) -> None:
    functions = [written if number % 2 else _function(written) for number, written in enumerate(WRITTEN.values())]
    module = _network(networks, *(Written(function, function) for function in functions))
    images = torch.randn(3, *networks.IMAGE, generator=torch.Generator().manual_seed(0))

    translator, translated = translate(module, images)

    assert {each.name: each.reason for each in translator.left}.keys() == {"0", str(len(module) - 1)}
    found = {(layer.activations, layer.threshold.partition(" ")[0]) for layer in translator.layers}
    assert found == {("-1 and +1", "0")}
    assert len(translator.layers) == len(WRITTEN)
    with torch.no_grad():
        want = module(images)
        assert (translated(images) - want).abs().max() < 1e-4 * want.abs().max()


def _shifted(x: Tensor) -> Tensor:
    made = torch.sign(x)
    made[x >= 0] = made.roll(1, 0)[x >= 0]
    return made


def _scattered(x: Tensor) -> Tensor:
    return torch.ones_like(x).masked_scatter(x < 0, torch.sign(x))


def _first_channel(x: Tensor) -> Tensor:
    made = torch.sign(x)
    made[:, 0] = 1
    return made


def _as_many(x: Tensor) -> Tensor:
    made = torch.zeros_like(x)
    made[x >= 0] = torch.sign(x - 0.5)[x.flip(0) >= 0]
    return made


MOVED = {
    "read elsewhere": (_shifted, r"its input is moved by roll in 2, test_masks\.py:\d+"),
    "scattered in order": (
        _scattered,
        r"masked_scatter in 2, test_masks\.py:\d+ moves numbers",
    ),
    "a part": (_first_channel, r"select_scatter in 2, test_masks\.py:\d+ is no function of single numbers"),
    "another mask": (_as_many, r"its input is moved by flip in 2, test_masks\.py:\d+"),
}


@pytest.mark.parametrize(("moves", "reason"), MOVED.values(), ids=MOVED)
def test_masks_that_move_numbers_are_left(
    moves: Callable[[Tensor], Tensor], reason: str, networks: ModuleType, translate: Translate
) -> None:
    module = _network(networks, Written(moves, torch.sign))
    image = torch.randn(1, *networks.IMAGE, generator=torch.Generator().manual_seed(0))

    translator, _ = translate(module, torch.cat([image, image]))

    (left,) = (each for each in translator.left if each.name == "2")
    assert re.search(reason, left.reason), left.reason


class SetsData(nn.Conv2d):
    """Signs take the place of what there is, and the latent weights are kept beside them."""

    def forward(self, x: Tensor) -> Tensor:
        x.data = x.data.sign()
        if not hasattr(self.weight, "org"):
            self.weight.org = self.weight.data.clone()
        self.weight.data = self.weight.org.sign()
        y = F.conv2d(x, self.weight, None, self.stride, self.padding)
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize("ran_before", [False, True])
def test_data_that_is_set(ran_before: bool, networks: ModuleType, translate: Translate) -> None:
    module = _network(networks, SetsData(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardtanh(), SetsData(8, 8, 1))
    images = torch.randn(3, *networks.IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = module(images)
        if not ran_before:
            module = _network(networks, *list(module.children())[2:-3])

    translator, translated = translate(module, images)

    assert [(layer.name, layer.scale) for layer in translator.layers] == [
        ("2", "1, from 2.weight"),
        ("5", "1, from 5.weight"),
    ]
    with torch.no_grad():
        assert (translated(images) - want).abs().max() < 1e-4 * want.abs().max()
