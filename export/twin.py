"""The float twin of a captured network: the same program with float convolutions where the binary ones were.

So one capture gives both networks. A binary convolution becomes one with the weights behind its signs, without
threshold, scale and K; its padding is 0. Where nobody knows the weights behind the signs, these are the signs times the
scale. Nothing else is left out or put in: a network in which a sign is the only activation has none in its twin, which
makes the twin faster and the comparison harder on the binary network.

Some networks have another float twin than that; see `bnas_deploy.export.separate_twin`.

A batch normalisation is calibrated anew, since sums of float weights have other magnitudes than sums of signs. They
would grow from layer to layer, until ranges of 8 bits and comparisons in float32 mean nothing.
"""

import operator as python_operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.capture import CapturedModel
from bnas_deploy.export.graph import constant, constant_array, input_of, is_binary_conv, origin_of
from bnas_deploy.export.inputs import Feed, feed_of
from bnas_deploy.export.leaves import tensors_in
from bnas_deploy.export.passes.clean import DropUnused
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryWeightConv2d, sides_of

TWIN_IMAGES = 16
"""The twins are calibrated and compared on the first so many images: they are measured, and nobody asks them."""

LEAST_SPREAD = 0.1
"""Least deviation of a channel that a calibrated BN divides by, as a share of the channel's root mean square.

Of few images a channel may have next to none, and its BN would magnify roundings as if they were differences.
"""


Answers = Callable[[Feed], tuple[Tensor, ...]]
"""A network in PyTorch: what it takes to a tensor for each output."""


@dataclass(frozen=True)
class FloatTwin:
    """A network to compare latencies with: its graph, as captured, and the same in PyTorch."""

    model: ir.Model
    network: Answers


def derived_twin(captured: CapturedModel, module: nn.Module, images: Tensor | Feed) -> FloatTwin:
    """Return the float twin of a captured network.

    Args:
        captured: the graph before any rewriting; it becomes the twin's. The program stays as it is.
        module: what was captured, whose layers know the weights behind their signs.
        images: (N, C, H, W) float32, or what else it takes; the first of them calibrate the twin.

    Raises:
        ExportError: the twin answers NaN or infinity.
    """
    weights = _float_weights(captured.model.graph, module)
    _put_into_graph(captured.model.graph, weights)
    DropUnused().sweep(captured.model)
    program = captured.program.module()
    _put_into_program(program, {name: torch.from_numpy(weight) for name, weight in weights.items()})
    calibrator = _Calibrator(program)
    with torch.no_grad():
        answers = tensors_in(calibrator.run(*feed_of(images)[:TWIN_IMAGES].tensors))
    if not all(answer.isfinite().all() for answer in answers):
        raise ExportError(
            "the float twin that was derived answers NaN or infinity to the images, since no batch normalisation holds "
            "its float sums; give a twin of your own"
        )
    _put_statistics(captured.model.graph, calibrator.statistics())

    def network(feed: Feed) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tensors_in(torch.fx.Interpreter(program).run(*feed.tensors))

    return FloatTwin(captured.model, network)


# --- weights ----------------------------------------------------------------------------------------------------------


def _float_weights(graph: ir.Graph, module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return the weights of the convolutions that are binary, by what PyTorch calls the values that they make."""
    layers = dict(module.named_modules())
    weights = {}
    for node in graph:
        layer = layers.get(str(node.name).partition("#")[0])
        if is_binary_conv(node):
            signs = constant_array(input_of(node, "W"))
            latent = _latent(layer, signs.shape)
            scale = constant_array(input_of(node, "scale"))[:, None, None, None]
            weights[origin_of(node.outputs[0]).name] = signs * scale if latent is None else latent
        elif node.op_type == "Conv" and isinstance(layer, BinaryWeightConv2d):
            latent = _latent(layer, constant_array(node.inputs[1]).shape)
            if latent is not None:
                weights[origin_of(node.outputs[0]).name] = latent
    return weights


def _latent(layer: nn.Module | None, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Return the weights behind the signs of a layer if it knows some of this shape."""
    if not isinstance(layer, BinaryConv2d | BinaryWeightConv2d):
        return None
    with torch.no_grad():
        weight: NDArray[np.float32] = layer.real_weight().detach().contiguous().numpy()
    return weight if weight.shape == shape else None


# --- the graph --------------------------------------------------------------------------------------------------------

_GEOMETRY = ("strides", "pads", "dilations", "group")


def _put_into_graph(graph: ir.Graph, weights: Mapping[str, NDArray[np.float32]]) -> None:
    for node in list(graph):
        name = origin_of(node.outputs[0]).name
        if name not in weights or not (is_binary_conv(node) or node.op_type == "Conv"):  # but a copy of its result
            continue
        weight = constant(graph, f"{name}.weight", weights[name])
        if is_binary_conv(node):
            _replace_by_float(graph, node, weight)
        else:
            node.replace_input_with(1, weight)


def _replace_by_float(graph: ir.Graph, node: ir.Node, weight: ir.Value) -> None:
    old, bias = node.outputs[0], input_of(node, "bias")
    convolution = ir.Node(
        "",
        "Conv",
        [node.inputs[0], weight, *([bias] if constant_array(bias).any() else [])],
        [node.attributes[name] for name in _GEOMETRY],
        outputs=[ir.Value(name=old.name, shape=old.shape, type=old.type)],
        name=node.name,
    )
    convolution.outputs[0].meta.update(old.meta)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [convolution], [old], convolution.outputs)


