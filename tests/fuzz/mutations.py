"""Single changes to an exported model, none of which may survive `verify` or the comparison at the export.

By hand, for as long as it should take; a survivor is printed with its seed, and the exit code is 1:

    python -P tests/fuzz/mutations.py --minutes 30

A change counts if it changes what its piece makes of PyTorch's values by more than the bound: the weights of a channel
that a ReLU cuts off at every pixel may be anything. That is judged without the cut: the whole model is run before and
after the change, with every value shown. The first values that differ are made by the nodes that were changed, from
the same inputs.
"""

import argparse
import collections
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from bnas_deploy.core import bundle as files
from bnas_deploy.core.bundle import Bundle, PieceCheck, Preprocessing, read_bundle
from bnas_deploy.core.errors import BnasError
from bnas_deploy.export import Description, Images, export_module
from bnas_deploy.runtime.pieces import TOLERANCE
from bnas_deploy.runtime.session import session_options
from bnas_deploy.runtime.verify import verify_bundle
from bnas_deploy.search.models.bnas.config import published_config
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training.untrained import untrained_checkpoint

CLASSES = 10
SIZE = 32


# --- networks -------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two binary convolutions with BN, each followed by a sum and Hardtanh; a shortcut without weights."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv0 = BinaryConv2d(channels_in, channels_out, 3, stride, padding=1)
        self.norm0 = nn.BatchNorm2d(channels_out)
        self.conv1 = BinaryConv2d(channels_out, channels_out, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.more = channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.more:
            shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))
        x = nn.functional.hardtanh(self.norm0(self.conv0(x)) + shortcut)
        return nn.functional.hardtanh(self.norm1(self.conv1(x)) + x)


def resnet20(width: int = 16, blocks: int = 3, stages: int = 3) -> nn.Module:
    """A CIFAR ResNet-20 of IR-Net's shape, or a smaller one."""
    body: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.Hardtanh()]
    for stage in range(stages):
        channels = width * 2**stage
        body += [
            Block(channels // 2, channels, 2) if stage and not i else Block(channels, channels, 1)
            for i in range(blocks)
        ]
    features = width * 2 ** (stages - 1)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(features), nn.Linear(features, CLASSES))
    return _randomised(nn.Sequential(*body, *head))


def bnas_mini() -> nn.Module:
    """BNAS-Mini, untrained."""
    return untrained_checkpoint(published_config("BNAS-Mini"), seed=0).build()


def _randomised(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
            nn.init.normal_(layer.running_mean, std=0.3)  # type: ignore[arg-type] # it has running statistics
            nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type] # as above
    return module


def export_network(module: nn.Module, path: Path, size: int = SIZE) -> Bundle:
    """Export a network for random images; the float twin is a small one, since nobody looks at it."""
    twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    preprocessing = Preprocessing(size, size, (0.5,) * 3, (0.25,) * 3)
    description = Description({"name": "network"}, tuple(map(str, range(CLASSES))), preprocessing, {})
    return export_module(module, twin, path, Images(torch.randn(2, 3, size, size)), description).bundle


# --- changes --------------------------------------------------------------------------------------------------------

Change = Callable[[onnx.GraphProto, np.random.Generator], str | None]
"""Changes a graph in place and says what it did; None if there was nothing to change."""


def _constant(graph: onnx.GraphProto, rng: np.random.Generator, kinds: tuple[int, ...]) -> onnx.TensorProto | None:
    tensors = [tensor for tensor in graph.initializer if tensor.data_type in kinds]
    return tensors[rng.integers(len(tensors))] if tensors else None


def change_element(graph: onnx.GraphProto, rng: np.random.Generator) -> str | None:
    """One element of a float constant by 1 %, or of a constant of sizes by 1."""
    tensor = _constant(graph, rng, (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64))
    if tensor is None:
        return None
    data = numpy_helper.to_array(tensor).copy()
    place = tuple(int(rng.integers(size)) for size in data.shape)
    before = data[place]
    data[place] = before + 1 if data.dtype == np.int64 else before * np.float32(1.01) or np.float32(0.01)
    tensor.CopyFrom(numpy_helper.from_array(data, tensor.name))
    return f"{tensor.name}{list(place)}: {before} -> {data[place]}"


