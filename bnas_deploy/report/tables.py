"""Rows -> tables of text, for every printer alike."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from bnas_deploy.report import figures
from bnas_deploy.report.rows import SingleRow, kind_rows, layer_rows, single_rows
from bnas_deploy.report.saved import Report
from bnas_deploy.runtime.layers import WRONG_RESULT, LeftOut
from bnas_deploy.runtime.machine import Machine
from bnas_deploy.runtime.measure import NETWORK, Ratio, Record
from bnas_deploy.runtime.profile import FLOAT

WIDE_SPREAD = 1.5
"""Where the 90th percentile of a ratio is this many times its 10th, something disturbed the measurement."""


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
        where = f"{figures.threads(threads)}, batch {batch}"
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
        f"{each.engine} with {figures.threads(each.threads)}: {each.ratio.median:.2f} times as fast as "
        f"{each.ratio.baseline} ({each.ratio.p10:.2f} to {each.ratio.p90:.2f})."
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
            f"{first} with {figures.threads(threads)}: {min(ratios):.2f} to {max(ratios):.2f} times as fast as {other} "
            f"({len(ratios)} {'layer' if len(ratios) == 1 else 'layers'})."
        )


def _network_table(networks: Sequence[Record]) -> Table:
    rows = [
        (
            str(each.threads),
            each.engine,
            each.isa,
            figures.milliseconds(each.median_ms),
            figures.milliseconds(each.p90_ms),
            figures.milliseconds(each.p99_ms),
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
        times = [figures.microseconds(row.each_us.get(engine)) for engine in engines]
        ratios = [figures.quotient(row.each_us.get(baseline), row.each_us.get(other)) for other in others if baseline]
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
                "wrong"
                if reasons.get((engine, row.layer)) == WRONG_RESULT
                else figures.microseconds(row.us.get(engine))
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
            *(figures.factor(row.times_as_fast.get(other)) for other in others),
            *((figures.factor(row.scaling),) if scaled else ()),
        )
        for row in rows
    ]
    wide = [note for note in _ratio_notes([each.ratio for each in records if each.ratio]) if "spread" in note]
    return Table(
        f"Speed of {first} on single layers, {where}",
        ("layer", "GMAC/s", *map(_breakable, others), *((figures.threads(fewest),) if scaled else ())),
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
        (
            engine,
            figures.kilobytes(each.file_bytes),
            figures.megabytes(each.memory.peak_bytes),
            figures.megabytes(each.memory.import_bytes),
        )
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
    clock = (
        [figures.megahertz(machine.clock_mhz), f"at most {figures.megahertz(machine.max_clock_mhz)}"]
        if machine.clock_mhz
        else []
    )
    cores = "unknown" if machine.cores is None else str(machine.cores)
    rows = [
        ("CPU", f"{machine.cpu} ({machine.architecture}{', virtual machine' if machine.virtual else ''})"),
        ("ISA", " ".join(machine.isa_flags) or "nothing beyond the base"),
        ("cores", f"{cores}, {machine.cpus} threads usable"),
        ("governor", machine.governor or "not told by this system"),
        ("clock", ", ".join(clock) or "not told by this system"),
        ("memory", figures.gigabytes(machine.memory_bytes)),
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


def _time_and_share(us: float | None, total: float) -> tuple[str, str]:
    return (figures.microseconds(us), f"{100 * us / total:.1f} %") if us is not None and total else ("-", "-")


def _ratio(value: Ratio | None) -> tuple[str, str]:
    return (f"{value.median:.2f}", f"{value.p10:.2f} to {value.p90:.2f}") if value else ("-", "-")
