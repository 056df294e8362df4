"""The pieces of a rewritten graph: between values that PyTorch recorded, mostly one node each.

A value is recorded if it has the name of a value of the captured program, or comes from channels of one (`Origin`);
then PyTorch's own is what a piece that reads it is fed, and what a piece that makes it is compared with.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import Tensor

from bnas_deploy.core.bundle import Corner, PieceCheck
from bnas_deploy.core.operators import ACTIVATIONS, operator
from bnas_deploy.export.graph import (
    CHANNEL_AXIS,
    activations_of,
    added_to,
    array_of,
    constant_array,
    gates_of,
    is_binary_conv,
    is_fused,
    is_recorded,
    origin_of,
)
from bnas_deploy.export.written_bits import bits_of, float_of
from bnas_deploy.runtime.onnx_file.writer import ELEMENTS

Array = NDArray[np.generic]

CORNER = 6
"""Rows and columns of a value that are kept and compared."""

WINDOWS = ("Conv", "MaxPool", "AveragePool")
"""Operators beside binary convolutions each of whose outputs depends on a window of the input."""

QUANTIZATION = ("QuantizeLinear", "DequantizeLinear")
"""Operators around a layer in 8 bits; they treat every element by itself."""

ELEMENTWISE = frozenset({
    *filter(None, ACTIVATIONS), "Abs", "Add", "Ceil", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Reciprocal", "Round",
    "Selu", "Sigmoid", "Sign", "Softplus", "Sqrt", "Sub", "Tanh", "Where", "Equal", "Greater",
    "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Sum",
})  # fmt: skip
"""Operators each of whose outputs depends on one element of each input."""


@dataclass(frozen=True)
class Piece:
    """Nodes in running order, the recorded values that they read, and the one that the last makes."""

    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    output: ir.Value

    @property
    def name(self) -> str:
        """Name of the node that makes the output."""
        return str(self.nodes[-1].name)


class Recorded:
    """What PyTorch computed for one image, by the values of the rewritten graph."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        """`values` are those of the captured program for one image, by name."""
        self._values = values

    def __contains__(self, value: ir.Value) -> bool:
        """Tell whether `value` is recorded, with the type and the shape that the graph says."""
        stands_for = float_of(value)
        if not is_recorded(stands_for) or origin_of(stands_for).name not in self._values:
            return False
        data = self[value]
        sizes = data.shape if value.shape is None else tuple(value.shape)
        alike = len(sizes) == data.ndim and all(
            not isinstance(size, int) or size == got for size, got in zip(sizes, data.shape, strict=True)
        )
        alike = alike and (value.type is None or value.type.dtype.numpy() == data.dtype)
        return alike and data.dtype.name in ELEMENTS and data.size > 0

    def __getitem__(self, value: ir.Value) -> Array:
        """Return what `value` is for one image: of bits, those of PyTorch's floats."""
        bits = bits_of(value)
        if bits is not None:
            return bits.of(np.asarray(self[bits.value], np.float32))
        origin = origin_of(value)
        data: Array = self._values[origin.name].detach().numpy()
        data = data if origin.channels is None else data[:, list(origin.channels)]
        more = 0 if value.shape is None else len(value.shape) - data.ndim
        # What a Reshape was moved behind has rows and columns of one element, and PyTorch's vector has none.
        return data.reshape(*data.shape, *(1,) * more) if data.ndim == 2 and more > 0 else data

    def rank(self, value: ir.Value) -> int:
        """Return how many axes `value` has in PyTorch."""
        return self._values[origin_of(float_of(value)).name].ndim

    def of_pieces(self, pieces: Iterable[Piece]) -> dict[str, Array]:
        """Return what pieces read and make, by the names of the values."""
        return {str(value.name): self[value] for piece in pieces for value in (*piece.inputs, piece.output)}


def pieces_of(model: ir.Model, recorded: Recorded) -> list[Piece]:
    """Cut the graph at every recorded value, in running order."""
    cuts = {value for node in model.graph for value in node.outputs if value in recorded} | set(model.graph.inputs)
    order = {node: number for number, node in enumerate(model.graph)}
    return [
        _piece(output, cuts, order)
        for node in model.graph
        for output in node.outputs
        if output in cuts and (output.uses() or output.is_graph_output())
    ]


def _piece(output: ir.Value, cuts: set[ir.Value], order: Mapping[ir.Node, int]) -> Piece:
    nodes: set[ir.Node] = set()
    inputs: dict[ir.Value, None] = {}
    needed = [output]
    while needed:
        value = needed.pop()
        if value in cuts and value is not output:
            inputs[value] = None
        elif (node := value.producer()) is not None and node not in nodes:
            nodes.add(node)
            needed += _read(node)
    return Piece(tuple(sorted(nodes, key=order.__getitem__)), tuple(inputs), output)


