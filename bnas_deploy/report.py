"""Measurements as people and programs read them: records -> rows -> a terminal table, Markdown or JSON.

Rows hold numbers; only `tables` rounds, and every printer prints what it made.
"""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from bnas_deploy.errors import BnasError
from bnas_deploy.runtime.layers import WRONG_RESULT, LeftOut
from bnas_deploy.runtime.machine import Machine
from bnas_deploy.runtime.measure import NETWORK, AnswerCheck, Ratio, Record
from bnas_deploy.runtime.memory import PeakMemory
from bnas_deploy.runtime.profile import BINARY, CLASSIFIER, FLOAT

CONVOLUTIONS = (BINARY, FLOAT)
WIDE_SPREAD = 1.5
"""Where the 90th percentile of a ratio is this many times its 10th, something disturbed the measurement."""

WORK = (BINARY, FLOAT, CLASSIFIER)
"""The kinds that are not glue, in the order in which they are shown."""


@dataclass(frozen=True)
class Report:
    """What `bench --json` writes: one machine, what was measured on it, and what was not."""

    machine: Machine
    records: tuple[Record, ...]
    left_out: tuple[LeftOut, ...] = ()

    def to_json(self) -> str:
        """Return the text of the file; a field that does not apply to a record is left out."""
        records = [{name: value for name, value in asdict(each).items() if value is not None} for each in self.records]
        left_out = {"left_out": [asdict(each) for each in self.left_out]} if self.left_out else {}
        return json.dumps({"machine": asdict(self.machine), "records": records, **left_out}, indent=2) + "\n"


def read_report(path: Path) -> Report:
    """Read what `Report.to_json` wrote; fields that a newer version added are passed over.

    Raises:
        BnasError: the file cannot be read, or is something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        machine = _known(Machine, data["machine"])
        machine |= {name: tuple(machine[name]) for name in ("isa_flags", "load_average")}
        left_out = tuple(LeftOut(**_known(LeftOut, each)) for each in data.get("left_out", ()))
        return Report(Machine(**machine), tuple(map(_record, data["records"])), left_out)
    except OSError as error:
        raise BnasError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BnasError(f"{path}: not a file of `bnas-deploy bench --json` ({error})") from None


def _record(data: Mapping[str, Any]) -> Record:
    known = _known(Record, data)
    for name, kind in (("ratio", Ratio), ("memory", PeakMemory)):
        if name in known:
            known[name] = kind(**_known(kind, known[name]))
    return Record(**known)


def _known(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: data[field.name] for field in fields(kind) if field.name in data}


# --------------------------------------------------------------------------------------------------------------------
# Rows: numbers, unrounded


@dataclass(frozen=True)
class LayerRow:
    """All the convolutions of one shape: how many, and microseconds of one of them by engine."""

    layer: str
    kind: str  # in the first engine that has it, which is the one with the binary convolutions
    count: int
    each_us: Mapping[str, float]


@dataclass(frozen=True)
class KindRow:
    """Microseconds of one run that one kind of work took, by engine."""

    kind: str
    us: Mapping[str, float]


def layer_rows(records: Iterable[Record]) -> list[LayerRow]:
    """Group the convolutions by shape, binary before float, each in running order."""
    by_node: dict[str, list[Record]] = {}
    for each in records:
        if each.kind in CONVOLUTIONS:
            by_node.setdefault(each.subject, []).append(each)
    by_shape: dict[tuple[str, str], list[list[Record]]] = {}
    for kind in CONVOLUTIONS:
        for nodes in by_node.values():
            if nodes[0].kind == kind:
                by_shape.setdefault((nodes[0].layer or nodes[0].subject, kind), []).append(nodes)
    return [
        LayerRow(layer, kind, len(nodes), _mean_us(each for node in nodes for each in node))
        for (layer, kind), nodes in by_shape.items()
    ]


def kind_rows(records: Iterable[Record]) -> list[KindRow]:
    """Add up the nodes' medians by kind of work: convolutions and classifier first, then glue, the slowest first."""
    sums: dict[str, dict[str, float]] = {}
    for each in records:
        if each.kind:
            us = sums.setdefault(each.kind, {})
            us[each.engine] = us.get(each.engine, 0) + 1000 * each.median_ms
    glue = sorted(sums.keys() - set(WORK), key=lambda kind: (-max(sums[kind].values()), kind))
    return [KindRow(kind, sums[kind]) for kind in (*WORK, *glue) if kind in sums]


@dataclass(frozen=True)
class SingleRow:
    """One layer that was measured by itself: microseconds by engine, and how many times as fast the first engine is.

    `macs` are of one run. `times_as_fast` has an entry for each other engine, and `scaling` is how many times as fast
    the first engine is as with the fewest threads of the report, None where these are they.
    """

    layer: str
    macs: int
    us: Mapping[str, float]
    times_as_fast: Mapping[str, float]
    scaling: float | None

    @property
    def gmacs_per_second(self) -> Mapping[str, float]:
        """Return billions of multiply-accumulates per second by engine."""
        return {engine: self.macs / (1000 * us) for engine, us in self.us.items()}


