"""From a declared study and a data set to its trials: every row with every seed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bnas_deploy.core.errors import BnasError, DataError
from bnas_deploy.search.cells.config import STRATEGIES, configure_search
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.data.kinds import DataKind, kind_of
from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.layer_costs import network_size
from bnas_deploy.search.models.registry import configure, rule_of
from bnas_deploy.search.models.small_cnn import SmallCnnConfig
from bnas_deploy.search.training.recipes import Recipe, find_recipe
from bnas_deploy.search.widths.config import SCHEME as WIDTH_SCHEME
from bnas_deploy.search.widths.config import configure_width_search
from bnas_deploy.studies.study import BACKBONE, Budget, Named, OfOneOperation, Row, Searched, Study, Widened
from bnas_deploy.studies.trials import Material, SearchTrial, Training

NEAR_ENOUGH = 0.005
"""How far operations may be from those that are wanted, as a share; channels are whole numbers, so it may be more."""

TRIES = 8
"""In which a width factor is looked for."""


@dataclass(frozen=True)
class Sizes:
    """What a user may choose beside the budget; None: as the budget has it."""

    seeds: int | None = None
    limit: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class PlannedRow:
    """A row with its trials, one for each seed; none where `refusal` says why there can be none."""

    row: Row
    trials: tuple[Training, ...]
    refusal: str = ""


@dataclass(frozen=True)
class Plan:
    """The trials of a study, row by row."""

    study: Study
    budget: Budget
    rows: tuple[PlannedRow, ...]

    @property
    def trainings(self) -> list[Training]:
        """Return all trials that are rows; the searches before them are in `after`."""
        return [trial for planned in self.rows for trial in planned.trials]


def sized(study: Study, budget: str, sizes: Sizes) -> Budget:
    """Return the budget of a study with the sizes that a user chose."""
    chosen = study.budget(budget)
    given = {name: value for name, value in vars(sizes).items() if value is not None}
    return replace(chosen, **given)


def plan(study: Study, budget: Budget, given: str, images: DataSet) -> Plan:
    """Return the trials of a study.

    Args:
        study: what is repeated.
        budget: of `sized`.
        given: `--data`.
        images: that data set, limited as the budget has it.

    Raises:
        DataError: there are fewer images than the study takes.
        BnasError: no row has a network that fits the images.
    """
    if images.train_size < budget.least:
        raise DataError(
            f"{images.description.name}: {images.train_size:,} training images, and the study {study.name} takes at "
            f"least {budget.least:,} with the budget {budget.name}; choose other data"
            + (f", or a larger --limit than {budget.limit:,}" if budget.limit and budget.limit < budget.least else "")
        )
    planner = _Planner(study, budget, images, kind_of(given), Material.of(given, budget.limit, images))
    rows = tuple(_planned(planner, row, budget.seeds) for row in study.rows_of(budget.name))
    if not any(planned.trials for planned in rows):
        raise BnasError(f"study {study.name}: no row can be trained; {rows[0].row.name}: {rows[0].refusal}")
    return Plan(study, budget, rows)


def _planned(planner: "_Planner", row: Row, seeds: int) -> PlannedRow:
    try:
        return PlannedRow(row, tuple(planner.training(row, seed) for seed in range(seeds)))
    except BnasError as error:
        return PlannedRow(row, (), error.message)


class _Planner:
    """Makes the trials of one study on one data set."""

    def __init__(self, study: Study, budget: Budget, images: DataSet, kind: DataKind, material: Material) -> None:
        self.study = study
        self.budget = budget
        self.images = images
        self.kind = kind
        self.material = material
        self.networks: dict[str, ModelConfig] = {}
        self.factors: dict[str, float] = {}

    def training(self, row: Row, seed: int) -> Training:
        """Return the trial of a row and a seed."""
        network = self._network(row)
        training = Training(
            self.material,
            network.float_twin() if row.is_float else network,
            self._recipe(row),
            seed,
            self.study.rule or rule_of(network).name,
            tuple(row.records),
        )
        match row.subject:
            case Searched() as subject:
                return self._after_search(training, subject, seed)
            case Widened() as subject:
                return replace(training, after=self._width_search(subject, seed), uniform=subject.uniform)
        return training

    def _network(self, row: Row) -> ModelConfig:
        """Return the binary network of a row; it is the same for every seed."""
        if row.name not in self.networks:
            self.networks[row.name] = self._new_network(row)
        return self.networks[row.name]

    def _new_network(self, row: Row) -> ModelConfig:
        about, budget = self.images.description, self.budget
        match row.subject:
            case OfOneOperation(operation):
                return SmallCnnConfig(
                    f"three {operation}", operation, channels=budget.channels, dense=budget.dense, **about.sizes
                )
            case Searched(settings=settings):
                return self._named("", settings)
            case Widened():
                return self._backbone()
            case Named(network, settings) if network == BACKBONE:
                return self._backbone(settings.get("width_factor", 1.0))
            case Named(network, settings, equal_flops):
                if equal_flops and budget.equal_flops:
                    return self._of_equal_flops(network, settings)
                return self._named(network, settings)
        raise TypeError(row.subject)

    def _named(self, network: str, settings: Mapping[str, Any]) -> ModelConfig:
        """Return a network by name; "" is that of the budget."""
        own = settings if network else {**self.budget.settings, **settings}
        return configure(network or self.budget.network, **self.images.description.sizes, options=own)

    def _backbone(self, times: float = 1.0) -> BackboneConfig:
        """Return the backbone whose widths are searched, so many times as wide."""
        budget = self.budget
        factor = times * budget.backbone_settings.get("width_factor", 1.0)
        options = {"scheme": WIDTH_SCHEME, "form": "cifar", **budget.backbone_settings, "width_factor": factor}
        config = configure(budget.backbone, **self.images.description.sizes, options=options)
        assert isinstance(config, BackboneConfig)
        return config

    def _of_equal_flops(self, network: str, settings: Mapping[str, Any]) -> ModelConfig:
        """Return a backbone whose width factor brings its operations nearest to those of the budget's network."""
        wanted = _operations(self._named("", {}))

        def at(factor: float) -> ModelConfig:
            return self._named(network, {**settings, "width_factor": factor})

        first = self.factors.get(network, 1.0)  # under another scheme, which mostly is the answer
        try:
            factor = _factor(wanted, lambda factor: _operations(at(factor)), first)
        except BnasError:
            # Some schemes need numbers of channels that 4 divides, which the usual ones are at every sixteenth.
            factor = _sixteenth(_factor(wanted, lambda factor: _operations(at(_sixteenth(factor))), first))
        self.factors[network] = factor
        return at(factor)

    def _recipe(self, row: Row) -> Recipe:
        named = row.recipe or self.budget.recipe or self.kind.defaults(self.images.description.image_size).recipe
        recipe = find_recipe(named, row.changes)
        epochs = self.budget.epochs or recipe.epochs
        return recipe.of_length(max(1, round(row.times_epochs * epochs)), None)

    def _after_search(self, training: Training, subject: Searched, seed: int) -> Training:
        # Whether Zeroise can be chosen is asked of each row, so that rows that differ in it share a search.
        given: dict[str, Any] = {"zeroise": True, **self.budget.search, **subject.options}
        config = configure_search(self.kind.search, **self.images.description.sizes, **given)
        zeroise = STRATEGIES[config.strategy].zeroise if subject.zeroise is None else subject.zeroise
        search = SearchTrial(self.material, config, seed)
        return replace(training, after=search, gamma=subject.gamma, zeroise=zeroise)

    def _width_search(self, subject: Widened, seed: int) -> SearchTrial:
        given = {**self.budget.widths, **subject.options}
        return SearchTrial(self.material, configure_width_search(self._backbone(), self.kind, **given), seed)


def _factor(wanted: float, operations: Callable[[float], float], first: float) -> float:
    """Return the width factor whose operations come nearest to `wanted`, to three digits.

    Operations grow about as the square of the factor, so each try is made from the one before, `first` from nothing.
    """
    factor, tried = first, dict[float, float]()
    for _ in range(TRIES):
        tried[factor] = operations(factor) / wanted
        if abs(tried[factor] - 1) < NEAR_ENOUGH:
            break
        factor = max(0.001, float(f"{factor / math.sqrt(tried[factor]):.3g}"))
        if factor in tried:
            break
    return min(tried, key=lambda each: abs(math.log(tried[each])))


def _sixteenth(factor: float) -> float:
    return max(1, round(16 * factor)) / 16


def _operations(config: ModelConfig) -> float:
    operations = rule_of(config).count(network_size(config).counted).operations
    assert operations is not None  # the rules of families count them
    return operations
