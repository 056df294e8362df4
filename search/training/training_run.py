"""One training run: its step, its epoch, its files and its settings. `run` has the parts that all runs share."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bnas_deploy.core.errors import DataError
from bnas_deploy.core.files import write_whole
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.model_card import write_card
from bnas_deploy.core.run_metrics import FORMER, METRICS, EpochRecord, metrics_lines
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.layer_costs import layer_costs
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.nn.drop_path import set_drop_path
from bnas_deploy.search.nn.float_twin import state_from_twin
from bnas_deploy.search.nn.scheme_layer import binary_weights, set_progress
from bnas_deploy.search.training.acceleration import memory_format_of, mixed, tf32
from bnas_deploy.search.training.averaging import averaged
from bnas_deploy.search.training.card import run_card
from bnas_deploy.search.training.checkpoint import Checkpoint, save_checkpoint
from bnas_deploy.search.training.checks import TrainError, check_recipe
from bnas_deploy.search.training.evaluate import evaluate
from bnas_deploy.search.training.fine_tuning import Start
from bnas_deploy.search.training.listener import Listener
from bnas_deploy.search.training.losses import TrainingLoss
from bnas_deploy.search.training.place import Extent
from bnas_deploy.search.training.processes import Processes, in_parallel
from bnas_deploy.search.training.recipe_settings import as_written_today, numbers_of
from bnas_deploy.search.training.recipes import Recipe
from bnas_deploy.search.training.recipes.schedules import Length
from bnas_deploy.search.training.result import BEST, LAST, best_of
from bnas_deploy.search.training.resume import check_kind
from bnas_deploy.search.training.run import Run
from bnas_deploy.search.training.saved_state import SavedState
from bnas_deploy.search.training.signs import SignMemory
from bnas_deploy.search.training.training_record import StageRecord, TrainingRecord


@dataclass(frozen=True)
class Stage:
    """Stage `number`, from 0, of the recipe `whole`; `before` is the checkpoint that the stage before it left."""

    whole: Recipe
    number: int
    before: Checkpoint | None

    def teacher(self, recipe: Recipe, device: torch.device) -> nn.Module | None:
        """Return the network of the stage before, where this stage's `recipe` learns from it."""
        if self.before is None or not recipe.loss.needs_teacher:
            return None
        teacher: nn.Module = self.before.build().requires_grad_(False)
        return teacher.to(device=device, memory_format=memory_format_of(teacher, device))  # type: ignore[call-overload,no-any-return]  # torch's annotation lacks this pair

    def settings(self) -> dict[str, Any]:
        """Return the settings that a resumed stage must share; none where it is the only one."""
        if not self.whole.stages:
            return {}
        return {"stage": self.number, "stages": {each.name: numbers_of(each) for each in self.whole.all_stages}}

    def records(self) -> tuple[StageRecord, ...]:
        """Return all stages for people; nothing where there is one only."""
        stages = self.whole.all_stages if self.whole.stages else ()
        return tuple(StageRecord(each.name, each.layers, each.epochs) for each in stages)


