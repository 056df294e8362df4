"""Layers with a registered rule, in the place of the user's own, which judges them."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.foreign.judge import BATCH, REFUSED, compare_behind, pixels
from bnas_deploy.export.foreign.layers import Window
from bnas_deploy.export.foreign.left_float import NotTranslated
from bnas_deploy.export.foreign.operands import Translation, operands
from bnas_deploy.export.foreign.rules import BinaryLayer, binary_layer, registered
from bnas_deploy.export.foreign.steps import Steps
from bnas_deploy.export.inputs import Feed
from bnas_deploy.search.nn.geometry import Pair, Sizes


class RuledLayer(nn.Module):
    """What a rule says of a layer, as operators."""

    def __init__(self, layer: BinaryLayer, translation: Translation) -> None:
        super().__init__()
        self.is_dense = layer.weight.ndim == 2
        self.window = translation.window
        self.rows = translation.operands
        for number, row in enumerate(translation.operands):
            for name, value in row.tensors().items():
                self.register_buffer(f"{name}_{number}", value)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer makes of images (N, C, H, W), or of (..., C) if it is dense."""
        y: Tensor | None = None
        for number, row in enumerate(self.rows):
            tensors = [getattr(self, f"{name}_{number}") for name in row.tensors()]
            part = torch.ops.bnas.binary_conv2d(pixels(x, dense=self.is_dense), *tensors, *row.options(self.window))
            y = part if y is None else y + part
        assert y is not None
        return y.reshape(*x.shape[:-1], y.shape[1]) if self.is_dense else y


def translate_rule(path: str, layer: BinaryLayer) -> Translation:
    """Translate what a rule says.

    Raises:
        ExportError: the number at the padding is none that an operator has.
    """
    assert isinstance(layer.threshold, Tensor)
    assert isinstance(layer.scale, Tensor)
    (up, across), dilation = _two(layer.padding), _two(layer.dilation)
    window = Window(_two(layer.stride), (up, across), (0, 0), dilation, layer.groups)
    falling = np.zeros(len(layer.threshold), bool)
    thresholds = layer.threshold.numpy()[None].copy()
    steps = Steps((layer.low, layer.high), thresholds, falling, exact=True, lowest=float("-inf"))
    try:
        rows = operands(steps, layer.weight, layer.scale, layer.bias, window, layer.pad_value)
    except NotTranslated as reason:
        raise ExportError(f"{path}: its rule gives a layer that no operator can be: {reason}") from None
    return Translation(tuple(rows), window, steps, layer.scale)


@dataclass(frozen=True)
class Ruled:
    """A module whose registered layers are what their rules say, and those by their paths."""

    module: nn.Module
    layers: dict[str, tuple[BinaryLayer, Translation]]


def with_rules(module: nn.Module) -> Ruled:
    """Return `module` itself if no layer has a rule; else a copy in which each is what its rule says.

    Raises:
        ExportError: a rule gives what no layer is.
    """
    paths = registered(module)
    if not paths:
        return Ruled(module, {})
    layers = {}
    made: dict[nn.Module, RuledLayer] = {}
    for path, layer in paths.items():
        given = binary_layer(path, layer)
        translation = translate_rule(path or type(layer).__name__, given)
        layers[path] = given, translation
        made[layer] = RuledLayer(given, translation)
    if "" in paths:
        return Ruled(made[module], layers)
    # A layer that is held in several places is one layer there as well.
    return Ruled(copy.deepcopy(module, {id(layer): ruled for layer, ruled in made.items()}), layers)


def judge_rules(module: nn.Module, ruled: Ruled, feed: Feed) -> None:
    """Compare each registered layer with its rule, on what it reads in `module`; then the whole modules.

    Args:
        module: with the user's own layers.
        ruled: what `with_rules` made of it.
        feed: what both take.

    Raises:
        ExportError: they differ.
    """
    for first in range(0, len(feed), BATCH):
        batch = feed[first : first + BATCH]
        answers, made = _compared(module, ruled, batch, first)
        if first == 0:
            _compare_whole(ruled.module, answers, made, batch)


