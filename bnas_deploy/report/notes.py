"""Sentences below a table: doubts about its figures, and what was left out."""

from collections.abc import Iterator, Sequence

from bnas_deploy.runtime.bench.engines import LeftOut
from bnas_deploy.runtime.bench.layers import NOT_SUPPORTED, WRONG_RESULT
from bnas_deploy.runtime.bench.records import Ratio, Record
from bnas_deploy.runtime.bench.samples import MIN_RUNS

WIDE_SPREAD = 1.5
"""Where the 90th percentile of a ratio is this many times its 10th, something disturbed the measurement."""


DOUBT = "?: other programs had the processor in so many runs that too few others are left."


def doubtful(figure: str, doubtful: bool) -> str:
    """Return a figure, with a question mark where it is doubtful."""
    return f"{figure}?" if doubtful else figure


def ratio_notes(ratios: Sequence[Ratio]) -> Iterator[str]:
    """Say what ratios are, and whether they spread widely."""
    if ratios:
        yield (
            f"Ratio: time of {ratios[0].baseline} / time of the engine, in neighbouring runs; "
            "median, 10th to 90th percentile."
        )
    if any(each.p90 > WIDE_SPREAD * each.p10 for each in ratios):
        yield "The ratios spread widely: other work was running. Measure again on a quiet machine."


def preempted_notes(records: Sequence[Record]) -> Iterator[str]:
    """Say what became of runs in which other programs had the processor."""
    if any(each.preempted is None for each in records):
        yield "It is not known in which runs other programs had the processor; all count."
    elif any(each.disturbed for each in records):
        yield (
            "Preempted: runs in which another program had the processor. Where these leave fewer than "
            f"{MIN_RUNS}, they count, too."
        )
    elif any(each.preempted for each in records):
        yield "Preempted: runs in which another program had the processor; they are left out."


def left_out_notes(left_out: Sequence[LeftOut]) -> Iterator[str]:
    """Say which engines have no time, and why."""
    if any(each.reason == WRONG_RESULT for each in left_out):
        yield "wrong: the result of the engine for this layer was not right, so it was not timed."
    if any(each.reason == NOT_SUPPORTED for each in left_out):
        yield "-: the engine does not support this layer."
    for each in left_out:
        if each.subject is None:
            yield f"Not measured: {each.engine}, because {each.reason}."


def breakable(engine: str) -> str:
    """Return an engine's name, which may be broken behind its first dash."""
    return engine.replace("-", "-\n", 1)
