"""A checkpoint of a network that was never trained, for everything that does not depend on its weights."""

import torch

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.network import build_network, randomise_statistics
from bnas_deploy.search.training.checkpoint import Checkpoint

UNTRAINED = "none"
"""Name of the data set of an untrained network."""


def untrained_checkpoint(config: NetworkConfig, seed: int) -> Checkpoint:
    """Return `config` with torch's initial weights and random batch-normalisation statistics, the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(config)
    randomise_statistics(network, seed)
    return Checkpoint(
        network=config,
        state=network.state_dict(),
        preprocessing=Preprocessing(
            *config.image_size, mean=(0.5,) * config.in_channels, std=(0.25,) * config.in_channels
        ),
        labels=tuple(f"class {index}" for index in range(config.classes)),
        data=UNTRAINED,
        metrics={},
    )
