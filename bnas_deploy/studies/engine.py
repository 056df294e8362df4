"""Runs trials: each once, each in a process of its own, as many at a time as are asked for.

A trial that is finished is not run again. One that was interrupted, by Ctrl-C or a kill, goes on at its place. One that
fails says why in its folder, and the others go on; the next call tries it again. So does one whose folder is damaged. A
process whose parent is gone stops after its step, and a lock on its folder lets nobody else work there until then.
"""

import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.host import usable_cpus
from bnas_deploy.core.locks import locked
from bnas_deploy.search.training.acceleration import find_device
from bnas_deploy.search.training.resume import stop_on_signals
from bnas_deploy.studies.machine import describe_machine
from bnas_deploy.studies.performing import perform
from bnas_deploy.studies.results import FAILURE, TrialResult, read_failure, read_result, write_failure
from bnas_deploy.studies.trials import Trial

LOG = "log.txt"
"""What a trial prints, and where a bug in it happened."""

_LOOK_EVERY_S = 0.2  # at Ctrl-C, while trials run

Say = Callable[[str], object]


@dataclass
class Outcome:
    """What came of trials, by key; `finished` is False where somebody asked to stop."""

    results: dict[str, TrialResult] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    finished: bool = True

    def settled(self, trial: Trial) -> bool:
        """Tell whether a trial needs no more work."""
        return trial.key in self.results or trial.key in self.failures

    def ready(self, trial: Trial) -> bool:
        """Tell whether the search that a trial follows is finished."""
        return trial.after is None or trial.after.key in self.results

    def take(self, trial: Trial, root: Path, why: str = "") -> None:
        """Take over what a trial left in its folder; `why` is said where it left nothing, unless that is expected."""
        folder = root / trial.key
        try:
            if result := read_result(folder):
                self.results[trial.key] = result
            elif reason := read_failure(folder) or why:
                self.failures[trial.key] = reason
        except BnasError as error:
            self.failures[trial.key] = error.message


def run_trials(
    trials: Sequence[Trial],
    root: Path,
    *,
    processes: int,
    device: str = "auto",
    say: Say = lambda line: None,
    names: Mapping[str, str] | None = None,
    stop: Callable[[], bool],
) -> Outcome:
    """Run trials, as far as they are not finished.

    Args:
        trials: in an order in which each stands behind the one that it follows.
        root: the folder of all trials; made if it is not there.
        processes: at a time; 0: in this process, one after the other.
        device: as `--device`.
        say: is told what is finished.
        names: of trials for people, by key.
        stop: once it answers True, the trials save their places.

    Raises:
        BnasError: the folder cannot be made.
    """
    find_device(device)  # before anything is started: there may be no GPU
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BnasError(f"{root}: cannot be made: {error.strerror}; choose another output folder") from None
    outcome = Outcome()
    for trial in trials:
        _take_up(trial, root, outcome)
    said = _Said(trials, outcome, names or {}, say)
    say(f"{counted(len(trials), 'trial')}, {max(1, processes)} at a time; the progress of each is in {root}/*/{LOG}")
    said.before()
    if processes == 0:
        _run_here(trials, root, device, outcome, said, stop)
    else:
        _run_in_processes(trials, root, processes, device, outcome, said, stop)
    return outcome


def _take_up(trial: Trial, root: Path, outcome: Outcome) -> None:
    """Take over the result of a trial that is finished; forget why it failed before."""
    folder = root / trial.key
    if folder.exists() and not folder.is_dir():
        outcome.failures[trial.key] = f"{folder}: not a folder, and a trial is kept there; move it away"
        return
    (folder / FAILURE).unlink(missing_ok=True)
    outcome.take(trial, root)


class _Said:
    """Tells how far the trials are."""

    def __init__(self, trials: Sequence[Trial], outcome: Outcome, names: Mapping[str, str], say: Say) -> None:
        self.trials, self.count, self.done = trials, len(trials), 0
        self.outcome, self.names, self.say = outcome, names, say

    def before(self) -> None:
        """Tell what is settled before anything is run."""
        self.done = len(self.outcome.results)
        if self.done:
            self.say(f"{self.done} of {self.count} trials were finished before")
        for trial in self.trials:
            if trial.key in self.outcome.failures:
                self(trial)

    def __call__(self, trial: Trial) -> None:
        self.done += 1
        result, why = self.outcome.results.get(trial.key), self.outcome.failures.get(trial.key)
        what = f"failed: {why}" if result is None else _told(result)
        self.say(f"{self.done}/{self.count}  {self.names.get(trial.key, trial.key)}: {what}")


def _told(result: TrialResult) -> str:
    accuracy = result.figures.get("test_accuracy")
    return f"{'searched' if accuracy is None else f'test accuracy {accuracy:.2%}'}  ({result.seconds:.1f} s)"


