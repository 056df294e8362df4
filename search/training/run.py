"""A run of many epochs in one folder: how it is begun, saved, stopped and resumed, whatever is trained.

A subclass has the network, the step and the results of an epoch:
`bnas_deploy.search.training.training_run` for a network, `bnas_deploy.search.cells.search_run` for a supernet and its
alphas.

RESUME holds everything needed to go on: the state of modules and optimisers (see `saved_state`), and in the metadata
the settings, the place and the history. Each file is replaced as a whole, RESUME last, so that every file can be read
whatever ends a run. A run that is asked to stop keeps its place in the middle of an epoch. A killed one goes on from
the last finished epoch or the last `SAVE_EVERY_S` seconds. On a CPU a resumed run ends with the same bits as an
uninterrupted one (with the same number of threads).
"""

import json
import math
import os.path
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

import bnas_deploy
from bnas_deploy.core.errors import BnasError, CheckpointError
from bnas_deploy.core.locks import locked_folder
from bnas_deploy.search.training.checkpoint import check_format, read_tensors, write_tensors
from bnas_deploy.search.training.listener import Listener, Silence
from bnas_deploy.search.training.memory import enough_memory
from bnas_deploy.search.training.not_finite import find_cause
from bnas_deploy.search.training.place import Extent, Place
from bnas_deploy.search.training.processes import ALONE, Processes
from bnas_deploy.search.training.resume import Stopped, check_kind, differences
from bnas_deploy.search.training.saved_state import SavedState

RESUME = "resume.safetensors"

SAVE_EVERY_S = 600.0

FORMAT_VERSION = 2
"""1, of bnas-deploy 0.1.0, had one optimiser with momentum."""

_REPORT_STEPS = 10  # reading a sum makes a GPU wait, so not after every step

Record = TypeVar("Record")
"""What one finished epoch measured."""


AT_WORK = (
    "{folder}: another process is at work on this {what}, which was left alone; wait until it has ended, or choose "
    "another output folder"
)


