"""What torch.onnx makes of the package's layers, and what it refuses."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.errors import ExportError
from bnas_deploy.export import opset
from bnas_deploy.export.capture import INPUT, OUTPUT, CapturedModel, capture, freeze
from bnas_deploy.export.graph import constant_array, input_of, is_binary_conv
from bnas_deploy.search.layers import BinaryConv2d, BinaryLinear, BinaryWeightConv2d, Zeroise

SHAPE = (4, 6, 6)


class Everything(nn.Module):
    """Every kind of layer that capture knows, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(4, 8, 3, stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2, scale="learned")
        self.k = BinaryConv2d(8, 8, 1, k_map=True, centre_weights=True, clamp_weights=True)
        self.zero = Zeroise(2)
        self.shared = BinaryConv2d(8, 8, 1, scale="none")
        self.again = self.shared
        self.real = BinaryConv2d(8, 8, 1, real_weights=True)
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
    layers = [(node.op_type, node.name) for node in captured.model.graph if node.domain == opset.DOMAIN]

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


def test_a_binary_convolution_has_its_signs_and_its_scale_from_pytorch(
    captured: CapturedModel, everything: Everything
) -> None:
    for node in captured.model.graph:
        if not is_binary_conv(node):
            continue
        layer = everything.get_submodule(str(node.name).partition("#")[0])
        signs, scale = layer.binary_weight()
        assert (constant_array(input_of(node, "W")) == signs.detach().numpy()).all()
        assert (constant_array(input_of(node, "scale")) == scale.detach().numpy()).all()


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


class TwoImagesOnly(DependsOnData):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(2, -1)


class WithoutTranslation(DependsOnData):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.airy_ai(self.conv(x)).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (DependsOnData, r"DependsOnData cannot be captured by torch.export: .*free of control flow that depends on"),
        (TwoImagesOnly, r"TwoImagesOnly cannot be captured by torch.export: .*must take any number of images"),
        (WithoutTranslation, r"WithoutTranslation cannot be translated by torch.onnx: .*airy_ai.*with other"),
    ],
    ids=["control flow", "fixed batch", "unknown operation"],
)  # fmt: skip
def test_refused(module: type[nn.Module], message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        capture(module(), SHAPE)

    assert "\n" not in caught.value.message


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
