"""Studies from their declaration to their results: what the command runs, and what a program may call."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bnas_deploy.core.counts import counted
from bnas_deploy.search.cells.config import SearchConfig
from bnas_deploy.search.data import open_data
from bnas_deploy.studies.engine import Outcome, run_trials
from bnas_deploy.studies.plan import Plan, PlannedRow, Sizes, plan, sized
from bnas_deploy.studies.results import RowResult, StudyResult, TrialResult
from bnas_deploy.studies.study import Study
from bnas_deploy.studies.trials import SearchTrial, Training, Trial, each_once, with_searches

TRIALS = "trials"
"""The folder of all trials inside that of the studies."""


def run_studies(
    studies: Sequence[Study],
    budget: str,
    data: str,
    folder: Path,
    *,
    sizes: Sizes = Sizes(),  # noqa: B008  # a frozen value
    processes: int = 1,
    device: str = "auto",
    commands: Mapping[str, str] | None = None,
    say: Callable[[str], object] = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[list[StudyResult], bool]:
    """Run studies together, one after the other; trials that several of them need are run once.

    Returns the studies that are finished, and whether those are all.

    Args:
        studies: which ones.
        budget: a name of `study.BUDGETS`.
        data: as `--data` has it.
        folder: where the trials are kept; made if it is not there.
        sizes: in the place of those of the budget.
        processes: at a time; 0: in this process.
        device: as `--device`.
        commands: the command line of each study, by its name.
        say: is told what is finished.
        stop: once it answers True, the trials that run save their places, and no more are begun.

    Raises:
        DataError: the data cannot be read, or are too small for a study.
        BnasError: a network does not fit the images, or the folder cannot be made.
    """
    plans, about = _plans(studies, budget, data, sizes)
    trials = each_once(trial for each in plans for trial in with_searches(each.trainings))
    names = _names(plans)
    outcome = run_trials(trials, folder / TRIALS, processes=processes, device=device, say=say, names=names, stop=stop)
    finished = [each for each in plans if all(map(outcome.settled, each.trainings))]
    results = [_result(each, outcome, about[each.study.name], commands or {}) for each in finished]
    return results, len(finished) == len(plans)


def _plans(studies: Sequence[Study], budget: str, data: str, sizes: Sizes) -> tuple[list[Plan], Mapping[str, str]]:
    """Return the plan of each study, and the summary of its images by its name; each set is opened once."""
    plans, about, opened = [], {}, {}
    for study in studies:
        size = sized(study, budget, sizes)
        if size.limit not in opened:
            opened[size.limit] = open_data(data, limit=size.limit)
        images = opened[size.limit]
        plans.append(plan(study, size, data, images))
        about[study.name] = images.summary.splitlines()[0]
    return plans, about


def _names(plans: Sequence[Plan]) -> dict[str, str]:
    """Return what people call each trial, by key; of several names the first."""
    names: dict[str, str] = {}
    for each in plans:
        for planned in each.rows:
            for trial in planned.trials:
                name = f"{each.study.name}: {planned.row.name}, seed {trial.seed}"
                names.setdefault(trial.key, name)
                if trial.after is not None:
                    names.setdefault(trial.after.key, f"{name}, search")
    return names


def _result(plan: Plan, outcome: Outcome, about: str, commands: Mapping[str, str]) -> StudyResult:
    used: dict[str, TrialResult] = {}
    for training in plan.trainings:
        every: list[Trial] = [training, *([training.after] if training.after else [])]
        used |= {each.key: outcome.results[each.key] for each in every if each.key in outcome.results}
    return StudyResult(
        plan.study,
        plan.budget,
        tuple(RowResult(planned.row, *_trials_of(planned, outcome, plan.budget.seeds)) for planned in plan.rows),
        about,
        commands.get(plan.study.name, ""),
        tuple(dict.fromkeys(each.machine for each in used.values())),
        sum(each.seconds for each in used.values()),
        trained(plan),
        len({each.after.key for each in plan.trainings if each.after}),
    )


def trained(plan: Plan) -> str:
    """Return what was trained how, and what was searched before, in a sentence or two."""
    networks = dict.fromkeys(each.network.name for each in plan.trainings)
    recipes = dict.fromkeys(f"{each.recipe.name} ({counted(each.recipe.epochs, 'epoch')})" for each in plan.trainings)
    searches = dict.fromkeys(_searched(each.after) for each in plan.trainings if each.after)
    before = f" Searched before it: {', '.join(searches)}." if searches else ""
    return f"Trained: {', '.join(networks)}, by the recipe {', '.join(recipes)}.{before}"


def _searched(search: SearchTrial) -> str:
    config = search.config
    if isinstance(config, SearchConfig):
        return f"cells by {config.strategy} ({counted(config.recipe.epochs, 'epoch')})"
    return f"widths ({counted(config.epochs, 'epoch')})"


def _trials_of(planned: PlannedRow, outcome: Outcome, seeds: int) -> tuple[dict[int, TrialResult], dict[int, str]]:
    """Return the results and the failures of a row, by seed."""
    if not planned.trials:
        return {}, dict.fromkeys(range(seeds), planned.refusal)
    trials = planned.trials
    return (
        {each.seed: _whole(each, outcome) for each in trials if each.key in outcome.results},
        {each.seed: outcome.failures[each.key] for each in trials if each.key in outcome.failures},
    )


def _whole(training: Training, outcome: Outcome) -> TrialResult:
    """Return what a training measured, with the figures of the search before it."""
    before = outcome.results[training.after.key] if training.after else None
    return outcome.results[training.key].and_of(before)
