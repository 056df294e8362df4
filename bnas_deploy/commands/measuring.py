"""The shared part of commands that measure: their options, the device behind --host, and the report."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_deploy.commands.options import Decorator, all_of, check_outputs

if TYPE_CHECKING:
    from bnas_deploy.core.bundle import Bundle
    from bnas_deploy.report import Report

MOST_IMAGES = 4096


class Counts(click.ParamType[tuple[int, ...]]):
    """Numbers of something with commas between them, such as 1,2."""

    name = "n,n,..."

    def __init__(self, what: str, most: int | None = None) -> None:
        self.what = what
        self.most = most

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers, each once, in the order given."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and self._is_in_range(int(part)) for part in parts):
            bounds = "at least 1" if self.most is None else f"from 1 to {self.most}"
            self.fail(f"{value!r} is not a list of numbers of {self.what}, each {bounds}, such as 1,2", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))

    def _is_in_range(self, count: int) -> bool:
        return count >= 1 and (self.most is None or count <= self.most)


def _finite(context: click.Context, option: click.Parameter, seconds: float) -> float:
    if not math.isfinite(seconds):
        raise click.UsageError(f"--min-seconds is {seconds}; give a number of seconds, such as 4")
    return seconds


def effort_options(threads: str, each: str, *, several: bool = True) -> Decorator:
    """Return --threads, whose default is `threads` in words, --batch and --min-seconds, which is for `each`.

    The first two take several numbers, or as --help says only one.
    """

    def counts(what: str, example: str, default: str) -> str:
        numbers = f"Numbers of {what} to measure with, such as {example}." if several else f"Number of {what}."
        return f"{numbers} [default: {default}]"

    metavar = None if several else "n"
    return all_of(
        click.option("--threads", type=Counts("threads"), metavar=metavar, help=counts("threads", "1,2", threads)),
        click.option(
            "--batch",
            "batches",
            type=Counts("images", MOST_IMAGES),
            default=(1,),
            metavar=metavar,
            help=counts("images per run", "1,8", "1"),
        ),
        click.option(
            "--min-seconds",
            type=click.FloatRange(min=0),
            callback=_finite,
            default=4.0,
            show_default=True,
            help=f"Minimum seconds for {each}.",
        ),
    )


json_option: Decorator = click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="File for every figure, as JSON."
)

page_options: Decorator = all_of(
    click.option(
        "--markdown", "markdown_path", type=click.Path(path_type=Path), help="File for the tables, as Markdown."
    ),
    click.option(
        "--html",
        "html_path",
        type=click.Path(path_type=Path),
        help="File for tables and pictures, as one HTML page.",
    ),
)


def _with_host(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Refuse what is said about another machine where none is named; --host is read first."""
    if value is not None and context.params.get("host") is None:
        raise click.UsageError("--port, --python and --wheel are about the machine that --host names; name it")
    return value


host_options: Decorator = all_of(
    click.option("--host", metavar="USER@DEVICE", is_eager=True, help="Measure there, over ssh, instead of here."),
    click.option(
        "--port", type=click.IntRange(1, 65535), callback=_with_host, help="Port of --host. [default: ssh's choice]"
    ),
    click.option("--python", callback=_with_host, help="The Python to use on --host. [default: python3]"),
    click.option(
        "--wheel",
        type=click.Path(path_type=Path),
        callback=_with_host,
        help="What to install on --host. [default: a wheel that is built here, from the sources]",
    ),
)
"""The options of a command that can do its work on another machine."""


def check_reports(*, json_path: Path | None, markdown_path: Path | None, html_path: Path | None) -> None:
    """Find out before anything is measured whether the files of a report can be written."""
    check_outputs({"--json": json_path, "--markdown": markdown_path, "--html": html_path})


def measure_there(
    host: str,
    bundle: "Bundle | None",
    more: Sequence[str],
    *,
    threads: tuple[int, ...] | None,
    batches: tuple[int, ...],
    min_seconds: float,
    port: int | None,
    python: str | None,
    wheel: Path | None,
) -> "Report":
    """Run `bench` on `host`, of a bundle or of what the arguments in `more` say."""
    from bnas_deploy.remote.session import measure_on
    from bnas_deploy.report import parse_report

    arguments = ["--threads", ",".join(map(str, threads))] if threads else []
    arguments += ["--batch", ",".join(map(str, batches)), "--min-seconds", str(min_seconds), *more]
    tell = partial(click.echo, err=True)
    text = measure_on(host, bundle, arguments, port=port, python=python or "python3", wheel=wheel, say=tell)
    return parse_report(text, f"report of {host}")


def show_report(
    result: "Report", *, json_path: Path | None, markdown_path: Path | None, html_path: Path | None
) -> None:
    """Print a report, and write it to the files that are given."""
    from bnas_deploy import report
    from bnas_deploy.core.files import write_whole

    click.echo()
    report.print_report(result)
    if json_path:
        write_whole(json_path, result.to_json().encode())
    if markdown_path:
        write_whole(markdown_path, report.markdown(result).encode())
    if html_path:
        write_whole(html_path, report.report_page(result).encode())
