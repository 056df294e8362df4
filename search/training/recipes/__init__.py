"""Training recipes: every number of a training run, in a readable file for each.

A recipe is added by a file NAME.toml here; docs/training.md lists the keys. `RECIPES` has every recipe by name.

This package imports no framework, so that `--help` can show what is in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_deploy.core.errors import BnasError, RecipeError
from bnas_deploy.core.names import did_you_mean, known_name
from bnas_deploy.search.data.augmentation import Augmentation, ColourJitter
from bnas_deploy.search.training.recipes.reading import SUFFIX, packaged_recipes, read_recipe, recipe_text
from bnas_deploy.search.training.recipes.recipe import LAYERS, Loss, Optimiser, Recipe
from bnas_deploy.search.training.recipes.schedules import OneCycle

__all__ = [
    "ARITHMETICS",
    "LAYERS",
    "RECIPES",
    "RENAMED",
    "Augmentation",
    "ColourJitter",
    "Loss",
    "Optimiser",
    "Recipe",
    "RecipeError",
    "check_known",
    "find_recipe",
    "of_older_run",
    "recipe_file",
    "recipe_text",
]

ARITHMETICS = {
    "float32": "everything in float32",
    "tf32": "convolutions and products round their operands to TF32, which +1 and -1 are in (GPU)",
    "bfloat16": "mixed precision, which also rounds the results",
    "float16": "the same with 11 bits for 8, a smaller range and a scaled loss (GPU, train only)",
}
"""With which arithmetic training or a search computes; see `acceleration`."""


def check_known(arithmetic: str) -> None:
    """Make sure that `arithmetic` is one of `ARITHMETICS`.

    Raises:
        BnasError: it is not.
    """
    if arithmetic not in ARITHMETICS:
        raise BnasError(f"unknown arithmetic {arithmetic!r}; there are {', '.join(ARITHMETICS)}")


class _Recipes(Mapping[str, Recipe]):
    """The recipes that come with this package; each is read when it is asked for."""

    def __getitem__(self, name: str) -> Recipe:
        return read_recipe(packaged_recipes()[name])

    def __iter__(self) -> Iterator[str]:
        return iter(packaged_recipes())

    def __len__(self) -> int:
        return len(packaged_recipes())


RECIPES: Mapping[str, Recipe] = _Recipes()
"""Every recipe by name."""

RENAMED = {"cifar": "cifar-standard", "imagenet": "imagenet-standard"}
"""Names of bnas-deploy 0.1, and the names today."""


def recipe_file(given: str) -> Path:
    """Return the file of a recipe that is named, in any case, or the file that is given; it ends in .toml.

    Raises:
        RecipeError: no recipe has this name.
    """
    if given.endswith(SUFFIX):
        return Path(given)
    files = packaged_recipes()
    name = RENAMED.get(given.lower(), known_name(given, files))
    if name is None:
        raise RecipeError(
            f"unknown recipe {given!r}; the recipes are {', '.join(files)}, or give a file *{SUFFIX}"
            f"{did_you_mean(given, (*files, *RENAMED))}"
        )
    return files[name]


def find_recipe(given: str, changes: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a name or a file, with changes as `read_recipe` takes them.

    Raises:
        RecipeError: there is none, it cannot be read, or something in it or in the changes is wrong.
    """
    return read_recipe(recipe_file(given), changes)


def of_older_run(recipe: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a run that was begun when recipes were not in files yet, from its settings.

    Raises:
        KeyError, TypeError: it is none of those that had a name then.
    """
    then = recipe["optimisation"]
    jitter = recipe["augmentation"]["jitter"]
    return Recipe(
        name=recipe["name"],
        epochs=recipe["epochs"],
        batch_size=recipe["batch_size"],
        optimiser=Optimiser(
            kind="SGD",
            learning_rate=then["peak_learning_rate"],
            weight_decay=then["weight_decay"],
            momentum=then["high_momentum"],
        ),
        schedule=OneCycle(
            start_divisor=round(then["peak_learning_rate"] / then["start_learning_rate"], 9),
            final_learning_rate=then["final_learning_rate"],
            low_momentum=then["low_momentum"],
            rising_share=then["rising_share"],
        ),
        augmentation=Augmentation(**{**recipe["augmentation"], "jitter": jitter and ColourJitter(**jitter)}),
    )
