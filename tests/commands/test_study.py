"""`bnas-deploy study`: the list, a whole run at a toy size, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.core.errors import BnasError
from bnas_deploy.studies import running, study
from bnas_deploy.studies.catalogue import STUDIES, find_study


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["study", *map(str, words)])


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the budget small be that of toys, and trials run in this process."""
    monkeypatch.setitem(study.BUDGETS, study.SMALL, study.BUDGETS[study.TOY])
    run_trials = running.run_trials

    def here(*arguments: Any, **settings: Any) -> Any:
        return run_trials(*arguments, **{**settings, "processes": 0})

    monkeypatch.setattr(running, "run_trials", here)


def test_without_a_name_the_studies_are_listed() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    for name, each in STUDIES.items():
        assert any(line.startswith(name) and each.repeats in line for line in result.output.splitlines())


def test_a_run_prints_and_writes_the_table(toys: None, tmp_path: Path) -> None:
    words = ("transfer", "--data", "digits", "--device", "cpu", "-o", tmp_path)
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "Zeroise, of all edges" in result.output
    assert result.output.splitlines()[-1] == str(tmp_path / "transfer.md")
    page = (tmp_path / "transfer.md").read_text(encoding="utf-8")
    assert "```sh\nbnas-deploy study transfer\n```" in page
    assert "On " in page
    again = run(*words)
    assert "6 of 6 trials were finished before" in again.output


def test_a_command_in_a_page_has_what_decides_and_no_folders(toys: None, tmp_path: Path) -> None:
    result = run("Transfer", "--seeds", 1, "--processes", 2, "--epochs", 1, "-o", tmp_path, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "\nbnas-deploy study transfer --seeds 1 --epochs 1\n" in (tmp_path / "transfer.md").read_text("utf-8")


def test_trials_that_fail_end_the_command_with_1(toys: None, tmp_path: Path) -> None:
    assert run("transfer", "--seeds", 1, "-o", tmp_path, "--device", "cpu").exit_code == 0
    damaged, *_ = (tmp_path / "trials").glob("training-*/result.json")
    damaged.write_text("{", encoding="utf-8")
    result = run("transfer", "--seeds", 1, "-o", tmp_path, "--device", "cpu")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == (
        "Error: 1 trial failed; the tables say why and what to do, and the same command tries again"
    )
    assert (tmp_path / "transfer.md").read_text(encoding="utf-8").count("failed") >= 1


def test_an_unknown_study_gets_the_nearest_name() -> None:
    result = run("zeroize")
    assert result.exit_code == 2
    assert "'zeroize' is not one of 'layers'" in result.output
    assert result.output.rstrip().endswith("; did you mean zeroise?")
    with pytest.raises(BnasError, match=r"unknown study 'zeroize'; the studies are .*; did you mean zeroise\?"):
        find_study("zeroize")


def test_data_that_are_too_small_are_refused_in_a_line(tmp_path: Path) -> None:
    result = run("layers", "--limit", 500, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output == (
        "Error: digits, limited to 500: 500 training images, and the study layers takes at least 1,000 with the budget "
        "small; choose other data, or a larger --limit than 500\n"
    )
    assert not (tmp_path / "out").exists()
