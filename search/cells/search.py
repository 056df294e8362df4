"""The search: weights and alphas are trained in turns, then a genotype is read off.

A search lives in one folder:

    genotype.json        of the epoch with the highest validation accuracy
    history.json         see `bnas_deploy.core.history`
    resume.safetensors   all that is needed to go on: supernet, alphas, optimisers, place in the epoch, history

Each file is replaced as a whole, resume.safetensors last, so that whatever ends a search, every file can be read. A
search that is asked to stop keeps its place in the middle of an epoch; one that is killed goes on from the last
finished epoch, or from the last `SAVE_EVERY_S` seconds. On a CPU, a search that was interrupted and resumed ends
with the same bits as one that was not (with the same number of threads).

The steps are first-order, as in BNAS: each batch of the held-out half moves the alphas, with the weights as they are,
then each batch of the other half moves the weights. Where the official code draws its held-out batches anew each
time, here every held-out image comes once per epoch.
"""

import json
import math
import os.path
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import bnas_deploy
from bnas_deploy.core.errors import BnasError, CheckpointError, DataError
from bnas_deploy.core.files import write_whole
from bnas_deploy.core.genotype import LEARNABLE, Genotype
from bnas_deploy.core.history import Epoch, History, Tables
from bnas_deploy.search.cells.config import SearchConfig
from bnas_deploy.search.cells.derive import derive
from bnas_deploy.search.cells.objective import Diversity, Objective, Probabilities, mean_entropy
from bnas_deploy.search.cells.space import EDGES, ZEROISE, SearchSpace
from bnas_deploy.search.cells.strategies import build_strategy
from bnas_deploy.search.cells.supernet import Mixture, Supernet
from bnas_deploy.search.data import InMemoryDataSet
from bnas_deploy.search.data.dataset import generator
from bnas_deploy.search.training.acceleration import check_arithmetic, check_compiler, compiled, tf32
from bnas_deploy.search.training.checkpoint import check_format, find_misfits, read_tensors, write_tensors
from bnas_deploy.search.training.memory import check_memory, training_need
from bnas_deploy.search.training.resume import (
    Stopped,
    check_kind,
    differences,
    never,
    optimizer_state,
    optimizer_tensors,
)
from bnas_deploy.search.training.train import evaluate

GENOTYPE = "genotype.json"
HISTORY = "history.json"
RESUME = "resume.safetensors"

SAVE_EVERY_S = 600.0

_RUN_FORMAT = 1
_RUN_KEY = "bnas_deploy_search"
_REPORT_STEPS = 10  # reading the loss makes a GPU wait, so not after every step


class SearchError(BnasError):
    """A search cannot begin, go on or be resumed."""


class Listener(Protocol):
    """Is told how a search goes."""

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        """A search of `epochs` epochs of `steps` steps begins, or goes on after `done` steps of all."""

    def stepped(self, *, done: int, loss: float) -> None:
        """`done` steps of all are done; `loss` is the mean over the current epoch so far."""

    def searched(self, epoch: Epoch) -> None:
        """An epoch is finished and saved."""


@dataclass(frozen=True)
class SearchResult:
    """What a search left behind. `finished` is False where it was asked to stop before its last epoch."""

    folder: Path
    finished: bool
    history: History

    @property
    def genotype(self) -> Genotype | None:
        """Return what genotype.json holds; None before the first epoch is finished."""
        return self.history.best.genotype if self.history.best else None


