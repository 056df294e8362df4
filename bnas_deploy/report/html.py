"""A report as one HTML file that needs nothing else: tables, pictures, and all figures as JSON.

The page is a tree of elements that the standard library writes out, so that what comes from files is escaped.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from bnas_deploy.report import figures
from bnas_deploy.report.headline import headline
from bnas_deploy.report.picture import Bar, BarGroup, BarRow, Part, picture
from bnas_deploy.report.rows import kind_rows, layer_rows, layers_by_name, single_rows
from bnas_deploy.report.saved import Report
from bnas_deploy.report.summary import Summary
from bnas_deploy.report.table import Table
from bnas_deploy.report.tables import LAYER_MARKS, detail_tables, overview_tables
from bnas_deploy.runtime.bench.profile import BINARY, LAYER_KINDS
from bnas_deploy.runtime.bench.records import Record

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --dim: #5c5c5c; --paper: #ffffff; --line: #d8d8d8; }
.colour0 { fill: #0072b2; } .colour1 { fill: #8f8f8f; } .colour2 { fill: #e69f00; }
.colour3 { fill: #009e73; } .colour4 { fill: #cc79a7; } .colour5 { fill: #d55e00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --dim: #a3a3a3; --paper: #17181a; --line: #3a3c40; }
  .colour0 { fill: #56b4e9; }
}
@media print {
  :root { color-scheme: light; --ink: #000000; --dim: #444444; --paper: #ffffff; --line: #bbbbbb; }
  .colour0 { fill: #0072b2; }
  rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2 { break-after: avoid; } tr { break-inside: avoid; }
}
body { color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif; max-width: 62em;
  margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.1em; margin-top: 2em; }
p.result { font-weight: 600; margin: 0.2em 0; } p.note { color: var(--dim); font-size: 0.87em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.15em 0.9em 0.15em 0; text-align: right; vertical-align: bottom; white-space: pre; }
th { border-bottom: 1px solid var(--line); } .left { text-align: left; } .strong { font-weight: 600; }
td.long { white-space: normal; }
svg.bars { font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; max-width: none; }
svg.bars text { fill: var(--ink); } svg .label { text-anchor: end; } svg .group { font-weight: bold; }
summary { cursor: pointer; margin-top: 1em; }
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser is to fetch nothing for this page, whatever stands in it."""


def report_page(report: Report) -> str:
    """Return the page of one report; `<script id="report">` holds what `Report.to_json` returns."""
    subject = report.network or "single layers"
    body = [
        element("h1", f"{subject} on {report.machine.cpu}"),
        *(element("p", line, kind="result") for line in headline(report).splitlines()),
        *(part for table in overview_tables(report) for part in table_part(table)),
        *_pictures(report),
        *(part for table in detail_tables(report) for part in table_part(table)),
    ]
    return page(f"bnas-deploy bench: {subject}", body, json.loads(report.to_json()))