def _put_statistics(graph: ir.Graph, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Give batch normalisations their mean and variance, by what PyTorch calls what they make."""
    for node in graph:
        name = origin_of(node.outputs[0]).name
        if node.op_type == "BatchNormalization" and name in statistics:
            for place, (part, value) in enumerate(zip(("mean", "var"), statistics[name], strict=True), start=3):
                node.replace_input_with(place, constant(graph, f"{name}.{part}", value.numpy()))


# --- the program ------------------------------------------------------------------------------------------------------


def _float_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    extra_padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    if any(extra_padding):
        (top, left), (rows, columns) = padding, extra_padding
        # Fewer zeros below than above are a negative number of more.
        x, padding = F.pad(x, sides_of((top, left), (rows, columns))), [0, 0]
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _put_into_program(program: torch.fx.GraphModule, weights: Mapping[str, Tensor]) -> None:
    for node in list(program.graph.nodes):
        if node.name not in weights:
            continue
        with program.graph.inserting_before(node):
            weight = _attribute(program, f"{node.name}_weight", weights[node.name])
            if node.target is torch.ops.bnas.binary_conv2d.default:
                x, bias, geometry = node.args[0], node.args[6], node.args[7:12]
                convolution = program.graph.call_function(_float_convolution, (x, weight, bias, *geometry))
                node.replace_all_uses_with(convolution)
                program.graph.erase_node(node)
            else:
                node.update_arg(1, weight)
    _drop_unread(program)


def _drop_unread(program: torch.fx.GraphModule) -> None:
    """Let go of the tensors that no node reads, such as the signs."""
    attributes = [node for node in program.graph.nodes if node.op == "get_attr"]
    read = {node.target for node in attributes if node.users}
    for node in attributes:
        if not node.users:
            program.graph.erase_node(node)
    for name in [name for name, _ in (*program.named_parameters(), *program.named_buffers()) if name not in read]:
        owner, _, attribute = name.rpartition(".")
        delattr(program.get_submodule(owner), attribute)


def _attribute(program: torch.fx.GraphModule, name: str, value: Tensor) -> torch.fx.Node:
    program.register_buffer(f"twin_{name}", value, persistent=False)
    return program.graph.get_attr(f"twin_{name}")


_NORMS = (torch.ops.aten._native_batch_norm_legit_no_training.default, torch.ops.aten.batch_norm.default)
"""What a program may have for a batch normalisation; mean and variance are arguments 3 and 4 of each."""


class _Calibrator(torch.fx.Interpreter):
    """Runs an FX program, and gives each batch normalisation the statistics of what it reads."""

    def __init__(self, program: torch.fx.GraphModule) -> None:
        super().__init__(program)
        self._norms = [node for node in program.graph.nodes if node.target in _NORMS and node.args[3] is not None]
        # Statistics of its own: those that it has are the binary network's, too.
        for node in self._norms:
            with program.graph.inserting_before(node):
                for place, part in ((3, "mean"), (4, "var")):
                    shared = _value(program, node.args[place])
                    node.update_arg(place, _attribute(program, f"{node.name}_{part}", shared.clone()))

    def run_node(self, n: torch.fx.Node) -> Any:
        if n in self._norms:
            x, _, _, mean, var = self.fetch_args_kwargs_from_env(n)[0][:5]
            axes = [axis for axis in range(x.ndim) if axis != 1]
            variance, center = torch.var_mean(x, axes, correction=0)
            var.copy_(torch.maximum(variance, LEAST_SPREAD**2 * (variance + center.square())))
            mean.copy_(center)
        return super().run_node(n)

    def statistics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return mean and variance of each, by the name of what it makes."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for node in self._norms:
            made = [user for user in node.users if user.target is python_operator.getitem and user.args[1] == 0]
            mean, var = (_value(self.module, node.args[place]) for place in (3, 4))
            found |= {result.name: (mean, var) for result in (made or [node])}
        return found


def _value(program: torch.nn.Module, node: Any) -> Tensor:
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(program.get_submodule(owner), name)
    assert isinstance(value, Tensor)
    return value