def search(
    data: InMemoryDataSet,
    config: SearchConfig,
    folder: Path,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    objectives: Mapping[str, Objective] | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = never,
    listener: Listener | None = None,
) -> SearchResult:
    """Search for a genotype from the start, or go on with the search in `folder`.

    Args:
        data: images and labels; its test images are not looked at.
        config: the space, the supernet and how to search.
        folder: where the search lives; made if it is not there.
        seed: of the split, the initial weights and alphas, and the order and the augmentation of the images.
        device: the CPU unless given.
        objectives: terms of the objective by name, beside cross-entropy and the diversity of `config`.
        resume: go on with the search in `folder` instead of beginning one.
        stop: asked after every step; once it answers True, the search saves its place and returns.
        listener: is told how it goes.

    Raises:
        SearchError: `folder` holds a search already, or none to resume, or one with other settings; or a loss is not
            finite.
        BnasError: a step would take more memory than there is, or a file of the search cannot be written.
        CheckpointError: the file to resume from cannot be read or is damaged.
        DataError: the data set is too small, or the recipe does not suit it.
    """
    device = device or torch.device("cpu")
    _check_fit(data, config)
    check_arithmetic(config.arithmetic, device)
    if config.compiled:
        check_compiler(device)
    _check_memory(config, device)
    terms = {"diversity": _diversity(config)} if config.diversity else {}
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, tf32(config.arithmetic == "tf32"):
        torch.manual_seed(seed)
        run = _Run(data, config, folder, seed, device, {**terms, **(objectives or {})}, listener)
        if resume:
            run.restore()
        else:
            run.begin()
        finished = run.go_on(stop)
    return SearchResult(folder, finished, run.history)


@dataclass
class _Place:
    """Where a search is: finished epochs, steps and sums of the current one."""

    epoch: int = 0
    step: int = 0
    train_images: int = 0
    held_out_images: int = 0
    train_loss: float = 0.0
    architecture_loss: float = 0.0
    correct: int = 0
    terms: dict[str, float] = field(default_factory=dict)
    duration_s: float = 0.0


