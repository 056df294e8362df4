"""Test vectors: what PyTorch fed to each binary convolution and what it answered.

A whole network cannot be compared bit for bit: onnxruntime and PyTorch round the float convolutions differently, and a
value that lies on a threshold then falls on the other side. So each binary convolution is compared by itself, on
PyTorch's own activations, where the answer has to be the same to the bit; and the outputs of the network are compared
within what the network itself makes of rounding noise (`output_tolerance`).
"""

from collections.abc import Callable
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
from bnas_deploy.export.graph import constant_array, input_of, is_binary_conv, origin_of
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
    """Input (1, C, H, W) and answer (1, O, rows, columns) of one binary convolution, from PyTorch."""

    check: LayerCheck
    x: NDArray[np.float32]
    y: NDArray[np.float32]


def layer_vectors(model: ir.Model, values: dict[str, Tensor], *, corner: int | None = CORNER) -> list[LayerVector]:
    """Take the vectors of every binary convolution of the packed `model`.

    Args:
        model: the rewritten graph.
        values: every value of the captured program by name, for at least one image; the first image is used.
        corner: rows and columns of outputs to keep; None for all.
    """
    return [_layer_vector(node, values, corner) for node in model.graph if is_binary_conv(node)]


def _layer_vector(node: ir.Node, values: dict[str, Tensor], corner: int | None) -> LayerVector:
    x, y = (_value(values, value) for value in (input_of(node, "X"), node.outputs[0]))
    tolerance = _tolerance(node, x, y)
    if corner is not None and constant_array(input_of(node, "offset")).shape[1:] == (1, 1):
        # A map of offsets belongs to the whole image, so there the vector is the whole image too.
        rows, columns = min(corner, y.shape[2]), min(corner, y.shape[3])
        x = x[:, :, : _reach(node, 0, rows), : _reach(node, 1, columns)]
        y = y[:, :, :rows, :columns]
    check = LayerCheck(str(node.name), y.shape[2], y.shape[3], tolerance)
    return LayerVector(check, np.ascontiguousarray(x), np.ascontiguousarray(y))


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


def _tolerance(node: ir.Node, x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Return the largest difference to PyTorch that the roundings of this node can explain; 0 for plain ones.

    A plain node does what PyTorch does, in the same order. With K, the mean over C channels and KH KW taps is summed in
    another order: at most C + KH KW + 3 roundings, relative to the value.

    With a BN folded behind, PyTorch rounds beta acc, 1 / sqrt(var + eps), the slope gamma / sqrt(var + eps), the shift
    beta - slope mean, their product and sum; here scale, bias, their product and sum are rounded. That is at most 10
    roundings, relative to the terms before they cancel: |scale| n K with K at most the largest |x|, and what the bias
    was summed from. A PReLU multiplies that by its slope.
    """
    row = opset.operator(node.op_type)
    _, height, width, channels = node.attributes.get_ints("weight_shape")
    k_roundings = len(constant_array(input_of(node, "threshold"))) + height * width + 3 if row.uses_k else 0
    if BIAS_TERMS not in node.meta:
        return k_roundings * ROUNDING * float(np.abs(y).max())
    scale, offset = (np.abs(constant_array(input_of(node, name))) for name in ("scale", "offset"))
    products = scale * (channels * height * width + offset.max(axis=(1, 2)))
    if row.uses_k:
        products *= np.abs(x).max()
    steepest = 1.0
    if row.activation == "PRelu":
        steepest = max(1.0, float(np.abs(constant_array(input_of(node, "slope"))).max()))
    return (10 + k_roundings) * ROUNDING * steepest * float((products + node.meta[BIAS_TERMS]).max())


def layers_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of every binary convolution L of `model`, each with an input `L.x` and an output `L.y`."""
    nodes, inputs, outputs, used = [], [], [], set()
    for node in model.graph.node:
        if node.domain != opset.DOMAIN:
            continue
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        alone.input[0], alone.output[0] = f"{node.name}.x", f"{node.name}.y"
        nodes.append(alone)
        inputs.append(_image_info(alone.input[0]))
        outputs.append(_image_info(alone.output[0]))
        used.update(alone.input[1:])
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in used]
    graph = onnx.helper.make_graph(nodes, "layers", inputs, outputs, initializers)
    layers = onnx.helper.make_model(graph, functions=model.functions, ir_version=model.ir_version)
    set_opsets(layers, {"": opset.ONNX_OPSET, opset.DOMAIN: opset.VERSION})
    return layers


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
