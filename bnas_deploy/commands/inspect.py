"""`bnas-deploy inspect`: what is in a checkpoint, a bundle or a genotype, and how papers count a network."""

from pathlib import Path

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import Name
from bnas_deploy.core.counting.rules import RULES


@click.command("inspect", cls=Command)
@click.argument("file", metavar="FILE|NETWORK", type=click.Path(path_type=Path))
@click.option(
    "--rule",
    "rules",
    type=Name(RULES),
    multiple=True,
    help="Whose way of counting to show; several make several columns; docs/counting.md explains each. [default: that "
    "of the network's own paper]",
)
@click.option("--network", metavar="NETWORK", help="With a genotype: the network whose size it gets, such as BNAS-A.")
@click.option(
    "--against",
    metavar="GENOTYPE",
    help="Compare with the float network of these cells, as BNAS v2's Table 12 does. [default: the same cells]",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Report of `bnas-deploy bench --json` of this network: its times and its files' bytes.",
)
@click.option("--energy", is_flag=True, help="Also show an estimate of the energy of all arithmetic.")
@click.option("--json", "as_json", is_flag=True, help="Print every figure as JSON, of each layer, too.")
def command(
    file: Path,
    rules: tuple[str, ...],
    network: str | None,
    against: str | None,
    report: Path | None,
    energy: bool,
    as_json: bool,
) -> None:
    """Show the layers of FILE (a checkpoint, a bundle or a genotype): shapes, weights, MACs, sizes.

    FILE may also be the folder of a search, the name of a published genotype (cifar, imagenet), or that of a network,
    such as BNAS-D or ResNet-18-imagenet.

    Memory and operations are shown as papers count them, as they are executed, and as they were measured.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.report.inspection import Question, inspect, inspect_json

    question = Question(tuple(RULES[name] for name in dict.fromkeys(rules)), network, against, report, energy)
    click.echo((inspect_json if as_json else inspect)(file, question), nl=False)
