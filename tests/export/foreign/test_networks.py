"""Networks as their authors write them are recognised, translated and judged; others are left float, or named."""

import operator
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export import Description, Images, export_module
from bnas_deploy.export.capture import _Recorder
from bnas_deploy.report.verification import describe_export

Translate = Callable[[nn.Module, Tensor], tuple[Any, Callable[[Tensor], Tensor]]]

SIGN = "-1 and +1 (0 at 0, which none of "
RECOGNISED = {
    "react_net": [("1.conv", SIGN, "0"), ("2.conv", SIGN, "0")],
    "quick_net": [("1.conv", "-1 and +1", "+1"), ("3.conv", "-1 and +1", "+1")],
    "bi_real_net": [("1.conv", SIGN, "0"), ("2.conv", SIGN, "0")],
    "ir_net": [("1.conv", SIGN, "0"), ("2.conv", SIGN, "0")],
    "do_re_fa": [("2", "0 and 1", "0"), ("4", "0 and 1", "none")],
    "after_relu": [("2", "0 and 1", "0"), ("6", "0 and 1", "none")],
    "le_net": [("2", SIGN, "none"), ("7", SIGN, "none"), ("9", SIGN, "none")],
    "Shared": [("conv", SIGN, "0"), ("conv#2", SIGN, "0")],
}
"""By network: layer, how the text of its activations begins, padding."""


