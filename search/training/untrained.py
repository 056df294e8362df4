"""A checkpoint of a network that was never trained, for everything that does not depend on its weights."""

import torch
from torch import nn

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.training.checkpoint import Checkpoint

UNTRAINED = "none"
"""Name of the data set of an untrained network."""


def untrained_checkpoint(config: ModelConfig, seed: int) -> Checkpoint:
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


def randomise_statistics(network: nn.Module, seed: int) -> None:
    """Give every BN statistics and parameters as a trained network has them: none trivial, a third of gammas negative.

    Latency does not depend on weights, so an untrained network can be measured. Its export should still meet the
    statistics of a trained one.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if not isinstance(module, nn.BatchNorm2d):
            continue
        assert module.running_mean is not None
        assert module.running_var is not None
        shape = module.running_mean.shape
        with torch.no_grad():
            module.running_mean.copy_(0.5 * torch.randn(shape, generator=generator))
            module.running_var.copy_(0.25 + torch.rand(shape, generator=generator))
            if module.affine:
                magnitude = 0.5 + torch.rand(shape, generator=generator)
                negative = torch.rand(shape, generator=generator) < 1 / 3
                module.weight.copy_(torch.where(negative, -magnitude, magnitude))
                module.bias.copy_(0.5 * torch.randn(shape, generator=generator))