def check_free(folder: Path, files: Iterable[str], what: str, error: type[BnasError]) -> None:
    """Make sure that there is nothing of a run, which the user calls `what`, in a folder that one is begun in.

    Raises:
        error: one of `files` is there.
    """
    there = [name for name in files if os.path.lexists(folder / name)]
    if there:
        with locked_folder(folder) as alone:
            if not alone:
                raise error(AT_WORK.format(folder=folder, what=what))
        raise error(
            f"{folder}: already holds a {what} ({', '.join(there)}), which was left alone; "
            "add --resume to go on with it, or choose another output folder"
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
        extent: how far it goes; the first of its sums is the loss that is shown.
        state: modules, optimisers and schedules.
        listener: is told how it goes.
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
        extent: Extent,
        state: SavedState,
        listener: Listener | None,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.folder = folder
        self.extent = extent
        self.state = state
        self.epochs = extent.epochs
        self.steps = extent.steps
        self.device = state.device
        self.listener = listener if listener and processes.writes else Silence()
        self.history: list[Record] = []
        self.set_place(self.extent.start_of(0))

    # ---- what a subclass has to say

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share, for JSON. The folder of the data is none of them."""

    @abstractmethod
    def batches(self) -> Iterable[tuple[Any, ...]]:
        """Make the modules ready for the rest of the current epoch, and return its batches, each for `train_step`."""

    @abstractmethod
    def train_step(self, *batch: Any) -> None:
        """Take one step, and `add` its sums."""

    @abstractmethod
    def measure_epoch(self, stop: Callable[[], bool]) -> Record:
        """Return the record of the epoch whose steps are done; `stop` as for `evaluate`."""

    @abstractmethod
    def write_results(self) -> None:
        """Write the result files after an epoch; do the same again where they were written before."""

    @abstractmethod
    def not_finite(self, name: str, value: float, step: int, cause: str = "") -> BnasError:
        """Return the error for a loss that is no number in a step, from 1 on: its cause, and what to try instead."""

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
        """Return other values that change while the run goes, for JSON: none."""
        return {}

    def make_ready(self, tensors: Mapping[str, Tensor]) -> None:
        """Give modules and optimisers the shapes that a file has, where they change while the run goes: they do not."""

    def lacks(self, module: str) -> None:
        """Keep the state of a module that the file of an older version does not have."""

    def take_extra(self, data: Any) -> None:
        """Take over the values of `extra`."""
        check_kind(data, self.extra(), "extra")

    # ---- going

    @classmethod
    def check_folder(cls, folder: Path) -> None:
        """Make sure that such a run can be begun in a folder.

        Raises:
            BnasError: it holds one.
        """
        check_free(folder, (*cls.results, RESUME), cls.what, cls.error)

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
        self.check_folder(self.folder)
        self.save_place()  # first: if the rest fails, the run can be resumed all the same
        self.write_start()

    def go_on(self, stop: Callable[[], bool]) -> bool:
        """Go on until the last epoch, or until `stop` answers True; return whether it was the last epoch.

        Raises:
            BnasError: another process is at work in the folder.
        """
        if not self.processes.writes:
            return self._go_on(stop)
        with locked_folder(self.folder) as alone:
            if not alone:
                raise self.error(AT_WORK.format(folder=self.folder, what=self.what))
            return self._go_on(stop)

    def _go_on(self, stop: Callable[[], bool]) -> bool:
        self.listener.started(epochs=self.epochs, steps=self.steps, done=self.done)
        try:
            with self.processes.watched(self.error), enough_memory(self.where, self.folder, self.error, self.device):
                while self.place.epoch < self.epochs:
                    self.train_epoch(stop)
                    self.finish_epoch(stop)
        except Stopped:
            self.save_place()
            return False
        return True

    def where(self) -> str:
        """Return where the run is."""
        return f"epoch {self.place.epoch + 1}, step {self.place.step + 1}"

    @property
    def done(self) -> int:
        """Return how many steps of all are done."""
        return self.place.epoch * self.steps + self.place.step

    def train_epoch(self, stop: Callable[[], bool]) -> None:
        """Take the steps that are left of the current epoch.

        Raises:
            Stopped: `stop` answered True.
        """
        trained, loss = self.extent.trained, self.extent.sums[0]
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
        self.set_place(self.extent.start_of(self.place.epoch + 1))
        if self.processes.writes:
            self.write_results()
        self.save_place()  # last: a run that is killed before does this epoch again
        self.processes.wait()  # the next stage reads what is written here
        self.listener.finished(record)

    # ---- sums

    def set_place(self, place: Place) -> None:
        """Go to a place; the sums of the epoch are kept on the device, where adding does not wait.

        Each process adds up what it sees itself; what was seen before is with the one that writes.
        """
        self.place = place
        before = place if self.processes.writes else self.extent.start_of(place.epoch)
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

    def check_loss(
        self, name: str, loss: Tensor, network: nn.Module, images: Tensor, again: Callable[[], object]
    ) -> None:
        """Make sure that the loss of a step is finite, before it goes back into the weights.

        On a CPU that is looked at in every step, so that the layer is found that it began in. A GPU would wait.

        Args:
            name: of the loss.
            loss: of this process.
            network: that it is of.
            images: of the step.
            again: runs the network as the step did.

        Raises:
            BnasError: it is not finite, in this process or another.
        """
        if self.device.type != "cpu" and (self.place.step + 1) % _REPORT_STEPS:
            return
        value = float(self.processes.add_up(loss.detach().double()))
        if not math.isfinite(value):
            raise self.not_finite(name, value, self.place.step + 1, find_cause(network, images, again))

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
        trained = self.extent.trained
        self.place.skipped = self.extent.due(self.place.step)[trained] - self.place.images[trained]
        self.place.duration_s = time.monotonic() - self.clock
        for name, value in self.place.sums.items():
            if not math.isfinite(value):
                raise self.not_finite(name, value, self.place.step)

    # ---- saving

    def save_place(self) -> None:
        """Write everything that `restore` needs."""
        self.read_sums()
        self.saved_at = time.monotonic()
        if not self.processes.writes:
            return
        tensors = self.state.tensors()
        description = {
            "format": FORMAT_VERSION,
            "bnas_deploy": bnas_deploy.__version__,
            "settings": self.settings(),
            "place": asdict(self.place),
            "tensors": list(tensors),
            "history": self.history_to_json(),
            **self.state.settings(),
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
        self.make_ready(tensors)
        self.state.check(tensors, description)
        place = self.extent.place_from_json(description["place"], self.what)
        for schedule in description["schedules"].values():
            if schedule["last_epoch"] != place.epoch * self.steps + place.step:
                raise ValueError(f"the schedule is at another step than the {self.what}")
        history = self.history_from_json(description["history"])
        if len(history) != place.epoch:
            raise ValueError(f"the history is not of {place.epoch} epochs")
        self.state.load(tensors, description, self.lacks)
        self.take_extra(description["extra"])
        self.history = history
        self.set_place(place)
        if self.processes.writes:  # the others have random numbers of their own, see `Processes`
            self.state.take_random_numbers(tensors)