def _fail_behind(trial: Trial, outcome: Outcome) -> bool:
    """Let a trial fail whose search failed; tell whether it did."""
    if trial.after is None or trial.after.key not in outcome.failures:
        return False
    outcome.failures[trial.key] = f"the search before it failed: {outcome.failures[trial.after.key]}"
    return True


def _run_here(
    trials: Sequence[Trial], root: Path, device: str, outcome: Outcome, said: _Said, stop: Callable[[], bool]
) -> None:
    for trial in trials:
        if outcome.settled(trial):
            continue
        if not _fail_behind(trial, outcome):
            if not _attempt(trial, root, device, stop):
                outcome.finished = False
                return
            outcome.take(trial, root, "it left no result")
        said(trial)


def _run_in_processes(
    trials: Sequence[Trial],
    root: Path,
    processes: int,
    device: str,
    outcome: Outcome,
    said: _Said,
    stop: Callable[[], bool],
) -> None:
    """Keep as many processes at work as there may be, until all is settled or somebody asks to stop."""
    threads = max(1, usable_cpus() // processes)
    running: dict[int, tuple[BaseProcess, Trial]] = {}
    waiting = [trial for trial in trials if not outcome.settled(trial)]
    with _ended(running):
        while waiting or running:
            if stop():
                outcome.finished = False
                for process, _ in running.values():
                    process.terminate()  # which it takes as Ctrl-C: it saves its place
                waiting = []
            for trial in [each for each in waiting if _fail_behind(each, outcome)]:
                waiting.remove(trial)
                said(trial)
            ready = [each for each in waiting if outcome.ready(each)]
            for trial in ready[: processes - len(running)]:
                waiting.remove(trial)
                process = _process(trial, root, device, threads)
                process.start()
                running[process.sentinel] = process, trial
            for sentinel in wait(list(running), timeout=_LOOK_EVERY_S):
                assert isinstance(sentinel, int)
                process, trial = running.pop(sentinel)
                process.join()
                # Signals to the whole group also end the server that knows the exit codes: any other may be read then.
                if process.exitcode == _STOPPED or (process.exitcode and stop()):
                    outcome.finished = False
                    continue
                outcome.take(trial, root, _how_it_ended(process.exitcode))
                said(trial)


def _process(trial: Trial, root: Path, device: str, threads: int) -> BaseProcess:
    """Return the process of a trial: a copy of one that has PyTorch already, where the system can do that."""
    arguments = (trial, root, device, threads)
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn").Process(target=_work, args=arguments, daemon=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context.Process(target=_work, args=arguments, daemon=True)


@contextmanager
def _ended(running: Mapping[int, tuple[BaseProcess, Trial]]) -> Iterator[None]:
    """End the processes that are left if anything goes wrong, a second Ctrl-C for instance."""
    try:
        yield
    finally:
        for process, _ in running.values():
            process.kill()


_STOPPED = 3
"""Exit code of a process that saved its place."""


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was killed by signal {-code}; its place is saved, and the same command goes on"
    return f"its process ended with code {code} and left no result; {LOG} in its folder may say why"


def _work(trial: Trial, root: Path, device: str, threads: int) -> None:
    """Run a trial; the process ends with `_STOPPED` where it was asked to stop."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    with stop_on_signals(patient=True) as asked:
        try:
            finished = _attempt(trial, root, device, lambda: asked() or (parent is not None and not parent.is_alive()))
        except BnasError as error:
            raise SystemExit(f"Error: {error.message}") from None  # said on stderr; the trial has no place of its own
    if not finished:
        raise SystemExit(_STOPPED)


def _attempt(trial: Trial, root: Path, device: str, stop: Callable[[], bool]) -> bool:
    """Run a trial in its folder and leave its result or its failure; return False where it was asked to stop."""
    folder = root / trial.key
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise BnasError(f"{folder}: cannot be made: {error.strerror}; make room, or choose another folder") from None
    waits = partial(print, f"{folder} is at work in another process: waiting for it", flush=True)
    with locked(folder / "lock", stop, waits) as ours, (folder / LOG).open("a", encoding="utf-8") as log:
        if not ours:
            return False
        print(time.strftime("begun %Y-%m-%d %H:%M:%S", time.gmtime()), file=log, flush=True)
        with redirect_stdout(log), redirect_stderr(log):
            try:
                where = find_device(device)
                return perform(trial, root, device=where, machine=describe_machine(where), stop=stop)
            except BnasError as error:
                why = error.message
            except (MemoryError, torch.cuda.OutOfMemoryError):
                why = "there was not enough memory; use fewer --processes"
            except Exception as error:  # a bug in one trial is told, and the others go on
                traceback.print_exc(file=log)
                why = f"a bug: {type(error).__name__}: {error}; {folder / LOG} says where"
    with suppress(BnasError):  # the disk is full: then that there is no result has to say enough
        write_failure(folder, why)
    return True
