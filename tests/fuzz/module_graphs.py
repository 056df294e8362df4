"""Random networks through `export_module`: exported and right, or refused with a sentence.

A seed makes a network of binary and float layers in a random graph: residual sums, dense concatenation, inception
branches, channel shuffle, gates, both shortcuts of ResNet, layers that are used twice, and more. For hours:

    python -P tests/fuzz/module_graphs.py --minutes 30
    python -P tests/fuzz/module_graphs.py --seed 123   # one again, with its layers
"""

import argparse
import random
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core import bundle as files
from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export import Description, Images, LooksBinaryWarning, export_module, exporter
from bnas_deploy.export.inputs import Feed
from bnas_deploy.export.quantization import FloatFile
from bnas_deploy.export.twin import Answers
from bnas_deploy.export.twins import TwinAnswers
from bnas_deploy.runtime.session import create_session, session_options
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryLinear, Zeroise
from bnas_deploy.search.nn.schemes import named_scheme

CLASSES = 5
IMAGES = 2
MOST_CHANNELS = 70  # past a word of 64
MOST_FEATURES = 300

NEAR = 4e-6
"""An activation is on the edge if it is less than this times the greatest one: some 60 roundings in float32."""

DIFFERENT = 1e-3
"""Outputs are wrong if they differ by this times the greatest one though no activation is on an edge. Some hundred
layers' roundings stay below; a wrong weight, sign or wire does not."""

Shape = tuple[int, int, int]


# --- layers that torch has no class for -----------------------------------------------------------------------------


class Together(nn.Module):
    """A function of one or more values."""

    def __init__(self, text: str, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.text, self.function = text, function

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values)

    def extra_repr(self) -> str:
        return self.text


class PerChannel(nn.Module):
    """x + a or x * a with a parameter for each channel, expanded as ReActNet does it or broadcast."""

    def __init__(self, channels: int, *, multiply: bool, expand: bool) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(1, channels, 1, 1))
        self.multiply, self.expand = multiply, expand

    def forward(self, x: Tensor) -> Tensor:
        values = self.values.expand_as(x) if self.expand else self.values
        return x * values if self.multiply else x + values


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 3, 1), nn.Conv2d(3, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


def _straight_through(x: Tensor) -> Tensor:
    soft = x.clamp(-1, 1)
    return torch.where(x >= 0, 1.0, -1.0).detach() - soft.detach() + soft


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": torch.sign,
    "where": lambda x: torch.where(x >= 0, 1.0, -1.0),
    "falling": lambda x: 1 - 2 * (x > 0).float(),
    "0 and 1": lambda x: (x > 0).float(),
    "sign of ReLU": lambda x: torch.sign(torch.relu(x)),
    "estimator": _straight_through,
    "three levels": lambda x: torch.round(x.clamp(-1, 1)),
}
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": torch.sign,
    "scaled": lambda w: torch.sign(w) * w.abs().mean((1, 2, 3), keepdim=True),
    "estimator": lambda w: (0.3 * torch.sign(w)).detach() - w.detach() + w,
}


class Functional(nn.Module):
    """Somebody else's binary convolution, in functions alone."""

    def __init__(self, channels: int, channels_out: int, rng: random.Random) -> None:
        super().__init__()
        kernel = rng.choice((1, 2, 3))
        self.weight = nn.Parameter(torch.randn(channels_out, channels, kernel, kernel))
        self.names = rng.choice(sorted(ACTIVATIONS)), rng.choice(sorted(WEIGHTS))
        self.stride, self.padding, self.pad_value = rng.choice((1, 2)), rng.choice((0, 1)), rng.choice((0.0, 1.0, -1.0))

    def forward(self, x: Tensor) -> Tensor:
        activations, weights = self.names
        padded = F.pad(ACTIVATIONS[activations](x), (self.padding,) * 4, value=self.pad_value)
        return F.conv2d(padded, WEIGHTS[weights](self.weight), stride=self.stride)

    def extra_repr(self) -> str:
        return f"{self.names}, stride={self.stride}, padding={self.padding} of {self.pad_value}"


