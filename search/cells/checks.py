"""What a search is refused for before its first step."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from bnas_deploy.core.errors import BnasError, DataError
from bnas_deploy.core.genotype import LEARNABLE, ZEROISE
from bnas_deploy.search.cells.config import SearchConfig
from bnas_deploy.search.cells.space import EDGES, SearchSpace
from bnas_deploy.search.cells.strategies import build_strategy
from bnas_deploy.search.cells.supernet import Mixture, Supernet
from bnas_deploy.search.data.dataset import InMemoryDataSet
from bnas_deploy.search.training.memory import check_memory, training_need


class SearchError(BnasError):
    """A search cannot begin, go on or be resumed."""


def check_images(data: InMemoryDataSet, config: SearchConfig) -> None:
    """Make sure that the supernet is for these images, and that each half of them fills a batch.

    Raises:
        SearchError: the supernet is for other images.
        DataError: there are too few, or the recipe does not suit them.
    """
    description = data.description
    network = config.network
    for what, got, wanted in (
        ("classes", network.classes, description.classes),
        ("channels in", network.in_channels, description.in_channels),
        ("image size", network.image_size, description.image_size),
    ):
        if got != wanted:
            raise SearchError(f"the supernet has {what} {got}, but {description.name} has {wanted}")
    data.check(config.recipe.augmentation)
    half = data.train_size // 2
    if half < config.recipe.batch_size:
        raise DataError(
            f"{description.name}: {data.train_size} training images, so that each half of a search has {half}, fewer "
            f"than one batch of {config.recipe.batch_size}; use a larger data set or a smaller --batch-size"
        )


def check_step(config: SearchConfig, device: torch.device, processes: int = 1) -> None:
    """Refuse a search of which a step would not fit. Where one operation of an edge runs at a time, so it is counted.

    Raises:
        BnasError: it would take more memory than there is.
    """
    network = config.network
    ran = network
    if build_strategy(config).single:
        operations = [name for name in network.space.operations if name != ZEROISE]
        one = next((name for name in operations if name in LEARNABLE), operations[0])
        ran = replace(network, space=SearchSpace((one, ZEROISE)))

    def forward(supernet: nn.Module, images: Tensor) -> Tensor:
        # Of a step that would move both, which takes no less than either.
        normal, reduction = (torch.zeros(len(EDGES), len(ran.space.operations)) for _ in range(2))
        logits: Tensor = supernet(images, Mixture(normal.requires_grad_(), reduction.requires_grad_()))
        return logits

    need = training_need(lambda: Supernet(ran), forward, (network.in_channels, *network.image_size))
    size = "x".join(map(str, network.image_size))
    what = f"a search with {network.cells} cells on images of {size}"
    check_memory(what, need, config.recipe.batch_size, device, processes)
