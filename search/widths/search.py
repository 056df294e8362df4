"""The search for widths: weights and mu are trained in turns, and the candidates follow mu (DMS, Algorithm 1).

A search lives in one folder (see `bnas_deploy.search.training.run` for how it is saved and resumed):

    widths.json          the channels of every layer, as `--widths` takes them
    uniform.json         those of the network of one ratio that costs as much, to compare with
    width-history.jsonl  see `bnas_deploy.core.width_history`
    README.md            the model card
    resume.safetensors   all that is needed to go on

An epoch of the run is a pass over one half of the training images. In each round some passes train the weights on one
half, with a learning rate that falls along half a cosine and SGD that starts anew. Then one pass over the other half
trains mu with Adam, which goes on through all rounds. After that the candidates lie around the new mu, sigma is
smaller, and the network is as wide as the new candidates. Its weights begin with the leading part of the old ones.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnas_deploy.core.counts import counted
from bnas_deploy.core.width_history import (
    WEIGHTS,
    WIDTHS,
    WIDTHS_FILE,
    Heading,
    WidthEpoch,
    WidthHistory,
    epochs_from_json,
)
from bnas_deploy.search.data.dataset import InMemoryDataSet, generator
from bnas_deploy.search.models.registry import FAMILIES
from bnas_deploy.search.models.width_layout import Layout, layout_of
from bnas_deploy.search.nn.scheme_layer import regularisers, set_progress
from bnas_deploy.search.training.acceleration import memory_format_of
from bnas_deploy.search.training.listener import Listener
from bnas_deploy.search.training.memory import check_memory, training_need
from bnas_deploy.search.training.place import Extent
from bnas_deploy.search.training.resume import never
from bnas_deploy.search.training.run import Run
from bnas_deploy.search.training.saved_state import SavedState
from bnas_deploy.search.widths.card import Searched
from bnas_deploy.search.widths.checks import WidthSearchError, check_images, check_reach, runaway
from bnas_deploy.search.widths.config import WidthSearchConfig
from bnas_deploy.search.widths.cost import Cost, Memory, uniform_widths
from bnas_deploy.search.widths.distribution import CANDIDATES, WidthDistribution, gumbel_softmax
from bnas_deploy.search.widths.result import RESULTS, WHAT, WidthSearchResult, check_folder, write_folder
from bnas_deploy.search.widths.supernet import WidthSupernet, best_effort

LOSS = "loss"
PENALTY = "penalty"
"""Names of the sums of a search, as an error calls them."""


def search_widths(
    data: InMemoryDataSet,
    config: WidthSearchConfig,
    folder: Path,
    *,
    cost: Callable[[Layout], Cost] = Memory,
    seed: int = 0,
    device: torch.device | None = None,
    resume: bool = False,
    stop: Callable[[], bool] = never,
    listener: Listener | None = None,
    command: str | None = None,
    evaluation: Sequence[str] = (),
) -> WidthSearchResult:
    """Search for the widths of a network from the start, or go on with the search in `folder`.

    Args:
        data: images and labels; its test images are not looked at.
        config: the base network, the goal and how to search.
        folder: where the search lives; made if it is not there.
        cost: makes what the goal is of, from the layers of the network.
        seed: of the split, the initial weights, the samples, and the order and the augmentation of the images.
        device: the CPU unless given.
        resume: go on with the search in `folder` instead of beginning one.
        stop: asked after every step; once it answers True, the search saves its place and returns.
        listener: is told how it goes.
        command: the command line that searches so, for the model card.
        evaluation: options of `train` for what is found, for that card.

    Raises:
        WidthSearchError: the goal cannot be met, or the network not be built; a loss or mu is not finite; or `folder`
            holds a search already, none to resume, or one with other settings.
        BnasError: the network has no widths to search, a step would take more memory than there is, or a file cannot
            be written.
        CheckpointError: the file to resume from cannot be read or is damaged.
        DataError: the data set is too small, or the augmentation does not suit it.
    """
    device = device or torch.device("cpu")
    if not resume:
        check_folder(folder)
    check_images(data, config)
    layout = layout_of(config.network)
    named = cost(layout)
    check_reach(config, named, layout)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        run = _WidthRun(
            data,
            config,
            layout,
            named,
            folder,
            seed=seed,
            device=device,
            listener=listener,
            command=command,
            evaluation=evaluation,
        )
        if resume:
            run.restore()
        else:
            run.begin()
        finished = run.go_on(stop)
    history = run.results_so_far()
    return WidthSearchResult(folder, finished, history, named.of(history.heading.uniform) if history.epochs else None)


class _WidthRun(Run[WidthEpoch]):
    """The network of the candidates of a round, the distribution of the widths, and their optimisers."""

    what = WHAT
    metadata = "bnas_deploy_search_widths"
    results = RESULTS
    error = WidthSearchError

    def __init__(
        self,
        data: InMemoryDataSet,
        config: WidthSearchConfig,
        layout: Layout,
        cost: Cost,
        folder: Path,
        *,
        seed: int,
        device: torch.device,
        listener: Listener | None,
        command: str | None,
        evaluation: Sequence[str],
    ) -> None:
        self.data = data
        self.config = config
        self.layout = layout
        self.cost = cost
        self.seed = seed
        self.command = command
        self.evaluation = tuple(evaluation)
        self.halves = _equal_halves(data, seed)
        self.distribution = WidthDistribution(len(layout.multiples), config.first_ratio, config.sigma(0)).to(device)
        self.base = torch.tensor(config.network.widths, dtype=torch.float64, device=device)
        self.width_optimizer = torch.optim.Adam([self.distribution.mu], lr=config.width_learning_rate)
        # Both are filled again with every round.
        self.named_modules: dict[str, nn.Module] = {"distribution": self.distribution}
        self.named_optimizers: dict[str, torch.optim.Optimizer] = {"mu": self.width_optimizer}
        self.device = device
        self.build()
        super().__init__(
            folder,
            extent=Extent(
                config.passes, config.batch_size, sources={"half": self.halves[0].train_size}, sums=(LOSS, PENALTY)
            ),
            state=SavedState(self.named_modules, self.named_optimizers, schedules={}, device=device),
            listener=listener,
        )

    # ---- rounds

    def candidates(self) -> Tensor:
        """Return the channels of the candidates of this round, ascending: (widths, 3) integers."""
        ratios = self.distribution.ratios
        return torch.tensor(
            [self.layout.channels(ratios[:, i].tolist()) for i in range(CANDIDATES)], device=self.device
        ).T

    def build(self) -> None:
        """Make the network of the candidates, and the optimiser of its weights.

        Raises:
            BnasError: a step would take more memory than there is.
        """
        self.channels = self.candidates()
        base = self.config.network
        pi = torch.full(self.channels.shape, 1 / CANDIDATES)
        need = training_need(
            lambda: WidthSupernet(self.layout, self.channels),
            lambda network, images: network(images, pi),
            (base.in_channels, *base.image_size),
        )
        widest = ", ".join(map(str, self.channels[:, -1].tolist()))
        check_memory(f"a search for widths, now up to {widest},", need, self.config.batch_size, self.device)
        self.network = WidthSupernet(self.layout, self.channels)
        self.memory_format = memory_format_of(self.network, self.device)
        self.network.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's annotation lacks this pair
        self.weights = list(self.network.parameters())
        self.weight_optimizer = torch.optim.SGD(
            self.weights,
            lr=self.config.first_learning_rate,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
        )
        self.named_modules["network"] = self.network
        self.named_optimizers["weights"] = self.weight_optimizer

    def next_round(self, number: int) -> None:
        """Put the candidates around mu, and begin with the weights that there are."""
        before = self.network
        self.distribution.follow(self.config.sigma(number))
        self.build()
        if self.config.best_effort:
            best_effort(self.network, before)

    def make_ready(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the network of the round that a file is of."""
        for name in ("centre", "sigma_now"):
            kept, given = getattr(self.distribution, name), tensors[f"distribution.{name}"]
            if given.shape != kept.shape or not torch.isfinite(given).all():
                raise ValueError(f"distribution.{name} is of another kind")
            kept.copy_(given)
        widest = float((self.distribution.ratios * self.base[:, None]).max())
        if not 0 < self.distribution.sigma <= self.config.first_sigma or widest > 1e6:
            raise ValueError("distribution: no search reaches such widths")
        self.build()

    # ---- steps

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Return images and labels of the rest of the pass, of the half that it is over."""
        trains_widths = self.config.trains_widths(self.place.epoch)
        self.network.train()
        for weight in self.weights:
            weight.requires_grad_(not trains_widths)
        set_progress(self.network, self.place.epoch / self.config.passes)
        batches = self.halves[trains_widths].train_batches(
            self.config.batch_size,
            self.config.augmentation,
            seed=self.seed,
            epoch=self.place.epoch,
            first=self.place.step,
            device=self.device,
        )
        return islice(batches, self.steps - self.place.step)

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """Move the weights, or mu, by one step."""
        if self.config.trains_widths(self.place.epoch):
            self.width_step(images, labels)
        else:
            self.weight_step(images, labels)

    def weight_step(self, images: Tensor, labels: Tensor) -> None:
        """Move the weights, with mu as it is."""
        for group in self.weight_optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with torch.no_grad():
            pi = self.sample(self.distribution())
        logits = self.network(images.contiguous(memory_format=self.memory_format), pi)
        loss = nn.functional.cross_entropy(logits, labels)
        more = regularisers(self.network)
        self.weight_optimizer.zero_grad()
        self.check_loss(LOSS, loss, self.network, images, lambda: self.network(images, pi))
        (loss if more is None else loss + more).backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        self.weight_optimizer.step()
        self.add(LOSS, loss, len(labels))
        self.count("half", labels, logits)

    def width_step(self, images: Tensor, labels: Tensor) -> None:
        """Move mu, with the weights as they are: down the loss and Eq. 7's penalty of the expected cost."""
        p = self.distribution()
        pi = self.sample(p)
        logits = self.network(images.contiguous(memory_format=self.memory_format), pi)
        loss = nn.functional.cross_entropy(logits, labels)
        goal = self.config.goal
        penalty = goal.penalty * (self.expected_cost() - goal.target).clamp_min(0)
        self.width_optimizer.zero_grad()
        self.check_loss(LOSS, loss, self.network, images, lambda: self.network(images, pi))
        (loss + penalty).backward()  # type: ignore[no-untyped-call]  # as above
        self.width_optimizer.step()
        self.distribution.keep_in_space()
        if not torch.isfinite(self.distribution.mu).all():
            raise self.not_finite("mean mu of a width", math.nan, self.place.step + 1)
        if reason := runaway(self.layout, self.distribution.mu.tolist()):
            where = f"in pass {self.place.epoch + 1}"
            raise WidthSearchError(f"{reason} {where}; {self._kept()}. Use a lower --width-learning-rate")
        self.add(LOSS, loss, len(labels))
        self.add(PENALTY, penalty, len(labels))
        self.count("half", labels, logits)

    def expected_cost(self) -> Tensor:
        """Return the cost of the distribution as it is, differentiable in mu."""
        return self.cost.expected(*self.distribution.moving(self.base))

    def sample(self, p: Tensor) -> Tensor:
        """Return the shares of the candidates in this step; the noise depends on seed, pass and step only."""
        random = generator(self.seed, self.place.epoch, self.place.step)
        return gumbel_softmax(p, self.config.temperature, random)

    def learning_rate(self) -> float:
        """Return that of the weights in this step."""
        return self.config.learning_rate(self.place.epoch, self.place.step / self.steps)

    # ---- what a pass leaves

    def measure_epoch(self, stop: Callable[[], bool]) -> WidthEpoch:
        """Say what the pass did, and begin the next round where it was the last one of a round."""
        place, config = self.place, self.config
        trains_widths = config.trains_widths(place.epoch)
        images = place.images["half"]
        with torch.no_grad():
            # The sign of what is no number is one all the same, so the loss need not show it.
            largest = torch.stack([weight.abs().max() for weight in self.weights]).max().item()
            if not math.isfinite(largest):
                raise self.not_finite("largest weight", largest, self.place.step)
            expected = self.expected_cost().item()
        mu = tuple(self.distribution.mu.tolist())
        widths = self.layout.channels(mu)
        record = WidthEpoch(
            epoch=place.epoch + 1,
            round=config.round_of(place.epoch) + 1,
            trained=WIDTHS if trains_widths else WEIGHTS,
            learning_rate=config.width_learning_rate
            if trains_widths
            else config.learning_rate(place.epoch, (self.steps - 1) / self.steps),
            loss=place.sums[LOSS] / images,
            error=1 - place.correct / images,
            penalty=place.sums[PENALTY] / images if trains_widths else None,
            sigma=self.distribution.sigma,
            mu=mu,
            widths=widths,
            cost=self.cost.of(widths),
            expected_cost=expected,
            duration_s=place.duration_s,
        )
        if trains_widths and place.epoch + 1 < self.epochs:
            self.next_round(config.round_of(place.epoch + 1))
        return record

    def not_finite(self, name: str, value: float, step: int, cause: str = "") -> WidthSearchError:
        """Say where a number was lost."""
        return WidthSearchError(
            f"the {name} is {value} in pass {self.place.epoch + 1}, step {step}{cause and ': '}{cause}; "
            f"{self._kept()}. Try another --seed, a larger --batch-size, or a lower --learning-rate or "
            "--width-learning-rate"
        )

    def _kept(self) -> str:
        if not self.history:
            return "no pass was finished before, so nothing is kept"
        passes = counted(len(self.history), "pass", "passes")
        return f"{self.folder} still holds {passes} before it, and {WIDTHS_FILE} of them"

    # ---- files

    def results_so_far(self) -> WidthHistory:
        """Return what width-history.jsonl holds."""
        base, goal = self.config.network, self.config.goal
        names = FAMILIES[base.model].width_names
        assert names is not None  # its configuration has widths
        heading = Heading(
            network=base.network,
            form=base.form,
            names=names(base),
            base=base.widths,
            goal=goal.kind,
            unit=goal.unit,
            target=goal.target,
            uniform=uniform_widths(self.cost, self.layout, self.history[-1].cost) if self.history else (),
        )
        return WidthHistory(heading, json.loads(json.dumps(self.settings())), tuple(self.history))

    def write_results(self) -> None:
        """Write widths.json, uniform.json, width-history.jsonl and the model card."""
        history = self.results_so_far()
        uniform_cost = self.cost.of(history.heading.uniform)
        searched = Searched(history, self.config, uniform_cost, self.seed, self.command, self.evaluation)
        write_folder(self.folder, searched, self.data)

    def restore(self) -> None:
        """Go to where the search in the folder was saved."""
        super().restore()
        if self.history:
            self.write_results()  # a kill may have hit between them

    def history_to_json(self) -> Any:
        """Return the records as JSON has them."""
        return [asdict(epoch) for epoch in self.history]

    def history_from_json(self, data: Any) -> list[WidthEpoch]:
        """Return the records."""
        return list(epochs_from_json(data, len(self.config.network.widths)))

    def settings(self) -> dict[str, Any]:
        """Return configuration, cost, data and seed."""
        data = {name: value for name, value in asdict(self.data.description).items() if name != "name"}
        return {
            "search": self.config.to_json(),
            "cost": dict(self.cost.settings()),
            "data": data | {"train_size": self.data.train_size},
            "seed": self.seed,
        }


def _equal_halves(data: InMemoryDataSet, seed: int) -> tuple[InMemoryDataSet, InMemoryDataSet]:
    """Return the images for the weights and as many for mu; of an odd number one is left out."""
    left, right = data.halves(seed)
    return left, right.selected(right.description, torch.arange(left.train_size), torch.arange(0))
