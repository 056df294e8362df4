"""Schemes by name, and a scheme of a user's own from a layer to an operator."""

import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.core.errors import BnasError, ExportError
from bnas_deploy.export import opset
from bnas_deploy.export.capture import capture
from bnas_deploy.export.graph import constant_array, input_of, is_binary_conv
from bnas_deploy.export.passes import PIPELINE
from bnas_deploy.export.passes.write_bits import WriteBits
from bnas_deploy.export.rewrite import run
from bnas_deploy.search.models.bnas.config import published_config
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.nn.estimators import sign_activation, sign_weight
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryLinear, BinaryWeightConv2d
from bnas_deploy.search.nn.scheme import Binarised, Exported, FloatWeights, Learned, Scheme
from bnas_deploy.search.nn.schemes import check_scheme, named_scheme, scheme_names


@dataclass(frozen=True)
class Shifted(Scheme):
    """sign(x - a) with a learned per input channel, and a learned scale of either sign."""

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        return {"level": weight.new_zeros(channels_in), "gain": weight.new_ones(len(weight))}

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        return sign_activation(x - learned["level"][:, None, None])

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        return Binarised(sign_weight(weight), learned["gain"])

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        # Gradual underflow: x - a is 0 only where x is a, so that x - a >= 0 says the same as x >= a.
        return replace(super().exported(weight, learned, channels_in), threshold=learned["level"].detach().float())


class Network(nn.Module):
    """The scheme behind a BN of either slope, behind a convolution, in a dense layer, and with float weights."""

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(5)
        self.conv = BinaryConv2d(5, 6, 3, stride=2, padding=1, scheme=scheme)
        self.next = BinaryConv2d(6, 4, 1, bias=True, scheme=scheme)
        self.kept = BinaryConv2d(4, 7, 2, scheme=FloatWeights(of=scheme))
        self.head = BinaryLinear(7, 3, scheme=scheme)
        with torch.no_grad():
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias)
            for layer in (self.conv, self.next, self.kept, self.head.conv):
                for parameter in layer.learned.values():
                    nn.init.normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        y = self.kept(self.next(self.conv(self.norm(x))))
        return self.head(y.amax(dim=(2, 3)))


NAMES = ("binarynet", "bi-real", "ir-net", "pcnn", "reactnet", "xnor-net", "xnor-net-plus")
"""Schemes of signs that any layer can have, dense ones too; `test_every_scheme` takes all there are."""

SCHEMES = [*map(named_scheme, NAMES), Shifted()]


@pytest.mark.parametrize("scheme", SCHEMES, ids=[*NAMES, "of a user's own"])
def test_every_scheme_is_exported_exactly(scheme: Scheme) -> None:
    torch.manual_seed(1)
    module = Network(scheme).eval()
    images = torch.randn(2, 5, 9, 8)
    images[0, 0, 0] = 0.0
    captured = capture(module, images.shape[1:])
    values = captured.values_of(images)
    with torch.no_grad():
        assert torch.equal(values["logits"], module(images))
    # PyTorch has no values of bits.
    run([step for step in PIPELINE if not isinstance(step, WriteBits)], captured.model)
    first, second = (node for node in captured.model.graph if node.name in {"conv", "next"})
    for node, layer in ((first, module.conv), (second, module.next)):
        assert is_binary_conv(node)
        x = images.numpy() if layer is module.conv else values[str(input_of(node, "X").name)].numpy()
        constants = [constant_array(value) for value in node.inputs[1:] if value is not None]
        got = opset.reference(node.op_type, [x, *constants], _attributes(node))
        # Integers, one product, one sum: the same roundings as PyTorch's.
        np.testing.assert_array_equal(got, values[str(node.outputs[0].name)].numpy())
        levels = layer.learned.get("level", torch.zeros(1)).detach().numpy()
        assert constant_array(input_of(node, "threshold")).any() == (layer is module.conv or levels.any())


def _attributes(node: ir.Node) -> dict[str, list[int]]:
    return {name: [*node.attributes.get_ints(name)] for name in ("weight_shape", "strides", "pads", "dilations")}


