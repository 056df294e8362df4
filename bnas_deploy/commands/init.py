"""`bnas-deploy init`: an untrained checkpoint, to measure latency before training anything."""

from pathlib import Path
from typing import Any

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.network_options import given_settings, network_settings
from bnas_deploy.commands.options import Name, image_size_option, output_option, seed_option

# Imports no framework.
from bnas_deploy.search.models.registry import configure, network_names


@click.command("init", cls=Command)
@click.option("--network", type=Name(network_names()), default="BNAS-A", show_default=True, help="Published size.")
@click.option("--classes", type=click.IntRange(min=1), help="Classes. [default: as published, 10 or 1000]")
@image_size_option("Height and width of the images. [default: as published, 32 or 224]")
@click.option("--in-channels", type=click.IntRange(min=1), default=3, show_default=True, help="Channels of the images.")
@network_settings()
@seed_option("weights and batch-normalisation statistics")
@output_option("File to write.", required=True)
def command(
    network: str,
    classes: int | None,
    image_size: tuple[int, int] | None,
    in_channels: int,
    seed: int,
    output: Path,
    **options: Any,
) -> None:
    """Write a checkpoint with random weights and non-trivial batch-normalisation statistics.

    Latency does not depend on the weights, so this is all it takes to measure a network: init, export, bench.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.search.training.checkpoint import save_checkpoint
    from bnas_deploy.search.training.untrained import untrained_checkpoint

    config = configure(
        network,
        classes=classes,
        image_size=image_size,
        in_channels=in_channels,
        options=given_settings(options),
    )
    save_checkpoint(output, untrained_checkpoint(config, seed))
    click.echo(f"{output}: {config.name}, untrained. Next: bnas-deploy export {output} -o BUNDLE")