def _part(parts: int, index: int, how: str) -> Callable[[Tensor], Tensor]:
    def take(x: Tensor) -> Tensor:
        if how == "chunk":
            return x.chunk(parts, 1)[index]
        if how == "tensor_split":
            return x.tensor_split(parts, 1)[index]
        if how == "unbind":
            return torch.stack(x.unbind(1)[index::parts], 1)
        if how == "topk":
            return x.topk(max(1, x.shape[1] // parts), 1)[0]
        size = x.shape[1] // parts
        return torch.split(x, [size] * (parts - 1) + [x.shape[1] - size * (parts - 1)], 1)[index]

    return take


def _shuffle(groups: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.reshape(-1, groups, x.shape[1] // groups, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


def _option_a(channels: int) -> Callable[[Tensor], Tensor]:
    return lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, channels // 2, channels - channels // 2))


# --- a network ------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """Steps, each of which reads values that were made before; the last value goes to the head."""

    def __init__(self, steps: list[tuple[nn.Module, tuple[int, ...]]], head: nn.Module) -> None:
        super().__init__()
        self.steps = nn.ModuleList(step for step, _ in steps)
        self.sources = [sources for _, sources in steps]
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step, sources in zip(self.steps, self.sources, strict=True):
            values.append(step(*(values[source] for source in sources)))
        return self.head(values[-1])


class Maker:
    """Makes the network of a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        torch.manual_seed(seed)
        self.image: Shape = (self.rng.choice((1, 2, 3, 4)), self.rng.randint(1, 12), self.rng.randint(1, 12))
        self.shapes: list[Shape] = [self.image]
        self.steps: list[tuple[nn.Module, tuple[int, ...]]] = []
        self.rules = (
            *(self.binary,) * 6,
            *(self.norm,) * 4,
            *(self.activation,) * 3,
            *(self.sum,) * 4,
            *(self.concatenation,) * 3,
            *(self.pool,) * 2,
            *(self.again,) * 2,
            *(self.part,) * 2,
            self.convolution,
            self.per_channel,
            self.gate,
            self.shuffle,
            self.option_a,
            self.zero,
            self.upsample,
            self.functional,
            self.other_norm,
        )

    def network(self) -> nn.Module:
        if self.rng.random() < 0.8:
            self.convolution()
        for _ in range(self.rng.randint(3, 14)):
            self.rng.choice(self.rules)()
        if not any(isinstance(step, BinaryConv2d) for step, _ in self.steps):
            self.binary()
        return _randomised(Network(self.steps, self.head()), self.rng)

    def head(self) -> nn.Module:
        channels, height, width = self.shapes[-1]
        flat = channels * height * width <= MOST_FEATURES and self.rng.random() < 0.5
        layers: list[nn.Module] = [nn.Flatten()] if flat else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        features = channels * height * width if flat else channels
        if self.rng.random() < 0.3:
            layers += [nn.BatchNorm1d(features)] * self.rng.randint(0, 1)
            layers += [BinaryLinear(features, 9, bias=self.rng.random() < 0.3), nn.BatchNorm1d(9)]
            features = 9
        return nn.Sequential(*layers, nn.Linear(features, CLASSES))

    # --- choosing ----------------------------------------------------------------------------------------------------

    def source(self) -> int:
        """Return a value to read: mostly a late one."""
        return max(self.rng.randrange(len(self.shapes)), self.rng.randrange(len(self.shapes)))

    def add(self, step: nn.Module, *sources: int) -> None:
        """Append a step and find out its shape; one that makes nothing, or too much, is left out."""
        inputs = [torch.zeros(2, *self.shapes[source]) for source in sources]
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _, *shape = step.eval()(*inputs).shape
        except RuntimeError:
            return  # a kernel larger than the image, say
        if len(shape) == 3 and min(shape) > 0 and shape[0] <= MOST_CHANNELS and max(shape[1:]) <= 24:
            self.steps.append((step, sources))
            self.shapes.append((shape[0], shape[1], shape[2]))

    def groups(self, channels: int, channels_out: int) -> int:
        fitting = [each for each in range(1, channels + 1) if channels % each == channels_out % each == 0]
        return self.rng.choice((1, 1, self.rng.choice(fitting)))

    # --- rules -------------------------------------------------------------------------------------------------------

    def binary(self) -> None:
        source = self.source()
        channels, rng = self.shapes[source][0], self.rng
        channels_out = rng.choice((channels, channels, rng.randint(1, 20), 66))
        groups = self.groups(channels, channels_out)
        stride = rng.choice((1, 1, 2, (1, 2)))
        self.add(
            BinaryConv2d(
                channels,
                channels_out,
                rng.choice((1, 2, 3, 3, 3, 5, (3, 1), [1, 4])),
                stride,
                rng.choice((0, 1, 1, 2, (1, 0), "same")) if stride == 1 else rng.choice((0, 1, 2)),
                rng.choice((1, 1, 2)),
                groups,
                bias=rng.random() < 0.2,
                scheme=replace(
                    named_scheme(rng.choice(("xnor-net", "xnor-net-plus", "binarynet"))),
                    k_map=groups == 1 and rng.random() < 0.2,
                ),
            ),
            source,
        )

    def convolution(self) -> None:
        source = self.source()
        channels = self.shapes[source][0]
        channels_out = self.rng.choice((channels, self.rng.randint(1, 16)))
        groups, padding = self.groups(channels, channels_out), self.rng.choice((0, 1))
        kind = self.rng.choice((nn.Conv2d, nn.Conv2d, nn.ConvTranspose2d))
        self.add(kind(channels, channels_out, self.rng.choice((1, 3)), padding=padding, groups=groups), source)

    def norm(self) -> None:
        source = self.source()
        self.add(nn.BatchNorm2d(self.shapes[source][0], affine=self.rng.random() < 0.8), source)

    def other_norm(self) -> None:
        source = self.source()
        self.add(nn.GroupNorm(1, self.shapes[source][0]), source)

    def activation(self) -> None:
        source = self.source()
        kinds: tuple[Callable[[], nn.Module], ...] = (
            nn.ReLU,
            nn.PReLU,
            lambda: nn.PReLU(self.shapes[source][0], init=self.rng.choice((0.25, 1.5, -0.5))),
            nn.Hardtanh,
            nn.LeakyReLU,
            nn.ReLU6,
            nn.Hardswish,
        )
        self.add(self.rng.choice(kinds)(), source)

    def sum(self) -> None:
        source = self.source()
        alike = [i for i, shape in enumerate(self.shapes) if shape == self.shapes[source] and i != source]
        if alike:
            functions = {
                "x + y": lambda x, y: x + y,
                "x + 2 y": lambda x, y: torch.add(x, y, alpha=2),
                "x - y": lambda x, y: x - y,
                "max(x, y)": torch.maximum,
            }
            text = self.rng.choice(("x + y", "x + y", "x + y", *functions))
            self.add(Together(text, functions[text]), source, self.rng.choice(alike))

    def concatenation(self) -> None:
        source = self.source()
        alike = [i for i, shape in enumerate(self.shapes) if shape[1:] == self.shapes[source][1:]]
        parts = [self.rng.choice(alike) for _ in range(self.rng.randint(2, 5))]
        axis = self.rng.choice((1, -3))
        self.add(Together(f"cat along {axis}", lambda *values: torch.cat(values, axis)), *parts)

    def pool(self) -> None:
        stride, padding = self.rng.choice((1, 2)), self.rng.choice((0, 1))
        kinds: tuple[Callable[[], nn.Module], ...] = (
            lambda: nn.MaxPool2d(3, stride, padding),
            lambda: nn.MaxPool2d(2, 2, ceil_mode=self.rng.random() < 0.5),
            lambda: nn.AvgPool2d(3, stride, padding, count_include_pad=self.rng.random() < 0.5),
            lambda: nn.AvgPool2d(2),
            lambda: Together("max pool's values", lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
        )
        self.add(self.rng.choice(kinds)(), self.source())

    def again(self) -> None:
        """Use a layer once more, on another value of the same shape or on its own result."""
        if not self.steps:
            return
        step, sources = self.rng.choice(self.steps)
        wanted = self.shapes[sources[0]]
        alike = [i for i, shape in enumerate(self.shapes) if shape == wanted]
        if len(sources) == 1:
            self.add(step, self.rng.choice(alike))

    def part(self) -> None:
        source, parts = self.source(), self.rng.randint(2, 3)
        how = self.rng.choice(("chunk", "split", "tensor_split", "unbind", "topk"))
        if self.shapes[source][0] >= parts**2:
            index = self.rng.randrange(parts)
            self.add(Together(f"{how} {parts}, part {index}", _part(parts, index, how)), source)

    def per_channel(self) -> None:
        source = self.source()
        multiply, expand = self.rng.random() < 0.4, self.rng.random() < 0.5
        self.add(PerChannel(self.shapes[source][0], multiply=multiply, expand=expand), source)

    def gate(self) -> None:
        source = self.source()
        self.add(Gate(self.shapes[source][0]), source)

    def shuffle(self) -> None:
        source = self.source()
        channels = self.shapes[source][0]
        groups = self.rng.choice([each for each in range(1, channels + 1) if channels % each == 0])
        self.add(Together(f"shuffle {groups}", _shuffle(groups)), source)

    def option_a(self) -> None:
        more = self.rng.randint(0, 8)
        self.add(Together(f"option A, {more} channels more", _option_a(more)), self.source())

    def zero(self) -> None:
        self.add(Zeroise(self.rng.choice((1, 2))), self.source())

    def upsample(self) -> None:
        mode = self.rng.choice(("nearest", "bilinear"))
        self.add(nn.Upsample(scale_factor=2, mode=mode), self.source())

    def functional(self) -> None:
        source = self.source()
        self.add(Functional(self.shapes[source][0], self.rng.randint(1, 9), self.rng), source)


def _randomised(module: nn.Module, rng: random.Random) -> nn.Module:
    """Give every BN statistics of its own, gammas of either sign, and now and then one of 0."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(layer.running_mean)
                nn.init.uniform_(layer.running_var, 0.3, 3)
                if layer.affine:
                    nn.init.normal_(layer.weight)
                    nn.init.normal_(layer.bias)
                    if rng.random() < 0.2:
                        layer.weight[0] = 0
            if isinstance(layer, BinaryConv2d):
                for learned in layer.learned.values():
                    nn.init.normal_(learned)
    return module.eval()


# --- the check ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a seed: `kind` is "right", "on the edge", "refused" or "WRONG"."""

    kind: str
    text: str = ""


def check(seed: int) -> Outcome:
    """Export the network of a seed and compare it with PyTorch; any other exception than ExportError is a failure."""
    maker = Maker(seed)
    network = maker.network()
    images = torch.randn(IMAGES, *maker.image)
    channels, height, width = maker.image
    preprocessing = Preprocessing(height, width, (0.5,) * channels, (0.25,) * channels)
    description = Description({"name": f"seed {seed}"}, tuple("abcde"), preprocessing, {})
    twin = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        try:
            with warnings.catch_warnings():
                # A network may have layers that look binary and are meant to stay float.
                warnings.simplefilter("ignore", LooksBinaryWarning)
                export_module(network, twin, path, Images(images), description)
        except ExportError as error:
            if "does not agree" not in error.message:
                return Outcome("refused", error.message)
            on_edge = "outputs differ from PyTorch" in error.message and _is_on_edge(network, images)
            return Outcome("on the edge" if on_edge else "WRONG", error.message)
        session = create_session(path / files.MODEL, session_options(library=False))
        got = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.no_grad():
        want = network(images)
    if (got - want).abs().max() <= DIFFERENT * (1 + want.abs().max()):
        return Outcome("right")
    kind = "on the edge" if _is_on_edge(network, images) else "WRONG"
    return Outcome(kind, f"outputs differ by {(got - want).abs().max():.3g} of {want.abs().max():.3g}")


def _is_on_edge(network: nn.Module, images: Tensor) -> bool:
    """Tell whether a rounding could turn a sign over: a value near 0 in front of a sign."""
    near: list[bool] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].abs()  # signs change at 0, and the three levels at a half
        near.append(bool((torch.minimum(x, (x - 0.5).abs()) <= NEAR * x.max()).any()))

    signs = [layer for layer in network.modules() if isinstance(layer, BinaryConv2d | Functional)]
    handles = [layer.register_forward_hook(look) for layer in signs]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return any(near)


@contextmanager
def one_twin() -> Iterator[None]:
    """Export the float twin and the int8 twin once for all networks: here they are not what is looked at."""
    with tempfile.TemporaryDirectory() as name:
        kept = Path(name)
        twin_files, float_twin, int8_twin = (
            exporter.write_twin_files,
            exporter.compare_float_twin,
            exporter.write_int8_twin,
        )

        def is_kept() -> bool:
            return (kept / files.INT8_TWIN).exists()

        def write_twin_files(model: ir.Model, folder: Path, scratch: Path) -> FloatFile | None:
            if not is_kept():
                return twin_files(model, folder, scratch)
            for twin in (files.FLOAT_TWIN, files.INT8_TWIN):
                shutil.copy(kept / twin, folder / twin)
            return None

        def compare_float_twin(network: Answers, outputs: Sequence[str], folder: Path, feed: Feed) -> TwinAnswers:
            return TwinAnswers((), 0.0) if is_kept() else float_twin(network, outputs, folder, feed)

        def write_int8_twin(
            file: FloatFile | None, outputs: Sequence[str], folder: Path, feed: Feed, answers: Sequence[NDArray[Any]]
        ) -> float:
            if file is not None:
                int8_twin(file, outputs, folder, feed, answers)
                for twin in (files.FLOAT_TWIN, files.INT8_TWIN):  # that of 8 bits last, which says that both are there
                    shutil.copy(folder / twin, kept / twin)
            return 0.0

        once = {"write_twin_files": write_twin_files, "compare_float_twin": compare_float_twin}
        with mock.patch.multiple(exporter, **once, write_int8_twin=write_int8_twin):
            yield


def describe(seed: int) -> str:
    """Return the images and the layers of a seed."""
    maker = Maker(seed)
    network = maker.network()
    lines = [f"seed {seed}: images {maker.image}"]
    for i, (step, sources) in enumerate(maker.steps, 1):
        text = " ".join(repr(step).split())
        lines.append(f"  {i} = {text} of {', '.join(map(str, sources))} -> {maker.shapes[i]}")
    return "\n".join([*lines, f"  head: {' '.join(repr(network.head).split())}"])


def main() -> None:
    """Run seeds until the time is over, or one seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one alone and show its layers")
    options = parser.parse_args()
    if options.seed is not None:
        print(describe(options.seed), flush=True)
        print(check(options.seed))
        return
    end, seed, counts = time.monotonic() + 60 * options.minutes, options.first, Counter[str]()
    with one_twin():
        while time.monotonic() < end:
            try:
                outcome = check(seed)
            except Exception as error:  # what the net is for
                outcome = Outcome("WRONG", f"{type(error).__name__}: {error}")
            counts[outcome.kind] += 1
            if outcome.kind == "WRONG":
                print(f"{describe(seed)}\n  {outcome.text}\n  again: python -P {__file__} --seed {seed}", flush=True)
            elif outcome.kind == "refused":
                print(f"seed {seed} refused: {outcome.text}", flush=True)
            seed += 1
            if (seed - options.first) % 10 == 0:
                print(f"{seed - options.first} networks: {dict(counts)}", flush=True)
    print(f"{seed - options.first} networks: {dict(counts)}")


if __name__ == "__main__":
    main()
