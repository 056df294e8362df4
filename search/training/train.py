"""Training and evaluation of a finished network.

A run lives in one folder:

    best.safetensors     checkpoint of the epoch with the highest test accuracy
    last.safetensors     checkpoint of the last finished epoch (of the start, before there is one)
    history.jsonl        one `EpochRecord` a line
    resume.safetensors   all that is needed to go on: weights, optimiser, random numbers, place in the epoch

Each file is replaced as a whole, so that whatever ends a run, every file can be read. A run that is asked to stop
keeps its place in the middle of an epoch; one that is killed goes on from the last finished epoch, or from the
last `SAVE_EVERY_S` seconds. On a CPU, a run that was interrupted and resumed ends with the same weights, bit for bit,
as one that was not (with the same number of threads).
"""

import json
import math
import os.path
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import bnas_deploy
from bnas_deploy.core.errors import BnasError, CheckpointError
from bnas_deploy.core.files import write_whole
from bnas_deploy.search.data import DataSet
from bnas_deploy.search.models.bnas.config import ADDED_FIELDS, NetworkConfig
from bnas_deploy.search.models.bnas.network import Network, build_network
from bnas_deploy.search.training.acceleration import check_arithmetic, tf32
from bnas_deploy.search.training.checkpoint import (
    Checkpoint,
    check_format,
    find_misfits,
    read_tensors,
    save_checkpoint,
    write_tensors,
)
from bnas_deploy.search.training.memory import check_memory, training_need
from bnas_deploy.search.training.recipes import Recipe, SgdOneCycle
from bnas_deploy.search.training.resume import (
    Stopped,
    check_kind,
    differences,
    never,
    optimizer_state,
    optimizer_tensors,
)

BEST = "best.safetensors"
LAST = "last.safetensors"
HISTORY = "history.jsonl"
RESUME = "resume.safetensors"

SAVE_EVERY_S = 600.0

_RUN_FORMAT = 1
_RUN_KEY = "bnas_deploy_run"
_REPORT_STEPS = 10  # reading the loss makes a GPU wait, so not after every step


class TrainError(BnasError):
    """A training run cannot begin, go on or be resumed."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch measured; accuracies are shares of 1, losses are means over the images.

    The training side is measured while the weights change, on augmented images; the test side after the epoch.
    """

    epoch: int  # from 1
    learning_rate: float  # of the last step
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    duration_s: float


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind. `finished` is False where it was asked to stop before its last epoch."""

    folder: Path
    finished: bool
    history: tuple[EpochRecord, ...]

    @property
    def best(self) -> EpochRecord | None:
        """Return the epoch that best.safetensors holds; None before the first is finished."""
        return _best(self.history)


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and share of right answers over the test images."""

    loss: float
    accuracy: float


class Listener(Protocol):
    """Is told how a run goes."""

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        """A run of `epochs` epochs of `steps` steps begins, or goes on after `done` steps of all."""

    def stepped(self, *, done: int, loss: float) -> None:
        """`done` steps of all are done; `loss` is the mean over the current epoch so far."""

    def evaluated(self, record: EpochRecord) -> None:
        """An epoch is finished and saved."""


class Silence:
    """A listener that does nothing with what it is told."""

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        """Do nothing."""

    def stepped(self, *, done: int, loss: float) -> None:
        """Do nothing."""

    def evaluated(self, record: EpochRecord) -> None:
        """Do nothing."""


