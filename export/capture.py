"""Capture a trained PyTorch module as an ONNX graph whose binary layers are operators of the domain `bnas`.

The module is frozen first: each binary layer computes its signs and its scale once, in PyTorch, so that nothing that
decides a bit is computed again by another library. torch.onnx's dynamo exporter does the rest. In the captured graph

* a binary convolution is `bnas.BinaryConv2d` (or `BinaryConv2dK`) with all the inputs of the finished operator, but
  its weights are still float ±1, (O, C/groups, KH, KW); the pass PackWeights packs them;
* a Zeroise layer is `bnas.Zeroise`, which no finished model holds;
* convolutions and matrix products are named after their module, such as `cells.3.edges.1.conv`;
* every value has the name of the value in PyTorch's exported program, which `CapturedModel.values_of` computes.
"""

import ast
import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn import functional as F

from bnas_deploy.errors import ExportError
from bnas_deploy.export import opset
from bnas_deploy.export.graph import constant, set_input
from bnas_deploy.search.binarize import activation_scale
from bnas_deploy.search.layers import BinaryConv2d, BinaryWeightConv2d, Zeroise

INPUT = "images"
OUTPUT = "logits"


@dataclass(frozen=True)
class CapturedModel:
    """The captured graph, and the program that PyTorch made of the module, to compute any value of it."""

    model: ir.Model
    program: torch.export.ExportedProgram

    def values_of(self, images: Tensor) -> dict[str, Tensor]:
        """Run the program in PyTorch and return every value by name; `images` is (N, C, H, W) float32."""
        recorder = _Recorder(self.program.module())
        with torch.no_grad():
            logits = recorder.run(images)
        recorder.values[INPUT] = images
        recorder.values[OUTPUT] = logits
        return recorder.values

    def with_noise(self, images: Tensor, slack: Mapping[str, NDArray[Any]], generator: torch.Generator) -> Tensor:
        """Run the program with uniform noise in the values that `slack` names, up to so much in each channel."""
        noisy = _Noisy(self.program.module(), slack, generator)
        with torch.no_grad():
            logits: Tensor = noisy.run(images)
        return logits


class _Noisy(torch.fx.Interpreter):
    """Runs an FX program and adds noise to some of the values that it computes."""

    def __init__(
        self, module: torch.fx.GraphModule, slack: Mapping[str, NDArray[Any]], generator: torch.Generator
    ) -> None:
        super().__init__(module)
        self.slack = {name: torch.from_numpy(np.array(bound, np.float32)) for name, bound in slack.items()}
        self.generator = generator

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.name not in self.slack:
            return result
        return result + self.slack[n.name] * (2 * torch.rand(result.shape, generator=self.generator) - 1)


