"""`bnas-deploy eval`: how often a network is right."""

import os.path
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import check_outputs, limit_option, one_of_the_data, output_option, skip_bad_option
from bnas_deploy.commands.runs import device_option
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import write_whole

if TYPE_CHECKING:
    from bnas_deploy.evaluation.evaluate import Evaluation


@click.command("eval", cls=Command)
@click.argument("source", metavar="CHECKPOINT|BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="D", help=f"Whose test images: {one_of_the_data}.")
@limit_option
@skip_bad_option
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Beside a BUNDLE: the checkpoint that it was exported from, to be run in PyTorch as well.",
)
@click.option(
    "--library-only", is_flag=True, help="Run a BUNDLE with the operator library alone, which takes far less time."
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Images per run.")
@device_option
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="File for every figure, as JSON.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="File for the confusion matrix, as CSV.")
@output_option("Picture of the confusion matrix, FILE.svg or FILE.png.")
def command(
    source: Path,
    data: str,
    limit: int | None,
    skip_bad: bool,
    checkpoint: Path | None,
    library_only: bool,
    batch_size: int,
    device: str,
    json_path: Path | None,
    csv_path: Path | None,
    output: Path | None,
) -> None:
    """Evaluate a network on the test images of --data: right answers, classes, confusion, calibration.

    A CHECKPOINT runs in PyTorch, on --device. A BUNDLE runs in onnxruntime on the CPU, with the operator library and
    by the function bodies in its file. The command shows every difference between their answers. Image folders are
    made the network's size.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.drawing.confusion import evaluation_figure
    from bnas_deploy.drawing.pictures import check_picture, save_picture
    from bnas_deploy.report import evaluation
    from bnas_deploy.report.text import print_tables

    if output:
        check_picture(output)
    check_outputs(
        {"--output": output, "--json": json_path, "--csv": csv_path}, [each for each in (source, checkpoint) if each]
    )
    if device != "auto" and os.path.isdir(source) and checkpoint is None:
        raise BnasError(f"{source}: a folder, and --device is for PyTorch; add --checkpoint FILE, or leave it out")
    result = _evaluate(
        source,
        data,
        checkpoint,
        device,
        library_only=library_only,
        batch_size=batch_size,
        limit=limit,
        skip_bad=skip_bad,
    )
    print_tables(evaluation.evaluation_tables(result), evaluation.evaluation_result(result))
    if json_path:
        write_whole(json_path, evaluation.evaluation_json(result, {"source": str(source)}).encode())
    if csv_path:
        write_whole(csv_path, evaluation.confusion_csv(result).encode())
    if output:
        save_picture(evaluation_figure(result), output)


def _evaluate(
    source: Path,
    data: str,
    checkpoint: Path | None,
    device: str,
    *,
    library_only: bool,
    batch_size: int,
    limit: int | None,
    skip_bad: bool,
) -> "Evaluation":
    """Run the network, and show how far it is."""
    from rich.console import Console

    from bnas_deploy.evaluation.engines import open_subject
    from bnas_deploy.evaluation.evaluate import evaluate
    from bnas_deploy.search.training.acceleration import find_device

    subject = open_subject(source, checkpoint=checkpoint, library_only=library_only, device=find_device(device))
    with Console(stderr=True).status(f"evaluating {subject.name}") as status:

        def show(done: int, images: int) -> None:
            status.update(f"evaluating {subject.name}: {done:,} of {images:,} images")

        return evaluate(subject, data, batch_size=batch_size, limit=limit, skip_bad=skip_bad, on_step=show)
