"""Capture a trained PyTorch module as an ONNX graph whose binary layers are operators of the domain `bnas`.

The module is frozen first: each binary layer computes its signs and its scale once, in PyTorch, so that nothing that
decides a bit is computed again by another library. torch.onnx's dynamo exporter does the rest. In the captured graph

* a binary convolution is `bnas.BinaryConv2d` (or `BinaryConv2dK`) with all the inputs of the finished operator, but
  its weights are still float ±1, (O, C/groups, KH, KW); the pass PackWeights packs them. With the deviation
  "sign-of-zero" a weight may be 0, and the node has an attribute that the pass TakeSignOfZero takes away;
* a Zeroise layer is `bnas.Zeroise`, which no finished model holds;
* convolutions and matrix products are named after their module, such as `cells.3.edges.1.conv`;
* every value has the name of the value in PyTorch's exported program, which `CapturedModel.values_of` computes.
"""

import ast
import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
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

from bnas_deploy.core import operators
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.graph import SIGN_OF_ZERO, UNRECORDED, constant, constant_array, set_input
from bnas_deploy.export.module_checks import NORMS, failure, own_doing, refuse_dropped
from bnas_deploy.search.nn.estimators import activation_scale
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryWeightConv2d, Zeroise, with_extra_padding
from bnas_deploy.search.nn.scheme import Exported

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


def capture(module: nn.Module, image_shape: Sequence[int], *, batch: int | None = None) -> CapturedModel:
    """Capture `module` in evaluation mode, with a free batch unless `batch` gives its size, which is faster.

    Args:
        module: maps images (N, *image_shape) float32 to logits (N, classes).
        image_shape: (channels, height, width).
        batch: N, for a graph that is looked at only.

    Raises:
        ExportError: torch.export cannot trace the module, or torch.onnx has no translation of an operation in it.
    """
    frozen = freeze(module)
    # Two images where N is free, since torch.export takes a dimension of 1 for a constant.
    example = torch.zeros(batch or 2, *image_shape)
    free = None if batch else ({0: torch.export.Dim("N")},)
    with _quiet_exporter():
        try:
            program = torch.export.export(frozen, (example,), dynamic_shapes=free)
        except (torch._dynamo.exc.UserError, GuardOnDataDependentSymNode) as error:
            raise ExportError(
                f"{type(module).__name__} cannot be captured by torch.export: {_first_line(error)}; its forward must "
                "be free of control flow that depends on data, and must take any number of images"
            ) from None
        except Exception as error:  # tracing runs the module's own code, which may raise anything
            advice = "its forward must compute with torch's operations on tensors alone"
            reason = own_doing(module, example) or f"{failure(frozen, error)}; {advice}"
            raise ExportError(f"{type(module).__name__} cannot be captured by torch.export: {reason}") from error
        try:
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=operators.ONNX_OPSET,
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
    _check_ranks(model.graph)
    _note_unrecorded(model.graph, {node.name for node in exported.exported_program.graph.nodes})
    _drop_made_up_biases(model.graph)
    _complete_binary_convolutions(model.graph)
    captured = CapturedModel(model, exported.exported_program)
    _fold_in_pytorch(captured, example)
    return captured


def _first_line(error: BaseException) -> str:
    """Return what an error of torch says first; advice to developers of torch follows."""
    return str(error).strip().partition("\n")[0]


# --- freezing -------------------------------------------------------------------------------------------------------


def _signs(x: Tensor, threshold: Tensor, sign_of_zero: bool) -> Tensor:
    return torch.sign(x) if sign_of_zero else torch.where(x >= threshold[:, None, None], 1.0, -1.0)


@torch.library.custom_op("bnas::binary_conv2d", mutates_args=())
def binary_conv2d(
    x: Tensor,
    signs: Tensor,
    threshold: Tensor,
    scale: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    extra_padding: list[int],
    dilation: list[int],
    groups: int,
    k_map: bool,
    sign_of_zero: bool,
) -> Tensor:
    """A frozen `BinaryConv2d`: what its scheme exports, and its bias, are given."""
    extra = _pair(extra_padding)
    activations = with_extra_padding(_signs(x, threshold, sign_of_zero), extra)
    y = F.conv2d(activations, signs, None, stride, padding, dilation, groups) * scale[:, None, None]
    if k_map:
        height, width = signs.shape[2:]
        padded = with_extra_padding(x, extra)
        y = y * activation_scale(padded, (height, width), _pair(stride), _pair(padding), _pair(dilation))
    return y + bias[:, None, None]


@binary_conv2d.register_fake
def _(
    x: Tensor,
    signs: Tensor,
    threshold: Tensor,
    scale: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    extra_padding: list[int],
    dilation: list[int],
    groups: int,
    k_map: bool,
    sign_of_zero: bool,
) -> Tensor:
    return F.conv2d(with_extra_padding(x, _pair(extra_padding)), signs, None, stride, padding, dilation, groups)