def flip_bit(graph: onnx.GraphProto, rng: np.random.Generator) -> str | None:
    """One bit of packed weights."""
    tensor = _constant(graph, rng, (onnx.TensorProto.UINT8,))
    if tensor is None:
        return None
    data = numpy_helper.to_array(tensor).copy()
    place, bit = tuple(int(rng.integers(size)) for size in data.shape), int(rng.integers(8))
    data[place] ^= np.uint8(1 << bit)
    tensor.CopyFrom(numpy_helper.from_array(data, tensor.name))
    return f"{tensor.name}{list(place)}: bit {bit} flipped"


def _computed(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, int]]:
    known = {tensor.name for tensor in graph.initializer} | {""}
    return [(node, i) for node in graph.node for i, name in enumerate(node.input) if name not in known]


def remove_node(graph: onnx.GraphProto, rng: np.random.Generator) -> str | None:
    """A node goes, and what it reads stands for what it made."""
    node = graph.node[rng.integers(len(graph.node))]
    gone, instead = node.output[0], node.input[0]
    for other in graph.node:
        for i, name in enumerate(other.input):
            other.input[i] = instead if name == gone else name
    if gone in {output.name for output in graph.output}:
        graph.node.append(onnx.helper.make_node("Identity", [instead], [gone], name=f"{node.name}.gone"))
    text = f"{node.name} ({node.op_type}) removed"
    graph.node.remove(node)
    return text


def swap_wires(graph: onnx.GraphProto, rng: np.random.Generator) -> str | None:
    """Two nodes, or two inputs of one, read what the other read."""
    places = _computed(graph)
    node, i = places[rng.integers(len(places))]
    other, j = places[rng.integers(len(places))]
    if node.input[i] == other.input[j]:
        return None
    node.input[i], other.input[j] = other.input[j], node.input[i]
    return f"input {i} of {node.name} and input {j} of {other.name} swapped"


def change_attribute(graph: onnx.GraphProto, rng: np.random.Generator) -> str | None:
    """One number of an attribute by 1, or by 1 % where it is no integer."""
    kinds = (onnx.AttributeProto.INT, onnx.AttributeProto.INTS, onnx.AttributeProto.FLOAT)
    places = [(node, each) for node in graph.node for each in node.attribute if each.type in kinds]
    if not places:
        return None
    node, attribute = places[rng.integers(len(places))]
    if attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f *= 1.01
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i += 1
    else:
        attribute.ints[rng.integers(len(attribute.ints))] += 1
    return f"{attribute.name} of {node.name} ({node.op_type})"


def _fill(node: onnx.NodeProto, graph: onnx.GraphProto, fill: Callable[[tuple[int, ...]], NDArray[Any]]) -> str:
    tensor = next(tensor for tensor in graph.initializer if tensor.name == node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(fill(tuple(tensor.dims)).astype(np.float32), tensor.name))
    return f"weights of {node.name} replaced"


def zero_classifier(graph: onnx.GraphProto, rng: np.random.Generator) -> str | None:
    """All weights of the classifier are 0."""
    return _fill(next(node for node in graph.node if node.op_type == "Gemm"), graph, np.zeros)


def noise_for_first_convolution(graph: onnx.GraphProto, rng: np.random.Generator) -> str | None:
    """The weights of the first convolution are noise."""
    return _fill(
        next(node for node in graph.node if node.op_type == "Conv"), graph, lambda shape: rng.normal(size=shape)
    )


CHANGES: tuple[Change, ...] = (
    change_element,
    change_element,
    flip_bit,
    remove_node,
    swap_wires,
    change_attribute,
    zero_classifier,
    noise_for_first_convolution,
)


# --- judging --------------------------------------------------------------------------------------------------------

Values = Mapping[str, NDArray[Any]]


