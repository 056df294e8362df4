"""Runs one trial in its folder, or goes on with it, and writes what it measured."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from bnas_deploy.core.counting.rules import RULES
from bnas_deploy.core.genotype import LEARNABLE, ZEROISE, Genotype
from bnas_deploy.core.history import read_history
from bnas_deploy.core.run_metrics import EpochRecord
from bnas_deploy.core.width_history import UNIFORM_FILE, WEIGHTS, WIDTHS_FILE
from bnas_deploy.search.cells.config import SearchConfig
from bnas_deploy.search.cells.derive import derive
from bnas_deploy.search.cells.search import search
from bnas_deploy.search.cells.search_run import HISTORY
from bnas_deploy.search.data import open_data
from bnas_deploy.search.data.dataset import DataSet, InMemoryDataSet
from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.backbone_settings import read_widths_file
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.layer_costs import network_size
from bnas_deploy.search.training.acceleration import tf32
from bnas_deploy.search.training.result import BEST, LAST
from bnas_deploy.search.training.run import RESUME
from bnas_deploy.search.training.stages import STAGES, train_in_stages
from bnas_deploy.search.widths.config import WidthSearchConfig
from bnas_deploy.search.widths.search import search_widths
from bnas_deploy.studies.errors import errors_of
from bnas_deploy.studies.gradients import GradientRecorder, silence
from bnas_deploy.studies.results import TrialResult, read_result, write_result
from bnas_deploy.studies.study import Record
from bnas_deploy.studies.trials import SearchTrial, Training, Trial

RUN = "run"
"""The folder of the search or the training inside that of a trial."""

EARLY = 0.4
"""The share of a search that the paper calls early: 20 of 50 epochs (BNAS v2, section 4.3)."""

Stop = Callable[[], bool]


def perform(trial: Trial, root: Path, *, device: torch.device, machine: str, stop: Stop) -> bool:
    """Run a trial, or go on with it; return whether it is finished.

    Args:
        trial: the search that it follows is finished.
        root: the folder of all trials.
        device: to compute on.
        machine: what the result says of where it ran.
        stop: asked after every step; once it answers True, the place is saved.

    Raises:
        BnasError: the trial cannot be run.
    """
    folder = root / trial.key
    if read_result(folder) is None:
        images = _images(trial.material.data, trial.material.limit)
        common = {"seed": trial.seed, "device": device, "stop": stop}
        with tf32(False):  # what is measured beside the runs is in float32 as well
            match trial:
                case SearchTrial(config=SearchConfig() as config):
                    result = _search(config, folder / RUN, images.in_memory(), common)
                case SearchTrial(config=WidthSearchConfig() as config):
                    result = _search_widths(config, folder / RUN, images.in_memory(), common)
                case Training():
                    result = _train(trial, root, images, common)
        if result is None:
            return False
        write_result(folder, replace(result, machine=machine))
    _tidy(folder / RUN)
    return True


@lru_cache(maxsize=1)  # trials that share a process mostly share the images, too
def _images(data: str, limit: int | None) -> DataSet:
    return open_data(data, limit=limit)


def _search(config: SearchConfig, run: Path, images: InMemoryDataSet, common: dict[str, Any]) -> TrialResult | None:
    found = search(images, config, run, resume=_begun(run), **common)
    if not found.finished:
        return None
    epochs, best = found.history.epochs, found.history.best
    assert best is not None  # it has an epoch
    early = epochs[: max(1, round(EARLY * len(epochs)))]
    return TrialResult(
        {
            "validation_accuracy": best.validation_accuracy,
            "learnable_share_early": sum(each.learnable_share for each in early) / len(early),
        },
        {
            "learnable_share": tuple(each.learnable_share for each in epochs),
            "learnable_probability": tuple(each.learnable_probability for each in epochs),
            "entropy": tuple(each.entropy for each in epochs),
        },
        seconds=sum(each.duration_s for each in epochs),
    )


def _search_widths(
    config: WidthSearchConfig, run: Path, images: InMemoryDataSet, common: dict[str, Any]
) -> TrialResult | None:
    found = search_widths(images, config, run, resume=_begun(run), **common)
    if not found.finished:
        return None
    history = found.history
    errors = tuple(each.error for each in history.epochs if each.trained == WEIGHTS)
    channels = (history.epochs[-1].widths, history.heading.uniform, history.heading.base)
    return TrialResult(
        {"search_error": errors[-1], "searched_memory": history.epochs[-1].cost},
        {"search_error": errors},
        {"channels": tuple(tuple(map(float, each)) for each in channels)},
        {"channels": history.heading.names},
        seconds=sum(each.duration_s for each in history.epochs),
    )


def _train(trial: Training, root: Path, images: DataSet, common: dict[str, Any]) -> TrialResult | None:
    folder = root / trial.key
    run = folder / RUN
    config = _network_of(trial, root)
    gradients = GradientRecorder(run / LAST, folder, images, common["device"])
    listeners = gradients.of_run(run) if Record.GRADIENTS in trial.records else silence
    found = train_in_stages(images, config, trial.recipe, run, resume=_begun(run), listeners=listeners, **common)
    if not found.finished:
        return None
    history = found.result.history
    result = TrialResult(
        _accuracies(history) | _counts(config, trial.rule) | _shares(config),
        {
            "test_accuracy": tuple(each.test_accuracy for each in history),
            "train_accuracy": tuple(each.train_accuracy for each in history),
        },
        seconds=sum(each.duration_s for each in history),
    )
    if Record.GRADIENTS in trial.records:
        result = gradients.result().and_of(result)
    if Record.ERRORS in trial.records:
        result = errors_of(run / LAST, images, common["device"]).and_of(result)
    return result


def _network_of(trial: Training, root: Path) -> ModelConfig:
    """Return the network of a training, with what the search before it found."""
    config, before = trial.network, trial.after
    if before is None:
        return config
    run = root / before.key / RUN
    if isinstance(before.config, WidthSearchConfig):
        assert isinstance(config, BackboneConfig)
        return config.with_widths(read_widths_file(run / (UNIFORM_FILE if trial.uniform else WIDTHS_FILE)).channels)
    assert isinstance(config, NetworkConfig)
    best = read_history(run / HISTORY).best
    assert best is not None  # the search is finished
    how = replace(before.config, gamma=trial.gamma, zeroise=trial.zeroise)
    return replace(config, genotype=derive(best.probabilities, how))


def _accuracies(history: tuple[EpochRecord, ...]) -> dict[str, float]:
    """Return those of the last epoch, which nothing chose by the test images."""
    last = history[-1]
    return {
        "test_accuracy": last.test_accuracy,
        "train_accuracy": last.train_accuracy,
        "test_above_train": last.test_accuracy - last.train_accuracy,
    }


def _counts(config: ModelConfig, rule: str) -> dict[str, float]:
    """Return memory and operations as a rule counts them, of what is trained."""
    count = RULES[rule].count(network_size(config).counted)
    memory = count.float_bits if config.is_float else count.bits
    operations = count.float_operations if config.is_float else count.operations
    figures = {"memory_bytes": None if memory is None else memory / 8, "flops": operations}
    return {name: value for name, value in figures.items() if value is not None}


def _shares(config: ModelConfig) -> dict[str, float]:
    """Return of searched cells how many of all edges are of a kind."""
    genotype = getattr(config, "genotype", None)
    if not isinstance(genotype, Genotype):
        return {}
    operations = [edge.operation for cell in (genotype.normal, genotype.reduction) for edge in cell.edges]
    kinds = {
        "zeroise_share": [each == ZEROISE for each in operations],
        "separable_share": ["_sep_" in each for each in operations],
        "learnable_share_derived": [each in LEARNABLE for each in operations],
    }
    return {name: sum(are) / len(are) for name, are in kinds.items()}


def _begun(run: Path) -> bool:
    """Tell whether there is a place to go on from; what a run without one has left, as a copy may be, is removed."""
    if any(run.rglob(RESUME)):
        return True
    shutil.rmtree(run, ignore_errors=True)
    return False


def _tidy(run: Path) -> None:
    """Remove what only an unfinished run needs, and the weights: a study of many trials would fill a disk."""
    for name in (RESUME, BEST, LAST):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / STAGES, ignore_errors=True)
