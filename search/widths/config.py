"""Every number and switch of a search for widths; no framework is imported."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.data.augmentation import Augmentation
from bnas_deploy.search.data.kinds import DataKind
from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.training.recipes import RECIPES

SCHEME = "zero-alpha"
"""The scheme of DMS: standardised weights, activations of 0 and alpha."""

GOALS = {"memory": "MB", "latency": "us"}
"""What can be aimed at, and its unit."""

LARGEST_PENALTY = 1e100
"""Adam squares gradients. Squares above 1e308 are infinite, and mu would not move at all."""


@dataclass(frozen=True)
class Goal:
    """What the network is to cost at most.

    Attributes:
        kind: of `GOALS`.
        target: in its unit.
        penalty: lambda of Eq. 7, for each unit above the target.
    """

    kind: str
    target: float
    penalty: float

    def __post_init__(self) -> None:
        for name, value in (("target", self.target), ("penalty", self.penalty)):
            if not (math.isfinite(value) and value > 0):
                raise BnasError(f"a search for widths with a {self.kind} {name} of {value:g}; wanted a positive number")
        if self.penalty > LARGEST_PENALTY:
            raise BnasError(
                f"a search for widths with a {self.kind} penalty of {self.penalty:g}; wanted at most "
                f"{LARGEST_PENALTY:g}, since the squares of its gradients have to be numbers"
            )

    @property
    def unit(self) -> str:
        """Return that of `target`."""
        return GOALS[self.kind]


@dataclass(frozen=True)
class Preset:
    """What a search for widths is run with unless something else is asked for.

    Attributes:
        summary: for `--help`.
        first_ratio: mu of every width at the start.
        memory_mb: the target; None for none.
        width_learning_rates: of mu, by family; "" for all others.
        penalty: lambda of Eq. 7 for each MB; None: `PENALTY_ONCE_OVER` for the target once over.
        evaluation: how DMS trains what is found, by family, as options of `train`.
    """

    summary: str
    first_ratio: float
    memory_mb: float | None
    epochs: int
    batch_size: int
    width_learning_rates: Mapping[str, float]
    penalty: float | None
    round_epochs: int = 5
    evaluation: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def width_learning_rate(self, family: str) -> float:
        """Return that of a family's networks."""
        return self.width_learning_rates.get(family, self.width_learning_rates[""])


PENALTY_ONCE_OVER = 0.1
"""lambda times the target where a preset has none: so a target means the same in MB and in us.

By measurement, the gradients of loss and penalty are then alike: for VGG-11 on MNIST about 0.01 for a ratio of 1.
"""

_PUBLISHED = {"vgg": 2e-3, "": 1e-3}

PRESETS = {
    # DMS, B.2.1; evaluation B.2.2.
    "dms-a": Preset(
        *("published, for networks as large as the base", 1.5, 0.12, 250, 64, _PUBLISHED, 0.01),
        evaluation={"vgg": ("--recipe", "dms")},
    ),
    "dms-b": Preset(
        *("published, for larger ones", 2.5, 1.0, 250, 64, _PUBLISHED, 0.01),
        evaluation={"vgg": ("--recipe", "dms", "--set", "optimiser.weight_decay=2e-4")},
    ),
    # Adam moves mu by about its learning rate in a step. The published search has 19,550 steps of mu, and one on 2,000
    # images has 640 with these rounds. The rate moves mu by 3 in them.
    "small": Preset(
        "ours, for some minutes on a few thousand images", 1.5, None, 40, 32, {"": 5e-3}, None, round_epochs=2
    ),
}
"""Presets by name."""

DEFAULT_PRESETS = {"cifar10": "dms-a", "cifar100": "dms-a"}
"""By the kind of the data; "small" for all others."""


