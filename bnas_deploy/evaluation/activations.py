"""What comes in front of each sign of a network: how the activations that become one bit are distributed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.data.matching import open_matching
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training.checkpoint import Checkpoint

LARGEST = 3.0
"""Activations beyond ±this are counted in the first and in the last bin."""

BINS = 60
"""0 and ±1, between which the gradient passes, are edges of bins."""

FEWEST_IMAGES = 64

_BATCH = 16


@dataclass(frozen=True)
class Activations:
    """What reaches the sign of a layer.

    Attributes:
        layer: its name in the network.
        counts: int64 (BINS), of equal bins from -LARGEST to LARGEST.
        positive: share that becomes +1; 0 does.
        passing: share within -1..1, where the gradient of the sign passes.
    """

    layer: str
    counts: NDArray[np.int64]
    positive: float
    passing: float


def activations_before_signs(checkpoint: Checkpoint, data: str, limit: int | None = None) -> tuple[Activations, ...]:
    """Run some test images of `data`, what `--data` gives, through a network in evaluation mode, on the CPU.

    Args:
        checkpoint: the network.
        data: its data.
        limit: images, of each class the first ones; 64 or one of each class unless given.

    Raises:
        DataError: the data cannot be read, or are not of this network.
        BnasError: the network has no signs.
    """
    network = checkpoint.build()
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, BinaryConv2d)}
    if not layers:
        raise BnasError(f"{checkpoint.network.name}: no activations become signs in it; is it a float twin?")
    limit = limit or max(FEWEST_IMAGES, len(checkpoint.labels))
    opened = open_matching(data, labels=checkpoint.labels, preprocessing=checkpoint.preprocessing, limit=limit)
    counters = {name: _Counter() for name in layers}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(counters[name])
    with torch.no_grad():
        for images, _ in opened.test_batches(_BATCH):
            network(images)
    return tuple(counter.result(name) for name, counter in counters.items() if counter.values)


class _Counter:
    """Counts what a layer is given."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        self.values = self.positive = self.passing = 0

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x: Tensor = inputs[0].flatten()
        places = ((x + LARGEST) * (BINS / (2 * LARGEST))).floor().clamp(0, BINS - 1).to(torch.int64)
        self.counts += torch.bincount(places, minlength=BINS)
        self.values += x.numel()
        self.positive += int((x >= 0).sum())
        self.passing += int((x.abs() <= 1).sum())

    def result(self, layer: str) -> Activations:
        return Activations(layer, self.counts.numpy(), self.positive / self.values, self.passing / self.values)