@pytest.mark.parametrize("scheme", SCHEMES, ids=[*NAMES, "of a user's own"])
def test_every_scheme_learns(scheme: Scheme) -> None:
    """Steps of Adam bring the loss down, and move all that the scheme says is learned."""
    torch.manual_seed(2)
    module = Network(scheme)
    images, labels = torch.randn(24, 5, 9, 8), torch.arange(24) % 3
    images[torch.arange(24), labels] += 2.0  # a bright channel tells the class
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(module(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    moved = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
    # Float weights have no scale, though the scheme that gives their activations may have one.
    assert before.keys() - moved <= {"kept.learned_scale", "kept.gain"}


def test_a_scheme_is_changed_without_a_loss_of_what_it_learned() -> None:
    layer = BinaryConv2d(5, 6, 3, scheme=Shifted())
    with torch.no_grad():
        nn.init.normal_(layer.level)
    level = layer.level
    layer.set_scheme(FloatWeights(of=Shifted()))
    layer.set_scheme(Shifted())
    assert layer.level is level
    layer.set_scheme(named_scheme("xnor-net"))
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert layer.learned == {}


def test_only_the_weights_of_a_scheme() -> None:
    layer = BinaryWeightConv2d(3, 4, 1, bias=False, scheme=named_scheme("xnor-net-plus"))
    with torch.no_grad():
        layer.learned["learned_scale"].copy_(torch.tensor([0.5, 2.0, -1.0, 3.0]))
    x = torch.randn(1, 3, 2, 2)
    want = nn.functional.conv2d(x, torch.where(layer.weight >= 0, 1.0, -1.0) * layer.learned_scale[:, None, None, None])
    assert torch.equal(layer(x), want)


FITTING: dict[str, Any] = {"weight": torch.ones(4, 3, 1, 1), "scale": torch.ones(4), "threshold": torch.ones(6)}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"scale": torch.ones(3)}, r"a scale of \(3,\) for weights of \(4, 3, 1, 1\): wanted one number per output"),
        ({"threshold": torch.ones(4)}, r"a threshold of \(4,\) .*wanted one number per input channel"),
        ({"threshold": torch.ones(6, 1)}, r"a threshold of \(6, 1\) .*wanted one number per input channel"),
        ({"sign_of_zero": True}, "sign_of_zero with a threshold other than 0"),
        ({"pad_value": 2}, "pad_value=2: a padded tap holds a sign, wanted -1, 0 or 1"),
        ({"offset": torch.ones(6)}, r"an offset of \(6,\) .*wanted one number per output channel"),
        ({"offset": torch.full((4,), 0.5)}, "an offset that is not of integers: wanted some, since sums"),
    ],
)
def test_what_fits_no_operator(other: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Exported(**{**FITTING, **other})
    assert Exported(**FITTING).threshold.shape == (6,)


@dataclass(frozen=True)
class OfOneGroup(Scheme):
    """Thresholds of the channels of one group: a depthwise layer would apply a single one to all of them."""

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        return replace(super().exported(weight, learned, channels_in), threshold=torch.full((weight.shape[1],), 0.5))


@dataclass(frozen=True)
class Ternary(Scheme):
    """Weights that a bit cannot hold, from a scheme that says it can."""

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        exported = super().exported(weight, learned, channels_in)
        return replace(exported, weight=exported.weight * (weight.abs() > weight.abs().median()))


@pytest.mark.parametrize(
    ("scheme", "groups", "message"),
    [
        (OfOneGroup(), 6, r"OfOneGroup.*: 1 thresholds, wanted one for each of 6 input channels"),
        (OfOneGroup(), 2, r"OfOneGroup.*: 3 thresholds, wanted one for each of 6 input channels"),
        (Ternary(), 1, r"Ternary.*: exported weights other than \+1 and -1, and its weight_bits are 1"),
    ],
)
def test_what_does_not_fit_the_layer(scheme: Scheme, groups: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinaryConv2d(6, 6, 3, groups=groups, scheme=scheme).exported()


@dataclass(frozen=True)
class ZeroOne(Scheme):
    """Activations of 0 and 1: 1 where x >= 0."""

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        return (sign_activation(x) + 1) / 2

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        exported = super().exported(weight, learned, channels_in)
        offset = exported.weight.sum(dim=(1, 2, 3))
        return replace(exported, scale=exported.scale / 2, pad_value=-1, offset=offset)


@pytest.mark.parametrize(
    ("scheme", "pad_value", "message"),
    [
        (ZeroOne(), 1, r"pad_value=1 with ZeroOne.*, whose zeros .* exported as the sign -1: wanted pad_value=0"),
        (ZeroOne(k_map=True), 0, r"ZeroOne.*: signs of -1 at the padding and a K map, which is 0 there: wanted one"),
    ],
)
def test_paddings_that_no_operator_has(scheme: Scheme, pad_value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinaryConv2d(6, 6, 3, padding=1, scheme=scheme, pad_value=pad_value).exported()
    assert BinaryConv2d(6, 6, 3, scheme=scheme, pad_value=pad_value).exported().pad_value == 0


def test_the_layer_says_what_is_at_the_padding() -> None:
    assert BinaryConv2d(6, 6, 3, padding=1, pad_value=1).exported().pad_value == 1
    assert BinaryConv2d(6, 6, 3, padding=1, scheme=ZeroOne()).exported().pad_value == -1


def test_float_weights_take_signs_only() -> None:
    with pytest.raises(ExportError, match=r"ZeroOne.*: float weights of activations that are not \+1 and -1 cannot be"):
        BinaryConv2d(6, 6, 3, scheme=FloatWeights(of=ZeroOne())).exported()


def test_an_unknown_name() -> None:
    with pytest.raises(BnasError) as error:
        check_scheme("xnornet", "net.ckpt")
    assert error.value.message == (
        f"net.ckpt: unknown scheme 'xnornet'; the schemes are {', '.join(scheme_names())}; did you mean xnor-net?"
    )


def test_names_are_listed_without_pytorch() -> None:
    code = (
        "from bnas_deploy.search.nn import schemes; import sys; print(schemes.scheme_names(), 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == f"{scheme_names()} False\n"
    assert {"binarynet", "xnor-net", "xnor-net-plus"} <= set(scheme_names())


@pytest.mark.parametrize("name", [name for name in scheme_names() if name != "cbcn"])  # which has 3x3 kernels only
def test_a_network_has_the_scheme_that_its_configuration_names(name: str) -> None:
    with torch.device("meta"):
        network = build_network(published_config("BNAS-Mini", scheme=name))
        alone = named_scheme(name).convolution(Geometry.of(12, 12, 3))
    schemes = {layer.scheme for layer in network.modules() if isinstance(layer, BinaryConv2d)}
    assert schemes == {layer.scheme for layer in alone.modules() if isinstance(layer, BinaryConv2d)}


def test_the_official_code_is_about_one_scheme() -> None:
    with pytest.raises(BnasError, match="BNAS-A: scheme binarynet with sign-of-zero, which is about xnor-net; leave"):
        published_config("BNAS-A", scheme="binarynet", deviations=("sign-of-zero",))
