"""The result of a report in a sentence or two."""

from collections.abc import Iterator, Sequence

from bnas_deploy.report import figures
from bnas_deploy.report.rows import SingleRow, single_rows
from bnas_deploy.report.saved import Report
from bnas_deploy.report.summary import Summary
from bnas_deploy.runtime.bench.records import NETWORK, Ratio, Record
from bnas_deploy.runtime.bench.samples import MIN_RUNS


def headline(report: Report) -> str:
    """Say the result in a sentence for each setting and each engine that the first one is compared with."""
    return "\n".join((*_network_headlines(report), *_layer_headlines(report)))


def _network_headlines(report: Report) -> Iterator[str]:
    networks = [each for each in report.records if each.subject == NETWORK]
    for each in report.summaries:
        own = next(one for one in networks if (one.threads, one.batch) == (each.threads, each.batch))
        subject = f"{each.engine} with {_where(each, networks)}"
        for other, ratio in each.times_as_fast.items():
            if other in each.disturbed:
                runs = _preempted_of(own.ratio)
                yield f"{subject} against {other}: {NOT_TOLD}{runs}. {AGAIN}"
                continue
            spread = ""
            if own.ratio and own.ratio.baseline == other:
                spread = f" ({own.ratio.p10:.2f} to {own.ratio.p90:.2f})"
            yield f"{subject}: {ratio:.2f} times as fast as {other}{spread}."


NOT_TOLD = "not to be told, because other programs had the processor"
AGAIN = "Measure longer (--min-seconds), or on a quiet machine."


def _preempted_of(ratio: Ratio | None) -> str:
    """Say in how many pairs of runs; nothing where there is no ratio that counted them."""
    if not ratio or not ratio.disturbed:
        return ""
    return f" in {ratio.preempted} of {ratio.pairs} pairs of runs, and {MIN_RUNS} others are needed"


def _layer_headlines(report: Report) -> Iterator[str]:
    layers = [each for each in report.records if each.macs is not None]
    for threads, batch in dict.fromkeys((each.threads, each.batch) for each in layers):
        where = _where(next(each for each in layers if (each.threads, each.batch) == (threads, batch)), layers)
        yield from _layers_headline(single_rows((each for each in layers if each.batch == batch), threads), where)


def _where(one: Record | Summary, among: Sequence[Record]) -> str:
    """Name the number of threads, and of images where it differs."""
    several = len({each.batch for each in among}) > 1
    return figures.threads(one.threads) + (f", batch {one.batch}" if several else "")


def _layers_headline(rows: Sequence[SingleRow], where: str) -> Iterator[str]:
    first = next(iter(rows[0].us))
    for other in dict.fromkeys(engine for row in rows for engine in row.times_as_fast):
        compared = [row for row in rows if other in row.times_as_fast]
        ratios = [row.times_as_fast[other] for row in compared if other not in row.disturbed]
        if not ratios:
            yield f"{first} with {where} against {other}: {NOT_TOLD} in most runs. {AGAIN}"
            continue
        disturbed = len(compared) - len(ratios)
        yield (
            f"{first} with {where}: {min(ratios):.2f} to {max(ratios):.2f} times as fast as {other} "
            f"({len(ratios)} {'layer' if len(ratios) == 1 else 'layers'}"
            f"{f'; {disturbed} more not to be told, because of other programs' if disturbed else ''})."
        )
