"""Test vectors: what PyTorch fed to each binary convolution and what it answered.

A whole network cannot be compared bit for bit: onnxruntime and PyTorch round the float convolutions differently, and a
value that lies on a threshold then falls on the other side. So each binary convolution is compared by itself, on
PyTorch's own activations, where the answer has to be the same to the bit; and the outputs of the network are compared
within what the network itself makes of rounding noise (`output_tolerance`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas_deploy.bundle import LayerCheck
from bnas_deploy.export import opset
from bnas_deploy.export.finish import set_opsets
from bnas_deploy.export.graph import (
    CHANNEL_AXIS,
    activations_of,
    added_to,
    constant_array,
    input_of,
    is_binary_conv,
    origin_of,
)
from bnas_deploy.export.passes.batch_norm import BIAS_TERMS

CORNER = 6
"""Rows and columns of outputs that a stored vector covers."""

ROUNDING = 2.0**-24
"""Half the distance of 1.0 to the next float32: the relative error of one rounding."""

NOISE = 2.0**-13
"""Relative change of every pixel when the network's response to rounding is measured.

Rounding inside the float convolutions changes their outputs by about 2^-22 of the sum of the magnitudes, and each of
them does; this is well above that and still 32 times finer than one step of an 8-bit pixel.
"""

NOISE_RUNS = 2
NOISE_IMAGES = 16


@dataclass(frozen=True)
class LayerVector:
    """Input (1, C, H, W) and answer (1, O, rows, columns) of one binary convolution, from PyTorch.

    `added` are what it adds to its result, (1, O, OH, OW), where OH and OW are what the operator makes of `x`.
    """

    check: LayerCheck
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    added: tuple[NDArray[np.float32], ...]

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays, by what follows the layer's name in the names of inputs and outputs of `layers_model`."""
        return {"x": self.x, "y": self.y, **{f"added{i}": each for i, each in enumerate(self.added, 1)}}


def layer_vectors(model: ir.Model, values: dict[str, Tensor], *, corner: int | None = CORNER) -> list[LayerVector]:
    """Take the vectors of every binary convolution of the packed `model`.

    Args:
        model: the rewritten graph.
        values: every value of the captured program by name, for at least one image; the first image is used.
        corner: rows and columns of outputs to keep; None for all.
    """
    return [_layer_vector(node, values, corner) for node in model.graph if is_binary_conv(node)]


def _layer_vector(node: ir.Node, values: dict[str, Tensor], corner: int | None) -> LayerVector:
    x = np.concatenate([_value(values, part) for part in activations_of(node)], axis=1)
    y = _value(values, node.outputs[0])
    added = [_value(values, value) for value in added_to(node)]
    tolerance = _tolerance(node, x, y, added)
    if corner is not None:
        rows, columns = min(corner, y.shape[2]), min(corner, y.shape[3])
        x = x[:, :, : _reach(node, 0, rows), : _reach(node, 1, columns)]
        y = y[:, :, :rows, :columns]
        made = [_made(node, axis, x.shape[2 + axis]) for axis in (0, 1)]
        added = [each[:, :, : made[0], : made[1]] for each in added]
    check = LayerCheck(str(node.name), y.shape[2], y.shape[3], tolerance)
    x, y, *added = (np.ascontiguousarray(each) for each in (x, y, *added))
    return LayerVector(check, x, y, tuple(added))


def _value(values: dict[str, Tensor], value: ir.Value) -> NDArray[np.float32]:
    origin = origin_of(value)
    tensor = values[origin.name][:1]
    data: NDArray[np.float32] = tensor.detach().numpy()
    return data if origin.channels is None else data[:, list(origin.channels)]


def _reach(node: ir.Node, axis: int, outputs: int) -> int:
    """Return how many input rows (axis 0) or columns (axis 1) the first `outputs` rows or columns read."""
    kernel = node.attributes.get_ints("weight_shape")[1 + axis]
    stride = node.attributes.get_ints("strides", (1, 1))[axis]
    dilation = node.attributes.get_ints("dilations", (1, 1))[axis]
    before = node.attributes.get_ints("pads", (0, 0, 0, 0))[axis]
    return max(1, (outputs - 1) * stride + dilation * (kernel - 1) + 1 - before)


def _made(node: ir.Node, axis: int, inputs: int) -> int:
    """Return how many rows (axis 0) or columns (axis 1) of outputs so many rows or columns of inputs give."""
    kernel = node.attributes.get_ints("weight_shape")[1 + axis]
    stride = node.attributes.get_ints("strides", (1, 1))[axis]
    dilation = node.attributes.get_ints("dilations", (1, 1))[axis]
    pads = node.attributes.get_ints("pads", (0, 0, 0, 0))
    return (inputs + pads[axis] + pads[2 + axis] - dilation * (kernel - 1) - 1) // stride + 1


