"""Small edits of an onnx_ir graph that the passes share."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bnas_deploy.core.operators import DOMAIN, Constant, Operator, Size, is_operator, operator

CHANNEL_AXIS = 1

SIGN_OF_ZERO = "sign_of_zero"
"""Attribute of a captured binary convolution in which sign(0) is 0; no finished model has it."""

RECOGNISED = "recognised."
"""How the names of the constants of binary layers begin that were recognised in a user's code."""

UNRECORDED = "unrecorded"
"""Key of a value's note: PyTorch's program has no such value, since torch.onnx or a foreign pass made it up."""


@dataclass(frozen=True)
class Origin:
    """What a value of the rewritten graph is in PyTorch: some channels (axis 1) of the value `name`, in order.

    `channels` is None where it is all of them.
    """

    name: str
    channels: tuple[int, ...] | None = None

    def channel_range(self, first: int, last: int) -> "Origin":
        """Return the origin of channels first .. last - 1 of a value that comes from here."""
        known = self.channels or range(last)
        return Origin(self.name, tuple(known[first:last]))


def origin_of(value: ir.Value) -> Origin:
    """Return where `value` comes from; a value that no pass made is itself."""
    origin = value.meta.get("origin")
    return origin if isinstance(origin, Origin) else Origin(str(value.name))


def is_recorded(value: ir.Value) -> bool:
    """Tell whether PyTorch's program has what `origin_of` says that `value` is; a constant needs no program."""
    return "origin" in value.meta or UNRECORDED not in value.meta or array_of(value) is not None


def is_binary_conv(node: ir.Node | None) -> bool:
    """Tell whether `node` is an operator of the domain `bnas` that convolves."""
    return is_fused(node) and operator(node.op_type).convolves


def is_fused(node: ir.Node | None) -> TypeGuard[ir.Node]:
    """Tell whether `node` is an operator of the domain `bnas`: a binary convolution, or one of images."""
    return node is not None and node.domain == DOMAIN and is_operator(node.op_type)


def activations_of(node: ir.Node) -> list[ir.Value]:
    """Return the parts of X of a binary convolution, in the order in which they are concatenated."""
    return [input_of(node, name) for name in operator(node.op_type).activations]


def added_to(node: ir.Node) -> list[ir.Value]:
    """Return what a binary convolution adds to its result, before its activation and behind it."""
    row = operator(node.op_type)
    return [input_of(node, name) for name in (*row.before_inputs, *row.added_inputs)]


def gates_of(node: ir.Node) -> list[ir.Value]:
    """Return what a binary convolution multiplies its result by: one value or none."""
    return [input_of(node, name) for name in operator(node.op_type).gate_inputs]


def replace_operator(node: ir.Node, row: Operator, inputs: Mapping[str, ir.Value], result: ir.Node) -> ir.Node:
    """Put operator `row` in the place of `node`, a binary convolution, and of `result`, which may be `node` too.

    The new node stands where `result` stood and makes its output. Inputs that `inputs` does not name are those of
    `node`, by their names in `Operator.inputs`, and constants that it has not are neutral; attributes, name and notes
    are those of `node`. Returns the new node.
    """
    assert node.graph is not None
    old = operator(node.op_type)
    known = {name: input_of(node, name) for name in old.inputs} | dict(inputs)
    known |= {each.name: _neutral(node, each) for each in row.constants if each.name not in known}
    output = result.outputs[0]
    fused = ir.Node(
        node.domain,
        row.name,
        [known[name] for name in row.inputs],
        node.attributes,
        outputs=[ir.Value(name=output.name, shape=output.shape, type=output.type)],
        name=node.name,
    )
    fused.meta.update(node.meta)
    fused.outputs[0].meta.update(output.meta)
    replaced = [node] if result is node else [result, node]
    ir.convenience.replace_nodes_and_values(node.graph, result, replaced, [fused], [output], fused.outputs)
    return fused


