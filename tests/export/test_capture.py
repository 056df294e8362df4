"""What torch.onnx makes of the package's layers, and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core import operators
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export import opset
from bnas_deploy.export.capture import OUTPUT, CapturedModel, capture
from bnas_deploy.export.freeze import freeze
from bnas_deploy.export.graph import activations_of, constant_array, input_of, is_binary_conv
from bnas_deploy.export.inputs import INPUT
from bnas_deploy.export.passes import PIPELINE
from bnas_deploy.export.pieces import Recorded, pieces_of
from bnas_deploy.export.rewrite import run
from bnas_deploy.search.models.bnas.scheme import OfficialBnas
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryLinear, BinaryWeightConv2d, Zeroise
from bnas_deploy.search.nn.scheme import FloatWeights, Scheme
from bnas_deploy.search.nn.schemes.xnor_net import XnorNet
from bnas_deploy.search.nn.schemes.xnor_net_plus import XnorNetPlus

SHAPE = (4, 6, 6)


class Everything(nn.Module):
    """Every kind of layer that capture knows, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(
            4, 8, 3, stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2, scheme=XnorNetPlus()
        )
        self.k = BinaryConv2d(8, 8, 1, scheme=OfficialBnas(k_map=True, centre_weights=True, clamp_weights=True))
        self.zero = Zeroise(2)
        self.shared = BinaryConv2d(8, 8, 1, scheme=Scheme())
        self.again = self.shared
        self.real = BinaryConv2d(8, 8, 1, scheme=FloatWeights())
        self.skip = BinaryWeightConv2d(8, 4, kernel_size=2, stride=2)
        self.head = nn.Sequential(BinaryLinear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
        nn.init.uniform_(self.conv.learned_scale, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.k(self.conv(x))
        y = self.again(self.shared(y)) + self.real(y)
        y = self.skip(y)
        return self.head((y + self.zero(torch.cat((y, y), 2))[:, :, :1]).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def everything() -> Everything:
    torch.manual_seed(0)
    return Everything().eval()


@pytest.fixture(scope="module")
def captured(everything: Everything) -> CapturedModel:
    return capture(everything, SHAPE)


def test_layers_are_operators_named_after_their_modules(captured: CapturedModel) -> None:
    layers = [(node.op_type, node.name) for node in captured.model.graph if node.domain == operators.DOMAIN]

    assert layers == [
        ("BinaryConv2d", "conv"),
        ("BinaryConv2dK", "k"),
        ("BinaryConv2d", "shared"),
        ("BinaryConv2d", "again"),
        ("Zeroise", "zero"),
        ("BinaryConv2d", "head.0.conv"),
    ]
    real = [node.name for node in captured.model.graph if node.op_type in {"Conv", "Gemm"}]
    assert real == ["real", "skip", "head.2"]


class Blocks(nn.Module):
    """Sums in a module's forward, a BN that is one, and functions of the whole network's."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Everything(), Everything()])
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.blocks[0](x) + self.blocks[1](x).abs()))


def test_other_nodes_are_named_after_the_module_whose_forward_has_them() -> None:
    names = [node.name for node in capture(Blocks().eval(), SHAPE).model.graph]
    assert {"blocks.0/Add", "blocks.0/Add#2", "blocks.1/Add", "blocks.1/Add#2"} <= set(names)
    assert {"norm/BatchNormalization", "blocks.0.head.1/BatchNormalization", "abs_1", "relu"} <= set(names)
    assert not [name for name in names if name.startswith("_")]
    assert len(set(names)) == len(names)


class _Functional(nn.Module):
    """Float layers without a module of their own, beside a module with the name that PyTorch gives the second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1, self.binary = nn.Conv2d(3, 8, 1), BinaryConv2d(8, 8, 1)
        self.weight, self.last = nn.Parameter(torch.randn(3, 3, 3, 3)), nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(F.conv2d(x, self.weight), self.weight)
        pooled = self.binary(self.conv2d_1(y)).mean((2, 3))
        return F.linear(pooled, self.last) @ self.last @ self.last.T


def test_float_layers_without_a_module_have_the_names_of_pytorchs_program() -> None:
    graph = capture(_Functional(), (3, 8, 8)).model.graph

    layers = [node.name for node in graph if node.op_type in {"Conv", "Gemm", "MatMul"} or is_binary_conv(node)]

    assert layers == ["conv2d", "conv2d_1", "conv2d_1#2", "binary", "linear", "matmul", "matmul_1"]


def test_a_binary_convolution_has_its_signs_and_its_scale_from_pytorch(
    captured: CapturedModel, everything: Everything
) -> None:
    for node in captured.model.graph:
        if not is_binary_conv(node):
            continue
        layer = everything.get_submodule(str(node.name).partition("#")[0])
        weights = layer.scheme.weights(layer.weight, layer.learned)
        assert (constant_array(input_of(node, "W")) == weights.weight.detach().numpy()).all()
        assert (constant_array(input_of(node, "scale")) == weights.scale.detach().numpy()).all()


def test_geometry_and_neutral_inputs(captured: CapturedModel) -> None:
    node = next(node for node in captured.model.graph if node.name == "conv")

    assert {name: node.attributes.get_ints(name) for name in ("strides", "pads", "dilations")} == {
        "strides": (1, 2),
        "pads": (2, 1, 2, 1),
        "dilations": (2, 1),
    }
    assert node.attributes.get_int("group") == 2
    assert {name: constant_array(input_of(node, name)).shape for name in ("threshold", "offset", "bias")} == {
        "threshold": (4,),
        "offset": (8, 1, 1),
        "bias": (8,),
    }
    assert not any(constant_array(input_of(node, name)).any() for name in ("threshold", "offset", "bias"))


def test_the_batch_is_free_and_outputs_are_named(captured: CapturedModel) -> None:
    (images,), (logits,) = captured.model.graph.inputs, captured.model.graph.outputs

    assert (images.name, logits.name) == (INPUT, OUTPUT)
    assert tuple(images.shape)[1:] == SHAPE
    assert not isinstance(images.shape[0], int)


@pytest.mark.parametrize("batch", [1, 3])
def test_values_are_those_of_pytorch_by_name(captured: CapturedModel, everything: Everything, batch: int) -> None:
    images = torch.randn(batch, *SHAPE)

    values = captured.values_of(images)

    with torch.no_grad():
        assert torch.equal(values[OUTPUT], everything(images))
        convolution = next(node for node in captured.model.graph if node.name == "conv")
        assert torch.equal(values[str(convolution.outputs[0].name)], everything.conv(images))
    for node in captured.model.graph:
        if is_binary_conv(node):  # of these the test vectors are taken
            assert {str(input_of(node, "X").name), str(node.outputs[0].name)} <= set(values)


def test_freezing_leaves_the_module_alone(everything: Everything) -> None:
    before = {name: value.clone() for name, value in everything.state_dict().items()}

    frozen = freeze(everything.train())

    everything.eval()
    assert not frozen.training
    assert isinstance(everything.conv, BinaryConv2d)
    assert all(torch.equal(value, before[name]) for name, value in everything.state_dict().items())


def test_a_layer_with_two_names_is_frozen_once(everything: Everything) -> None:
    frozen = freeze(everything)

    assert frozen.again is frozen.shared
    assert not isinstance(frozen.again, BinaryConv2d)


def test_a_binary_layer_can_be_the_whole_module() -> None:
    captured = capture(nn.Sequential(BinaryConv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), SHAPE)

    assert [node.name for node in captured.model.graph if is_binary_conv(node)] == ["0"]
    assert isinstance(freeze(BinaryConv2d(4, 2, 1)), nn.Module)


class SeveralResults(nn.Module):
    """Binary convolutions of the results of operations that have several, one of them a sum that torch.onnx splits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 1)
        self.one, self.two, self.four = (BinaryConv2d(channels, 4, 1) for channels in (1, 2, 4))
        self.six, self.eight = (BinaryConv2d(channels, 4, 1) for channels in (6, 8))
        self.recurrent = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        first, second = x.chunk(2, 1)
        y = self.four(first) + self.four(second)
        y = torch.add(y, self.six(torch.split(x, (2, 6), 1)[1]), alpha=2)
        y = y + self.two(torch.stack(x.unbind(1)[1::4], 1)) + self.one(x.max(1, keepdim=True)[0])
        y = y + self.two(x.topk(2, 1)[0]) + self.two(x.tensor_split(3, 1)[2]) + self.eight(x.sort(1)[0])
        y = y + self.one(torch.var_mean(x, 1, keepdim=True)[1])
        y = y + self.eight(self.recurrent(x.flatten(2).transpose(1, 2))[0].transpose(1, 2).reshape(-1, 8, 6, 6))
        y = y + self.eight(nn.functional.max_pool2d(x, 3, 1, 1, return_indices=True)[0])
        return y.mean((2, 3))


def test_every_result_of_an_operation_is_known_behind_the_passes() -> None:
    torch.manual_seed(0)
    captured = capture(SeveralResults(), SHAPE)
    values = captured.values_of(torch.randn(1, *SHAPE))

    log = run(PIPELINE, captured.model)

    recorded = Recorded(values)
    pieces = {piece.name: piece for piece in pieces_of(captured.model, recorded) if is_binary_conv(piece.nodes[-1])}
    assert len(pieces) == 11
    chunks = values["conv2d"].chunk(2, 1)
    for name, chunk in zip(("four", "four#2"), chunks, strict=True):
        (x,) = activations_of(pieces[name].nodes[-1])
        assert (recorded[x] == chunk.numpy()).all()
    reasons = {refusal.reason for refusal in log.refusals}
    assert "PyTorch's program has no value of its own for a part of stack" in reasons
    assert "PyTorch's program has no value of its own for what is added" in reasons


GEOMETRIES: dict[str, dict[str, Any]] = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "without bias": {"kernel_size": 2, "stride": 2, "bias": False},
    "groups": {"kernel_size": (3, 1), "groups": 2, "dilation": 2, "padding": (2, 0)},
    "reflected": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_binary_weights_with_any_geometry(geometry: dict[str, Any]) -> None:
    layer = BinaryWeightConv2d(4, 8, **geometry)
    x = torch.randn(2, *SHAPE)

    frozen = freeze(nn.Sequential(layer))[0]

    assert type(frozen) is nn.Conv2d
    with torch.no_grad():
        assert torch.equal(frozen(x), layer(x))


SAME: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "odd": ({"kernel_size": 3, "padding": "same"}, (1, 1, 1, 1)),
    "even": ({"kernel_size": (2, 4), "padding": "same", "scheme": XnorNet(k_map=True)}, (0, 1, 1, 2)),
    "dilated": ({"kernel_size": (4, 3), "padding": "same", "dilation": (3, 2)}, (4, 2, 5, 2)),
    "valid": ({"kernel_size": [3, 2], "padding": "valid", "stride": [2, 1]}, (0, 0, 0, 0)),
}


@pytest.mark.parametrize(("arguments", "pads"), SAME.values(), ids=SAME)
def test_padding_in_words_and_a_bias_are_the_operators(arguments: dict[str, Any], pads: tuple[int, ...]) -> None:
    layer = BinaryConv2d(4, 8, bias=True, **arguments).eval()
    captured = capture(nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()), SHAPE)
    x = torch.randn(1, *SHAPE)
    values = captured.values_of(x)

    run(PIPELINE, captured.model)

    (node,) = (node for node in captured.model.graph if is_binary_conv(node))
    assert node.attributes.get_ints("pads") == pads
    assert layer.bias is not None
    assert (constant_array(input_of(node, "bias")) == layer.bias.detach().numpy()).all()
    assert torch.equal(values["binary_conv2d"], layer.eval()(x).detach())
    inputs = [x.numpy() if value.is_graph_input() else constant_array(value) for value in node.inputs if value]
    attributes = {
        "weight_shape": [*node.attributes.get_ints("weight_shape")],
        "pads": [*pads],
        **{name: [*node.attributes.get_ints(name)] for name in ("strides", "dilations")},
    }
    got = opset.reference(node.op_type, inputs, attributes)
    # Exact but for K: its mean over 4 channels and up to 12 taps is summed in another order.
    np.testing.assert_allclose(got, layer(x).detach().numpy(), rtol=19 * 2**-24 if layer.scheme.k_map else 0, atol=1e-6)


# --- refusals -------------------------------------------------------------------------------------------------------


class DependsOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if y.sum() > 0:
            y = y * 2
        return y.mean(dim=(2, 3))


class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = DependsOnData()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class TwoImagesOnly(DependsOnData):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(2, -1)


class NumpyConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(np.sign(x.numpy())))


class ThroughNumpy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(NumpyConv(4, 2, 1))


class WithoutTranslation(DependsOnData):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.airy_ai(self.conv(x)).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (DependsOnData, r"DependsOnData cannot be captured .*: test_capture\.py:\d+, .*free of control flow"),
        (Inside, r"Inside cannot be captured .*: in layer \(DependsOnData\), test_capture\.py:\d+, what is done next"),
        (Inside, r"by the tensor itself; or, if layer is a binary layer, say .*register\(DependsOnData, rule\)$"),
        (ThroughNumpy, r"in 0 \(NumpyConv\), .* on tensors alone; or, if 0 is a binary .*register\(NumpyConv, rule\)$"),
        (TwoImagesOnly, r"TwoImagesOnly cannot be captured .*: .*must take any number of images"),
        (WithoutTranslation, r"translated by torch.onnx: ONNX has no special_airy_ai, test_capture\.py:\d+; write"),
    ],
    ids=["control flow", "in a layer", "a rule for it", "a rule for numpy's", "fixed batch", "unknown operation"],
)  # fmt: skip
def test_refused(module: type[nn.Module], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        capture(module(), SHAPE)

    assert "\n" not in caught.value.message
    assert capsys.readouterr() == ("", "")  # PyTorch has a program to show, and much advice


def test_a_bn_that_mixes_the_batch_is_refused_by_name() -> None:
    module = nn.Sequential(BinaryConv2d(4, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))

    with pytest.raises(ExportError, match=r"1: BatchNorm2d without running statistics.*track_running_stats=True"):
        capture(module, SHAPE)


def test_a_k_map_is_the_mean_of_the_magnitudes(captured: CapturedModel) -> None:
    node = next(node for node in captured.model.graph if node.name == "k")
    values = captured.values_of(torch.randn(1, *SHAPE))
    x, y = (values[str(value.name)].numpy() for value in (node.inputs[0], node.outputs[0]))

    signs, scale = (constant_array(input_of(node, name)) for name in ("W", "scale"))
    sums = np.einsum("oc,nchw->nohw", signs[:, :, 0, 0], np.where(x >= 0, 1, -1))
    wanted = sums * scale[:, None, None] * np.abs(x).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(y, wanted, rtol=1e-5)  # 8 + 3 roundings of 6e-8, and those of numpy's float32 mean
