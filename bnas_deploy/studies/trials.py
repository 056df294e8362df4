"""What is run for a study: trials. A trial is a search or a training with one seed; a training may follow a search.

A trial has a *key*, made of all its settings, of the facts of the data and of the versions of the files. Its folder is
called so. Two rows, two studies or two calls that need the same trial therefore run it once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bnas_deploy.search.cells.config import SearchConfig
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.training import checkpoint, run
from bnas_deploy.search.training.recipe_settings import numbers_of
from bnas_deploy.search.training.recipes import Recipe
from bnas_deploy.search.widths.config import WidthSearchConfig
from bnas_deploy.studies import results

_DIGITS = 16
"""Of a key: 64 bits."""

FORMATS = {"run": run.FORMAT_VERSION, "checkpoint": checkpoint.FORMAT_VERSION, "result": results.FORMAT_VERSION}
"""Versions of the files of a trial; a trial of others is made anew."""


@dataclass(frozen=True)
class Material:
    """The images of all trials of a study.

    Attributes:
        data: as `--data` has it.
        limit: images of each part at most.
        facts: what tells them from others, whatever their folder is called.
    """

    data: str
    limit: int | None
    facts: str

    @classmethod
    def of(cls, given: str, limit: int | None, images: DataSet) -> "Material":
        """Return that of an opened data set."""
        about = images.description
        labels = [hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in images.labels()]
        # Not mean and std, which another machine may round otherwise.
        facts = [about.name, about.class_names, about.in_channels, about.image_size, labels]
        return cls(given, limit, json.dumps(facts))


@dataclass(frozen=True)
class SearchTrial:
    """A search, for cells or for widths as its configuration says."""

    material: Material
    config: SearchConfig | WidthSearchConfig
    seed: int

    @property
    def after(self) -> None:
        """Return the trial that has to be finished before: none."""
        return

    @cached_property
    def key(self) -> str:
        """Return what its folder is called."""
        kind = "cells" if isinstance(self.config, SearchConfig) else "widths"
        return _key(kind, self.material, self.seed, self.config.to_json())


@dataclass(frozen=True)
class Training:
    """A training.

    Attributes:
        network: what is trained; its cells or its widths are taken from `after` where that is given.
        recipe: how.
        rule: by which its memory and operations are counted.
        records: what is measured besides accuracies, of `study.Record`.
        after: the search before.
        gamma, zeroise: how cells are read off it, see `study.Searched`.
        uniform: of a search for widths, take those of one ratio.
    """

    material: Material
    network: ModelConfig
    recipe: Recipe
    seed: int
    rule: str
    records: tuple[str, ...] = ()
    after: SearchTrial | None = None
    gamma: float = 1.0
    zeroise: bool = True
    uniform: bool = False

    @cached_property
    def key(self) -> str:
        """Return what its folder is called."""
        recipes = [numbers_of(stage) for stage in self.recipe.all_stages]
        settings = {
            "model": self.network.model,
            "network": self.network.to_json(),
            "recipe": recipes,
            "rule": self.rule,
            "records": self.records,
            "after": self.after and self.after.key,
            "read": [self.gamma, self.zeroise, self.uniform] if self.after else None,
        }
        return _key("training", self.material, self.seed, settings)


Trial = SearchTrial | Training


def _key(kind: str, material: Material, seed: int, settings: Mapping[str, Any]) -> str:
    whole = json.dumps([kind, FORMATS, material.facts, seed, settings], sort_keys=True)
    return f"{kind}-{hashlib.sha256(whole.encode()).hexdigest()[:_DIGITS]}"


def with_searches(trainings: Sequence[Training]) -> list[Trial]:
    """Return trainings behind the searches that they follow, which take longest, each once."""
    searches: list[Trial] = [training.after for training in trainings if training.after]
    return each_once([*searches, *trainings])


def each_once(trials: Iterable[Trial]) -> list[Trial]:
    """Return trials without those that were there before; a key keeps its first place."""
    return list({trial.key: trial for trial in trials}.values())
