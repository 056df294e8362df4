"""Trials: run once, resumed where they were left, and one that fails leaves the others alone."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bnas_deploy.core.errors import BnasError, DataError
from bnas_deploy.core.locks import locked
from bnas_deploy.report.findings import findings
from bnas_deploy.report.study import study_csv, study_json, study_page
from bnas_deploy.search.data import open_data
from bnas_deploy.studies import engine
from bnas_deploy.studies.catalogue import STUDIES
from bnas_deploy.studies.plan import Plan, Sizes, plan, sized
from bnas_deploy.studies.results import RESULT, StudyResult, read_result
from bnas_deploy.studies.running import TRIALS, run_studies, trained
from bnas_deploy.studies.study import TEST, TOY, OfOneOperation, Row, Study


def run(study: Study, folder: Path, **more: object) -> StudyResult:
    found = run_studies([study], TOY, "digits", folder, processes=0, device="cpu", **more)  # type: ignore[arg-type]  # keywords of several kinds
    results, finished = found
    assert finished
    return results[0]


def planned(study: Study, sizes: Sizes = Sizes()) -> Plan:  # noqa: B008  # a frozen value
    budget = sized(study, TOY, sizes)
    return plan(study, budget, "digits", open_data("digits", limit=budget.limit))


def test_a_trial_that_fails_says_why_and_the_others_go_on(failing_pair: Study, tmp_path: Path) -> None:
    said: list[str] = []
    result = run(failing_pair, tmp_path, say=said.append)
    plain, other = result.rows
    assert plain.spread(TEST)
    assert other.spread(TEST) is None
    (why,) = other.failures.values()
    assert why.startswith("the training loss is nan in epoch 1, step 2, ")
    assert said[0] == f"2 trials, 1 at a time; the progress of each is in {tmp_path / TRIALS}/*/log.txt"
    assert [line.split(":")[0] for line in said[1:]] == ["1/2  pair", "2/2  pair"]
    assert said[2].startswith("2/2  pair: other, seed 0: failed: the training loss is nan")
    assert result.failed == 1
    page = study_page(result, {})
    assert "| other | failed | failed |" in page
    assert f"Failed: other: {why}" in page
    assert findings(result) == [
        "1 of 2 trials failed; the table says why.",
        "plain against other: one of them has no result.",
    ]
    assert f",,,{why}" in study_csv(result).replace('"', "")
    assert '"failures": {\n    "0": "the training loss is nan' in study_json(result)


def test_a_finished_trial_is_not_run_again_and_a_failed_one_is(failing_pair: Study, tmp_path: Path) -> None:
    run(failing_pair, tmp_path)
    said: list[str] = []
    again = run(failing_pair, tmp_path, say=said.append)
    assert said[1] == "1 of 2 trials were finished before"
    assert [line.split(":")[1] for line in said[2:]] == [" other, seed 0"]
    assert again.rows[0].spread(TEST)


def test_an_interrupted_study_ends_as_one_that_was_not(pair: Study, tmp_path: Path) -> None:
    asked = iter(range(1000))
    results, finished = run_studies(
        [pair], TOY, "digits", tmp_path / "a", processes=0, device="cpu", stop=lambda: next(asked) == 0
    )
    assert not finished
    assert not results
    assert not list((tmp_path / "a").rglob(RESULT))
    assert list((tmp_path / "a").rglob("resume.safetensors"))
    resumed, whole = run(pair, tmp_path / "a"), run(pair, tmp_path / "b")
    for one, other in zip(resumed.rows, whole.rows, strict=True):
        assert [each.figures for each in one.results] == [each.figures for each in other.results]
        assert [each.series for each in one.results] == [each.series for each in other.results]


def test_a_trial_whose_place_is_lost_begins_anew(pair: Study, tmp_path: Path) -> None:
    """As in a copy of the folder without its large files."""
    asked = iter(range(1000))
    run_studies([pair], TOY, "digits", tmp_path, processes=0, device="cpu", stop=lambda: next(asked) == 0)
    (place,) = tmp_path.rglob("resume.safetensors")
    place.unlink()
    (place.parent / "metrics.jsonl").write_text("", encoding="utf-8")
    assert all(row.spread(TEST) for row in run(pair, tmp_path).rows)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from bnas_deploy.studies.running import run_studies
from conftest import make_pair
from bnas_deploy.studies.plan import Sizes
if __name__ == "__main__":
    found = run_studies([make_pair(failing=False)], "toy", "digits", Path(sys.argv[1]), sizes=Sizes(epochs=3),
                        processes=2, device="cpu", say=lambda line: print(line, flush=True))
    print([[row.values(measure) for measure in found[0][0].study.measures] for row in found[0][0].rows])
"""