@dataclass(frozen=True)
class WidthSearchConfig:
    """A whole search for widths.

    Weights are trained for `round_epochs` passes over one half of the training images, then mu for one over the other
    half: a *round*. SGD's learning rate falls along half a cosine in every round, by steps.

    Attributes:
        network: the base, whose widths are the ratio 1.
        goal: what it is to cost.
        epochs: passes that train weights, in all.
        round_epochs: of them in a round; the last round may have fewer.
        width_learning_rate: of Adam, which trains mu.
        first_ratio: mu of every width at the start.
        first_sigma, last_sigma: sigma falls by one factor after every round, and would be the last one after all.
        temperature: of Gumbel-softmax.
        best_effort: begin a round with the leading part of the weights before; without, with new ones.
    """

    network: BackboneConfig
    goal: Goal
    epochs: int
    batch_size: int
    width_learning_rate: float
    first_ratio: float
    augmentation: Augmentation
    round_epochs: int = 5
    first_learning_rate: float = 0.05
    last_learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    first_sigma: float = 1.0
    last_sigma: float = 0.3
    temperature: float = 1.0
    best_effort: bool = True

    def __post_init__(self) -> None:
        positive = (
            *("epochs", "batch_size", "round_epochs", "width_learning_rate", "first_ratio", "first_learning_rate"),
            *("first_sigma", "last_sigma", "temperature"),
        )
        for name in positive:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise BnasError(f"a search for widths with {name} {value:g}; wanted a positive number")
        if self.first_ratio < 0.3:
            raise BnasError(
                f"a search for widths that begins at the ratio {self.first_ratio:g}; the least ratio is 0.3"
            )

    @property
    def rounds(self) -> int:
        """Return how many rounds there are."""
        return math.ceil(self.epochs / self.round_epochs)

    @property
    def passes(self) -> int:
        """Return the passes over a half of the images: those that train weights, and one for mu in each round."""
        return self.epochs + self.rounds

    def round_of(self, number: int) -> int:
        """Return the round of a pass, both from 0."""
        return number // (self.round_epochs + 1)

    def trains_widths(self, number: int) -> bool:
        """Tell whether a pass, from 0, trains mu: the last one of its round."""
        return number == self.passes - 1 or number % (self.round_epochs + 1) == self.round_epochs

    def sigma(self, round_number: int) -> float:
        """Return sigma of a round."""
        return self.first_sigma * math.pow(self.last_sigma / self.first_sigma, round_number / self.rounds)

    def learning_rate(self, number: int, share: float) -> float:
        """Return that of the weights in a pass, when a share of its steps is done."""
        first = self.round_of(number) * (self.round_epochs + 1)
        length = min(self.round_epochs, self.passes - 1 - first)
        height = self.first_learning_rate - self.last_learning_rate
        return self.last_learning_rate + height * (1 + math.cos(math.pi * (number - first + share) / length)) / 2

    def to_json(self) -> dict[str, Any]:
        """Return every setting, for files and for comparing."""
        return asdict(self)


def preset_name(name: str | None, kind: DataKind) -> str:
    """Return the name of the preset for these data where None is given."""
    return name or DEFAULT_PRESETS.get(kind.name, "small")


def chosen_preset(name: str | None, kind: DataKind) -> Preset:
    """Return the preset of a name; None stands for that of the data."""
    return PRESETS[preset_name(name, kind)]


def evaluation_options(name: str | None, kind: DataKind, family: str) -> tuple[str, ...]:
    """Return the options of `train` with which DMS trains what a search found; none where it does not say.

    They are those of CIFAR; other data are trained by their own recipe.
    """
    return chosen_preset(name, kind).evaluation.get(family, ()) if kind.name in DEFAULT_PRESETS else ()


def chosen_goal(preset: Preset, memory_mb: float | None, latency_us: float | None, penalty: float | None) -> Goal:
    """Return what is aimed at; None stands for what the preset says.

    Raises:
        BnasError: there is no target, or a number is out of range.
    """
    if latency_us is not None:
        return Goal("latency", latency_us, penalty or PENALTY_ONCE_OVER / latency_us)
    if target := memory_mb or preset.memory_mb:
        return Goal("memory", target, penalty or preset.penalty or PENALTY_ONCE_OVER / target)
    raise BnasError("no target: give --memory-target MB, or --latency-target US and --latency-table DEVICE.json")


def configure_width_search(
    network: BackboneConfig,
    kind: DataKind,
    *,
    preset: str | None = None,
    memory_mb: float | None = None,
    latency_us: float | None = None,
    penalty: float | None = None,
    first_ratio: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float = 0.05,
    width_learning_rate: float | None = None,
    round_epochs: int | None = None,
    best_effort: bool = True,
) -> WidthSearchConfig:
    """Return a search as the options of `bnas-deploy search-widths` describe it; None stands for a default.

    `kind` is that of the data, whose images are augmented as in training.

    Raises:
        BnasError: there is no target, or a number is out of range.
    """
    chosen = chosen_preset(preset, kind)
    return WidthSearchConfig(
        network=network,
        goal=chosen_goal(chosen, memory_mb, latency_us, penalty),
        epochs=epochs or chosen.epochs,
        batch_size=batch_size or chosen.batch_size,
        width_learning_rate=width_learning_rate or chosen.width_learning_rate(network.model),
        first_ratio=first_ratio or chosen.first_ratio,
        augmentation=_augmentation(kind, network.image_size),
        round_epochs=round_epochs or chosen.round_epochs,
        first_learning_rate=learning_rate,
        last_learning_rate=learning_rate / 5,  # DMS: 0.05 and 0.01
        best_effort=best_effort,
    )


def _augmentation(kind: DataKind, image_size: tuple[int, int]) -> Augmentation:
    """Return that of the recipe that the data are trained with; DMS says nothing of it.

    Those for photographs, which a search has in memory and cannot crop by area, are those of CIFAR.
    """
    augmentation = RECIPES[kind.defaults(image_size).recipe].augmentation
    return RECIPES["cifar-standard"].augmentation if augmentation.crop_area or augmentation.jitter else augmentation