def train(
    data: DataSet,
    config: NetworkConfig,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    arithmetic: str = "float32",
    resume: bool = False,
    stop: Callable[[], bool] = never,
    listener: Listener | None = None,
) -> TrainResult:
    """Train a network from scratch, or go on with the run in `folder`.

    The best epoch is chosen by the accuracy on the test images. So does the official BNAS code for ImageNet; for CIFAR
    it keeps the last one.

    Args:
        data: images and labels.
        config: what to build; its classes and images must be those of `data`.
        recipe: how to train.
        folder: where the run lives; made if it is not there.
        seed: of the initial weights and of the order and the augmentation of the images; not negative.
        device: the CPU unless given.
        arithmetic: of steps, one of `recipes.ARITHMETICS`; evaluation is in float32.
        resume: go on with the run in `folder` instead of beginning one.
        stop: asked after every batch; once it answers True, the run saves its place and returns.
        listener: is told how it goes.

    Raises:
        BnasError: the device cannot compute in `arithmetic`, a step would take more memory than there is, or a file
            of the run cannot be written.
        TrainError: `folder` holds a run already, or none to resume, or one with other settings; or the loss is not
            finite.
        CheckpointError: the file to resume from cannot be read or is damaged.
        DataError: an image cannot be read, or the recipe does not suit the data.
    """
    device = device or torch.device("cpu")
    _check_fit(data, config)
    data.check(recipe.augmentation)
    check_arithmetic(arithmetic, device)
    image_shape = (config.in_channels, *config.image_size)
    need = training_need(lambda: build_network(config), lambda network, images: network(images), image_shape)
    size = "x".join(map(str, config.image_size))
    check_memory(f"{config.name} on images of {size}", need, min(recipe.batch_size, data.train_size), device)
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, tf32(arithmetic == "tf32"):
        torch.manual_seed(seed)
        run = _Run(data, config, recipe, folder, seed, device, arithmetic, listener or Silence())
        if resume:
            run.restore()
        else:
            run.begin()
        finished = run.go_on(stop)
    return TrainResult(folder, finished, tuple(run.history))


def evaluate(
    network: nn.Module,
    data: DataSet,
    *,
    batch_size: int,
    device: torch.device | None = None,
    stop: Callable[[], bool] = never,
) -> Evaluation:
    """Evaluate a network, which must be on `device`, on all test images, in float32; it is left in evaluation mode.

    Raises:
        Stopped: `stop` answered True.
        DataError: an image cannot be read.
    """
    device = device or torch.device("cpu")
    network.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with torch.no_grad():
        for images, labels in data.test_batches(batch_size, device=device):
            logits = network(images)
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(dim=1) == labels).sum()
            if stop():
                raise Stopped
    return Evaluation(loss.item() / data.test_size, correct.item() / data.test_size)