class TrainingRun(Run[EpochRecord]):
    """A network, its optimiser and its schedule."""

    what = "run"
    metadata = "bnas_deploy_run"
    results = (BEST, LAST, METRICS, FORMER)
    error = TrainError

    def __init__(
        self,
        data: DataSet,
        config: ModelConfig,
        recipe: Recipe,
        folder: Path,
        *,
        seed: int,
        device: torch.device,
        arithmetic: str,
        class_weights: tuple[float, ...] | None,
        listener: Listener | None,
        stage: Stage,
        start: Start | None,
        processes: Processes,
        command: str | None,
    ) -> None:
        self.data = data
        self.stage = stage
        self.start = start
        self.command = command
        self.config = config
        self.recipe = recipe
        self.seed = seed
        self.arithmetic = arithmetic
        self.class_weights = torch.tensor(class_weights, device=device) if class_weights else None
        self.learning_rate = 0.0  # of the last step
        self.network = build_network(config)
        self.memory_format = memory_format_of(self.network, device)
        self.network.to(device=device, memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's annotation lacks this pair
        check_recipe(recipe, self.network, config.name, alone=not stage.whole.stages)
        teacher = stage.teacher(recipe, device)
        if stage.before is not None and recipe.weights_from_before:
            # What a scheme learns besides weights, a float twin does not have.
            self.network.load_state_dict({**self.network.state_dict(), **self._state_before(stage.before)})
        if start is not None:
            start.load(self.network)
        self.average = averaged(self.network, recipe.weight_average) if recipe.weight_average else None
        self.evaluated = self.network if self.average is None else self.average.module
        self.parallel = in_parallel(self.network, processes, device)
        self.signs = SignMemory(self.network)
        self.loss = TrainingLoss(recipe.loss, self.network.train(), teacher, self.class_weights)
        self.optimizer = recipe.optimiser.build(self.network.parameters(), binary_weights(self.network))
        self.scaler = torch.amp.GradScaler(device.type, enabled=arithmetic == "float16")  # otherwise it does nothing
        extent = Extent(recipe.epochs, recipe.batch_size, sources={"train": data.train_size}, sums=("loss",))
        self.schedule = recipe.schedule.build(self.optimizer, Length(extent.epochs, extent.steps))
        super().__init__(
            folder,
            extent=extent,
            state=SavedState(
                modules={
                    "network": self.network,
                    "signs": self.signs,
                    **({} if self.average is None else {"average": self.average}),
                },
                optimizers={"optimizer": self.optimizer},
                schedules={"schedule": self.schedule},
                scaler=self.scaler,
                device=device,
                later=frozenset({"signs"}),
            ),
            listener=listener,
            processes=processes,
        )

    def _state_before(self, before: Checkpoint) -> dict[str, Tensor]:
        """Return the weights of the stage before, which may have been one of the float twin.

        Raises:
            TrainError: a scheme has no place for them.
        """
        try:
            return state_from_twin(self.network, before.state)
        except ValueError as error:
            raise TrainError(
                f"{self.recipe.name} begins with the weights of the stage before, but {error}; "
                "--set weights_from_before=false"
            ) from None

    def settings(self) -> dict[str, Any]:
        """Return network, recipe, data, seed, arithmetic, and class weights if there are any."""
        data = {name: value for name, value in asdict(self.data.description).items() if name != "name"}
        return {
            "model": self.config.model,
            "network": self.config.to_json(),
            "recipe": numbers_of(self.recipe),
            "data": data | {"train_size": self.data.train_size, "test_size": self.data.test_size},
            "seed": self.seed,
            "arithmetic": self.arithmetic,
            **({} if self.class_weights is None else {"class_weights": self.class_weights.tolist()}),
            **({} if self.start is None else {"start": self.start.digest}),
            **self.stage.settings(),
        }

    def settings_then(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return them with a recipe as it is written today."""
        return as_written_today(settings)

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return images and labels of the rest of the epoch."""
        self.network.train()
        set_drop_path(self.network, self.recipe.drop_path * self.place.epoch / self.epochs)
        set_progress(self.network, self.place.epoch / self.epochs)
        return self.data.train_batches(
            self.recipe.batch_size,
            self.recipe.augmentation,
            seed=self.seed,
            epoch=self.place.epoch,
            first=self.place.step,
            share=self.processes.share,
            device=self.device,
        )

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """Take one step of the optimiser and of its schedule."""
        self.optimizer.zero_grad()
        self.processes.own_random_numbers(self.seed, self.place.epoch, self.place.step)
        batch = self._whole(labels)
        if not batch.images:  # every image of the batch is bad, and bad ones are left out
            self.optimizer.step()  # without gradients, which changes nothing
            self.schedule.step()
            return
        with mixed(self.arithmetic, self.device):
            logits = self.parallel(images.contiguous(memory_format=self.memory_format))
            loss = self.loss(images, logits, labels, self.place.epoch / self.epochs, batch.class_weight)
        self.check_loss("loss", loss, self.network, images, lambda: self._again(images))
        # Gradients are averaged over processes, see `processes`.
        self.scaler.scale(loss * (self.processes.count * len(labels) / batch.images)).backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        if self.recipe.optimiser.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimiser.clip_norm)
        self.learning_rate = float(self.optimizer.param_groups[0]["lr"])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with warnings.catch_warnings():
            # The scaler may leave out the first steps, and the schedule goes on.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.add("loss", loss, len(labels))
        self.count("train", labels, logits)

    def _again(self, images: Tensor) -> None:
        """Run the network as a step does."""
        with mixed(self.arithmetic, self.device):
            self.network(images.contiguous(memory_format=self.memory_format))

    def _whole(self, labels: Tensor) -> "_Batch":
        """Count a batch over all processes, of which this one has the images of `labels`.

        Raises:
            DataError: none of this process's images can be read.
        """
        if self.processes.count == 1:
            return _Batch(len(labels), 1.0)
        weight = float(len(labels) if self.class_weights is None else self.class_weights[labels].sum())
        images, whole_weight = self.processes.totals(len(labels), weight)
        if images and not len(labels):
            raise DataError(
                f"{self.data.description.name}: none of the images of process {self.processes.number} in step "
                f"{self.place.step + 1} can be read; choose a larger --batch-size, or mend the images"
            )
        return _Batch(int(images), weight * images / (whole_weight * len(labels)) if images else 1.0)

    def measure_epoch(self, stop: Callable[[], bool]) -> EpochRecord:
        """Evaluate on the test images, and count the signs that changed."""
        with tf32(False):
            result = evaluate(
                self.evaluated,
                self.data,
                batch_size=self.recipe.batch_size,
                device=self.device,
                processes=self.processes,
                stop=stop,
            )
        place, changed_signs = self.place, self.signs.changed_share()
        self.signs.remember()
        return EpochRecord(
            epoch=place.epoch + 1,
            learning_rate=self.learning_rate,
            train_loss=place.sums["loss"] / place.images["train"],
            train_accuracy=place.correct / place.images["train"],
            test_loss=result.loss,
            test_accuracy=result.accuracy,
            duration_s=place.duration_s,
            waiting_share=place.waited_s / place.duration_s if place.duration_s else 0.0,
            changed_signs=changed_signs,
        )

    def write_start(self) -> None:
        """Write the network before its first step."""
        self._save_checkpoint(LAST, {"epoch": 0})

    def write_results(self) -> None:
        """Write the checkpoints and what every epoch measured."""
        record = self.history[-1]
        # Times are left out of checkpoints: two runs with the same seed write the same bytes.
        left_out = {"duration_s", "waiting_share", "changed_signs"}
        metrics = {name: value for name, value in asdict(record).items() if name not in left_out}
        best = best_of(self.history)
        assert best is not None  # an epoch is finished
        if best == record:
            self._save_checkpoint(BEST, metrics)
        last = self._save_checkpoint(LAST, metrics)
        write_whole(self.folder / METRICS, metrics_lines(self.history))
        write_card(self.folder, run_card(last, self.layers, self.history, best, best_file=BEST, last_file=LAST))
        (self.folder / FORMER).unlink(missing_ok=True)  # of the version that began the run; all of it is in METRICS

    def _save_checkpoint(self, name: str, metrics: Mapping[str, Any]) -> Checkpoint:
        """Write the network as it is now, and return what was written."""
        description = self.data.description
        checkpoint = Checkpoint(
            network=self.config,
            state=self.evaluated.state_dict(),
            preprocessing=description.preprocessing,
            labels=description.class_names,
            data=description.name,
            metrics={
                **metrics,
                "arithmetic": self.arithmetic,
                **({} if self.start is None else {"started_from": self.start.source}),
            },
            training=self._record(),
        )
        save_checkpoint(self.folder / name, checkpoint)
        return checkpoint

    @cached_property
    def layers(self) -> list[LayerCost]:
        """Return the layers of the network; to count them takes as long as some steps, so it is done once."""
        return layer_costs(self.config)

    def _record(self) -> TrainingRecord:
        """Say for people how the network is trained."""
        weights = self.class_weights
        return TrainingRecord(
            recipe=self.stage.whole.name,
            numbers=numbers_of(self.recipe),
            seed=self.seed,
            train_images=self.data.train_size,
            test_images=self.data.test_size,
            data=self.data.named,
            limit=self.data.limit,
            class_weights=None if weights is None else tuple(weights.tolist()),
            stages=self.stage.records(),
            stage=self.stage.number,
            command=self.command,
        )

    def not_finite(self, name: str, value: float, step: int, cause: str = "") -> TrainError:
        """Say where the loss was lost."""
        return TrainError(
            f"the training {name} is {value} in epoch {self.place.epoch + 1}, step {step}, after a step at a "
            f"learning rate of {self.learning_rate:.3g}{cause and ': '}{cause}; {self._kept()}. Try a "
            "lower optimiser.learning_rate, another --seed, a larger --batch-size or another "
            "--recipe"
        )

    def _kept(self) -> str:
        if not self.history:
            return f"no epoch was finished before; {self.folder / LAST} holds what the run began with"
        return f"{self.folder / LAST} still holds the epoch before"

    def restore(self) -> None:
        """Go to where the run in the folder was saved, whose checkpoints have to be there."""
        super().restore()
        missing = [name for name in (BEST, LAST) if self.history and not (self.folder / name).exists()]
        if missing:
            raise TrainError(
                f"{self.folder}: {' and '.join(missing)} of the {len(self.history)} finished epochs not found; put "
                "them back, or begin a run in another output folder"
            )

    def lacks(self, module: str) -> None:
        """Do without the signs of an epoch that another version began."""
        self.signs.known = False

    def extra(self) -> dict[str, Any]:
        """Return the learning rate of the last step."""
        return {"learning_rate": self.learning_rate}

    def take_extra(self, data: Any) -> None:
        """Take the learning rate of the last step."""
        check_kind(data, self.extra(), "extra")
        if not math.isfinite(data["learning_rate"]):
            raise ValueError(f"the learning rate is {data['learning_rate']}")
        self.learning_rate = data["learning_rate"]

    def history_to_json(self) -> list[dict[str, Any]]:
        """Return the records."""
        return [asdict(record) for record in self.history]

    def history_from_json(self, data: Any) -> list[EpochRecord]:
        """Return the records."""
        records = [_record(entry) for entry in data]
        if [record.epoch for record in records] != list(range(1, len(records) + 1)):
            raise ValueError("the history does not count its epochs")
        return records


class _Batch(NamedTuple):
    """The images of a batch in all processes, and the factor of this one's mean loss, which is weighted by class."""

    images: int
    class_weight: float


_LATER = ("waiting_share", "changed_signs")
"""Measurements that older versions lack."""


def _record(data: Any) -> EpochRecord:
    measured = {name: data.get(name) for name in _LATER}
    kinds = asdict(EpochRecord(1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)) | {
        name: None if value is None else 0.0 for name, value in measured.items()
    }
    check_kind(data | measured, kinds, "history")
    return EpochRecord(**data)
