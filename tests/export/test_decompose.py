"""A program is decomposed without being traced again where that gives the same graph, and by PyTorch elsewhere."""

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core.errors import ExportError
from bnas_deploy.export import Description, Inputs, export_module
from bnas_deploy.export import capture as capture_module
from bnas_deploy.export.capture import capture
from bnas_deploy.export.decompose import LightlyDecomposed, lightly_decomposed
from bnas_deploy.search.nn.layers import BinaryConv2d


class Usual(nn.Module):
    """What networks mostly consist of; its input has the name of a function in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm, self.plain = nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False)
        self.layer = BinaryConv2d(8, 8, 3, padding=1)
        self.prelu, self.head = nn.PReLU(8), nn.Linear(16, 5)
        self.shift = nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(input)))
        x = x + self.shift.expand_as(x)
        y = self.prelu(self.plain(self.layer(x))) + F.hardtanh(x)
        y = torch.cat((F.max_pool2d(y, 2), F.avg_pool2d(x * torch.sigmoid(y), 2)), 1)
        y = F.adaptive_avg_pool2d(F.pad(-y.abs(), (1, 0, 0, 1)), 1)
        return self.head((1 - y.clamp(-0.5, 0.75)).mean((2, 3))) / 3 - 0.25


class Other(nn.Module):
    """What some networks have besides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.vectors = nn.Conv2d(3, 4, 1), nn.Conv1d(4, 4, 3)
        self.group, self.each, self.layer = nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        rising = (torch.exp, F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.relu6, F.elu, F.leaky_relu, torch.tanh)
        for function in rising:
            x = x + function(x).clone()
        x = torch.maximum(self.group(x), self.each(x)) + self.layer(x).sign() + x.abs().sqrt() + x**2
        shuffled = F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2) * F.interpolate(x, scale_factor=2)
        first, second = shuffled.split([1, 3], 1)
        x = torch.cat((second, first), 1)[:, :, :8, :8] @ x.transpose(2, 3).softmax(1)
        rows = self.vectors(torch.bmm(x[:, 0], x[:, 1])[:, :4].permute(0, 2, 1)[:, :4])
        wide = x[:, :1].expand(-1, 4, -1, -1).detach()
        pooled = x.amax((2, 3)) + x.sum((2, 3)) * x.mean() + wide.mean(3, keepdim=True).squeeze(3).mean(2)
        pooled = pooled[:, :, None, None].squeeze((2, 3))
        return torch.cat((pooled, rows.view(x.size(0), -1)), 1)


def _listed(model: ir.Model) -> list[tuple[object, ...]]:
    """List nodes with what they read and are, and values by when they come: names of values differ."""
    numbers: dict[ir.Value, object] = {}

    def seen(value: ir.Value | None) -> object:
        if value is None:
            return None
        if value.const_value is not None and value.producer() is None:
            return value.const_value.numpy().tobytes()
        return numbers.setdefault(value, len(numbers))

    return [
        (
            node.domain,
            node.op_type,
            str(node.attributes),
            [*map(seen, node.inputs)],
            [(seen(value), str(value.shape), value.dtype) for value in node.outputs],
        )
        for node in model.graph
    ]


@pytest.mark.parametrize("kind", [Usual, Other])
def test_it_is_the_graph_of_pytorchs_decomposition(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    module, programs = kind().eval(), []

    def noted(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
        programs.append(lightly_decomposed(program))
        return programs[-1]

    monkeypatch.setattr(capture_module, "lightly_decomposed", noted)
    light = capture(module, (3, 8, 8))
    monkeypatch.setattr(capture_module, "lightly_decomposed", lambda program: program)
    by_pytorch = capture(module, (3, 8, 8))

    assert [type(program) for program in programs] == [LightlyDecomposed]
    assert _listed(light.model) == _listed(by_pytorch.model)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(light.values_of(images)["logits"], module(images), rtol=0, atol=0)


def test_flattening_is_a_node_of_its_own() -> None:
    """PyTorch's decomposition computes the shape, in four nodes."""
    captured = capture(nn.Flatten(), (3, 4, 5))
    assert [node.op_type for node in captured.model.graph] == ["Flatten"]
    images = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(captured.values_of(images)["logits"], images.reshape(2, 60), rtol=0, atol=0)


def _program(forward: Callable[[Tensor], Tensor]) -> torch.export.ExportedProgram:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return forward(x)

    return torch.export.export(Module().eval(), (torch.randn(2, 3, 8, 8),))


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: F.relu(x + 1, inplace=True),
        lambda x: F.adaptive_avg_pool2d(x, 2),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: torch.rsub(x, 1, alpha=2),
        lambda x: x + torch.tensor([1.0, 2, 3]).reshape(3, 1, 1),
        lambda x: torch.special.erfcx(x),
        lambda x: x.reshape(-1, 8),
    ],
    ids=[
        "in place",
        "pooling to 2x2",
        "statistics of the batch",
        "a multiple from a number",
        "constant",
        "unusual",
        "a copy or not",
    ],
)
def test_what_needs_pytorchs_decomposition_is_left_to_it(forward: Callable[[Tensor], Tensor]) -> None:
    program = _program(forward)
    before = str(program.graph)
    assert lightly_decomposed(program) is program
    assert str(program.graph) == before


def test_a_node_whose_result_is_not_known_is_left_to_pytorch() -> None:
    program = _program(F.relu)
    (node,) = (node for node in program.graph.nodes if node.op == "call_function")
    del node.meta["val"]
    assert lightly_decomposed(program) is program


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of PyTorch's own use of itself
def test_another_table_decomposes_it_after_all() -> None:
    """PyTorch and torch.onnx may change their minds on what has a translation."""
    light = lightly_decomposed(_program(F.hardtanh))
    assert isinstance(light, LightlyDecomposed)
    assert light.run_decompositions({torch.ops.aten.relu.default: F.relu}) is light
    decomposed = light.run_decompositions({torch.ops.aten.hardtanh.default: torch.clamp})
    assert [str(node.target) for node in decomposed.graph.nodes if node.op == "call_function"] == ["aten.clamp.default"]


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(3), nn.AdaptiveAvgPool2d((5, 7))], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_decomposition_that_rounds_otherwise_is_exported(pool: nn.Module, seed: int, tmp_path: Path) -> None:
    """Of a pooling of windows that overlap PyTorch makes the mean of gathered pixels, whose sums have another order."""
    torch.manual_seed(seed)
    stem = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16))
    module = nn.Sequential(*stem, BinaryConv2d(16, 16, 3, padding=1), pool, nn.Flatten(), nn.LazyLinear(2)).eval()
    module(torch.zeros(1, 3, 16, 16))
    _export(module, tmp_path)


def _export(module: nn.Module, folder: Path) -> None:
    images = Inputs(torch.randn(2, 3, 16, 16))
    export_module(module, path=folder / "bundle", images=images, description=Description({"name": "pooled"}))


def test_a_decomposition_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
        decomposed = lightly_decomposed(program)
        for node in decomposed.graph.nodes:
            if node.target is torch.ops.aten.relu.default:
                node.target = torch.ops.aten.sigmoid.default
        return decomposed

    module = nn.Sequential(BinaryConv2d(3, 4, 1), nn.ReLU()).eval()
    monkeypatch.setattr(capture_module, "lightly_decomposed", wrong)
    with pytest.raises(ExportError, match=r"PyTorch's decomposition .* differs from its trace by \S+, where"):
        _export(module, tmp_path)
    assert list(tmp_path.iterdir()) == []
