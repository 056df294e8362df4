"""The operations of a captured program: what they are called, where they stand, and which of them treat elements alone.

A mask picks elements of a whole tensor: `o[mask] = 1`, `o[mask] += 1`, `o.masked_scatter_(mask, v)`. What is read by a
mask and written by the same one again goes back to where it was. So each element depends on itself alone, and reading
by a mask is the value itself, writing by it a `where`.
"""

import os.path
import re
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

_ALONE = frozenset({
    "__and__", "__or__", "__xor__", "_to_copy", "abs", "absolute", "add", "addcdiv", "addcmul", "alias", "atan",
    "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "bucketize", "ceil", "celu", "clamp", "clamp_max",
    "clamp_min", "clip", "clone", "contiguous", "copy", "copysign", "detach", "div", "divide", "dropout", "elu", "eq",
    "erf", "exp", "expm1", "feature_dropout", "fill", "floor", "floor_divide", "ge", "gelu", "greater",
    "greater_equal", "gt", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "heaviside", "isnan", "le",
    "leaky_relu", "lerp", "less", "less_equal", "lift_fresh_copy", "log", "log1p", "log2", "log_sigmoid",
    "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "masked_fill", "max", "maximum", "min", "minimum",
    "mish", "mul", "multiply", "nan_to_num", "ne", "neg", "negative", "not_equal", "pow", "reciprocal", "relu",
    "relu6", "round", "rsqrt", "rsub", "selu", "sgn", "sigmoid", "sign", "signbit", "silu", "sin", "softplus",
    "softshrink", "softsign", "sqrt", "square", "sub", "subtract", "tanh", "threshold", "to", "true_divide", "trunc",
    "type_as", "where", "xlogy",
})  # fmt: skip
"""Operations each of whose results depends on one element of each tensor; `max` and `min` are those of two tensors."""

_MASKED = frozenset({"index", "index_put", "masked_scatter"})
_WHOLE = frozenset({"slice", "slice_scatter"})
"""Operations that treat elements alone where they are given a mask of the whole tensor, or all of an axis."""

_RESULT_OF = {
    "broadcast_to": 0, "copy": 1, "expand": 0, "expand_as": 0, "reshape_as": 0, "slice_scatter": 1, "type_as": 0,
    "unflatten": 0, "view_as": 0,
}  # fmt: skip
"""Operations whose values are those of one argument, which; the others give a shape or a type."""

IDENTITIES = frozenset({"alias", "clone", "contiguous", "detach", "dropout", "lift_fresh_copy"})
"""Operations that give what they read, where no gradient is asked for."""

EXPANSIONS = frozenset({"broadcast_to", "expand", "expand_as"})
"""Operations whose result broadcasts as what they read first."""

SHAPES = frozenset({"sym_size", "_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"})

_FILLS = {"ones_like": 1, "zeros_like": 0, "ones": 1, "zeros": 0, "new_ones": 1, "new_zeros": 0, "zero": 0}
_FULLS = {"fill": 1, "full_like": 1, "full": 1, "new_full": 2, "scalar_tensor": 0}
_EMPTY = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
"""Operations that fill a tensor with a number, and which of their arguments that is; or with nothing."""


