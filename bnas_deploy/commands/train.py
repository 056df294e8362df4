"""`bnas-deploy train`."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import (
    Name,
    arithmetic_option,
    deviations_option,
    genotype_option,
    image_size_option,
    in_channels_option,
    k_map_option,
    network_options,
    no_skip_option,
    seed_option,
)
from bnas_deploy.core.errors import BnasError

# These import no framework.
from bnas_deploy.search.models.registry import configure, network_names
from bnas_deploy.search.training.recipes import DEFAULTS, RECIPES, defaults_of

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from bnas_deploy.core.history import Epoch
    from bnas_deploy.search.training.train import EpochRecord, TrainResult

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


def _by_data(field: str) -> str:
    return ", ".join(f"{kind} {getattr(defaults, field)}" for kind, defaults in DEFAULTS.items())


def _by_recipe(field: str) -> str:
    return "that of the recipe: " + ", ".join(f"{name} {getattr(recipe, field)}" for name, recipe in RECIPES.items())


@click.command("train", cls=Command)
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="DATA",
    help="digits (comes with scikit-learn), cifar10:FOLDER or cifar100:FOLDER (the binary version), or "
    "imagefolder:FOLDER (train/CLASS/*.jpg, val/CLASS/*.jpg, or any other format that Pillow reads).",
)
@image_size_option("Height and width that the images of a folder are made. [default: 224]")
@in_channels_option
@click.option(
    "--network", type=Name(network_names()), show_default=_by_data("network"), help="Published size to train."
)
@genotype_option
@click.option(
    "--float-twin", is_flag=True, help="Train the float twin: the same architecture with float weights and no sign."
)
@k_map_option
@no_skip_option
@deviations_option
@click.option("--recipe", type=Name(RECIPES), show_default=_by_data("recipe"), help="Training scheme.")
@click.option(
    "--epochs", type=click.IntRange(min=1), show_default=_by_recipe("epochs"), help="Passes over the training images."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), show_default=_by_recipe("batch_size"), help="Images per step."
)
@seed_option("weights, order and augmentation")
@click.option(
    "--device",
    type=Name(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: the GPU if there is one.",
)
@arithmetic_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="runs/NETWORK-DATA",
    help="Folder for best.safetensors, last.safetensors, history.jsonl and resume.safetensors.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the run in the output folder; give the same options as before."
)
@click.pass_context
def command(
    context: click.Context,
    data: str,
    image_size: tuple[int, int] | None,
    in_channels: int | None,
    network: str | None,
    genotype: str | None,
    float_twin: bool,
    k_map: bool,
    no_skip: bool,
    deviations: tuple[str, ...],
    recipe: str | None,
    epochs: int | None,
    batch_size: int | None,
    seed: int,
    device: str,
    arithmetic: str,
    out: Path | None,
    resume: bool,
) -> None:
    """Train a binary network.

    Ctrl-C finishes the current batch and saves the place; --resume goes on from there.
    """
    if float_twin and (k_map or deviations):
        dropped = "--k-map" if k_map else "--like-official-code"
        raise click.UsageError(
            f"--float-twin and {dropped} exclude each other: the float twin has nothing binary; leave one of them out"
        )
    # Imported here so that --help does not wait for PyTorch.
    from bnas_deploy.search.data import open_data
    from bnas_deploy.search.training.resume import stop_on_signals
    from bnas_deploy.search.training.train import train

    images = open_data(data, image_size=image_size, in_channels=in_channels)
    click.echo(images.summary)
    kind = data.partition(":")[0]
    defaults = defaults_of(kind, images.description.image_size)
    config = configure(
        network or defaults.network,
        classes=images.description.classes,
        in_channels=images.description.in_channels,
        image_size=images.description.image_size,
        options=network_options(genotype, deviations, k_map=k_map, no_skip=no_skip),
    )
    if float_twin:
        config = config.float_twin()
    chosen = RECIPES[recipe or defaults.recipe]
    chosen = replace(chosen, epochs=epochs or chosen.epochs, batch_size=batch_size or chosen.batch_size)
    folder = out or Path("runs") / f"{config.name}{'-float' if float_twin else ''}-{kind}"
    with stop_on_signals() as stop, progress_bar() as bar:
        result = train(
            images,
            config,
            chosen,
            folder,
            seed=seed,
            device=find_device(device),
            arithmetic=arithmetic,
            resume=resume,
            stop=stop,
            listener=bar,
        )
    click.echo(_summary(result))
    if not result.finished:
        click.echo(f"Go on with: {resume_command(context)}")
        context.exit(INTERRUPTED)


def find_device(name: str) -> "torch.device":
    """Return the device that `--device` means.

    Raises:
        BnasError: a GPU was asked for and PyTorch finds none.
    """
    import torch

    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise BnasError(
            "--device cuda: PyTorch finds no CUDA GPU here; use --device cpu, or install a PyTorch for your GPU"
        )
    return torch.device("cuda" if found and name != "cpu" else "cpu")


class ProgressBar:
    """Shows a run of training or searching: a bar with the time left, and a line per epoch."""

    def __init__(self, progress: "Progress") -> None:
        self.progress = progress
        self.epochs = 0
        self.steps = 1
        self.task = progress.add_task("", total=None, loss="")

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        """Set the length of the bar."""
        self.epochs, self.steps = epochs, steps
        self._show(done, loss="")

    def stepped(self, *, done: int, loss: float) -> None:
        """Move the bar."""
        self._show(done, loss=f"loss {loss:.3f}")

    def finished(self, record: "EpochRecord | Epoch") -> None:
        """Print what an epoch measured."""
        console = self.progress.console
        epoch = f"epoch {record.epoch:>{len(str(self.epochs))}}/{self.epochs}"
        line = f"{epoch}  {record.summary}  ({record.duration_s:.1f} s)"
        # A pipe or a file has no width: programs read lines there.
        console.print(line, highlight=False, soft_wrap=not console.file.isatty())

    def _show(self, done: int, loss: str) -> None:
        epoch = min(done // self.steps + 1, self.epochs)
        total = self.epochs * self.steps
        self.progress.update(
            self.task, total=total, completed=done, loss=loss, description=f"epoch {epoch}/{self.epochs}"
        )


@contextmanager
def progress_bar() -> Iterator[ProgressBar]:
    """Show a progress bar while the block runs."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        yield ProgressBar(progress)


def _summary(result: "TrainResult") -> str:
    best = result.best
    if best is None:
        return f"Stopped before the first epoch was finished; the place is saved in {result.folder}"
    return (
        f"{'Finished' if result.finished else 'Stopped'} after {len(result.history)} epochs; best test accuracy "
        f"{best.test_accuracy:.2%} after epoch {best.epoch}: {result.folder / 'best.safetensors'}"
    )


def resume_command(context: click.Context) -> str:
    """Return a command line that goes on with this run: every option that is not at its default, and --resume."""
    words = ["bnas-deploy", context.command.name or ""]
    for parameter in context.command.params:
        given = context.params.get(parameter.name or "")
        if parameter.name == "resume":
            continue
        # An option that may be repeated has a tuple of values, empty by default.
        repeated = isinstance(parameter, click.Option) and parameter.multiple
        for value in (given or ()) if repeated else (given,):
            if value is None or value == parameter.get_default(context):
                continue
            if isinstance(value, bool):
                words += (parameter.opts if value else parameter.secondary_opts)[:1]
            else:
                words += [parameter.opts[0], "x".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join([*words, "--resume"])
