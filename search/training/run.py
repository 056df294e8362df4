"""A run of many epochs in one folder: how it is begun, saved, stopped and resumed, whatever is trained.

A subclass says what is trained, how a step is taken and what an epoch leaves behind:
`bnas_deploy.search.training.train` for a network, `bnas_deploy.search.cells.search` for a supernet and its alphas.

RESUME holds all that is needed to go on. Its tensors are

    MODULE.NAME                  the state of a module
    OPTIMISER.PARAMETER.STATE    the state of an optimiser, by the number of the parameter
    random.cpu, random.cuda      the generators of random numbers

and its metadata has the settings, the place, the history, and the settings of optimisers and schedules. Each file is
replaced as a whole, RESUME last, so that every file can be read whatever ends a run. A run that is asked to stop keeps
its place in the middle of an epoch. A killed one goes on from the last finished epoch or the last `SAVE_EVERY_S`
seconds. On a CPU a resumed run ends with the same bits as an uninterrupted one (with the same number of threads).
"""

import json
import math
import os.path
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

import bnas_deploy
from bnas_deploy.core.errors import BnasError, CheckpointError
from bnas_deploy.search.training.checkpoint import check_format, find_misfits, read_tensors, write_tensors
from bnas_deploy.search.training.processes import ALONE, Processes
from bnas_deploy.search.training.resume import (
    Stopped,
    check_kind,
    differences,
    lay_out_as_parameters,
    optimizer_numbers,
    optimizer_state,
    optimizer_tensors,
)

RESUME = "resume.safetensors"

SAVE_EVERY_S = 600.0

FORMAT_VERSION = 2
"""1, of bnas-deploy 0.1.0, had one optimiser with momentum."""

_REPORT_STEPS = 10  # reading a sum makes a GPU wait, so not after every step

Record = TypeVar("Record")
"""What one finished epoch measured."""


class Listener(Protocol):
    """Is told how a run goes."""

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        """A run of `epochs` epochs of `steps` steps begins, or goes on after `done` steps of all."""

    def stepped(self, *, done: int, loss: float) -> None:
        """`done` steps of all are done; `loss` is the mean over the current epoch so far."""

    def finished(self, record: Any) -> None:
        """An epoch is finished and saved; `record` is the run's record of it."""


class Silence:
    """A listener that does nothing with what it is told."""

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        """Do nothing."""

    def stepped(self, *, done: int, loss: float) -> None:
        """Do nothing."""

    def finished(self, record: Any) -> None:
        """Do nothing."""


@dataclass
class Place:
    """Where a run is: finished epochs, and of the current one the steps, the sums over images, and the time.

    `images` counts the images seen, by the name of their source; the first source is the one that is trained on,
    of which `skipped` more were left out because they cannot be read.
    `correct` of those were classified rightly. Of `duration_s`, `waited_s` were waits for the data.
    """

    epoch: int = 0
    step: int = 0
    images: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    correct: int = 0
    duration_s: float = 0.0
    waited_s: float = 0.0


def steps_of_epoch(images: int, batch_size: int) -> int:
    """Return the steps of an epoch; the last batch may be smaller."""
    return math.ceil(images / batch_size)


def check_free(folder: Path, files: Iterable[str], what: str, error: type[BnasError]) -> None:
    """Make sure that there is nothing of a run, which the user calls `what`, in a folder that one is begun in.

    Raises:
        error: one of `files` is there.
    """
    there = [name for name in files if os.path.lexists(folder / name)]
    if there:
        raise error(
            f"{folder}: already holds a {what} ({', '.join(there)}), which was left alone; "
            "add --resume to go on with it, or choose another output folder"
        )


def check_shares(images: int, batch_size: int, processes: Processes, error: type[BnasError]) -> None:
    """Make sure that every process has one of the images of every batch.

    Raises:
        error: the last batch of an epoch has too few.
    """
    last = images % batch_size or batch_size
    if last < processes.count:
        raise error(
            f"{images} images in batches of {batch_size} leave a last batch of {last} for {processes.count} processes; "
            "choose another --batch-size, or fewer processes"
        )


