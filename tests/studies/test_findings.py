"""The sentences of a study, and that they claim no more than the numbers show."""

from dataclasses import replace

import pytest

from bnas_deploy.report.findings import figure, findings, told_apart
from bnas_deploy.report.study import study_list, study_table
from bnas_deploy.studies.results import RowResult, Spread, StudyResult, TrialResult
from bnas_deploy.studies.study import (
    BUDGETS,
    ERROR,
    TEST,
    TOY,
    Finding,
    Level,
    Printed,
    Ranking,
    Study,
)


def result(
    study: Study, *rows: tuple[float, ...], findings: tuple[Finding, ...] = (), key: str = TEST.key
) -> StudyResult:
    """Return a study whose rows have these figures, one for each seed."""
    named = [
        study.rows[i] if i < len(study.rows) else replace(study.rows[0], name=f"row {i}") for i in range(len(rows))
    ]
    return StudyResult(
        replace(study, findings=findings or study.findings),
        BUDGETS[TOY],
        tuple(
            RowResult(row, {seed: TrialResult({key: value}) for seed, value in enumerate(values)}, {})
            for row, values in zip(named, rows, strict=True)
        ),
        "digits",
        "bnas-deploy study pair",
        ("a machine",),
        1.0,
        "Trained: a network.",
        0,
    )


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ((0.5, 0.6), (0.75, 0.76), True),  # means 0.205 apart, the spread is 0.1
        ((0.5, 0.6), (0.64, 0.66), False),  # 0.1 apart: not more than the spread
        ((0.5, 0.5), (0.5, 0.5), False),
        ((0.5,), (0.9, 0.9), None),
    ],
)
def test_told_apart_is_more_than_the_spread(
    one: tuple[float, ...], other: tuple[float, ...], apart: bool | None
) -> None:
    spreads = [Spread(sum(values) / len(values), min(values), max(values), len(values)) for values in (one, other)]
    assert told_apart(*spreads) is apart


def test_a_difference_within_the_spread_is_not_told_apart(pair: Study) -> None:
    assert findings(result(pair, (0.50, 0.60), (0.56, 0.58))) == [
        "plain against other: test accuracy 55.0 % (50.0 to 60.0) against 57.0 % (56.0 to 58.0), a difference of -2.0 "
        "points; that is within the spread over 2 seeds (10.0), so they are not told apart (the paper has +3.6 points "
        "in Table 1, the other way round)."
    ]


def test_a_difference_beyond_the_spread_is_told_beside_the_papers(pair: Study) -> None:
    assert findings(result(pair, (0.80, 0.82), (0.56, 0.58))) == [
        "plain against other: test accuracy 81.0 % (80.0 to 82.0) against 57.0 % (56.0 to 58.0), a difference of +24.0 "
        "points; that is more than the spread over 2 seeds (2.0), so they are told apart (the paper has +3.6 points in "
        "Table 1)."
    ]


def test_one_seed_tells_nothing_apart(pair: Study) -> None:
    (sentence,) = findings(result(pair, (0.8,), (0.5,)))
    assert "a difference of +30.0 points; with one seed nothing is told apart" in sentence


def test_a_row_is_ranked_and_told_apart_from_some(pair: Study) -> None:
    ranked = result(pair, (0.5, 0.52), (0.7, 0.7), (0.3, 0.3), (0.52, 0.52), findings=(Ranking("plain"),))
    assert findings(ranked) == [
        "By the mean of its test accuracy, plain is number 3 of 4. From it are told apart as better: other; told apart "
        "as worse: row 2; not told apart: row 3."
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((1.2, 1.4), ", too much."),
        ((0.2, 0.4), ", little."),
        ((0.9, 1.1), ", seeds on both sides of 1."),
        ((1.2,), "; with one seed nothing is told apart."),
    ],
)
def test_a_level_is_told_where_every_seed_is_on_one_side(pair: Study, values: tuple[float, ...], said: str) -> None:
    level = Level("plain", ERROR, 1.0, "too much", "little")
    (sentence,) = findings(result(pair, values, findings=(level,), key=ERROR.key))
    assert sentence.startswith("plain: relative error ")
    assert sentence.endswith(said)


def test_a_table_has_the_papers_figures_beside_its_own(pair: Study) -> None:
    table = study_table(result(pair, (0.5, 0.6), (0.5, 0.5)))
    assert table.columns == ("", "test accuracy", "test accuracy, paper")
    assert table.rows == (
        ("plain", "55.0 % (50.0 to 60.0)", "46.15 % (Table 1)"),
        ("other", "50.0 %", "42.53 % (Table 1)"),
    )
    assert table.note == "Means of 2 seeds, in brackets the least and the largest. "


def test_the_list_says_what_each_study_repeats(pair: Study) -> None:
    assert study_list([pair]).rows == (("pair", "Nobody, Table 1", "Which?"),)


def test_a_figure_without_a_unit_has_none() -> None:
    assert figure(Spread(1.25, 1.0, 1.5, 2), ERROR) == "1.250 (1.000 to 1.500)"
    assert Printed("46.15", "Table 1").value == 46.15