def single_rows(records: Iterable[Record], threads: int) -> list[SingleRow]:
    """Gather the layers that were measured by themselves, in the order of the records, with this many threads."""
    by_layer: dict[str, list[Record]] = {}
    for each in records:
        if each.macs is not None:
            by_layer.setdefault(each.subject, []).append(each)
    return [
        _single_row(layer, group, threads)
        for layer, group in by_layer.items()
        if any(each.threads == threads for each in group)
    ]


def _single_row(layer: str, records: Sequence[Record], threads: int) -> SingleRow:
    here = [each for each in records if each.threads == threads]
    first, *others = here
    fewest = min((each for each in records if each.engine == first.engine), key=lambda each: each.threads)
    return SingleRow(
        layer,
        first.macs or 0,
        {each.engine: 1000 * each.median_ms for each in here},
        {other.engine: _times_as_fast(first, other) for other in others},
        None if fewest is first else fewest.median_ms / first.median_ms,
    )


def _times_as_fast(first: Record, other: Record) -> float:
    """From ratios to the same runs of the baseline where there are some: they are steadier than medians."""
    if first.ratio and other.engine == first.ratio.baseline:
        return first.ratio.median
    if first.ratio and other.ratio:
        return first.ratio.median / other.ratio.median
    return other.median_ms / first.median_ms