class Run(ABC, Generic[Record]):
    """A run in memory: everything that changes while it goes.

    Class attributes of a subclass:
        what: what a user calls it, such as "run".
        metadata: the key of its description in RESUME.
        results: the files that it leaves in its folder besides RESUME.
        error: what it raises where it cannot begin, go on or be resumed.

    Args:
        folder: where it lives; made if it is not there.
        epochs: how many there are.
        batch_size: images of a step.
        sources: images of an epoch by name, the one that is trained on first.
        modules: what is trained, by name.
        optimizers: by name; of any kind whose state is of tensors like its parameters, and of single numbers.
        schedules: by name; each is stepped once per step.
        sums: names of what is summed over images, the loss that is shown first.
        device: where the modules are.
        listener: is told how it goes.
        later: modules that the files of older versions lack.
        processes: this process among those that train together.
    """

    what: ClassVar[str]
    metadata: ClassVar[str]
    results: ClassVar[tuple[str, ...]]
    error: ClassVar[type[BnasError]]

    def __init__(
        self,
        folder: Path,
        *,
        epochs: int,
        batch_size: int,
        sources: Mapping[str, int],
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        schedules: Mapping[str, LRScheduler],
        sums: Sequence[str],
        device: torch.device,
        listener: Listener | None,
        later: frozenset[str] = frozenset(),
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.folder = folder
        self.epochs = epochs
        self.batch_size = batch_size
        self.sources = sources
        self.steps = steps_of_epoch(next(iter(sources.values())), batch_size)
        self.modules = modules
        self.optimizers = optimizers
        self.schedules = schedules
        self.names_of_sums = tuple(sums)
        self.device = device
        self.listener = listener if listener and processes.writes else Silence()
        self.later = later
        self.history: list[Record] = []
        self.set_place(self.start_of(0))

    # ---- what a subclass has to say

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what must be the same for the run to go on, as JSON gives it back. Where the data lies may change."""

    @abstractmethod
    def batches(self) -> Iterable[tuple[Any, ...]]:
        """Make the modules ready for what is left of the current epoch, and return what `train_step` takes."""

    @abstractmethod
    def train_step(self, *batch: Any) -> None:
        """Take one step, and `add` what it measured."""

    @abstractmethod
    def measure_epoch(self, stop: Callable[[], bool]) -> Record:
        """Return the record of the epoch whose steps are done; `stop` as for `evaluate`."""

    @abstractmethod
    def write_results(self) -> None:
        """Write the result files after an epoch; do the same again where they were written before."""

    @abstractmethod
    def not_finite(self, name: str, value: float) -> BnasError:
        """Return the error for a sum that is no number: what to try instead."""

    @abstractmethod
    def history_to_json(self) -> Any:
        """Return the records of the finished epochs."""

    @abstractmethod
    def history_from_json(self, data: Any) -> list[Record]:
        """Return what `history_to_json` took apart; a built-in exception where it cannot have written `data`."""

    def settings_then(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return settings from a file as this version would have written them."""
        return settings

    def write_start(self) -> None:
        """Write what lies in the folder before the first epoch is finished: nothing."""

    def extra(self) -> dict[str, Any]:
        """Return what else changes while the run goes, for JSON: nothing."""
        return {}

    def lacks(self, module: str) -> None:
        """Do without the state of a module that is not in the file of an older version: it stays as it is."""

    def take_extra(self, data: Any) -> None:
        """Take over what `extra` returned."""
        check_kind(data, self.extra(), "extra")

    # ---- going

    def begin(self) -> None:
        """Make the folder ready, and save the start, so that from now on there is something to resume.

        Raises:
            BnasError: the folder cannot be made or holds such a run.
        """
        if not self.processes.writes:
            self.save_place()
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.error(f"{self.folder}: cannot be made: {error.strerror}; choose another output folder") from None
        check_free(self.folder, (*self.results, RESUME), self.what, self.error)
        self.save_place()  # first: if the rest fails, the run can be resumed all the same
        self.write_start()

    def go_on(self, stop: Callable[[], bool]) -> bool:
        """Go on until the last epoch, or until `stop` answers True; return whether it was the last epoch."""
        self.listener.started(epochs=self.epochs, steps=self.steps, done=self.done)
        try:
            with self.processes.watched(self.error):
                while self.place.epoch < self.epochs:
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
        """Take the steps that are left of the current epoch.

        Raises:
            Stopped: `stop` answered True.
        """
        trained, loss = next(iter(self.sources)), self.names_of_sums[0]
        for batch in self._waited_for(self.batches()):
            self.train_step(*batch)
            self.place.step += 1
            if self.place.step % _REPORT_STEPS == 0 or self.place.step == self.steps:
                self.read_sums()
                self.listener.stepped(done=self.done, loss=self.place.sums[loss] / self.place.images[trained])
            # All processes stop, and save, after the same step.
            stopping, saving = self.processes.any(stop(), time.monotonic() - self.saved_at > SAVE_EVERY_S)
            if stopping:
                raise Stopped
            if saving:
                self.save_place()

    def _waited_for(self, batches: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        """Yield the batches, and add up how long each was waited for."""
        source = iter(batches)
        while True:
            start = time.monotonic()
            batch = next(source, None)
            self.place.waited_s += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def finish_epoch(self, stop: Callable[[], bool]) -> None:
        """Measure the epoch, and save everything.

        Raises:
            Stopped: `stop` answered True.
        """
        self.read_sums()
        record = self.measure_epoch(stop)
        self.history.append(record)
        self.set_place(self.start_of(self.place.epoch + 1))
        if self.processes.writes:
            self.write_results()
        self.save_place()  # last: a run that is killed before does this epoch again
        self.processes.wait()  # the next stage reads what is written here
        self.listener.finished(record)

    # ---- sums

    def start_of(self, epoch: int) -> Place:
        """Return the place at the start of an epoch."""
        return Place(epoch, images=dict.fromkeys(self.sources, 0), sums=dict.fromkeys(self.names_of_sums, 0.0))

    def set_place(self, place: Place) -> None:
        """Go to a place; the sums of the epoch are kept on the device, where adding does not wait.

        Each process adds up what it sees itself; what was seen before is with the one that writes.
        """
        self.place = place
        before = place if self.processes.writes else self.start_of(place.epoch)
        self.sums = {
            name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in before.sums.items()
        }
        self.images = dict(before.images)
        self.correct = torch.tensor(before.correct, dtype=torch.int64, device=self.device)
        self.clock = time.monotonic() - place.duration_s
        self.saved_at = time.monotonic()

    def add(self, name: str, mean: Tensor, images: int) -> None:
        """Add to the sum `name` what was `mean` over a batch of `images`."""
        self.sums[name] += mean.detach() * images

    def count(self, source: str, labels: Tensor, logits: Tensor | None = None) -> None:
        """Count the images of a batch, and with their logits those that are classified rightly."""
        self.images[source] += len(labels)
        if logits is not None:
            self.correct += (logits.detach().argmax(dim=1) == labels).sum()

    def read_sums(self) -> None:
        """Bring the sums of all processes and the time into `place`.

        Raises:
            BnasError: a sum is not finite.
        """
        counts = torch.tensor([*self.images.values()], dtype=torch.float64, device=self.device)
        own = torch.cat([torch.stack([*self.sums.values(), self.correct.double()]), counts])
        values = iter(self.processes.add_up(own).tolist())
        self.place.sums = {name: next(values) for name in self.sums}
        self.place.correct = int(next(values))
        self.place.images = {name: int(next(values)) for name in self.images}
        trained = next(iter(self.sources))
        due = min(self.place.step * self.batch_size, self.sources[trained])
        self.place.skipped = due - self.place.images[trained]
        self.place.duration_s = time.monotonic() - self.clock
        for name, value in self.place.sums.items():
            if not math.isfinite(value):
                raise self.not_finite(name, value)

    # ---- saving

    def save_place(self) -> None:
        """Write everything that `restore` needs."""
        self.read_sums()
        self.saved_at = time.monotonic()
        if not self.processes.writes:
            return
        states = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        tensors = {
            f"{name}.{key}": tensor
            for name, module in self.modules.items()
            for key, tensor in module.state_dict().items()
        }
        for name, state in states.items():
            tensors |= optimizer_tensors(state["state"], name)
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        description = {
            "format": FORMAT_VERSION,
            "bnas_deploy": bnas_deploy.__version__,
            "settings": self.settings(),
            "place": asdict(self.place),
            "tensors": list(tensors),
            "history": self.history_to_json(),
            "optimizers": {name: state["param_groups"] for name, state in states.items()},
            "numbers": {name: optimizer_numbers(state["state"]) for name, state in states.items()},
            "schedules": {name: schedule.state_dict() for name, schedule in self.schedules.items()},
            "extra": self.extra(),
        }
        write_tensors(self.folder / RESUME, tensors, self.metadata, description)

    def restore(self) -> None:
        """Go to where the run in the folder was saved.

        Raises:
            BnasError: there is no such run in the folder, or one with other settings or without its results.
            CheckpointError: its file is damaged or of another format.
        """
        path = self.folder / RESUME
        if not os.path.lexists(path):
            raise self.error(
                f"{self.folder}: no {RESUME} in it, so there is no {self.what} to resume; leave out --resume to begin "
                "one"
            )
        tensors, description = read_tensors(path, self.metadata)
        check_format(path, description, FORMAT_VERSION, oldest=FORMAT_VERSION)
        try:
            self._check_settings(path, description["settings"])
            self._load(tensors, description)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(
                f"{path}: damaged ({type(error).__name__}: {error}); copy it again, or begin a {self.what} in another "
                "output folder"
            ) from None

    def _check_settings(self, path: Path, settings: object) -> None:
        if not isinstance(settings, dict):
            raise TypeError("settings are not an object")
        changed = differences(self.settings_then(settings), json.loads(json.dumps(self.settings())))
        if changed:
            raise self.error(
                f"{path}: the {self.what} was begun with other settings: {'; '.join(changed)}; "
                "resume it with the same ones, or choose another output folder"
            )

    def _load(self, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        """Take over what `save_place` wrote; whatever it cannot have written raises a built-in exception."""
        misfits = find_misfits(tensors, self._expected_tensors(tensors, description["tensors"]))
        if misfits:
            raise ValueError(f"tensors: {'; '.join(misfits)}")
        groups, schedules = description["optimizers"], description["schedules"]
        check_kind(
            groups, {name: each.state_dict()["param_groups"] for name, each in self.optimizers.items()}, "optimizers"
        )
        check_kind(schedules, {name: each.state_dict() for name, each in self.schedules.items()}, "schedules")
        place = self._place(description["place"])
        for schedule in schedules.values():
            if schedule["last_epoch"] != place.epoch * self.steps + place.step:
                raise ValueError(f"the schedule is at another step than the {self.what}")
        history = self.history_from_json(description["history"])
        if len(history) != place.epoch:
            raise ValueError(f"the history is not of {place.epoch} epochs")
        states: dict[str, dict[str, Tensor]] = {name: {} for name in (*self.modules, *self.optimizers, "random")}
        for key, tensor in tensors.items():
            part, name = key.split(".", 1)
            states[part][name] = tensor
        for name, module in self.modules.items():
            if states[name] or name not in self.later:
                module.load_state_dict(states[name])
            else:
                self.lacks(name)
        for name, optimizer in self.optimizers.items():
            numbers = description["numbers"][name]
            optimizer.load_state_dict(optimizer_state(states[name], numbers, groups[name]))
            lay_out_as_parameters(optimizer)
        for name, schedule in self.schedules.items():
            schedule.load_state_dict(schedules[name])
        self.take_extra(description["extra"])
        self.history = history
        self.set_place(place)
        self._take_random_numbers(states["random"])

    def _take_random_numbers(self, states: Mapping[str, Tensor]) -> None:
        if not self.processes.writes:
            return  # they have random numbers of their own, see `Processes`
        try:
            torch.set_rng_state(states["cpu"])
            if self.device.type == "cuda" and "cuda" in states:
                torch.cuda.set_rng_state(states["cuda"], self.device)
        except RuntimeError as error:
            raise ValueError(f"random numbers: {error}") from None

    def _expected_tensors(self, tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """Return a tensor of the right shape and type for each that the file must have.

        What an optimiser keeps depends on its kind and on the steps taken, so the file lists its tensors. Each is like
        its parameter or a single number.
        """
        expected = {
            f"{name}.{key}": tensor
            for name, module in self.modules.items()
            for key, tensor in module.state_dict().items()
            if name not in self.later or f"{name}.{key}" in names
        }
        expected["random.cpu"] = torch.get_rng_state()
        for name in names:
            if name == "random.cuda":  # its size depends on the GPU
                expected[name] = tensors[name]
            elif name not in expected:
                expected[name] = self._like_its_parameter(name, tensors.get(name))
        return expected

    def _like_its_parameter(self, name: str, tensor: Tensor | None) -> Tensor:
        optimizer, number, _ = name.split(".")
        parameters = [parameter for group in self.optimizers[optimizer].param_groups for parameter in group["params"]]
        parameter: Tensor = parameters[int(number)]
        return parameter if tensor is None or tensor.ndim else torch.zeros((), dtype=tensor.dtype)

    def _place(self, data: Any) -> Place:
        if isinstance(data, dict):
            data = {"skipped": 0, "waited_s": 0.0, **data}  # which older versions did not count
        check_kind(data, asdict(self.start_of(0)), "place")
        place = Place(**data)
        counts = (place.epoch, place.step, *place.images.values(), place.skipped, place.correct)
        if not all(type(count) is int for count in counts):
            raise TypeError(f"place counts in fractions: {place}")
        trained = next(iter(self.sources))
        images = {name: min(place.step * self.batch_size, size) for name, size in self.sources.items()}
        if not (
            0 <= place.epoch <= self.epochs
            and 0 <= place.step <= self.steps
            and place.skipped >= 0
            and (place.step == 0 or place.epoch < self.epochs)
            and place.images | {trained: place.images[trained] + place.skipped} == images
            and 0 <= place.correct <= place.images[trained]
            and all(map(math.isfinite, (*place.sums.values(), place.duration_s, place.waited_s)))
        ):
            raise ValueError(f"no place of this {self.what}: {place}")
        return place
