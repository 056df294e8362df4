"""`bnas-deploy inspect`: what is in a checkpoint, a bundle or a genotype."""

from pathlib import Path

import click

from bnas_deploy.commands.command import Command


@click.command("inspect", cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Show the layers of FILE (a checkpoint, a bundle or a genotype): shapes, weights, MACs, sizes.

    FILE may also be the folder of a search, or the name of a published genotype, cifar or imagenet.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.report import inspection

    click.echo(inspection.inspect(file), nl=False)
