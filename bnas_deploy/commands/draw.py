"""`bnas-deploy draw`: a genotype as a picture."""

from pathlib import Path

import click


@click.command("draw")
@click.argument("source", metavar="GENOTYPE")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Picture to write, FILE.svg or FILE.png."
)
def command(source: str, output: Path) -> None:
    """Draw both cells of GENOTYPE: cifar, imagenet or a JSON file.

    Boxes are operations, circles are states: the inputs c of a cell and its nodes, each of which adds up what its two
    boxes give. Zeroise is dashed, the inter-cell skip is red.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.drawing.cells import genotype_figure
    from bnas_deploy.drawing.pictures import check_picture, save_picture
    from bnas_deploy.genotype import read_genotype

    check_picture(output)
    save_picture(genotype_figure(read_genotype(source), source), output)
    click.echo(f"{output}: both cells")
