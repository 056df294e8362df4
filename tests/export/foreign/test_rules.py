"""Layers with a registered rule: the rule is exported, the layer judges it, and a rule that is wrong is a sentence."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export import BinaryLayer, Description, Images, export_module, register
from bnas_deploy.export.foreign.rules import registered
from bnas_deploy.export.foreign.translate import Translator
from bnas_deploy.export.module_checks import prepared


class StoredSigns(nn.Conv2d):
    """BinaryNet's: in forward the signs are stored in the place of the weights, and the float ones beside them."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self.weight, "real"):
            self.weight.real = self.weight.data.clone()  # type: ignore[attr-defined] # as people do
        self.weight.data = self.weight.real.sign()  # type: ignore[attr-defined] # as above
        return F.conv2d(x.sign(), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class StoredInput(StoredSigns):
    """And the signs of what is read in its place."""

    def forward(self, x: Tensor) -> Tensor:
        x.data = x.data.sign()
        return super().forward(x)


class Packed(nn.Linear):
    """Signs that numpy multiplies, which nothing can trace: of 0 and 1."""

    def forward(self, x: Tensor) -> Tensor:
        bits = (x.detach().numpy() > 0.25).astype("float32")
        return torch.from_numpy(bits @ self.weight.sign().detach().numpy().T * 0.5) + self.bias


def _rule(layer: nn.Conv2d) -> BinaryLayer:
    sizes = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    return BinaryLayer(layer.weight, scale=1.0, bias=layer.bias, **sizes)  # type: ignore[arg-type]  # as Conv2d has them


def _packed_rule(layer: nn.Linear) -> BinaryLayer:
    return BinaryLayer(layer.weight, scale=0.5, bias=layer.bias, threshold=0.25000003, low=0.0)


@pytest.fixture
def images(networks: ModuleType) -> Tensor:
    return torch.randn(5, *networks.IMAGE, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, layer: nn.Module, head: nn.Module, *, residual: bool = False) -> None:
        super().__init__()
        self.stem, self.layer, self.norm, self.residual = nn.Conv2d(3, 8, 3), layer, nn.BatchNorm2d(8), residual
        self.dense, self.head = head, nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.layer(x)
        y = self.norm(y + x if self.residual else y)
        return self.head(self.dense(y.mean((2, 3))))


def _export(module: nn.Module, images: Tensor, path: Path) -> Any:
    description = Description({"name": "theirs"}, tuple("abcde"), Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3), {})
    twin = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    return export_module(module, twin, path, Images(images), description)


def test_registered_layers_are_exported(networks: ModuleType, images: Tensor, tmp_path: Path) -> None:
    network = networks.settled(Net(StoredInput(8, 8, 3, padding=1, groups=2), Packed(8, 12)))

    with register(StoredSigns, _rule), register(Packed, _packed_rule):
        result = _export(network, images, tmp_path / "bundle")

    assert [(layer.name, layer.activations, layer.scale) for layer in result.layers] == [
        ("layer", "-1 and +1", "1, from the rule"),
        ("dense", "0 and 1", "0.5, from the rule"),
    ]
    assert sum(layer.weight_bits == 1 for layer in result.bundle.manifest.layers) == 2
    assert result.verification.outputs[0].difference < 1e-4


def test_a_rule_ends_with_its_block() -> None:
    layer = StoredInput(8, 8, 3)
    with register(StoredSigns, _rule):
        assert registered(nn.Sequential(layer)) == {"0": layer}
        with register(StoredSigns, _packed_rule):
            pass
        assert registered(nn.Sequential(nn.Sequential(layer))) == {"0.0": layer}
        assert registered(layer) == {"": layer}
    assert registered(nn.Sequential(layer)) == {}


def test_only_classes_of_modules_have_rules() -> None:
    with pytest.raises(ExportError, match=r"register: .* is no class of torch.nn.Module; give the class of the layer"):
        register(StoredSigns(3, 3, 1), _rule)  # type: ignore[type-var] # which is the point


