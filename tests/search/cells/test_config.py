"""Spaces, defaults, and settings that cannot be searched with."""

from dataclasses import replace

import pytest

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import OPERATIONS
from bnas_deploy.search.cells.config import (
    PUBLISHED_DIVERSITY_SHARE,
    SEARCH_RECIPES,
    STRATEGIES,
    SearchConfig,
    SupernetConfig,
)
from bnas_deploy.search.cells.space import SPACES, SearchSpace, SpaceError
from bnas_deploy.search.data.kinds import DATA_KINDS

NETWORK = SupernetConfig(SPACES["bnas"], cells=8, channels=16, classes=10, in_channels=3, image_size=(32, 32))
CONFIG = SearchConfig(NETWORK, SEARCH_RECIPES["cifar"])


def test_the_published_search():
    """BNAS v2, "Details on Searching Architectures", and DARTS for the rest."""
    recipe = SEARCH_RECIPES[DATA_KINDS["cifar10"].search.recipe]
    assert (DATA_KINDS["cifar10"].search.cells, DATA_KINDS["cifar10"].search.channels) == (8, 16)
    assert (recipe.epochs, recipe.batch_size) == (50, 64)
    assert (recipe.first_learning_rate, recipe.last_learning_rate, recipe.momentum) == (0.025, 0.001, 0.9)
    assert recipe.weight_decay == 3e-4
    assert (recipe.alpha_learning_rate, recipe.alpha_betas, recipe.alpha_weight_decay) == (3e-4, (0.5, 0.999), 1e-3)
    assert pytest.approx(7.7) == PUBLISHED_DIVERSITY_SHARE * recipe.epochs
    assert STRATEGIES["bnas"].diversity == 1.0
    assert SPACES["bnas"].operations == OPERATIONS


def test_ablations_of_the_space():
    space = SPACES["bnas"]
    assert space.without_dilated().operations == (
        *("none", "max_pool_3x3", "avg_pool_3x3"),
        *("bin_conv_3x3", "bin_conv_5x5"),
    )
    assert space.with_separable().operations == (*OPERATIONS, "bin_sep_conv_3x3", "bin_sep_conv_5x5")
    assert SPACES["darts"].with_separable() == SPACES["darts"]
    assert space.learnable == (False, False, False, True, True, True, True)


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (
            ("none", "conv"),
            "unknown operation 'conv' in the search space; there are none, max_pool_3x3, .*bats_dil_con",
        ),
        (("none", "bin_conv_3x3", "none"), "operation 'none' is twice in the search space; name each once"),
        (("none",), "a search space of none; at least two operations are needed"),
        ((), "a search space of nothing; at least two"),
    ],
)
def test_refused_spaces(operations, message):
    with pytest.raises(SpaceError, match=message):
        SearchSpace(operations)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": 2}, "a search with 2 cells; at least 3 are needed, two of them reduce"),
        ({"channels": 0}, "a search with channels 0; at least 1 is needed"),
        ({"image_size": (28, 30)}, "images of 28x30; the two reduction cells of a search need multiples of 4"),
        ({"precision": "int8"}, "unknown precision 'int8'; there are binary, float, binary-activations"),
        (
            {"space": SPACES["bats"]},
            r"the supernet \(--channels\): 16 channels cannot be shared among the 12 groups of bats_conv_3x3; choose a "
            "multiple of 12, such as 24",
        ),
    ],
)
def test_refused_supernets(changes, message):
    with pytest.raises(BnasError, match=message):
        replace(NETWORK, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "enas"}, "unknown search strategy 'enas'; there are bnas, darts, snas, gdas"),
        ({"gamma": 0.0}, "a search with gamma 0.0; a positive number is needed"),
        ({"diversity": -1.0}, "a search with diversity -1.0; 0 or a positive number"),
        ({"diversity_epochs": float("nan")}, "a search with diversity_epochs nan; a positive"),
        (
            {"gamma": 3.0, "network": replace(NETWORK, space=SearchSpace(("max_pool_3x3", "bin_conv_3x3")))},
            "gamma is 3.0, but the search space has no Zeroise for it",
        ),
        (
            {"network": replace(NETWORK, deviations=("real-last-two",))},
            "unknown deviation 'real-last-two' of a search; there are centre-weights, .*genotype-from-epoch-start",
        ),
    ],
)
def test_refused_searches(changes, message):
    with pytest.raises(BnasError, match=message):
        replace(CONFIG, **changes)


def test_a_recipe_without_epochs_is_refused():
    with pytest.raises(BnasError, match="search recipe cifar: epochs must be at least 1, got 0"):
        replace(SEARCH_RECIPES["cifar"], epochs=0)
