"""Every study, whole, at a toy size in one process: trials, table, findings, files and pictures."""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bnas_deploy.commands.study import write_study
from bnas_deploy.studies.catalogue import STUDIES
from bnas_deploy.studies.results import StudyResult
from bnas_deploy.studies.running import run_studies
from bnas_deploy.studies.study import TOY, Contrast, Level, Picture, Ranking


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, StudyResult]:
    """All studies at once, which share the trials that they have in common."""
    found, finished = run_studies(list(STUDIES.values()), TOY, "digits", folder, processes=0, device="cpu")
    assert finished
    return {result.study.name: result for result in found}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_a_figure_in_every_row_and_files(name: str, results: dict[str, StudyResult], folder: Path) -> None:
    result = results[name]
    assert [(row.row.name, dict(row.failures)) for row in result.rows if row.failures] == []
    assert all(row.spread(result.study.measures[0]) for row in result.rows)
    # Every column is filled somewhere, so no measure is misspelt; the widths' rule counts no operations.
    assert all(any(row.spread(measure) for row in result.rows) for measure in result.study.measures)
    write_study(result, folder)
    page = (folder / f"{name}.md").read_text(encoding="utf-8")
    assert f"| {result.rows[0].row.name} |" in page
    for picture in result.study.pictures:
        assert f"({name}-{picture}.svg)" in page
        ElementTree.parse(folder / f"{name}-{picture}.svg")
    data = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert [row["row"] for row in data["rows"]] == [row.row.name for row in result.rows]
    lines = list(csv.DictReader(io.StringIO((folder / f"{name}.csv").read_text(encoding="utf-8"))))
    assert {line["row"] for line in lines} == {row.row.name for row in result.rows}


@pytest.mark.parametrize("name", STUDIES)
def test_findings_and_printed_figures_are_of_rows_and_measures_that_there_are(name: str) -> None:
    study = STUDIES[name]
    rows = {row.name for row in study.rows}
    named = {
        each
        for finding in study.findings
        for each in ((finding.row, finding.other) if isinstance(finding, Contrast) else (finding.row,))
    }
    assert named <= rows
    keys = {measure.key for measure in study.measures}
    assert {
        finding.measure.key for finding in study.findings if isinstance(finding, Contrast | Ranking | Level)
    } <= keys
    assert {key for row in study.rows for key in row.printed} <= keys
    for budget in ("small", "paper"):
        names = [row.name for row in study.rows_of(budget)]
        assert len(set(names)) == len(names)


def test_rows_of_several_studies_are_trained_once(results: dict[str, StudyResult], folder: Path) -> None:
    """BNAS with its own search is a row of three studies."""
    figures = [
        results[name].rows[0].results[0].figures["test_accuracy"] for name in ("separable", "float-search", "dilated")
    ]
    assert len(set(figures)) == 1
    named = sum(len(row.trials) for result in results.values() for row in result.rows)
    assert len(list((folder / "trials").glob("training-*"))) < named


def test_nothing_large_is_left_of_a_finished_trial(results: dict[str, StudyResult], folder: Path) -> None:
    assert not list(folder.rglob("*.safetensors"))


def test_the_gradients_move_from_epoch_to_epoch(results: dict[str, StudyResult], folder: Path) -> None:
    trial = results["skip"].rows[0].results[0]
    assert len(trial.frames["gradients"]) == len(trial.series["gradient_epochs"]) == 2
    write_study(results["skip"], folder)
    picture = (folder / f"skip-{Picture.GRADIENTS}.svg").read_text(encoding="utf-8")
    bars = picture.count('attributeName="height"')
    assert bars == sum(len(row.results[0].labels["gradients"]) for row in results["skip"].rows)
