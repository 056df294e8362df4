"""Moves of activations between their sign and the layer that reads them, such as a flatten or a max pool."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch.fx import Node

from bnas_deploy.export.foreign.left_float import NotTranslated
from bnas_deploy.export.foreign.operations import FEATURES, IMAGES, is_elementwise, operation, place_of, shape_of
from bnas_deploy.export.foreign.steps import Steps

_LISTS = frozenset({"chunk", "split", "split_with_sizes", "tensor_split", "unbind", "unsafe_chunk", "unsafe_split"})
_KEEP_CHANNELS = frozenset({"max_pool2d", "pad", "reflection_pad2d", "replication_pad2d", "upsample_nearest2d"})
MOVES = _KEEP_CHANNELS | _LISTS | {
    "channel_shuffle", "flatten", "flip", "movedim", "narrow", "permute", "pixel_shuffle", "pixel_unshuffle", "reshape",
    "repeat", "repeat_interleave", "reshape_as", "roll", "select", "slice", "squeeze", "swapaxes", "swapdims", "tile",
    "transpose", "unflatten", "unsqueeze", "view", "view_as",
}  # fmt: skip
"""Operations whose every result is one of the elements, and for a max pool that of the largest x."""


def moved(x: Node) -> tuple[Node, tuple[Node, ...]]:
    """Return what is moved to become x, and the operations that do it: the first one first."""
    moves: list[Node] = []
    while _is_move(x := _picked(x)):
        if operation(x) == "pad" and (len(x.args) < 3 or x.args[2] == "constant"):
            break
        moves.insert(0, x)
        x = x.args[0]  # type: ignore[assignment]  # what a move reads is a node
    return x, tuple(moves)


def _is_move(x: Node) -> bool:
    read = x.args[0] if x.args else None
    return isinstance(read, Node) and (
        operation(x) in MOVES or (operation(x) == "getitem" and operation(read) in _LISTS)
    )


def _picked(x: Node) -> Node:
    """Return the tensor that x is, where it is picked out of those that were stacked along the same axis."""
    stack = x.args[0] if operation(x) == "select" else None
    while isinstance(stack, Node) and operation(stack) == "slice" and is_elementwise(stack):
        stack = stack.args[0]
    if not isinstance(stack, Node) or operation(stack) != "stack":
        return x
    (parts, *axis), (_, of_x, number) = stack.args, x.args
    rank = len(shape_of(stack))
    same = isinstance(of_x, int) and of_x % rank == int((*axis, 0)[0]) % rank  # type: ignore[arg-type]  # as schemas say
    return _picked(parts[number]) if same else x  # type: ignore[index,arg-type]  # as above


def axis_behind(moves: Sequence[Node], axis: int, activations: Node) -> int:
    """Return the axis of the channels in front of moves, which have it at `axis` behind."""
    if all(operation(move) in _KEEP_CHANNELS for move in moves):
        return axis
    return IMAGES if len(shape_of(activations)) == 4 else FEATURES


def fitting(steps: Steps, moves: Sequence[Node], channels: int) -> Steps:
    """Return the steps for each channel that is convolved.

    Raises:
        NotTranslated: the channels differ and are moved, or a max pool takes the other end of a falling one.
    """
    if any(operation(move) == "max_pool2d" for move in moves) and steps.falling.any():
        raise NotTranslated("a max pool is between its falling activations and it", "pool in front of the sign")
    if all(operation(move) in _KEEP_CHANNELS for move in moves):
        return steps
    if not (steps.thresholds == steps.thresholds[:, :1]).all() or steps.falling.any() != steps.falling.all():
        raise NotTranslated(
            f"its activations have a threshold for each channel, and {place_of(moves[0])} moves channels",
            "take the sign behind that",
        )
    thresholds = np.repeat(steps.thresholds[:, :1], channels, axis=1)
    return replace(steps, thresholds=thresholds, falling=np.repeat(steps.falling[:1], channels))
