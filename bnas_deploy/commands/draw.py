"""`bnas-deploy draw`: a genotype, a search, training runs or the activations of a checkpoint as a picture."""

import os.path
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import limit_option, one_of_the_data, output_option
from bnas_deploy.core.errors import BnasError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTORY = "history.json"
"""Of a search."""


@click.command("draw", cls=Command)
@click.argument("sources", metavar="GENOTYPE|RUN...|CHECKPOINT", nargs=-1, required=True)
@output_option("Picture to write, FILE.svg or FILE.png.", required=True)
@click.option("--data", metavar="D", help=f"With a CHECKPOINT: whose test images it sees: {one_of_the_data}.")
@limit_option
def command(sources: tuple[str, ...], output: Path, data: str | None, limit: int | None) -> None:
    """Draw both cells of GENOTYPE (cifar, imagenet or a JSON file), or how the search or the training in RUN went.

    A CHECKPOINT with --data is drawn as histograms of the activations in front of every sign.

    Cells: boxes are operations, circles are states: the inputs c of a cell and its nodes, each of which adds up what
    its two boxes give. Zeroise is dashed, the inter-cell skip is red.

    A search for widths: the channels of every layer, searched, of one ratio and of the base. Several of them: their
    training error on top of each other.

    Training: accuracy and loss, test against training, learning rate, and weights that changed sign. Several runs of
    training are drawn on top of each other.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.drawing.pictures import check_picture, save_picture

    if data is None and limit is not None:
        raise click.UsageError("--limit goes with --data and a CHECKPOINT; leave it out")
    check_picture(output)
    figure = _figure(sources) if data is None else _activations(sources, data, limit)
    save_picture(figure, output)
    click.echo(f"{output}: written")


def _activations(sources: tuple[str, ...], data: str, limit: int | None) -> "Figure":
    from bnas_deploy.drawing.activations import activations_figure
    from bnas_deploy.evaluation.activations import activations_before_signs
    from bnas_deploy.search.training.checkpoint import load_checkpoint

    if len(sources) != 1:
        raise click.UsageError(f"--data goes with one CHECKPOINT, not with {len(sources)} of them")
    layers = activations_before_signs(load_checkpoint(Path(sources[0])), data, limit)
    return activations_figure(
        layers, f"{sources[0]}: activations in front of the sign; shares that become +1, and within ±1"
    )


def _figure(sources: tuple[str, ...]) -> "Figure":
    from bnas_deploy.core.genotype import read_genotype
    from bnas_deploy.core.history import read_history
    from bnas_deploy.core.run_metrics import METRICS, has_metrics, read_metrics
    from bnas_deploy.core.width_history import UNIFORM_FILE, WIDTH_HISTORY, WIDTHS_FILE, read_width_history
    from bnas_deploy.drawing.cells import genotype_figure
    from bnas_deploy.drawing.curves import curves_figure
    from bnas_deploy.drawing.history import history_figure
    from bnas_deploy.drawing.widths import channels_figure, training_error_figure

    if len(sources) > 1 and all(os.path.lexists(Path(source) / WIDTH_HISTORY) for source in sources):
        histories = {source: read_width_history(Path(source) / WIDTH_HISTORY) for source in sources}
        return training_error_figure(histories, "Training error of searches for widths")
    trained = [source for source in sources if has_metrics(Path(source))]
    if len(trained) == len(sources):
        runs = {source: read_metrics(Path(source)) for source in sources}
        return curves_figure(runs, sources[0] if len(runs) == 1 else "Training")
    if len(sources) > 1:
        other = next(source for source in sources if source not in trained)
        raise BnasError(
            f"{other}: not the folder of a training run; only several training runs, or several searches for widths, "
            "are drawn together; draw it alone"
        )
    (source,) = sources
    if source.endswith(".safetensors"):
        raise BnasError(f"{source}: a checkpoint is drawn with --data, as histograms of its activations; add it")
    if Path(source).name in (WIDTHS_FILE, UNIFORM_FILE):
        raise BnasError(
            f"{source}: a file of widths is not drawn; give the folder of its search, which has {WIDTH_HISTORY}"
        )
    if os.path.isdir(source):
        if os.path.lexists(Path(source) / WIDTH_HISTORY):
            return channels_figure(read_width_history(Path(source) / WIDTH_HISTORY), source)
        if not os.path.lexists(Path(source) / HISTORY):
            raise BnasError(
                f"{source}: no {HISTORY} of a search and no {METRICS} of a training run in it; give the folder of one"
            )
        return history_figure(read_history(Path(source) / HISTORY), source)
    return genotype_figure(read_genotype(source), source)
