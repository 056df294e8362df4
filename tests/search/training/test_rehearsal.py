"""Every optimiser with every schedule either trains and is resumed to the bit, or is refused before a run begins."""

import inspect
from dataclasses import replace

import pytest
import torch

from bnas_deploy.core.errors import RecipeError
from bnas_deploy.search.training.recipes import RECIPES, Optimiser, find_recipe
from bnas_deploy.search.training.recipes.recipe import LEARNING_RATES, UNFIT
from bnas_deploy.search.training.recipes.schedules import Cosine, Length, Linear, OneCycle, Steps, TorchSchedule
from bnas_deploy.search.training.rehearsal import rehearse

DIGITS = RECIPES["digits"]

SCHEDULES = {
    "one-cycle": OneCycle(start_divisor=20.0, final_learning_rate=1e-6),
    "cosine": Cosine(),
    "linear": Linear(warmup_epochs=0.5),
    "steps": Steps(after_epochs=(1.0,), factor=0.1),
    "ConstantLR": TorchSchedule(name="ConstantLR"),
    "CosineAnnealingLR": TorchSchedule(name="CosineAnnealingLR", arguments={"T_max": {"share": 1.0}}),
    "CosineAnnealingWarmRestarts": TorchSchedule(name="CosineAnnealingWarmRestarts", arguments={"T_0": 3}),
    "CyclicLR": TorchSchedule(
        name="CyclicLR", arguments={"base_lr": 1e-4, "max_lr": 1e-3, "step_size_up": 2, "cycle_momentum": False}
    ),
    "ExponentialLR": TorchSchedule(name="ExponentialLR", arguments={"gamma": 0.9}),
    "LinearLR": TorchSchedule(name="LinearLR"),
    "MultiStepLR": TorchSchedule(name="MultiStepLR", arguments={"milestones": [2, 4]}),
    "OneCycleLR": TorchSchedule(
        name="OneCycleLR", arguments={"max_lr": 0.1, "total_steps": {"share": 1.0}, "cycle_momentum": False}
    ),
    "PolynomialLR": TorchSchedule(name="PolynomialLR"),
    "StepLR": TorchSchedule(name="StepLR", arguments={"step_size": 2}),
}


def with_parts(optimiser, schedule):
    return replace(DIGITS, optimiser=optimiser, schedule=schedule)


def test_the_optimisers_are_those_of_torch_with_its_learning_rates():
    kinds = {name: each for name, each in vars(torch.optim).items() if inspect.isclass(each) and name != "Optimizer"}
    assert {*LEARNING_RATES, *UNFIT} == {*kinds, "Bop"}
    for kind, rate in LEARNING_RATES.items():
        if kind != "Bop":
            assert inspect.signature(kinds[kind]).parameters["lr"].default == rate, kind


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", LEARNING_RATES)
def test_every_optimiser_goes_with_every_schedule(kind, name):
    rehearse(with_parts(Optimiser(kind=kind, learning_rate=1e-3), SCHEDULES[name]), Length(2, 5))


@pytest.mark.parametrize("kind", LEARNING_RATES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_any_optimiser_takes_the_place_of_a_recipes(recipe, kind):
    changed = find_recipe(recipe, [f'optimiser.kind="{kind}"'])
    if kind != RECIPES[recipe].optimiser.kind:
        assert changed.optimiser == Optimiser(kind=kind, learning_rate=LEARNING_RATES[kind])
    rehearse(changed, Length(2, 5))
    for stage in changed.stages:
        rehearse(stage, Length(2, 5))


@pytest.mark.parametrize("kind", UNFIT)
def test_an_optimiser_that_cannot_train_is_not_offered_and_says_why(kind):
    with pytest.raises(RecipeError, match=rf"wanted one of [^;]*SGD; {kind} {UNFIT[kind]}"):
        find_recipe("digits", [f'optimiser.kind="{kind}"'])


def test_a_misspelt_optimiser_is_named_first():
    with pytest.raises(RecipeError, match=r"optimiser.kind: got 'Adm', wanted one of .*; did you mean Adam\?"):
        find_recipe("digits", ['optimiser.kind="Adm"'])


@pytest.mark.parametrize(
    "changes",
    [
        ['optimiser={kind="RMSprop", learning_rate=0.005}'],
        ["schedule.low_momentum=0.5", 'optimiser.kind="RMSprop"', "optimiser.momentum=0.9"],
        ['stages.signs.optimiser.kind="RMSprop"'],
    ],
)
def test_the_momentum_of_a_schedule_goes_with_its_optimiser(changes, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('like = "digits"\n[stages.signs]\nlayers = "float-weights"\n')
    recipe = find_recipe(str(path), changes)
    assert {each.optimiser.kind: each.schedule.low_momentum for each in recipe.all_stages} in (
        {"RMSprop": None},
        {"RMSprop": 0.5},
        {"RMSprop": None, "SGD": 0.85},
    )
    for each in recipe.all_stages:
        rehearse(each, Length(2, 5))


@pytest.mark.parametrize(
    ("optimiser", "schedule", "message"),
    [
        (
            Optimiser(kind="RMSprop", learning_rate=0.1),
            DIGITS.schedule,
            "schedule.low_momentum: got 0.85, and the momentum of RMSprop is 0; --set schedule.low_momentum=false, or",
        ),
        (
            Optimiser(kind="SGD", learning_rate=0.1),
            TorchSchedule(name="OneCycleLR", arguments={"max_lr": 0.1, "total_steps": {"share": 0.5}}),
            r"recipe digits: SGD with OneCycleLR fails in step 6 of 10 \(ValueError: Tried to step .*change optimiser",
        ),
        (
            Optimiser(kind="RMSprop", learning_rate=0.1),
            TorchSchedule(
                name="OneCycleLR",
                arguments={"max_lr": 0.1, "total_steps": 10, "base_momentum": 0.5, "max_momentum": 0.0},
            ),
            r"RMSprop with OneCycleLR fails in step 2 of 10 \(KeyError: 'momentum_buffer'\)",
        ),
        (
            Optimiser(kind="SGD", learning_rate=0.1),
            TorchSchedule(name="StepLR", arguments={"step_size": 0}),
            r"SGD with StepLR .*ZeroDivisionError",
        ),
        (
            Optimiser(kind="SGD", learning_rate=0.1),
            TorchSchedule(name="ExponentialLR", arguments={"gamma": -1.0}),
            "SGD with ExponentialLR has a learning rate of -0.1 after step 1 of 10; wanted a number of at least 0",
        ),
        (
            Optimiser(kind="SGD", learning_rate=0.1, arguments={"maximize": "x", "foreach": "y"}),
            TorchSchedule(name="StepLR", arguments={"step_size": "2"}),
            "SGD with StepLR fails in step 1 of 10|refuses its arguments",
        ),
    ],
)
def test_what_would_fail_in_a_step_is_refused_before(optimiser, schedule, message):
    with pytest.raises(RecipeError, match=message):
        rehearse(with_parts(optimiser, schedule), Length(2, 5))
