"""Signs that are joined, parted or picked in front of a layer, and weights that are a sum of two binary ones."""

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.export.foreign.steps import MOST_LEVELS, NoSteps, Steps, joined_steps

Translate = Callable[[nn.Module, Tensor], tuple[Any, Callable[[Tensor], Tensor]]]


def _sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.shift = nn.Parameter(torch.randn(8, 1, 1))
        self.narrow, self.same, self.wide = (nn.Parameter(torch.randn(8, size, 3, 3)) for size in (4, 8, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.norm(self.stem(x)))

    def layers(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Duo(Base):
    """BinaryDuo's: two signs of each channel, joined in front of one convolution; and signs joined with 0 and 1."""

    def layers(self, x: Tensor) -> Tensor:
        pairs = torch.cat([torch.sign(x + self.shift), torch.sign(x - self.shift)], 1)
        mixed = torch.cat([_sign(x), (-x > self.shift).float()], 1)
        return F.conv2d(pairs, self.wide.sign(), padding=1) + F.conv2d(mixed, self.wide.sign())[:, :, 1:2, 1:2]


class Parted(Base):
    """The signs of half of the channels, of one of two copies, and rolled ones."""

    def layers(self, x: Tensor) -> Tensor:
        low, high = _sign(x + self.shift).chunk(2, 1)
        (_, last), copies = torch.sign(x).unflatten(1, (2, 4)).unbind(1), torch.stack([_sign(x), _sign(-x)], 1)
        halves = F.conv2d(low, self.narrow.sign()) + F.conv2d(high, -self.narrow.sign())
        rolled = F.conv2d(copies[:, 1].roll(1, 1), self.same.sign())
        return halves + F.conv2d(last, self.narrow.sign()) + F.conv2d(_sign(x)[:, ::2], self.narrow.sign()) + rolled


class Picked(Base):
    """The larger of two numbers, and a table of two."""

    def layers(self, x: Tensor) -> Tensor:
        larger = torch.stack([torch.zeros_like(x), x], -1).argmax(-1).float() * 2 - 1
        table = torch.tensor([-1.0, 1.0])[(x >= self.shift).long()]
        return F.conv2d(larger, self.same.sign()) + F.conv2d(table, self.same.sign())


class TwoMagnitudes(Base):
    """Ternary weights, plain and with an estimator; 0 and 1; two values; two bases."""

    def layers(self, x: Tensor) -> Any:
        w, a = self.same, _sign(x)
        ternary = torch.where(w.abs() > 0.25, w.sign(), 0.0)
        bases = w.sign() + 0.5 * (w.abs() - 0.25).sign() * w.sign()
        parts = (ternary, (w > 0).float(), torch.where(w > 0, 0.75, -0.25), bases)
        exact = sum(F.conv2d(a, part, padding=1) for part in parts)
        return exact, F.conv2d(a, (ternary * 0.01).detach() - w.detach() + w)


class ThreeValues(Base):
    """Trained ternary weights, with zeros and without; the channels of the last have three, two values and one."""

    def layers(self, x: Tensor) -> Tensor:
        w, a = self.same, _sign(x)
        trained = torch.where(w > 0.25, 0.75, 0.0) - torch.where(w < -0.25, 0.5, 0.0)
        mixed = torch.where(w > 0.25, 2.0, torch.where(w < -0.25, 1.0, -0.5))
        mixed = torch.cat([mixed[:4], mixed[4:7].clamp(min=1), torch.full_like(mixed[7:], -3)])
        return F.conv2d(a, trained, padding=1) + F.conv2d(a, mixed, padding=1)


class RoundedApart(Base):
    """Weights of one magnitude whose estimator's roundings leave two magnitudes, or three values, in each channel."""

    def layers(self, x: Tensor) -> Any:
        a = _sign(x)
        return tuple(F.conv2d(a, weights) for weights in self.weights())

    def weights(self) -> tuple[Tensor, Tensor]:
        large = self.same.abs() > 0.25
        two = torch.where(large, 0.3, 0.1) * self.same.sign()
        three = torch.where(self.same > 0, two, -0.7)
        return self.estimated(two), self.estimated(three)

    def estimated(self, w: Tensor) -> Tensor:
        binary, clipped = 0.0437 * w.sign(), w.clamp(-1, 1)
        return binary.detach() - clipped.detach() + clipped


PARTS = "-1 and +1"
FOUND: dict[str, tuple[type[Base], list[str]]] = {
    "joined": (Duo, ["-1 and +1 (0 at 0, which none of", "-1, 0 and +1 (a sum of 2 packed convolutions)"]),
    "parted": (Parted, [PARTS, PARTS, PARTS, PARTS, PARTS]),
    "picked": (Picked, [PARTS, PARTS]),
}


@pytest.fixture
def images(networks: ModuleType) -> Tensor:
    return torch.randn(3, *networks.IMAGE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kind", "activations"), FOUND.values(), ids=FOUND)
def test_signs(
    kind: type[Base], activations: list[str], networks: ModuleType, images: Tensor, translate: Translate
) -> None:
    module = networks.settled(kind())
    translator, translated = translate(module, images)
    found = [layer.activations for layer in translator.layers]
    assert len(found) == len(activations), [each.advice for each in translator.left]
    assert all(text.startswith(want) for text, want in zip(found, activations, strict=True))
    with torch.no_grad():
        assert torch.equal(translated(images), module(images))  # sums of ±1


def test_joined_signs_name_what_each_part_is_of(networks: ModuleType, images: Tensor, translate: Translate) -> None:
    translator, _ = translate(networks.settled(Duo()), images)
    pattern = r"0 of the output of add, test_joined\.py:\d+ and of the output of sub, test_joined\.py:\d+, from sign$"
    assert re.match(pattern, translator.layers[0].threshold), translator.layers[0].threshold


class Halves(Base):
    def layers(self, x: Tensor) -> Tensor:
        return F.conv2d(torch.cat([_sign(x), x], 1), self.wide.sign())


class Scales(Base):
    def layers(self, x: Tensor) -> Tensor:
        return F.conv2d(_sign(x) * self.shift.abs(), self.same.sign())


class PaddedRows(Base):
    """A dense layer whose rows are filled up with zeros, as kernels of whole words want it."""

    def layers(self, x: Tensor) -> Tensor:
        return F.linear(F.pad(_sign(x.mean((2, 3))), (0, 8)), _sign(self.wide.mean((2, 3))))


class Permuted(Base):
    def layers(self, x: Tensor) -> Tensor:
        return F.conv2d(_sign(x)[:, [3, 1, 0, 2]], self.narrow.sign())


class Unfolded(Base):
    def layers(self, x: Tensor) -> Tensor:
        return self.same.sign().flatten(1) @ F.unfold(_sign(x), 3)


class Sliced(Base):
    def layers(self, x: Tensor) -> Tensor:
        return F.conv2d(torch.cat([_sign(x)[:, :4], _sign(-x)[:, 4:]], 1), self.same.sign())


LEFT = {
    "unfolded": (Unfolded, "its weights stand on the left of what they multiply; write it as F.conv2d or F.linear$"),
    "slices joined": (
        Sliced,
        r"for part 0 of it, its input is moved by slice, test_joined.py:\d+; take the sign behind",
    ),
    "half of it float": (Halves, r"joined by cat, test_joined.py:\d+, and for part 1 of it, its input is float"),
    "scales of channels": (Scales, "its levels differ from channel to channel, and a packed convolution has one scale"),
    "padded": (PaddedRows, r"its input is moved by pad, test_joined.py:\d+; take the sign behind that$"),
    "permuted": (Permuted, r"its input is moved by index, test_joined.py:\d+; take the sign behind that$"),
}


@pytest.mark.parametrize(("kind", "reason"), LEFT.values(), ids=LEFT)
def test_left_float(kind: type[Base], reason: str, networks: ModuleType, images: Tensor, translate: Translate) -> None:
    translator, _ = translate(networks.settled(kind()), images)
    assert translator.layers == []
    (left,) = (each for each in translator.left if each.name != "stem")
    assert re.search(reason, left.advice), left.advice


def test_joined_steps_are_those_of_each_part() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = [_some_steps(rng) for _ in range(3)]
        x = rng.integers(-4, 5, (20, 6)).astype(np.float32)
        want = np.concatenate([part(x[:, 2 * number : 2 * number + 2]) for number, part in enumerate(parts)], axis=1)
        if len({level for part in parts for level in part.levels}) > MOST_LEVELS:
            with pytest.raises(NoSteps, match=r"its parts have the \d values -?\d"):
                joined_steps(parts)
        else:
            np.testing.assert_array_equal(joined_steps(parts)(x), want)


def _some_steps(rng: np.random.Generator) -> Steps:
    """Return steps of two channels, which may fall, may never step, and have 2 or 3 of 5 levels."""
    levels = tuple(map(float, sorted(rng.choice(5, rng.integers(2, 4), replace=False))))
    thresholds = np.sort(rng.integers(-3, 4, (len(levels) - 1, 2)), axis=0).astype(np.float32)
    falling = rng.random(2) < 0.5
    thresholds[:, falling] = thresholds[::-1, falling]
    return Steps(levels, thresholds, falling, exact=True, lowest=float("-inf"))


def test_weights_of_two_magnitudes(networks: ModuleType, images: Tensor, translate: Translate) -> None:
    module = networks.settled(TwoMagnitudes())
    translator, translated = translate(module, images)
    said = [layer.scale for layer in translator.layers]
    assert [text.partition(", from")[0] for text in said] == [
        "0.5 and 0.5", "0.5 and 0.5", "0.5 and 0.25", "1 and 0.5", "0.005 and 0.005"
    ]  # fmt: skip
    assert re.search(r", from same \(\d+ of 576 weights are 0: a sum of 2 packed convolutions\)$", said[0])
    assert said[2].endswith(", from same (two magnitudes of weights: a sum of 2 packed convolutions)")
    assert said[4].endswith("a sum of 2 packed convolutions), roundings of the estimator left out")
    with torch.no_grad():
        (exact, near), (want, estimated) = translated(images), module(images)
    assert torch.equal(exact, want)  # multiples of a quarter
    # 72 products, of weights that are 0.01 and rounded twice beside one below 2. A wrong sign makes 0.02.
    assert (near - estimated).abs().max() < 72 * 2 * 2 * 2**-24 + 72 * 72 * 0.01 * 2**-24


class Deeper(nn.Module):
    """A module that takes signs in its own forward: of what another made, and of a difference of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.sign = nn.BatchNorm2d(8), Sign()
        self.weight, self.shift = nn.Parameter(torch.randn(8, 8, 3, 3)), nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return F.conv2d(_sign(x), self.weight.sign()) + F.conv2d(self.sign(x.abs() - self.shift), self.weight.sign())


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _sign(x)


def test_a_value_inside_of_a_module_is_not_its_output(
    networks: ModuleType, images: Tensor, translate: Translate
) -> None:
    module = networks.settled(nn.Sequential(nn.Conv2d(3, 8, 3), Deeper(), Deeper()))
    translator, _ = translate(module, images)
    of_norm, of_difference, *_ = (layer.threshold for layer in translator.layers)
    assert "of the output of 1.norm, from ge, where" in of_norm
    assert re.search(r" of the output of sub in 1, test_joined\.py:\d+, from ", of_difference)


def test_roundings_of_an_estimator_are_no_second_magnitude(
    networks: ModuleType, images: Tensor, translate: Translate
) -> None:
    module = networks.settled(RoundedApart())
    two, three = module.weights()
    assert {len(channel.abs().unique()) for channel in two} == {2}
    assert {len(channel.unique()) for channel in three} == {3}
    translator, translated = translate(module, images)
    assert [layer.scale for layer in translator.layers] == 2 * [
        "0.0437, from same, roundings of the estimator left out"
    ]
    assert not translator.has_sums
    with torch.no_grad():
        got, want = translated(images), module(images)
        # 72 products, of weights rounded twice beside one below 1. A wrong sign makes 0.08.
        for ours, theirs in zip(got, want, strict=True):
            assert (ours - theirs).abs().max() < 72 * 2 * 2**-24 + 72 * 72 * 0.05 * 2**-24


def test_weights_of_three_values(networks: ModuleType, images: Tensor, translate: Translate) -> None:
    module = networks.settled(ThreeValues())
    translator, translated = translate(module, images)
    assert [layer.scale.partition(", from")[0] for layer in translator.layers] == [
        "0.375 and 0.25 and 0.125", "0 to 0.5 and 0 to 0.75 and 0.75 to 3"
    ]  # fmt: skip
    assert re.search(r"\(\d+ of 576 weights are 0: a sum of 3 packed convolutions\)$", translator.layers[0].scale)
    assert translator.layers[1].scale.endswith("(three values of weights: a sum of 3 packed convolutions)")
    with torch.no_grad():
        assert torch.equal(translated(images), module(images))  # multiples of an eighth
