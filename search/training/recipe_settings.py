"""A recipe in the settings of a run, which have to be the same when the run is resumed."""

import json
from dataclasses import asdict
from typing import Any

from bnas_deploy.search.training.recipes import Recipe, of_older_run

_LATER = {"weight_average": 0.0}
"""Keys that recipes of older runs lack, and what they stand for."""


def numbers_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as JSON has it, without its name and its summary."""
    numbers: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return {key: value for key, value in numbers.items() if key not in ("name", "summary")}


def as_written_today(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, with its recipes as this version writes them."""
    recipe = settings.get("recipe")
    if not isinstance(recipe, dict):
        return settings
    today = numbers_of(of_older_run(recipe)) if "optimisation" in recipe else {**_LATER, **recipe}
    stages = settings.get("stages")
    if not isinstance(stages, dict):
        return settings | {"recipe": today}
    return settings | {"recipe": today, "stages": {name: {**_LATER, **stage} for name, stage in stages.items()}}