def test_a_killed_study_goes_on_where_it_was(pair: Study, tmp_path: Path) -> None:
    """Its processes stop by themselves; what they saved is gone on with, and the figures are those of a whole run."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent)), encoding="utf-8")
    command = [sys.executable, "-P", str(script), str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        process.stdout.readline()  # how many there are
        first = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert first.startswith("1/2  pair: ")
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob(RESULT)}
    again = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    whole = run(pair, tmp_path / "whole", sizes=Sizes(epochs=3))
    figures = [[row.values(measure) for measure in pair.measures] for row in whole.rows]
    assert again.stdout.splitlines()[-1] == repr(figures)


STOPPED = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from bnas_deploy.search.training.resume import stop_on_signals
from bnas_deploy.studies.running import run_studies
from conftest import make_pair
from bnas_deploy.studies.plan import Sizes
if __name__ == "__main__":
    with stop_on_signals() as stop:
        print(*run_studies([make_pair(failing=False)], "toy", "digits", Path(sys.argv[1]), sizes=Sizes(epochs=3000),
                           processes=2, device="cpu", say=print, stop=stop))
"""


def test_sigterm_to_the_whole_group_saves_the_places(tmp_path: Path) -> None:
    """As `timeout` and batch systems send it: the server that knows the exit codes of the trials ends, too."""
    script = tmp_path / "script.py"
    script.write_text(STOPPED.format(folder=str(Path(__file__).parent)), encoding="utf-8")
    command = [sys.executable, "-P", str(script), str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stdout
        while len(list((tmp_path / "out").rglob("metrics.jsonl"))) < 2:
            assert process.poll() is None, "it ended before its trials had an epoch"
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
        said = process.stdout.read()
    assert said.splitlines()[-1] == "[] False"
    assert "failed" not in said


def test_a_process_that_was_killed_is_told_from_one_that_ended() -> None:
    assert engine._how_it_ended(-9) == (
        "its process was killed by signal 9; its place is saved, and the same command goes on"
    )
    assert "ended with code 1 and left no result" in engine._how_it_ended(1)


def test_too_few_images_are_refused_before_anything_is_run(pair: Study, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        run(pair, tmp_path / "out", sizes=Sizes(limit=20))
    assert error.value.message == (
        "digits, limited to 20: 20 training images, and the study pair takes at least 40 with the budget toy; choose "
        "other data, or a larger --limit than 20"
    )
    assert not (tmp_path / "out").exists()


def test_a_row_that_does_not_fit_the_images_fails_alone(pair: Study, tmp_path: Path) -> None:
    no_weights = Row("no weights", OfOneOperation("none"))
    study = replace(pair, rows=(*pair.rows, no_weights))
    assert [bool(row.trials) for row in planned(study).rows] == [True, True, False]
    assert "operation 'none' has no weights" in planned(study).rows[2].refusal
    with pytest.raises(BnasError, match="study pair: no row can be trained; no weights: three none: operation 'none'"):
        planned(replace(pair, rows=(no_weights,)))


def test_a_key_is_of_everything_that_decides_the_result(pair: Study) -> None:
    keys = [each.key for each in planned(pair).trainings]
    assert keys == [each.key for each in planned(pair).trainings]
    others = [planned(pair, sizes) for sizes in (Sizes(seeds=2), Sizes(epochs=2), Sizes(limit=50))]
    assert len({*keys, *(each.key for other in others for each in other.trainings)}) == 2 + 2 + 2 + 2


def test_a_damaged_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text('{"result": {"figures": 3}}', encoding="utf-8")
    with pytest.raises(BnasError, match=r"damaged \(the field 'series' is missing\); remove "):
        read_result(tmp_path)
    (tmp_path / RESULT).write_text('{"result"', encoding="utf-8")
    with pytest.raises(BnasError, match=rf"not the result of a trial \(.*\); remove {tmp_path}, and run the"):
        read_result(tmp_path)


def test_a_damaged_folder_of_a_trial_fails_alone(pair: Study, tmp_path: Path) -> None:
    run(pair, tmp_path)
    one, other = (tmp_path / TRIALS / each.key for each in planned(pair).trainings)
    (one / RESULT).write_text('{"result"', encoding="utf-8")
    shutil.rmtree(other)
    other.write_text("", encoding="utf-8")
    said: list[str] = []
    result = run(pair, tmp_path, say=said.append)
    damaged, not_a_folder = (why for row in result.rows for why in row.failures.values())
    assert damaged.startswith(f"{one / RESULT}: not the result of a trial (")
    assert damaged.endswith(f"; remove {one}, and run the study again")
    assert not_a_folder == f"{other}: not a folder, and a trial is kept there; move it away"
    assert [line.split(": failed")[0] for line in said[1:]] == [
        "1/2  pair: plain, seed 0",
        "2/2  pair: other, seed 0",
    ]


def test_a_page_says_what_was_trained(pair: Study) -> None:
    assert trained(planned(pair)) == (
        "Trained: three bin_conv_3x3, three bin_conv_5x5, by the recipe digits (1 epoch)."
    )
    transfer, widths = (trained(planned(STUDIES[name])) for name in ("transfer", "widths"))
    assert transfer.endswith(" Searched before it: cells by bnas (1 epoch).")
    assert widths.endswith(" Searched before it: widths (1 epoch).")


def test_a_trial_without_room_is_a_sentence(pair: Study, tmp_path: Path) -> None:
    trial, _ = planned(pair).trainings
    said = r"cannot be made: No such file or directory; make room, or choose another folder"
    with pytest.raises(BnasError, match=said):
        engine._attempt(trial, tmp_path / "gone", "cpu", lambda: True)
    with pytest.raises(SystemExit, match=f"^Error: .*{said}"):
        engine._work(trial, tmp_path / "gone", "cpu", 1)


def test_a_folder_that_cannot_be_made_is_told(pair: Study, tmp_path: Path) -> None:
    (tmp_path / TRIALS).write_text("", encoding="utf-8")
    with pytest.raises(BnasError, match=r"trials: cannot be made: File exists; choose another output folder"):
        run(pair, tmp_path)


def test_a_lock_is_waited_for_and_given_up(tmp_path: Path) -> None:
    said: list[str] = []
    with locked(tmp_path / "lock", waits=lambda: said.append("mine")) as mine:
        assert mine
        began = time.monotonic()
        with locked(
            tmp_path / "lock", lambda: time.monotonic() - began > 0.25, lambda: said.append("other's")
        ) as other:
            assert not other
    with locked(tmp_path / "lock") as mine:
        assert mine
    assert said == ["other's"]


def test_a_trial_that_another_process_has_is_told(pair: Study, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    trial, _ = planned(pair).trainings
    (tmp_path / trial.key).mkdir()
    with locked(tmp_path / trial.key / "lock"):
        assert not engine._attempt(trial, tmp_path, "cpu", lambda: True)
    assert capfd.readouterr().out == f"{tmp_path / trial.key} is at work in another process: waiting for it\n"
