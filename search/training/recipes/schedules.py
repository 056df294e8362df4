"""How the learning rate goes over a run: a schedule is stepped once per batch.

What a schedule counts in epochs may be a fraction of one.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from bnas_deploy.core.errors import RecipeError
from bnas_deploy.core.names import did_you_mean
from bnas_deploy.core.ranges import (
    ABOVE_ZERO,
    POSITIVE,
    SHARE,
    SHARE_BELOW_ONE,
    Checked,
    Range,
)

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Length:
    """How long a run is."""

    epochs: int
    steps_of_epoch: int

    @property
    def steps(self) -> int:
        """Return the steps of the whole run."""
        return self.epochs * self.steps_of_epoch


class Schedule(Protocol):
    """How the learning rate goes, as a dataclass; a run is resumed only if its fields are the same."""

    @property
    def kind(self) -> str:
        """Return its name in a file."""

    def build(self, optimizer: "Optimizer", length: Length) -> "LRScheduler":
        """Return the schedule of `optimizer`, to be stepped after each step of a run."""

    def stretched(self, factor: float) -> "Schedule":
        """Return the same for a run of `factor` times as many epochs."""


@dataclass(frozen=True, kw_only=True)
class OneCycle(Checked):
    """Straight lines; the learning rate of the optimiser is the peak.

        share of the steps     0   rising_share  2 rising_share   1
        learning rate        start  ->   peak  ->    start  ->  final         start = peak / start_divisor
        momentum              high  ->   low   ->    high   ->   high

    The high momentum is that of the optimiser (of Adam the first beta). Without a low one, it stays.
    """

    table = "schedule"

    kind: str = "one-cycle"
    start_divisor: float = field(metadata=Range(1).of_field())
    final_learning_rate: float = field(metadata=ABOVE_ZERO)
    low_momentum: float | None = field(default=None, metadata=SHARE_BELOW_ONE)
    rising_share: float = field(default=0.45, metadata=Range(0, 0.5, open_least=True).of_field())

    def build(self, optimizer: "Optimizer", length: Length) -> "LRScheduler":
        """Return torch's one cycle of three phases."""
        from torch.optim.lr_scheduler import OneCycleLR

        group = optimizer.param_groups[0]
        peak = group["lr"]
        start = peak / self.start_divisor
        momentum: dict[str, Any] = {"cycle_momentum": False}
        if self.low_momentum is not None:
            high = group["momentum"] if "momentum" in group else group.get("betas", (0.0,))[0]
            if self.low_momentum > high:
                name = type(optimizer).__name__
                raise RecipeError(
                    f"schedule.low_momentum: got {self.low_momentum}, and the momentum of {name} is {high}; "
                    "--set schedule.low_momentum=false, or give it a higher one"
                )
            momentum = {"base_momentum": self.low_momentum, "max_momentum": high}
        return OneCycleLR(
            optimizer,
            max_lr=peak,
            total_steps=length.steps,
            pct_start=self.rising_share,
            anneal_strategy="linear",
            three_phase=True,
            div_factor=peak / start,
            final_div_factor=start / self.final_learning_rate,
            **momentum,
        )

    def stretched(self, factor: float) -> "OneCycle":
        """Return the same: nothing is counted in epochs."""
        return self


@dataclass(frozen=True, kw_only=True)
class Warm(Checked):
    """A learning rate that goes down after it rose from 0 on a straight line, for some epochs or none."""

    table = "schedule"

    warmup_epochs: float = field(default=0.0, metadata=POSITIVE)

    def rate(self, step: int, length: Length) -> float:
        """Return what the highest learning rate is multiplied by in a step."""
        warmup = self.warmup_epochs * length.steps_of_epoch
        return min(1.0, (step + 1) / warmup) if step < warmup else self.falling(step, length)

    def falling(self, step: int, length: Length) -> float:
        """Return the same for a step after the warm-up."""
        raise NotImplementedError

    def build(self, optimizer: "Optimizer", length: Length) -> "LRScheduler":
        """Return a schedule that looks every step up."""
        from torch.optim.lr_scheduler import LambdaLR

        return LambdaLR(optimizer, lambda step: self.rate(step, length))


