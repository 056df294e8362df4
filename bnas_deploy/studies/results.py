"""What a trial leaves: result.json in its folder, or failure.json; and what a study makes of all of them.

format       of this file
bnas_deploy  version that wrote it
result       the fields of `TrialResult`
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import bnas_deploy
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import write_whole
from bnas_deploy.core.json_records import from_json, read_json
from bnas_deploy.studies.study import Budget, Measure, Row, Study

FORMAT_VERSION = 1
RESULT, FAILURE = "result.json", "failure.json"


@dataclass(frozen=True)
class TrialResult:
    """What one trial measured.

    Attributes:
        figures: numbers by name; accuracies are shares of 1.
        series: a number for each epoch, by name.
        frames: a row of numbers for each epoch, by name.
        labels: what the numbers of a row of `frames` are of, by the same name.
        machine: where it ran.
        seconds: of its epochs.
    """

    figures: dict[str, float]
    series: dict[str, tuple[float, ...]] = field(default_factory=dict)
    frames: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    machine: str = ""
    seconds: float = 0.0

    def and_of(self, before: "TrialResult | None") -> "TrialResult":
        """Return this result with the figures of the search before it."""
        if before is None:
            return self
        return TrialResult(
            before.figures | self.figures,
            before.series | self.series,
            before.frames | self.frames,
            before.labels | self.labels,
            self.machine,
            before.seconds + self.seconds,
        )


def write_result(folder: Path, result: TrialResult) -> None:
    """Write result.json.

    Raises:
        BnasError: it cannot be written.
    """
    data = {"format": FORMAT_VERSION, "bnas_deploy": bnas_deploy.__version__, "result": asdict(result)}
    write_whole(folder / RESULT, (json.dumps(data) + "\n").encode())


def read_result(folder: Path) -> TrialResult | None:
    """Return what a trial measured; None where it is not finished.

    Raises:
        BnasError: the file is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    advice = f"remove {folder}, and run the study again"
    try:
        data = read_json(path, "the result of a trial")
    except BnasError as error:
        raise BnasError(f"{error.message}; {advice}") from None
    try:
        result: TrialResult = from_json(TrialResult, data["result"])
    except (KeyError, TypeError, ValueError) as error:
        raise BnasError(f"{path}: damaged ({error}); {advice}") from None
    return result


def write_failure(folder: Path, why: str) -> None:
    """Write failure.json."""
    write_whole(folder / FAILURE, (json.dumps({"why": why}) + "\n").encode())


def read_failure(folder: Path) -> str | None:
    """Return why a trial failed; None where it did not say."""
    path = folder / FAILURE
    if not path.exists():
        return None
    data = read_json(path, "the failure of a trial")
    return str(data.get("why")) if isinstance(data, dict) else None


@dataclass(frozen=True)
class RowResult:
    """A row of a table: the result of each seed, or why there is none."""

    row: Row
    trials: Mapping[int, TrialResult]
    failures: Mapping[int, str]

    @property
    def results(self) -> list[TrialResult]:
        """Return those that there are, by seed."""
        return [self.trials[seed] for seed in sorted(self.trials)]

    def values(self, measure: Measure) -> list[float]:
        """Return a figure of every seed that has it."""
        return [each.figures[measure.key] for each in self.results if measure.key in each.figures]

    def spread(self, measure: Measure) -> "Spread | None":
        """Return mean, least and largest of a figure; None where no seed has it."""
        values = self.values(measure)
        return Spread(sum(values) / len(values), min(values), max(values), len(values)) if values else None


@dataclass(frozen=True)
class Spread:
    """A figure over seeds."""

    mean: float
    least: float
    most: float
    seeds: int

    @property
    def width(self) -> float:
        """Return largest less least."""
        return self.most - self.least


@dataclass(frozen=True)
class StudyResult:
    """A study that was run.

    Attributes:
        data: the summary of the images, in a line.
        command: the command line, without folders.
        machines: where the trials ran.
        seconds: of the epochs of all trials, added up.
        trained: which networks, and how, in a sentence.
        searches: how many were run before the trainings.
    """

    study: Study
    budget: Budget
    rows: tuple[RowResult, ...]
    data: str
    command: str
    machines: tuple[str, ...]
    seconds: float
    trained: str
    searches: int

    @property
    def failed(self) -> int:
        """Return how many trials failed."""
        return sum(len(each.failures) for each in self.rows)

    def row(self, name: str) -> RowResult | None:
        """Return a row by name; None where the budget does not have it."""
        return next((each for each in self.rows if each.row.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return every figure, for programs."""
        return {
            "format": FORMAT_VERSION,
            "bnas_deploy": bnas_deploy.__version__,
            "study": self.study.name,
            "repeats": self.study.repeats,
            "budget": self.budget.name,
            "data": self.data,
            "command": self.command,
            "machines": list(self.machines),
            "seconds": self.seconds,
            "trained": self.trained,
            "rows": [_row_json(each, self.study.measures) for each in self.rows],
        }


def _row_json(result: RowResult, measures: Sequence[Measure]) -> dict[str, Any]:
    return {
        "row": result.row.name,
        "measures": {
            measure.key: {
                "values": {str(seed): trial.figures[measure.key] for seed, trial in sorted(result.trials.items())
                           if measure.key in trial.figures},
                "mean": spread.mean, "least": spread.least, "most": spread.most,
            }
            for measure in measures
            if (spread := result.spread(measure))
        },
        "paper": {key: asdict(printed) for key, printed in result.row.printed.items()},
        "failures": {str(seed): why for seed, why in sorted(result.failures.items())},
    }  # fmt: skip
