"""`bnas-deploy bench-ops`: the table of a device that a latency-aware search aims at."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.measuring import effort_options, json_option
from bnas_deploy.commands.network_options import given_settings, network_settings
from bnas_deploy.commands.options import Decorator, Name, all_of, check_outputs, image_size_option, say

# These import no framework.
from bnas_deploy.search.models.family import Family, ModelConfig
from bnas_deploy.search.models.registry import FAMILIES, configure, searched_networks
from bnas_deploy.search.models.settings import Setting

DEFAULT_NETWORK = "BNAS-A"


def _of_workloads(family: Family) -> tuple[Setting, ...]:
    return family.searched.settings if family.searched else ()


_PURPOSES = (
    "for `bnas-deploy search --latency-target` and `bnas-deploy pareto`",
    "for `bnas-deploy search-widths --latency-table`",
)
"""What a table is for: of a network whose operations are searched, and of one whose widths are."""

target_options: Decorator = all_of(
    click.option("--network", type=Name(searched_networks()), help=f"Published size. [default: {DEFAULT_NETWORK}]"),
    image_size_option("Height and width of the images. [default: its own]"),
    click.option("--in-channels", type=click.IntRange(min=1), help="Channels of the images. [default: 3]"),
    click.option("--classes", type=click.IntRange(min=1), help="Number of classes. [default: its own]"),
    network_settings(_of_workloads),
)
"""The options that say of which network a latency is; they arrive as the arguments of `target_config`."""


def target_config(
    network: str | None = None,
    image_size: tuple[int, int] | None = None,
    in_channels: int | None = None,
    classes: int | None = None,
    **options: Any,
) -> ModelConfig:
    """Return the network that the options name, with the operations that it was published with."""
    return configure(
        network or DEFAULT_NETWORK,
        classes=classes,
        in_channels=in_channels or 3,
        image_size=image_size,
        options=given_settings(options),
    )


@click.command("bench-ops", cls=Command)
@target_options
@click.option(
    "--float-layers",
    nargs=2,
    metavar="FLOAT INT8",
    type=click.Path(path_type=Path),
    help="Measure these two bundles instead, of one network: its float layers as such and in 8 bits.",
)
@effort_options("1", "all operations together", several=False)
@json_option
def command(
    threads: tuple[int, ...] | None,
    batches: tuple[int, ...],
    min_seconds: float,
    json_path: Path | None,
    float_layers: tuple[Path, Path] | None = None,
    **target: Any,
) -> None:
    """Measure every operation that a network of a size can have, as it is in an exported network.

    It is measured on the device itself, with one number of threads and of images. The file of --json is the table that
    a latency-aware search needs of a device. Of a network whose widths are searched, every layer is measured with a
    quarter to four times its channels; that needs PyTorch.

    With --float-layers the file of --json is the table that `export --float-layers auto --latency-table` chooses by.
    The bundles are exported with --float-layers float and int8.
    """
    counts = threads or (1,)
    for what, numbers in (("threads", counts), ("images", batches)):
        if len(numbers) > 1:
            raise click.UsageError(
                f"bench-ops measures with one number of {what}, got {','.join(map(str, numbers))}; give one"
            )
    check_outputs({"--json": json_path})
    effort: dict[str, Any] = {"threads": counts[0], "batch": batches[0], "min_seconds": min_seconds}
    if float_layers:
        _refuse_targets(target)
        _measure_float_layers(*float_layers, json_path, effort)
        return
    # Imported here so that --help does not wait for numpy.
    from bnas_deploy.core.files import write_whole
    from bnas_deploy.report.latency import describe
    from bnas_deploy.report.measuring import measure_operations

    config = target_config(**target)
    table = measure_operations(config, **effort, on_step=say)
    click.echo(describe(table))
    if json_path:
        write_whole(json_path, table.to_json().encode())
        click.echo(f"{json_path}: {_PURPOSES[FAMILIES[config.model].width_names is not None]}")


def _refuse_targets(target: Mapping[str, Any]) -> None:
    given = [name for name, value in target.items() if value not in (None, False, ())]
    if given:
        raise click.UsageError(
            f"--{given[0].replace('_', '-')} names a network, and --float-layers measures two bundles; leave one out"
        )


def _measure_float_layers(floats: Path, int8: Path, json_path: Path | None, effort: Mapping[str, Any]) -> None:
    from bnas_deploy.core.bundle import read_bundle
    from bnas_deploy.core.files import write_whole
    from bnas_deploy.report.float_layers import describe
    from bnas_deploy.report.measuring import measure_layers_in_8_bits

    table = measure_layers_in_8_bits(read_bundle(floats), read_bundle(int8), **effort, on_step=say)
    click.echo("\n".join(describe(table)))
    if json_path:
        write_whole(json_path, table.to_json().encode())
        click.echo(f"{json_path}: for `bnas-deploy export --float-layers auto --latency-table`")