@dataclass(frozen=True, kw_only=True)
class Cosine(Warm):
    """Half a cosine from the highest to 0 after the warm-up; again and again where it restarts."""

    kind: str = "cosine"
    restart_epochs: float | None = field(default=None, metadata=ABOVE_ZERO)

    def falling(self, step: int, length: Length) -> float:
        """Return (1 + cos) / 2 at the share of the cycle that is done."""
        warmup = self.warmup_epochs * length.steps_of_epoch
        cycle = length.steps - warmup
        if self.restart_epochs is not None:
            cycle = self.restart_epochs * length.steps_of_epoch
        done = step - warmup if self.restart_epochs is None else math.fmod(step - warmup, cycle)
        return (1 + math.cos(math.pi * min(1.0, done / max(cycle, 1.0)))) / 2

    def stretched(self, factor: float) -> "Cosine":
        """Return the same for another length."""
        restart = None if self.restart_epochs is None else self.restart_epochs * factor
        return replace(self, restart_epochs=restart, warmup_epochs=self.warmup_epochs * factor)


@dataclass(frozen=True, kw_only=True)
class Linear(Warm):
    """A straight line to 0 at the end of the run."""

    kind: str = "linear"

    def falling(self, step: int, length: Length) -> float:
        """Return the share of the steps that is left."""
        return 1 - step / max(length.steps, 1)

    def stretched(self, factor: float) -> "Linear":
        """Return the same for another length."""
        return replace(self, warmup_epochs=self.warmup_epochs * factor)


@dataclass(frozen=True, kw_only=True)
class Steps(Warm):
    """A learning rate that is multiplied by `factor` after each of some epochs."""

    kind: str = "steps"
    after_epochs: tuple[float, ...] = field(metadata=ABOVE_ZERO)
    factor: float = field(metadata=SHARE)

    def falling(self, step: int, length: Length) -> float:
        """Return the factor to the power of the falls so far."""
        return float(self.factor ** sum(step >= epoch * length.steps_of_epoch for epoch in self.after_epochs))

    def stretched(self, factor: float) -> "Steps":
        """Return the same for another length."""
        after = tuple(epoch * factor for epoch in self.after_epochs)
        return replace(self, after_epochs=after, warmup_epochs=self.warmup_epochs * factor)


@dataclass(frozen=True, kw_only=True)
class TorchSchedule(Checked):
    """A schedule of `torch.optim.lr_scheduler`.

    Attributes:
        name: such as "ExponentialLR".
        arguments: by name, behind the optimiser; `{"share": 0.5}` becomes half of the steps of the run.
    """

    table = "schedule"

    kind: str = "torch"
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self, optimizer: "Optimizer", length: Length) -> "LRScheduler":
        """Return it.

        Raises:
            RecipeError: PyTorch has none of this name, or it does not take the arguments.
        """
        from torch.optim import lr_scheduler

        base = lr_scheduler.LRScheduler
        names = {
            name: kind
            for name, kind in vars(lr_scheduler).items()
            if inspect.isclass(kind) and issubclass(kind, base) and not name.startswith("_") and name not in _UNFIT
        }
        if self.name not in names:
            near = did_you_mean(self.name, names)
            why = f"; {self.name} {_UNFIT[self.name]}" if self.name in _UNFIT else near
            raise RecipeError(f"schedule.name: got {self.name!r}, wanted one of {', '.join(sorted(names))}{why}")
        arguments = {name: _in_steps(value, length) for name, value in self.arguments.items()}
        make: Callable[..., LRScheduler] = names[self.name]
        try:
            return make(optimizer, **arguments)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"schedule: {self.name} of PyTorch refuses its arguments: {error}") from None

    def stretched(self, factor: float) -> "TorchSchedule":
        """Return the same: its arguments are PyTorch's business, and shares are of any run."""
        return self


_UNFIT: Mapping[str, str] = {
    "LRScheduler": "is what the others are made of",
    "LambdaLR": "takes a function",
    "MultiplicativeLR": "takes a function",
    "SequentialLR": "takes other schedules",
    "ChainedScheduler": "takes other schedules",
    "ReduceLROnPlateau": "asks for a loss, and schedules are stepped after each batch",
}
"""Classes of `torch.optim.lr_scheduler` that no file can describe, or that are told how training goes."""


def _in_steps(value: Any, length: Length) -> Any:
    if isinstance(value, Mapping) and value.keys() == {"share"}:
        return round(value["share"] * length.steps)
    return value


SCHEDULES: Mapping[str, type[OneCycle | Cosine | Linear | Steps | TorchSchedule]] = {
    "one-cycle": OneCycle,
    "cosine": Cosine,
    "linear": Linear,
    "steps": Steps,
    "torch": TorchSchedule,
}
"""Every schedule by its kind."""
