"""The latency that a network would have, as a term that a search can descend.

An edge of a cell is, with probability p[edge, operation], that operation. In the finished network it stands in every
cell of the kind, with that cell's channels and images, and takes what the table of the device says. Of the n edges
that could lead to a node two are kept; as long as nothing is decided each with chance 2 / n. So

    E[T] = sum over cells k, edges e, operations o   2 / n(e) * p[e, o] * T(o in cell k)

a linear function of the probabilities. Everything else in a network is left out, though a little of it depends on p
too: Zeroise saves sums, and input channels of the next cell. `bnas_deploy.export.workloads` counts all of it, for the
latencies that are reported.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import EDGES_PER_NODE, INPUT_NODES, OPERATIONS, ZEROISE
from bnas_deploy.core.latency_table import LatencyTable, read_latency_table
from bnas_deploy.search.cells.config import SupernetConfig
from bnas_deploy.search.cells.objective import Objective, Probabilities
from bnas_deploy.search.cells.space import EDGES
from bnas_deploy.search.models.bnas.candidate_workloads import operation_workload
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.positions import CellPosition, cell_positions

Edge = tuple[int, int]


class ExpectedLatency:
    """weight * CE * E[T] / U; CE is the cross-entropy, U is E[T] where all operations are equally probable.

    So a weight means the same on fast and slow devices, and for easy and hard images. A search begins where latency
    counts `weight` times as much as cross-entropy. CE is taken as a number, without a gradient. Weighed against
    nothing, latency would decide alone as soon as a supernet is right about all its images.

    Args:
        table: of the device.
        config: the network that will be built from the cells, whatever its genotype.
        operations: the columns of the probabilities.
        edges: their rows, (source, node).
        weight: how much latency counts beside the cross-entropy.
    """

    def __init__(
        self,
        table: LatencyTable,
        config: NetworkConfig,
        operations: Sequence[str],
        edges: Sequence[Edge],
        weight: float,
    ) -> None:
        unknown = next((name for name in operations if name not in OPERATIONS), None)
        if unknown is not None:
            raise BnasError(
                f"--latency-target: there is no table of latencies with {unknown}; search without it, in the space of "
                f"{', '.join(OPERATIONS)}"
            )
        self.weight = weight
        self.network = config.name
        self.isa = table.isa
        self.threads = table.threads
        self.normal_us, self.reduction_us = (
            operation_us(table, config, operations, edges, reduction=reduction) for reduction in (False, True)
        )
        self.uniform_us = float((self.normal_us.sum() + self.reduction_us.sum()) / len(operations))
        if self.uniform_us == 0:
            raise BnasError("--latency-target: every operation takes no time in it; measure the device again")

    def __call__(self, probabilities: Probabilities, epoch: int, cross_entropy: Tensor) -> Tensor:
        """Return the term; `epoch` does not matter."""
        return self.weight / self.uniform_us * cross_entropy * self.expected_us(probabilities)

    def expected_us(self, probabilities: Probabilities) -> Tensor:
        """Return E[T] in microseconds, a scalar."""
        normal, reduction = probabilities.normal, probabilities.reduction
        total: Tensor = (normal * self.normal_us.to(normal)).sum() + (reduction * self.reduction_us.to(reduction)).sum()
        return total

    def settings(self) -> Mapping[str, Any]:
        """Return what a resumed search must have again."""
        return {
            "weight": self.weight,
            "network": self.network,
            "isa": self.isa,
            "threads": self.threads,
            "uniform_us": self.uniform_us,
        }


def operation_us(
    table: LatencyTable,
    config: NetworkConfig,
    operations: Sequence[str],
    edges: Sequence[Edge],
    *,
    reduction: bool,
) -> Tensor:
    """Return sum over cells k of 2 / n(e) * T(o in cell k): float32 (edges, operations), in microseconds."""
    positions = [position for position in cell_positions(config) if position.reduction == reduction]
    return torch.tensor(
        [
            [
                EDGES_PER_NODE / node * sum(_us(table, name, source, position) for position in positions)
                for name in operations
            ]
            for source, node in edges  # node n can read the n states before it
        ]
    )


def _us(table: LatencyTable, operation: str, source: int, position: CellPosition) -> float:
    if operation == ZEROISE:
        return 0.0
    halves = position.reduction and source < INPUT_NODES
    image, stride = (position.image, 2) if halves else (position.output_image, 1)
    return table.us(operation_workload(operation, position.channels, image, stride))


def read_target(target: Path, *, k_map: bool) -> LatencyTable:
    """Return the latency table that a search aims at.

    Raises:
        BnasError: it cannot be read, or has no times of what is searched, which is `k_map`: convolutions with K.
    """
    if k_map:
        raise BnasError(f"--k-map: {target} has no times of convolutions with K; search without it")
    return read_latency_table(target)


def latency_objectives(
    target: Path | None, weight: float | None, supernet: SupernetConfig, warn: Callable[[str], object]
) -> dict[str, Objective]:
    """Return the latency term of a search, by its name; none unless there are a device to aim at and a weight.

    Args:
        target: the latency table of the device.
        weight: how much latency counts.
        supernet: what is searched.
        warn: is told where the table's network has other images, which may be what is wanted.

    Raises:
        BnasError: the table cannot be read, or has no times of what is searched.
    """
    if target is None or weight is None:
        return {}
    table = read_target(target, k_map=supernet.k_map)
    network = NetworkConfig.from_json(table.network, f"{target}: network")
    if warning := _other_size(target, network, supernet):
        warn(warning)
    return {"latency": ExpectedLatency(table, network, supernet.space.operations, EDGES, weight)}


def _other_size(target: Path, network: NetworkConfig, supernet: SupernetConfig) -> str | None:
    """Say where the network that a table is of has other images than the search."""
    names = {"image_size": "images of", "in_channels": "channels of the images:", "classes": "classes:"}
    sizes = [{name: getattr(each, name) for name in names} for each in (network, supernet)]
    there, here = [{**each, "image_size": "x".join(map(str, each["image_size"]))} for each in sizes]
    differing = [
        f"{words} {there[name]}, here {here[name]}" for name, words in names.items() if there[name] != here[name]
    ]
    if not differing:
        return None
    size = f"--image-size {here['image_size']} --in-channels {supernet.in_channels} --classes {supernet.classes}"
    again = f"bnas-deploy bench-ops --network {network.name} {size} --json {target}"
    return (
        f"Warning: {target} is of another network than these data are for ({'; '.join(differing)}). "
        f"The search aims at that one. Unless that is meant, measure again: {again}"
    )