def test_a_rule_is_a_function() -> None:
    with pytest.raises(ExportError, match="register: the rule of StoredSigns is NoneType, wanted a function of the la"):
        register(StoredSigns, None)  # type: ignore[arg-type] # which is the point
    assert registered(StoredSigns(3, 3, 1)) == {}


def _ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def _with(**fields: Any) -> Callable[[nn.Conv2d], BinaryLayer]:
    return lambda layer: BinaryLayer(layer.weight, **fields)


WRONG: dict[str, tuple[Callable[[nn.Conv2d], object], str]] = {
    "raises": (lambda layer: 1 / 0, r"layer \(StoredSigns\): its rule raises ZeroDivisionError: division by zero"),
    "leaves": (lambda layer: sys.exit(3), r"layer \(StoredSigns\): its rule raises SystemExit: 3"),
    "sparse": (lambda layer: BinaryLayer(layer.weight.to_sparse()), "torch.float32, torch.sparse_coo, wanted"),
    "meta": (lambda layer: BinaryLayer(layer.weight.to("meta")), "gives weights without values, wanted real"),
    "complex": (lambda layer: BinaryLayer(layer.weight + 1j), "torch.complex64, torch.strided, wanted"),
    "nothing": (lambda layer: None, "its rule returns NoneType, wanted a bnas_deploy.export.BinaryLayer"),
    "shape": (lambda layer: BinaryLayer(_ones(8, 72)[None]), r"weights \(1, 8, 72\), wanted \(O, C/groups, KH, KW\)"),
    "no tensor": (lambda layer: BinaryLayer([1.0]), "gives weights list, wanted"),  # type: ignore[arg-type]
    "groups": (_with(groups=3), "gives 3 groups, which do not divide 8 output channels"),
    "scale of truth": (_with(scale=True), "gives scale=True, wanted one number for each of 8 output channels, or one"),
    "complex bias": (_with(bias=_ones(8) + 1j), "gives bias=tensor.*, wanted one number for each of 8 output channels"),
    "low of truth": (_with(low=False), "gives low=False, wanted a finite number"),
    "scale": (_with(scale=_ones(7)), r"a scale of \(7,\), wanted one number for each of 8"),
    "bias": (_with(bias=_ones(2)), r"a bias of \(2,\), wanted one number for each of 8 out"),
    "threshold": (_with(threshold=_ones(3)), r"threshold of \(3,\), .* of 8 input channels"),
    "stride": (_with(stride=0), "gives stride=0, wanted a whole number of at least 1, or two"),
    "levels": (_with(low=1.0), "gives activations of 1 and 1, wanted low < high"),
    "no low": (_with(low=None), "its rule gives low=None, wanted a finite number"),
    "infinite": (_with(high=float("inf")), "its rule gives high=inf, wanted a finite number"),
    "no stride": (_with(stride=None), "its rule gives stride=None, wanted a whole number of at least 1, or two"),
    "padding by name": (_with(padding="same"), "its rule gives padding='same', wanted a whole number of at least 0"),
    "half a group": (_with(groups=1.0), "its rule gives groups=1.0, wanted a whole number of at least 1"),
    "no group": (_with(groups=0), "its rule gives groups=0, wanted a whole number of at least 1"),
    "a scale of text": (_with(scale="a"), "its rule gives scale='a', wanted one number for each of 8 output channels"),
    "NaN": (_with(scale=torch.nan), "gives a scale with values that are NaN or infinite"),
    "padding": (
        _with(low=-2.0, padding=1),
        "layer: its rule gives a layer that no operator can be: its padding of 0 is neither -2 nor 1 nor half the way",
    ),
    "channels": (
        lambda layer: BinaryLayer(layer.weight[:, :4], scale=1.0, bias=layer.bias, padding=1),
        r"layer \(StoredSigns\): its rule gives weights \(8, 4, 3, 3\), which read \(N, 4, H, W\), and the layer reads "
        r"\(4, 8, 14, 14\); give weights",
    ),
    "geometry": (
        lambda layer: BinaryLayer(layer.weight, scale=1.0, bias=layer.bias),
        r"layer \(StoredSigns\): answers \(4, 8, 14, 14\) in the module and \(4, 8, 12, 12\) in its translation, by "
        r"its stride, padding, dilation and groups; look at its rule$",
    ),
    "another scale": (
        lambda layer: BinaryLayer(layer.weight, scale=1.01, bias=layer.bias, padding=1),
        r"nothing was written, .*: layer \(StoredSigns\): the result of image 0, channel 0, row 0, column 0 is .*; "
        r"look at its rule$",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_rule(
    rule: Callable[[nn.Conv2d], BinaryLayer], message: str, networks: ModuleType, images: Tensor
) -> None:
    network = networks.settled(Net(StoredSigns(8, 8, 3, padding=1), nn.Linear(8, 12)))
    with register(StoredSigns, rule), pytest.raises(ExportError, match=message):
        Translator(prepared(network, "Net"), images)


def test_numbers_of_numpy(networks: ModuleType, images: Tensor) -> None:
    def rule(layer: nn.Conv2d) -> BinaryLayer:
        one: Any = np.int64(1)
        sizes = {"padding": one, "stride": [one, one], "dilation": (one, 1), "groups": one}
        levels: Any = {"low": np.float32(-1), "high": torch.tensor(1), "threshold": np.zeros(8)}
        return BinaryLayer(layer.weight, scale=np.ones(8), bias=layer.bias, **sizes, **levels)  # type: ignore[arg-type]  # which is the point

    network = networks.settled(Net(StoredSigns(8, 8, 3, padding=1), nn.Linear(8, 12)))
    with register(StoredSigns, rule):
        assert Translator(prepared(network, "Net"), images).layers[0].activations == "-1 and +1"


def test_zeros_in_front_are_a_hint(networks: ModuleType, images: Tensor) -> None:
    network = networks.settled(Net(StoredSigns(8, 8, 3, padding=1), nn.Linear(8, 12)))
    network.stem = nn.Sequential(network.stem, nn.ReLU())  # type: ignore[assignment] # another layer
    hint = r"look at its rule; [\d,]+ of 6,272 values in front are exactly 0: is sign\(0\) 0 in it\?"
    with register(StoredSigns, _rule), pytest.raises(ExportError, match=hint):
        Translator(prepared(network, "Net"), images)


def test_a_layer_that_writes_into_what_others_read(networks: ModuleType, images: Tensor) -> None:
    network = networks.settled(Net(StoredInput(8, 8, 3, padding=1), nn.Linear(8, 12), residual=True))
    message = r"the answers differ though every layer agrees with its rule; .*\(input.data = ...\): let it make a new"
    with register(StoredSigns, _rule), pytest.raises(ExportError, match=message):
        Translator(prepared(network, "Net"), images)


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Calls(nn.Module):
    def __init__(self, layer: nn.Module, count: int) -> None:
        super().__init__()
        self.layer, self.count = layer, count

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(*(x,) * self.count)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("layer", "count", "message"),
    [
        (TwoInputs(), 2, r"layer \(TwoInputs\): reads 2 inputs, and a layer with a rule reads one tensor"),
        (Pair(), 1, "layer: answers tuple, and a layer with a rule answers one tensor"),
    ],
)
def test_layers_that_are_no_convolutions(layer: nn.Module, count: int, message: str, images: Tensor) -> None:
    with (
        register(type(layer), lambda layer: BinaryLayer(_ones(3, 3, 1, 1))),
        pytest.raises(ExportError, match=message),
    ):
        Translator(Calls(layer, count), images)
