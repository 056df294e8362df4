"""The options of a training recipe: which, what is changed in it, and how long."""

import click

from bnas_deploy.commands.options import Decorator, all_of

# These import no framework.
from bnas_deploy.search.training.recipes import RENAMED, recipe_file


def recipe_file_options(default: str) -> Decorator:
    """Return --recipe, --set, --epochs and --batch-size; `default` says which recipe is taken if none is given."""
    return all_of(
        click.option(
            "--recipe",
            metavar="NAME|FILE",
            callback=_known,
            show_default=default,
            help="Training recipe: one that `bnas-deploy recipes` lists, or a file *.toml.",
        ),
        click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a key of the recipe, such as optimiser.learning_rate=0.01; may be repeated.",
        ),
        click.option(
            "--epochs",
            type=click.IntRange(min=1),
            show_default="from the recipe",
            help="Passes over the training images; what the recipe counts in epochs keeps its share.",
        ),
        click.option(
            "--batch-size", type=click.IntRange(min=1), show_default="from the recipe", help="Images per step."
        ),
    )


def _known(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Refuse a recipe that is not there before anything is done."""
    if value is None:
        return None
    recipe_file(value)
    tell_new_name(value)
    return value


def tell_new_name(given: str) -> None:
    """Tell what a recipe is called today that is called by its old name."""
    if (name := RENAMED.get(given.lower())) is not None:
        click.echo(f"The recipe {given} is now called {name}; `bnas-deploy recipes {name}` shows it.", err=True)
