"""Several reports side by side, for people: tables, a result in words, a page."""

import json
from collections.abc import Callable, Iterable, Iterator
from xml.etree.ElementTree import Element

from bnas_deploy.report.comparison import (
    Comparison,
    Line,
    engine_line,
    layer_lines,
    network_lines,
    settings_of,
    single_lines,
    single_ratio_lines,
    where,
    work_lines,
)
from bnas_deploy.report.html import element, page, picture_part, table_part
from bnas_deploy.report.picture import Bar, BarGroup, BarRow, Part
from bnas_deploy.report.saved import Report
from bnas_deploy.report.table import Table
from bnas_deploy.runtime.bench.subject import RunSetting


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Lay out what is compared, and then each kind of figure."""
    make = _network_tables if comparison.of_networks else _single_tables
    found = [table for setting in comparison.settings for table in make(comparison, setting)]
    return [table for table in (_what_table(comparison), *found) if table.rows]


def _network_tables(comparison: Comparison, setting: RunSetting) -> Iterator[Table]:
    engine, here = comparison.engine, where(setting)
    yield _table(comparison, f"Whole network, {here}", network_lines(comparison, setting))
    yield _table(comparison, f"Layers of {engine}, µs of one node, {here}", layer_lines(comparison, setting))
    yield _table(comparison, f"Work of {engine}, µs of one run, {here}", work_lines(comparison, setting))


def _single_tables(comparison: Comparison, setting: RunSetting) -> Iterator[Table]:
    engine, here = comparison.engine, where(setting)
    yield _table(comparison, f"Single layers of {engine}, µs, {here}", single_lines(comparison, setting))
    for other in comparison.other_engines:
        lines = single_ratio_lines(comparison, setting, other)
        yield _table(comparison, f"{engine}: times as fast as {other}, {here}", lines)


def _what_table(comparison: Comparison) -> Table:
    kind = "a network" if comparison.of_networks else "single layers"
    facts: dict[str, Callable[[Report], str]] = {
        "what": lambda report: report.network or kind,
        "CPU": lambda report: report.machine.cpu,
        "kernels": lambda report: report.records[0].isa,
        "bnas-deploy": lambda report: report.machine.bnas_deploy,
        "onnxruntime": lambda report: report.machine.onnxruntime,
        "system": lambda report: report.machine.os,
        "date": lambda report: report.machine.date,
        "measured with": lambda report: "; ".join(map(where, settings_of(report))),
    }
    rows = [(name, *map(fact, comparison.reports)) for name, fact in facts.items()]
    columns = ("", *map(_breakable, comparison.names))
    return Table("What is compared", columns, (*rows, ("file", *comparison.files)), left=frozenset(range(len(columns))))


def _breakable(name: str) -> str:
    return name.replace(", ", ",\n")


def _table(comparison: Comparison, title: str, lines: Iterable[Line]) -> Table:
    known = [line for line in lines if any(value is not None for value in line.values)]
    divided = comparison.like_with_like and any(line.is_time for line in known)
    first = comparison.names[0]
    return Table(
        title,
        ("", *map(_breakable, comparison.names)),
        tuple((line.label, *_cells(line, comparison)) for line in known),
        note=f"In brackets: how many times as fast as on {first}." if divided and len(comparison.names) > 1 else "",
    )


def _cells(line: Line, comparison: Comparison) -> Iterator[str]:
    first, *_ = line.values
    for i, value in enumerate(line.values):
        shown = "-" if value is None else line.show(value)
        divisible = i > 0 and line.is_time and comparison.like_with_like
        yield f"{shown} ({first / value:.2f})" if divisible and first and value else shown


def comparison_headline(comparison: Comparison) -> str:
    """Say how many times as fast as the first the other reports of the same network are."""
    return "\n".join(_headlines(comparison))


def _headlines(comparison: Comparison) -> Iterator[str]:
    if not (comparison.of_networks and comparison.like_with_like):
        return
    name, *others = comparison.names
    for setting in comparison.settings:
        first, *rest = engine_line(comparison, setting, comparison.engine).values
        for other, ms in zip(others, rest, strict=True):
            if first and ms:
                subject = f"{comparison.engine} with {where(setting)}"
                yield f"{other}: {subject}, is {first / ms:.2f} times as fast as in {name}."


# --------------------------------------------------------------------------------------------------------------------
# The page


def comparison_page(comparison: Comparison) -> str:
    """Return the page; `<script id="report">` holds the reports as they were, each with its name and file."""
    what, *rest = comparison_tables(comparison)
    title = f"{len(comparison.reports)} reports of bnas-deploy bench"
    body = [
        element("h1", title),
        *(element("p", line, kind="result") for line in comparison_headline(comparison).splitlines()),
        *table_part(what),
        *_pictures(comparison),
        *(part for table in rest for part in table_part(table)),
    ]
    data = [
        {"name": name, "file": file, **json.loads(report.to_json())}
        for name, file, report in zip(comparison.names, comparison.files, comparison.reports, strict=True)
    ]
    return page(title, body, data)


def _pictures(comparison: Comparison) -> Iterator[Element]:
    engine = comparison.engine
    for setting in comparison.settings:
        here = where(setting)
        if comparison.of_networks:
            networks = [engine_line(comparison, setting, each) for each in (engine, *comparison.other_engines)]
            yield from _picture(comparison, f"Whole network, milliseconds, {here}", networks)
            layers = layer_lines(comparison, setting)
        else:
            layers = single_lines(comparison, setting)
        yield from _picture(comparison, f"Layers of {engine}, microseconds, {here}", layers)


def _picture(comparison: Comparison, title: str, lines: Iterable[Line]) -> list[Element]:
    rows = [
        BarRow(
            line.label,
            tuple(
                Bar((Part(name, value),), line.show(value))
                for name, value in zip(comparison.names, line.values, strict=True)
                if value is not None
            ),
        )
        for line in lines
    ]
    return picture_part(
        title, [BarGroup("", tuple(rows))], comparison.names, "A report without a bar has no such figure."
    )