def _tolerance(
    node: ir.Node, x: NDArray[np.float32], y: NDArray[np.float32], added: Sequence[NDArray[np.float32]]
) -> float:
    """Return the largest difference to PyTorch that the roundings of this node can explain; 0 for plain ones.

    A plain node does what PyTorch does, in the same order. With K, the mean over C channels and KH KW taps is summed in
    another order: at most C + KH KW + 3 roundings, relative to the value.

    With a BN folded behind, PyTorch rounds beta acc, 1 / sqrt(var + eps), the slope gamma / sqrt(var + eps), the shift
    beta - slope mean, their product and sum; here scale, bias, their product and sum are rounded. That is at most 10
    roundings, relative to the terms before they cancel: |scale| n K with K at most the largest |x|, and what the bias
    was summed from. A PReLU multiplies that by its slope.

    What is added at the end is the same in both. Where the terms before it are equal, so are the sums; where they are
    not, each addition rounds two sums that differ, to within twice half a unit of their last place. No value on the way
    is larger than the largest |y| plus the largest of each |added|.
    """
    row = opset.operator(node.op_type)
    _, height, width, channels = node.attributes.get_ints("weight_shape")
    k_roundings = len(constant_array(input_of(node, "threshold"))) + height * width + 3 if row.uses_k else 0
    magnitude = float(np.abs(y).max()) + sum(float(np.abs(each).max()) for each in added)
    if BIAS_TERMS not in node.meta:
        return (k_roundings + (2 * len(added) if k_roundings else 0)) * ROUNDING * magnitude
    scale, offset = (np.abs(constant_array(input_of(node, name))) for name in ("scale", "offset"))
    products = scale * (channels * height * width + offset.ravel())
    if row.uses_k:
        products *= np.abs(x).max()
    steepest = 1.0
    if row.activation == "PRelu":
        steepest = max(1.0, float(np.abs(constant_array(input_of(node, "slope"))).max()))
    before_added = (10 + k_roundings) * ROUNDING * steepest * float((products + node.meta[BIAS_TERMS]).max())
    return before_added + 2 * len(added) * ROUNDING * magnitude


def layers_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of every binary convolution L of `model`, each by itself.

    It has the inputs `L.x`, which is split where the operator reads several parts, and `L.added1`, `L.added2` as far as
    L adds something, and the output `L.y`.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    channels = _channels(model.graph)
    inputs, outputs, nodes, used = [], [], [], {}
    for node in model.graph.node:
        if node.domain != opset.DOMAIN:
            continue
        row = opset.operator(node.op_type)
        named = dict(zip(row.inputs, node.input, strict=True))
        fed = {name: f"{node.name}.{name}" for name in (*row.activations, *row.added_inputs)}
        if row.parts == 1:
            fed["X"] = f"{node.name}.x"
        else:
            counts = np.array([channels[named[part]] for part in row.activations], np.int64)
            sizes = onnx.numpy_helper.from_array(counts, f"{node.name}.channels")
            used[sizes.name] = sizes
            parts = [fed[part] for part in row.activations]
            nodes.append(onnx.helper.make_node("Split", [f"{node.name}.x", sizes.name], parts, axis=CHANNEL_AXIS))
        nodes.append(_fed_by(node, [fed.get(name, value) for name, value in named.items()]))
        used |= {value: initializers[value] for name, value in named.items() if name not in fed}
        inputs += [_image_info(name) for name in (f"{node.name}.x", *(fed[name] for name in row.added_inputs))]
        outputs.append(_image_info(f"{node.name}.y"))
    graph = onnx.helper.make_graph(nodes, "layers", inputs, outputs, list(used.values()))
    layers = onnx.helper.make_model(graph, functions=model.functions, ir_version=model.ir_version)
    set_opsets(layers, {"": opset.ONNX_OPSET, opset.DOMAIN: opset.VERSION})
    return layers


def _fed_by(node: onnx.NodeProto, inputs: Sequence[str]) -> onnx.NodeProto:
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    del alone.input[:]
    alone.input.extend(inputs)
    alone.output[0] = f"{node.name}.y"
    return alone


def _channels(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the channels of every value (N, C, H, W) by name."""
    values = (*graph.input, *graph.value_info, *graph.output)
    sizes = {value.name: value.type.tensor_type.shape.dim for value in values}
    return {name: dims[CHANNEL_AXIS].dim_value for name, dims in sizes.items() if len(dims) == 4}


def _image_info(name: str) -> onnx.ValueInfoProto:
    sizes = [f"{name}.{axis}" for axis in ("batch", "channels", "height", "width")]
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)


def output_tolerance(network: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Measure how far the network's own outputs move when its input carries rounding noise.

    A difference that onnxruntime shows against PyTorch is put down to rounding only up to twice that, plus the rounding
    of the outputs themselves.
    """
    generator = torch.Generator().manual_seed(0)
    images = images[:NOISE_IMAGES]
    with torch.no_grad():
        answer = network(images)
        noises = [2 * torch.rand(images.shape, generator=generator) - 1 for _ in range(NOISE_RUNS)]
        moved = [(network(images * (1 + NOISE * noise)) - answer).abs().max() for noise in noises]
    return 2 * float(torch.stack(moved).max()) + 2**10 * ROUNDING * float(answer.abs().max())
