"""Tables -> a terminal, or Markdown."""

from collections.abc import Iterable
from typing import Any, TextIO

from bnas_deploy.core.counts import counted
from bnas_deploy.report.comparison import Comparison
from bnas_deploy.report.comparison_views import comparison_headline, comparison_tables
from bnas_deploy.report.headline import headline
from bnas_deploy.report.saved import Report
from bnas_deploy.report.table import Table
from bnas_deploy.report.tables import tables
from bnas_deploy.runtime.bench.answers import AnswerCheck, TwinCheck


def answer(check: AnswerCheck) -> str:
    """Say what was compared before measuring."""
    agreement = "agrees in every bit with" if check.every_bit else "agrees, as far as K has a defined value, with"
    return (
        f"Answer checked on {counted(check.images, 'image')}: the operator library {agreement} onnxruntime without "
        "it,\n"
        f"and the largest difference of a {check.output} from {check.reference}'s is {check.largest_difference:.2g} "
        f"(rounding explains {check.tolerance:.2g})."
    )


def twin_answer(check: TwinCheck) -> str:
    """Say how far an engine in 8 bits is from the float twin."""
    what = "outputs" if check.agreement is None else "logits"
    text = (
        f"{check.engine} against the float twin: {what} differ by at most {check.largest_difference:.2g}, in the mean "
    )
    text += f"by {100 * check.relative_difference:.2g} %"
    if check.agreement is None:
        return f"{text}."
    return f"{text},\nand {check.agreement} of {counted(check.images, 'image')} get the same class."


def print_report(report: Report, file: TextIO | None = None, *, width: int | None = None) -> None:
    """Print the tables to a terminal, or to `file` at a given width; the result comes last, where the eye is.

    A file or a pipe has no width: programs read lines there, which a break would cut. In a terminal that is too narrow
    for a table, columns that can be spared are left out; where that is not enough, none is, and lines run over.
    """
    print_tables(tables(report), headline(report), file, width)


def print_comparison(comparison: Comparison, file: TextIO | None = None, *, width: int | None = None) -> None:
    """Print a comparison as `print_report` prints a report."""
    print_tables(comparison_tables(comparison), comparison_headline(comparison), file, width)


def print_tables(shown: Iterable[Table], result: str, file: TextIO | None = None, width: int | None = None) -> None:
    """Print tables and what comes of them as `print_report` does."""
    from rich.console import Console

    console = Console(file=file, width=width, highlight=False)
    # Not console.is_terminal, which FORCE_COLOR makes true of a pipe, too.
    room = console.width if width is not None or console.file.isatty() else UNLIMITED
    for each in shown:
        table = _fitting(each, room)
        console.width = max(room, _width(table))
        # Not as the table's title, which would be broken where the table is narrower.
        console.print(table.title, style="bold", markup=False)
        console.print(_rich(table))
        console.width = room
        if table.note:
            console.print(table.note, style="dim", markup=False)
        console.print()
    console.print(result, markup=False)


UNLIMITED = 10_000


def _fitting(table: Table, room: int) -> Table:
    """Return the table with as many of its spare columns as there is room for."""
    fitting = (table.without(table.spare[:count]) if count else table for count in range(len(table.spare) + 1))
    return next((each for each in fitting if _width(each) <= room), table)


def _width(table: Table) -> int:
    """Return how many characters wide the table has to be, so that nothing is broken that has to stay whole."""
    from rich.console import Console

    widths = Console(width=UNLIMITED).measure(_rich(table))
    return widths.minimum if table.wraps else widths.maximum


def markdown(report: Report) -> str:
    """Return the tables as Markdown, the result first."""
    return "\n".join(["## Measured", "", headline(report), "", *map(_markdown, tables(report))])


def table_markdown(table: Table) -> str:
    """Return one table as Markdown."""
    return _markdown(table)


def comparison_markdown(comparison: Comparison) -> str:
    """Return the tables as Markdown, the result first."""
    result = comparison_headline(comparison)
    shown = map(_markdown, comparison_tables(comparison))
    return "\n".join(["## Compared", "", *([result, ""] if result else []), *shown])


def _rich(table: Table) -> Any:
    import rich.box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        box=rich.box.SIMPLE_HEAD if any(table.columns) else None,
        show_header=any(table.columns),
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for i, column in enumerate(table.columns):
        text = i in table.left
        shown.add_column(Text(column), justify="left" if text else "right", no_wrap=not (table.wraps and text))
    for i, row in enumerate(table.rows):
        # Text, so that rich reads no markup in names that a model brings along.
        shown.add_row(*map(Text, row), style="bold" if i in table.strong else None)
    return shown


def _markdown(table: Table) -> str:
    rule = tuple(":--" if i in table.left else "--:" for i in range(len(table.columns)))
    rows = (tuple(f"**{cell}**" for cell in row) if i in table.strong else row for i, row in enumerate(table.rows))
    columns = tuple(column.replace("-\n", "-").replace("\n", " ") for column in table.columns)
    lines = map(_markdown_row, (columns, rule, *rows))
    return "\n".join([f"### {table.title}", "", *lines, "", *([table.note, ""] if table.note else [])])


def _markdown_row(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
