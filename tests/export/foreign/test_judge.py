"""The judge lets nothing pass that differs from the module: a sign, a scale, a padding, a wire."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.foreign import judge
from bnas_deploy.export.foreign.layers import Found, binary_layers
from bnas_deploy.export.foreign.operands import Operands, Translation, translation_of
from bnas_deploy.export.foreign.program import Program
from bnas_deploy.export.foreign.replace import write_layers
from bnas_deploy.export.inputs import feed_of


@pytest.fixture(scope="module")
def images(networks: ModuleType) -> Tensor:
    return torch.randn(5, *networks.IMAGE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def original(
    networks: ModuleType, program: Callable[[nn.Module, Tensor], Program], images: Tensor
) -> tuple[Program, list[Found]]:
    captured = program(networks.settled(networks.quick_net()), images)
    return captured, binary_layers(captured)[0]


def _one_sign(found: Found) -> Found:
    ((signs, scale),) = found.weights.terms
    signs = signs.clone()
    signs[3, 2, 1, 0] *= -1
    return replace(found, weights=replace(found.weights, terms=((signs, scale),)))


def _scaled(found: Found) -> Found:
    ((signs, scale),) = found.weights.terms
    return replace(found, weights=replace(found.weights, terms=((signs, scale * 1.0001),)))


def _biased(found: Found) -> Found:
    return replace(found, bias=torch.full((16,), 1e-2))


def _shifted(found: Found) -> Found:
    steps = replace(found.source_steps, thresholds=found.source_steps.thresholds + 0.05)
    return replace(found, source_steps=steps, steps=steps)


def _unpadded(found: Found) -> Found:
    return replace(found, pad_value=0.0)


def _smaller(found: Found) -> Found:
    return replace(found, window=replace(found.window, padding=(0, 0)))


TAMPERED: dict[str, tuple[Callable[[Found], Found], str]] = {
    "one sign": (_one_sign, r"1\.conv: the weight at \(3, 2, 1, 0\) is -?1 in the module, and -?1 in its translation"),
    "scale": (_scaled, r"1\.conv: the weight at \(0, 0, 0, 0\) is .*; 2,304 of 2,304 values differ so"),
    "bias": (_biased, r"1\.conv: the result of image 0, channel 0, row 0, column 0 is "),
    "threshold": (_shifted, r"1\.conv: the activation of image 0, .* is 1 in the module and -1 in its .*, for"),
    "padding": (_unpadded, r"1\.conv: the result of image 0, channel 0, row 0, column 0 is "),
    "window": (_smaller, r"1\.conv: answers \(4, 16, 8, 8\) in the module and \(4, 16, 6, 6\) in its"),
}  # fmt: skip


@pytest.mark.parametrize(("tamper", "message"), TAMPERED.values(), ids=TAMPERED)
def test_each_difference_is_named(
    tamper: Callable[[Found], Found], message: str, original: tuple[Program, list[Found]], images: Tensor
) -> None:
    program, (first, *_) = original
    with pytest.raises(ExportError, match=f"nothing was written, .*: {message}"):
        judge.compare_layers(program.exported.module(), [tamper(first)], feed_of(images))  # type: ignore[arg-type]  # it is one


def test_the_last_images_count_as_the_first(original: tuple[Program, list[Found]], images: Tensor) -> None:
    program, (first, *_) = original
    last = images.clone()
    last[:4] = -100  # below every threshold or above it
    with pytest.raises(ExportError, match=r"1\.conv: the activation of image 4, channel"):
        judge.compare_layers(program.exported.module(), [_shifted(first)], feed_of(last))  # type: ignore[arg-type]  # it is one


def test_every_layer_agrees_and_says_what_it_met(original: tuple[Program, list[Found]], images: Tensor) -> None:
    program, layers = original
    seen = judge.compare_layers(program.exported.module(), layers, feed_of(images))  # type: ignore[arg-type]  # it is one
    assert seen == {"1.conv": judge.Seen(5 * 16 * 8 * 8, 0), "3.conv": judge.Seen(5 * 16 * 4 * 4, 0)}


@pytest.mark.parametrize("taps", [9, 576, 4608])
def test_a_sign_that_falls_over_is_more_than_rounding(taps: int, original: tuple[Program, list[Found]]) -> None:
    _, (first, *_) = original
    row = Operands(torch.ones(4, taps, 1, 1), *(torch.zeros(4),) * 5)  # type: ignore[arg-type]  # of four tensors
    translation = Translation((row,), first.window, first.steps, torch.full((4,), 0.3))

    bound = judge.bound_behind(translation, worst=False)

    assert (bound < 0.1 * 2 * 0.3).all()


def test_a_wrong_wire_is_seen(networks: ModuleType, images: Tensor, program: Callable[..., Program]) -> None:
    """Two layers of the same shape whose results are exchanged: each agrees, and the answers do not."""
    captured = program(networks.settled(networks.react_net()), images)
    original: Any = captured.exported.module()
    layers, _ = binary_layers(captured)
    results = write_layers(captured.exported, [(each, translation_of(each, meets_zero=True)) for each in layers])
    translated: Any = captured.exported.module()
    judge.compare_whole(original, translated, layers, results, feed_of(images))

    exchanged = dict(zip(results, reversed(results.values()), strict=True))
    with pytest.raises(ExportError, match="output 0 differs though every layer agrees"):
        judge.compare_whole(original, translated, layers, exchanged, feed_of(images))
