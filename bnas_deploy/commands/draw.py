"""`bnas-deploy draw`: a genotype, a search or training runs as a picture."""

import os.path
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.core.errors import BnasError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTORY = "history.json"
"""Of a search."""


@click.command("draw", cls=Command)
@click.argument("sources", metavar="GENOTYPE|RUN...", nargs=-1, required=True)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Picture to write, FILE.svg or FILE.png."
)
def command(sources: tuple[str, ...], output: Path) -> None:
    """Draw both cells of GENOTYPE (cifar, imagenet or a JSON file), or how the search or the training in RUN went.

    Cells: boxes are operations, circles are states: the inputs c of a cell and its nodes, each of which adds up what
    its two boxes give. Zeroise is dashed, the inter-cell skip is red.

    Training: accuracy and loss, test against training, learning rate, and weights that changed sign. Several runs of
    training are drawn on top of each other.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.drawing.pictures import check_picture, save_picture

    check_picture(output)
    save_picture(_figure(sources), output)
    click.echo(f"{output}: written")


def _figure(sources: tuple[str, ...]) -> "Figure":
    from bnas_deploy.core.genotype import read_genotype
    from bnas_deploy.core.history import read_history
    from bnas_deploy.core.run_metrics import METRICS, has_metrics, read_metrics
    from bnas_deploy.drawing.cells import genotype_figure
    from bnas_deploy.drawing.curves import curves_figure
    from bnas_deploy.drawing.history import history_figure

    trained = [source for source in sources if has_metrics(Path(source))]
    if len(trained) == len(sources):
        runs = {source: read_metrics(Path(source)) for source in sources}
        return curves_figure(runs, sources[0] if len(runs) == 1 else "Training")
    if len(sources) > 1:
        other = next(source for source in sources if source not in trained)
        raise BnasError(f"{other}: not the folder of a training run; only such are drawn together, draw it alone")
    (source,) = sources
    if os.path.isdir(source):
        if not (Path(source) / HISTORY).exists():
            raise BnasError(
                f"{source}: no {HISTORY} of a search and no {METRICS} of a training run in it; give the folder of one"
            )
        return history_figure(read_history(Path(source) / HISTORY), source)
    return genotype_figure(read_genotype(source), source)
