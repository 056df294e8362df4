"""Does a search find better cells than chance? On digits, over several seeds; run by hand, some minutes on one core.

    python -P tests/bench/search_against_random.py

For each seed: a search, then the genotype that it found and random ones from the same space are trained with the same
budget and tested on the test images, which the search has not seen. What counts is the accuracy after the last epoch,
so that nothing is chosen on the test images.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from bnas_deploy.core.genotype import Cell, Edge, Genotype
from bnas_deploy.search.cells.config import (
    PUBLISHED_DIVERSITY_SHARE,
    SEARCH_RECIPES,
    SearchConfig,
    SupernetConfig,
)
from bnas_deploy.search.cells.search import search
from bnas_deploy.search.cells.space import SPACES
from bnas_deploy.search.data import open_data
from bnas_deploy.search.data.dataset import InMemoryDataSet
from bnas_deploy.search.data.kinds import DATA_KINDS
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.training.recipes import RECIPES
from bnas_deploy.search.training.train import train


def find(data: InMemoryDataSet, epochs: int, seed: int) -> Genotype:
    """Search with the defaults of digits."""
    sizes = DATA_KINDS["digits"].search
    description = data.description
    network = SupernetConfig(
        space=SPACES["bnas"],
        cells=sizes.cells,
        channels=sizes.channels,
        classes=description.classes,
        in_channels=description.in_channels,
        image_size=description.image_size,
    )
    config = SearchConfig(
        network,
        replace(SEARCH_RECIPES[sizes.recipe], epochs=epochs),
        diversity=1.0,
        diversity_epochs=PUBLISHED_DIVERSITY_SHARE * epochs,
    )
    with tempfile.TemporaryDirectory() as folder:
        genotype = search(data, config, Path(folder) / "search", seed=seed).genotype
    assert genotype is not None
    return genotype


def random_genotypes(count: int, seed: int) -> Iterator[Genotype]:
    """Yield cells whose nodes read two different nodes each, all operations equally likely."""
    random = np.random.default_rng(seed)
    operations = SPACES["bnas"].operations

    def cell() -> Cell:
        sources = [int(source) for node in range(2, 6) for source in random.choice(node, size=2, replace=False)]
        return Cell(tuple(Edge(operations[random.integers(len(operations))], source) for source in sources))

    for _ in range(count):
        yield Genotype(normal=cell(), reduction=cell())


def accuracy(data: InMemoryDataSet, genotype: Genotype, epochs: int, seed: int) -> float:
    """Train and return the test accuracy after the last epoch."""
    sizes = DATA_KINDS["digits"].search
    description = data.description
    config = NetworkConfig(
        name="searched",
        cells=sizes.cells,
        channels=sizes.channels,
        stem="cifar",
        genotype=genotype,
        classes=description.classes,
        in_channels=description.in_channels,
        image_size=description.image_size,
    )
    with tempfile.TemporaryDirectory() as folder:
        recipe = replace(RECIPES["digits"], epochs=epochs)
        return train(data, config, recipe, Path(folder) / "run", seed=seed).history[-1].test_accuracy


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--search-epochs", default=5, show_default=True)
@click.option("--train-epochs", default=2, show_default=True)
@click.option("--random", "count", default=10, show_default=True, help="Random genotypes per seed.")
def main(seeds: int, search_epochs: int, train_epochs: int, count: int) -> None:
    """Print a line per seed."""
    torch.set_num_threads(1)
    data = open_data("digits")
    assert isinstance(data, InMemoryDataSet)
    for seed in range(seeds):
        genotype = find(data, search_epochs, seed)
        found = accuracy(data, genotype, train_epochs, seed)
        others = [accuracy(data, other, train_epochs, seed) for other in random_genotypes(count, seed)]
        beaten = sum(found > other for other in others)
        click.echo(
            f"seed {seed}: found {found:.2%}; {count} random ones: mean {np.mean(others):.2%}, "
            f"least {min(others):.2%}, most {max(others):.2%}; {beaten} of them are beaten\n  {genotype.to_json()}"
        )


if __name__ == "__main__":
    main()