class _Recorder(torch.fx.Interpreter):
    """Runs an FX program and keeps every tensor that it computes."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n.name] = result
        return result


def capture(module: nn.Module, image_shape: Sequence[int]) -> CapturedModel:
    """Capture `module` in evaluation mode, with a free batch.

    Args:
        module: maps images (N, *image_shape) float32 to logits (N, classes).
        image_shape: (channels, height, width).

    Raises:
        ExportError: torch.export cannot trace the module, or torch.onnx has no translation of an operation in it.
    """
    frozen = freeze(module)
    # Two images, since torch.export takes a dimension of 1 for a constant.
    example = torch.zeros(2, *image_shape)
    with _quiet_exporter():
        try:
            program = torch.export.export(frozen, (example,), dynamic_shapes=({0: torch.export.Dim("N")},))
        except (torch._dynamo.exc.UserError, GuardOnDataDependentSymNode) as error:
            raise ExportError(
                f"{type(module).__name__} cannot be captured by torch.export: {_first_line(error)}; its forward must "
                "be free of control flow that depends on data, and must take any number of images"
            ) from None
        try:
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset.ONNX_OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                custom_translation_table=_TRANSLATIONS,
                optimize=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"{type(module).__name__} cannot be translated by torch.onnx: {_first_line(error.__cause__ or error)}; "
                "write its forward with other operations"
            ) from None
    assert exported is not None
    assert exported.exported_program is not None
    model = exported.model
    _name_after_modules(model.graph)
    _complete_binary_convolutions(model.graph)
    return CapturedModel(model, exported.exported_program)


def _first_line(error: BaseException) -> str:
    """Return what an error of torch says first; advice to developers of torch follows."""
    return str(error).strip().partition("\n")[0]


# --- freezing -------------------------------------------------------------------------------------------------------


@torch.library.custom_op("bnas::binary_conv2d", mutates_args=())
def binary_conv2d(
    x: Tensor,
    signs: Tensor,
    scale: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    k_map: bool,
) -> Tensor:
    """A frozen `BinaryConv2d`: its signs (±1) and its scale are given."""
    activations = torch.where(x >= 0, 1.0, -1.0)
    y = F.conv2d(activations, signs, None, stride, padding, dilation, groups) * scale[:, None, None]
    if k_map:
        height, width = signs.shape[2:]
        y = y * activation_scale(x, (height, width), _pair(stride), _pair(padding), _pair(dilation))
    return y


@binary_conv2d.register_fake
def _(
    x: Tensor,
    signs: Tensor,
    scale: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    k_map: bool,
) -> Tensor:
    return F.conv2d(x, signs, None, stride, padding, dilation, groups)


@torch.library.custom_op("bnas::zeroise", mutates_args=())
def zeroise(x: Tensor, stride: int) -> Tensor:
    """A `Zeroise` layer."""
    return torch.zeros_like(x[:, :, ::stride, ::stride])


@zeroise.register_fake
def _(x: Tensor, stride: int) -> Tensor:
    return torch.empty_like(x[:, :, ::stride, ::stride])


class _FrozenBinaryConv2d(nn.Module):
    signs: Tensor
    scale: Tensor

    def __init__(self, layer: BinaryConv2d) -> None:
        super().__init__()
        signs, scale = layer.binary_weight()
        self.register_buffer("signs", signs.detach().float().contiguous())
        self.register_buffer("scale", scale.detach().float().contiguous())
        self.stride, self.padding, self.dilation = list(layer.stride), list(layer.padding), list(layer.dilation)
        self.groups = layer.groups
        self.k_map = layer.k_map

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = binary_conv2d(
            x, self.signs, self.scale, self.stride, self.padding, self.dilation, self.groups, self.k_map
        )
        return y


class _FrozenRealWeightConv2d(nn.Module):
    """The departure "real-last-two": signs in, real weights."""

    def __init__(self, layer: BinaryConv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.convolve(torch.where(x >= 0, 1.0, -1.0), self.layer.weight)


class _FrozenZeroise(nn.Module):
    def __init__(self, layer: Zeroise) -> None:
        super().__init__()
        self.stride = layer.stride

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = zeroise(x, self.stride)
        return y


def freeze(module: nn.Module) -> nn.Module:
    """Return a copy of `module` on the CPU, in evaluation mode, whose binary layers hold ±1 weights and their scale.

    Raises:
        ExportError: a batch normalisation has no running statistics, so that images would depend on each other.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None:
            raise ExportError(
                f"{name}: {type(layer).__name__} without running statistics cannot be exported, since it makes the "
                "answer to an image depend on the others in the batch; train it with track_running_stats=True"
            )
    frozen = copy.deepcopy(module).cpu().eval()
    with torch.no_grad():
        return _frozen(frozen, {})


