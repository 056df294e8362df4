"""Each kind of value that is not finite is put into a small network, and has to be found at the right place."""

import pytest
import torch
from torch import nn

from bnas_deploy.search.training.not_finite import find_cause

IMAGES = torch.ones(2, 3)


def network(*, weight=1.0, second=1.0):
    layers = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    nn.init.constant_(layers[0].weight, weight)
    nn.init.constant_(layers[1][0].weight, second)
    for layer in (layers[0], layers[1][0]):
        nn.init.zeros_(layer.bias)
    return layers


@pytest.mark.parametrize(
    ("layers", "images", "cause"),
    [
        (network(), IMAGES * float("nan"), "the images of this batch have values that are not finite"),
        (
            network(second=float("inf")),
            IMAGES,
            "the values of 1.0.weight are not finite, so a step before this one moved them too far",
        ),
        (
            network(weight=1e38, second=3e38),
            IMAGES,
            "the first values that are not finite are the output of 1.0, from finite weights (up to 3e+38) and an "
            "input (up to 3e+38)",
        ),
        (network(), IMAGES, "the weights and every layer's output are finite, so it is the loss itself"),
    ],
    ids=["images", "weights", "output", "loss"],
)
def test_the_first_value_that_is_not_finite_is_found(layers, images, cause):
    assert find_cause(layers, images, lambda: layers(images)) == cause
    assert not any(module._forward_hooks for module in layers.modules())


def test_weights_of_several_layers_are_counted():
    layers = network(weight=float("nan"), second=float("nan"))
    assert find_cause(layers, IMAGES, lambda: layers(IMAGES)) == (
        "the values of 0.weight, and of 1 more tensors, are not finite, so a step before this one moved them too far"
    )


def test_what_no_layer_computes_is_found_at_the_next_layer():
    class Divided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x / 0)

    layers = Divided()
    assert find_cause(layers, IMAGES, lambda: layers(IMAGES)) == (
        "the first values that are not finite are the input of layer; the weights of all layers are finite"
    )
