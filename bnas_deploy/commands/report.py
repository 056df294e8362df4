"""`bnas-deploy report`: show a saved report again, or several side by side."""

from pathlib import Path

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import check_outputs


@click.command("report", cls=Command)
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="A.json [B.json ...]")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="File for the tables, as Markdown.")
@click.option(
    "--html", "html_path", type=click.Path(path_type=Path), help="File for tables and pictures, as one HTML page."
)
def command(files: tuple[Path, ...], markdown_path: Path | None, html_path: Path | None) -> None:
    """Show what `bnas-deploy bench --json` wrote: one report again, or several side by side.

    Several devices, versions or networks become columns, named by their differences. Times of the same network are also
    divided by the first file's. Reports of networks and of single layers do not mix.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy import report
    from bnas_deploy.core.files import write_whole

    check_outputs({"--markdown": markdown_path, "--html": html_path}, inputs=files)
    reports = [report.read_report(file) for file in files]
    if len(reports) == 1:
        (one,) = reports
        report.print_report(one)
        texts = report.markdown(one), report.report_page(one)
    else:
        comparison = report.compare(files, reports)
        report.print_comparison(comparison)
        texts = report.comparison_markdown(comparison), report.comparison_page(comparison)
    for path, text in zip((markdown_path, html_path), texts, strict=True):
        if path:
            write_whole(path, text.encode())