def _frozen(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """Freeze `module` and its children in place; a layer that is registered twice stays one layer."""
    if module in done:
        return done[module]
    done[module] = _frozen_layer(module)
    if done[module] is module:
        # Not named_children, which passes over the second name of a layer.
        for name, child in list(module._modules.items()):
            if child is not None:
                setattr(module, name, _frozen(child, done))
    return done[module]


def _frozen_layer(module: nn.Module) -> nn.Module:
    """Return the frozen form of a binary layer; any other module is its own."""
    match module:
        case BinaryConv2d(real_weights=True):
            return _FrozenRealWeightConv2d(module)
        case BinaryConv2d():
            return _FrozenBinaryConv2d(module)
        case Zeroise():
            return _FrozenZeroise(module)
        case BinaryWeightConv2d():
            return _frozen_binary_weight(module)
    return module


def _frozen_binary_weight(layer: BinaryWeightConv2d) -> nn.Conv2d:
    plain = nn.Conv2d(layer.in_channels, layer.out_channels, (2, 2), stride=(2, 2))
    plain.weight.copy_(layer.effective_weight())
    assert layer.bias is not None
    assert plain.bias is not None
    plain.bias.copy_(layer.bias)
    return plain.eval()


# --- translation ----------------------------------------------------------------------------------------------------


def _captured_operator(name: str, inputs: Sequence[str], attributes: dict[str, onnx.defs.OpSchema.AttrType]) -> Any:
    """Return the onnxscript operator of a captured node; the finished operators are in opset.py."""
    schema = onnx.defs.OpSchema
    return onnxscript.values.Op(
        onnxscript.values.Opset(opset.DOMAIN, opset.VERSION),
        name,
        schema(
            name,
            opset.DOMAIN,
            opset.VERSION,
            inputs=[schema.FormalParameter(name, "T") for name in inputs],
            outputs=[schema.FormalParameter("Y", "T")],
            type_constraints=[("T", ["tensor(float)"], "")],
            attributes=[schema.Attribute(name, kind) for name, kind in attributes.items()],
        ),
    )


_INT, _INTS = onnx.defs.OpSchema.AttrType.INT, onnx.defs.OpSchema.AttrType.INTS
_GEOMETRY = {"strides": _INTS, "pads": _INTS, "dilations": _INTS, "group": _INT}
_BINARY_CONV = {
    k_map: _captured_operator(opset.Operator(uses_k=k_map).name, ("X", "W", "scale"), _GEOMETRY)
    for k_map in (False, True)
}
_ZEROISE = _captured_operator("Zeroise", ("X",), {"stride": _INT})


def _translate_binary_conv2d(
    x: Any,
    signs: Any,
    scale: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    k_map: bool,
) -> Any:
    # PyTorch pads both sides alike; ONNX writes top, left, bottom, right.
    return _BINARY_CONV[k_map](
        x, signs, scale, strides=list(stride), pads=[*padding, *padding], dilations=list(dilation), group=groups
    )


def _translate_zeroise(x: Any, stride: int) -> Any:
    return _ZEROISE(x, stride=stride)


_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.bnas.binary_conv2d.default: _translate_binary_conv2d,
    torch.ops.bnas.zeroise.default: _translate_zeroise,
}


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter from telling users about torchvision and about its own deprecated internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch.export copies its own tree specs in a way that it has deprecated itself.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


# --- tidying the captured graph -------------------------------------------------------------------------------------


def _name_after_modules(graph: ir.Graph) -> None:
    """Name each node with weights after the module that it came from, so that people and both twins agree on names."""
    taken: dict[str, int] = {}
    for node in graph:
        if node.op_type not in {"Conv", "Gemm", "MatMul"} and node.domain != opset.DOMAIN:
            continue
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        if len(scopes) < 2 or not scopes[-2]:
            continue
        path = scopes[-2]
        taken[path] = taken.get(path, 0) + 1
        node.name = path if taken[path] == 1 else f"{path}#{taken[path]}"


def _complete_binary_convolutions(graph: ir.Graph) -> None:
    """Give the captured binary convolutions the inputs that PyTorch does not know of, with neutral values."""
    for node in graph:
        if node.domain != opset.DOMAIN or node.op_type == "Zeroise":
            continue
        _, weight, scale = node.inputs
        assert weight is not None
        assert scale is not None
        assert weight.const_value is not None
        channels_out, group_channels = (int(size) for size in weight.const_value.shape.numpy()[:2])
        channels_in = group_channels * node.attributes.get_int("group", 1)
        neutral = {
            "threshold": np.zeros(channels_in, np.float32),
            "offset": np.zeros((channels_out, 1, 1), np.float32),
            "bias": np.zeros(channels_out, np.float32),
        }
        node.resize_inputs(len(opset.operator(node.op_type).inputs))
        set_input(node, "scale", scale)
        for name, data in neutral.items():
            set_input(node, name, constant(graph, f"{node.name}.{name}", data))


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second
