"""Weights by the names of other projects give the answers of those projects' networks.

The networks are written anew here, as functions of a state dict: they have nothing in common with the modules of this
package. The same sums are done in another order, and scales multiplied before them instead of behind them. So both
sides compute in float64, where a rounding is 1e-16 of a number and no sign falls over.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.nn import functional as F

from bnas_deploy.cli import main
from bnas_deploy.core.errors import CheckpointError
from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.registry import build_network, configure, layout_of
from bnas_deploy.search.training.checkpoint import load_checkpoint
from bnas_deploy.search.training.import_weights import import_checkpoint

State = dict[str, Tensor]


@dataclass
class Theirs:
    """A network of others: makes the tensors that it asks for, at random, and computes with them."""

    state: State
    random: torch.Generator

    def tensor(self, name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
        if name not in self.state:
            self.state[name] = low + (high - low) * torch.rand(*shape, generator=self.random)
        return self.state[name].double()

    def norm(self, name: str, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kinds = {"weight": (-2, 2), "bias": (-1, 1), "running_mean": (-1, 1), "running_var": (0.5, 2)}
        weight, bias, mean, variance = (
            self.tensor(f"{name}.{kind}", channels, low=low, high=high) for kind, (low, high) in kinds.items()
        )
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(7))
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-5)

    def float_conv(self, name: str, x: Tensor, channels: int, size: int, stride: int = 1) -> Tensor:
        weight = self.tensor(f"{name}.weight", channels, x.shape[1], size, size)
        return F.conv2d(x, weight, stride=stride, padding=size // 2)

    def binary_conv(self, name: str, x: Tensor, channels: int, size: int, stride: int = 1) -> Tensor:
        """Convolve with the signs of weights times the mean of each filter; `weights` is one column, `weight` not."""
        shape = (channels, x.shape[1], size, size)
        column = name.endswith("weights")
        weight = self.tensor(name, *((torch.Size(shape).numel(), 1) if column else shape)).view(shape)
        scale = weight.abs().mean(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, scale * torch.sign(weight), stride=stride, padding=size // 2)

    def shift(self, name: str, x: Tensor) -> Tensor:
        return x + self.tensor(f"{name}.bias", 1, x.shape[1], 1, 1, low=-0.5, high=0.5)

    def rprelu(self, before: str, prelu: str, after: str, x: Tensor) -> Tensor:
        slopes = self.tensor(f"{prelu}.weight", x.shape[1], low=-0.5)
        return self.shift(after, F.prelu(self.shift(before, x), slopes))

    def dense(self, name: str, x: Tensor, classes: int) -> Tensor:
        weight, bias = self.tensor(f"{name}.weight", classes, x.shape[1]), self.tensor(f"{name}.bias", classes)
        return F.linear(x, weight, bias)


def bi_real(they: Theirs, x: Tensor, config: BackboneConfig, *, react: bool = False) -> Tensor:
    """The residual networks of Bi-Real Net and of ReActNet, which differ in learned shifts and a name."""
    convolutions = (4, 4, 4, 4) if "18" in config.network else (6, 8, 12, 6)
    x = they.norm("bn1", they.float_conv("conv1", x, config.widths[0], 7, 2))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, count in enumerate(convolutions, start=1):
        for number in range(count):
            name = f"layer{stage}.{number}"
            channels, stride = config.widths[stage - 1], 2 if stage > 1 and number == 0 else 1
            y = they.shift(f"{name}.move0", x) if react else x
            weights = f"{name}.binary_conv.{'weight' if react else 'weights'}"
            y = they.norm(f"{name}.bn1", they.binary_conv(weights, torch.sign(y), channels, 3, stride))
            if stride == 2:
                x = they.float_conv(f"{name}.downsample.1", F.avg_pool2d(x, 2, 2), channels, 1)
                x = they.norm(f"{name}.downsample.2", x)
            x = x + y
            if react:
                x = they.rprelu(f"{name}.move1", f"{name}.prelu", f"{name}.move2", x)
    return they.dense("fc", x.mean(dim=(2, 3)), config.classes)


def reactnet(they: Theirs, x: Tensor, config: BackboneConfig) -> Tensor:
    """ReActNet-A: a 3x3 and a 1x1 convolution in each block, the second in two halves where channels double."""
    x = they.norm("feature.0.bn1", they.float_conv("feature.0.conv1", x, config.widths[0], 3, 2))
    for number, channels in enumerate(config.widths[1:], start=1):
        name, before = f"feature.{number}", x.shape[1]
        stride = 2 if channels != before and number > 1 else 1
        y = torch.sign(they.shift(f"{name}.move11", x))
        y = they.norm(f"{name}.bn1", they.binary_conv(f"{name}.binary_3x3.weights", y, before, 3, stride))
        x = y + (F.avg_pool2d(x, 2) if stride == 2 else x)
        x = they.rprelu(f"{name}.move12", f"{name}.prelu1", f"{name}.move13", x)
        signs = torch.sign(they.shift(f"{name}.move21", x))
        parts = [("binary_pw", "bn2")]
        if channels != before:
            parts = [("binary_pw_down1", "bn2_1"), ("binary_pw_down2", "bn2_2")]
        made = [
            they.norm(f"{name}.{norm}", they.binary_conv(f"{name}.{conv}.weights", signs, before, 1)) + x
            for conv, norm in parts
        ]
        x = they.rprelu(f"{name}.move22", f"{name}.prelu2", f"{name}.move23", torch.cat(made, dim=1))
    return they.dense("fc", x.mean(dim=(2, 3)), config.classes)


def ir_net(they: Theirs, x: Tensor, config: BackboneConfig) -> Tensor:
    """The ResNet-20 of IR-Net: signs of standardised weights times a power of two, zeros in shortcuts."""

    def binary(name: str, x: Tensor, channels: int, stride: int) -> Tensor:
        weight = they.tensor(f"{name}.weight", channels, x.shape[1], 3, 3).flatten(1)
        balanced = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)
        power = 2.0 ** balanced.abs().mean(1, keepdim=True).log2().round()
        kernel = (torch.sign(balanced) * power).reshape(channels, x.shape[1], 3, 3)
        return F.conv2d(torch.sign(x), kernel, stride=stride, padding=1)

    x = F.hardtanh(they.norm("bn1", they.float_conv("conv1", x, config.widths[0], 3)))
    for stage, channels in enumerate(config.widths, start=1):
        for number in range(3):
            name, stride = f"layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1
            y = they.norm(f"{name}.bn1", binary(f"{name}.conv1", x, channels, stride))
            if stride == 2:
                zeros = x.new_zeros(len(x), channels // 4, *y.shape[2:])
                x = torch.cat((zeros, x[:, :, ::2, ::2], zeros), dim=1)
            x = F.hardtanh(y + x)
            x = F.hardtanh(they.norm(f"{name}.bn2", binary(f"{name}.conv2", x, channels, 1)) + x)
    x = they.norm("bn2", F.avg_pool2d(x, x.shape[3]).flatten(1))
    return they.dense("linear", x, config.classes)


@dataclass(frozen=True)
class Case:
    """A layout, a network, settings that make it small, and the network of others."""

    layout: str
    network: str
    theirs: Callable[[Theirs, Tensor, BackboneConfig], Tensor]
    options: Mapping[str, Any]
    side: int = 64

    def config(self) -> BackboneConfig:
        options = {**layout_of(self.network, self.layout)[1].options, **self.options}
        config = configure(self.network, classes=7, image_size=(self.side, self.side), options=options)
        assert isinstance(config, BackboneConfig)
        return config

    def state_and_answers(self, images: Tensor) -> tuple[State, Tensor]:
        they = Theirs({}, torch.Generator().manual_seed(0))
        answers = self.theirs(they, images.double(), self.config())
        return they.state, answers


EIGHTH = {"width_factor": 0.125}

CASES = {
    "bi-real-18": Case("bi-real", "Bi-Real-18", bi_real, EIGHTH),
    "bi-real-34": Case("bi-real", "Bi-Real-34", bi_real, EIGHTH),
    "reactnet-resnet-18": Case(
        "reactnet-resnet", "Bi-Real-18", lambda they, x, config: bi_real(they, x, config, react=True), EIGHTH
    ),
    "reactnet-a": Case("reactnet", "ReActNet-A", reactnet, EIGHTH),
    "ir-net-20": Case("ir-net", "IR-Net-20", ir_net, {}, side=16),
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


def images_of(case: Case) -> Tensor:
    return torch.randn(4, 3, case.side, case.side, generator=torch.Generator().manual_seed(1))


def answers_here(path: Path, case: Case, images: Tensor) -> Tensor:
    config = case.config()
    checkpoint = import_checkpoint(path, config, layout_of(case.network, case.layout)[1], None)
    network = build_network(config)
    network.load_state_dict(checkpoint.state)
    with torch.no_grad():
        answers: Tensor = network.double().eval()(images.double())
    return answers


def saved(path: Path, state: State) -> Path:
    torch.save(state, path)
    return path


# Every layer adds at most a few thousand products of numbers near 1, so float64 rounds a logit by about 1e-12 of it. It
# moves no sign, which would change logits by hundredths.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def test_the_answers_are_theirs(case: Case, tmp_path: Path) -> None:
    images = images_of(case)
    state, answers = case.state_and_answers(images)
    got = answers_here(saved(tmp_path / "weights.pt", state), case, images)
    torch.testing.assert_close(got, answers, **TOLERANCE)


def test_another_value_of_any_tensor_gives_other_answers(case: Case, tmp_path: Path) -> None:
    """The check has power: no tensor is passed over, and none taken for another."""
    images = images_of(case)
    state, answers = case.state_and_answers(images)
    for name in list(every_nth(state, 9)):
        tensor = state[name]
        if tensor.ndim == 0:
            continue
        changed = {**state, name: -tensor if "running_var" not in name else tensor * 4}
        got = answers_here(saved(tmp_path / "weights.pt", changed), case, images)
        assert (got - answers).abs().max() > 1e-4, name


def every_nth(state: State, step: int) -> Iterator[str]:
    names = [name for name, tensor in state.items() if tensor.ndim]
    yield from names[::step]
    yield from names[-4:]


def refusal(state: State, case: Case, tmp_path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        answers_here(saved(tmp_path / "weights.pt", state), case, images_of(case))
    return error.value.message


def test_a_missing_tensor_and_one_of_another_shape_are_named(case: Case, tmp_path: Path) -> None:
    state, _ = case.state_and_answers(images_of(case))
    whole = dict(state)
    norm = next(name for name in state if name.endswith("running_mean") and "bn1" in name and "." in name[:-14])
    del state[norm]
    assert "1 missing: " in refusal(state, case, tmp_path)
    wide = {**whole, norm: torch.zeros(99)}
    assert f"(in the file {norm}) is float32 [99], expected float32 [" in refusal(wide, case, tmp_path)
    more = {**whole, "layer9.0.extra": torch.zeros(3)}
    assert "1 unexpected: layer9.0.extra float32 [3]" in refusal(more, case, tmp_path)
    assert "give the network, the genotype, the layout, the number of classes and --in-channels" in refusal(
        more, case, tmp_path
    )


def test_half_of_a_convolution_is_named(tmp_path: Path) -> None:
    case = CASES["reactnet-a"]
    state, _ = case.state_and_answers(images_of(case))
    del state["feature.1.binary_pw_down2.weights"]
    message = refusal(state, case, tmp_path)
    assert "blocks.0.2.branch.0.weight (in the file feature.1.binary_pw_down1.weights) is float32 [16, 1]" in message
    state, _ = case.state_and_answers(images_of(case))
    state["feature.1.binary_pw_down2.weights"] = torch.zeros(3, 2)
    assert "unexpected: feature.1.binary_pw_down2.weights float32 [3, 2]" in refusal(state, case, tmp_path)


def test_float_weights_of_a_first_step_are_no_binary_ones(tmp_path: Path) -> None:
    case = CASES["reactnet-a"]
    state, _ = case.state_and_answers(images_of(case))
    state["feature.3.binary_3x3.weight"] = state.pop("feature.3.binary_3x3.weights")
    message = refusal(state, case, tmp_path)
    assert "1 missing: blocks.2.0.branch.0.weight" in message
    assert "1 unexpected: feature.3.binary_3x3.weight" in message


# --- the command ----------------------------------------------------------------------------------------------------


def run(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_takes_the_layout_and_the_scheme_of_the_network(tmp_path: Path) -> None:
    case = CASES["reactnet-a"]
    state, _ = case.state_and_answers(images_of(case))
    state["feature.1.binary_3x3.weights"][3] = 0
    path, out = saved(tmp_path / "weights.pt", {"state_dict": state}), tmp_path / "net.safetensors"
    words = ("--classes", 7, "--width-factor", 0.125)

    done = run("import", path, "--network", "ReActNet-A", *words, "-o", out)

    assert done.exit_code == 0, done.output
    assert f"ReActNet-A-0.125x with the weights of {path} (layout reactnet)" in done.output
    assert "1 binary weights are exactly 0: their sign is 0 in the code that trained them, and +1 here" in done.output
    checkpoint = load_checkpoint(out)
    assert (checkpoint.network.scheme, checkpoint.data) == ("reactnet", "imagenet")  # type: ignore[attr-defined]
    assert checkpoint.labels == tuple("0123456")
    assert checkpoint.preprocessing.std == (0.229, 0.224, 0.225)


def test_a_network_without_layouts_is_refused(tmp_path: Path) -> None:
    done = run("import", tmp_path / "w.pt", "--network", "NiN", "-o", tmp_path / "out")
    assert "NiN: no layout of its weights; there are none" in done.output
    done = run("import", tmp_path / "w.pt", "--network", "ResNet-18", "--layout", "bi-real", "-o", tmp_path / "out")
    assert "ResNet-18: no layout 'bi-real' of its weights; there are none" in done.output
