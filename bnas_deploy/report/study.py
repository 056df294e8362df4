"""A study as a page, as CSV and as JSON, and the list of studies."""

import csv
import io
import json
from collections.abc import Iterable, Mapping

from bnas_deploy.core.counts import counted
from bnas_deploy.report.findings import figure, findings
from bnas_deploy.report.table import Table
from bnas_deploy.report.text import table_markdown
from bnas_deploy.studies.results import RowResult, StudyResult
from bnas_deploy.studies.study import Measure, Study


def study_list(studies: Iterable[Study]) -> Table:
    """Return the studies with what each repeats."""
    return Table(
        "Studies",
        ("study", "repeats", "asks"),
        tuple((study.name, study.repeats, study.question) for study in studies),
        left=frozenset({0, 1, 2}),
        wraps=True,
    )


def study_table(result: StudyResult) -> Table:
    """Return the table: a row for each row of the study, its measures, and the paper's figures beside them."""
    measures = [each for each in result.study.measures if any(row.spread(each) for row in result.rows)]
    printed = [each for each in result.study.measures if any(each.key in row.row.printed for row in result.rows)]
    failed = [f"{row.row.name}: {why}" for row in result.rows for why in dict.fromkeys(row.failures.values())]
    seeds = max((len(row.trials) + len(row.failures) for row in result.rows), default=0)
    spread = f"Means of {seeds} seeds, in brackets the least and the largest. " if seeds > 1 else ""
    return Table(
        f"{result.study.title} ({result.study.repeats})",
        ("", *(each.title for each in measures), *(f"{each.title}, paper" for each in printed)),
        tuple(
            (row.row.name, *(_cell(row, each) for each in measures), *(_printed(row, each) for each in printed))
            for row in result.rows
        ),
        note=spread + " ".join(f"Failed: {each}." for each in failed),
    )


def _cell(row: RowResult, measure: Measure) -> str:
    spread = row.spread(measure)
    if spread is None:
        return "failed" if row.failures else ""
    failed = f", {len(row.failures)} failed" if row.failures else ""
    return figure(spread, measure) + failed


def _printed(row: RowResult, measure: Measure) -> str:
    printed = row.row.printed.get(measure.key)
    if printed is None:
        return ""
    return f"{printed.text}{f' {measure.unit}' if measure.unit else ''} ({printed.source})"


def study_page(result: StudyResult, pictures: Mapping[str, str]) -> str:
    """Return the page as Markdown; `pictures` has the file of each by what it shows, the first above the findings."""
    study = result.study
    shown = [f"![{what}]({file})\n" for what, file in pictures.items()]
    notes = [f"* {note}" for note in study.notes]
    return "\n".join(
        [
            f"# {study.name}: {study.title[0].lower()}{study.title[1:]}",
            "",
            f"{study.question} This repeats {study.repeats}.",
            "",
            table_markdown(study_table(result)),
            *shown[:1],
            "## Found",
            *(f"* {sentence}" for sentence in findings(result)),
            "",
            *shown[1:],
            *(["## What differs from the paper", *notes, ""] if notes else []),
            "## Made by",
            "```sh",
            result.command,
            "```",
            "",
            f"{result.data}. {result.trained} {_run(result)}; their epochs took {result.seconds:.0f} s, added up.",
            "".join(f"\nOn {machine}.\n" for machine in result.machines),
        ]
    )


def _run(result: StudyResult) -> str:
    trainings = counted(sum(len(row.trials) + len(row.failures) for row in result.rows), "training")
    return f"{trainings} and {counted(result.searches, 'search', 'searches')}" if result.searches else trainings


def study_csv(result: StudyResult) -> str:
    """Return every figure of every seed, a line each, beside the paper's."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("study", "budget", "row", "measure", "seed", "value", "paper", "source", "failure"))
    for row in result.rows:
        for measure in result.study.measures:
            printed = row.row.printed.get(measure.key)
            paper = (printed.text, printed.source) if printed else ("", "")
            for seed, trial in sorted(row.trials.items()):
                if measure.key in trial.figures:
                    value = trial.figures[measure.key]
                    start = (result.study.name, result.budget.name, row.row.name, measure.key, seed)
                    writer.writerow((*start, value, *paper, ""))
        for seed, why in sorted(row.failures.items()):
            writer.writerow((result.study.name, result.budget.name, row.row.name, "", seed, "", "", "", why))
    return text.getvalue()


def study_json(result: StudyResult) -> str:
    """Return every figure with its mean and its spread, for programs."""
    return json.dumps({**result.to_json(), "findings": findings(result)}, indent=1) + "\n"
