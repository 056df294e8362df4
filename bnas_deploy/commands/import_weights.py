"""`bnas-deploy import`: weights that somebody else trained, as a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.network_options import given_settings, network_settings
from bnas_deploy.commands.options import Name, image_size_option, normalisation_options, output_option

# These import no framework.
from bnas_deploy.search.models.family import Layout
from bnas_deploy.search.models.registry import configure, layout_of, layouts, network_names


@click.command("import", cls=Command)
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--network", type=Name(network_names()), required=True, help="Published size that they belong to.")
@click.option(
    "--layout",
    type=Name(layouts()),
    help=f"Whose names the tensors have: {'; '.join(f'{name}, {row.summary}' for name, row in layouts().items())}. "
    "[default: the first of these that the network has]",
)
@click.option("--classes", type=click.IntRange(min=1), help="Classes. [default: as published, 10 or 1000]")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="Text file with the name of a class in each line, in the order of the data set: folders sorted by name.",
)
@image_size_option("Height and width of the images. [default: as published, 32 or 224]")
@click.option("--in-channels", type=click.IntRange(min=1), default=3, show_default=True, help="Channels of the images.")
@normalisation_options("Of the images: ", " [default: the layout's]")
@network_settings()
@output_option("Checkpoint to write.", required=True)
def command(
    weights: Path,
    network: str,
    layout: str | None,
    classes: int | None,
    labels: Path | None,
    image_size: tuple[int, int] | None,
    in_channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    output: Path,
    **options: Any,
) -> None:
    """Make a checkpoint of WEIGHTS, a state dict of torch.save or safetensors, that other code trained.

    Nothing in WEIGHTS is executed. The layout also says what that code does differently, as --like-official-code would;
    give that option, or --scheme, to say something else.
    """
    # Imported here so that --help does not wait for PyTorch.
    from bnas_deploy.search.training.checkpoint import save_checkpoint
    from bnas_deploy.search.training.import_weights import import_checkpoint, read_names, zero_weights

    layout, foreign = layout_of(network, layout)
    given = {**_options(foreign, options), **given_settings(options)}
    config = configure(network, classes=classes, image_size=image_size, in_channels=in_channels, options=given)
    names = None if labels is None else read_names(labels, config.classes)
    checkpoint = import_checkpoint(weights, config, foreign, names, mean=mean, std=std)
    save_checkpoint(output, checkpoint)
    click.echo(f"{output}: {config.name} with the weights of {weights} (layout {layout})")
    if kinds := checkpoint.metrics["imported"].get("converted from"):
        click.echo(f"  converted to float32 from {kinds}")
    if deviations := given.get("deviations"):
        click.echo(f"  deviates from the paper: {', '.join(deviations)}")
    if foreign.sign_of_zero and (zeros := zero_weights(checkpoint)):
        click.echo(
            f"  {zeros} binary weights are exactly 0: their sign is 0 in the code that trained them, and +1 here"
        )
    click.echo(f"Next: bnas-deploy eval {output} --data DATA, or bnas-deploy export {output} -o BUNDLE")


def _options(layout: Layout, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a layout; a scheme that is given excludes deviations, which are of another one."""
    return {key: value for key, value in layout.options.items() if not (key == "deviations" and options.get("scheme"))}
