"""The schedule is checked at its corners, against the figures in the paper."""

import pytest
import torch

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.cells.config import SEARCH_RECIPES
from bnas_deploy.search.data.kinds import DATA_KINDS, training_defaults
from bnas_deploy.search.models.bnas.config import NETWORKS
from bnas_deploy.search.training.recipes import RECIPES, Augmentation, Recipe, Share, TorchOptimisation

RELATIVE = 1e-12  # a handful of float64 operations, 1.1e-16 each


def schedule_of(recipe: Recipe, steps: int) -> list[tuple[float, float]]:
    """(learning rate, momentum) that each step uses."""
    optimizer, schedule = recipe.optimisation.build(torch.nn.Linear(1, 1), steps)
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
    assert (recipe.epochs, recipe.batch_size, recipe.optimisation.weight_decay) == (600, 256, 3e-6)
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
    assert rates[-1] == pytest.approx(recipe.optimisation.final_learning_rate, rel=RELATIVE)


def test_every_data_set_has_defaults_that_exist():
    defaults = training_defaults()
    folders = [kind for kind in DATA_KINDS.values() if kind.takes]
    small = {f"small {name}" for name in ("imagefolder", "torchvision", "hf")}
    assert set(defaults) == {"digits", *(kind.name for kind in folders), *small}
    assert {kind.defaults((224, 224)).network for kind in folders} == {"BNAS-Mini", "BNAS-A", "BNAS-D"}
    assert DATA_KINDS["imagefolder"].defaults((64, 64)) == defaults["imagefolder"]
    assert DATA_KINDS["imagefolder"].defaults((224, 63)) == defaults["small imagefolder"]
    assert DATA_KINDS["digits"].defaults((8, 8)) == defaults["digits"]
    assert {each.network for each in defaults.values()} <= set(NETWORKS)
    assert {each.recipe for each in defaults.values()} <= set(RECIPES)
    assert {kind.search.recipe for kind in DATA_KINDS.values()} <= set(SEARCH_RECIPES)


def test_a_recipe_names_any_optimiser_and_schedule_of_torch():
    optimisation = TorchOptimisation(
        "Adam", {"lr": 0.5, "betas": (0.8, 0.9)}, "CosineAnnealingLR", {"T_max": Share(1.0)}
    )
    optimizer, schedule = optimisation.build(torch.nn.Linear(1, 1), 10)
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert schedule.get_last_lr() == [0.5]
    for _ in range(10):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [pytest.approx(0, abs=1e-15)]  # half a cosine has ended, float64 roundings of 0.5


@pytest.mark.parametrize("field", ["epochs", "batch_size"])
def test_a_recipe_needs_epochs_and_images(field):
    values = {"epochs": 1, "batch_size": 1, field: 0}
    with pytest.raises(BnasError, match=f"recipe mine: {field} must be at least 1, got 0"):
        Recipe("mine", optimisation=RECIPES["cifar"].optimisation, augmentation=Augmentation(), **values)
