"""Step functions are found exactly, however they are written, and others are told from them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.export.foreign.operations import IMAGES, operation
from bnas_deploy.export.foreign.program import Function, NotElementwise, Program, never_negative, sources_of
from bnas_deploy.export.foreign.steps import NoSteps, Steps, steps_of

CHANNELS = 4
TINY = np.float32(2.0**-149)

Make = Callable[[nn.Module, Tensor], Program]


class Applied(nn.Module):
    """A function of (x, parameter of a channel) in front of a convolution."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.values = nn.Parameter(torch.tensor([0.5, -0.25, 3.0, 0.0])[:, None, None])
        self.weight = nn.Parameter(torch.ones(2, CHANNELS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.function(x, self.values), self.weight)


@dataclass(frozen=True)
class Case:
    """A function, its levels, and its thresholds for one channel or all."""

    function: Callable[[Tensor, Tensor], Tensor]
    levels: tuple[float, ...]
    thresholds: object
    falling: bool = False
    exact: bool = True


def _in_place(x: Tensor, values: Tensor) -> Tensor:
    y = x.clone()
    y[x >= 0] = 1
    y[x < 0] = -1
    return y


def _spline(x: Tensor, values: Tensor) -> Tensor:
    smooth = torch.where(x.abs() < 1, x * (2 - x.abs()), torch.where(x < 0, -1.0, 1.0))
    return torch.where(x >= 0, 1.0, -1.0).detach() - smooth.detach() + smooth


PER_CHANNEL = [0.5, -0.25, 3.0, 0.0]
CASES = {
    "sign": Case(lambda x, _: torch.sign(x), (-1, 0, 1), [[0], [TINY]]),
    "sign of sign": Case(lambda x, _: x.sign().add(0.1).sign(), (-1, 1), 0),
    "where": Case(lambda x, _: torch.where(x >= 0, 1.0, -1.0), (-1, 1), 0),
    "greater": Case(lambda x, _: (x > 0).float(), (0, 1), TINY),
    "greater than a tenth": Case(lambda x, _: (x > 0.1).float() * 0.5, (0, 0.5), np.nextafter(np.float32(0.1), 1)),
    "scaled": Case(lambda x, _: 0.7 * torch.sign(x), (-0.7, 0, 0.7), [[0], [TINY]]),
    "falling": Case(lambda x, _: torch.where(x < 0.25, 1.0, -1.0), (-1, 1), 0.25, falling=True),
    "per channel": Case(lambda x, values: torch.where(x >= values, 1.0, 0.0), (0, 1), PER_CHANNEL),
    "expanded": Case(lambda x, values: 2 * (x >= values.expand_as(x)).float() - 1, (-1, 1), PER_CHANNEL),
    "rounded": Case(lambda x, _: torch.round(torch.clamp(x, 0, 1)), (0, 1), np.nextafter(np.float32(0.5), 1)),
    "in place": Case(_in_place, (-1, 1), 0),
    "masked": Case(lambda x, _: torch.ones_like(x).masked_fill(x < 0, -1.0), (-1, 1), 0),
    "two truths": Case(lambda x, _: 1 - 2 * ((x < 0) | (x < -3)).to(x.dtype), (-1, 1), 0),
    "within the tails": Case(lambda x, _: F.hardtanh(x, -0.5, 0.5).ge(0).type_as(x), (0, 1), 0),
    "two bits": Case(lambda x, _: torch.floor(torch.clamp(x, 0, 3)), (0, 1, 2, 3), [[1], [2], [3]]),
    "straight through": Case(lambda x, _: (torch.where(x > 0, 1.0, -1.0) - x).detach() + x, (-1, 1), TINY, exact=False),
    "spline": Case(_spline, (-1, 1), 0),
}


def _functions(make: Make, function: Callable[[Tensor, Tensor], Tensor]) -> list[Function]:
    program = make(Applied(function), torch.zeros(1, CHANNELS, 2, 3))
    if any(operation(node).endswith("_") for node in program.exported.graph.nodes):
        program = Program(program.exported.run_decompositions({}))
    (conv,) = (node for node in program.exported.graph.nodes if operation(node) == "conv2d")
    return [Function(program, source, conv.args[0], IMAGES) for source in sources_of(program, conv.args[0])]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_steps_are_exact(case: Case, program: Make) -> None:
    *_, of_x = _functions(program, case.function)

    found = steps_of(of_x)

    assert found.levels == pytest.approx(case.levels, rel=1e-7)
    want = np.broadcast_to(np.asarray(case.thresholds, np.float32), (len(case.levels) - 1, CHANNELS))
    assert np.array_equal(found.thresholds, want)
    assert found.falling.all() == found.falling.any() == case.falling
    assert found.exact == case.exact
    assert found.is_sign == (0 in case.levels[1:2])


def test_the_nearest_value_is_what_signs_are_taken_of(program: Make) -> None:
    sources = [each.source for each in _functions(program, lambda x, values: torch.sign(torch.relu(x + values)))]

    assert [operation(source) for source in sources] == ["relu", "add", ""]
    captured = _functions(program, lambda x, values: torch.sign(torch.relu(x + values)))
    assert [never_negative(each.program, each.source) for each in captured] == [True, False, False]


def test_random_steps(program: Make) -> None:
    """Of any two levels, thresholds of any magnitude and either direction; compared where rounding could matter."""

    def function(x: Tensor, values: Tensor) -> Tensor:
        return torch.where((x >= values[0]) ^ (values[1] > 0), values[2], values[3])

    class Random(Applied):
        def __init__(self) -> None:
            super().__init__(function)
            self.values = nn.Parameter(torch.zeros(4, CHANNELS, 1, 1))

    captured = program(Random(), torch.zeros(1, CHANNELS, 1, 1))
    (conv,) = (node for node in captured.exported.graph.nodes if operation(node) == "conv2d")
    *_, source = sources_of(captured, conv.args[0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        thresholds = (rng.normal(size=CHANNELS) * 10.0 ** rng.integers(-38, 38, CHANNELS)).astype(np.float32)
        flips = rng.integers(0, 2, CHANNELS)
        high, low = np.sort(rng.normal(size=2).astype(np.float32))[::-1]
        rows = np.stack([thresholds, flips, np.full(CHANNELS, high), np.full(CHANNELS, low)]).astype(np.float32)
        captured.exported.state_dict["values"].data.copy_(torch.from_numpy(rows)[..., None, None])

        found = steps_of(Function(captured, source, conv.args[0], IMAGES))

        assert found.levels == (low, high)
        assert np.array_equal(found.thresholds[0], thresholds)
        assert np.array_equal(found.falling, flips == 1)
        x = np.concatenate([thresholds[None], np.nextafter(thresholds, np.float32(-np.inf))[None]])
        want = np.where((x >= thresholds) != (flips == 1), high, low)
        assert np.array_equal(found(x), want)


def test_a_channel_that_never_steps(program: Make) -> None:
    """The parameter of a channel may be so large that no float passes it."""
    far = torch.tensor([0.0, torch.inf, -torch.inf, 2.0])[:, None, None]
    function = _functions(program, lambda x, values: torch.where(x >= far, 1.0, -1.0))[-1]

    found = steps_of(function)

    assert found.thresholds.tolist() == [[0, np.inf, -np.inf, 2]]
    assert found(np.full((1, CHANNELS), 1, np.float32)).tolist() == [[1, -1, 1, -1]]


REFUSED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "ReLU": (lambda x, _: torch.relu(x), "it takes more than 4 values, from 0 to 3"),
    "window": (lambda x, _: ((x > -1) & (x < 1)).float(), "it goes up and down between 0 and 1"),
    "constant": (lambda x, _: torch.where(x < x, 1.0, 2.0), "it is 2 everywhere"),
    "infinite": (lambda x, _: 1 / (x > 0).float(), "it is infinite or no number somewhere"),
    "a level for each channel": (lambda x, values: torch.sign(x) * (values + 1), "its levels differ from channel"),
    "steps of two directions": (lambda x, _: torch.sign(x) * torch.sign(x - 2), "it goes up and down between -1, "),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize(("function", "message"), REFUSED.values(), ids=REFUSED)
def test_other_functions(function: Callable[[Tensor, Tensor], Tensor], message: str, program: Make) -> None:
    with pytest.raises(NoSteps, match=message):
        steps_of(_functions(program, function)[-1])


def test_a_function_of_the_place(program: Make) -> None:
    place = torch.arange(6.0).reshape(2, 3)
    with pytest.raises(NotElementwise, match="what it does depends on the place in the image"):
        steps_of(_functions(program, lambda x, _: torch.where(x > place, 1.0, -1.0))[-1])


def test_sums_of_signs_are_the_levels() -> None:
    steps = Steps((0.0, 1.0, 2.0, 3.0), np.array([[1], [2], [3]], np.float32), np.array([False]), True, float("-inf"))
    x = np.linspace(-1, 5, 25, dtype=np.float32)[:, None]
    signs = np.where(x >= steps.thresholds[:, None, 0].T, 1, -1)

    assert np.array_equal(steps.middle + signs @ np.array(steps.heights)[:, None], steps(x))
