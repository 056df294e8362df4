"""The judge of a translation: the user's own module, as PyTorch runs it.

Each layer is looked at by itself, on the values that the original has there. In front of it, the activations of the
original are to be the levels that the translation has of the same x: to the bit, or where the original's estimator
rounds, nearer to them than to any other level. Its weights are to be signs * scale, within the roundings of the code
that computes them.

Behind it, what those roundings contribute is computed and taken away: conv(A - levels, w) + conv(levels, w - signs *
scale). What is left are two sums of the same n products, rounded n times each: `bounds.roundings` says how far two
such sums are apart, relative to what the magnitudes add up to, which is at most n max |A| |w| and the bias. A sign that
falls over changes the result by a whole step times |w|, which is many times more.

Whether the layers are joined rightly does not depend on the images. There the translated program runs with each layer's
result replaced by the original's, and has to answer the same to the bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.nn import functional as F

from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.bounds import ROUNDING, roundings
from bnas_deploy.export.foreign.layers import Found
from bnas_deploy.export.foreign.operands import Translation, translation_of
from bnas_deploy.export.inputs import Feed
from bnas_deploy.search.nn.layers import sides_of

BATCH = 4
"""Images that are run at once: what is in front of a layer and behind it is held for so many."""

REFUSED = "nothing was written, since the translation does not agree with the module"


@dataclass
class Seen:
    """What a layer met on the images: how many x there were, and how many of them were exactly 0.

    `meets_zero` tells whether it is to be right for a 0: some x was one, or nothing says that others will not be.
    """

    activations: int = 0
    zeros: int = 0
    meets_zero: bool = False


def compare_layers(original: torch.fx.GraphModule, layers: Sequence[Found], feed: Feed) -> dict[str, Seen]:
    """Compare the layers of a program with their translations on what it takes; return what each met, by name.

    Raises:
        ExportError: one differs; the message says where first, and by how much.
    """
    seen = {found.name: Seen() for found in layers}
    # Both translations of torch.sign give the same, unless a 0 is met.
    translations = {found.name: translation_of(found, meets_zero=True) for found in layers}
    for found in layers:
        _compare_weights(found)
    for first in range(0, len(feed), BATCH):

        def look(found: Found, values: Mapping[Node, Any], first: int = first) -> None:
            x = values[found.source]
            seen[found.name].activations += x.numel()
            seen[found.name].zeros += int((x == 0).sum())
            levels = _compare_front(found, x, values[found.activations], first)
            error = _of_roundings(found, values, levels)
            y = values[found.node] - error if error is not None else values[found.node]
            moved = _as_read(found, x, values)
            compare_behind(found.name, translations[found.name], moved, y, first)

        _run(original, layers, feed[first : first + BATCH], look)
    return seen


def compare_whole(
    original: torch.fx.GraphModule,
    translated: torch.fx.GraphModule,
    layers: Sequence[Found],
    results: Mapping[str, str],
    feed: Feed,
) -> None:
    """Compare the answers of two programs on a few examples, with the original's results in the place of each layer's.

    `results` has the name of the node that makes the result of a layer in `translated`, by the layer.

    Raises:
        ExportError: they differ.
    """
    made: dict[str, Tensor] = {}

    def keep(found: Found, values: Mapping[Node, Any]) -> None:
        made[results[found.name]] = values[found.node]

    want = _run(original, layers, feed, keep)
    with torch.no_grad():
        got = _Forced(translated, made).run(*feed.tensors)
    different = [
        number
        for number, (ours, theirs) in enumerate(zip(_tensors(got), _tensors(want), strict=True))
        if not torch.equal(ours, theirs)
    ]
    if different:
        raise ExportError(f"{REFUSED}: output {different[0]} differs though every layer agrees")


def compare_behind(name: str, translation: Translation, x: Tensor, y: Tensor, first_image: int) -> None:
    """Compare the result y of a layer with what its translation makes of x (N, C, H, W).

    `first_image` is the number of the first image.

    Raises:
        ExportError: they differ by more than rounding explains.
    """
    got = translation(x)
    if got.numel() != y.numel():
        raise ExportError(
            f"{REFUSED}: {name}: answers {tuple(y.shape)} in the module and {tuple(got.shape)} in its translation, by "
            "its stride, padding, dilation and groups"
        )
    want = y.reshape(got.shape)
    difference = (got - want).abs().double()
    bound, wrong = torch.zeros(()), torch.zeros(())
    for worst in (False, True):
        bound = bound_behind(translation, worst=worst)
        wrong = ~(difference <= bound[:, None, None])
        if not bool(wrong.any()):
            return
    place = _first(wrong)
    raise ExportError(
        f"{REFUSED}: {name}: the result {_place(place, first_image)} is {want[place]:.6g} in the module and "
        f"{got[place]:.6g} in its translation, and rounding explains {float(bound[place[1]]):.2g}; "
        f"{_others(wrong)} differ so, by up to {float(difference.max()):.3g}"
    )


def bound_behind(translation: Translation, *, worst: bool) -> Tensor:
    """Return how far a layer's result may be from its translation's, for each output channel: (O) float64.

    `worst` is for roundings that all go one way.
    """
    taps = translation.operands[0].signs[0].numel()
    reach = max(abs(level) for level in translation.steps.levels)
    bias = torch.stack([row.bias.double().abs() for row in translation.operands]).sum(dim=0)
    bound: Tensor = roundings(taps, worst=worst) * ROUNDING * (taps * reach * translation.scale.double().abs() + bias)
    return bound


def pixels(x: Tensor, *, dense: bool) -> Tensor:
    """Return what a dense layer reads, (..., C), as images of one pixel; images are as they are."""
    return x.reshape(-1, x.shape[-1], 1, 1) if dense else x


def _compare_weights(found: Found) -> None:
    difference = found.weights.error.abs()
    allowed = found.weights.rounding.reshape(-1, *(1,) * (difference.ndim - 1))
    wrong = ~(difference <= allowed)
    if bool(wrong.any()):
        place = _first(wrong)
        raise ExportError(
            f"{REFUSED}: {found.name}: the weight at {place} is {found.weights.value[place]:.9g} in the module, and "
            f"{found.weights.translated[place]:.9g} in its translation; {_others(wrong)} "
            "differ so"
        )


def _compare_front(found: Found, x: Tensor, activations: Tensor, first_image: int) -> Tensor:
    """Compare the activations with the levels of x, and return those."""
    levels = found.source_steps.of(x, found.source_axis)
    if found.source_steps.exact:
        wrong = activations != levels
    else:
        wrong = ~((activations - levels).abs() < min(found.steps.heights))
    if bool(wrong.any()):
        place = _first(wrong)
        raise ExportError(
            f"{REFUSED}: {found.name}: the activation {_place(place, first_image)} is {activations[place]:.9g} in the "
            f"module and {levels[place]:.9g} in its translation, for {x[place]:.9g} in front; {_others(wrong)} differ "
            "so"
        )
    return levels


def _of_roundings(found: Found, values: Mapping[Node, Any], levels: Tensor) -> Tensor | None:
    """Return what the roundings of the activations and the weights contribute to a layer's result; None for nothing."""
    if found.source_steps.exact and found.weights.is_exact:
        return None
    weight, error = (_kernel(each) for each in (found.weights.value, found.weights.error))
    difference = _as_read(found, values[found.activations], values) - (moved := _as_read(found, levels, values))
    window = found.window

    def convolved(x: Tensor, w: Tensor, at_padding: float) -> Tensor:
        padded = F.pad(x, sides_of(window.padding, window.extra_padding), value=at_padding)
        return F.conv2d(padded, w, None, window.stride, 0, window.dilation, window.groups)

    total = convolved(difference, weight, 0.0) + convolved(moved, error, found.pad_value)
    return total.reshape(values[found.node].shape)


