"""Tables of layers that were measured by themselves."""

from collections.abc import Iterable, Sequence

from bnas_deploy.report import figures
from bnas_deploy.report.notes import DOUBT, breakable, doubtful, left_out_notes, preempted_notes, ratio_notes
from bnas_deploy.report.rows import SingleRow
from bnas_deploy.report.table import Table
from bnas_deploy.runtime.bench.engines import LeftOut
from bnas_deploy.runtime.bench.layers import WRONG_RESULT
from bnas_deploy.runtime.bench.records import Record


def single_time_table(
    rows: Sequence[SingleRow], records: Sequence[Record], left_out: Sequence[LeftOut], where: str
) -> Table:
    """Lay out microseconds by layer and engine."""
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
        ("layer", "MMAC", *map(breakable, engines)),
        tuple(cells),
        note=" ".join((_kernels_note(records), *preempted_notes(records), *left_out_notes(left_out))),
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


def single_speed_table(rows: Sequence[SingleRow], records: Sequence[Record], where: str, *, fewest: int) -> Table:
    """Lay out speeds, and how many times as fast as the other engines the first one is."""
    if not rows:
        return Table("", (), ())
    first = next(iter(rows[0].us))
    others = list(dict.fromkeys(engine for row in rows for engine in row.times_as_fast))
    scaled = any(row.scaling for row in rows)
    cells = [
        (
            row.layer,
            f"{row.gmacs_per_second[first]:.0f}",
            *(doubtful(figures.factor(row.times_as_fast.get(other)), other in row.disturbed) for other in others),
            *((figures.factor(row.scaling),) if scaled else ()),
        )
        for row in rows
    ]
    wide = [note for note in ratio_notes([each.ratio for each in records if each.ratio]) if "spread" in note]
    return Table(
        f"Speed of {first} on single layers, {where}",
        ("layer", "GMAC/s", *map(breakable, others), *((figures.threads(fewest),) if scaled else ())),
        tuple(cells),
        note=" ".join(
            (
                "GMAC/s: billions of multiply-accumulates a second.",
                "The columns of engines: how many times as fast as that engine.",
                *wide,
                *([DOUBT] if any(row.disturbed for row in rows) else []),
            )
        ),
    )
