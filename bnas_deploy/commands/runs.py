"""The shared part of commands that train: their options, the device, the progress bar, and the way to go on."""

import os
import shlex
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from bnas_deploy.commands.options import (
    Decorator,
    Name,
    all_of,
    image_size_option,
    in_channels_option,
    limit_option,
    output_folder_option,
    skip_bad_option,
)
from bnas_deploy.core.bundle import MANIFEST
from bnas_deploy.core.errors import CheckpointError

# These import no framework.
from bnas_deploy.search.data.kinds import DATA_KINDS, without_folders
from bnas_deploy.search.training import torchrun
from bnas_deploy.search.training.recipes import ARITHMETICS

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from bnas_deploy.core.history import Epoch
    from bnas_deploy.core.run_metrics import EpochRecord
    from bnas_deploy.search.training.processes import Processes

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""

training_data_option: Decorator = click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="DATA",
    help="One of " + ", ".join(f"{kind.usage} ({kind.summary})" for kind in DATA_KINDS.values()) + ".",
)


def training_data_options(image_size: str) -> Decorator:
    """Return --data and the options that say how images are read; `image_size` is the help text of --image-size."""
    return all_of(
        training_data_option, image_size_option(image_size), in_channels_option, limit_option, skip_bad_option
    )


device_option: Decorator = click.option(
    "--device",
    type=Name(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: the GPU if there is one.",
)

arithmetic_option: Decorator = click.option(
    "--arithmetic",
    type=Name(ARITHMETICS),
    default="float32",
    show_default=True,
    help="Of steps. " + "; ".join(f"{name}: {summary}" for name, summary in ARITHMETICS.items()) + ".",
)


class Lengths(Protocol):
    """A recipe as its options show it."""

    @property
    def epochs(self) -> int:
        """Return the passes over the training images."""

    @property
    def batch_size(self) -> int:
        """Return the images of a step."""


def by_data(values: Mapping[str, object]) -> str:
    """Return the default of an option for each kind of data."""
    return ", ".join(f"{kind} {value}" for kind, value in values.items())


def recipe_options(recipes: Mapping[str, Lengths], defaults: Mapping[str, str]) -> Decorator:
    """Return --recipe, --epochs and --batch-size; `defaults` has the name of a recipe for each kind of data."""

    def by_recipe(field: str) -> str:
        return "from the recipe: " + by_data({name: getattr(recipe, field) for name, recipe in recipes.items()})

    return all_of(
        click.option("--recipe", type=Name(recipes), show_default=by_data(defaults), help="Training scheme."),
        click.option(
            "--epochs",
            type=click.IntRange(min=1),
            show_default=by_recipe("epochs"),
            help="Passes over the training images.",
        ),
        click.option(
            "--batch-size", type=click.IntRange(min=1), show_default=by_recipe("batch_size"), help="Images per step."
        ),
    )


def folder_options(what: str, default: str, files: str) -> Decorator:
    """Return -o and --resume of a command that leaves `files` of a run, which it calls `what`, in `default`."""
    return all_of(
        output_folder_option(f"Folder for {files}.", show_default=default),
        click.option(
            "--resume",
            is_flag=True,
            help=f"Go on with the {what} in the output folder; give the same options as before.",
        ),
    )


def run_folder(what: str, data: str, limit: int | None) -> Path:
    """Return where a run lives unless -o says; a quick look is kept apart from a whole run."""
    return Path("runs") / f"{what}-{data}{'' if limit is None else f'-limit{limit}'}"


def checkpoint_of(source: Path) -> Path:
    """Return a checkpoint, or of a folder of a run its best one.

    Raises:
        CheckpointError: it is a bundle, a folder that is no run, or not there.
    """
    if (source / MANIFEST).is_file():
        raise CheckpointError(f"{source}: a bundle, which cannot be trained; give the run or the checkpoint it is of")
    best = source / "best.safetensors"
    if not os.path.lexists(best if source.is_dir() else source):
        what = f"a folder without {best.name}" if source.is_dir() else "no such file or folder"
        raise CheckpointError(
            f"{source}: {what}; give a checkpoint (.safetensors), or the folder of a run of `bnas-deploy train` that "
            "has finished an epoch"
        )
    return best if source.is_dir() else source


def check_means(context: click.Context, check_folder: Callable[[Path], object]) -> None:
    """Refuse what no data are needed to refuse, before they are read, which may take minutes.

    That is a device or an arithmetic that is not there, and a folder of -o in which nothing can be begun.

    Args:
        context: of a command that trains.
        check_folder: raises BnasError for such a folder.

    Raises:
        BnasError: there is one of them.
    """
    from bnas_deploy.search.training.acceleration import check_arithmetic, find_device

    given = context.params
    check_arithmetic(given.get("arithmetic", "float32"), find_device(given["device"]))
    if given["output"] and not given["resume"] and torchrun.number() == 0:  # which alone writes there
        check_folder(given["output"])


def check_only_source(settings: Mapping[str, object]) -> None:
    """Refuse settings of a network, by their names in Python, beside --from.

    Raises:
        click.UsageError: one is given.
    """
    options = click.get_current_context().command.params
    given = [option for option in options if settings.get(option.name or "")]
    if given:
        raise click.UsageError(
            f"--from and {given[0].opts[0]} exclude each other: the network is that of the checkpoint; leave one of "
            "them out"
        )


@contextmanager
def attended() -> Iterator[tuple[Callable[[], bool], "ProgressBar"]]:
    """Give a `stop` that Ctrl-C sets, and a listener that shows how the run goes."""
    from bnas_deploy.search.training.resume import stop_on_signals

    with stop_on_signals(patient=torchrun.started() > 1) as stop, progress_bar() as bar:
        yield stop, bar


@dataclass(frozen=True)
class Work:
    """A run's means: its place among the processes, its device, a `stop` that Ctrl-C sets, and the progress bar."""

    processes: "Processes"
    device: "torch.device"
    stop: Callable[[], bool]
    bar: "ProgressBar"

    @property
    def settings(self) -> dict[str, Any]:
        """Return those that `train` and `search` take by the same keywords."""
        return {"processes": self.processes, "device": self.device, "stop": self.stop}


@contextmanager
def at_work(device: str) -> Iterator[Work]:
    """Give a run what it works with; `device` is that of --device."""
    from bnas_deploy.search.training.acceleration import find_device
    from bnas_deploy.search.training.processes import joined

    with joined(find_device(device)) as (processes, where), attended() as (stop, bar):
        yield Work(processes, where, stop, bar)


@contextmanager
def one_voice() -> Iterator[None]:
    """Let one of several processes print; the others say only what goes wrong."""
    if torchrun.number() == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


class ProgressBar:
    """Shows a run of training or searching: a bar with the time left, and a line per epoch.

    Where a file or a program reads the lines there is no bar, and they tell the time left. The estimate is the mean
    time of a step since the start or the resume.
    """

    def __init__(self, progress: "Progress", clock: Callable[[], float] = time.monotonic) -> None:
        self.progress = progress
        self.clock = clock
        self.epochs = 0
        self.steps = 1
        self.began_at, self.began_with = 0.0, 0
        self.task = progress.add_task("", total=None, loss="")

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        """Set the length of the bar."""
        self.epochs, self.steps = epochs, steps
        self.began_at, self.began_with = self.clock(), done
        self._show(done, loss="")

    def stepped(self, *, done: int, loss: float) -> None:
        """Move the bar."""
        self._show(done, loss=f"loss {loss:.3f}")

    def finished(self, record: "EpochRecord | Epoch") -> None:
        """Print what an epoch measured."""
        console = self.progress.console
        epoch = f"epoch {record.epoch:>{len(str(self.epochs))}}/{self.epochs}"
        line = f"{epoch}  {record.summary}  ({record.duration_s:.1f} s{self._left(record.epoch)})"
        # A pipe or a file has no width: programs read lines there.
        console.print(line, highlight=False, soft_wrap=not console.file.isatty())

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        console = self.progress.console
        console.print(text, highlight=False, markup=False, soft_wrap=not console.file.isatty())

    def _left(self, epoch: int) -> str:
        """Say how long the epochs behind `epoch` will take."""
        done = epoch * self.steps - self.began_with
        if self.progress.console.is_terminal or epoch >= self.epochs or done <= 0:
            return ""
        seconds = (self.clock() - self.began_at) / done * (self.epochs - epoch) * self.steps
        return f", {timedelta(seconds=round(seconds))} left"

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


def tell_end(context: click.Context, summary: str, note: str | None, *, finished: bool) -> None:
    """Print how a run ended, perhaps a note on its data, and where it was stopped, the command that goes on."""
    click.echo(summary)
    if note:
        click.echo(note)
    if not finished:
        click.echo(f"Go on with: {resume_command(context)}")


def leave(context: click.Context, *, finished: bool) -> None:
    """End the command with the exit code of Ctrl-C where its run was stopped."""
    if not finished:
        context.exit(INTERRUPTED)


def resume_command(context: click.Context) -> str:
    """Return a command line that goes on with this run: every option that is not at its default, and --resume."""
    words = ["bnas-deploy"]
    if torchrun.started() > 1:
        words = ["torchrun", "--nproc-per-node", str(torchrun.started_here()), "-m", "bnas_deploy"]
    return shlex.join([*words, *_words(context, context.params, left_out={"resume"}), "--resume"])


DATA_OPTIONS = ("data", "image_size", "in_channels", "limit", "skip_bad")
"""The parameters of `training_data_options`."""


def same_options(context: click.Context, names: Container[str], **values: object) -> list[str]:
    """Return options that another command takes in the same sense, as words of its line: those of `names`.

    Those at their defaults are left out. `values` stand in the place of what was given.
    """
    others = {parameter.name or "" for parameter in context.command.params if parameter.name not in names}
    return _words(context, {**context.params, **values}, left_out=others)[1:]


def published_command(context: click.Context, **defaults: str) -> str:
    """Return a command line that begins the same run anywhere, as strangers may read it: without folders.

    `defaults` are named in it even where they were not given, since another version may have others. How many
    processes train does not matter.
    """
    given = {**context.params, **{name: context.params[name] or value for name, value in defaults.items()}}
    for name in ("recipe", "genotype", "widths", "source", "latency_table"):  # files, or texts without a folder
        if given.get(name):
            given[name] = Path(given[name]).name
    words = _words(context, given, left_out={"data", "resume", "output", "device", "tensorboard"})
    return shlex.join(["bnas-deploy", *words, "--data", without_folders(given["data"])])


def _words(context: click.Context, params: Mapping[str, Any], *, left_out: Container[str]) -> list[str]:
    """Return the name of the command and those of `params` that are not at their defaults, as words of a line."""
    words = [context.command.name or ""]
    for parameter in context.command.params:
        given = params.get(parameter.name or "")
        if parameter.name in left_out:
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
    return words
