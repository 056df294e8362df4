"""What was found in a study, in sentences that are made from its numbers.

Two rows are *told apart* where their means differ by more than the spread over seeds, largest less least, of either.
That is a modest claim, of these seeds and this budget; what is within the spread is called not told apart.
"""

from collections.abc import Sequence

from bnas_deploy.core.counts import counted
from bnas_deploy.studies.results import RowResult, Spread, StudyResult
from bnas_deploy.studies.study import Contrast, Finding, Level, Measure, Ranking


def findings(result: StudyResult) -> list[str]:
    """Return sentences: what is told apart and what is not, beside the paper's own differences."""
    compared = (_sentence(result, finding) for finding in result.study.findings)
    return [*_failed(result), *(sentence for sentence in compared if sentence)]


def told_apart(one: Spread, other: Spread) -> bool | None:
    """Tell whether two rows are told apart; None where one of them has one seed only."""
    if min(one.seeds, other.seeds) < 2:
        return None
    return abs(one.mean - other.mean) > max(one.width, other.width)


def figure(spread: Spread, measure: Measure) -> str:
    """Return a figure with its spread over seeds, as a table shows it."""
    mean, least, most = (f"{measure.shown(x):.{measure.digits}f}" for x in (spread.mean, spread.least, spread.most))
    unit = f" {measure.unit}" if measure.unit else ""
    return f"{mean}{unit}" if least == most else f"{mean}{unit} ({least} to {most})"


def _failed(result: StudyResult) -> list[str]:
    failed = sum(len(row.failures) for row in result.rows)
    if not failed:
        return []
    trials = failed + sum(len(row.trials) for row in result.rows)
    return [f"{failed} of {counted(trials, 'trial')} failed; the table says why."]


def _sentence(result: StudyResult, finding: Finding) -> str | None:
    """Return the sentence of a finding; None where the budget does not have its rows."""
    match finding:
        case Contrast(name, other, measure):
            rows = result.row(name), result.row(other)
            return _contrast(rows[0], rows[1], measure) if rows[0] and rows[1] else None
        case Ranking(name, measure):
            row = result.row(name)
            return _ranking(row, result.rows, measure) if row else None
        case Level():
            row = result.row(finding.row)
            return _level(row, finding) if row else None
    raise TypeError(finding)


def _contrast(row: RowResult, other: RowResult, measure: Measure) -> str:
    one, two = row.spread(measure), other.spread(measure)
    names = f"{row.row.name} against {other.row.name}"
    if one is None or two is None:
        return f"{names}: one of them has no result."
    difference = _signed(measure.shown(one.mean) - measure.shown(two.mean), measure)
    said = f"{names}: {measure.title} {figure(one, measure)} against {figure(two, measure)}, a difference of"
    return f"{said} {difference}; {_verdict(one, two, measure)}{_of_paper(row, other, measure, one.mean - two.mean)}."


def _verdict(one: Spread, two: Spread, measure: Measure) -> str:
    apart = told_apart(one, two)
    if apart is None:
        return "with one seed nothing is told apart"
    spread = f"{measure.shown(max(one.width, two.width)):.{measure.digits}f}"
    seeds = min(one.seeds, two.seeds)
    if apart:
        return f"that is more than the spread over {seeds} seeds ({spread}), so they are told apart"
    return f"that is within the spread over {seeds} seeds ({spread}), so they are not told apart"


def _of_paper(row: RowResult, other: RowResult, measure: Measure, here: float) -> str:
    """Say what the paper's own figures differ by, and where the sign is another one."""
    pair = row.row.printed.get(measure.key), other.row.printed.get(measure.key)
    if pair[0] is None or pair[1] is None:
        return ""
    difference = pair[0].value - pair[1].value
    sources = " and ".join(dict.fromkeys((pair[0].source, pair[1].source)))
    sign = ", the other way round" if difference * here < 0 else ""
    return f" (the paper has {_signed(difference, measure)} in {sources}{sign})"


def _signed(difference: float, measure: Measure) -> str:
    return f"{difference:+.{measure.digits}f} {measure.points}".strip()


def _ranking(row: RowResult, rows: Sequence[RowResult], measure: Measure) -> str:
    own = row.spread(measure)
    if own is None:
        return f"{row.row.name} has no result to compare with the others."
    others = [(each.row.name, spread) for each in rows if each is not row and (spread := each.spread(measure))]
    place = 1 + sum(spread.mean > own.mean for _, spread in others)
    said = f"By the mean of its {measure.title}, {row.row.name} is number {place} of {len(others) + 1}"
    if own.seeds < 2:
        return f"{said}; with one seed nothing is told apart."
    better = [name for name, spread in others if told_apart(own, spread) and spread.mean > own.mean]
    worse = [name for name, spread in others if told_apart(own, spread) and spread.mean < own.mean]
    alike = [name for name, spread in others if not told_apart(own, spread)]
    parts = (("told apart as better", better), ("told apart as worse", worse), ("not told apart", alike))
    return f"{said}. From it are " + "; ".join(f"{what}: {', '.join(names) or 'none'}" for what, names in parts) + "."


def _level(row: RowResult, finding: Level) -> str:
    spread = row.spread(finding.measure)
    if spread is None:
        return f"{row.row.name} has no result."
    said = f"{row.row.name}: {finding.measure.title} {figure(spread, finding.measure)}"
    if spread.seeds < 2:
        return f"{said}; with one seed nothing is told apart."
    if spread.least > finding.level:
        return f"{said}, {finding.above}."
    if spread.most < finding.level:
        return f"{said}, {finding.below}."
    return f"{said}, seeds on both sides of {finding.level:g}."
