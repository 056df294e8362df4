"""`bnas-deploy bench --ops`: the table of a device that a latency-aware search aims at."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

# These import no framework.
from bnas_deploy.commands.options import Name, image_size_option, no_skip_option
from bnas_deploy.search.models.bnas.config import NETWORKS, NetworkConfig, published_config

if TYPE_CHECKING:
    from bnas_deploy.core.latency_table import LatencyTable

DEFAULT_NETWORK = "BNAS-A"

_TARGET = (
    click.option("--network", type=Name(NETWORKS), help=f"Published size. [default: {DEFAULT_NETWORK}]"),
    image_size_option("Height and width of the images. [default: its own]"),
    click.option("--in-channels", type=click.IntRange(min=1), help="Channels of the images. [default: 3]"),
    click.option("--classes", type=click.IntRange(min=1), help="Number of classes. [default: its own]"),
    no_skip_option,
)


def target_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say of which network a latency is; they arrive as the arguments of `target_config`."""
    for option in reversed(_TARGET):
        function = option(function)
    return function


def target_config(
    network: str | None = None,
    image_size: tuple[int, int] | None = None,
    in_channels: int | None = None,
    classes: int | None = None,
    no_skip: bool = False,
) -> NetworkConfig:
    """Return the network that the options name, with the genotype that it was published with."""
    return published_config(
        network or DEFAULT_NETWORK,
        classes=classes,
        in_channels=in_channels or 3,
        image_size=image_size,
        inter_cell_skip=not no_skip,
    )


def run(
    *,
    threads: tuple[int, ...] | None,
    batches: tuple[int, ...],
    min_seconds: float,
    json_path: Path | None,
    target: Mapping[str, Any],
    on_step: Callable[[str], object],
) -> None:
    """Do what `bench --ops` does."""
    from bnas_deploy.core.files import check_writable, write_whole

    counts = threads or (1,)
    for what, numbers in (("threads", counts), ("images", batches)):
        if len(numbers) > 1:
            raise click.UsageError(
                f"--ops measures with one number of {what}, got {','.join(map(str, numbers))}; give one"
            )
    if json_path:
        check_writable(json_path)
    config = target_config(**target)
    table = measure_operations(config, threads=counts[0], batch=batches[0], min_seconds=min_seconds, on_step=on_step)
    click.echo(describe(table))
    if json_path:
        write_whole(json_path, table.to_json().encode())
        click.echo(f"{json_path}: for `bnas-deploy search --latency-target` and `bnas-deploy pareto`")


def measure_operations(
    config: NetworkConfig,
    *,
    threads: int,
    batch: int,
    min_seconds: float,
    on_step: Callable[[str], object],
) -> "LatencyTable":
    """Measure every workload that a network of the size of `config` can have."""
    from bnas_deploy.core.latency_table import LatencyTable
    from bnas_deploy.runtime.bench.machine import native_isa, read_machine
    from bnas_deploy.runtime.bench.operations import measure_workloads
    from bnas_deploy.search.cells.candidate_workloads import candidate_workloads

    machine = read_machine()  # before measuring, so that the load is that of others
    workloads = candidate_workloads(config)
    times = measure_workloads(workloads, threads=threads, batch=batch, min_seconds=min_seconds, on_step=on_step)
    return LatencyTable(asdict(machine), native_isa(), config.to_json(), threads, batch, tuple(times))


def describe(table: "LatencyTable") -> str:
    """Show every workload in a line: microseconds, and from the 10th to the 90th percentile."""
    lines = [f"{'operation':<36} {'µs':>8}   10 to 90 %"]
    lines += [
        f"{time.workload!s:<36} {time.median_us:>8.1f}   {time.p10_us:.1f} to {time.p90_us:.1f}" for time in table.times
    ]
    threads = "1 thread" if table.threads == 1 else f"{table.threads} threads"
    size = "x".join(map(str, table.network["image_size"]))
    lines.append(
        f"{table.network['name']} on {size} images, {threads}, batch {table.batch}, {table.isa} kernels, "
        f"{table.machine['cpu']}"
    )
    return "\n".join(lines)
