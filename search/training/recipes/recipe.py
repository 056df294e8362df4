"""What a recipe is: every number of a training run, as values that check themselves.

The names of the fields are the keys of a recipe's file; `reading` makes the one of the other. No framework is imported.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bnas_deploy.core.errors import RecipeError
from bnas_deploy.core.names import did_you_mean
from bnas_deploy.core.ranges import (
    ABOVE_ZERO,
    COUNT,
    POSITIVE,
    SHARE,
    SHARE_BELOW_ONE,
    Checked,
)
from bnas_deploy.search.data.augmentation import Augmentation
from bnas_deploy.search.training.recipes.schedules import Schedule

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


LEARNING_RATES: Mapping[str, float] = {
    "ASGD": 1e-2,
    "Adadelta": 1.0,
    "Adafactor": 1e-2,
    "Adagrad": 1e-2,
    "Adam": 1e-3,
    "AdamW": 1e-3,
    "Adamax": 2e-3,
    "Bop": 1e-3,
    "NAdam": 2e-3,
    "RAdam": 1e-3,
    "RMSprop": 1e-2,
    "Rprop": 1e-2,
    "SGD": 1e-3,
}
"""Every optimiser by its kind, and the learning rate that PyTorch gives it where none is given."""

UNFIT: Mapping[str, str] = {
    "LBFGS": "asks for several losses in a step",
    "Muon": "takes matrices only, and the weights of convolutions have four axes",
    "SparseAdam": "takes sparse gradients only",
}
"""Optimisers of `torch.optim` that cannot train a network here, and why."""


def check_optimiser(kind: object) -> None:
    """Make sure that there is an optimiser of a kind.

    Raises:
        RecipeError: there is none, or it cannot train a network here.
    """
    if kind in LEARNING_RATES:
        return
    why = near = ""
    if isinstance(kind, str):
        why = f"; {kind} {UNFIT[kind]}" if kind in UNFIT else ""
        near = "" if why else did_you_mean(kind, LEARNING_RATES)
    raise RecipeError(f"optimiser.kind: got {kind!r}, wanted one of {', '.join(LEARNING_RATES)}{why}{near}")


@dataclass(frozen=True, kw_only=True)
class Optimiser(Checked):
    """An optimiser of `torch.optim`, or Bop.

    Attributes:
        kind: one of `LEARNING_RATES`, such as "SGD" or "Adam"; "Bop" flips binary weights and has Adam for the rest.
        learning_rate: the highest that the schedule reaches.
        weight_decay: lambda of lambda w, which is added to the gradient (by AdamW taken off the weight).
        momentum: of SGD and others that have it.
        betas: of Adam and its relatives.
        clip_norm: shrink the gradient of all parameters together to this Euclidean norm where it is longer.
        arguments: others, by the name that they have in PyTorch.
    """

    table = "optimiser"

    kind: str
    learning_rate: float = field(metadata=ABOVE_ZERO)
    weight_decay: float = field(default=0.0, metadata=POSITIVE)
    momentum: float | None = field(default=None, metadata=SHARE_BELOW_ONE)
    betas: tuple[float, float] | None = None
    clip_norm: float | None = field(default=None, metadata=ABOVE_ZERO)
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_optimiser(self.kind)
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(f"optimiser.betas: got {list(self.betas)}, wanted two numbers of at least 0 and below 1")

    @property
    def flips(self) -> bool:
        """Say whether binary weights are flipped, and not moved."""
        return self.kind == "Bop"

    def build(self, parameters: "Iterable[nn.Parameter]", binary: "Iterable[nn.Parameter]" = ()) -> "Optimizer":
        """Return the optimiser of `parameters`, of which `binary` are weights that a layer takes the signs of.

        Raises:
            RecipeError: it does not take what is given.
        """
        from torch import optim

        from bnas_deploy.search.training.bop import Bop

        kind: Callable[..., Optimizer] = Bop if self.flips else getattr(optim, self.kind)
        given = {"weight_decay": self.weight_decay, "momentum": self.momentum, "betas": self.betas, **self.arguments}
        given = {name: value for name, value in given.items() if value is not None}
        takes = [name for name in inspect.signature(kind).parameters if name not in ("params", "lr", "binary")]
        if not self.weight_decay and "weight_decay" not in takes:  # none is what it has
            del given["weight_decay"]
        for name in given:
            if name not in takes:
                key = f"optimiser.arguments.{name}" if name in self.arguments else f"optimiser.{name}"
                raise RecipeError(
                    f"{key}: {self.kind} does not take it; it takes {', '.join(takes)}{did_you_mean(name, takes)}"
                )
        if self.flips:
            given["binary"] = binary
        try:
            return kind(parameters, lr=self.learning_rate, **given)
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"optimiser: {self.kind}{'' if self.flips else ' of PyTorch'} refuses its arguments: {error}"
            ) from None

    def states(self) -> int:
        """Return how many numbers the optimiser keeps of each weight from step to step: 1 is momentum, Adam has 2.

        Raises:
            RecipeError: as `build`.
        """
        import torch

        weight = torch.nn.Parameter(torch.zeros(2, 2))
        optimiser = self.build([weight])
        weight.grad = torch.zeros_like(weight)
        optimiser.step()
        return sum(torch.is_tensor(each) and each.shape == weight.shape for each in optimiser.state[weight].values())


@dataclass(frozen=True, kw_only=True)
class Loss(Checked):
    """What is descended: the cross-entropy, and what is added to it.

    Attributes:
        label_smoothing: the share of a label that is spread evenly over all classes.
        activation_distribution: weight of the term of Ding et al.; see `losses.activation_distribution`.
        activation_distribution_share: the share of the epochs, from the first, that have that term. Its authors have it
            for 60 epochs of 65 (github.com/ruizhoud/DistributionLoss, README.md, line 7).
        attention: weight of the difference from the attention maps of the stage before.
        distillation: weight of the divergence of the network's answers from those of the stage before.
        temperature: of these answers' softmax.
    """

    table = "loss"

    label_smoothing: float = field(default=0.0, metadata=SHARE_BELOW_ONE)
    activation_distribution: float = field(default=0.0, metadata=POSITIVE)
    activation_distribution_share: float = field(default=60 / 65, metadata=SHARE)
    attention: float = field(default=0.0, metadata=POSITIVE)
    distillation: float = field(default=0.0, metadata=POSITIVE)
    temperature: float = field(default=1.0, metadata=ABOVE_ZERO)

    @property
    def needs_teacher(self) -> bool:
        """Say whether there is something to learn of the stage before."""
        return self.attention > 0 or self.distillation > 0


LAST_STAGE = "last"
"""What the last stage of several is called, which is the recipe itself."""

LAYERS = {
    "binary": "binary, as the network has them",
    "float-weights": "signs of activations, float weights",
    "tanh": "tanh of activations, float weights",
    "float": "the float twin: float weights, no sign",
}
"""What a recipe trains in the place of binary layers, by name."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """One complete way to train a network.

    Attributes:
        name: of the recipe, or of its file.
        summary: what it is for, in a line.
        epochs: passes over the training images.
        batch_size: images of a step.
        weight_average: share of itself that the average of the weights keeps in a step, less in the first steps; the
            average is evaluated and saved. 0: none is taken.
        drop_path: the probability at which branches of a cell are left out would arrive after the last epoch; it rises
            from 0 with each epoch.
        layers: what is trained in the place of binary layers, one of `LAYERS`.
        weights_from_before: begin with the weights that the stage before ended with.
        stages: what is trained before, in order, each like a recipe; the recipe itself is the last stage.
    """

    table = ""

    name: str
    summary: str = ""
    epochs: int = field(metadata=COUNT)
    batch_size: int = field(metadata=COUNT)
    weight_average: float = field(default=0.0, metadata=SHARE_BELOW_ONE)
    drop_path: float = field(default=0.0, metadata=SHARE_BELOW_ONE)
    optimiser: Optimiser
    schedule: Schedule
    loss: Loss = Loss()
    augmentation: Augmentation = Augmentation()  # noqa: RUF009  # it is frozen, which ruff sees in one file only
    layers: str = "binary"
    weights_from_before: bool = False
    stages: "tuple[Recipe, ...]" = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers not in LAYERS:
            near = did_you_mean(self.layers, LAYERS)
            raise RecipeError(f"layers: got {self.layers!r}, wanted one of {', '.join(LAYERS)}{near}")

    @property
    def all_stages(self) -> "tuple[Recipe, ...]":
        """Return every stage in order, this recipe by itself last, by its own name or, of several, as LAST_STAGE.

        Raises:
            RecipeError: the first has something from a stage before.
        """
        stages = (*self.stages, replace(self, stages=(), name=LAST_STAGE if self.stages else self.name))
        first = stages[0]
        given = {
            "weights_from_before": first.weights_from_before,
            "loss.attention": first.loss.attention > 0,
            "loss.distillation": first.loss.distillation > 0,
        }
        for key, asked in given.items():
            if asked:
                path = f"stages.{first.name}.{key}" if self.stages else key
                raise RecipeError(f"{path}: {first.name} is the first stage, there is none before it; leave it out")
        return stages

    def of_length(self, epochs: int | None, batch_size: int | None) -> "Recipe":
        """Return this recipe with other numbers of epochs and of images of a step, where they are given.

        Epochs of the schedule keep their share. The length of each earlier stage keeps its ratio to the last one.
        """
        epochs = epochs or self.epochs
        lengths = (max(1, round(stage.epochs * epochs / self.epochs)) for stage in self.stages)
        return replace(
            self,
            epochs=epochs,
            batch_size=batch_size or self.batch_size,
            schedule=self.schedule.stretched(epochs / self.epochs),
            stages=tuple(
                stage.of_length(length, batch_size) for stage, length in zip(self.stages, lengths, strict=True)
            ),
        )
