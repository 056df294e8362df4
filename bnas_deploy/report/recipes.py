"""Training recipes as a table."""

from collections.abc import Iterable

from bnas_deploy.report.table import Table
from bnas_deploy.search.training.recipes import Recipe


def recipe_table(recipes: Iterable[Recipe]) -> Table:
    """Return a row for each recipe: what it is for, how long, how big, how."""
    return Table(
        "Training recipes",
        ("recipe", "for", "epochs", "batch", "optimiser", "schedule"),
        tuple(map(_row, recipes)),
        left=frozenset({0, 1, 4, 5}),
        spare=("for",),
    )


def _row(recipe: Recipe) -> tuple[str, ...]:
    optimiser = recipe.optimiser
    return (
        recipe.name,
        recipe.summary,
        str(recipe.epochs),
        str(recipe.batch_size),
        f"{optimiser.kind} {optimiser.learning_rate:g}",
        recipe.schedule.kind,
    )
