"""Rows -> tables of text, for every printer alike."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar

from bnas_deploy.report import figures
from bnas_deploy.report.rows import SingleRow, Work, kind_rows, layer_rows, single_rows, work_by_engine
from bnas_deploy.report.saved import Report
from bnas_deploy.report.summary import Summary
from bnas_deploy.runtime.bench.engines import LeftOut
from bnas_deploy.runtime.bench.layers import WRONG_RESULT
from bnas_deploy.runtime.bench.machine import Machine
from bnas_deploy.runtime.bench.networks import NETWORK, Ratio, Record
from bnas_deploy.runtime.bench.profile import CLASSIFIER, FLOAT, INT8, LAYER_KINDS
from bnas_deploy.runtime.bench.samples import MIN_RUNS

T = TypeVar("T")

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
    spare: tuple[str, ...] = ()
    """Columns that a narrow page can do without, in the order in which they are given up."""
    wraps: bool = False
    """Whether the texts in `left` may go on in the next line; where not, a row is a line."""

    def without(self, columns: Sequence[str]) -> "Table":
        """Leave out `columns`, and say so in the note."""
        kept = [i for i, column in enumerate(self.columns) if column not in columns]
        names = ", ".join(column.replace("\n", " ") for column in columns)
        return replace(
            self,
            columns=tuple(self.columns[i] for i in kept),
            rows=tuple(tuple(row[i] for i in kept) for row in self.rows),
            left=frozenset(place for place, i in enumerate(kept) if i in self.left),
            note=f"{self.note} Not shown, for want of width: {names}.".strip(),
            spare=tuple(column for column in self.spare if column not in columns),
        )


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
            _single_time_table(singles, records, report.left_out, where),
            _single_speed_table(singles, records, where, fewest=min(each.threads for each in same_batch)),
        ]
    return [table for table in (*found, _machine_table(report.machine)) if table.rows]


def headline(report: Report) -> str:
    """Say the result in a sentence for each workload and each engine that the first one is compared with."""
    return "\n".join((*_network_headlines(report), *_layer_headlines(report)))


def _network_headlines(report: Report) -> Iterator[str]:
    networks = [each for each in report.records if each.subject == NETWORK]
    for each in report.summaries:
        own = next(one for one in networks if (one.threads, one.batch) == (each.threads, each.batch))
        subject = f"{each.engine} with {_workload(each, networks)}"
        for other, ratio in each.times_as_fast.items():
            if other in each.disturbed:
                runs = _preempted_of(own.ratio)
                yield f"{subject} against {other}: {NOT_TOLD}{runs}. Measure again on a quiet machine."
                continue
            spread = ""
            if own.ratio and own.ratio.baseline == other:
                spread = f" ({own.ratio.p10:.2f} to {own.ratio.p90:.2f})"
            yield f"{subject}: {ratio:.2f} times as fast as {other}{spread}."


NOT_TOLD = "not to be told, because other programs had the processor"


def _preempted_of(ratio: Ratio | None) -> str:
    """Say in how many pairs of runs; nothing where there is no ratio that counted them."""
    return f" in {ratio.preempted} of {ratio.pairs} pairs of runs" if ratio and ratio.disturbed else ""


def _layer_headlines(report: Report) -> Iterator[str]:
    layers = [each for each in report.records if each.macs is not None]
    for threads, batch in dict.fromkeys((each.threads, each.batch) for each in layers):
        where = _workload(next(each for each in layers if (each.threads, each.batch) == (threads, batch)), layers)
        yield from _layers_headline(single_rows((each for each in layers if each.batch == batch), threads), where)


def _workload(one: Record | Summary, among: Sequence[Record]) -> str:
    """Name the number of threads, and of images where it differs."""
    several = len({each.batch for each in among}) > 1
    return figures.threads(one.threads) + (f", batch {one.batch}" if several else "")


def _layers_headline(rows: Sequence[SingleRow], where: str) -> Iterator[str]:
    first = next(iter(rows[0].us))
    for other in dict.fromkeys(engine for row in rows for engine in row.times_as_fast):
        compared = [row for row in rows if other in row.times_as_fast]
        ratios = [row.times_as_fast[other] for row in compared if other not in row.disturbed]
        if not ratios:
            yield f"{first} with {where} against {other}: {NOT_TOLD} in most runs. Measure again on a quiet machine."
            continue
        disturbed = len(compared) - len(ratios)
        yield (
            f"{first} with {where}: {min(ratios):.2f} to {max(ratios):.2f} times as fast as {other} "
            f"({len(ratios)} {'layer' if len(ratios) == 1 else 'layers'}"
            f"{f'; {disturbed} more not to be told, because of other programs' if disturbed else ''})."
        )


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
                *_ratio_notes([each.ratio for each in networks if each.ratio]),
                *_preempted_notes(networks),
                *_left_out_notes(left_out),
            ),
        ),
        spare=("runs", "p99", "p90"),
    )


def _summary_table(summaries: Sequence[Summary]) -> Table:
    """One column per workload; a line is there where some column has a figure for it."""
    if not summaries:
        return Table("", (), ())
    twins = list(dict.fromkeys(engine for each in summaries for engine in each.times_as_fast))
    lines: list[tuple[str, list[str]]] = [
        *(
            (
                f"times as fast as {twin}",
                [_doubtful(figures.factor(each.times_as_fast.get(twin)), twin in each.disturbed) for each in summaries],
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


DOUBT = "?: other programs had the processor in so many runs that too few others are left."


def _doubtful(figure: str, doubtful: bool) -> str:
    return f"{figure}?" if doubtful else figure


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
            [_doubtful(figures.factor(each.median), each.disturbed) if each else "-" for each in scalings],
        )


def _ratio_notes(ratios: Sequence[Ratio]) -> Iterator[str]:
    if ratios:
        yield (
            f"Ratio: time of {ratios[0].baseline} / time of the engine, in neighbouring runs; "
            "median, 10th to 90th percentile."
        )
    if any(each.p90 > WIDE_SPREAD * each.p10 for each in ratios):
        yield "The ratios spread widely: other work was running. Measure again on a quiet machine."


def _preempted_notes(records: Sequence[Record]) -> Iterator[str]:
    if any(each.preempted is None for each in records):
        yield "It is not known in which runs other programs had the processor; all count."
    elif any(each.disturbed for each in records):
        yield (
            "Preempted: runs in which another program had the processor. Where these leave fewer than "
            f"{MIN_RUNS}, they count, too."
        )
    elif any(each.preempted for each in records):
        yield "Preempted: runs in which another program had the processor; they are left out."


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
            *(f"{_breakable(engine)} µs" for engine in engines),
            *(("ratio",) if len(others) == 1 else (f"vs\n{_breakable(other)}" for other in others)),
        ),
        tuple(cells),
        note=f"Microseconds of one node, and what the engine fused into it. Ratio: how many times as fast {first} is."
        + (f" In brackets: what is not binary in {first}." if marks else ""),
        spare=("nodes",),
    )


LAYER_MARKS = {FLOAT: " (float)", INT8: " (int8)", CLASSIFIER: " (classifier)"}


def _kind_table(records: Sequence[Record], where: str) -> Table:
    rows = kind_rows(records)
    work = work_by_engine(records)
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
        ("work", *(title for engine in engines for title in (f"{_breakable(engine)} µs", "share"))),
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
"""Where the nodes add up to this many times the run, a profile says more about what disturbed it than about the run."""


def _sum_notes(work: Mapping[str, Work], whole_us: Mapping[str, float]) -> Iterator[str]:
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
        note=" ".join((_kernels_note(records), *_preempted_notes(records), *_left_out_notes(left_out))),
        spare=("MMAC",),
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
            *(_doubtful(figures.factor(row.times_as_fast.get(other)), other in row.disturbed) for other in others),
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
                *([DOUBT] if any(row.disturbed for row in rows) else []),
            )
        ),
    )


def _breakable(engine: str) -> str:
    return engine.replace("-", "-\n", 1)


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
        ("load average", " ".join(f"{load:.2f}" for load in machine.load_average)),
        ("system", f"{machine.os}, {machine.kernel}"),
        (
            "versions",
            f"bnas-deploy {machine.bnas_deploy}, onnxruntime {machine.onnxruntime}, numpy {machine.numpy}, "
            f"Python {machine.python}",
        ),
        ("date", machine.date),
    ]
    return Table("Machine", ("", ""), tuple(rows), left=frozenset({0, 1}), wraps=True)


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


def _time_and_share(us: float | None, work: Work | None) -> tuple[str, str]:
    return (figures.microseconds(us), figures.percent(work.share(us))) if us is not None and work else ("-", "-")


def _ratio(value: Ratio | None) -> tuple[str, str]:
    return (f"{value.median:.2f}", f"{value.p10:.2f} to {value.p90:.2f}") if value else ("-", "-")
