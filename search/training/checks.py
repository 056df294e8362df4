"""What a training run is refused for before its first step."""

import torch
from torch import nn

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.nn.drop_path import set_drop_path
from bnas_deploy.search.nn.scheme_layer import binary_weights
from bnas_deploy.search.training.losses import takes_signs
from bnas_deploy.search.training.memory import check_memory, training_need
from bnas_deploy.search.training.recipes import Recipe


class TrainError(BnasError):
    """A training run cannot begin, go on or be resumed."""


def check_images(data: DataSet, config: ModelConfig) -> None:
    """Make sure that a network is for the images of `data`.

    Raises:
        TrainError: it is for others.
    """
    description = data.description
    for what, got, wanted in (
        ("classes", config.classes, description.classes),
        ("channels in", config.in_channels, description.in_channels),
        ("image size", config.image_size, description.image_size),
    ):
        if got != wanted:
            raise TrainError(
                f"{config.name} has {what} {got}, but {description.name} has {wanted}; build it for this data set"
            )


def check_step(
    data: DataSet, config: ModelConfig, recipe: Recipe, device: torch.device, *, processes: int, teacher: bool
) -> None:
    """Refuse a run of which a step would not fit. A `teacher` is a second network beside the one that is trained.

    Raises:
        BnasError: it would take more memory than there is.
    """
    need = training_need(
        lambda: build_network(config),
        lambda network, images: network(images),
        (config.in_channels, *config.image_size),
        more_copies=recipe.optimiser.states() - 1 + bool(recipe.weight_average) + teacher,
    )
    size = "x".join(map(str, config.image_size))
    check_memory(f"{config.name} on images of {size}", need, min(recipe.batch_size, data.train_size), device, processes)


def check_recipe(recipe: Recipe, network: nn.Module, name: str, *, alone: bool) -> None:
    """Refuse a recipe with a part that this network, called `name`, has no place for; `alone`: it has one stage.

    Raises:
        TrainError: it has one.
    """
    if recipe.drop_path and not set_drop_path(network, 0.0):
        raise TrainError(f"drop_path is {recipe.drop_path}, but {name} has no branches to leave out; --set drop_path=0")
    if recipe.loss.attention and not hasattr(network, "blocks"):
        raise TrainError(
            f"loss.attention is {recipe.loss.attention}, but {name} has no blocks for it; --set loss.attention=0"
        )
    if recipe.optimiser.flips and not binary_weights(network):
        raise TrainError(
            f"optimiser.kind is {recipe.optimiser.kind}, but {name} has no binary weights to flip; "
            "--set 'optimiser.kind=\"Adam\"'"
        )
    # Of several stages, those without signs go without it.
    if alone and recipe.loss.activation_distribution and not takes_signs(network):
        raise TrainError(
            f"loss.activation_distribution is {recipe.loss.activation_distribution}, but {name} takes no signs; "
            "--set loss.activation_distribution=0"
        )
