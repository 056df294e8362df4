"""A checkpoint of a network that was never trained, for everything that does not depend on its weights."""

import torch

from bnas_deploy.bundle import Preprocessing
from bnas_deploy.search.checkpoint import Checkpoint
from bnas_deploy.search.config import NetworkConfig
from bnas_deploy.search.network import build_network, randomise_statistics

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
