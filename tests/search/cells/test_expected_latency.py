"""The latency term of a search against a sum that is written out."""

import random
import statistics

import pytest
import torch

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import OPERATIONS, Cell, Edge
from bnas_deploy.core.latency_table import LatencyTable, Workload, WorkloadTime
from bnas_deploy.search.cells.expected_latency import ExpectedLatency
from bnas_deploy.search.cells.objective import Probabilities
from bnas_deploy.search.models.bnas.candidate_workloads import candidate_workloads
from bnas_deploy.search.models.bnas.config import published_config

CONFIG = published_config("BNAS-Mini")
EDGES = [(source, node) for node in range(2, 6) for source in range(node)]


def table_of(us: dict[Workload, float]) -> LatencyTable:
    times = tuple(WorkloadTime(workload, time, time, time, 10) for workload, time in us.items())
    return LatencyTable({"cpu": "a processor"}, "avx2", CONFIG.to_json(), 1, 1, times)


@pytest.fixture
def times() -> dict[Workload, float]:
    rng = random.Random(0)
    return {workload: rng.uniform(1, 100) for workload in candidate_workloads(CONFIG)}


def probabilities(seed: int = 0) -> Probabilities:
    generator = torch.Generator().manual_seed(seed)
    normal, reduction = (
        torch.randn(len(EDGES), len(OPERATIONS), generator=generator, dtype=torch.float64).softmax(dim=1)
        for _ in range(2)
    )
    return Probabilities(normal.requires_grad_(), reduction.requires_grad_())


def workload(operation: str, channels: int, side: int, stride: int) -> Workload:
    """Return what an operation is, from its name."""
    pool = {"max_pool_3x3": "MaxPool", "avg_pool_3x3": "AveragePool"}.get(operation)
    kernel, dilation = int(operation[-1]), 2 if "_dil_" in operation else 1
    return Workload(
        pool or "BinaryConv2dRelu",
        (channels, side, side),
        (channels, side // stride, side // stride),
        (kernel, kernel),
        (stride, stride),
        (dilation, dilation),
    )


def obvious_sum(times: dict[Workload, float], given: Probabilities) -> float:
    """BNAS-Mini: ten cells from 24 channels on 32x32 images; cells 3 and 6 reduce."""
    total = 0.0
    channels, size = 24, 32
    for cell in range(10):
        reduces = cell in (3, 6)
        if reduces:
            channels, size = 2 * channels, size // 2
        table = given.reduction if reduces else given.normal
        for row, (source, node) in enumerate(EDGES):
            for column, operation in enumerate(OPERATIONS):
                if operation == "none":
                    continue
                halves = reduces and source in (0, 1)
                side = 2 * size if halves else size
                each = workload(operation, channels, side, 2 if halves else 1)
                candidates = sum(1 for _, other in EDGES if other == node)
                total += 2 / candidates * table[row, column].item() * times[each]
    return total


def obvious_latency(times: dict[Workload, float], normal: Cell, reduction: Cell) -> float:
    """Add up the operations of a network of these cells."""
    total = 0.0
    channels, size = 24, 32
    for cell in range(10):
        reduces = cell in (3, 6)
        if reduces:
            channels, size = 2 * channels, size // 2
        for edge in (reduction if reduces else normal).edges:
            halves = reduces and edge.source in (0, 1)
            total += times[workload(edge.operation, channels, 2 * size if halves else size, 2 if halves else 1)]
    return total


def term(times: dict[Workload, float], weight: float = 1.0) -> ExpectedLatency:
    return ExpectedLatency(table_of(times), CONFIG, OPERATIONS, EDGES, weight)


def test_the_expectation_is_the_obvious_sum(times: dict[Workload, float]) -> None:
    given = probabilities()
    # The table is held in float32: each of its entries is off by at most 2^-24 of itself, and so is the sum.
    assert term(times).expected_us(given).item() == pytest.approx(obvious_sum(times, given), rel=2**-23)


def test_its_gradient_is_the_time_of_each_operation(times: dict[Workload, float]) -> None:
    given = probabilities()
    latency = term(times, weight=0.5)
    latency(given, 3, torch.tensor(0.8)).backward()
    both = workload("bin_conv_5x5", 48, 32, 2), workload("bin_conv_5x5", 96, 16, 2)
    row, column = EDGES.index((1, 3)), OPERATIONS.index("bin_conv_5x5")
    expected = 0.8 * 0.5 / latency.uniform_us * 2 / 3 * sum(times[each] for each in both)
    assert given.reduction.grad is not None
    assert given.reduction.grad[row, column].item() == pytest.approx(expected, rel=2**-22)
    assert (given.reduction.grad[:, OPERATIONS.index("none")] == 0).all()


def test_the_term_begins_at_its_weight_times_the_cross_entropy_on_any_device(times: dict[Workload, float]) -> None:
    uniform = torch.full((len(EDGES), len(OPERATIONS)), 1 / len(OPERATIONS), dtype=torch.float64)
    for slower in (1, 40):
        scaled = {each: slower * time for each, time in times.items()}
        begun = term(scaled, weight=0.3)(Probabilities(uniform, uniform), 0, torch.tensor(2.0))
        assert begun.item() == pytest.approx(0.6, rel=2**-20)


def test_random_genotypes_take_what_is_expected_of_them(times: dict[Workload, float]) -> None:
    """The mean over cells that are drawn from the probabilities, two edges for each node, is the expectation.

    Of convolutions only: equal pools are done once, and nothing is done to a state that is zero.
    """
    columns = torch.tensor([name.startswith("bin_") for name in OPERATIONS])
    drawn = probabilities()
    given = Probabilities(
        *((table * columns / (table * columns).sum(1, True)) for table in (drawn.normal, drawn.reduction))
    )
    rng = random.Random(1)

    def draw(table: torch.Tensor) -> Cell:
        edges = []
        for node in range(2, 6):
            for source in rng.sample(range(node), 2):
                weights = table[EDGES.index((source, node))].tolist()
                edges.append(Edge(rng.choices(OPERATIONS, weights)[0], source))
        return Cell(tuple(edges))

    latencies = []
    for _ in range(300):
        drawn_cells = draw(given.normal), draw(given.reduction)
        latencies.append(obvious_latency(times, *drawn_cells))
    # The mean of n draws is within four of its standard deviations, 9999 times of 10000; the seed is fixed.
    spread = statistics.stdev(latencies) / len(latencies) ** 0.5
    assert abs(statistics.fmean(latencies) - term(times).expected_us(given).item()) < 4 * spread


def test_a_space_with_other_operations_is_refused(times: dict[Workload, float]) -> None:
    with pytest.raises(BnasError) as refused:
        ExpectedLatency(table_of(times), CONFIG, (*OPERATIONS, "bin_sep_conv_3x3"), EDGES, 1.0)
    assert refused.value.message.startswith(
        "--latency-target: there is no table of latencies with bin_sep_conv_3x3; search without it"
    )


def test_settings_tell_searches_apart(times: dict[Workload, float]) -> None:
    settings = term(times, weight=0.5).settings()
    assert settings["weight"] == 0.5
    assert settings["network"] == "BNAS-Mini"
    assert term({each: 2 * time for each, time in times.items()}).settings() != term(times).settings()