def _read(node: ir.Node) -> list[ir.Value]:
    """Return what a node reads, and what its branches read of the graph around it."""
    read = [value for value in node.inputs if value is not None]
    branches = [each.as_graph() for each in node.attributes.values() if each.type == ir.AttributeType.GRAPH]
    for graph in branches:
        own = {*graph.inputs, *graph.initializers.values(), *(value for each in graph for value in each.outputs)}
        read += [value for each in graph for value in _read(each) if value not in own]
    return read


def whole_check(piece: Piece, recorded: Recorded) -> PieceCheck:
    """Compare the piece on whole values."""
    inputs = tuple(_corner(value, recorded[value].shape) for value in piece.inputs)
    made = recorded[piece.output].shape
    return PieceCheck(piece.name, inputs, _corner(piece.output, made), made)


def corner_check(piece: Piece, recorded: Recorded) -> PieceCheck:
    """Compare the piece on a corner of each value if that is enough to compute a corner of the result.

    What the piece makes of the corners, `made`, is left to be found by running it.
    """
    whole = whole_check(piece, recorded)
    if len(whole.made) != 4:
        return whole
    wanted = _within(whole.made, (CORNER, CORNER))
    shapes = _window_inputs(piece, recorded, wanted) or _elementwise_inputs(piece, recorded, wanted)
    if shapes is None:
        return whole
    inputs = tuple(_corner(value, shape) for value, shape in shapes.items())
    return PieceCheck(piece.name, inputs, _corner(piece.output, wanted), whole.made)


Shapes = dict[ir.Value, tuple[int, ...]]


def _window_inputs(piece: Piece, recorded: Recorded, wanted: tuple[int, ...]) -> Shapes | None:
    """Return what to feed to a piece of one convolution, pool or cut to get `wanted`; None if it is none.

    Functions of each pixel may stand around it, where nothing else is read.
    """
    nodes = [node for node in piece.nodes if node.op_type not in QUANTIZATION] or list(piece.nodes)
    if len(piece.inputs) == 1 and len(nodes) > 1:
        nodes = [node for node in nodes if not _is_pixelwise(node)] or nodes
    node, *others = nodes
    windows = [] if others else [window for axis in (0, 1) if (window := _window(node, axis)) is not None]
    if len(windows) != 2:
        return None
    reach = tuple(window.reach(size) for window, size in zip(windows, wanted[2:], strict=True))
    added, gates = (added_to(node), gates_of(node)) if is_binary_conv(node) else ([], [])
    read = activations_of(node) if is_binary_conv(node) else piece.inputs
    if not all(value in recorded for value in read):  # parts that are joined within the piece
        return None
    shapes = {value: _within(recorded[value].shape, reach) for value in read}
    if len({shape[2:] for shape in shapes.values()}) != 1:
        return None
    fed = next(iter(shapes.values()))[2:]
    made = tuple(window.made(size) for window, size in zip(windows, fed, strict=True))
    for value in added:  # what is convolved and added has to be of one size
        if shapes.setdefault(value, _within(recorded[value].shape, made))[2:] != made:
            return None
    for value in gates:
        if array_of(value) is not None:  # a map of factors for whole images
            return None
        whole = recorded[value].shape
        wanted_of_gate = whole if whole[2:] == (1, 1) else _within(whole, made)
        if shapes.setdefault(value, wanted_of_gate) != wanted_of_gate:
            return None
    return shapes


def _elementwise_inputs(piece: Piece, recorded: Recorded, wanted: tuple[int, ...]) -> Shapes | None:
    """Return what to feed to a piece that treats every pixel by itself to get `wanted`; None if it does not."""
    if not all(_is_pixelwise(node) for node in piece.nodes):
        return None
    shapes = {value: recorded[value].shape for value in piece.inputs}
    if any(len(shape) not in (0, 4) for shape in shapes.values()):
        return None
    return {value: _within(shape, wanted[2:]) if shape else shape for value, shape in shapes.items()}


def _is_pixelwise(node: ir.Node) -> bool:
    """Tell whether every pixel of the output depends on that pixel of the inputs alone."""
    if node.op_type == "Reshape":
        return _keeps_pixels(node)
    if node.op_type == "BatchNormalization" or _is_of_images(node):
        return not _pools(node)
    constants = [array_of(value) for value in node.inputs if value is not None]
    shapes = [data.shape for data in constants if data is not None]
    if node.op_type in ("Concat", "Gather", "Split"):
        return node.attributes.get_int("axis", 0) == CHANNEL_AXIS
    # A constant of one row and column holds for every pixel; so does one number.
    return node.op_type in ELEMENTWISE and all(np.prod(shape[-2:], dtype=int) == 1 for shape in shapes)


def _is_of_images(node: ir.Node) -> bool:
    """Tell whether `node` is an operator of images of the domain."""
    return is_fused(node) and not is_binary_conv(node)


def _pools(node: ir.Node) -> bool:
    """Tell whether a pixel of the output depends on 2x2 pixels of the input."""
    return _is_of_images(node) and (operator(node.op_type).max_pool or operator(node.op_type).mean_pool)


