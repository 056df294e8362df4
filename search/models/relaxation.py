"""What a stage of training has in the place of binary layers, for every family. Importing it imports no framework."""

from typing import TYPE_CHECKING

from bnas_deploy.core.errors import BnasError

if TYPE_CHECKING:
    from torch import nn

RELAXED = {
    "float-weights": "signs of activations, float weights",
    "tanh": "tanh of activations, float weights",
}
"""The ways to relax binary layers by name; the network keeps its parameters."""


def check_relaxed(relaxed: str | None, name: str, *, is_float: bool) -> None:
    """Check the way of a configuration; None is for binary layers as they are.

    Raises:
        BnasError: there is no such way, or the network is a float twin.
    """
    if relaxed is not None and (relaxed not in RELAXED or is_float):
        raise BnasError(f"{name}: relaxed is {relaxed!r}; a network of binary layers can have {', '.join(RELAXED)}")


def relax_layers(network: "nn.Module", relaxed: str | None) -> None:
    """Put what `relaxed` says in the place of every binary layer of a network."""
    if relaxed is None:
        return
    from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryWeightConv2d
    from bnas_deploy.search.nn.scheme import FloatTanh, FloatWeights

    kind = {"float-weights": FloatWeights, "tanh": FloatTanh}[relaxed]
    for layer in network.modules():
        if isinstance(layer, BinaryConv2d | BinaryWeightConv2d) and layer.scheme.weight_bits == 1:
            layer.set_scheme(kind(of=layer.scheme))
