"""The schedule is checked at its corners, against the figures in the paper."""

import pytest
import torch

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.data import FOLDER_KINDS
from bnas_deploy.search.models.bnas.config import NETWORKS
from bnas_deploy.search.training.recipes import DEFAULTS, RECIPES, Augmentation, Recipe, defaults_of
from bnas_deploy.search.training.train import build_optimizer

RELATIVE = 1e-12  # a handful of float64 operations, 1.1e-16 each


def schedule_of(recipe: Recipe, steps: int) -> list[tuple[float, float]]:
    """(learning rate, momentum) that each step uses."""
    optimizer, schedule = build_optimizer(recipe.scheme, torch.nn.Linear(1, 1), steps)
    used = []
    for _ in range(steps):
        used.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        schedule.step()
    return used


def test_the_cifar_recipe_is_the_papers():
    recipe = RECIPES["cifar"]
    steps = 1000
    used = schedule_of(recipe, steps)
    assert (recipe.epochs, recipe.batch_size, recipe.scheme.weight_decay) == (600, 256, 3e-6)
    # torch's phases end at steps .45 n - 1, .9 n - 2 and n - 1.
    assert used[0] == pytest.approx((0.0025, 0.95), rel=RELATIVE)
    assert used[449] == pytest.approx((0.05, 0.85), rel=RELATIVE)
    assert used[898] == pytest.approx((0.0025, 0.95), rel=RELATIVE)
    assert used[999] == pytest.approx((4e-4, 0.95), rel=RELATIVE)


def test_each_phase_is_a_straight_line():
    rates = [rate for rate, _ in schedule_of(RECIPES["cifar"], 1000)]
    for first, last in ((0, 449), (449, 898), (898, 999)):
        middle = rates[first] + (rates[last] - rates[first]) / (last - first)
        assert rates[first + 1] == pytest.approx(middle, rel=RELATIVE)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
def test_the_learning_rate_is_always_positive_and_ends_at_the_lowest(recipe, steps):
    rates = [rate for rate, _ in schedule_of(recipe, steps)]
    assert min(rates) > 0
    assert rates[-1] == pytest.approx(recipe.scheme.final_learning_rate, rel=RELATIVE)


def test_every_data_set_has_defaults_that_exist():
    assert set(DEFAULTS) == {"digits", *FOLDER_KINDS, "small imagefolder"}
    assert {defaults_of(kind, (224, 224)).network for kind in FOLDER_KINDS} == {"BNAS-A", "BNAS-D"}
    assert defaults_of("imagefolder", (64, 64)) == DEFAULTS["imagefolder"]
    assert defaults_of("imagefolder", (224, 63)) == DEFAULTS["small imagefolder"]
    assert defaults_of("digits", (8, 8)) == DEFAULTS["digits"]
    assert {defaults.network for defaults in DEFAULTS.values()} <= set(NETWORKS)
    assert {defaults.recipe for defaults in DEFAULTS.values()} <= set(RECIPES)


@pytest.mark.parametrize("field", ["epochs", "batch_size"])
def test_a_recipe_needs_epochs_and_images(field):
    values = {"epochs": 1, "batch_size": 1, field: 0}
    with pytest.raises(BnasError, match=f"recipe mine: {field} must be at least 1, got 0"):
        Recipe("mine", scheme=RECIPES["cifar"].scheme, augmentation=Augmentation(), **values)
