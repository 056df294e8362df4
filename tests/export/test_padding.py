"""Signs at the padding, and activations of 0 and 1, from a layer to a bundle: exact, and with no Pad in the file."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.core.bundle import MODEL, Preprocessing
from bnas_deploy.core.operators import DOMAIN, operator
from bnas_deploy.export import Description, ExportResult, Images, export_module
from bnas_deploy.export.workloads import network_workloads
from bnas_deploy.search.nn.estimators import sign_activation
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import Exported, Learned, Scheme
from bnas_deploy.search.nn.schemes.xnor_net import XnorNet


@dataclass(frozen=True)
class ZeroOne(XnorNet):
    """XNOR-Net's weights with activations of 0 and 1: 1 where x >= level."""

    level: float = 0.25

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        return (sign_activation(x - self.level) + 1) / 2

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        exported = super().exported(weight, learned, channels_in)
        return replace(
            exported,
            threshold=torch.full((channels_in,), self.level),
            scale=exported.scale / 2,
            pad_value=-1,
            offset=exported.weight.sum(dim=(1, 2, 3)),
        )


class Network(nn.Module):
    """Strides, groups, an even kernel, one that reaches past the image, and BNs of both slopes in front of signs."""

    def __init__(self, scheme: Scheme, pad_value: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(12) for _ in range(4))
        layers = (
            {"kernel_size": 3, "stride": 2, "padding": 1},
            {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 3},
            {"kernel_size": (2, 4), "padding": "same"},
            {"kernel_size": 5, "padding": 4, "stride": 3},
        )
        self.layers = nn.ModuleList(
            BinaryConv2d(12, 12, **layer, scheme=scheme, pad_value=pad_value) for layer in layers
        )
        self.head = nn.Linear(12, 3)
        for norm in self.norms:
            for value in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(value)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.relu(layer(norm(x)))
        answer: Tensor = self.head(x.mean(dim=(2, 3)))
        return answer


def _export(module: nn.Module, folder: Path) -> ExportResult:
    twin = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    description = Description({"name": "padded"}, tuple("abc"), Preprocessing(9, 8, (0.0,) * 3, (1.0,) * 3), {})
    return export_module(module, twin, folder / "bundle", Images(torch.randn(4, 3, 9, 8)), description)


CASES = {"plus": (XnorNet(), 1), "minus": (XnorNet(), -1), "0 and 1": (ZeroOne(), 0)}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("case", CASES)
def test_every_layer_is_exact_and_pads_by_itself(case: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    result = _export(Network(*CASES[case]).eval(), tmp_path)

    assert not result.verification.failures
    found = result.verification.pieces
    assert found is not None
    binary = [piece for piece in found.pieces if piece.binary]
    assert len(binary) == 4
    assert all(piece.passed and piece.difference == 0 for piece in binary)
    model = onnx.load(tmp_path / "bundle" / MODEL)
    kinds = Counter(node.op_type for node in model.graph.node)
    binary_kinds = {node.op_type: operator(node.op_type) for node in model.graph.node if node.domain == DOMAIN}
    assert sum(kinds[kind] for kind in binary_kinds) == 4
    assert all(row.pads_signs and (row.to_bits or row.activation == "Relu") for row in binary_kinds.values())
    assert not {"Pad", "BatchNormalization", "Relu"} & set(kinds)
    assert {(function.domain, function.name) for function in model.functions} == {
        (DOMAIN, kind) for kind in binary_kinds
    }
    pads = {array.name: onnx.numpy_helper.to_array(array) for array in model.graph.initializer}
    for node in model.graph.node:
        if node.domain == DOMAIN:  # the slopes of the BN in front have both signs
            place = binary_kinds[node.op_type].inputs.index("pad")
            assert set(pads[node.input[place]].tolist()) == {-1.0, 1.0}


def test_without_padding_the_plain_operators_are_used(tmp_path: Path) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), BinaryConv2d(4, 3, 3, pad_value=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    _export(module.eval(), tmp_path)
    model = onnx.load(tmp_path / "bundle" / MODEL)
    assert [node.op_type for node in model.graph.node if node.domain == DOMAIN] == ["BinaryConv2d"]


def test_what_the_padding_holds_is_no_workload_of_its_own() -> None:
    torch.manual_seed(0)
    networks = [Network(XnorNet(), pad_value).eval() for pad_value in (0, 1)]
    zeros, plus = (network_workloads(network, (3, 9, 8)) for network in networks)
    assert zeros == plus


def test_half_a_scale_is_exact() -> None:
    """(conv(S, W, padded with -1) + sum W) scale / 2 is conv(A, W) scale, to the bit, for A of 0 and 1."""
    torch.manual_seed(1)
    layer = BinaryConv2d(7, 5, 3, padding=1, scheme=ZeroOne()).eval()
    x = torch.randn(2, 7, 6, 5)
    exported = layer.exported()
    assert exported.offset is not None
    with torch.no_grad():
        signs = nn.functional.pad(torch.where(x >= 0.25, 1.0, -1.0), (1, 1, 1, 1), value=-1.0)
        sums = nn.functional.conv2d(signs, exported.weight) + exported.offset[:, None, None]
        np.testing.assert_array_equal((sums * exported.scale[:, None, None]).numpy(), layer(x).numpy())
