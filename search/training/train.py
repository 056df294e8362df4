"""Training of a finished network.

A run lives in one folder (see `bnas_deploy.search.training.run` for how it is saved and resumed):

    best.safetensors     checkpoint of the epoch with the highest test accuracy
    last.safetensors     checkpoint of the last finished epoch (of the start, before there is one)
    metrics.jsonl        one `EpochRecord` a line
    README.md            the model card, from the first finished epoch on
    resume.safetensors   all that is needed to go on
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch

from bnas_deploy.core.model_card import check_card
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.training.acceleration import check_arithmetic, tf32
from bnas_deploy.search.training.checks import TrainError, check_images, check_step
from bnas_deploy.search.training.fine_tuning import Start
from bnas_deploy.search.training.listener import Listener
from bnas_deploy.search.training.processes import ALONE, Processes, check_shares
from bnas_deploy.search.training.recipes import Recipe
from bnas_deploy.search.training.recipes.schedules import Length
from bnas_deploy.search.training.rehearsal import rehearse
from bnas_deploy.search.training.result import TrainResult
from bnas_deploy.search.training.resume import never
from bnas_deploy.search.training.training_run import Stage, TrainingRun


def train(
    data: DataSet,
    config: ModelConfig,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    arithmetic: str = "float32",
    class_weights: tuple[float, ...] | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = never,
    listener: Listener | None = None,
    stage: Stage | None = None,
    start: Start | None = None,
    processes: Processes = ALONE,
    command: str | None = None,
) -> TrainResult:
    """Train a network, or go on with the run in `folder`; of several stages, one.

    The best epoch is chosen by the accuracy on the test images. So does the official BNAS code for ImageNet; for CIFAR
    it keeps the last one.

    Args:
        data: images and labels.
        config: what to build; its classes and images must be those of `data`.
        recipe: how to train; it has no stages before it.
        folder: where the run lives; made if it is not there.
        seed: of the initial weights and of the order and the augmentation of the images; not negative.
        device: the CPU unless given.
        arithmetic: of steps, one of `recipes.ARITHMETICS`; evaluation is in float32.
        class_weights: how much each class counts in the loss of training, see `class_weights.class_weights`; None: as
            much as any other. The loss on the test images is without them.
        resume: go on with the run in `folder` instead of beginning one.
        stop: asked after every batch; once it answers True, the run saves its place and returns.
        listener: is told how it goes.
        stage: which of several stages this is.
        start: the weights to begin with, of a stage that has none before it; None: PyTorch's initialisation.
        processes: this process among those that train together; each calls this function with the same arguments.
        command: the command line that trains so, for the model card.

    Raises:
        BnasError: the device cannot compute in `arithmetic`, a step would take more memory than there is, or a file
            of the run cannot be written.
        TrainError: `folder` holds a run already, or none to resume, or one with other settings; or the loss is not
            finite.
        CheckpointError: the file to resume from cannot be read or is damaged.
        DataError: an image cannot be read, or the recipe does not suit the data.
    """
    device = device or torch.device("cpu")
    check_images(data, config)
    data.check(recipe.augmentation)
    check_arithmetic(arithmetic, device)
    check_shares(data.train_size, recipe.batch_size, processes, TrainError)
    rehearse(recipe, Length(recipe.epochs, math.ceil(data.train_size / recipe.batch_size)))
    teacher = stage is not None and stage.before is not None and recipe.loss.needs_teacher
    check_step(data, config, recipe, device, processes=processes.count, teacher=teacher)
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, tf32(arithmetic == "tf32"):
        torch.manual_seed(seed)
        run = TrainingRun(
            data,
            config,
            recipe,
            folder,
            seed=seed,
            device=device,
            arithmetic=arithmetic,
            class_weights=class_weights,
            listener=listener,
            stage=stage or Stage(recipe, 0, None),
            start=start,
            processes=processes,
            command=command,
        )
        if resume:
            run.restore()
        else:
            if processes.writes:
                check_card(folder, TrainError)
            run.begin()
        was_finished = len(run.history) == run.epochs
        finished = run.go_on(stop)
    return TrainResult(folder, finished, tuple(run.history), was_finished)
