"""Functions of one number with few values and one step between each two: what a packed activation is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas_deploy.export.bounds import ROUNDING
from bnas_deploy.export.foreign.program import Evaluated, Function
from bnas_deploy.export.passes.threshold import threshold_of

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

MOST_LEVELS = 4
"""Each step is a convolution of its own; more levels than these are left to float arithmetic."""

ESTIMATOR_ROUNDINGS = 4
"""`sign(x) - g(x) + g(x)`, as gradients are written by hand, is rounded twice by u times its largest term; the sum of
two such terms in `g` is rounded as well."""

NEAR = 8
"""Up to this magnitude a function that rounds shows its levels."""

WIDE = np.float32(2.0**20)
"""Up to this magnitude a function that rounds is looked at; past it `sign(x) - x + x` has no level left."""


@dataclass(frozen=True)
class Steps:
    """A channel c of f is levels[k] with k the number of steps that are passed.

    Step k is passed where (x >= thresholds[k, c]) != falling[c]; so a falling channel comes down as x grows.

    Attributes:
        levels: ascending, 2 to MOST_LEVELS.
        thresholds: (len(levels) - 1, C) float32.
        falling: (C).
        exact: f gives the levels to the bit; else within the roundings of its own arithmetic.
        lowest: no x is below.
    """

    levels: tuple[float, ...]
    thresholds: Floats
    falling: NDArray[np.bool_]
    exact: bool
    lowest: float

    def __call__(self, x: Floats) -> Floats:
        """Return f of x, (P, C)."""
        passed = ((x[None] >= self.thresholds[:, None]) != self.falling).sum(axis=0)
        values: Floats = np.asarray(self.levels, np.float32)[passed]
        return values

    def of(self, x: Tensor, axis: int) -> Tensor:
        """Return f of x, whose channels are along `axis`."""
        moved = x.movedim(axis, -1)
        levels = self(moved.reshape(-1, moved.shape[-1]).numpy())
        return torch.from_numpy(levels).reshape(moved.shape).movedim(-1, axis)

    @property
    def middle(self) -> float:
        """Half the way from the lowest level to the highest."""
        return (self.levels[0] + self.levels[-1]) / 2

    @property
    def heights(self) -> tuple[float, ...]:
        """Half of each step: f = middle + the sum of heights[k] * S_k, where S_k is 1 where k is passed, else -1."""
        return tuple((upper - lower) / 2 for lower, upper in pairwise(self.levels))

    @property
    def is_sign(self) -> bool:
        """Tell whether f is torch.sign but for a factor: 0 at 0 alone."""
        if len(self.levels) != 3 or self.levels[1] != 0 or self.levels[0] != -self.levels[2]:
            return False
        at_zero, behind = self.thresholds if not self.falling.any() else self.thresholds[::-1]
        return not at_zero.any() and bool((behind == np.nextafter(np.float32(0), np.float32(1))).all())

    def without_zero(self) -> "Steps":
        """Return a sign with two levels instead of three, the same but at 0."""
        assert self.is_sign
        zeros = np.zeros_like(self.thresholds[:1])
        return replace(self, levels=(self.levels[0], self.levels[2]), thresholds=zeros)


def joined_steps(parts: Sequence[Steps]) -> Steps:
    """Return the steps of channels that are joined, with all levels that any of them has.

    A step between two of all levels is, for a channel, the one of its own that passes both; or it is always passed,
    where both are below its lowest level, or never, above its highest.

    Raises:
        NoSteps: these are many levels.
    """
    levels = tuple(sorted({level for part in parts for level in part.levels}))
    if len(levels) > MOST_LEVELS:
        raise NoSteps(f"its parts have the {len(levels)} values {_listed(levels)}")
    rows = [np.stack([_at_step(part, lower, upper) for lower, upper in pairwise(levels)]) for part in parts]
    return Steps(
        levels,
        np.concatenate(rows, axis=1),
        np.concatenate([part.falling for part in parts]),
        all(part.exact for part in parts),
        min(part.lowest for part in parts),
    )


def _at_step(part: Steps, lower: float, upper: float) -> Floats:
    """Return the thresholds (C) at which a part of joined channels goes from `lower` or less to `upper` or more."""
    infinite = np.where(part.falling, -np.inf, np.inf).astype(np.float32)
    if upper <= part.levels[0]:
        return -infinite
    if lower >= part.levels[-1]:
        return infinite
    thresholds: Floats = part.thresholds[max(number for number, level in enumerate(part.levels) if level <= lower)]
    return thresholds


class NoSteps(Exception):  # noqa: N818  # no mistake of anybody's: it says what a function is not
    """A function has no few values with one step between each two; the message says what it has."""


def steps_of(function: Function) -> Steps:
    """Find the levels of a function and, by bisection over the floats, where it steps, exactly.

    Then what was found is compared with the function at both zeros, at all magnitudes, around each threshold and at
    random.

    Raises:
        NoSteps: it is another function.
        NotElementwise: it is none of single elements.
    """
    probes = _with_columns(_magnitudes(), function.channels)
    found = function(torch.from_numpy(probes))
    try:
        return _confirmed(function, probes, _exact_levels(found), exact=True)
    except NoSteps as reason:
        # An estimator such as sign(x) - x + x has no level left where x is large, and near 0 it rounds.
        levels = _rounded_levels(function, probes, found)
        if levels is None:
            raise reason from None
        return _confirmed(function, probes, levels, exact=False)


def _confirmed(function: Function, probes: Floats, levels: tuple[float, ...], *, exact: bool) -> Steps:
    for _ in range(MOST_LEVELS):
        found = _stepped(function, levels, exact)
        missed = _missed(function, found, np.concatenate([probes, _around(found.thresholds)]))
        if missed is None:
            return found
        if not exact or missed in levels or len(levels) == MOST_LEVELS:
            break
        levels = tuple(sorted((*levels, missed)))  # one that it has at a single float, such as sign(x + b) at -b
    raise NoSteps(f"it goes up and down between {_listed(levels)}")


def _exact_levels(found: Evaluated) -> tuple[float, ...]:
    """Return the values that a function has at the probes.

    Raises:
        NoSteps: they are one, or many.
    """
    unique = np.unique(found.value.numpy()) + np.float32(0)  # -0.0 is 0.0
    levels = tuple(sorted({float(level) for level in unique}))
    if not np.isfinite(levels).all():
        raise NoSteps("it is infinite or no number somewhere")
    if len(levels) == 1:
        raise NoSteps(f"it is {levels[0]:g} everywhere")
    if len(levels) > MOST_LEVELS:
        if all(len(np.unique(column)) <= MOST_LEVELS for column in found.value.numpy().T):
            raise NoSteps("its levels differ from channel to channel, and a packed convolution has one scale for all")
        raise NoSteps(f"it takes more than {MOST_LEVELS} values, from {levels[0]:g} to {levels[-1]:g}")
    return levels


def _rounded_levels(function: Function, probes: Floats, found: Evaluated) -> tuple[float, ...] | None:
    """Return the levels that the values of a function near 0 are within rounding of; None if they are many."""
    near, values = np.abs(probes) <= NEAR, found.value.numpy()
    rough = np.unique(values[near])
    if not np.isfinite(rough).all():
        return None
    width = 2 * ESTIMATOR_ROUNDINGS * ROUNDING * float(found.largest.double().numpy()[near].max())
    groups = np.split(rough, np.flatnonzero(np.diff(rough) > width) + 1)
    if not 2 <= len(groups) <= MOST_LEVELS or any(group[-1] - group[0] > width for group in groups):
        return None
    # In float64 the estimator's roundings are 2^-29 as large, and what is left is the level.
    precise = function(torch.from_numpy(probes), torch.float64).value.numpy()
    members = (near & (values >= group[0]) & (values <= group[-1]) for group in groups)
    return tuple(float(np.float32(np.median(precise[each]))) + 0.0 for each in members)


def _stepped(function: Function, levels: tuple[float, ...], exact: bool) -> Steps:
    """Bisect each step; the function is taken for a monotone one."""
    bound = np.finfo(np.float32).max if exact else WIDE

    def value(x: Floats) -> Floats:
        clipped = torch.from_numpy(np.clip(x, -bound, bound).reshape(1, -1))
        values: Floats = function(clipped).value.numpy()[0]
        return values

    middles = [np.float32((lower + upper) / 2) for lower, upper in pairwise(levels)]
    found = [threshold_of(value, np.full(function.channels, middle, np.float32)) for middle in middles]
    # A channel that never passes a step says nothing about its direction: x >= -inf, or the opposite of it.
    moving = np.stack([np.isfinite(each.level) for each in found])
    flips = np.stack([each.flip for each in found])
    falling = (flips & moving).any(axis=0)
    level = np.stack([each.level for each in found])
    always = ~moving & ~flips
    never = ~moving & flips
    level = np.where(always, np.where(falling, np.inf, -np.inf), level)
    level = np.where(never, np.where(falling, -np.inf, np.inf), level).astype(np.float32)
    return Steps(levels, level + np.float32(0), falling, exact, function.lowest)  # -0.0 is 0.0


def _missed(function: Function, found: Steps, probes: Floats) -> float | None:
    """Return what the function has where it was found to be something else; None if that is nowhere."""
    probes = np.maximum(probes, np.float32(function.lowest))
    value = function(torch.from_numpy(probes))
    got, want = value.value.numpy(), found(probes)
    with np.errstate(invalid="ignore"):
        difference = np.abs(got.astype(np.float64) - want)
    allowed = np.zeros(()) if found.exact else ESTIMATOR_ROUNDINGS * ROUNDING * value.largest.double().numpy()
    # Where the estimator overflows to NaN, as x * x * 0 does, there is no value to miss.
    wrong = ~(difference <= allowed) & ~(np.isnan(got) & ~np.isfinite(allowed))
    wrong &= ~((probes == 0) & np.signbit(probes))  # -0.0 counts as 0.0; real ones are counted on the images
    return float(got[wrong][0]) if wrong.any() else None


@lru_cache(maxsize=1)
def _magnitudes() -> Floats:
    """Return floats (P) of every magnitude and both signs."""
    rng = np.random.default_rng(0)
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
    random = np.exp2(rng.uniform(-30, 30, 128)).astype(np.float32)
    steady = np.concatenate([np.linspace(0, 8, 129), [0.1, 0.3, 0.7, 0.9, 1.1, 9, 100, 1e4]]).astype(np.float32)
    positive = np.concatenate([powers, random, steady, [np.finfo(np.float32).max]]).astype(np.float32)
    return np.concatenate([positive, -positive]).astype(np.float32)


def sampled() -> str:
    """Say at which numbers a function is looked at, for the report: what lies between them is seen on images alone."""
    numbers = _magnitudes()
    least, most = numbers[numbers > 0].min(), numbers.max()
    return (
        f"recognised layers: what makes their activations was computed for {len(numbers):,} numbers of magnitudes from "
        f"{least:.0e} to {most:.0e}, and for those around each threshold; what is otherwise for a few numbers between "
        "them is seen only where the images have such"
    )


def _with_columns(values: Floats, channels: int) -> Floats:
    return np.repeat(values[:, None], channels, axis=1)


def _around(thresholds: Floats) -> Floats:
    """Return the floats next to thresholds (K, C), and others near them: (P, C)."""
    limit = np.finfo(np.float32).max
    center = np.clip(thresholds, -limit / 4, limit / 4)  # what is added below stays finite
    found = [center]
    up = down = center
    for _ in range(3):
        up, down = np.nextafter(up, limit), np.nextafter(down, -limit)
        found += [up, down]
    for part in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1, 3):
        step = np.float32(part) * np.maximum(np.abs(center), np.float32(1))
        found += [center + step, center - step]
    return np.clip(np.concatenate(found), -limit, limit).astype(np.float32)


def _listed(levels: tuple[float, ...]) -> str:
    return " and ".join([", ".join(f"{level:g}" for level in levels[:-1]), f"{levels[-1]:g}"])
