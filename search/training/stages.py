"""Training in stages: each is a run of its own, and the result of the one before is its start or its teacher.

The last stage's files lie in the folder of the run, the others' in stages/NUMBER-NAME inside. A stage begins from the
last.safetensors of the finished stage before it. So a killed run goes on at the same place with the same bits, in a
stage and between two of them.
"""

import os.path
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnas_deploy.core.counts import counted
from bnas_deploy.core.model_card import check_card
from bnas_deploy.core.run_metrics import FORMER, METRICS
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.models.family import ModelConfig, Relaxable
from bnas_deploy.search.training.checkpoint import load_checkpoint
from bnas_deploy.search.training.checks import TrainError
from bnas_deploy.search.training.fine_tuning import Start
from bnas_deploy.search.training.listener import Listener, Silence
from bnas_deploy.search.training.processes import ALONE, Processes
from bnas_deploy.search.training.recipes import LAYERS, Recipe
from bnas_deploy.search.training.result import BEST, LAST, TrainResult
from bnas_deploy.search.training.run import RESUME, check_free
from bnas_deploy.search.training.train import train
from bnas_deploy.search.training.training_run import Stage

STAGES = "stages"


@dataclass(frozen=True)
class FinishedStage:
    """The name of a stage, its layers, its length and its end; accuracies are shares of 1."""

    name: str
    layers: str
    epochs: int
    train_accuracy: float
    test_accuracy: float
    best_test_accuracy: float


@dataclass(frozen=True)
class StagedResult:
    """The result of the last stage that was begun, and every stage that is finished."""

    result: TrainResult
    stages: tuple[FinishedStage, ...]
    finished: bool

    @property
    def summary(self) -> str:
        """Say how the run ended and where its result is."""
        return self.result.summary


def train_in_stages(
    data: DataSet,
    config: ModelConfig,
    recipe: Recipe,
    folder: Path,
    *,
    start: Start | None = None,
    resume: bool = False,
    processes: Processes = ALONE,
    listeners: Callable[[Path], AbstractContextManager[Listener]] = lambda place: nullcontext(Silence()),
    announce: Callable[[str], object] = lambda text: None,
    **settings: Any,
) -> StagedResult:
    """Train every stage of a recipe, or go on with the run in `folder`.

    Args:
        data: images and labels.
        config: of the network that the last stage trains.
        recipe: how to train, with its stages.
        folder: where the run lives; made if it is not there.
        start: the weights that the first stage begins with; None: PyTorch's initialisation.
        resume: go on with the run in `folder` instead of beginning one.
        processes: this process among those that train together.
        listeners: gives what is told how the stage in a folder goes, until it ends.
        announce: is told which stage begins, where there are several.
        settings: the others of `train`, by keyword.

    Raises:
        BnasError: what `train` raises, or the recipe has something that this network or its first stage lacks.
    """
    stages = recipe.all_stages
    places = [*(folder / STAGES / f"{number}-{each.name}" for number, each in enumerate(stages[:-1], start=1)), folder]
    configs = [stage_config(config, each) for each in stages]
    for each in stages:
        data.check(each.augmentation)
    if not resume and processes.writes:
        check_folder(folder)
    finished: list[FinishedStage] = []
    for number, (each, place) in enumerate(zip(stages, places, strict=True)):
        if len(stages) > 1:
            announce(_title(number, stages))
        # The first stage is always there if anything is; a later one may not have been begun.
        (begun,) = processes.any(number == 0 or os.path.lexists(place / RESUME))
        with listeners(place) as listener:
            result = train(
                data,
                configs[number],
                each,
                place,
                resume=resume and begun,
                stage=Stage(recipe, number, load_checkpoint(places[number - 1] / LAST) if number else None),
                start=None if number else start,
                listener=listener,
                processes=processes,
                **settings,
            )
        if not result.finished:
            return StagedResult(result, tuple(finished), finished=False)
        finished.append(_finished(each, result))
    return StagedResult(result, tuple(finished), finished=True)


def check_folder(folder: Path) -> None:
    """Make sure that a run can be begun in a folder: nothing of one is there, nor a README.md of somebody else.

    Raises:
        TrainError: there is.
    """
    check_free(folder, (STAGES, BEST, LAST, METRICS, FORMER, RESUME), "run", TrainError)
    check_card(folder, TrainError)


def stage_config(config: ModelConfig, recipe: Recipe) -> ModelConfig:
    """Return the configuration of a stage's network, made from the whole run's.

    Raises:
        TrainError: there is none.
    """
    if recipe.layers == "binary":
        return config
    if recipe.layers == "float":
        return config.float_twin()
    if config.is_float or not isinstance(config, Relaxable):
        why = "is a float twin" if config.is_float else "is of a family that cannot be trained so"
        raise TrainError(
            f"layers of {recipe.name}: {recipe.layers} ({LAYERS[recipe.layers]}), but {config.name} {why}; choose "
            "another recipe or network"
        )
    return config.relax(recipe.layers)


def _title(number: int, stages: Sequence[Recipe]) -> str:
    stage = stages[number]
    return (
        f"Stage {number + 1} of {len(stages)}, {stage.name}: {LAYERS[stage.layers]}; {counted(stage.epochs, 'epoch')}"
    )


def _finished(stage: Recipe, result: TrainResult) -> FinishedStage:
    last, best = result.history[-1], result.best
    assert best is not None  # every run has an epoch
    return FinishedStage(
        stage.name, stage.layers, stage.epochs, last.train_accuracy, last.test_accuracy, best.test_accuracy
    )
