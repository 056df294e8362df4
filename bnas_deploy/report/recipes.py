"""Training recipes as a table."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bnas_deploy.report.table import Table
from bnas_deploy.search.training.recipes import LAYERS, Recipe

if TYPE_CHECKING:
    from bnas_deploy.search.training.stages import FinishedStage


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
        " + ".join(str(stage.epochs) for stage in recipe.all_stages),
        str(recipe.batch_size),
        f"{optimiser.kind} {optimiser.learning_rate:g}",
        recipe.schedule.kind,
    )


def stage_table(stages: "Iterable[FinishedStage]") -> Table:
    """Return a row for each finished stage of a run: what was trained, how long, and the accuracies at its end."""
    return Table(
        "Stages",
        ("stage", "layers", "epochs", "training", "test", "best test"),
        tuple(
            (
                stage.name,
                LAYERS[stage.layers],
                str(stage.epochs),
                *(f"{share:.2%}" for share in (stage.train_accuracy, stage.test_accuracy, stage.best_test_accuracy)),
            )
            for stage in stages
        ),
        left=frozenset({0, 1}),
        note="Accuracies after the last epoch, and the best on the test images of all epochs.",
        spare=("training",),
    )
