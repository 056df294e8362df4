"""Rows -> tables of text, for every printer alike."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TypeVar

from bnas_deploy.report import figures
from bnas_deploy.report.notes import DOUBT, breakable, doubtful, left_out_notes, preempted_notes, ratio_notes
from bnas_deploy.report.rows import Breakdown, breakdown_by_engine, kind_rows, layer_rows, single_rows
from bnas_deploy.report.saved import Report
from bnas_deploy.report.single_layers import single_speed_table, single_time_table
from bnas_deploy.report.summary import Summary
from bnas_deploy.report.table import Table
from bnas_deploy.runtime.bench.engines import LeftOut
from bnas_deploy.runtime.bench.machine import Machine
from bnas_deploy.runtime.bench.profile import CLASSIFIER, FLOAT, INT8, LAYER_KINDS
from bnas_deploy.runtime.bench.records import NETWORK, Ratio, Record

T = TypeVar("T")


def tables(report: Report) -> list[Table]:
    """Round everything once and lay it out."""
    return [*overview_tables(report), *detail_tables(report)]


def overview_tables(report: Report) -> list[Table]:
    """Lay out what is about whole networks; nothing where only layers were measured."""
    networks = [each for each in report.records if each.subject == NETWORK]
    found = _network_table(networks, report.left_out), _summary_table(report.summaries), _size_table(networks)
    return [table for table in found if table.rows]


def detail_tables(report: Report) -> list[Table]:
    """Lay out layers and work, for each number of threads and images, and the machine."""
    found: list[Table] = []
    for (threads, batch), group in groupby(report.records, key=lambda each: (each.threads, each.batch)):
        records = list(group)
        where = f"{figures.threads(threads)}, batch {batch}"
        same_batch = [each for each in report.records if each.batch == batch]
        singles = single_rows(same_batch, threads)
        found += [
            _layer_table(records, where),
            _kind_table(records, where),
            single_time_table(singles, records, report.left_out, where),
            single_speed_table(singles, records, where, fewest=min(each.threads for each in same_batch)),
        ]
    return [table for table in (*found, _machine_table(report.machine)) if table.rows]


def _network_table(networks: Sequence[Record], left_out: Sequence[LeftOut]) -> Table:
    if not networks:
        return Table("", (), ())
    batches = sorted({each.batch for each in networks})
    several = len(batches) > 1
    preempted = any(each.preempted for each in networks)
    rows = [
        (
            str(each.threads),
            *((str(each.batch),) if several else ()),
            each.engine,
            each.isa,
            figures.milliseconds(each.median_ms),
            *((figures.milliseconds(each.median_ms / each.batch),) if several else ()),
            figures.milliseconds(each.p90_ms),
            figures.milliseconds(each.p99_ms),
            str(each.runs),
            *((str(each.preempted or 0),) if preempted else ()),
            *_ratio(each.ratio),
        )
        for each in networks
    ]
    columns = ("threads", "batch", "engine", "ISA", "median ms", "ms an\nimage", "p90", "p99", "runs")
    shown = [column for column in columns if several or column not in {"batch", "ms an\nimage"}]
    shown += ["preempted"] if preempted else []
    return Table(
        f"Whole network, batch {' and '.join(map(str, batches))}",
        (*shown, "ratio", "10 to 90 %"),
        tuple(rows),
        left=frozenset({shown.index("engine"), shown.index("ISA")}),
        strong=frozenset(i for i, each in enumerate(networks) if each.engine == networks[0].engine),
        note=" ".join(
            (
                *ratio_notes([each.ratio for each in networks if each.ratio]),
                *preempted_notes(networks),
                *left_out_notes(left_out),
            ),
        ),
        spare=("runs", "p99", "p90"),
    )


def _summary_table(summaries: Sequence[Summary]) -> Table:
    """One column per number of threads and images; a line is there where some column has a figure for it."""
    if not summaries:
        return Table("", (), ())
    twins = list(dict.fromkeys(engine for each in summaries for engine in each.times_as_fast))
    lines: list[tuple[str, list[str]]] = [
        *(
            (
                f"times as fast as {twin}",
                [doubtful(figures.factor(each.times_as_fast.get(twin)), twin in each.disturbed) for each in summaries],
            )
            for twin in twins
        ),
        ("glue, of the time of all nodes", [figures.percent(each.glue_share) for each in summaries]),
        *_ceiling_lines(summaries),
        *(
            (f"file size, of that of {twin}", [figures.fraction(each.file_share.get(twin)) for each in summaries])
            for twin in twins
        ),
        *_scaling_lines(summaries),
    ]
    ceilings = [each.ceilings for each in summaries if each.ceilings]
    notes = (
        *(
            f"Ceiling: times as fast as {each.baseline} if that work took no time (Amdahl's law on the profile)."
            for each in ceilings[:1]
        ),
        *([DOUBT] if any("?" in cell for _, cells in lines for cell in cells) else []),
    )
    return Table(
        "In short",
        ("", *(f"{figures.threads(each.threads)},\nbatch {each.batch}" for each in summaries)),
        tuple((name, *cells) for name, cells in lines if set(cells) != {"-"}),
        strong=frozenset(range(len(twins))),
        note=" ".join(notes),
        wraps=True,
    )


def _ceiling_lines(summaries: Sequence[Summary]) -> Iterator[tuple[str, list[str]]]:
    for name, field in (
        ("ceiling: binary convolutions for nothing", "free_binary"),
        ("ceiling: glue for nothing", "free_glue"),
        ("ceiling: both for nothing", "free_both"),
    ):
        yield name, [figures.factor(getattr(each.ceilings, field, None)) for each in summaries]


def _scaling_lines(summaries: Sequence[Summary]) -> Iterator[tuple[str, list[str]]]:
    """The same images with more threads, and more images at once: images a second against those of the baseline."""
    for field in ("thread_scaling", "batch_scaling"):
        scalings: list[Ratio | None] = [getattr(each, field) for each in summaries]
        baseline = next((each.baseline for each in scalings if each), "")
        yield (
            f"times the images a second of {baseline}",
            [doubtful(figures.factor(each.median), each.disturbed) if each else "-" for each in scalings],
        )


def _layer_table(records: Sequence[Record], where: str) -> Table:
    rows = layer_rows(records)
    if not rows:
        return Table("", (), ())
    engines = [engine for engine in _engines(records) if any(engine in row.each_us for row in rows)]
    first, *others = engines
    cells = [
        (
            row.layer + LAYER_MARKS.get(row.kind, ""),
            str(row.count),
            *(figures.microseconds(row.each_us.get(engine)) for engine in engines),
            *(figures.quotient(row.each_us.get(other), row.each_us.get(first)) for other in others),
        )
        for row in rows
    ]
    marks = any(row.kind in LAYER_MARKS for row in rows)
    return Table(
        f"Layers, {where}",
        (
            "layer",
            "nodes",
            *(f"{breakable(engine)} µs" for engine in engines),
            *(("ratio",) if len(others) == 1 else (f"vs\n{breakable(other)}" for other in others)),
        ),
        tuple(cells),
        note=f"Microseconds of one node, and what the engine fused into it. Ratio: how many times as fast {first} is."
        + (f" In brackets: what is not binary in {first}." if marks else ""),
        spare=("nodes",),
    )


LAYER_MARKS = {FLOAT: " (float)", INT8: " (int8)", CLASSIFIER: " (classifier)"}


def _kind_table(records: Sequence[Record], where: str) -> Table:
    rows = kind_rows(records)
    work = breakdown_by_engine(records)
    engines = list(work)
    if not engines:
        return Table("", (), ())
    whole_us = {each.engine: 1000 * each.median_ms for each in records if each.subject == NETWORK}
    whole_us = {engine: us for engine, us in whole_us.items() if engine in work}

    def cells(us: Mapping[str, float | None]) -> list[str]:
        return [cell for engine in engines for cell in _time_and_share(us.get(engine), work.get(engine))]

    layers = [row for row in rows if row.kind in LAYER_KINDS]
    glue = [row for row in rows if row.kind not in LAYER_KINDS]
    return Table(
        f"Where the time goes, {where}",
        ("work", *(title for engine in engines for title in (f"{breakable(engine)} µs", "share"))),
        (
            *((row.kind, *cells(row.us)) for row in layers),
            ("glue", *cells({engine: each.glue_us for engine, each in work.items()})),
            *((f"  {row.kind}", *cells(row.us)) for row in glue),
            ("all nodes", *cells({engine: each.total_us for engine, each in work.items()})),
            *([("run, not profiled", *cells(whole_us))] if whole_us else []),
        ),
        strong=frozenset({len(layers), 1 + len(layers) + len(glue)}),
        note=" ".join(
            (
                "Sums of the nodes' medians; they were measured with onnxruntime's profiler, which slows each node a "
                "little. What was fused into a convolution counts as part of it.",
                *_sum_notes(work, whole_us),
            )
        ),
    )


SLOWED = 1.3
"""The largest ratio, either way, of the nodes' sum and the run. Beyond it something disturbed one of the two, and the
profile says little about the run."""


def _sum_notes(work: Mapping[str, Breakdown], whole_us: Mapping[str, float]) -> Iterator[str]:
    """Compare the sum of the nodes with the run that was measured without a profiler."""
    times = {engine: each.total_us / whole_us[engine] for engine, each in work.items() if engine in whole_us}
    if times:
        sums = ", ".join(f"{figures.factor(factor)} times the run of {engine}" for engine, factor in times.items())
        yield f"All nodes are {sums}."
    slowed = [engine for engine, factor in times.items() if factor > SLOWED]
    if slowed:
        yield (
            f"WARNING: that is more than {SLOWED} for {', '.join(slowed)}; the profiler or other programs slowed the "
            "nodes there, and neither their times nor their shares hold. Measure again on a quiet machine."
        )
    disturbed = [engine for engine, factor in times.items() if factor * SLOWED < 1]
    if disturbed:
        yield (
            f"WARNING: the run is more than {SLOWED} times its nodes for {', '.join(disturbed)}; other programs slowed "
            "it, and the nodes' shares of it do not hold. Measure again on a quiet machine."
        )


def _size_table(networks: Sequence[Record]) -> Table:
    several = len({each.batch for each in networks}) > 1
    by_batch = {(each.batch, each.engine): each for each in networks}
    rows = [
        (
            engine,
            *((str(batch),) if several else ()),
            figures.kilobytes(each.file_bytes),
            figures.megabytes(each.memory.activation_bytes),
            figures.megabytes(each.memory.peak_bytes),
            figures.megabytes(each.memory.import_bytes),
            "-" if each.creation_ms is None else figures.milliseconds(each.creation_ms),
        )
        for (batch, engine), each in by_batch.items()
        if each.memory
    ]
    columns = ("file kB", "activations\nMB", "peak\nMB", IMPORTS, "session\nms")
    return Table(
        "Files, memory and loading",
        ("engine", *(("batch",) if several else ()), *columns),
        tuple(rows),
        note="Activations: the most that a run holds at once besides model, input and output. Peak: resident memory "
        "of a fresh process that loads and runs the model. Session: median time to make one of the file. All with 1 "
        "thread.",
        spare=(IMPORTS,),
    )


IMPORTS = "of it Python\nand libraries"


def _machine_table(machine: Machine) -> Table:
    cores = "unknown" if machine.cores is None else str(machine.cores)
    rows = [
        ("CPU", f"{machine.cpu} ({machine.architecture}{', virtual machine' if machine.virtual else ''})"),
        ("ISA", " ".join(machine.isa_flags) or "nothing beyond the base"),
        ("cores", f"{cores}, {machine.cpus} threads usable"),
        ("governor", machine.governor or "not told by this system"),
        ("clock", _clock(machine)),
        ("temperature", _before_and_after(machine.temperature_c, machine.temperature_c_after, figures.celsius)),
        ("throttling", _before_and_after(machine.throttling, machine.throttling_after, figures.throttling)),
        ("memory", figures.gigabytes(machine.memory_bytes)),
        ("load average", _load(machine)),
        ("system", f"{machine.os}, {machine.kernel}"),
        (
            "versions",
            f"bnas-deploy {machine.bnas_deploy}, onnxruntime {machine.onnxruntime}, numpy {machine.numpy}, "
            f"Python {machine.python}",
        ),
        ("date", machine.date),
    ]
    return Table("Machine", ("", ""), tuple(rows), left=frozenset({0, 1}), wraps=True)


def _load(machine: Machine) -> str:
    return " ".join(f"{load:.2f}" for load in machine.load_average or ()) or "not told by this system"


def _clock(machine: Machine) -> str:
    at_most = f", at most {figures.megahertz(machine.max_clock_mhz)}" if machine.clock_mhz else ""
    return _before_and_after(machine.clock_mhz, machine.clock_mhz_after, figures.megahertz) + at_most


def _before_and_after(before: T | None, after: T | None, shown: Callable[[T], str]) -> str:
    """Show what was read before and after measuring, either None where the system does not tell."""
    if before is None:
        return "not told by this system"
    return shown(before) if after is None else f"{shown(before)} before measuring, {shown(after)} after it"


def _engines(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(each.engine for each in records))


def _time_and_share(us: float | None, work: Breakdown | None) -> tuple[str, str]:
    return (figures.microseconds(us), figures.percent(work.share(us))) if us is not None and work else ("-", "-")


def _ratio(value: Ratio | None) -> tuple[str, str]:
    return (f"{value.median:.2f}", f"{value.p10:.2f} to {value.p90:.2f}") if value else ("-", "-")
