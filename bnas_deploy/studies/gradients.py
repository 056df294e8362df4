"""The gradient of every convolution after each epoch of a training: Figures 4, 13 and 14 of BNAS v2.

The paper sums the magnitudes of the gradients of a layer's weights and does not say over which images. Here it is one
batch, the same after every epoch, of images that are trained on.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from bnas_deploy.core.files import read_bytes, write_whole
from bnas_deploy.core.json_records import parse
from bnas_deploy.search.data.augmentation import Augmentation
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training.acceleration import memory_format_of
from bnas_deploy.search.training.checkpoint import load_checkpoint
from bnas_deploy.search.training.listener import Listener, Silence
from bnas_deploy.studies.results import TrialResult

IMAGES = 256
"""Of the batch, at most."""

FILE = "gradients.json"
_LARGEST = 100_000_000  # bytes; an epoch of a network of 200 layers takes 4,000


class GradientRecorder(Silence):
    """A listener that measures the network after each epoch, and keeps the rows in the folder of the trial.

    Args:
        last: the checkpoint of the last finished epoch, which the run writes before it tells.
        folder: of the trial.
        images: that are trained on.
        device: to compute on.
    """

    def __init__(self, last: Path, folder: Path, images: DataSet, device: torch.device) -> None:
        self.last = last
        self.file = folder / FILE
        self.images = images
        self.device = device

    def of_run(self, run: Path) -> Callable[[Path], AbstractContextManager[Listener]]:
        """Return the `listeners` of a training in stages: this one for the last stage, whose folder is `run`."""
        return lambda place: nullcontext(self if place == run else Silence())

    def finished(self, record: Any) -> None:
        """Measure the epoch; one that was told before, and is told again after a kill, is measured again."""
        rows = self._rows()
        rows[str(record.epoch)] = gradients_of(self.last, self.images, self.device)
        write_whole(self.file, (json.dumps(rows) + "\n").encode())

    def result(self) -> TrialResult:
        """Return the rows of all epochs, and how far the largest gradient of a layer stands out, in the mean."""
        rows = sorted(self._rows().items(), key=lambda item: int(item[0]))
        layers = tuple(rows[0][1]) if rows else ()
        table = tuple(tuple(row.get(layer, 0.0) for layer in layers) for _, row in rows)
        spikes = [max(row) / middle for row in table if (middle := median(row)) > 0]
        figures = {"gradient_spikes": sum(spikes) / len(spikes)} if spikes else {}
        return TrialResult(
            figures,
            {"gradient_epochs": tuple(float(epoch) for epoch, _ in rows)},
            {"gradients": table},
            {"gradients": layers},
        )

    def _rows(self) -> dict[str, dict[str, float]]:
        """Return the magnitudes of each layer by epoch, as far as they were measured."""
        if not self.file.exists():
            return {}
        rows: dict[str, dict[str, float]] = parse(read_bytes(self.file, _LARGEST))
        return rows


def silence(place: Path) -> AbstractContextManager[Listener]:
    """Return the listener of a training in stages that measures nothing."""
    return nullcontext(Silence())


def gradients_of(checkpoint: Path, images: DataSet, device: torch.device) -> dict[str, float]:
    """Return the sum of the magnitudes of the gradient of each convolution's weights, in the order of the network.

    Layers that nothing depends on, such as those in front of Zeroise, have no gradient and are left out.

    Raises:
        BnasError: the checkpoint or an image cannot be read.
    """
    network = load_checkpoint(checkpoint).build().train()
    layout = memory_format_of(network, device)
    network.to(device=device, memory_format=layout)  # type: ignore[call-overload]  # torch's annotation lacks this pair
    batch, labels = next(images.train_batches(IMAGES, Augmentation(), seed=0, epoch=0, device=device))
    loss = nn.functional.cross_entropy(network(batch.contiguous(memory_format=layout)), labels)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    return {
        name: float(module.weight.grad.abs().sum())
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | BinaryConv2d) and module.weight.grad is not None
    }