@torch.library.custom_op("bnas::zeroise", mutates_args=())
def zeroise(x: Tensor, stride: int) -> Tensor:
    """A `Zeroise` layer."""
    return torch.zeros_like(x[:, :, ::stride, ::stride])


@zeroise.register_fake
def _(x: Tensor, stride: int) -> Tensor:
    return torch.empty_like(x[:, :, ::stride, ::stride])


class _FrozenBinaryConv2d(nn.Module):
    signs: Tensor
    threshold: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, layer: BinaryConv2d, exported: Exported) -> None:
        super().__init__()
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach().clone()
        held = {"signs": exported.weight, "threshold": exported.threshold, "scale": exported.scale, "bias": bias}
        for name, value in held.items():
            self.register_buffer(name, value.contiguous())
        self.stride, self.dilation = list(layer.stride), list(layer.dilation)
        self.padding, self.extra_padding = list(layer.padding), list(layer.extra_padding)
        self.groups = layer.groups
        self.k_map = layer.scheme.k_map
        self.sign_of_zero = exported.sign_of_zero

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = binary_conv2d(
            x,
            self.signs,
            self.threshold,
            self.scale,
            self.bias,
            self.stride,
            self.padding,
            self.extra_padding,
            self.dilation,
            self.groups,
            self.k_map,
            self.sign_of_zero,
        )
        return y


class _FrozenFloatWeightConv2d(nn.Module):
    """Signs in, and the weights of a scheme whose weights are float."""

    weight: Tensor
    threshold: Tensor

    def __init__(self, layer: BinaryConv2d, exported: Exported) -> None:
        super().__init__()
        self.register_buffer("weight", exported.weight * exported.scale[:, None, None, None])
        self.register_buffer("threshold", exported.threshold)
        self.sign_of_zero = exported.sign_of_zero
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        y = layer.convolve(_signs(x, self.threshold, self.sign_of_zero), self.weight)
        if layer.scheme.k_map:
            padded = with_extra_padding(x, layer.extra_padding)
            y = y * activation_scale(padded, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        return y if self.layer.bias is None else y + self.layer.bias[:, None, None]


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
        ExportError: a batch normalisation has no running statistics, so that images would depend on each other; or a
            binary layer has code of its own.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None:
            raise ExportError(
                f"{name}: {type(layer).__name__} without running statistics cannot be exported, since it makes the "
                "answer to an image depend on the others in the batch; train it with track_running_stats=True"
            )
    refuse_dropped(module)
    frozen = copy.deepcopy(module).cpu().eval()
    with torch.no_grad():
        for layer in frozen.modules():
            for hook in layer._forward_pre_hooks.values():
                if isinstance(hook, NORMS):
                    hook(layer, ())
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
        case BinaryConv2d():
            kind = _FrozenBinaryConv2d if module.scheme.weight_bits == 1 else _FrozenFloatWeightConv2d
            return kind(module, module.exported())
        case Zeroise():
            return _FrozenZeroise(module)
        case BinaryWeightConv2d():
            return _frozen_binary_weight(module)
    return module


def _frozen_binary_weight(layer: BinaryWeightConv2d) -> nn.Conv2d:
    plain = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        _pair(layer.kernel_size),
        _pair(layer.stride),
        layer.padding if isinstance(layer.padding, str) else _pair(layer.padding),
        _pair(layer.dilation),
        layer.groups,
        layer.bias is not None,
        layer.padding_mode,
    )
    plain.weight.copy_(layer.effective_weight())
    if layer.bias is not None and plain.bias is not None:
        plain.bias.copy_(layer.bias)
    return plain.eval()


# --- translation ----------------------------------------------------------------------------------------------------


def _captured_operator(name: str, inputs: Sequence[str], attributes: dict[str, onnx.defs.OpSchema.AttrType]) -> Any:
    """Return the onnxscript operator of a captured node; the finished operators are in opset.py."""
    schema = onnx.defs.OpSchema
    return onnxscript.values.Op(
        onnxscript.values.Opset(operators.DOMAIN, operators.VERSION),
        name,
        schema(
            name,
            operators.DOMAIN,
            operators.VERSION,
            inputs=[schema.FormalParameter(name, "T") for name in inputs],
            outputs=[schema.FormalParameter("Y", "T")],
            type_constraints=[("T", ["tensor(float)"], "")],
            attributes=[schema.Attribute(name, kind) for name, kind in attributes.items()],
        ),
    )


_INT, _INTS = onnx.defs.OpSchema.AttrType.INT, onnx.defs.OpSchema.AttrType.INTS
_GEOMETRY = {"strides": _INTS, "pads": _INTS, "dilations": _INTS, "group": _INT}
_CAPTURED_INPUTS = ("X", "W", "threshold", "scale", "bias")
"""Of a finished operator those that PyTorch knows of."""