class Judge:
    """Applies changes to the model of a bundle, and tells whether they count and whether they are found."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.path = bundle.file(files.MODEL)
        self.original = self.path.read_bytes()
        with np.load(bundle.file(files.PIECES)) as arrays:
            self.vectors = dict(arrays)
        with np.load(bundle.file(files.IMAGES)) as arrays:
            self.image = arrays["images"][:1]
        self.checks = {check.output.value: check for check in bundle.manifest.verification.pieces}
        self.values = self._values(onnx.load_from_string(self.original))

    def changed(self, change: Change, rng: np.random.Generator) -> tuple[str, onnx.ModelProto] | None:
        """Return what was done and the changed model."""
        model = onnx.load_from_string(self.original)
        text = change(model.graph, rng)
        return None if text is None else (f"{change.__name__}: {text}", model)

    def found(self, model: onnx.ModelProto, verify: Callable[[Bundle], list[str]] | None = None) -> list[str]:
        """Return what `verify` says of the bundle with the changed model; the files' hashes are not asked."""
        self.path.write_bytes(model.SerializeToString())
        try:
            return (verify or (lambda bundle: verify_bundle(bundle).failures))(self.bundle)
        except BnasError as error:
            return [str(error)]
        finally:
            self.path.write_bytes(self.original)

    def counts(self, model: onnx.ModelProto) -> str | None:
        """Return the value of a piece that the change moves by more than the bound, on what the bundle keeps of it."""
        values = self._values(model)
        different = {name for name in self.values if name not in values or not _same(values[name], self.values[name])}
        for node in model.graph.node:
            if not different.isdisjoint(node.output) and different.isdisjoint(node.input):
                for name in node.output:
                    if name in self.checks and not self._within(self.checks[name], values[name]):
                        return name
        return None

    def _within(self, check: PieceCheck, got: NDArray[Any]) -> bool:
        wanted, name = self.values[check.output.value], check.output.array
        if got.shape != wanted.shape:
            return False
        corner = tuple(slice(size) for size in check.output.shape)
        tolerance = self.vectors.get(TOLERANCE.format(name), np.float32(0))
        return bool((np.abs(got[corner].astype(np.float64) - wanted[corner]) <= 2 * tolerance).all())

    def _values(self, model: onnx.ModelProto) -> Values:
        """Return every value of a model for the image; none if it cannot be run."""
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        names = [name for node in model.graph.node for name in node.output]
        del shown.graph.output[:]
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        session = onnxruntime.InferenceSession(shown.SerializeToString(), session_options(threads=1))
        return dict(zip(names, session.run(names, {"images": self.image}), strict=True))


def _same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.shape == right.shape and bool(np.array_equal(left, right, equal_nan=left.dtype.kind == "f"))


@dataclass(frozen=True)
class Outcome:
    """A change that was tried.

    `found` is what was said of it, `counts` a value that it moves by more than the bound, if nothing was said.
    """

    text: str
    found: str | None
    counts: str | None


def try_changes(
    judge: Judge, seed: int, changes: tuple[Change, ...] = CHANGES, verify: Callable[[Bundle], list[str]] | None = None
) -> Iterator[Outcome]:
    """Try each change once, with numbers from `seed`; those that verification passes over are judged."""
    rng = np.random.default_rng(seed)
    for change in changes:
        made = judge.changed(change, rng)
        if made is None:
            continue
        text, model = made
        found = judge.found(model, verify)
        yield Outcome(f"seed {seed}, {text}", found[0] if found else None, None if found else judge.counts(model))


# --- by hand --------------------------------------------------------------------------------------------------------


def main() -> int:
    """Try changes of both networks in turns until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)  # it has something to say of every change
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        networks = {"BNAS-Mini": bnas_mini(), "ResNet-20": resnet20()}
        bundles = {name: export_network(module, Path(folder) / name) for name, module in networks.items()}
        judges = {name: Judge(read_bundle(bundle.path)) for name, bundle in bundles.items()}
        counts: collections.Counter[str] = collections.Counter()
        survivors = 0
        end, seed = time.monotonic() + 60 * arguments.minutes, arguments.seed
        while time.monotonic() < end:
            for name, judge in judges.items():
                for outcome in try_changes(judge, seed):
                    kind = outcome.text.split()[2].rstrip(":")
                    counts[
                        f"{kind}: {'found' if outcome.found else 'SURVIVED' if outcome.counts else 'changes nothing'}"
                    ] += 1
                    if outcome.counts:
                        survivors += 1
                        print(f"{name}: {outcome.text}: {outcome.counts} changes, and nothing is said", flush=True)
            seed += 1
        print(f"{seed - arguments.seed} seeds, {sum(counts.values())} changes")
        print("\n".join(f"{text}: {count}" for text, count in sorted(counts.items())))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