def _compared(module: nn.Module, ruled: Ruled, feed: Feed, first_image: int) -> tuple[Any, dict[str, list[Tensor]]]:
    """Run the user's module, compare its registered layers, and return its answers and what the layers made."""
    made: dict[str, list[Tensor]] = {path: [] for path in ruled.layers}
    read: dict[str, Tensor] = {}
    kinds = {path: type(module.get_submodule(path)).__name__ for path in ruled.layers}

    def before(path: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
            raise ExportError(
                f"{path} ({type(layer).__name__}): reads {len(inputs)} inputs, and a layer with a rule reads one tensor"
            )
        read[path] = inputs[0].detach().clone()  # some layers write into what they read

    def behind(path: str, inputs: tuple[Any, ...], y: Any) -> None:
        layer, translation = ruled.layers[path]
        if not isinstance(y, Tensor):
            raise ExportError(f"{path}: answers {type(y).__name__}, and a layer with a rule answers one tensor")
        made[path].append(y.detach().clone())
        name = f"{path} ({kinds[path]})" if path else kinds[path]
        x = pixels(read[path], dense=layer.weight.ndim == 2)
        _check_channels(name, layer, x, read[path])
        try:
            compare_behind(name, translation, x, y.detach(), first_image)
        except ExportError as error:
            zeros = int((x == 0).sum())
            hint = f"; {zeros:,} of {x.numel():,} values in front are exactly 0: is sign(0) 0 in it?" if zeros else ""
            raise ExportError(f"{error.message}; look at its rule{hint}") from None
        except RuntimeError as error:
            raise ExportError(
                f"{REFUSED}: {name}: its rule gives weights {tuple(layer.weight.shape)}, which do not fit "
                f"{tuple(read[path].shape)}: {str(error).splitlines()[0]}"
            ) from None

    handles = []
    for path in ruled.layers:
        layer = module.get_submodule(path)
        handles.append(layer.register_forward_pre_hook(lambda layer, x, path=path: before(path, layer, x)))
        handles.append(layer.register_forward_hook(lambda layer, x, y, path=path: behind(path, x, y)))
    with _removed(handles), torch.no_grad():
        return module(*feed.tensors), made


def _check_channels(name: str, layer: BinaryLayer, x: Tensor, read: Tensor) -> None:
    """Refuse a rule whose weights read other channels than there are; x is what the layer reads, (N, C, H, W)."""
    channels = layer.weight.shape[1] * layer.groups
    if x.ndim == 4 and x.shape[1] == channels:
        return
    axes = f"(N, {channels})" if layer.weight.ndim == 2 else f"(N, {channels}, H, W)"
    groups = f" in {layer.groups} groups" if layer.groups > 1 else ""
    raise ExportError(
        f"{REFUSED}: {name}: its rule gives weights {tuple(layer.weight.shape)}{groups}, which read {axes}, and the "
        f"layer reads {tuple(read.shape)}; give weights (O, C/groups, KH, KW), or (O, C) of a dense layer"
    )


def _compare_whole(ruled: nn.Module, answers: Any, made: dict[str, list[Tensor]], feed: Feed) -> None:
    """Compare the answers, with the results of the user's layers in the place of those of the rules."""
    results = {path: iter(each) for path, each in made.items()}
    handles = [
        ruled.get_submodule(path).register_forward_hook(lambda layer, x, y, path=path: next(results[path]))
        for path in made
    ]
    with _removed(handles), torch.no_grad():
        got = ruled(*feed.tensors)
    pairs = zip(tree_leaves(got), tree_leaves(answers), strict=True)
    if not all(torch.equal(ours, theirs) for ours, theirs in pairs if isinstance(ours, Tensor)):
        raise ExportError(
            f"{REFUSED}: the answers differ though every layer agrees with its rule; a layer may write into what it "
            "reads, which others read as well (input.data = ...): let it make a new tensor"
        )


@contextmanager
def _removed(handles: Sequence[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _two(sizes: Sizes) -> Pair:
    assert not isinstance(sizes, int)  # `binary_layer` has made a pair of it
    first, second = sizes
    return first, second
