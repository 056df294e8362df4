"""Bop against a loop over numbers, and what a recipe says of it."""

import pytest
import torch
from torch import nn

from bnas_deploy.core.errors import RecipeError
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import FloatWeights
from bnas_deploy.search.nn.scheme_layer import binary_weights
from bnas_deploy.search.nn.schemes import named_scheme
from bnas_deploy.search.training.bop import Bop
from bnas_deploy.search.training.recipes import Optimiser

GAMMA, THRESHOLD = 0.3, 0.05


def test_a_weight_flips_down_the_gradient() -> None:
    torch.manual_seed(0)
    weight, other = nn.Parameter(torch.randn(5, dtype=torch.float64)), nn.Parameter(torch.randn(3))
    twin = nn.Parameter(other.detach().clone())
    optimizer = Bop([weight, other], lr=0.02, binary=[weight], gamma=GAMMA, threshold=THRESHOLD)
    adam = torch.optim.Adam([twin], lr=0.02)
    values, means = [1.0 if value >= 0 else -1.0 for value in weight.tolist()], [0.0] * 5
    flips = 0
    for _ in range(20):
        weight.grad, other.grad = torch.randn(5, dtype=torch.float64), torch.randn(3)
        twin.grad = other.grad.clone()
        for index, gradient in enumerate(weight.grad.tolist()):
            means[index] = (1 - GAMMA) * means[index] + GAMMA * gradient
            if abs(means[index]) > THRESHOLD and (means[index] > 0) == (values[index] > 0):
                values[index] = -values[index]
                flips += 1
        optimizer.step()
        adam.step()
        assert weight.tolist() == values
        assert torch.equal(other, twin)
    assert flips > 5


def test_a_step_with_a_closure_and_without_gradients() -> None:
    weight = nn.Parameter(torch.randn(3))
    optimizer = Bop([weight], binary=[weight])
    before = weight.detach().clone()
    assert optimizer.step(lambda: 2.0) == 2.0
    assert torch.equal(weight, before)
    assert len(optimizer.param_groups) == 1


def test_binary_weights_are_found_once() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        BinaryConv2d(4, 4, 1),
        BinaryConv2d(4, 4, 1, scheme=FloatWeights()),
        named_scheme("abc-net").convolution(Geometry.of(4, 4, 1)),
    )
    found = binary_weights(network)
    assert [weight is other for weight, other in zip(found, (network[1].weight, network[3].real_weight()), strict=True)]


def test_a_recipe_names_it() -> None:
    optimiser = Optimiser(kind="Bop", learning_rate=0.01, arguments={"gamma": GAMMA, "threshold": THRESHOLD})
    weight, other = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
    built = optimiser.build([other, weight], [weight])
    assert isinstance(built, Bop)
    assert [(group["flips"], len(group["params"])) for group in built.param_groups] == [(False, 1), (True, 1)]
    assert built.param_groups[1]["gamma"] == GAMMA
    assert optimiser.states() == 2  # of Adam


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.0}, "optimiser: Bop refuses its arguments: gamma is 0.0, wanted more than 0 and at most 1"),
        ({"threshold": -1.0}, "optimiser: Bop refuses its arguments: threshold is -1.0, wanted at least 0"),
        (
            {"binary": []},
            "optimiser.arguments.binary: Bop does not take it; it takes gamma, threshold, betas, eps, weight_decay",
        ),
    ],
)
def test_wrong_arguments(arguments, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Optimiser(kind="Bop", learning_rate=0.01, arguments=arguments).build([nn.Parameter(torch.zeros(1))])