def operation(node: Node) -> str:
    """Return what a node computes, without domain and overload, such as "conv2d"; "" if it calls nothing."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target._opname)
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""


def path_of(node: Node) -> str:
    """Return the path of the module in whose forward a node is; "" for the whole module."""
    scopes = list(node.meta.get("nn_module_stack", {}).values())
    return "" if not scopes or is_of_none(str(scopes[-1][0])) else str(scopes[-1][0])


def is_of_none(scope: str) -> bool:
    """Tell whether PyTorch made up a scope for a node that no module made, such as one that reads a size."""
    return scope.startswith("_empty_nn_module")


IMAGES = -3
FEATURES = -1
"""Axis of the channels, from the end."""

DENSE = frozenset({"linear", "matmul", "mm", "addmm"})
LAYERS = DENSE | {
    "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "bmm",
    "einsum",
}  # fmt: skip
"""Operations that multiply by weights, or may."""


def name_layers_of_none(graph: Graph) -> None:
    """Give each layer that is in no module but the whole network one of its own, which has the name of its result.

    The exported graph calls it after that, even if PyTorch traces the program again, and numbers its nodes anew.
    """
    for node in graph.nodes:
        if operation(node) in LAYERS and not path_of(node):
            own = {node.name: (node.name, operation(node))}
            node.meta["nn_module_stack"] = {**node.meta.get("nn_module_stack", {}), **own}


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_EXPORT = os.path.dirname(os.path.dirname(__file__))
_SEARCH = os.path.join(os.path.dirname(_EXPORT), "search")
_NOT_THEIRS = (os.path.dirname(torch.__file__), "torch" + os.sep, _EXPORT + os.sep, _SEARCH + os.sep, "<")
"""How the files begin that are PyTorch's, the package's, or none."""


def line_of(node: Node) -> str:
    """Return the line of the user's code that made a node, such as "mymodel.py:12"; "" if only PyTorch's did."""
    return last_line(_FRAME.findall(str(node.meta.get("stack_trace") or "")))


def last_line(frames: Sequence[tuple[str, object]]) -> str:
    """Return the last of (file, line) that is the user's code, neither PyTorch's nor the package's; "" for none."""
    ours = [(file, line) for file, line in frames if not file.startswith(_NOT_THEIRS)]
    return f"{os.path.basename(ours[-1][0])}:{ours[-1][1]}" if ours else ""


def place_of(node: Node) -> str:
    """Say where an operation stands: its name, its module and the line, such as "sort in 3.conv, mymodel.py:12"."""
    path, line = path_of(node), line_of(node)
    return ", ".join(part for part in (f"{operation(node)}{f' in {path}' if path else ''}", line) if part)


def called(node: Node) -> str:
    """Say which value a node is: the module whose output it is, an input, or the operation and its line."""
    if node.op == "placeholder":
        return f"the input {node.name}"
    return path_of(node) if _leaves_its_module(node) else place_of(node)


def _leaves_its_module(node: Node) -> bool:
    """Tell whether the module in whose forward a node is returns it: something outside of that call reads it."""
    calls = list(node.meta.get("nn_module_stack", {}))
    return bool(path_of(node)) and any(calls[-1] not in user.meta.get("nn_module_stack", {}) for user in node.users)


