"""An optimiser and its schedule, tried on a few weights before the run begins.

PyTorch finds some mistakes only in a step. Examples are a schedule that ends before the run, arguments of the wrong
type, and a momentum that comes too late for an optimiser.
"""

import json
import math

import torch
from torch import nn

from bnas_deploy.core.errors import RecipeError
from bnas_deploy.search.training.recipes.recipe import Recipe
from bnas_deploy.search.training.recipes.schedules import Length, TorchSchedule

_STEPS = 100  # of the optimiser, evenly over the run; those of a schedule cost microseconds and are all taken

_LONGEST = 200_000  # steps of a schedule, some seconds


def rehearse(recipe: Recipe, length: Length) -> None:
    """Go through a run of this length with two small weights.

    Raises:
        RecipeError: the optimiser or the schedule cannot be built, a step fails, or a learning rate is no number of at
            least 0.
    """
    weights = [nn.Parameter(torch.ones(2, 2, 1, 1)), nn.Parameter(torch.ones(2))]
    optimizer = recipe.optimiser.build(weights, weights[:1])
    schedule = recipe.schedule.build(optimizer, length)
    # The other schedules have no arguments that could fail later.
    steps = min(length.steps, _LONGEST if isinstance(recipe.schedule, TorchSchedule) else _STEPS)
    for weight in weights:
        weight.grad = torch.full_like(weight, 1e-3)
    what = f"{type(optimizer).__name__} with {type(schedule).__name__}"
    for step in range(steps):
        try:
            if step % math.ceil(steps / _STEPS) == 0:
                optimizer.step()
            schedule.step()
            json.dumps(schedule.state_dict() if step == 0 else None)  # which is saved with the run
        except Exception as error:  # torch raises whatever its arguments lead to
            reason = " ".join(str(error).split()) or "no reason given"
            raise RecipeError(
                f"recipe {recipe.name}: {what} fails in step {step + 1} of {length.steps} ({type(error).__name__}: "
                f"{reason}); change optimiser or schedule"
            ) from None
        rate = optimizer.param_groups[0]["lr"]
        used = step + 1 < length.steps  # that behind the last step is not
        if used and not (isinstance(rate, int | float) and math.isfinite(rate) and rate >= 0):
            raise RecipeError(
                f"recipe {recipe.name}: {what} has a learning rate of {rate} after step {step + 1} of {length.steps}; "
                "wanted a number of at least 0; change the schedule"
            )
