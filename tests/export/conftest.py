"""Small graphs as text, and a slow evaluator of what they compute."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bnas_deploy.core import operators
from bnas_deploy.core.bits import pack_signs
from bnas_deploy.export import opset
from bnas_deploy.export.graph import array_of, is_binary_conv, is_fused

Arrays = Mapping[str, NDArray]

BATCH = 97  # a size that stands for N while shapes are found


@pytest.fixture
def load() -> Callable[..., ir.Model]:
    """Build a model from text; see `_load`."""
    return _load


@pytest.fixture
def listing() -> Callable[[ir.Model], list[str]]:
    """Write the nodes of a model, one a line: `y = Relu(x)`; constants are left out."""
    return _listing


@pytest.fixture
def binary_conv() -> Callable[..., dict[str, NDArray]]:
    """Make the constant inputs of a binary convolution as captured; see `_binary_conv_constants`."""
    return _binary_conv_constants


@pytest.fixture
def evaluate() -> Callable[..., dict[str, NDArray]]:
    """Compute every value of a model; see `_evaluate`."""
    return _evaluate


def _load(text: str, **constants: NDArray) -> ir.Model:
    """Return the graph `text`, such as "(float[N,2,4,4] x) => (float[N,2,4,4] y) { y = Relu(x) }".

    `constants` are initializers, by name. Every node is named after its output, and every value is given the shape
    that evaluation finds, as torch.onnx does.
    """
    header = (
        f'<ir_version: {operators.IR_VERSION}, opset_import: ["": {operators.ONNX_OPSET}, "{operators.DOMAIN}": 1]>'
    )
    proto = onnx.parser.parse_model(f"{header} graph {text}")
    for name, data in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    model = ir.from_proto(proto)
    for node in model.graph:
        node.name = str(node.outputs[0].name)
    feeds = {str(value.name): np.zeros((BATCH, *value.shape[1:]), np.float32) for value in model.graph.inputs}
    values = _evaluate(model, feeds)
    for value in (value for node in model.graph for value in node.outputs):
        data = values[str(value.name)]
        value.shape = ir.Shape(["N" if size == BATCH else size for size in data.shape])
        value.type = ir.TensorType(ir.DataType.from_numpy(data.dtype))
    return model


def _binary_conv_constants(channels: int, channels_out: int, kernel: int = 1, group: int = 1) -> dict[str, NDArray]:
    """Return W, float ±1 (O, C/groups, KH, KW), a random scale and the neutral threshold, offset and bias."""
    rng = np.random.default_rng(channels)
    return {
        "W": rng.choice([-1, 1], (channels_out, channels // group, kernel, kernel)).astype(np.float32),
        "threshold": np.zeros(channels, np.float32),
        "offset": np.zeros((channels_out, 1, 1), np.float32),
        "scale": 0.5 + rng.random(channels_out, np.float32),
        "bias": np.zeros(channels_out, np.float32),
    }


def _listing(model: ir.Model) -> list[str]:
    return [
        f"{node.outputs[0].name} = {node.op_type}({', '.join(_computed_inputs(node))})"
        for node in model.graph
        if node.op_type != "Constant"
    ]


def _computed_inputs(node: ir.Node) -> list[str]:
    return [str(value.name) for value in node.inputs if value is not None and array_of(value) is None]


def _evaluate(model: ir.Model, feeds: Arrays) -> dict[str, NDArray]:
    """Compute every value with PyTorch, and binary convolutions, packed or not, as opset.reference says."""
    values = {**feeds, **{name: value.const_value.numpy() for name, value in model.graph.initializers.items()}}
    for node in model.graph:
        inputs = [None if value is None else values[str(value.name)] for value in node.inputs]
        values |= zip((str(value.name) for value in node.outputs), _results(node, inputs), strict=True)
    return values


def _results(node: ir.Node, inputs: list[NDArray]) -> list[NDArray]:
    if is_binary_conv(node):
        return [_binary_conv(node, inputs)]
    if is_fused(node):
        return [opset.reference(node.op_type, inputs, {})]
    tensors = [None if data is None else torch.from_numpy(np.array(data)) for data in inputs]
    made = _OPERATIONS[node.op_type](node, *tensors)
    return [each.numpy() for each in (made if isinstance(made, tuple) else (made,))]


def _binary_conv(node: ir.Node, inputs: list[NDArray]) -> NDArray:
    attributes = {
        name: [*attribute.value] if name != "group" else attribute.value for name, attribute in node.attributes.items()
    }
    named = dict(zip(operators.operator(node.op_type).inputs, inputs, strict=True))
    if "weight_shape" not in attributes:  # float ±1, (O, C/groups, KH, KW)
        channels_last = np.moveaxis(named["W"], 1, -1)
        attributes["weight_shape"] = list(channels_last.shape)
        named["W"] = pack_signs(channels_last)
    return opset.reference(node.op_type, list(named.values()), attributes)


def _window(node: ir.Node) -> tuple[list[int], list[int], list[int]]:
    top, left, bottom, right = node.attributes.get_ints("pads", (0, 0, 0, 0))
    assert (top, left) == (bottom, right)
    return node.attributes.get_ints("kernel_shape"), node.attributes.get_ints("strides", (1, 1)), [top, left]


def _conv(node: ir.Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None):
    top, left, bottom, right = node.attributes.get_ints("pads", (0, 0, 0, 0))
    padded = F.pad(x, (left, right, top, bottom))
    stride, dilation = node.attributes.get_ints("strides", (1, 1)), node.attributes.get_ints("dilations", (1, 1))
    return F.conv2d(padded, weight, bias, stride, 0, dilation, node.attributes.get_int("group", 1))


def _average_pool(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    counts_padding = node.attributes.get_int("count_include_pad", 0) == 1
    return F.avg_pool2d(x, *_window(node), count_include_pad=counts_padding)


def _batch_norm(node: ir.Node, x, gamma, beta, mean, var) -> torch.Tensor:
    return F.batch_norm(x, mean, var, gamma, beta, eps=node.attributes.get_float("epsilon", 1e-5))


def _zeroise(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    stride = node.attributes.get_int("stride")
    return torch.zeros_like(x[:, :, ::stride, ::stride])


def _shape(node: ir.Node, x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(x.shape[node.attributes.get_int("start", 0) : node.attributes.get_int("end", x.ndim)])


def _slice(node: ir.Node, x, starts, ends, axes, steps=None) -> torch.Tensor:
    places = [slice(None)] * x.ndim
    for i, axis in enumerate(axes.tolist()):
        places[axis] = slice(int(starts[i]), int(ends[i]), 1 if steps is None else int(steps[i]))
    return x[tuple(places)].clone()


def _reshape(node: ir.Node, x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    sizes = shape.tolist()
    if not node.attributes.get_int("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _unsqueeze(node: ir.Node, x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    for axis in sorted(axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _split(node: ir.Node, x: torch.Tensor, sizes: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    axis = node.attributes.get_int("axis")
    return x.chunk(node.attributes.get_int("num_outputs"), axis) if sizes is None else x.split(sizes.tolist(), axis)


def _clip(node: ir.Node, x: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None):
    return x.clamp(None if low is None else float(low), None if high is None else float(high))


def _pad(node: ir.Node, x: torch.Tensor, pads: torch.Tensor, number: torch.Tensor | None = None) -> torch.Tensor:
    before, after = pads.reshape(2, 4).tolist()
    sides = [size for axis in reversed(range(4)) for size in (before[axis], after[axis])]
    mode = node.attributes.get_string("mode", "constant")
    if mode != "constant":
        return F.pad(x, sides[:4], mode)
    return F.pad(x, sides, value=0.0 if number is None else float(number))


def _gemm(node: ir.Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    alpha = node.attributes.get_float("alpha", 1.0)
    y = alpha * x @ (weight.T if node.attributes.get_int("transB", 0) else weight)
    return y if bias is None else y + bias


_OPERATIONS = {
    "Gemm": _gemm,
    "Sigmoid": lambda node, x: torch.sigmoid(x),
    "Clip": _clip,
    "GreaterOrEqual": lambda node, x, y: x >= y,
    "Cast": lambda node, x: x.to({onnx.TensorProto.FLOAT: torch.float32}[node.attributes.get_int("to")]),
    "Abs": lambda node, x: x.abs(),
    "Pad": _pad,
    "ReduceMax": lambda node, x, axes: x.amax(axes.tolist(), keepdim=node.attributes.get_int("keepdims", 1) == 1),
    "Zeroise": _zeroise,
    "Add": lambda node, x, y: x + y,
    "Sub": lambda node, x, y: x - y,
    "Mul": lambda node, x, y: x * y,
    "Div": lambda node, x, y: x / y,
    "Neg": lambda node, x: -x,
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.attributes.get_float("alpha", 0.01)),
    "Relu": lambda node, x: torch.relu(x),
    "Max": lambda node, x, y: torch.maximum(x, y),
    "Min": lambda node, x, y: torch.minimum(x, y),
    "PRelu": lambda node, x, slope: torch.where(x > 0, x, slope * x),
    "Identity": lambda node, x: x,
    "Concat": lambda node, *parts: torch.cat(parts, node.attributes.get_int("axis")),
    "Slice": _slice,
    "Split": _split,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": lambda node, x, axes: x.squeeze(axes.tolist()),
    "Transpose": lambda node, x: x.permute(node.attributes.get_ints("perm")).contiguous(),
    "GlobalAveragePool": lambda node, x: x.mean((2, 3), keepdim=True),
    "Gather": lambda node, x, indices: x.index_select(node.attributes.get_int("axis"), indices),
    "Shape": _shape,
    "Expand": lambda node, x, shape: x.expand(*shape.tolist()).clone(),
    "MaxPool": lambda node, x: F.max_pool2d(x, *_window(node)),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Flatten": lambda node, x: x.flatten(1),
    "ReduceMean": lambda node, x, axes: x.mean(axes.tolist(), keepdim=node.attributes.get_int("keepdims", 1) == 1),
}