def _neutral(node: ir.Node, row: Constant) -> ir.Value:
    """Return the neutral constant of a binary convolution."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    old = operator(node.op_type)
    sizes: dict[Size, int] = {
        "C": len(constant_array(input_of(node, "place" if old.of_bits else "threshold"))),
        "O": len(constant_array(input_of(node, "offset"))),
    }
    return constant(graph, f"{node.name}.{row.name}", np.full(row.dimensions(sizes), row.neutral, np.float32))


def input_of(node: ir.Node, name: str) -> ir.Value:
    """Return the input of a binary convolution by its name in Operator.inputs."""
    value = node.inputs[_position(node, name)]
    assert value is not None, f"{node.name} has no input {name}"
    return value


def set_input(node: ir.Node, name: str, value: ir.Value) -> None:
    """Replace the input of a binary convolution by its name in Operator.inputs."""
    node.replace_input_with(_position(node, name), value)


def _position(node: ir.Node, name: str) -> int:
    return operator(node.op_type).inputs.index(name)


def constant(graph: ir.Graph, name: str, data: NDArray[Any]) -> ir.Value:
    """Add an initializer and return it; where `name` is taken a number is appended."""
    unique, number = name, 1
    while unique in graph.initializers:
        number += 1
        unique = f"{name}#{number}"
    value = ir.Value(name=unique, const_value=ir.tensor(np.array(data, order="C"), name=unique))
    value.shape = ir.Shape(data.shape)
    value.type = ir.TensorType(ir.DataType.from_numpy(data.dtype))
    graph.register_initializer(value)
    return value


def array_of(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the data of a constant, or None if `value` is computed."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def constant_array(value: ir.Value | None) -> NDArray[Any]:
    """Return the data of a value that is known to be constant."""
    data = array_of(value)
    assert data is not None, f"{value} is not constant"
    return data


def node_before(node: ir.Node) -> ir.Node | None:
    """Return what computes the first input of `node`; None if it is an input of the graph or a constant."""
    x = node.inputs[0] if node.inputs else None
    return None if x is None else x.producer()


def shared_before(node: ir.Node) -> str | None:
    """Return the name of the value that `node` reads if others read it too, or it is an output of the graph."""
    (x, *_) = node.inputs
    assert x is not None
    return str(x.name) if sole_consumer(x) is None else None


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads `value`, or None if it is also read elsewhere or is an output of the graph."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def channels_of(value: ir.Value) -> int:
    """Return the size of axis 1."""
    assert value.shape is not None
    channels = value.shape[CHANNEL_AXIS]
    assert isinstance(channels, int), f"{value.name}: the channels must be known"
    return channels


def spatial_of(value: ir.Value) -> tuple[int, int]:
    """Return height and width of a value (N, C, H, W)."""
    assert value.shape is not None
    height, width = value.shape[2], value.shape[3]
    assert isinstance(height, int)
    assert isinstance(width, int)
    return height, width


def batched_input(graph: ir.Graph) -> ir.Value:
    """Return the first input whose axis 0 is that of the examples; the first one if their number is fixed."""
    free = (value for value in graph.inputs if value.shape and not isinstance(value.shape[0], int))
    return next(free, graph.inputs[0])


def same_size(left: int | ir.SymbolicDim, right: int | ir.SymbolicDim) -> bool:
    """Tell whether two dimensions are known to be equal; those without a name are not."""
    return left == right and (isinstance(left, int) or left.value is not None)


def same_shape(left: ir.Value, right: ir.Value) -> bool:
    """Tell whether two values are known to have one shape, whatever the batch."""
    if left.shape is None or right.shape is None or len(left.shape) != len(right.shape):
        return False
    return all(same_size(*sizes) for sizes in zip(left.shape, right.shape, strict=True))


def channel_slopes(node: ir.Node) -> NDArray[np.float32] | None:
    """Return the slope of each channel of a PRelu, (C) float32, or None if it varies otherwise or is computed.

    ONNX broadcasts slopes, so those of the channels of images are (C, 1, 1) or, as PyTorch writes them, (1, C, 1, 1).
    """
    return channel_numbers(node.inputs[1], node.outputs[0])


def clip_limits(node: ir.Node) -> tuple[float, float] | None:
    """Return the limits of a Clip; None where one is computed."""
    limits = [-inf, inf]
    for place, value in enumerate(node.inputs[1:]):
        if value is not None:
            data = array_of(value)
            if data is None:
                return None
            limits[place] = float(data.item())
    return limits[0], limits[1]


def channel_numbers(value: ir.Value | None, like: ir.Value) -> NDArray[np.float32] | None:
    """Return what a constant is in each channel of `like`, to which it broadcasts, (C) float32.

    None if it is computed, or varies otherwise than with the channel.
    """
    data = array_of(value)
    if data is None or like.shape is None or len(like.shape) < 2 or data.ndim > len(like.shape):
        return None
    channels = channels_of(like)
    numbers = data.astype(np.float32)
    if numbers.size == 1:
        return np.full(channels, numbers.item(), np.float32)
    rank = len(like.shape)
    aligned = (1,) * (rank - numbers.ndim) + numbers.shape
    return numbers.reshape(channels) if aligned == (1, channels, *(1,) * (rank - 2)) else None


def constant_beside(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return the other input of a node of two; None if both are `value`."""
    others = [other for other in node.inputs if other is not value]
    return others[0] if len(others) == 1 else None


def new_value(name: str, like: ir.Value, channels: int, origin: Origin) -> ir.Value:
    """Return a value for a new node's output: the type and shape of `like`, with another number of channels."""
    assert like.shape is not None
    dims = list(like.shape)
    dims[CHANNEL_AXIS] = channels
    value = ir.Value(name=name, shape=ir.Shape(dims), type=like.type)
    value.meta["origin"] = origin
    return value
