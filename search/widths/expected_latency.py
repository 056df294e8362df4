"""The latency of a network of some widths on a device, interpolated in the channels of measured layers.

    T(widths) = T(run) + sum over layers of T_layer(channels read, channels written)

T_layer is bilinear between the measured pairs of channels, and beyond the last of them goes on as a straight line. A
layer reads one width and writes another, so its expectation is a sum over pairs of candidates

    E[T] = T(run) + sum over layers and candidates a, b of p_a p_b T_layer(c_a, c_b)

Pools, BN and sums are left out, as in `bnas_deploy.search.cells.expected_latency`. What DMS leaves as future work.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.latency_table import RUN, LatencyTable, read_latency_table
from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.width_workloads import LayerGrid, layer_grids

_AT_ONCE = 2  # widths that one layer may depend on: its sum over candidates has 3 to the power of them


class Latency:
    """The microseconds of a network of some widths.

    Args:
        table: of the device, for the base network.
        config: the base.

    Raises:
        BnasError: the table has no time of a layer of this network, or a layer depends on too many widths.
    """

    def __init__(self, table: LatencyTable, config: BackboneConfig) -> None:
        self.table = table
        self.run_us = table.us(RUN)
        self.layers = [_Times(table, grid) for grid in layer_grids(config)]
        for layer in self.layers:
            if len(layer.widths) > _AT_ONCE:
                raise BnasError(
                    f"{config.name}: the time of {layer.name} depends on {len(layer.widths)} widths, more than "
                    f"{_AT_ONCE}; aim at --memory-target"
                )

    def of(self, widths: Sequence[int]) -> float:
        """Return the microseconds of the network of some widths."""
        channels = torch.tensor(widths, dtype=torch.float64)[:, None]
        return float(self.expected(channels, torch.ones_like(channels)))

    def expected(self, channels: Tensor, p: Tensor) -> Tensor:
        """Return the expected microseconds."""
        total = p.new_tensor(self.run_us)
        for layer in self.layers:
            total = total + layer.expected_us(channels, p)
        return total

    def settings(self) -> Mapping[str, Any]:
        """Return which table it is: its machine, and a number that changes with any of its times."""
        return {
            "machine": dict(self.table.machine),
            "isa": self.table.isa,
            "threads": self.table.threads,
            "sum_us": float(sum(layer.us.sum() for layer in self.layers)),
        }


class _Times:
    """The times of one layer: `us` (read, out) at the channels of its grid."""

    def __init__(self, table: LatencyTable, grid: LayerGrid) -> None:
        self.name = grid.layer.cost.name
        self.read, self.out = grid.layer.read, grid.layer.out
        self.widths = tuple(sorted({*self.read.of_widths, *self.out.of_widths}))
        self.read_grid, self.out_grid = (torch.tensor(side, dtype=torch.float64) for side in (grid.read, grid.out))
        self.us = torch.tensor(
            [[table.us(grid.workload(read, out)) for out in grid.out] for read in grid.read], dtype=torch.float64
        )

    def expected_us(self, channels: Tensor, p: Tensor) -> Tensor:
        """Return the sum over the candidates of all widths of this layer, each with its probability."""
        chosen = torch.cartesian_prod(*(torch.arange(p.shape[1]) for _ in self.widths)).reshape(-1, len(self.widths))
        read = p.new_full((len(chosen),), self.read.constant)
        out = p.new_full((len(chosen),), self.out.constant)
        probability = torch.ones_like(read)
        for width, which in zip(self.widths, chosen.T, strict=True):
            read = read + self.read.shares[width] * channels[width, which]
            out = out + self.out.shares[width] * channels[width, which]
            probability = probability * p[width, which]
        return (probability * interpolated(self.read_grid, self.out_grid, self.us, read, out)).sum()


def read_latency(path: Path, config: BackboneConfig) -> Latency:
    """Read the table of a device for a search of the widths of a network.

    Raises:
        BnasError: it cannot be read, is of another network, or lacks a layer.
    """
    table = read_latency_table(path)
    for name in ("network", "form", "widths", "image_size", "in_channels", "classes"):
        there, here = table.network.get(name), getattr(config, name)
        if (list(here) if isinstance(here, tuple) else here) != there:
            height, width = config.image_size
            raise BnasError(
                f"{path}: a table for {name} {there}, and the base here has {here}; measure it: bnas-deploy bench-ops "
                f"--network {config.network} --form {config.form} --widths {','.join(map(str, config.widths))} "
                f"--image-size {height}x{width} --in-channels {config.in_channels} --classes {config.classes} "
                f"--json {path}"
            )
    return Latency(table, config)


def interpolated(read_grid: Tensor, out_grid: Tensor, us: Tensor, read: Tensor, out: Tensor) -> Tensor:
    """Return the times (N) at some channels, read and out (N): bilinear in a table (read, out), and at least 0."""
    rows, columns = _weights(read_grid, read), _weights(out_grid, out)
    return torch.einsum("nr,ro,no->n", rows, us.to(rows), columns).clamp_min(0)


def _weights(grid: Tensor, at: Tensor) -> Tensor:
    """Return how much each grid point counts at `at`, (N) to (N, points).

    Outside of the grid the last two points count, one of them negatively.
    """
    grid = grid.to(at)
    if len(grid) == 1:
        return torch.ones_like(at)[:, None]
    left = (torch.searchsorted(grid, at.detach()) - 1).clamp(0, len(grid) - 2)
    share = (at - grid[left]) / (grid[left + 1] - grid[left])
    both = torch.stack([1 - share, share], dim=1)
    return torch.zeros(len(at), len(grid)).to(at).scatter(1, torch.stack([left, left + 1], dim=1), both)