def _kernel(weight: Tensor) -> Tensor:
    return weight[:, :, None, None] if weight.ndim == 2 else weight


def _as_read(found: Found, x: Tensor, values: Mapping[Node, Any]) -> Tensor:
    """Return what lies in front of a layer as it is convolved: moved as its activations are, (N, C, H, W)."""
    for move in found.moves:
        rest, options = map_arg((move.args[1:], dict(move.kwargs)), values.__getitem__)
        x = move.target(x, *rest, **options)  # type: ignore[operator]  # call_function's target is one
    return pixels(x, dense=found.is_dense)


def _first(wrong: Tensor) -> tuple[int, ...]:
    return tuple(int(index) for index in wrong.nonzero()[0])


def _place(place: tuple[int, ...], first_image: int) -> str:
    names = ("of image", "channel", "row", "column")
    numbers = (place[0] + first_image, *place[1:])
    if len(place) == len(names):
        return ", ".join(f"{name} {number}" for name, number in zip(names, numbers, strict=True))
    return f"at {numbers}"


def _others(wrong: Tensor) -> str:
    return f"{int(wrong.sum()):,} of {wrong.numel():,} values"


def _run(program: torch.fx.GraphModule, layers: Sequence[Found], feed: Feed, look: Any) -> Any:
    try:
        with torch.no_grad():
            return _Looking(program, layers, look).run(*feed.tensors)
    except ExportError as error:
        raise ExportError(error.message) from None  # without what torch.fx adds to it


class _Looking(torch.fx.Interpreter):
    """Runs a program, and shows each layer with the values around it when its result is there."""

    def __init__(self, program: torch.fx.GraphModule, layers: Sequence[Found], look: Any) -> None:
        super().__init__(program)
        self.layers = {found.node.name: found for found in layers}
        self.look = look
        # The program's nodes have the names of those that the layers were found in, but for its inputs.
        inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
        lifted = [node for node in layers[0].node.graph.nodes if node.op == "placeholder"][-len(inputs) :]
        self.names = {ours.name: theirs.name for ours, theirs in zip(inputs, lifted, strict=True)}
        self.around = {found.node.name: _around(found) for found in layers}
        self.kept = {node.name for nodes in self.around.values() for node in nodes}
        self.values: dict[str, Any] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        name = self.names.get(n.name, n.name)
        if name in self.kept:
            self.values[name] = result
        if n.name in self.layers:
            found = self.layers[n.name]
            self.look(found, {node: self.values[node.name] for node in self.around[n.name]} | {found.node: result})
        return result


def _around(found: Found) -> list[Node]:
    return [found.source, found.activations, *(each for move in found.moves for each in move.all_input_nodes[1:])]


class _Forced(torch.fx.Interpreter):
    """Runs a program with other results in the place of some."""

    def __init__(self, program: torch.fx.GraphModule, results: Mapping[str, Tensor]) -> None:
        super().__init__(program)
        self.results = results

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        return self.results.get(n.name, result)


def _tensors(value: Any) -> list[Tensor]:
    return [each for each in torch.utils._pytree.tree_leaves(value) if isinstance(each, Tensor)]
