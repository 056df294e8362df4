"""`bnas-deploy bench`: measure a bundle against its float twin."""

from pathlib import Path

import click

from bnas_deploy.errors import BundleError


class ThreadCounts(click.ParamType[tuple[int, ...]]):
    """Numbers of threads with commas between them, such as 1,2."""

    name = "n,n,..."

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers, each once, in the order given."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts):
            self.fail(f"{value!r} is not a list of numbers of threads, each at least 1, such as 1,2", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))


@click.command("bench")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--threads",
    type=ThreadCounts(),
    help="Numbers of threads to measure with, such as 1,2. [default: 1, and all processors]",
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images per run.")
@click.option(
    "--min-seconds",
    type=click.FloatRange(min=0),
    default=4.0,
    show_default=True,
    help="How long to measure each number of threads, at least; the engines share it.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="File for every figure, as JSON.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="File for the tables, as Markdown.")
def command(
    bundle: Path,
    threads: tuple[int, ...] | None,
    batch: int,
    min_seconds: float,
    json_path: Path | None,
    markdown_path: Path | None,
) -> None:
    """Measure BUNDLE's binary network against its float twin, in turns, in onnxruntime.

    The answer is checked first: bit for bit against onnxruntime without the operator library, and against what PyTorch
    gave to the same images. Times of single layers are from onnxruntime's profiler, in runs of their own.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy import report
    from bnas_deploy.bundle import read_bundle
    from bnas_deploy.runtime.machine import read_machine, usable_cpus
    from bnas_deploy.runtime.measure import check_answers, measure_bundle

    for path in filter(None, (json_path, markdown_path)):
        report.check_writable(path)
    _refuse_checkpoint(bundle)
    opened = read_bundle(bundle)
    counts = threads or tuple(dict.fromkeys((1, usable_cpus())))
    machine = read_machine()  # before measuring, so that the load is that of others
    _say("checking the answer")
    click.echo(report.answer(check_answers(opened, counts)))
    records = measure_bundle(opened, threads=counts, batch=batch, min_seconds=min_seconds, on_step=_say)
    click.echo()
    result = report.Report(machine, tuple(records))
    report.print_report(result)
    if json_path:
        report.write_whole(json_path, result.to_json())
    if markdown_path:
        report.write_whole(markdown_path, report.markdown(result))


def _say(step: str) -> None:
    """Tell people who wait what is being done: a line, because something that moves would take time while measuring."""
    click.echo(f"... {step}", err=True)


def _refuse_checkpoint(path: Path) -> None:
    if path.is_file():
        raise BundleError(
            f"{path}: a file, and bench takes the folder of a bundle; "
            f"if it is a checkpoint, export it first: bnas-deploy export {path} -o BUNDLE"
        )
