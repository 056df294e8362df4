"""The run of a cell search: a supernet, its alphas and their optimisers, step by step and epoch by epoch.

The steps are first-order, as in BNAS. A batch of the held-out half moves the alphas, with fixed weights. Then a batch
of the other half moves the weights. Where the official code draws its held-out batches anew each time, here every
held-out image comes once per epoch.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import write_whole
from bnas_deploy.core.genotype import Genotype
from bnas_deploy.core.history import Epoch, History, Tables
from bnas_deploy.search.cells.checks import SearchError
from bnas_deploy.search.cells.config import SearchConfig
from bnas_deploy.search.cells.derive import derive
from bnas_deploy.search.cells.objective import Objective, Probabilities, learnable_share, mean_entropy
from bnas_deploy.search.cells.result import GENOTYPE
from bnas_deploy.search.cells.space import EDGES
from bnas_deploy.search.cells.strategies import build_strategy
from bnas_deploy.search.cells.supernet import Mixture, Supernet
from bnas_deploy.search.data.dataset import InMemoryDataSet, generator
from bnas_deploy.search.nn.synchronised_norm import synchronise
from bnas_deploy.search.training.acceleration import compiled, memory_format_of, tf32
from bnas_deploy.search.training.evaluate import evaluate
from bnas_deploy.search.training.listener import Listener
from bnas_deploy.search.training.place import Extent
from bnas_deploy.search.training.processes import Processes
from bnas_deploy.search.training.run import RESUME, Run
from bnas_deploy.search.training.saved_state import SavedState

HISTORY = "history.json"

TRAINING_LOSS = "training loss"
ARCHITECTURE_LOSS = "loss of the alphas"
"""Names of two sums of a search, as an error calls them."""


class SearchRun(Run[Epoch]):
    """A supernet, its alphas and their optimisers."""

    what = "search"
    metadata = "bnas_deploy_search"
    results = (GENOTYPE, HISTORY)
    error = SearchError

    def __init__(
        self,
        data: InMemoryDataSet,
        config: SearchConfig,
        folder: Path,
        *,
        seed: int,
        device: torch.device,
        terms: Mapping[str, Objective],
        listener: Listener | None,
        processes: Processes,
    ) -> None:
        self.data = data
        self.config = config
        self.recipe = config.recipe
        self.seed = seed
        self.terms = terms
        self.train_half, self.held_out_half = data.halves(seed)
        self.network = Supernet(config.network)
        self.memory_format = memory_format_of(self.network, device)
        self.network.to(device=device, memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's annotation lacks this pair
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
        self.start_genotype = self.derived()
        super().__init__(
            folder,
            extent=Extent(
                self.recipe.epochs,
                self.recipe.batch_size,
                sources={"train": self.train_half.train_size, "held_out": self.held_out_half.train_size},
                sums=(TRAINING_LOSS, *map(_term, terms), ARCHITECTURE_LOSS),
            ),
            state=SavedState(
                modules={"network": self.network},
                optimizers={"weights": self.weight_optimizer, "alphas": self.alpha_optimizer},
                schedules={},
                device=device,
            ),
            listener=listener,
            processes=processes,
        )
        if processes.count > 1:
            synchronise(self.network, device)

    def batches(self) -> Iterable[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return images and labels of the rest of the epoch, to train on and held out."""
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
                share=self.processes.share,
                device=self.device,
            )
            for half in (self.train_half, self.held_out_half)
        )
        # Not strict: the held-out half may have an image more, and with it a batch.
        return ((*left, *right) for left, right in zip(batches, held_out, strict=False))

    def train_step(self, images: Tensor, labels: Tensor, held_out_images: Tensor, held_out_labels: Tensor) -> None:
        """Move the alphas, then the weights."""
        self.network.renew_weights()
        self.alpha_step(held_out_images, held_out_labels)
        self.weight_step(images, labels)

    def alpha_step(self, images: Tensor, labels: Tensor) -> None:
        """Move the alphas, with the weights as they are."""
        for weight in self.weights:
            weight.requires_grad_(False)  # no gradient of the weights is computed only to be thrown away
        mixture = self.mixture(turn=0)
        own = nn.functional.cross_entropy(self.logits(images, mixture), labels)
        loss = own * self.processes.weight(len(labels))
        cross_entropy = self.processes.mean(loss.detach())
        probabilities = self.probabilities()
        for name, term in self.terms.items():
            value = term(probabilities, self.place.epoch, cross_entropy)
            self.add(_term(name), value, len(labels))
            own, loss = own + value, loss + value
        self.alpha_optimizer.zero_grad()
        self.check_loss(ARCHITECTURE_LOSS, own, self.network, images, lambda: self.network(images, mixture))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        self.processes.average_gradients(self.alphas)
        self.alpha_optimizer.step()
        for weight in self.weights:
            weight.requires_grad_(True)
        self.add(ARCHITECTURE_LOSS, own, len(labels))
        self.count("held_out", labels)

    def weight_step(self, images: Tensor, labels: Tensor) -> None:
        """Move the weights, with the alphas as they are."""
        with torch.no_grad():
            mixture = self.mixture(turn=1)
        logits = self.logits(images, mixture)
        own = nn.functional.cross_entropy(logits, labels)
        self.weight_optimizer.zero_grad()
        self.check_loss(TRAINING_LOSS, own, self.network, images, lambda: self.network(images, mixture))
        (own * self.processes.weight(len(labels))).backward()  # type: ignore[no-untyped-call]  # as above
        self.processes.average_gradients(self.weights)
        self.weight_optimizer.step()
        self.add(TRAINING_LOSS, own, len(labels))
        self.count("train", labels, logits)

    def logits(self, images: Tensor, mixture: Mixture) -> Tensor:
        """Return the logits of a step, float32 (N, classes)."""
        # Code is made for one shape, so the last batch of an epoch, if it is smaller, runs without.
        network = self.compiled if len(images) == self.recipe.batch_size else self.network
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.arithmetic == "bfloat16"):
            logits: Tensor = network(images.contiguous(memory_format=self.memory_format), mixture)
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

    def measure_epoch(self, stop: Callable[[], bool]) -> Epoch:
        """Evaluate on the held-out images, and derive."""
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
                processes=self.processes,
                stop=stop,
            )
        if not math.isfinite(result.loss):
            raise self.not_finite("validation loss", result.loss, self.place.step)
        tables = _tables(probabilities.normal, probabilities.reduction)
        share, probability = learnable_share(tables, self.config.network.space.learnable)
        genotype = derive(tables, self.config)
        place = self.place
        started, self.start_genotype = self.start_genotype, genotype
        return Epoch(
            epoch=place.epoch + 1,
            learning_rate=self.recipe.learning_rate(place.epoch),
            train_loss=place.sums[TRAINING_LOSS] / place.images["train"],
            train_accuracy=place.correct / place.images["train"],
            architecture_loss=place.sums[ARCHITECTURE_LOSS] / place.images["held_out"],
            terms={name: place.sums[_term(name)] / place.images["held_out"] for name in self.terms},
            validation_loss=result.loss,
            validation_accuracy=result.accuracy,
            alphas=_tables(self.network.alphas["normal"], self.network.alphas["reduction"]),
            probabilities=tables,
            entropy=entropy,
            learnable_share=share,
            learnable_probability=probability,
            genotype=started if self.config.deviates("genotype-from-epoch-start") else genotype,
            duration_s=place.duration_s,
        )

    def not_finite(self, name: str, value: float, step: int, cause: str = "") -> SearchError:
        """Say where a loss was lost."""
        return SearchError(
            f"the {name} is {value} in epoch {self.place.epoch + 1}, step {step}{cause and ': '}{cause}; "
            f"{self._kept()}. Try another --seed, a larger --batch-size, or a lower learning rate"
        )

    def _kept(self) -> str:
        if not self.history:
            return "no epoch was finished before, so nothing is kept"
        return f"{self.folder} still holds {counted(len(self.history), 'epoch')} before it"

    # ---- files

    def results_so_far(self) -> History:
        """Return what history.json holds."""
        return History(
            operations=self.config.network.space.operations,
            edges=EDGES,
            settings=json.loads(json.dumps(self.settings())),
            epochs=tuple(self.history),
        )

    def write_results(self) -> None:
        """Write genotype.json and history.json."""
        history = self.results_so_far()
        assert history.best is not None  # an epoch is finished
        write_whole(self.folder / GENOTYPE, _json(history.best.genotype.to_json()))
        write_whole(self.folder / HISTORY, _json(history.to_json()))

    def restore(self) -> None:
        """Go to where the search in the folder was saved."""
        super().restore()
        if self.history and self.processes.writes:
            self.write_results()  # a kill may have hit between the two of them

    def history_to_json(self) -> Any:
        """Return what history.json holds."""
        return self.results_so_far().to_json()

    def history_from_json(self, data: Any) -> list[Epoch]:
        """Return the epochs of history.json."""
        try:
            return list(History.from_json(data, RESUME).epochs)
        except BnasError as error:
            raise ValueError(error.message) from None

    def extra(self) -> dict[str, Any]:
        """Return the genotype at the start of the epoch."""
        return {"start_genotype": self.start_genotype.to_json()}

    def take_extra(self, data: Any) -> None:
        """Take the genotype at the start of the epoch."""
        try:
            self.start_genotype = Genotype.from_json(data["start_genotype"], RESUME)
        except BnasError as error:
            raise ValueError(error.message) from None

    def settings(self) -> dict[str, Any]:
        """Return configuration, terms of the objective, data and seed."""
        data = {name: value for name, value in asdict(self.data.description).items() if name != "name"}
        return {
            "search": self.config.to_json(),
            "terms": {name: dict(term.settings()) for name, term in self.terms.items()},
            "data": data | {"train_size": self.data.train_size},
            "seed": self.seed,
        }


class _Fixed(nn.Module):
    """A supernet with its mixing weights, which maps images to logits."""

    def __init__(self, network: Supernet, mixture: Mixture) -> None:
        super().__init__()
        self.network = network
        self.mixture = mixture

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x, self.mixture)
        return y


def _tables(normal: Tensor, reduction: Tensor) -> Tables:
    return Tables(*(tuple(map(tuple, table.detach().cpu().tolist())) for table in (normal, reduction)))


def _term(name: str) -> str:
    """Return how the sum of a term of the objective is called."""
    return f"term {name}"


def _json(data: object) -> bytes:
    return (json.dumps(data) + "\n").encode()
