"""Options that several commands share."""

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import click

from bnas_deploy.files import check_writable
from bnas_deploy.names import did_you_mean, known_name

# Imports no framework.
from bnas_deploy.search.config import DEPARTURES

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


class Name(click.Choice[str]):
    """One of some names, in any case; the nearest is suggested where it is none of them."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(list(names))  # click's own way of taking any case shows names in small letters

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as it is written."""
        try:
            return super().convert(known_name(str(value), self.choices) or value, param, ctx)
        except click.BadParameter as error:
            said = f"{error.message.rstrip('.')}{did_you_mean(str(value), self.choices)}"
            raise click.BadParameter(said, ctx=ctx, param=param) from None


genotype_option: Decorator = click.option(
    "--genotype",
    metavar="cifar|imagenet|FILE",
    help="Which cells: a published genotype or a JSON file. [default: the one the network was published with]",
)

data_option: Decorator = click.option(
    "--data",
    metavar="D",
    help="Where real images come from: digits, cifar10:FOLDER, cifar100:FOLDER or imagefolder:FOLDER.",
)

k_map_option: Decorator = click.option(
    "--k-map", is_flag=True, help="Multiply every binary convolution by the activation scale K of XNOR-Net."
)

no_skip_option: Decorator = click.option(
    "--no-skip", is_flag=True, help="Ablation: no skip from cell to cell, neither the sum nor its 2x2 convolutions."
)

departures_option: Decorator = click.option(
    "--like-official-code",
    "departures",
    multiple=True,
    type=Name(DEPARTURES),
    metavar="NAME",
    help="Depart from the paper as the official code does; may be repeated. One of " + ", ".join(DEPARTURES) + ".",
)


def seed_option(what: str) -> Decorator:
    """Return the option --seed of a command that draws `what` at random; PyTorch takes seeds of 63 bits."""
    return click.option(
        "--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True, help=f"For {what}."
    )


def output_option(what: str) -> Decorator:
    """Return the mandatory option -o for a command that writes `what`."""
    return click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help=f"{what} to write.")


def check_outputs(files: Mapping[str, Path | None], inputs: Iterable[Path] = ()) -> None:
    """Find out before anything is done whether `files`, by the options that name them, can all be written.

    Raises:
        UsageError: two of them are one, or one is one of `inputs`.
        BnasError: one cannot be written.
    """
    named = {option: path for option, path in files.items() if path is not None}
    for (option, path), (other, other_path) in combinations(named.items(), 2):
        if path.resolve() == other_path.resolve():
            raise click.UsageError(f"{option} and {other} name the same file; the one would replace the other")
    for option, path in named.items():
        if path.resolve() in {given.resolve() for given in inputs}:
            raise click.UsageError(f"{option} names {path}, which is read; give the name of another file")
        check_writable(path)


def host_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a command that can do its work on another machine: --host, --port, --python and --wheel."""
    options = (
        click.option("--host", metavar="USER@DEVICE", help="Measure there, over ssh, instead of here."),
        click.option("--port", type=click.IntRange(1, 65535), help="Port of --host. [default: ssh's choice]"),
        click.option("--python", help="The Python to use on --host. [default: python3]"),
        click.option(
            "--wheel",
            type=click.Path(path_type=Path),
            help="What to install on --host. [default: a wheel that is built here, from the sources]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def latency_target_option(*, required: bool) -> Decorator:
    """Return the option that names the table of a device."""
    return click.option(
        "--latency-target",
        type=click.Path(path_type=Path),
        metavar="DEVICE.json",
        required=required,
        help="What `bnas-deploy bench --ops --json` wrote on the device, for a network of the size that will be built.",
    )