def _keeps_pixels(reshape: ir.Node) -> bool:
    """Tell whether rows and columns stay what they are, or there is one of each."""
    x, target = reshape.inputs[0], array_of(reshape.inputs[1])
    if target is not None and target.shape == (4,) and not target[2:].any():
        return True
    return x is not None and x.shape is not None and len(x.shape) == 4 and all(size == 1 for size in x.shape[2:])


def _within(shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    """Return (N, C, H, W) with at most so many rows and columns."""
    return (*shape[:2], *(min(have, want) for have, want in zip(shape[2:], size, strict=True)))


def _corner(value: ir.Value, shape: tuple[int, ...]) -> Corner:
    return Corner(str(value.name), str(value.name), shape)


def weight_of(node: ir.Node) -> NDArray[np.float32]:
    """Return the weights of a convolution or matrix product, those in 8 bits as the numbers that they stand for."""
    value = node.inputs[1]
    assert value is not None
    dequantize = value.producer()
    if dequantize is None:
        return constant_array(value)
    weight, scale, zero = (constant_array(each) for each in dequantize.inputs)
    axis = dequantize.attributes.get_int("axis", 1)
    shape = [-1 if place == axis else 1 for place in range(weight.ndim)] if scale.ndim else []
    exact: NDArray[np.float32] = (weight.astype(np.float32) - zero.reshape(shape)) * scale.reshape(shape)
    return exact


@dataclass(frozen=True)
class _Window:
    """What one row or column of an output depends on: `extent` inputs from stride * i - before on."""

    stride: int
    extent: int
    before: int
    after: int = 0

    def reach(self, outputs: int) -> int:
        """Return how many inputs the first `outputs` outputs depend on."""
        return max(1, (outputs - 1) * self.stride + self.extent - self.before)

    def made(self, inputs: int) -> int:
        """Return how many outputs so many inputs give."""
        return (inputs + self.before + self.after - self.extent) // self.stride + 1

    def pooled(self) -> "_Window":
        """Return that of pairs of outputs."""
        return _Window(2 * self.stride, self.extent + self.stride, self.before, self.after)


def _window(node: ir.Node, axis: int) -> _Window | None:
    """Return the window of rows (axis 0) or columns (axis 1); None if the node has none that is known."""
    if node.op_type == "Slice":
        return _window_of_slice(node, axis)
    if node.op_type == "Pad":
        pads = array_of(node.inputs[1])
        plain = node.attributes.get_string("mode", "constant") == "constant" and len(node.inputs) <= 3
        if pads is None or not plain or len(pads) != 8:
            return None
        before, after = int(pads[2 + axis]), int(pads[6 + axis])
        # A corner shows what is padded with only if some of it is there.
        return _Window(1, 1, before) if before > 0 or after <= 0 else None
    if _pools(node):
        return _Window(2, 2, 0)
    binary = is_binary_conv(node)
    if not (binary or node.op_type in WINDOWS) or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    stride = node.attributes.get_ints("strides", (1, 1))[axis]
    dilation = node.attributes.get_ints("dilations", (1, 1))[axis]
    around = node.attributes.get_ints("pads", (0, 0, 0, 0))
    if node.op_type.endswith("Pool") and (
        node.attributes.get_int("ceil_mode", 0) != 0 or around[2 + axis] > around[axis]
    ):
        return None  # the last windows are unlike the first ones
    if binary and operator(node.op_type).pads_signs and around[axis] == 0 < around[2 + axis]:
        return None  # as for Pad
    window = _Window(stride, dilation * (_kernel(node, axis) - 1) + 1, around[axis], around[2 + axis])
    return window.pooled() if binary and operator(node.op_type).max_pool else window


def _window_of_slice(node: ir.Node, axis: int) -> _Window | None:
    bounds = [array_of(value) for value in node.inputs[1:]]  # starts, ends, axes, steps
    if len(bounds) < 3 or any(data is None for data in bounds):
        return None
    starts, ends, axes, *steps = (data.tolist() for data in bounds if data is not None)
    if 2 + axis not in axes:
        return _Window(1, 1, 0)
    place = axes.index(2 + axis)
    step = steps[0][place] if steps else 1
    # Counted from the end, a bound is another one in a corner.
    return _Window(step, 1, -starts[place]) if starts[place] >= 0 and ends[place] > 0 and step > 0 else None


def _kernel(node: ir.Node, axis: int) -> int:
    if is_binary_conv(node):
        return node.attributes.get_ints("weight_shape")[1 + axis]
    if node.op_type == "Conv":
        return _sizes_of_weight(node)[2 + axis]
    return node.attributes.get_ints("kernel_shape")[axis]


def _sizes_of_weight(node: ir.Node) -> list[int]:
    """Return the shape of a convolution's weights, which may be computed: their sizes are known all the same."""
    weight = node.inputs[1]
    assert weight is not None
    maker = weight.producer()
    if maker is None or maker.op_type in QUANTIZATION:
        return list(weight_of(node).shape)
    assert weight.shape is not None
    return [size for size in weight.shape if isinstance(size, int)]
