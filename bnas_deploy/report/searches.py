"""What searches found, worked out to be compared: predicted latency, and on request accuracy after training and time.

The stages are joined here: networks are built by the search, exported, and timed by the runtime.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bnas_deploy.core.bundle import MODEL
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.core.genotype import read_genotype
from bnas_deploy.core.history import read_history
from bnas_deploy.core.latency_table import RUN, LatencyTable, Workload
from bnas_deploy.export import export_checkpoint
from bnas_deploy.export.images import verification_images
from bnas_deploy.export.workloads import network_workloads
from bnas_deploy.report.pareto import Candidate
from bnas_deploy.runtime.bench.machine import native_isa, read_machine
from bnas_deploy.runtime.bench.operations import time_models
from bnas_deploy.search.data import open_for
from bnas_deploy.search.data.kinds import kind_of
from bnas_deploy.search.models.bnas.candidate_workloads import refuse_other_operations
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.training.acceleration import find_device
from bnas_deploy.search.training.checks import TrainError
from bnas_deploy.search.training.recipes import RECIPES
from bnas_deploy.search.training.train import train
from bnas_deploy.search.training.untrained import untrained_checkpoint

SECONDS = 1.0
"""For how long each network is measured."""

Say = Callable[[str], object]
"""Is told what is being done."""


class SearchedNetworks:
    """The networks that searches found, of the size that a device's table is of.

    Args:
        runs: folders of `bnas-deploy search`.
        table: of the device.
        path: where the table was read, for messages.
        say: is told what is being done, since all of it takes a while.

    Raises:
        BnasError: a genotype cannot be read, or the table is not of a network.
    """

    def __init__(self, runs: Sequence[Path], table: LatencyTable, path: Path, say: Say) -> None:
        self.runs = runs
        self.table = table
        self.path = path
        self.say = say
        network = NetworkConfig.from_json(table.network, f"{path}: network")
        self.configs = [replace(network, genotype=read_genotype(str(run / "genotype.json"))) for run in runs]
        # Searches often find the same cells, and PyTorch captures a network in seconds.
        self._workloads: dict[NetworkConfig, Counter[Workload]] = {}

    @property
    def network(self) -> str:
        """Return the name of the network that the cells are built into."""
        return self.configs[0].name

    def candidates(self, *, data: str, epochs: int | None, seed: int, measure: bool) -> list[Candidate]:
        """Return validation accuracy and predicted latency of each, trained for `epochs` and measured if asked for.

        Raises:
            BnasError: a search has no finished epoch, there are no times of what it found, or as `trained` and
                `measured_ms` say.
        """
        found = [self._candidate(run, config) for run, config in zip(self.runs, self.configs, strict=True)]
        if epochs:
            accuracies = self.trained(data, epochs, seed)
            found = [replace(each, trained_accuracy=share) for each, share in zip(found, accuracies, strict=True)]
        if measure:
            found = [replace(each, measured_ms=ms) for each, ms in zip(found, self.measured_ms(), strict=True)]
        return found

    def _candidate(self, run: Path, config: NetworkConfig) -> Candidate:
        best = read_history(run / "history.json").best
        if best is None:
            raise BnasError(f"{run}: no epoch was finished; go on with this search before it is compared")
        if config not in self._workloads:
            self.say(f"exporting the graph of {config.name}")
            self._workloads[config] = exported_workloads(config)
        latency_us = self.table.total_us(self._workloads[config])
        return Candidate(str(run), best.validation_accuracy, latency_us / 1000)

    def trained(self, data: str, epochs: int, seed: int) -> list[float]:
        """Train each on one half of the training images of `data`; return its share of right answers on the other.

        Raises:
            BnasError: the data cannot be read, or a network does not suit them.
        """
        first = self.configs[0]
        images = open_for(data, image_size=first.image_size, in_channels=first.in_channels).in_memory()
        half, _ = images.halves(seed)
        recipe = RECIPES[kind_of(data).defaults(first.image_size).recipe].of_length(epochs, None)
        accuracies = []
        with temporary_folder() as folder:
            for number, (run, config) in enumerate(zip(self.runs, self.configs, strict=True)):
                self.say(f"training what {run} found")
                try:
                    result = train(half, config, recipe, folder / f"{number}", seed=seed, device=find_device("auto"))
                except TrainError as error:
                    message = f"{run}: what it found cannot be trained: {error.message}; or leave it out"
                    raise BnasError(message) from None
                accuracies.append(result.history[-1].test_accuracy)
        return accuracies

    def measured_ms(self) -> list[float]:
        """Export each with random weights; return the milliseconds that a run of each takes here, in turns.

        Raises:
            BnasError: this is another machine than the device.
        """
        here, table = read_machine(), self.table
        if (here.cpu, native_isa()) != (table.machine.get("cpu"), table.isa):
            raise BnasError(
                f"{self.path}: measured on {table.machine.get('cpu')} ({table.isa}), this is {here.cpu} "
                f"({native_isa()}); leave --measure out, or run bench-ops here first"
            )
        first = self.configs[0]
        with temporary_folder() as folder:
            bundles = [self._export(config, folder / f"{number}") for number, config in enumerate(self.configs)]
            self.say("measuring")
            shape = table.batch, first.in_channels, *first.image_size
            images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
            models = [bundle / MODEL for bundle in bundles]
            return time_models(models, images, threads=table.threads, min_seconds=SECONDS * len(models))

    def _export(self, config: NetworkConfig, path: Path) -> Path:
        self.say(f"exporting {config.name}")
        checkpoint = untrained_checkpoint(config, seed=0)
        return export_checkpoint(checkpoint, path, verification_images(checkpoint, None, 1)).bundle.path


def exported_workloads(config: NetworkConfig) -> Counter[Workload]:
    """Return the workloads of a run of the exported network."""
    refuse_other_operations(config)
    network = untrained_checkpoint(config, seed=0).build()
    return Counter([RUN]) + network_workloads(network, (config.in_channels, *config.image_size))
