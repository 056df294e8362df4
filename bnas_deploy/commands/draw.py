"""`bnas-deploy draw`: a genotype or a search as a picture."""

import os.path
from pathlib import Path

import click

from bnas_deploy.commands.command import Command


@click.command("draw", cls=Command)
@click.argument("source", metavar="GENOTYPE|RUN")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Picture to write, FILE.svg or FILE.png."
)
def command(source: str, output: Path) -> None:
    """Draw both cells of GENOTYPE (cifar, imagenet or a JSON file), or how the search in the folder RUN went.

    Boxes are operations, circles are states: the inputs c of a cell and its nodes, each of which adds up what its two
    boxes give. Zeroise is dashed, the inter-cell skip is red.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.core.genotype import read_genotype
    from bnas_deploy.core.history import read_history
    from bnas_deploy.drawing.cells import genotype_figure
    from bnas_deploy.drawing.history import history_figure
    from bnas_deploy.drawing.pictures import check_picture, save_picture

    check_picture(output)
    if os.path.isdir(source):
        figure = history_figure(read_history(Path(source) / "history.json"), source)
    else:
        figure = genotype_figure(read_genotype(source), source)
    save_picture(figure, output)
    click.echo(f"{output}: written")
