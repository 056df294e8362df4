"""Options that several commands share."""

import os.path
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import click

from bnas_deploy.core.files import check_writable
from bnas_deploy.core.names import did_you_mean, known_name

# Imports no framework.
from bnas_deploy.search.data.kinds import usages

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def all_of(*options: Decorator) -> Decorator:
    """Return several options as one, in the order in which --help shows them."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _numbers(context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...]:
    if value is None:
        return ()
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers, such as 0.485,0.456,0.406") from None


def normalisation_options(of: str, default: str = "") -> Decorator:
    """Return --mean and --std, a number for each channel; they arrive as tuples, empty where they are not given."""
    return all_of(
        click.option("--mean", metavar="R,G,B", callback=_numbers, help=f"{of}taken from values of 0 to 1.{default}"),
        click.option("--std", metavar="R,G,B", callback=_numbers, help=f"{of}what the rest is divided by.{default}"),
    )


def image_size_option(help_text: str) -> Decorator:
    """Return the option --image-size, N or HxW; it arrives as (height, width)."""
    return click.option("--image-size", metavar="N|HxW", callback=_image_size, help=help_text)


def _image_size(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = value.lower().split("x")
    # Not isdecimal alone, which takes other alphabets' digits; and no more digits than int() reads.
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() and len(side) < 10 for side in sides):
        raise click.BadParameter(f"{value!r} is neither N nor HxW, such as 32 or 24x32")
    numbers = [int(side) for side in sides]
    if min(numbers) < 1:
        raise click.BadParameter(f"{value!r} has a side of 0, at least 1 is needed")
    return numbers[0], numbers[-1]


class Name(click.Choice[str]):
    """One of some names, in any case; the nearest is suggested where it is none of them."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(list(names))  # click's own way of taking any case shows names in small letters

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as it is written."""
        try:
            return super().convert(known_name(str(value), self.choices) or value, param, ctx)
        except click.BadParameter as error:
            near = did_you_mean(str(value), self.choices)
            raise click.BadParameter(f"{error.message.rstrip('.')}{near}", ctx, param) from None


in_channels_option: Decorator = click.option(
    "--in-channels",
    type=Name(["1", "3"]),
    callback=lambda context, option, value: None if value is None else int(value),
    help="Channels of the images of a folder: 1 (grey) or 3 (RGB). [default: 1 if every image is grey, else 3]",
)

*_kinds, _last_kind = usages()
one_of_the_data = f"{', '.join(_kinds)} or {_last_kind}"

data_option: Decorator = click.option(
    "--data",
    metavar="D",
    help=f"Where real images come from: {one_of_the_data}.",
)

limit_option: Decorator = click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="A quick look: N training and N test images at most, the first ones of each class, evenly. [default: all]",
)

skip_bad_option: Decorator = click.option(
    "--skip-bad", is_flag=True, help="Leave out images that cannot be read, and count them. [default: an error]"
)


def say(step: str) -> None:
    """Tell people who wait what is being done: a line, because something that moves would take time while measuring."""
    click.echo(f"... {step}", err=True)


def seed_option(what: str) -> Decorator:
    """Return the option --seed of a command that draws `what` at random; PyTorch takes seeds of 63 bits."""
    return click.option(
        "--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True, help=f"For {what}."
    )


def output_option(help_text: str, *, required: bool = False) -> Decorator:
    """Return the option -o of a command that writes one thing; `help_text` says what it is."""
    return click.option("-o", "--output", type=click.Path(path_type=Path), required=required, help=help_text)


def output_folder_option(help_text: str, **more: Any) -> Decorator:
    """Return the option -o of a command that fills a folder; `more` has the default of click's option."""
    folder = click.Path(file_okay=False, path_type=Path)
    return click.option("-o", "--output", cls=_WithOldSpelling, type=folder, help=help_text, **more)


class _WithOldSpelling(click.Option):
    """Is spelt --out, too, as in bnas-deploy 0.1; --help does not say so."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser know both spellings."""
        super().add_to_parser(parser, ctx)
        parser.add_option(self, ["--out"], dest=self.name, action="store", nargs=self.nargs)


def check_outputs(files: Mapping[str, Path | None], inputs: Iterable[Path] = ()) -> None:
    """Find out before anything is done whether `files`, by the options that name them, can all be written.

    Raises:
        UsageError: two of them are one, or one is one of `inputs`.
        BnasError: one cannot be written.
    """
    named = {option: path for option, path in files.items() if path is not None}
    for (option, path), (other, other_path) in combinations(named.items(), 2):
        if os.path.realpath(path) == os.path.realpath(other_path):
            raise click.UsageError(f"{option} and {other} name the same file; the one would replace the other")
    for option, path in named.items():
        if os.path.realpath(path) in map(os.path.realpath, inputs):
            raise click.UsageError(f"{option} names {path}, which is read; give the name of another file")
        check_writable(path)


def latency_target_option(*, required: bool) -> Decorator:
    """Return the option that names the table of a device."""
    return click.option(
        "--latency-target",
        type=click.Path(path_type=Path),
        metavar="DEVICE.json",
        required=required,
        help="Latency table of the device, from `bnas-deploy bench-ops --json`, for the size of the final network.",
    )