def _images(networks: ModuleType, count: int = 5) -> Tensor:
    return torch.randn(count, *networks.IMAGE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", RECOGNISED)
def test_idioms_of_the_field(name: str, networks: ModuleType, translate: Translate) -> None:
    module, images = networks.settled(getattr(networks, name)()), _images(networks)

    translator, translated = translate(module, images)

    found = [(layer.name, layer.activations, layer.padding) for layer in translator.layers]
    assert [(layer, padding) for layer, _, padding in found] == [
        (layer, padding) for layer, _, padding in RECOGNISED[name]
    ]
    assert all(text.startswith(want) for (_, text, _), (_, want, _) in zip(found, RECOGNISED[name], strict=True))
    with torch.no_grad():
        want = module(images)
        # Each layer agrees within rounding, which the judge checked. No sign falls over here; one moves logits by more.
        assert (translated(images) - want).abs().max() < 1e-4 * want.abs().max()


class Ties(nn.Module):
    """torch.sign of whole numbers, among them 0, behind a pool of integers."""

    def __init__(self, networks: ModuleType) -> None:
        super().__init__()
        self.first, self.second = networks.SignConv(3, 8, 3, bias=False), networks.SignConv(8, 8, 3, padding=1)
        self.head = nn.Linear(8, networks.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(F.avg_pool2d(self.first(x), 2)).mean((2, 3)))


def test_zeros_in_front_of_a_sign_are_counted_and_stay_zeros(networks: ModuleType, translate: Translate) -> None:
    module, images = networks.settled(Ties(networks)), _images(networks)
    with torch.no_grad():
        zeros = int((F.avg_pool2d(module.first(images), 2) == 0).sum())

    translator, translated = translate(module, images)

    assert zeros > 0
    first, second = translator.layers
    no_bias = "-1 and +1, 0 at 0 (no BN or bias moves values off it: a sum of 2 packed convolutions)"
    assert first.activations == no_bias
    assert second.activations == f"-1 and +1, 0 at 0 ({zeros} of 1,960 values: a sum of 2 packed convolutions)"
    with torch.no_grad():
        assert (translated(images) - module(images)).abs().max() < 1e-5


def test_zeros_that_the_images_lack_stay_zeros(networks: ModuleType, translate: Translate) -> None:
    module, images = networks.settled(Ties(networks)), _images(networks)
    black_square = images.clone()
    black_square[:, :, 2:12, 3:13] = 0

    _, translated = translate(module, images)

    with torch.no_grad():
        want = module(black_square)
        assert (translated(black_square) - want).abs().max() < 1e-5
        assert (module(black_square + 1e-6) - want).abs().max() > 1e-2  # a sign of +1 for 0 would be seen


class InFront(nn.Module):
    """torch.sign of what a function makes of a stem without bias and of its BN."""

    def __init__(self, networks: ModuleType, function: Callable[[Tensor, Tensor, nn.Parameter], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.stem, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.shift = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.conv, self.head = networks.SignConv(8, 8, 3), nn.Linear(8, networks.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        plain = self.stem(x)
        made = self.function(plain, self.norm(plain), self.shift)
        both = made if made.shape[1] == 8 else torch.cat([made, made], 1)
        return self.head(self.conv(both).mean((2, 3)))


IN_FRONT: dict[str, tuple[Callable[[Tensor, Tensor, nn.Parameter], Tensor], bool]] = {
    "BN": (lambda plain, norm, shift: norm, False),
    "convolution without bias": (lambda plain, norm, shift: plain, True),
    "learned shift": (lambda plain, norm, shift: plain + shift, False),
    "the same repeated": (lambda plain, norm, shift: plain + shift.repeat(plain.size(0), 1, *plain.shape[2:]), True),
    "the same expanded": (lambda plain, norm, shift: plain + shift.expand_as(plain), False),
    "number": (lambda plain, norm, shift: 0.125 - plain, False),
    "shortcut past a BN": (lambda plain, norm, shift: plain + norm, False),
    "a half of it BN": (lambda plain, norm, shift: torch.cat([plain, norm], 1), True),
    "all of it BN": (lambda plain, norm, shift: torch.cat([-norm, norm], 1), False),
    "product with what may be 0": (lambda plain, norm, shift: plain * norm, True),
    "product with a constant": (lambda plain, norm, shift: norm * shift, False),
    "ReLU of BN, moved": (lambda plain, norm, shift: torch.relu(norm) - torch.relu(plain), True),
    "difference of ReLUs": (lambda plain, norm, shift: torch.add(torch.relu(norm), torch.relu(plain), alpha=-1), True),
    "clipped": (lambda plain, norm, shift: norm.clamp(-1, 1), True),
    "Hardtanh": (lambda plain, norm, shift: F.hardtanh(norm), False),
    "its own mean taken away": (lambda plain, norm, shift: norm - norm.mean((2, 3), keepdim=True), True),
    "normalised by itself": (lambda plain, norm, shift: F.instance_norm(norm), True),
    "a mask that may close": (lambda plain, norm, shift: norm * (norm.mean((2, 3), keepdim=True) > -5), True),
}
"""What is in front of a sign, and whether a 0 may come that the images lack."""


@pytest.mark.parametrize("name", IN_FRONT)
def test_a_sign_is_exact_for_zeros_unless_something_moves_values_off_zero(
    name: str, networks: ModuleType, translate: Translate
) -> None:
    function, may_be_zero = IN_FRONT[name]
    module, images = networks.settled(InFront(networks, function)), _images(networks)

    translator, translated = translate(module, images)

    (layer,) = translator.layers
    assert ("a sum of 2" in layer.activations) == may_be_zero, layer.activations
    black = torch.zeros_like(images)
    with torch.no_grad():
        assert (translated(black) - module(black)).abs().max() < 1e-5


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("mover", ["BN", "bias", "shift"])
def test_a_shift_of_zero_keeps_no_value_off_zero(
    mover: str, channels: int, networks: ModuleType, translate: Translate
) -> None:
    """As in a network that is new, or whose trainer begins with biases of 0; the images here show no 0."""
    function = {"BN": lambda plain, norm, shift: norm, "bias": lambda plain, norm, shift: plain}.get(
        mover, lambda plain, norm, shift: plain + shift
    )
    module = InFront(networks, function)
    if mover == "bias":
        module.stem = nn.Conv2d(3, 4, 3)
    module, images = networks.settled(module), _images(networks)
    _, moved = translate(module, images)
    moving = {"BN": (module.norm.bias, module.norm.running_mean), "bias": (module.stem.bias,), "shift": (module.shift,)}
    with torch.no_grad():
        for each in moving[mover]:
            each.view(-1)[:channels] = 0

    translator, translated = translate(module, images)

    assert "a sum of 2" in translator.layers[0].activations
    with torch.no_grad():
        black = torch.zeros_like(images)
        assert (translated(black) - module(black)).abs().max() < 1e-5
        assert (moved(black) - module(black)).abs().max() > 1e-2  # a sign of +1 for 0 would be seen


class BinaryOutputs(nn.Module):
    """Binary layers whose results are outputs, beside one that is float."""

    def __init__(self, networks: ModuleType) -> None:
        super().__init__()
        self.stem, self.image = nn.Conv2d(3, 8, 3), networks.SignConv(8, 4, 3, padding=1)
        self.vector = networks.SignLinear(8, networks.CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.stem(x)
        mean = y.mean((2, 3))
        return self.image(y), self.vector(mean), mean


@pytest.mark.parametrize("sum_of_two", [False, True])
def test_binary_layers_may_be_outputs(sum_of_two: bool, networks: ModuleType, tmp_path: Path) -> None:
    module, images = networks.settled(BinaryOutputs(networks)), _images(networks)
    if sum_of_two:  # of what may be 0
        module.stem.bias = None
    description = Description({"name": "outputs"}, None, Preprocessing(16, 16, (0.0,) * 3, (1.0,) * 3), {})

    result = export_module(module, None, tmp_path / "bundle", Images(images), description)

    assert [layer.name for layer in result.layers] == ["image", "vector"]
    assert ["a sum of 2" in layer.activations for layer in result.layers] == [sum_of_two] * 2


class Uneven(nn.Conv2d):
    """Pads by itself, more on some sides than on the others."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(torch.where(x >= 0, 1.0, -1.0), self.sides, value=self.value)
        return F.conv2d(x, torch.where(self.weight >= 0, 1.0, -1.0), self.bias)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("sides", [(1, 0, 1, 0), (2, 1, 0, 0), (0, 2, 1, 0), (0, 1, 0, 1)])
def test_padding_may_be_more_on_any_side(
    sides: tuple[int, ...], value: float, networks: ModuleType, tmp_path: Path
) -> None:
    layer = Uneven(8, 8, 2)
    layer.sides, layer.value = sides, value
    head = nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, networks.CLASSES)
    module, images = networks.settled(nn.Sequential(nn.Conv2d(3, 8, 3), layer, *head)), Images(_images(networks))
    description = Description({"name": "uneven"}, None, Preprocessing(16, 16, (0.0,) * 3, (1.0,) * 3), {})

    assert export_module(module, None, tmp_path / "bundle", images, description).twin_difference < 1e-4


def test_a_zero_that_the_programs_rounding_makes_is_no_difference(
    networks: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A convolution of one image may be rounded otherwise than that of four; so the BN behind it may be 0 in one."""
    module, images = networks.settled(InFront(networks, lambda plain, norm, shift: norm)), _images(networks, 4)
    description = Description({"name": "in front"}, None, Preprocessing(16, 16, (0.0,) * 3, (1.0,) * 3), {})
    with torch.no_grad():
        bias, norm = module.norm.bias, lambda: module.norm(module.stem(images))[0, 0, 0, 0].item()
        bias[0] -= norm()
        while norm() <= 0:
            bias[0] = torch.nextafter(bias[0], torch.tensor(1.0))
        assert norm() < 1e-6

    def rounded(recorder: _Recorder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = torch.fx.Interpreter.call_function(recorder, target, args, kwargs)
        if target is operator.getitem:  # the results of a BN
            result[0, 0, 0, 0] = 0
        return result

    monkeypatch.setattr(_Recorder, "call_function", rounded, raising=False)

    result = export_module(module, None, tmp_path / "bundle", Images(images), description)

    assert result.layers[0].activations.startswith(SIGN)


class SignOfSign(nn.Module):
    """A binary activation in front of a layer that takes the sign of what it reads, as many codes have it."""

    def __init__(self, networks: ModuleType, first: nn.Module, *, also_float: bool = False) -> None:
        super().__init__()
        self.stem, self.norm, self.move = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), networks.Shift(8)
        self.first, self.conv, self.also_float = first, networks.SignConv(8, 8, 3), also_float
        self.head = nn.Linear(8, networks.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        signs = self.first(self.move(self.norm(self.stem(x))))
        y = self.conv(signs)
        return self.head((y + signs[:, :, 1:-1, 1:-1] if self.also_float else y).mean((2, 3)))


class StraightThrough(nn.Module):
    """Has no level left at 2^24 and more, where it is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sign(x) - x.detach() + x


class Half(nn.Module):
    """Levels of -0.5 and 0.5, and no 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0.25, 0.5, -0.5)


SIGNS_IN_FRONT: dict[str, tuple[Callable[[ModuleType], nn.Module], str, str]] = {
    "a spline": (lambda networks: networks.PolynomialSign(), "0 of the output of move", "-1 and +1 (0 at 0, which "),
    "straight through": (lambda networks: StraightThrough(), "0 of the output of move", "-1 and +1 (0 at 0, which "),
    "two signs": (lambda networks: nn.Sequential(Half(), Half()), "0.25 of the output of move", "-1 and +1"),
}
"""What is in front of a sign, the threshold of both, and how the text of the activations begins."""


@pytest.mark.parametrize("name", SIGNS_IN_FRONT)
@pytest.mark.parametrize("also_float", [False, True])
def test_a_sign_of_a_sign_is_one_threshold(
    name: str, also_float: bool, networks: ModuleType, translate: Translate
) -> None:
    make, threshold, activations = SIGNS_IN_FRONT[name]
    module, images = networks.settled(SignOfSign(networks, make(networks), also_float=also_float)), _images(networks)

    translator, translated = translate(module, images)

    (layer,) = translator.layers
    assert (layer.threshold.partition(",")[0], layer.activations[: len(activations)]) == (threshold, activations)
    assert "a sum of 2" not in layer.activations
    with torch.no_grad():
        want = module(images)
        assert (translated(images) - want).abs().max() < 1e-4 * want.abs().max()


class WritesWeights(nn.Conv2d):
    """XNOR-Net as it was published: means are taken away from the weights in place, in forward."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.sub_(self.weight.data.mean(1, keepdim=True)).clamp_(-1, 1)
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        return self._conv_forward(torch.sign(x), self.weight.sign() * scale, self.bias)


class MeanCentred(nn.Conv2d):
    """The same without writing: whose weights are signs of what was centred."""

    def forward(self, x: Tensor) -> Tensor:
        centred = (self.weight - self.weight.mean(1, keepdim=True)).clamp(-1, 1)
        return self._conv_forward(
            torch.sign(x), centred.sign() * centred.abs().mean((1, 2, 3), keepdim=True), self.bias
        )


def _between(layer: nn.Module, networks: ModuleType) -> nn.Module:
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, networks.CLASSES))
    return networks.settled(nn.Sequential(nn.Conv2d(3, 8, 3), layer, *pool))


def test_mean_centred_weights(networks: ModuleType, translate: Translate) -> None:
    translator, _ = translate(_between(MeanCentred(8, 8, 3), networks), _images(networks))

    assert [layer.name for layer in translator.layers] == ["1"]


def _export(module: nn.Module, networks: ModuleType, path: Path) -> Any:
    description = Description({"name": "theirs"}, tuple("abcde"), Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3), {})
    twin = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, networks.CLASSES))
    return export_module(module, twin, path, Images(_images(networks)), description)


def test_weights_that_are_written_in_forward(networks: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"1\.weight is written to in forward, .*training mode only"):
        _export(_between(WritesWeights(8, 8, 3), networks), networks, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


class BinaryWeights(nn.Conv2d):
    """BinaryConnect: binary weights and float activations."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(torch.relu(x), torch.sign(self.weight), self.bias)


class FloatWeights(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(torch.sign(x), self.weight, self.bias)


class FromImages(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(torch.sign(x), torch.sign(self.weight * x.mean()), self.bias)


class Up(nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(torch.sign(x), torch.sign(self.weight))


class OddPadding(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(torch.sign(x), (1, 1, 1, 1), value=0.5), torch.sign(self.weight), self.bias)


class PaddedTwice(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(torch.sign(x), (1, 1, 1, 1), value=1.0), torch.sign(self.weight), self.bias, padding=1)


class Window(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(((x > -1) & (x < 1)).float(), torch.sign(self.weight), self.bias)


class PerPlace(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(8, 8, 3)
        self.map = nn.Parameter(torch.zeros(14, 14))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(torch.where(x > self.map, 1.0, -1.0), torch.sign(self.weight), self.bias)


LEFT = {
    "binary weights alone": (lambda: BinaryWeights(8, 8, 3), "input is float: .* of the output of 0, it takes .* from"),
    "signs alone": (lambda: FloatWeights(8, 8, 3), "its weights are float: those of output channel 0 have more than "),
    "weights of the images": (lambda: FromImages(8, 8, 3), "its weights depend on the images"),
    "transposed": (lambda: Up(8, 8, 3), "a transposed convolution, which no binary operator is"),
    "odd padding": (lambda: OddPadding(8, 8, 3), r"its padding of 0\.5 is neither -1 nor 1 nor half the way between"),
    "padded twice": (lambda: PaddedTwice(8, 8, 3), "its input is padded with 1 and then with 0"),
    "window": (lambda: Window(8, 8, 3), "its input is float: .*it goes up and down between 0 and 1"),
    "a threshold per place": (PerPlace, "its input is float: .*what it does depends on the place in the image"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), LEFT.values(), ids=LEFT)
def test_left_float(make: Callable[[], nn.Module], reason: str, networks: ModuleType, translate: Translate) -> None:
    translator, _ = translate(_between(make(), networks), _images(networks))

    assert translator.layers == []
    (left,) = (each for each in translator.left if each.name == "1")
    assert re.search(reason, left.reason), left.reason


def test_few_weights_of_zero_and_what_to_do(networks: ModuleType, translate: Translate) -> None:
    module, images = _between(networks.SignConv(8, 8, 3), networks), _images(networks)
    weight = module.get_parameter("1.weight")
    with torch.no_grad():
        weight[3, 2, 1, :2] = 0

    before, _ = translate(module, images)
    with torch.no_grad():
        weight[weight == 0] = 1e-9
    after, _ = translate(module, images)

    assert [layer.scale for layer in before.layers] == [
        "0.5 to 1 and 0 to 0.5, from 1.weight (2 of 576 weights are 0: a sum of 2 packed convolutions; one is enough "
        "if what is 0 gets a small value such as 1e-9)"
    ]
    assert [layer.scale for layer in after.layers] == ["1, from 1.weight"]


def test_one_call_exports_and_prints_a_line_for_each_layer(networks: ModuleType, tmp_path: Path) -> None:
    result = _export(networks.settled(networks.quick_net()), networks, tmp_path / "bundle")

    assert result.verification.failures == []
    assert sum(layer.weight_bits == 1 for layer in result.bundle.manifest.layers) == 2
    text = " ".join(describe_export(result).split())
    assert (
        "binary layer 1.conv: activations -1 and +1; threshold 0 of the output of 0.3, from ge, where; scale 1, from "
        "1.conv.weight; padding +1" in text
    )
    assert (
        "note recognised layers: what makes their activations was computed for 1,086 numbers of magnitudes from "
        in text
    )


class Functional(nn.Module):
    """Binary layers without a module of their own, beside a module with the name that PyTorch gives the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1 = nn.Conv2d(3, 8, 3)
        self.weight, self.last = nn.Parameter(torch.randn(8, 8, 3, 3)), nn.Parameter(torch.randn(8, 8, 3, 3))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(torch.where(self.conv2d_1(x) >= 0, 1.0, -1.0), self.weight.sign())
        y = F.conv2d(torch.where(y - 0.5 >= 0, 1.0, -1.0), torch.where(self.last > 0.3, self.last.sign(), 0.0))
        return self.head(y.mean((2, 3)))


def test_layers_of_functional_code_have_one_name(networks: ModuleType, tmp_path: Path) -> None:
    result = _export(networks.settled(Functional()), networks, tmp_path / "bundle")
    assert [layer.name for layer in result.layers] == ["conv2d_1#2", "conv2d_2"]
    binary = [layer.name for layer in result.bundle.manifest.layers if layer.weight_bits == 1]
    assert binary == ["conv2d_1#2", "conv2d_2", "conv2d_2#2"]
    assert "\ndropped " not in describe_export(result)


class TracedTwice(nn.Module):
    """Functional code with a pooling for whose decomposition PyTorch traces all again, and numbers nodes anew."""

    def __init__(self) -> None:
        super().__init__()
        shapes = (8, 3, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (8, 8, 1, 1), (6, 72), (5, 6)
        self.weights = nn.ParameterList(torch.randn(shape) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        first, binary, second, third, dense, last = self.weights
        x = F.conv2d(x, first)
        x = F.conv2d((x - 0.1).sign(), binary.sign(), padding=1) + x
        x = F.adaptive_avg_pool2d(F.conv2d(F.conv2d(x, second, padding=1), third), 3)
        return F.linear(F.linear((x.flatten(1) - 0.1).sign(), dense.sign()), last)


def test_names_of_functional_code_are_those_of_its_first_trace(networks: ModuleType, tmp_path: Path) -> None:
    result = _export(networks.settled(TracedTwice()), networks, tmp_path / "bundle")
    layers = result.bundle.manifest.layers
    assert [layer.name for layer in layers] == ["conv2d", "conv2d_1", "conv2d_2", "conv2d_3", "linear", "linear_1"]
    assert [layer.name for layer in layers if layer.weight_bits == 1] == ["conv2d_1", "linear"]


def test_layers_that_are_in_no_file_are_told(networks: ModuleType, tmp_path: Path) -> None:
    result = _export(networks.settled(Functional()), networks, tmp_path / "bundle")
    gone = [replace(layer, name=f"{layer.name} of old") for layer in result.layers]
    one, several = (describe_export(replace(result, layers=layers)) for layers in (tuple(gone[:1]), tuple(gone)))
    assert re.search(r"\ndropped +conv2d_1#2 of old: no output depends on what it computes\n", one)
    assert re.search(
        r"\ndropped +conv2d_1#2 of old, conv2d_2 of old: no output depends on what they compute\n", several
    )


def test_no_binary_layer(networks: ModuleType, tmp_path: Path) -> None:
    message = (
        r"Sequential: no layer can be exported as a binary one, .* per output channel: 1: its input is float: .*\. "
        r"Classes seen: Conv2d, BinaryWeights, AdaptiveAvgPool2d, Flatten, Linear$"
    )
    with pytest.raises(ExportError, match=message):
        _export(_between(BinaryWeights(8, 8, 3), networks), networks, tmp_path / "bundle")
    refused = r"a binary one, .*: conv2d \(test_networks\.py:\d+\): its padding of 0.5 is neither .*\. Pad with one of"
    with pytest.raises(ExportError, match=refused):
        export_module(
            OddPadding(3, 8, 3), path=tmp_path / "bundle", images=Images(_images(networks)), description=Description({})
        )
    assert list(tmp_path.iterdir()) == []