_BINARY_CONV = {
    k_map: _captured_operator(
        operators.Operator(uses_k=k_map).name, _CAPTURED_INPUTS, {**_GEOMETRY, SIGN_OF_ZERO: _INT}
    )
    for k_map in (False, True)
}
_ZEROISE = _captured_operator("Zeroise", ("X",), {"stride": _INT})


def _translate_binary_conv2d(
    x: Any,
    signs: Any,
    threshold: Any,
    scale: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    extra_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    k_map: bool,
    sign_of_zero: bool,
) -> Any:
    # PyTorch pads both sides alike, but for the odd zero of "same"; ONNX writes top, left, bottom, right.
    pads = [*padding, *(zeros + more for zeros, more in zip(padding, extra_padding, strict=True))]
    return _BINARY_CONV[k_map](
        x,
        signs,
        threshold,
        scale,
        bias,
        strides=list(stride),
        pads=pads,
        dilations=list(dilation),
        group=groups,
        **({SIGN_OF_ZERO: 1} if sign_of_zero else {}),
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
            # What a module keeps of its last run is dropped with the copy that was traced.
            warnings.filterwarnings("ignore", message=".*assigned during export.*", category=UserWarning)
            yield
    finally:
        logger.setLevel(level)


# --- tidying the captured graph -------------------------------------------------------------------------------------


def _name_after_modules(graph: ir.Graph) -> None:
    """Name each node with weights after the module that it came from, so that people and both twins agree on names."""
    taken: dict[str, int] = {}
    for node in graph:
        if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"} and node.domain != operators.DOMAIN:
            continue
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        if len(scopes) < 2 or not scopes[-2]:
            continue
        path = scopes[-2]
        taken[path] = taken.get(path, 0) + 1
        node.name = path if taken[path] == 1 else f"{path}#{taken[path]}"


def _check_ranks(graph: ir.Graph) -> None:
    for node in graph:
        x = node.inputs[0] if node.domain == operators.DOMAIN else None
        if x is not None and x.shape is not None and len(x.shape) != 4:
            raise ExportError(
                f"{node.name}: reads a tensor of {len(x.shape)} axes, wanted images (N, C, H, W); reshape it in front"
            )


_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def _fold_in_pytorch(captured: CapturedModel, example: Tensor) -> None:
    """Put PyTorch's own values in the place of what is computed of weights alone, such as a slope behind a sigmoid.

    Another library may round it otherwise, and a layer would no longer do to the bit what PyTorch does.
    """
    graph = captured.model.graph
    known = set(graph.initializers.values())
    computed = []
    for node in graph:
        if node.op_type not in _RANDOM and all(value is None or value in known for value in node.inputs):
            known |= set(node.outputs)
            computed += [value for value in node.outputs if UNRECORDED not in value.meta]
    if not computed:
        return
    values = captured.values_of(example)
    for value in computed:
        data = values.get(str(value.name))
        if data is not None and data.dtype in _FOLDED and value.dtype == ir.DataType.from_numpy(data.numpy().dtype):
            folded = constant(graph, f"{value.name}.folded", data.numpy())
            value.replace_all_uses_with(folded, replace_graph_outputs=True)


_FOLDED = {torch.float32, torch.int64, torch.bool}


def _note_unrecorded(graph: ir.Graph, recorded: Container[str]) -> None:
    """Mark the values that torch.onnx computes on the way to PyTorch's, as for a stack or `alpha` of a sum."""
    for value in (value for node in graph for value in node.outputs):
        if value.name not in recorded and not value.is_graph_output():
            value.meta[UNRECORDED] = True


def _drop_made_up_biases(graph: ir.Graph) -> None:
    """Leave out the zeros that torch.onnx gives a convolution without bias; for Conv3d they are (O, 2) by mistake."""
    for node in graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
        if bias is not None and UNRECORDED in bias.meta:
            node.resize_inputs(2)


def _complete_binary_convolutions(graph: ir.Graph) -> None:
    """Give the captured binary convolutions the inputs that PyTorch does not know of, with neutral values."""
    for node in graph:
        if node.domain != operators.DOMAIN or node.op_type == "Zeroise":
            continue
        given = dict(zip(_CAPTURED_INPUTS, node.inputs, strict=True))
        channels_out = len(constant_array(given["scale"]))
        node.resize_inputs(len(operators.operator(node.op_type).inputs))
        for name in _CAPTURED_INPUTS[2:]:
            value = given[name]
            assert value is not None
            set_input(node, name, value)
        set_input(node, "offset", constant(graph, f"{node.name}.offset", np.zeros((channels_out, 1, 1), np.float32)))


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second