def _mean_us(records: Iterable[Record]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for each in records:
        found.setdefault(each.engine, []).append(1000 * each.median_ms)
    return {engine: statistics.fmean(times) for engine, times in found.items()}


# --------------------------------------------------------------------------------------------------------------------
# Tables: text, rounded


@dataclass(frozen=True)
class Table:
    """Cells as they are printed; the columns in `left` are flush left, the others are numbers.

    A column's title may be broken at a newline where that saves width.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})
    strong: frozenset[int] = frozenset()
    """Rows that carry the result."""
    note: str = ""


def tables(report: Report) -> list[Table]:
    """Round everything once and lay it out."""
    networks = [each for each in report.records if each.subject == NETWORK]
    found = [_network_table(networks), _size_table(networks)]
    for (threads, batch), group in groupby(report.records, key=lambda each: (each.threads, each.batch)):
        records = list(group)
        where = f"{_threads(threads)}, batch {batch}"
        singles = single_rows(report.records, threads)
        found += [
            _layer_table(records, where),
            _kind_table(records, where),
            _single_time_table(singles, records, report.left_out, where),
            _single_speed_table(singles, records, where, fewest=min(each.threads for each in report.records)),
        ]
    return [table for table in (*found, _machine_table(report.machine)) if table.rows]


def headline(report: Report) -> str:
    """Say the result in a sentence for each engine and number of threads, or for each pair of engines on layers."""
    networks = [
        f"{each.engine} with {_threads(each.threads)}: {each.ratio.median:.2f} times as fast as {each.ratio.baseline} "
        f"({each.ratio.p10:.2f} to {each.ratio.p90:.2f})."
        for each in report.records
        if each.ratio and each.subject == NETWORK
    ]
    layers = [
        line
        for threads in dict.fromkeys(each.threads for each in report.records if each.macs is not None)
        for line in _layers_headline(single_rows(report.records, threads), threads)
    ]
    return "\n".join((*networks, *layers))


def _layers_headline(rows: Sequence[SingleRow], threads: int) -> Iterator[str]:
    first = next(iter(rows[0].us))
    for other in dict.fromkeys(engine for row in rows for engine in row.times_as_fast):
        ratios = [row.times_as_fast[other] for row in rows if other in row.times_as_fast]
        yield (
            f"{first} with {_threads(threads)}: {min(ratios):.2f} to {max(ratios):.2f} times as fast as {other} "
            f"({len(ratios)} {'layer' if len(ratios) == 1 else 'layers'})."
        )


def _network_table(networks: Sequence[Record]) -> Table:
    rows = [
        (
            str(each.threads),
            each.engine,
            each.isa,
            _milliseconds(each.median_ms),
            _milliseconds(each.p90_ms),
            _milliseconds(each.p99_ms),
            str(each.runs),
            *_ratio(each.ratio),
        )
        for each in networks
    ]
    batches = " and ".join(sorted({str(each.batch) for each in networks}))
    return Table(
        f"Whole network, batch {batches}",
        ("threads", "engine", "ISA", "median ms", "p90", "p99", "runs", "ratio", "10 to 90 %"),
        tuple(rows),
        left=frozenset({1, 2}),
        strong=frozenset(i for i, each in enumerate(networks) if each.ratio),
        note=" ".join(_ratio_notes([each.ratio for each in networks if each.ratio])),
    )


def _ratio_notes(ratios: Sequence[Ratio]) -> Iterator[str]:
    if ratios:
        yield (
            f"Ratio: time of {ratios[0].baseline} / time of the engine, in neighbouring runs; "
            "median, 10th to 90th percentile."
        )
    if any(each.p90 > WIDE_SPREAD * each.p10 for each in ratios):
        yield "The ratios spread widely: other work was running. Measure again on a quiet machine."


def _layer_table(records: Sequence[Record], where: str) -> Table:
    rows = layer_rows(records)
    engines = _engines(records)
    baseline = _baseline(records)
    others = [engine for engine in engines if engine != baseline] if baseline else []
    cells = []
    for row in rows:
        times = [_microseconds(row.each_us.get(engine)) for engine in engines]
        ratios = [_quotient(row.each_us.get(baseline), row.each_us.get(other)) for other in others if baseline]
        cells.append((row.layer + (" (float)" if row.kind == FLOAT else ""), str(row.count), *times, *ratios))
    return Table(
        f"Convolutions, {where}",
        ("layer", "nodes", *(f"{engine} µs" for engine in engines), *_ratio_titles(others)),
        tuple(cells),
        note="Microseconds of one node, and what onnxruntime fused into it. (float): float in the first engine too."
        if any(row.kind == FLOAT for row in rows)
        else "Microseconds of one node, and what onnxruntime fused into it.",
    )


def _kind_table(records: Sequence[Record], where: str) -> Table:
    rows = kind_rows(records)
    engines = _engines(records)
    totals = {engine: sum(row.us.get(engine, 0) for row in rows) for engine in engines}
    cells = [
        (row.kind, *(cell for engine in engines for cell in _time_and_share(row.us.get(engine), totals[engine])))
        for row in rows
    ]
    if rows:
        cells.append(
            ("all nodes", *(cell for engine in engines for cell in _time_and_share(totals[engine], totals[engine])))
        )
    return Table(
        f"Where the time goes, {where}",
        ("kind of work", *(title for engine in engines for title in (f"{engine} µs", "share"))),
        tuple(cells),
        strong=frozenset({len(cells) - 1}),
        note="From onnxruntime's profiler, which cuts off to whole microseconds and costs some time itself.",
    )


def _single_time_table(
    rows: Sequence[SingleRow], records: Sequence[Record], left_out: Sequence[LeftOut], where: str
) -> Table:
    engines = list(dict.fromkeys(engine for row in rows for engine in row.us))
    engines += [each.engine for each in left_out if each.subject and each.engine not in engines]
    reasons = {(each.engine, each.subject): each.reason for each in left_out}
    cells = [
        (
            row.layer,
            f"{row.macs / 1e6:.1f}",
            *(
                "wrong" if reasons.get((engine, row.layer)) == WRONG_RESULT else _microseconds(row.us.get(engine))
                for engine in engines
            ),
        )
        for row in rows
    ]
    return Table(
        f"Microseconds of single layers, {where}",
        ("layer", "MMAC", *map(_breakable, engines)),
        tuple(cells),
        note=" ".join((_kernels_note(records), *_left_out_notes(left_out))),
    )


def _kernels_note(records: Iterable[Record]) -> str:
    """Name the instruction set of every engine, and the number formats that were its fastest."""
    kernels: dict[str, dict[str, None]] = {}
    for each in records:
        kernels.setdefault(f"{each.engine} {each.isa}", {}).update({each.format: None} if each.format else {})
    return (
        f"Kernels: {', '.join(' '.join((engine, '/'.join(formats))).strip() for engine, formats in kernels.items())}."
    )


def _left_out_notes(left_out: Sequence[LeftOut]) -> Iterator[str]:
    if any(each.reason == WRONG_RESULT for each in left_out):
        yield f"wrong: {WRONG_RESULT}, so it was not timed."
    for each in left_out:
        if each.subject is None:
            yield f"Not measured: {each.engine}, because {each.reason}."


def _single_speed_table(rows: Sequence[SingleRow], records: Sequence[Record], where: str, *, fewest: int) -> Table:
    if not rows:
        return Table("", (), ())
    first = next(iter(rows[0].us))
    others = list(dict.fromkeys(engine for row in rows for engine in row.times_as_fast))
    scaled = any(row.scaling for row in rows)
    cells = [
        (
            row.layer,
            f"{row.gmacs_per_second[first]:.0f}",
            *(_factor(row.times_as_fast.get(other)) for other in others),
            *((_factor(row.scaling),) if scaled else ()),
        )
        for row in rows
    ]
    wide = [note for note in _ratio_notes([each.ratio for each in records if each.ratio]) if "spread" in note]
    return Table(
        f"Speed of {first} on single layers, {where}",
        ("layer", "GMAC/s", *map(_breakable, others), *((_threads(fewest),) if scaled else ())),
        tuple(cells),
        note=" ".join(
            (
                "GMAC/s: billions of multiply-accumulates a second. The other columns: how many times as fast as that.",
                *wide,
            )
        ),
    )


def _breakable(engine: str) -> str:
    return engine.replace("-", "-\n", 1)


def _size_table(networks: Sequence[Record]) -> Table:
    by_engine = {each.engine: each for each in networks}
    rows = [
        (engine, _kilobytes(each.file_bytes), _megabytes(each.memory.peak_bytes), _megabytes(each.memory.import_bytes))
        for engine, each in by_engine.items()
        if each.memory
    ]
    return Table(
        "Files and memory",
        ("engine", "file kB", "peak MB", "of it Python and libraries MB"),
        tuple(rows),
        note="Peak resident memory of a fresh process that loads and runs one model with 1 thread.",
    )


def _machine_table(machine: Machine) -> Table:
    clock = [_megahertz(machine.clock_mhz), f"at most {_megahertz(machine.max_clock_mhz)}"] if machine.clock_mhz else []
    cores = "unknown" if machine.cores is None else str(machine.cores)
    rows = [
        ("CPU", f"{machine.cpu} ({machine.architecture}{', virtual machine' if machine.virtual else ''})"),
        ("ISA", " ".join(machine.isa_flags) or "nothing beyond the base"),
        ("cores", f"{cores}, {machine.cpus} threads usable"),
        ("governor", machine.governor or "not told by this system"),
        ("clock", ", ".join(clock) or "not told by this system"),
        ("memory", _gigabytes(machine.memory_bytes)),
        ("load average", " ".join(f"{load:.2f}" for load in machine.load_average)),
        ("system", f"{machine.os}, {machine.kernel}"),
        (
            "versions",
            f"bnas-deploy {machine.bnas_deploy}, onnxruntime {machine.onnxruntime}, numpy {machine.numpy}, "
            f"Python {machine.python}",
        ),
        ("date", machine.date),
    ]
    return Table("Machine", ("", ""), tuple(rows), left=frozenset({0, 1}))


def _engines(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(each.engine for each in records))


def _baseline(records: Iterable[Record]) -> str | None:
    return next((each.ratio.baseline for each in records if each.ratio), None)


def _ratio_titles(others: Sequence[str]) -> list[str]:
    return ["ratio"] if len(others) == 1 else [f"{other} ratio" for other in others]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _time_and_share(us: float | None, total: float) -> tuple[str, str]:
    return (_microseconds(us), f"{100 * us / total:.1f} %") if us is not None and total else ("-", "-")


def _milliseconds(value: float) -> str:
    """Three significant digits and more: nothing here is known better than that."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _microseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _ratio(value: Ratio | None) -> tuple[str, str]:
    return (f"{value.median:.2f}", f"{value.p10:.2f} to {value.p90:.2f}") if value else ("-", "-")


def _quotient(baseline: float | None, other: float | None) -> str:
    return _factor(baseline / other) if baseline is not None and other else "-"


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _kilobytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e3:,.1f}"


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:,.1f}"