class _Run:
    """A search in memory: everything that changes while it goes, and how that is saved and restored."""

    def __init__(
        self,
        data: InMemoryDataSet,
        config: SearchConfig,
        folder: Path,
        seed: int,
        device: torch.device,
        terms: Mapping[str, Objective],
        listener: Listener | None,
    ) -> None:
        self.data = data
        self.config = config
        self.recipe = config.recipe
        self.folder = folder
        self.seed = seed
        self.device = device
        self.terms = terms
        self.listener = listener
        self.train_half, self.held_out_half = data.halves(seed)
        self.steps = math.ceil(self.train_half.train_size / self.recipe.batch_size)  # of one epoch
        # The layout that a GPU's tensor cores work in. On a CPU it would be lost when a search is resumed, which has to
        # be exact there.
        self.layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.network = Supernet(config.network).to(device=device, memory_format=self.layout)  # type: ignore[call-overload]  # torch's annotation lacks this pair
        self.compiled = compiled(self.network, device) if config.compiled else self.network
        self.strategy = build_strategy(config)
        self.weights = self.network.weight_parameters()
        self.alphas = self.network.alpha_parameters()
        self.weight_optimizer = torch.optim.SGD(
            self.weights,
            lr=self.recipe.first_learning_rate,
            momentum=self.recipe.momentum,
            weight_decay=self.recipe.weight_decay,
        )
        self.alpha_optimizer = torch.optim.Adam(
            self.alphas,
            lr=self.recipe.alpha_learning_rate,
            betas=self.recipe.alpha_betas,
            weight_decay=self.recipe.alpha_weight_decay,
        )
        self.epochs: list[Epoch] = []
        self.start_genotype = self.derived()
        self.set_place(_Place())

    # ---- the search

    def begin(self) -> None:
        """Make the folder ready, and save the start, so that from now on there is something to resume.

        Raises:
            SearchError: the folder cannot be made or holds a search.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SearchError(
                f"{self.folder}: cannot be made: {error.strerror}; choose another output folder"
            ) from None
        there = [name for name in (GENOTYPE, HISTORY, RESUME) if os.path.lexists(self.folder / name)]
        if there:
            raise SearchError(
                f"{self.folder}: already holds a search ({', '.join(there)}), which was left alone; "
                "add --resume to go on with it, or choose another output folder"
            )
        self.save_place()

    def go_on(self, stop: Callable[[], bool]) -> bool:
        """Search until the last epoch, or until `stop` answers True; return whether it was the last epoch."""
        if self.listener:
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
        for group in self.weight_optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(self.place.epoch)
        batches, held_out = (
            half.train_batches(
                self.recipe.batch_size,
                self.recipe.augmentation,
                seed=self.seed,
                epoch=self.place.epoch,
                first=self.place.step,
                device=self.device,
            )
            for half in (self.train_half, self.held_out_half)
        )
        # Not strict: the held-out half may have an image more, and with it a batch.
        for (images, labels), (held_out_images, held_out_labels) in zip(batches, held_out, strict=False):
            self.network.renew_weights()
            self.alpha_step(held_out_images, held_out_labels)
            self.weight_step(images, labels)
            self.place.step += 1
            if self.place.step % _REPORT_STEPS == 0 or self.place.step == self.steps:
                self.read_sums()
                if self.listener:
                    self.listener.stepped(done=self.done, loss=self.place.train_loss / self.place.train_images)
            if stop():
                raise Stopped
            if time.monotonic() - self.saved_at > SAVE_EVERY_S:
                self.save_place()

    def alpha_step(self, images: Tensor, labels: Tensor) -> None:
        """Move the alphas, with the weights as they are."""
        for weight in self.weights:
            weight.requires_grad_(False)  # no gradient of the weights is computed only to be thrown away
        loss = nn.functional.cross_entropy(self.logits(images, self.mixture(turn=0)), labels)
        cross_entropy = loss.detach()
        probabilities = self.probabilities()
        for name, term in self.terms.items():
            value = term(probabilities, self.place.epoch, cross_entropy)
            self.term_sums[name] += value.detach() * len(labels)
            loss = loss + value
        self.alpha_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        self.alpha_optimizer.step()
        for weight in self.weights:
            weight.requires_grad_(True)
        self.architecture_loss_sum += loss.detach() * len(labels)
        self.place.held_out_images += len(labels)

    def weight_step(self, images: Tensor, labels: Tensor) -> None:
        """Move the weights, with the alphas as they are."""
        with torch.no_grad():
            mixture = self.mixture(turn=1)
        logits = self.logits(images, mixture)
        loss = nn.functional.cross_entropy(logits, labels)
        self.weight_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # as above
        self.weight_optimizer.step()
        self.train_loss_sum += loss.detach() * len(labels)
        self.correct_sum += (logits.detach().argmax(dim=1) == labels).sum()
        self.place.train_images += len(labels)

    def logits(self, images: Tensor, mixture: Mixture) -> Tensor:
        """Return the logits of a step, float32 (N, classes)."""
        # Code is made for one shape, so the last batch of an epoch, if it is smaller, runs without.
        network = self.compiled if len(images) == self.recipe.batch_size else self.network
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.arithmetic == "bfloat16"):
            logits: Tensor = network(images.contiguous(memory_format=self.layout), mixture)
        return logits.float()

    def mixture(self, turn: int | None) -> Mixture:
        """Return the mixing weights; the noise depends on seed, epoch, step and turn only. Without a turn, no noise."""
        random = None if turn is None else generator(self.seed, self.place.epoch, self.place.step, turn)
        progress = self.done / (self.recipe.epochs * self.steps)
        normal, reduction = (
            self.strategy.mix(self.network.alphas[name], progress, random) for name in ("normal", "reduction")
        )
        return Mixture(normal, reduction, single=self.strategy.single)

    def probabilities(self) -> Probabilities:
        """Return the softmax of the alphas."""
        alphas = self.network.alphas
        return Probabilities(alphas["normal"].softmax(dim=1), alphas["reduction"].softmax(dim=1))

    def derived(self) -> Genotype:
        """Return the genotype of the alphas as they are."""
        with torch.no_grad():
            probabilities = self.probabilities()
        return derive(_tables(probabilities.normal, probabilities.reduction), self.config)

    def finish_epoch(self, stop: Callable[[], bool]) -> None:
        """Evaluate, derive, and save everything.

        Raises:
            Stopped: `stop` answered True.
        """
        self.read_sums()
        with torch.no_grad():
            mixture = self.mixture(turn=None)
            probabilities = self.probabilities()
            entropy = mean_entropy(probabilities).item()
        with tf32(False):
            result = evaluate(
                _Fixed(self.network, mixture),
                self.train_half,  # it is tested on the other half
                batch_size=self.recipe.batch_size,
                device=self.device,
                stop=stop,
            )
        if not math.isfinite(result.loss):
            raise self._not_finite("validation loss", result.loss)
        tables = _tables(probabilities.normal, probabilities.reduction)
        share, probability = _learnable(tables, self.config.network.space.learnable)
        genotype = derive(tables, self.config)
        place = self.place
        epoch = Epoch(
            epoch=place.epoch + 1,
            learning_rate=self.recipe.learning_rate(place.epoch),
            train_loss=place.train_loss / place.train_images,
            train_accuracy=place.correct / place.train_images,
            architecture_loss=place.architecture_loss / place.held_out_images,
            terms={name: value / place.held_out_images for name, value in place.terms.items()},
            validation_loss=result.loss,
            validation_accuracy=result.accuracy,
            alphas=_tables(self.network.alphas["normal"], self.network.alphas["reduction"]),
            probabilities=tables,
            entropy=entropy,
            learnable_share=share,
            learnable_probability=probability,
            genotype=self.start_genotype if self.config.departs("genotype-from-epoch-start") else genotype,
            duration_s=place.duration_s,
        )
        self.epochs.append(epoch)
        self.start_genotype = genotype
        self.set_place(_Place(epoch=epoch.epoch))
        self.write_results()
        self.save_place()  # last: a search that is killed before does this epoch again
        if self.listener:
            self.listener.searched(epoch)

    # ---- sums

    def set_place(self, place: _Place) -> None:
        """Go to a place; the sums of the epoch are kept on the device, where adding does not wait."""
        self.place = place
        self.train_loss_sum = self._sum(place.train_loss)
        self.architecture_loss_sum = self._sum(place.architecture_loss)
        self.term_sums = {name: self._sum(place.terms.get(name, 0.0)) for name in self.terms}
        self.correct_sum = torch.tensor(place.correct, dtype=torch.int64, device=self.device)
        self.clock = time.monotonic() - place.duration_s
        self.saved_at = time.monotonic()

    def _sum(self, start: float) -> Tensor:
        return torch.tensor(start, dtype=torch.float64, device=self.device)

    def read_sums(self) -> None:
        """Bring the sums and the time into `place`.

        Raises:
            SearchError: a loss is not finite.
        """
        place = self.place
        place.train_loss = self.train_loss_sum.item()
        place.architecture_loss = self.architecture_loss_sum.item()
        place.terms = {name: value.item() for name, value in self.term_sums.items()}
        place.correct = int(self.correct_sum.item())
        place.duration_s = time.monotonic() - self.clock
        for what, value in (
            ("training loss", place.train_loss),
            *((f"term {name}", value) for name, value in place.terms.items()),
            ("loss of the alphas", place.architecture_loss),
        ):
            if not math.isfinite(value):
                raise self._not_finite(what, value)

    def _not_finite(self, what: str, value: float) -> SearchError:
        return SearchError(
            f"the {what} is {value} in epoch {self.place.epoch + 1}, step {self.place.step}; {self.folder} still holds "
            f"the {len(self.epochs)} epochs before. Try another --seed, a larger --batch-size, or a lower learning rate"
        )

    # ---- files

    @property
    def history(self) -> History:
        """Return what history.json holds."""
        return History(
            operations=self.config.network.space.operations,
            edges=EDGES,
            settings=self.settings(),
            epochs=tuple(self.epochs),
        )

    def write_results(self) -> None:
        """Write genotype.json and history.json."""
        history = self.history
        assert history.best is not None  # an epoch is finished
        write_whole(self.folder / GENOTYPE, _json(history.best.genotype.to_json()))
        write_whole(self.folder / HISTORY, _json(history.to_json()))

    def save_place(self) -> None:
        """Write everything that `restore` needs."""
        self.read_sums()
        states = self._optimizer_states()
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, state in states.items():
            tensors |= optimizer_tensors(state["state"], name)
        description = {
            "format": _RUN_FORMAT,
            "bnas_deploy": bnas_deploy.__version__,
            "settings": self.settings(),
            "place": asdict(self.place),
            "tensors": list(tensors),
            "history": self.history.to_json(),
            "start_genotype": self.start_genotype.to_json(),
            "optimizers": {name: state["param_groups"] for name, state in states.items()},
        }
        write_tensors(self.folder / RESUME, tensors, _RUN_KEY, description)
        self.saved_at = time.monotonic()

    def _optimizer_states(self) -> dict[str, dict[str, Any]]:
        return {"weights": self.weight_optimizer.state_dict(), "alphas": self.alpha_optimizer.state_dict()}

    def restore(self) -> None:
        """Go to where the search in the folder was saved.

        Raises:
            SearchError: there is no search in the folder, or one with other settings.
            CheckpointError: its file is damaged or newer.
        """
        path = self.folder / RESUME
        if not os.path.lexists(path):
            raise SearchError(
                f"{self.folder}: no {RESUME} in it, so there is no search to resume; leave out --resume to begin one"
            )
        tensors, description = read_tensors(path, _RUN_KEY)
        check_format(path, description, _RUN_FORMAT)
        try:
            self._check_settings(path, description["settings"])
            self._load(path, tensors, description)
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(
                f"{path}: damaged ({type(error).__name__}: {error}); copy it again, or begin a search in another "
                "output folder"
            ) from None
        if self.epochs:
            self.write_results()  # a kill may have hit between the two of them

    def _check_settings(self, path: Path, settings: object) -> None:
        if not isinstance(settings, dict):
            raise TypeError("settings are not an object")
        changed = differences(settings, self.settings())
        if changed:
            raise SearchError(
                f"{path}: the search was begun with other settings: {'; '.join(changed)}; "
                "resume it with the same ones, or choose another output folder"
            )

    def _load(self, path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        """Take over what `save_place` wrote; whatever it cannot have written raises a built-in exception."""
        misfits = find_misfits(tensors, self._expected_tensors(description["tensors"]))
        if misfits:
            raise ValueError(f"tensors: {'; '.join(misfits)}")
        groups = description["optimizers"]
        for name, state in self._optimizer_states().items():
            check_kind(groups[name], state["param_groups"], f"optimizers.{name}")
        place = self._place(description["place"])
        try:
            history = History.from_json(description["history"], str(path))
            start_genotype = Genotype.from_json(description["start_genotype"], str(path))
        except BnasError as error:
            raise ValueError(error.message) from None
        if len(history.epochs) != place.epoch:
            raise ValueError(f"the history is not of {place.epoch} epochs")
        states: dict[str, dict[str, Tensor]] = {"network": {}, "weights": {}, "alphas": {}}
        for key, tensor in tensors.items():
            part, name = key.split(".", 1)
            states[part][name] = tensor
        self.network.load_state_dict(states["network"])
        self.weight_optimizer.load_state_dict(optimizer_state(states["weights"], groups["weights"]))
        self.alpha_optimizer.load_state_dict(optimizer_state(states["alphas"], groups["alphas"]))
        self.epochs = list(history.epochs)
        self.start_genotype = start_genotype
        self.set_place(place)

    def _expected_tensors(self, names: list[str]) -> dict[str, Tensor]:
        """Return a tensor of the right shape and type for each that the file must have.

        The optimisers have states only after the first step, so the file lists its tensors.
        """
        possible: dict[str, Tensor] = {f"weights.{i}.momentum_buffer": weight for i, weight in enumerate(self.weights)}
        for i, alphas in enumerate(self.alphas):
            possible |= {f"alphas.{i}.exp_avg": alphas, f"alphas.{i}.exp_avg_sq": alphas}
            possible[f"alphas.{i}.step"] = torch.zeros(())
        expected: dict[str, Tensor] = {f"network.{name}": x for name, x in self.network.state_dict().items()}
        return expected | {name: possible[name] for name in names if name not in expected}

    def _place(self, data: Any) -> _Place:
        check_kind(data, asdict(_Place(terms=dict.fromkeys(self.terms, 0.0))), "place")
        place = _Place(**data)
        counts = (place.epoch, place.step, place.train_images, place.held_out_images, place.correct)
        if not all(type(count) is int for count in counts):
            raise TypeError(f"place counts in fractions: {place}")
        numbers = (place.train_loss, place.architecture_loss, place.duration_s, *place.terms.values())
        images = [
            min(place.step * self.recipe.batch_size, half.train_size) for half in (self.train_half, self.held_out_half)
        ]
        if not (
            0 <= place.epoch <= self.recipe.epochs
            and 0 <= place.step <= self.steps
            and (place.step == 0 or place.epoch < self.recipe.epochs)
            and [place.train_images, place.held_out_images] == images
            and 0 <= place.correct <= place.train_images
            and all(map(math.isfinite, numbers))
        ):
            raise ValueError(f"no place of this search: {place}")
        return place

    def settings(self) -> dict[str, Any]:
        """Return what must be the same for a search to go on, as JSON gives it back. Where the data lies may change."""
        data = {name: value for name, value in asdict(self.data.description).items() if name != "name"}
        settings = {
            "search": self.config.to_json(),
            "terms": {name: dict(term.settings()) for name, term in self.terms.items()},
            "data": data | {"train_size": self.data.train_size},
            "seed": self.seed,
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain


class _Fixed(nn.Module):
    """A supernet with its mixing weights, which maps images to logits."""

    def __init__(self, network: Supernet, mixture: Mixture) -> None:
        super().__init__()
        self.network = network
        self.mixture = mixture

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x, self.mixture)
        return y


def _check_memory(config: SearchConfig, device: torch.device) -> None:
    """Refuse a search that would not fit. Where one operation of an edge runs at a time, so it is counted."""
    network = config.network
    ran = network
    if build_strategy(config).single:
        operations = [name for name in network.space.operations if name != ZEROISE]
        one = next((name for name in operations if name in LEARNABLE), operations[0])
        ran = replace(network, space=SearchSpace((one, ZEROISE)))

    def forward(supernet: nn.Module, images: Tensor) -> Tensor:
        # Of a step that would move both, which takes no less than either.
        normal, reduction = (torch.zeros(len(EDGES), len(ran.space.operations)) for _ in range(2))
        logits: Tensor = supernet(images, Mixture(normal.requires_grad_(), reduction.requires_grad_()))
        return logits

    need = training_need(lambda: Supernet(ran), forward, (network.in_channels, *network.image_size))
    size = "x".join(map(str, network.image_size))
    check_memory(f"a search with {network.cells} cells on images of {size}", need, config.recipe.batch_size, device)


def _diversity(config: SearchConfig) -> Diversity:
    return Diversity(config.diversity, config.diversity_epochs, stale_index=config.departs("stale-entropy-index"))


def _learnable(tables: Tables, learnable: tuple[bool, ...]) -> tuple[float, float]:
    """Return the share of edges whose most probable operation has weights, and the mean probability of those."""
    rows = tables.normal + tables.reduction
    share = sum(learnable[row.index(max(row))] for row in rows) / len(rows)
    mass = sum(p for row in rows for p, has_weights in zip(row, learnable, strict=True) if has_weights) / len(rows)
    return share, mass


def _tables(normal: Tensor, reduction: Tensor) -> Tables:
    return Tables(*(tuple(map(tuple, table.detach().cpu().tolist())) for table in (normal, reduction)))


def _json(data: object) -> bytes:
    return (json.dumps(data) + "\n").encode()


def _check_fit(data: InMemoryDataSet, config: SearchConfig) -> None:
    """Make sure that the supernet is for these images, and that each half of them fills a batch."""
    description = data.description
    network = config.network
    for what, got, wanted in (
        ("classes", network.classes, description.classes),
        ("channels in", network.in_channels, description.in_channels),
        ("image size", network.image_size, description.image_size),
    ):
        if got != wanted:
            raise SearchError(f"the supernet has {what} {got}, but {description.name} has {wanted}")
    data.check(config.recipe.augmentation)
    half = data.train_size // 2
    if half < config.recipe.batch_size:
        raise DataError(
            f"{description.name}: {data.train_size} training images, so that each half of a search has {half}, fewer "
            f"than one batch of {config.recipe.batch_size}; use a larger data set or a smaller --batch-size"
        )
