"""`bnas-deploy study`: the studies of the papers, listed or run."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import Name, output_folder_option
from bnas_deploy.commands.runs import device_option, leave, same_options, training_data_option

# These import no framework.
from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.data.kinds import without_folders
from bnas_deploy.studies.catalogue import STUDIES
from bnas_deploy.studies.study import PAPER, SMALL, Picture, Study

if TYPE_CHECKING:
    from bnas_deploy.studies.results import StudyResult

_REPEATED = ("data", "budget", "seeds", "limit", "epochs")
"""The options that decide what comes out."""


@click.command("study", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...", type=Name(STUDIES))
@training_data_option
@click.option(
    "--budget",
    type=Name([SMALL, PAPER]),
    default=SMALL,
    show_default=True,
    help="small: minutes, on digits or MNIST; paper: the sizes of the paper, for CIFAR-10.",
)
@click.option("--seeds", type=click.IntRange(min=1), help="Trainings of each row. [default: from the budget: 3]")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Images of each part at most. [default: from the budget]"
)
@click.option(
    "--epochs", type=click.IntRange(min=1), help="Of each training; searches keep theirs. [default: from the budget]"
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    show_default="one for each processor",
    help="Trials that run at a time.",
)
@device_option
@output_folder_option(
    "Folder for NAME.md, NAME.csv, NAME.json, pictures, and the trials, which are kept.", show_default="runs/studies"
)
@click.pass_context
def command(
    context: click.Context,
    /,
    names: tuple[str, ...],
    data: str,
    budget: str,
    seeds: int | None,
    limit: int | None,
    epochs: int | None,
    processes: int | None,
    device: str,
    output: Path | None,
) -> None:
    """Repeat studies of the papers by their NAMEs; without any, list them.

    A study is a table: each row is trained with several seeds, each a trial in a process of its own. The same command
    goes on after Ctrl-C or a kill, and runs no trial twice. The exit code is 1 where a trial failed, 130 after Ctrl-C.
    """
    from bnas_deploy.report.study import study_list, study_table
    from bnas_deploy.report.text import print_tables

    if not names:
        print_tables([study_list(STUDIES.values())], "Run one with `bnas-deploy study NAME`.")
        return
    # Imported here so that --help does not wait for PyTorch.
    from bnas_deploy.core.host import usable_cpus
    from bnas_deploy.drawing.pictures import check_library
    from bnas_deploy.report.findings import findings
    from bnas_deploy.search.training.resume import stop_on_signals
    from bnas_deploy.studies.plan import Sizes
    from bnas_deploy.studies.running import run_studies

    check_library()
    folder = output or Path("runs/studies")
    studies = [STUDIES[name] for name in dict.fromkeys(names)]
    with stop_on_signals() as stop:
        results, finished = run_studies(
            studies,
            budget,
            data,
            folder,
            sizes=Sizes(seeds, limit, epochs),
            processes=processes or usable_cpus(),
            device=device,
            commands={study.name: _command(context, study, data) for study in studies},
            say=click.echo,
            stop=stop,
        )
    for result in results:
        write_study(result, folder)
        page = folder / f"{result.study.name}.md"
        print_tables([study_table(result)], "\n".join([*findings(result), str(page)]))
    if not finished:
        click.echo("Stopped; the places of the trials are saved. The same command goes on with them.")
    leave(context, finished=finished)
    if failed := sum(result.failed for result in results):
        raise BnasError(
            f"{counted(failed, 'trial')} failed; the tables say why and what to do, and the same command tries again"
        )


def _command(context: click.Context, study: Study, data: str) -> str:
    """Return a command line that repeats a study anywhere."""
    options = same_options(context, _REPEATED, data=without_folders(data))
    words = ["bnas-deploy", "study", study.name, *options]
    return shlex.join(words)


def write_study(result: "StudyResult", folder: Path) -> None:
    """Write the page of a study, its pictures, and its figures as CSV and JSON.

    Raises:
        BnasError: a file cannot be written.
    """
    from bnas_deploy.core.files import write_whole
    from bnas_deploy.report.study import study_csv, study_json, study_page

    pictures = _draw(result, folder)
    for ending, text in (
        ("md", study_page(result, pictures)),
        ("csv", study_csv(result)),
        ("json", study_json(result)),
    ):
        write_whole(folder / f"{result.study.name}.{ending}", text.encode())


def _draw(result: "StudyResult", folder: Path) -> dict[str, str]:
    """Draw the pictures of a study; return the file of each by what it shows."""
    from bnas_deploy.core.files import write_whole
    from bnas_deploy.drawing.moving_gradients import moving_gradients
    from bnas_deploy.drawing.pictures import save_picture
    from bnas_deploy.drawing.study import FIGURES

    files: dict[str, str] = {}
    for picture in _shown(result.study.pictures):
        file = f"{result.study.name}-{picture}.svg"
        if picture is Picture.GRADIENTS:
            write_whole(folder / file, moving_gradients(result).encode())
        else:
            save_picture(FIGURES[picture](result), folder / file)
        files[f"{result.study.title}: {picture}"] = file
    return files


def _shown(pictures: Sequence[Picture]) -> list[Any]:
    return list(dict.fromkeys(pictures))