def shape_of(node: Node) -> tuple[Any, ...]:
    """Return the sizes of what a node computes; that of the batch may be a symbol. () where it is no tensor."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def is_along(node: Node, axis: int) -> bool:
    """Tell whether a concatenation is along an axis, counted from the end of what is joined."""
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    rank = len(shape_of(node))
    return isinstance(given, int) and rank > 0 and given % rank == axis % rank


def same_shape(one: Node, other: Node) -> bool:
    """Tell whether two values have the same sizes, as far as is known."""
    return [str(size) for size in shape_of(one)] == [str(size) for size in shape_of(other)]


def is_elementwise(node: Node) -> bool:
    """Tell whether each result of a node depends on one element of each tensor that it reads."""
    name = operation(node)
    if node.op != "call_function":
        return False
    if stacked_in(node) or table_of(node) is not None:
        return True
    if name in _MASKED:
        return mask_of(node) is not None
    return name in _ALONE or (name in _WHOLE and _is_whole(node))


def values_read(node: Node) -> list[Node]:
    """Return the nodes whose values, not only their shapes and types, decide the value of `node`."""
    name = operation(node)
    if name in SHAPES or filled_with(node) is not None:
        return []
    if name in _RESULT_OF and (name != "slice_scatter" or _is_whole(node)):
        first = node.args[_RESULT_OF[name]]
        return [first] if isinstance(first, Node) else []
    if (mask := mask_of(node)) is not None:
        written = node.args[2] if len(node.args) > 2 else None
        read = [node.args[0], mask, written]
        return [each for each in read if isinstance(each, Node)]
    return stacked_in(node) or list(node.all_input_nodes)


def stacked_in(node: Node) -> list[Node]:
    """Return the tensors of which a node finds, for each element, the largest or smallest; [] for any other node.

    That is `torch.stack((x, y), d).argmax(d)`.
    """
    stack = node.args[0] if operation(node) in {"argmax", "argmin"} and len(node.args) == 2 else None
    if not isinstance(stack, Node) or operation(stack) != "stack":
        return []
    (parts, *axis), rank = stack.args, len(shape_of(stack))
    same = int((*axis, 0)[0]) % rank == int(node.args[1]) % rank  # type: ignore[arg-type]  # as their schemas say
    return list(parts) if same else []  # type: ignore[arg-type]  # as above


def table_of(node: Node) -> Node | None:
    """Return the numbers of which a node takes one for each element of whole numbers, as `table[x.long()]` does."""
    if operation(node) != "index" or not isinstance(node.args[0], Node) or not isinstance(node.args[1], Sequence):
        return None
    table, indices = node.args[0], node.args[1]
    sizes, index = shape_of(table), indices[0] if len(indices) == 1 else None
    if len(sizes) != 1 or not isinstance(sizes[0], int) or not isinstance(index, Node):
        return None
    return table if index.meta["val"].dtype in (torch.int64, torch.int32) else None


def filled_with(node: Node) -> float | None:
    """Return the number that a node fills a tensor with, NaN for no number in particular; None for other nodes."""
    name = operation(node)
    if name in _FILLS:
        return _FILLS[name]
    if name in _EMPTY:
        return float("nan")
    if name not in _FULLS or len(node.args) <= _FULLS[name]:
        return None
    number = node.args[_FULLS[name]]
    return number if isinstance(number, bool | int | float) else None


def _is_whole(node: Node) -> bool:
    """Tell whether a node reads or writes all of an axis."""
    given = dict(enumerate(node.args[1 if operation(node) == "slice" else 2 :]))
    first, last, step = given.get(1), given.get(2), given.get(3, 1)
    return bool(first in (None, 0) and step == 1 and last in (None, sys.maxsize))


def mask_of(node: Node) -> Node | None:
    """Return the mask, of the tensor's own shape, by which a node reads or writes elements; None for any other node.

    `torch.nonzero(mask, as_tuple=True)` as indices is the same as the mask.
    """
    name = operation(node)
    if name not in _MASKED or not isinstance(node.args[0], Node):
        return None
    given = [node.args[1]] if name == "masked_scatter" else list(node.args[1])  # type: ignore[arg-type]  # its indices
    mask = given[0] if len(given) == 1 else _counted(given)
    if not isinstance(mask, Node) or not same_shape(mask, node.args[0]):
        return None
    kind = mask.meta["val"].dtype
    return mask if kind in (torch.bool, torch.uint8) or len(given) > 1 else None


def _counted(indices: list[Any]) -> Node | None:
    """Return the tensor whose elements other than 0 indices count, an axis in each."""
    if not all(isinstance(each, Node) and operation(each) == "getitem" for each in indices):
        return None
    sources = {each.args[0] for each in indices}
    source = sources.pop()
    if sources or operation(source) != "nonzero_numpy" or [each.args[1] for each in indices] != [*range(len(indices))]:
        return None
    mask = source.args[0]
    return mask if isinstance(mask, Node) and len(shape_of(mask)) == len(indices) else None


def is_one_number(node: Node) -> bool:
    """Tell whether a value has one element, or none of its own, as a size."""
    return all(isinstance(size, int) and size == 1 for size in shape_of(node))


def reads_by(node: Node, mask: Node) -> bool:
    """Tell whether all that a node is computed of, element by element, was read by one mask.

    A mask may be computed again each time, as in `o[x > 0] = x[x > 0]`.
    """
    if operation(node) == "index":
        own = mask_of(node)
        return own is not None and _alike(own, mask)
    read = [each for each in values_read(node) if not is_one_number(each)]
    return bool(read) and is_elementwise(node) and all(reads_by(each, mask) for each in read)


def _alike(one: Any, other: Any) -> bool:
    """Tell whether two nodes compute the same by the same operations."""
    if one is other:
        return True
    if isinstance(one, Node) and isinstance(other, Node):
        called = one.op == other.op == "call_function" and one.target == other.target and one.kwargs == other.kwargs
        return called and _alike(one.args, other.args)
    if isinstance(one, Sequence) and isinstance(other, Sequence):
        return len(one) == len(other) and all(map(_alike, one, other))
    return type(one) is type(other) and bool(one == other)
