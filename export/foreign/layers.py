"""The binary layers of a captured program, whoever wrote them: found by what they compute."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.fx import Node

from bnas_deploy.export.foreign.left_float import REGISTER, Left, NotTranslated
from bnas_deploy.export.foreign.moves import MOVES, axis_behind, fitting, moved
from bnas_deploy.export.foreign.operations import (
    DENSE,
    FEATURES,
    IMAGES,
    LAYERS,
    called,
    is_along,
    line_of,
    operation,
    path_of,
    place_of,
    shape_of,
)
from bnas_deploy.export.foreign.program import (
    Function,
    NotElementwise,
    Program,
    never_negative,
    obstacle_of,
    sources_of,
)
from bnas_deploy.export.foreign.steps import NoSteps, Steps, joined_steps, steps_of
from bnas_deploy.export.foreign.weights import Weights, weights_of
from bnas_deploy.search.nn.geometry import Pair, keeping_the_size

_TRANSPOSED = ("a transposed convolution, which no binary operator is", "upsample, and convolve then")
_LEFT_FLOAT = {
    "conv1d": (
        "a convolution along one axis, and binary operators have two",
        "write it as F.conv2d of images of one row",
    ),
    "conv3d": ("a convolution along three axes, and binary operators have two", ""),
    "conv_transpose1d": _TRANSPOSED,
    "conv_transpose2d": _TRANSPOSED,
    "conv_transpose3d": _TRANSPOSED,
    "bmm": ("a product of two values that are computed", ""),
    "einsum": ("a product in the notation of einsum", "write it as F.linear or F.conv2d"),
}
"""Layers that no operator computes: why, and what to write instead."""


@dataclass(frozen=True)
class Window:
    """How a convolution goes over images; a dense layer is one of 1x1 pixels.

    `padding` is what there is above and left, `extra_padding` how much more there is below and right.
    """

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    extra_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def is_padded(self) -> bool:
        """Tell whether there is any padding."""
        return any((*self.padding, *self.extra_padding))


@dataclass(frozen=True)
class Found:
    """A binary layer in a program.

        y = conv(A, w) + bias,   A = steps(source), and `pad_value` at the padding

    Attributes:
        name: path of the module that computes it, with a number where that computes several.
        node: that computes y.
        source: what the steps are of.
        activations: the node that computes A.
        moves: operations that move A to where it is convolved, such as flatten: what is nearest to A first.
        axis: IMAGES, or FEATURES for a dense layer.
        source_axis: that of `source`, where moves make it another one.
        source_steps: what A is of x in front of the moves, of which `steps` is what is convolved.
        weights: (O, C/groups, KH, KW), or (O, C).
        bias: (O) float32.
    """

    name: str
    node: Node
    source: Node
    activations: Node
    moves: tuple[Node, ...]
    axis: int
    source_axis: int
    source_steps: Steps
    steps: Steps
    weights: Weights
    bias: Tensor | None
    window: Window
    pad_value: float

    @property
    def is_dense(self) -> bool:
        """Tell whether it is a dense layer."""
        return self.axis == FEATURES


def binary_layers(program: Program) -> tuple[list[Found], list[Left]]:
    """Return the binary layers of a program, and why the other layers with weights are none, in running order."""
    found: list[Found] = []
    left: list[Left] = []
    for name, node in named_layers(program):
        try:
            found.append(_binary_layer(program, name, node))
        except NotTranslated as why:
            left.append(left_float(name, node, why))
    return found, left


def left_float(name: str, node: Node, why: NotTranslated) -> Left:
    """Return a layer that is none, with its line if it is no module of its own."""
    return Left(name, str(why), why.remedy, "" if path_of(node) else line_of(node))


def named_layers(program: Program) -> list[tuple[str, Node]]:
    """Return the nodes with weights by the names of the captured graph: of their modules, numbered from the 2nd on.

    What is of no module but the whole network has the name of its node.
    """
    counts: dict[str, int] = {}
    named = []
    for node in program.exported.graph.nodes:
        name = operation(node)
        if name not in LAYERS | {"binary_conv2d", "zeroise"}:
            continue
        path = path_of(node) or node.name
        counts[path] = counts.get(path, 0) + 1
        if name not in {"binary_conv2d", "zeroise"}:
            number = f"#{counts[path]}" if counts[path] > 1 else ""
            named.append((f"{path}{number}", node))
    return named


def _binary_layer(program: Program, name: str, node: Node) -> Found:
    kind = operation(node)
    if kind in _LEFT_FLOAT:
        raise NotTranslated(*_LEFT_FLOAT[kind])
    x, weight, bias_node, factors = _operands(node)
    if not isinstance(x, Node) or not isinstance(weight, Node):
        raise NotTranslated("what it multiplies is no tensor of the program")
    transposed = kind in {"matmul", "mm", "addmm"}
    if transposed and weight in program.varying and x not in program.varying:
        raise NotTranslated("its weights stand on the left of what they multiply", "write it as F.conv2d or F.linear")
    weights = weights_of(program, weight, transposed=transposed)
    axis = FEATURES if kind in DENSE else IMAGES
    if len(shape_of(x)) < 2 or (axis == IMAGES and len(shape_of(x)) != 4):
        raise NotTranslated(f"it reads a tensor of {len(shape_of(x))} axes", "give it images (N, C, H, W)")
    if weights.value.ndim != (2 if axis == FEATURES else 4):
        raise NotTranslated(f"its weights have {weights.value.ndim} axes")
    if factors != (1, 1):
        raise NotTranslated("it has factors alpha and beta", "write it as F.linear, and multiply behind it")
    bias = _bias(program, bias_node, len(weights.value))
    window = Window() if axis == FEATURES else _window(node, weights.value)
    padded, window, pad_value = (x, window, 0.0) if axis == FEATURES else _padded(x, window)
    activations, moves = moved(padded)
    source_axis = axis_behind(moves, axis, activations)
    source, source_steps = _activation(program, activations, source_axis)
    steps = fitting(source_steps, moves, int(weights.value.shape[1]) * window.groups)
    return Found(
        name=name,
        node=node,
        source=source,
        activations=activations,
        moves=moves,
        axis=axis,
        source_axis=source_axis,
        source_steps=source_steps,
        steps=steps,
        weights=weights,
        bias=bias,
        window=window,
        pad_value=pad_value,
    )


def _operands(node: Node) -> tuple[Any, Any, Any, tuple[Any, Any]]:
    """Return what is multiplied, the weights, the bias and two factors of a layer."""
    given = dict(enumerate(node.args)) | {
        _POSITIONS[name]: value for name, value in node.kwargs.items() if name in _POSITIONS
    }
    if operation(node) == "addmm":
        return given.get(1), given.get(2), given.get(0), (node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1))
    has_bias = operation(node) not in {"matmul", "mm"}
    return given.get(0), given.get(1), given.get(2) if has_bias else None, (1, 1)


_POSITIONS = {"input": 0, "weight": 1, "bias": 2}


def _bias(program: Program, node: Any, outputs: int) -> Tensor | None:
    if not isinstance(node, Node):
        return None
    if node in program.varying:
        raise NotTranslated("its bias depends on the images")
    bias = program.constant(node).value.flatten()
    if len(bias) not in (1, outputs):
        raise NotTranslated(f"its bias has {len(bias)} numbers for {outputs} output channels")
    return bias.expand(outputs).clone()


def _window(node: Node, weight: Tensor) -> Window:
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]  # an operator
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if given.get("transposed", False):
        raise NotTranslated(*_TRANSPOSED)
    dilation, stride = _two(given.get("dilation", 1)), _two(given.get("stride", 1))
    padding, extra = given.get("padding", 0), (0, 0)
    if padding == "same":
        padding, extra = keeping_the_size(_two(weight.shape[2:]), dilation)
    elif padding == "valid":
        padding = 0
    return Window(stride, _two(padding), extra, dilation, int(given.get("groups", 1)))


def _two(value: Any) -> Pair:
    sizes = [value] if isinstance(value, int) else list(value)
    if not all(isinstance(size, int) for size in sizes):
        raise NotTranslated("its geometry depends on the images", "give stride, padding and dilation as numbers")
    return int(sizes[0]), int(sizes[-1])


def _padded(x: Node, window: Window) -> tuple[Node, Window, float]:
    """Return what a convolution reads without a padding of one number in front, the whole padding, and the number."""
    if operation(x) not in {"pad", "constant_pad_nd"}:
        return x, window, 0.0
    arguments: list[Any] = [*x.args, *x.kwargs.values()]
    inner, sides, *rest = arguments
    mode = next((each for each in rest if isinstance(each, str)), "constant")
    number = next((each for each in rest if isinstance(each, int | float)), 0.0)
    plain = mode == "constant" and isinstance(sides, Sequence) and all(isinstance(side, int) for side in sides)
    if not (plain and isinstance(inner, Node) and len(sides) in (2, 4) and min(sides) >= 0):
        return x, window, 0.0
    if window.is_padded and number != 0:
        raise NotTranslated(f"its input is padded with {number:g} and then with 0", "pad it once")
    left, right, top, bottom = (*sides, 0, 0)[:4]
    (up, across), (below, beside) = window.padding, window.extra_padding
    padding, extra = (up + top, across + left), (below + bottom - top, beside + right - left)
    return inner, replace(window, padding=padding, extra_padding=extra), float(number)


def _activation(program: Program, activations: Node, axis: int) -> tuple[Node, Steps]:
    """Return the nearest value of many levels that the activations are a step function of, and the function."""
    if operation(activations) == "cat" and is_along(activations, axis):
        return _joined(program, activations, axis)
    return _past_steps(program, activations, axis, *_nearest(program, activations, axis))


def _nearest(program: Program, activations: Node, axis: int) -> tuple[Node, Steps]:
    """Return the nearest value that the activations are a step function of, and the function.

    torch.sign is one with 0 at 0. Behind a ReLU that is 0 or 1, which is told from a sign by going on to look.
    """
    first: tuple[Node, Steps] | None = None
    reason = ""
    for source in sources_of(program, activations):
        try:
            steps = _steps(program, source, activations, axis)
        except (NoSteps, NotElementwise) as why:
            reason = f"as a function of the output of {called(source)}, {why}"
            continue
        if len(steps.levels) == 2:
            return source, steps
        first = first or (source, steps)
        if not first[1].is_sign:
            break
    if first is None:
        raise _no_activation(program, activations, reason)
    return first


def _past_steps(program: Program, activations: Node, axis: int, source: Node, steps: Steps) -> tuple[Node, Steps]:
    """Go on to what `source` is a step function of itself, as where a layer takes the sign of a sign.

    Else the first of them would be computed in float, with all that its author wrote for its gradient.
    """
    for farther in sources_of(program, source):
        try:
            _steps(program, farther, source, axis)
            both = _steps(program, farther, activations, axis)
        except (NoSteps, NotElementwise):
            continue
        return _past_steps(program, activations, axis, farther, both)
    return source, steps


def _steps(program: Program, source: Node, result: Node, axis: int) -> Steps:
    lowest = 0.0 if never_negative(program, source) else float("-inf")
    return steps_of(Function(program, source, result, axis, lowest))


def _joined(program: Program, activations: Node, axis: int) -> tuple[Node, Steps]:
    """Return the steps of activations whose channels are joined, of what the parts are steps of, joined alike."""
    found: list[tuple[Node, Steps]] = []
    for number, part in enumerate(activations.args[0]):  # type: ignore[arg-type]  # a list of nodes
        try:
            found.append(_activation(program, part, axis))
        except NotTranslated as why:
            place = f"its input is joined by {place_of(activations)}, and for part {number} of it"
            raise NotTranslated(f"{place}, {why}", why.remedy) from None
    try:
        steps = joined_steps([each for _, each in found])
    except NoSteps as why:
        raise NotTranslated(f"its input is joined by {place_of(activations)}, and {why}") from None
    return program.joined([source for source, _ in found], activations), steps


_MAKES_FLOATS = ("conv", "linear", "mm", "matmul", "norm", "pool", "getitem", "mean", "sum", "interpolate", "upsample")
"""Parts of the names of operations whose results are float, and no mistake of the export."""


def _no_activation(program: Program, activations: Node, reason: str) -> NotTranslated:
    """Say what the activations are instead of a step function; `reason` is what was found nearest to a layer."""
    obstacle = obstacle_of(program, activations)
    name = operation(obstacle)
    if name == "cat" and not reason:
        return NotTranslated(
            f"its input is joined by {place_of(obstacle)}, not along its channels", "take the sign of what is joined"
        )
    if not name or any(part in name for part in _MAKES_FLOATS):
        made = f"made by {name}" if name else "the images"
        return NotTranslated(f"its input is float: {reason}" if reason else f"its input is float, {made}")
    if name in MOVES | {"index", "index_select", "gather", "take", "take_along_dim"}:
        return NotTranslated(f"its input is moved by {place_of(obstacle)}", "take the sign behind that")
    return NotTranslated(
        f"its input is not recognised: {place_of(obstacle)} is no function of single numbers", REGISTER
    )
