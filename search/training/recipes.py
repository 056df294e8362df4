"""Training recipes: every number of a training run, by name.

A recipe is added by an entry in `RECIPES`, with any optimiser and schedule of PyTorch.

This module imports no framework, so that `--help` can show what is in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from bnas_deploy.core.errors import BnasError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

ARITHMETICS = {
    "float32": "everything in float32",
    "tf32": "convolutions and products round their operands to TF32, which +1 and -1 are in (GPU)",
    "bfloat16": "mixed precision, which also rounds the results",
}
"""With which arithmetic training or a search computes; see `acceleration`."""


def check_known(arithmetic: str) -> None:
    """Make sure that `arithmetic` is one of `ARITHMETICS`.

    Raises:
        BnasError: it is not.
    """
    if arithmetic not in ARITHMETICS:
        raise BnasError(f"unknown arithmetic {arithmetic!r}; there are {', '.join(ARITHMETICS)}")


@dataclass(frozen=True)
class ColourJitter:
    """How far brightness, contrast and saturation may move from 1, and the hue from 0 (in turns, at most 0.5)."""

    brightness: float
    contrast: float
    saturation: float
    hue: float


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training image, in the order in which they are made.

    Attributes:
        crop_area: smallest and largest share of the image that a random crop keeps before it is resized, at a
            random aspect ratio of 3/4 to 4/3; None: no such crop.
        shift: move the image by up to this many pixels each way; what comes in from outside is black.
        flip: mirror every second image, left to right.
        jitter: change the colours.
    """

    crop_area: tuple[float, float] | None = None
    shift: int = 0
    flip: bool = False
    jitter: ColourJitter | None = None


@dataclass(frozen=True)
class Share:
    """A share of all steps of a run, where a schedule takes a number of steps."""

    share: float


@dataclass(frozen=True)
class TorchOptimisation:
    """Any optimiser of `torch.optim` under any schedule of `torch.optim.lr_scheduler` that is stepped once per batch.

    Attributes:
        optimizer: name of the optimiser, such as "Adam".
        optimizer_arguments: its arguments by name, behind the parameters.
        schedule: name of the schedule, such as "CosineAnnealingLR".
        schedule_arguments: its arguments by name, behind the optimiser; a `Share` becomes a number of steps.
    """

    optimizer: str
    optimizer_arguments: Mapping[str, Any]
    schedule: str
    schedule_arguments: Mapping[str, Any]

    def build(self, network: "nn.Module", steps: int) -> "tuple[Optimizer, LRScheduler]":
        """Return the optimiser of `network`'s parameters, and the schedule, to be stepped after each of `steps`."""
        from torch import optim

        arguments = {
            name: round(value.share * steps) if isinstance(value, Share) else value
            for name, value in self.schedule_arguments.items()
        }
        optimizer: Optimizer = getattr(optim, self.optimizer)(network.parameters(), **self.optimizer_arguments)
        schedule: LRScheduler = getattr(optim.lr_scheduler, self.schedule)(optimizer, **arguments)
        return optimizer, schedule


@dataclass(frozen=True)
class SgdOneCycle:
    """SGD with momentum under a one-cycle schedule of straight lines, stepped once per batch.

        share of the steps     0       .45      .9        1
        learning rate        start -> peak -> start -> final
        momentum              high ->  low ->  high -> high

    This is `torch.optim.lr_scheduler.OneCycleLR` with three phases.
    """

    peak_learning_rate: float
    start_learning_rate: float
    final_learning_rate: float
    low_momentum: float
    high_momentum: float
    weight_decay: float
    rising_share: float = 0.45

    def build(self, network: "nn.Module", steps: int) -> "tuple[Optimizer, LRScheduler]":
        """Return the optimiser and the schedule; as `TorchOptimisation.build`."""
        optimisation = TorchOptimisation(
            "SGD",
            {"lr": self.start_learning_rate, "momentum": self.high_momentum, "weight_decay": self.weight_decay},
            "OneCycleLR",
            {
                "max_lr": self.peak_learning_rate,
                "total_steps": Share(1.0),
                "pct_start": self.rising_share,
                "anneal_strategy": "linear",
                "three_phase": True,
                "base_momentum": self.low_momentum,
                "max_momentum": self.high_momentum,
                "div_factor": self.peak_learning_rate / self.start_learning_rate,
                "final_div_factor": self.start_learning_rate / self.final_learning_rate,
            },
        )
        return optimisation.build(network, steps)


class Optimisation(Protocol):
    """An optimiser and its schedule as a dataclass; a run is resumed only if its fields are the same."""

    def build(self, network: "nn.Module", steps: int) -> "tuple[Optimizer, LRScheduler]":
        """Return the optimiser of `network`'s parameters, and the schedule, to be stepped after each of `steps`."""


@dataclass(frozen=True)
class Recipe:
    """One complete way to train a network; the loss is cross-entropy."""

    name: str
    epochs: int
    batch_size: int
    optimisation: Optimisation
    augmentation: Augmentation

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size"):
            if getattr(self, field) < 1:
                raise BnasError(f"recipe {self.name}: {field} must be at least 1, got {getattr(self, field)}")

    def of_length(self, epochs: int | None, batch_size: int | None) -> "Recipe":
        """Return this recipe with other numbers of epochs and of images of a step, where they are given."""
        return replace(self, epochs=epochs or self.epochs, batch_size=batch_size or self.batch_size)


def _one_cycle(peak: float, final: float, weight_decay: float) -> SgdOneCycle:
    """Return the shape that the official BNAS code has: start = peak / 20, momentum 0.95 -> 0.85 -> 0.95."""
    return SgdOneCycle(
        peak_learning_rate=peak,
        start_learning_rate=peak / 20,
        final_learning_rate=final,
        low_momentum=0.85,
        high_momentum=0.95,
        weight_decay=weight_decay,
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # A shift by one of 8x8 pixels moves a stroke onto its neighbour and costs accuracy, so nothing is augmented;
        # 1438 images are learnt by heart, so weight decay is strong.
        Recipe(
            "digits",
            epochs=12,
            batch_size=32,
            optimisation=_one_cycle(peak=0.1, final=4e-4, weight_decay=1e-3),
            augmentation=Augmentation(),
        ),
        # BNAS v2, "Details on Training the Searched Architectures". Where the official code differs, the
        # paper is followed: the code ends at a learning rate of 0.01 * start = 2.5e-5 (paper: 4e-4), and drops the
        # branches of an image with a probability that rises to 0.2 (not in the paper, not done here).
        Recipe(
            "cifar",
            epochs=600,
            batch_size=256,
            optimisation=_one_cycle(peak=0.05, final=4e-4, weight_decay=3e-6),
            augmentation=Augmentation(shift=4, flip=True),
        ),
        # The paper's epochs, batch, peak and weight decay for ImageNet; the code has batch 256 and peak 0.05. The
        # schedule is not theirs (a cosine that restarts every 50 epochs) but the one-cycle of CIFAR, and the code's
        # label smoothing (0.1) and gradient clipping (5) are left out.
        Recipe(
            "imagenet",
            epochs=250,
            batch_size=512,
            optimisation=_one_cycle(peak=0.1, final=8e-4, weight_decay=3e-5),
            augmentation=Augmentation(crop_area=(0.08, 1.0), flip=True, jitter=ColourJitter(0.4, 0.4, 0.4, 0.2)),
        ),
    )
}
"""Every recipe by name."""


SMALL = 64
"""Images of which a side is less are small: their pixels are too few to cut some off, so they are shifted instead."""