def build_optimizer(
    scheme: SgdOneCycle, network: nn.Module, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return the optimiser and the schedule, which is stepped after each of `steps` batches."""
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=scheme.start_learning_rate,
        momentum=scheme.high_momentum,
        weight_decay=scheme.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=scheme.peak_learning_rate,
        total_steps=steps,
        pct_start=scheme.rising_share,
        anneal_strategy="linear",
        three_phase=True,
        base_momentum=scheme.low_momentum,
        max_momentum=scheme.high_momentum,
        div_factor=scheme.peak_learning_rate / scheme.start_learning_rate,
        final_div_factor=scheme.start_learning_rate / scheme.final_learning_rate,
    )
    return optimizer, schedule


@dataclass
class _Place:
    """Where a run is: finished epochs, steps and sums of the current one."""

    epoch: int = 0
    step: int = 0
    images: int = 0
    loss: float = 0.0
    correct: int = 0
    learning_rate: float = 0.0
    duration_s: float = 0.0


class _Run:
    """A run in memory: everything that changes while it trains, and how that is saved and restored."""

    def __init__(
        self,
        data: DataSet,
        config: NetworkConfig,
        recipe: Recipe,
        folder: Path,
        seed: int,
        device: torch.device,
        arithmetic: str,
        listener: Listener,
    ) -> None:
        self.data = data
        self.config = config
        self.recipe = recipe
        self.folder = folder
        self.seed = seed
        self.device = device
        self.arithmetic = arithmetic
        self.listener = listener
        self.steps = math.ceil(data.train_size / recipe.batch_size)  # of one epoch
        # The layout that a GPU's tensor cores work in. A CPU gains 8 to 17 % by it (BNAS-Mini, one thread), but there
        # resuming has to be exact, and tensors come back from a file without their layout.
        self.layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.network: Network = build_network(config).to(device=device, memory_format=self.layout)  # type: ignore[call-overload]  # torch's annotation lacks this pair
        self.optimizer, self.schedule = build_optimizer(recipe.scheme, self.network, self.steps * recipe.epochs)
        self.history: list[EpochRecord] = []
        self.set_place(_Place())

    def begin(self) -> None:
        """Make the folder ready, and save the start, so that from now on there is something to resume.

        Raises:
            TrainError: the folder cannot be made or holds a run.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainError(f"{self.folder}: cannot be made: {error.strerror}; choose another output folder") from None
        there = [name for name in (BEST, LAST, HISTORY, RESUME) if os.path.lexists(self.folder / name)]
        if there:
            raise TrainError(
                f"{self.folder}: already holds a run ({', '.join(there)}), which was left alone; "
                "add --resume to go on with it, or choose another output folder"
            )
        self.save_place()  # first: if the rest fails, the run can be resumed all the same
        self.save_checkpoint(LAST, {"epoch": 0})

    def go_on(self, stop: Callable[[], bool]) -> bool:
        """Train until the last epoch, or until `stop` answers True; return whether it was the last epoch."""
        self.listener.started(epochs=self.recipe.epochs, steps=self.steps, done=self.done)
        try:
            while self.place.epoch < self.recipe.epochs:
                self.train_epoch(stop)
                self.finish_epoch(stop)
        except Stopped:
            self.save_place()
            return False
        return True

    @property
    def done(self) -> int:
        """Return how many steps of all are done."""
        return self.place.epoch * self.steps + self.place.step

    def train_epoch(self, stop: Callable[[], bool]) -> None:
        """Train with what is left of the current epoch.

        Raises:
            Stopped: `stop` answered True.
        """
        self.network.train()
        batches = self.data.train_batches(
            self.recipe.batch_size,
            self.recipe.augmentation,
            seed=self.seed,
            epoch=self.place.epoch,
            first=self.place.step,
            device=self.device,
        )
        for images, labels in batches:
            self.train_step(images, labels)
            if self.place.step % _REPORT_STEPS == 0 or self.place.step == self.steps:
                self.read_sums()
                self.listener.stepped(done=self.done, loss=self.place.loss / self.place.images)
            if stop():
                raise Stopped
            if time.monotonic() - self.saved_at > SAVE_EVERY_S:
                self.save_place()

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """Take one step of the optimiser and of its schedule."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.arithmetic == "bfloat16"):
            logits = self.network(images.contiguous(memory_format=self.layout))
            loss = nn.functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        self.place.learning_rate = float(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        self.schedule.step()
        self.loss_sum += loss.detach() * len(labels)
        self.correct_sum += (logits.detach().argmax(dim=1) == labels).sum()
        self.place.images += len(labels)
        self.place.step += 1

    def finish_epoch(self, stop: Callable[[], bool]) -> None:
        """Evaluate, and save everything.

        Raises:
            Stopped: `stop` answered True.
        """
        self.read_sums()
        with tf32(False):
            result = evaluate(self.network, self.data, batch_size=self.recipe.batch_size, device=self.device, stop=stop)
        record = EpochRecord(
            epoch=self.place.epoch + 1,
            learning_rate=self.place.learning_rate,
            train_loss=self.place.loss / self.place.images,
            train_accuracy=self.place.correct / self.place.images,
            test_loss=result.loss,
            test_accuracy=result.accuracy,
            duration_s=self.place.duration_s,
        )
        self.history.append(record)
        self.set_place(_Place(epoch=record.epoch))
        # The time is left out of checkpoints: two runs with the same seed write the same bytes.
        metrics = {name: value for name, value in asdict(record).items() if name != "duration_s"}
        if _best(self.history) == record:
            self.save_checkpoint(BEST, metrics)
        self.save_checkpoint(LAST, metrics)
        lines = "".join(json.dumps(asdict(entry)) + "\n" for entry in self.history)
        write_whole(self.folder / HISTORY, lines.encode())
        self.save_place()  # last: a run that is killed before does this epoch again
        self.listener.evaluated(record)

    def set_place(self, place: _Place) -> None:
        """Go to a place; the sums of the epoch are kept on the device, where adding does not wait."""
        self.place = place
        self.loss_sum = torch.tensor(place.loss, dtype=torch.float64, device=self.device)
        self.correct_sum = torch.tensor(place.correct, dtype=torch.int64, device=self.device)
        self.clock = time.monotonic() - place.duration_s
        self.saved_at = time.monotonic()

    def read_sums(self) -> None:
        """Bring the sums and the time into `place`.

        Raises:
            TrainError: the loss is not finite.
        """
        self.place.loss = self.loss_sum.item()
        self.place.correct = int(self.correct_sum.item())
        self.place.duration_s = time.monotonic() - self.clock
        if not math.isfinite(self.place.loss):
            raise TrainError(
                f"the training loss is {self.place.loss} in epoch {self.place.epoch + 1}, step {self.place.step}, at a "
                f"learning rate of {self.place.learning_rate:.3g}; {self.folder / LAST} still holds the epoch before. "
                "Try another --seed, a larger --batch-size or another --recipe"
            )

    def save_checkpoint(self, name: str, metrics: Mapping[str, Any]) -> None:
        """Write the network as it is now."""
        description = self.data.description
        save_checkpoint(
            self.folder / name,
            Checkpoint(
                network=self.config,
                state=self.network.state_dict(),
                preprocessing=description.preprocessing,
                labels=description.class_names,
                data=description.name,
                metrics={**metrics, "arithmetic": self.arithmetic},
            ),
        )

    def save_place(self) -> None:
        """Write everything that `restore` needs."""
        self.read_sums()
        optimizer = self.optimizer.state_dict()
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= optimizer_tensors(optimizer["state"], "optimizer")
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        description = {
            "format": _RUN_FORMAT,
            "bnas_deploy": bnas_deploy.__version__,
            "settings": self.settings(),
            "place": asdict(self.place),
            "tensors": list(tensors),
            "history": [asdict(record) for record in self.history],
            "optimizer": optimizer["param_groups"],
            "schedule": self.schedule.state_dict(),
        }
        write_tensors(self.folder / RESUME, tensors, _RUN_KEY, description)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Go to where the run in the folder was saved.

        Raises:
            TrainError: there is no run in the folder, or one with other settings or without its checkpoints.
            CheckpointError: its file is damaged or newer.
        """
        path = self.folder / RESUME
        if not os.path.lexists(path):
            raise TrainError(
                f"{self.folder}: no {RESUME} in it, so there is no run to resume; leave out --resume to begin one"
            )
        tensors, description = read_tensors(path, _RUN_KEY)
        check_format(path, description, _RUN_FORMAT)
        try:
            self._check_settings(path, description["settings"], _unsaid_arithmetic(tensors, description))
            self._load(tensors, description)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(
                f"{path}: damaged ({type(error).__name__}: {error}); copy it again, or begin a run in another output "
                "folder"
            ) from None
        missing = [name for name in (BEST, LAST) if self.history and not os.path.exists(self.folder / name)]
        if missing:
            raise TrainError(
                f"{self.folder}: {' and '.join(missing)} of the {len(self.history)} finished epochs not found; put "
                "them back, or begin a run in another output folder"
            )

    def _check_settings(self, path: Path, settings: object, unsaid_arithmetic: str) -> None:
        if not isinstance(settings, dict):
            raise TypeError("settings are not an object")
        settings = {"arithmetic": unsaid_arithmetic, **settings}
        settings = settings | {"network": {**ADDED_FIELDS, **settings["network"]}}
        changed = differences(settings, self.settings())
        if changed:
            raise TrainError(
                f"{path}: the run was begun with other settings: {'; '.join(changed)}; "
                "resume it with the same ones, or choose another output folder"
            )

    def _load(self, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        """Take over what `save_place` wrote; whatever it cannot have written raises a built-in exception."""
        misfits = find_misfits(tensors, self._expected_tensors(tensors, description["tensors"]))
        if misfits:
            raise ValueError(f"tensors: {'; '.join(misfits)}")
        schedule, groups = description["schedule"], description["optimizer"]
        check_kind(groups, self.optimizer.state_dict()["param_groups"], "optimizer")
        check_kind(schedule, self.schedule.state_dict(), "schedule")
        place = self._place(description["place"])
        if schedule["last_epoch"] != place.epoch * self.steps + place.step:
            raise ValueError("the schedule is at another step than the run")
        history = [_record(entry) for entry in description["history"]]
        if [record.epoch for record in history] != list(range(1, place.epoch + 1)):
            raise ValueError(f"the history is not of {place.epoch} epochs")
        states: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "random": {}}
        for key, tensor in tensors.items():
            part, name = key.split(".", 1)
            states[part][name] = tensor
        self.network.load_state_dict(states["network"])
        self.optimizer.load_state_dict(optimizer_state(states["optimizer"], groups))
        self.schedule.load_state_dict(schedule)
        self.history = history
        self.set_place(place)
        try:
            torch.set_rng_state(states["random"]["cpu"])
            if self.device.type == "cuda" and "cuda" in states["random"]:
                torch.cuda.set_rng_state(states["random"]["cuda"], self.device)
        except RuntimeError as error:
            raise ValueError(f"random numbers: {error}") from None

    def _expected_tensors(self, tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """Return a tensor of the right shape and type for each that the file must have.

        Which parameters have momentum depends on the steps taken, so the file lists its tensors.
        """
        expected = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        expected["random.cpu"] = torch.get_rng_state()
        momentum = {
            f"optimizer.{index}.momentum_buffer": parameter for index, parameter in enumerate(self.network.parameters())
        }
        for name in names:
            if name == "random.cuda":  # its size depends on the GPU
                expected[name] = tensors[name]
            elif name not in expected:
                expected[name] = momentum[name]
        return expected

    def _place(self, data: Any) -> _Place:
        check_kind(data, asdict(_Place()), "place")
        place = _Place(**data)
        if not all(type(count) is int for count in (place.epoch, place.step, place.images, place.correct)):
            raise TypeError(f"place counts in fractions: {place}")
        images = min(place.step * self.recipe.batch_size, self.data.train_size)
        if not (
            0 <= place.epoch <= self.recipe.epochs
            and 0 <= place.step <= self.steps
            and (place.step == 0 or place.epoch < self.recipe.epochs)
            and place.images == images
            and 0 <= place.correct <= images
            and all(map(math.isfinite, (place.loss, place.learning_rate, place.duration_s)))
        ):
            raise ValueError(f"no place of this run: {place}")
        return place

    def settings(self) -> dict[str, Any]:
        """Return what must be the same for a run to go on, as JSON gives it back. Where the data lies may change."""
        data = {name: value for name, value in asdict(self.data.description).items() if name != "name"}
        settings = {
            "network": self.config.to_json(),
            "recipe": asdict(self.recipe),
            "data": data | {"train_size": self.data.train_size, "test_size": self.data.test_size},
            "seed": self.seed,
            "arithmetic": self.arithmetic,
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain


def _best(history: Sequence[EpochRecord]) -> EpochRecord | None:
    """Return the record with the highest test accuracy, the first of them if there are several."""
    return max(history, key=lambda record: record.test_accuracy, default=None)


def _check_fit(data: DataSet, config: NetworkConfig) -> None:
    description = data.description
    for what, got, wanted in (
        ("classes", config.classes, description.classes),
        ("channels in", config.in_channels, description.in_channels),
        ("image size", config.image_size, description.image_size),
    ):
        if got != wanted:
            raise TrainError(
                f"{config.name} has {what} {got}, but {description.name} has {wanted}; build it for this data set"
            )


def _unsaid_arithmetic(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """Return the arithmetic of a run of bnas-deploy 0.1.0, whose settings do not say it: mixed on any GPU.

    There bfloat16, or where a GPU could not compute with it float16, whose gradients had to be scaled.
    """
    if "random.cuda" not in tensors:
        return "float32"
    return "float16" if description.get("scaler") else "bfloat16"


def _record(data: Any) -> EpochRecord:
    check_kind(data, asdict(EpochRecord(1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)), "history")
    return EpochRecord(**data)