def page(title: str, body: Iterable[Element], data: Any) -> str:
    """Return a page; `data` is what JSON can hold."""
    root = Element("html", {"lang": "en"})
    head = SubElement(root, "head")
    SubElement(head, "meta", {"charset": "utf-8"})
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": POLICY})
    SubElement(head, "meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    head.extend([element("title", title), element("style", STYLE)])
    SubElement(root, "body").extend(body)
    # Elements of this kind are written as they are. In JSON a < can only stand in a string, where it may be escaped.
    script = element("script", json.dumps(data).replace("<", "\\u003c"))
    script.set("type", "application/json")
    script.set("id", "report")
    root[-1].append(script)
    return f"<!DOCTYPE html>\n{tostring(root, encoding='unicode', method='html')}\n"


def element(tag: str, text: str, *, kind: str = "") -> Element:
    """Return an element that holds a text; `kind` is its class."""
    found = Element(tag, {"class": kind} if kind else {})
    found.text = text
    return found


def table_part(table: Table) -> list[Element]:
    """Return the heading, the table and its note."""
    parts = [element("h2", table.title), _wide(_table(table))]
    return [*parts, element("p", table.note, kind="note")] if table.note else parts


def picture_part(title: str, groups: Sequence[BarGroup], names: Sequence[str], note: str) -> list[Element]:
    """Return the heading, the picture and its note; nothing where there are no bars."""
    if not any(group.rows for group in groups):
        return []
    return [element("h2", title), _wide(picture(title, groups, names)), element("p", note, kind="note")]


# --------------------------------------------------------------------------------------------------------------------
# Pictures of one report


def _pictures(report: Report) -> list[Element]:
    found: list[Element] = []
    summaries = {(each.threads, each.batch): each for each in report.summaries}
    for (threads, batch), group in groupby(report.records, key=lambda each: (each.threads, each.batch)):
        where = f"{figures.threads(threads)}, batch {batch}"
        records = list(group)
        if (threads, batch) in summaries:
            found += _network_pictures(summaries[threads, batch], records, where)
        else:
            found += _single_picture([each for each in report.records if each.batch == batch], threads, where)
    return found


def _network_pictures(summary: Summary, records: Sequence[Record], where: str) -> list[Element]:
    engines = list(summary.work)  # what tells the times of its nodes
    return [
        *picture_part(f"One run, {where}", _run_groups(summary), WORK_NAMES, "Sums of the nodes' median times."),
        *picture_part(
            f"Layers and glue, {where}",
            _layer_groups(records, engines),
            engines,
            "Microseconds of all nodes of that shape or kind in one run, as many as there are of it.",
        ),
        *_every_layer(records, engines, where),
    ]


WORK_NAMES = ("binary convolutions", "other layers", "glue")


def _run_groups(summary: Summary) -> list[BarGroup]:
    rows = []
    for engine, work in summary.work.items():
        parts = map(Part, WORK_NAMES, (work.binary_us, work.other_layers_us, work.glue_us))
        text = f"{figures.milliseconds(work.total_us / 1000)} ms, glue {figures.percent(work.share(work.glue_us))}"
        rows.append(BarRow(engine, (Bar(tuple(parts), text),)))
    return [BarGroup("", tuple(rows))]


def _layer_groups(records: Sequence[Record], engines: Sequence[str]) -> list[BarGroup]:
    layers = [
        (
            row.kind,
            BarRow(
                f"{row.count} of {row.layer}",
                _bars({engine: us * row.count for engine, us in row.each_us.items()}, engines),
            ),
        )
        for row in layer_rows(records)
    ]
    glue = [BarRow(row.kind, _bars(row.us, engines)) for row in kind_rows(records) if row.kind not in LAYER_KINDS]
    return [
        BarGroup("Binary convolutions", tuple(row for kind, row in layers if kind == BINARY)),
        BarGroup("Other layers", tuple(row for kind, row in layers if kind != BINARY)),
        BarGroup("Glue", tuple(glue)),
    ]


def _every_layer(records: Sequence[Record], engines: Sequence[str], where: str) -> list[Element]:
    """Show each layer by itself, in running order, for those who open it."""
    rows = [
        BarRow(
            f"{name}{LAYER_MARKS.get(found[0].kind or '', '')}",
            _bars({each.engine: 1000 * each.median_ms for each in found}, engines),
        )
        for name, found in layers_by_name(records).items()
    ]
    if not rows:
        return []
    details = Element("details")
    details.append(element("summary", f"Each layer by itself, {where}"))
    details.append(_wide(picture(f"Each layer, {where}", [BarGroup("", tuple(rows))], engines)))
    details.append(element("p", "Microseconds of one run, in running order.", kind="note"))
    return [details]


def _single_picture(records: Sequence[Record], threads: int, where: str) -> list[Element]:
    rows = single_rows(records, threads)
    engines = list(dict.fromkeys(engine for row in rows for engine in row.us))
    group = BarGroup("", tuple(BarRow(row.layer, _bars(row.us, engines)) for row in rows))
    note = "Microseconds of one run. An engine without a bar was not measured there."
    return picture_part(f"Single layers, {where}", [group], engines, note)


def _bars(us: Mapping[str, float], engines: Sequence[str]) -> tuple[Bar, ...]:
    """Return a bar for each engine that has a time, in the order of the legend."""
    return tuple(
        Bar((Part(engine, us[engine]),), f"{figures.microseconds(us[engine])} µs") for engine in engines if engine in us
    )


# --------------------------------------------------------------------------------------------------------------------
# Elements


def _table(table: Table) -> Element:
    found = Element("table")
    if any(table.columns):
        found.append(_table_row("th", table.columns, table))
    for i, row in enumerate(table.rows):
        found.append(_table_row("td", row, table))
        if i in table.strong:
            found[-1].set("class", "strong")
    return found


def _table_row(tag: str, cells: Sequence[str], table: Table) -> Element:
    row = Element("tr")
    for i, cell in enumerate(cells):
        kinds = ["left"] if i in table.left else []
        if len(cell) > LONGEST_CELL:
            kinds.append("long")
        row.append(element(tag, cell, kind=" ".join(kinds)))
    return row


LONGEST_CELL = 40
"""Letters; what is longer, such as a machine's list of instruction sets, is broken into lines."""


def _wide(content: Element) -> Element:
    """Let what is wider than the page scroll by itself."""
    found = Element("div", {"class": "wide"})
    found.append(content)
    return found