def _gigabytes(value: int | None) -> str:
    return "not told by this system" if value is None else f"{value / 1e9:.1f} GB"


def _megahertz(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} MHz"


# --------------------------------------------------------------------------------------------------------------------
# Printers


def answer(check: AnswerCheck) -> str:
    """Say what was compared before measuring."""
    agreement = "agrees in every bit with" if check.every_bit else "agrees, as far as K has a defined value, with"
    return (
        f"Answer checked on {check.images} images: the operator library {agreement} onnxruntime without it,\n"
        f"and the largest difference of a logit from PyTorch's is {check.largest_difference:.2g} "
        f"({check.tolerance:.2g} is allowed)."
    )


def print_report(report: Report, file: TextIO | None = None, *, width: int | None = None) -> None:
    """Print the tables to a terminal, or to `file` at a given width; the result comes last, where the eye is."""
    from rich.console import Console

    console = Console(file=file, width=width, highlight=False)
    for table in tables(report):
        console.print(_rich(table))
        if table.note:
            console.print(table.note, style="dim", markup=False)
        console.print()
    console.print(headline(report), markup=False)


def markdown(report: Report) -> str:
    """Return the tables as Markdown, the result first."""
    return "\n".join(["## Measured", "", headline(report), "", *map(_markdown, tables(report))])


def _rich(table: Table) -> Any:
    import rich.box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        box=rich.box.SIMPLE_HEAD if any(table.columns) else None,
        show_header=any(table.columns),
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for i, column in enumerate(table.columns):
        shown.add_column(Text(column), justify="left" if i in table.left else "right", overflow="fold")
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
