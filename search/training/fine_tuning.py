"""To begin a run with the weights of a checkpoint, on the same data or on others."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.data.dataset import DataDescription
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.nn.float_twin import float_state
from bnas_deploy.search.training.checkpoint import Checkpoint
from bnas_deploy.search.training.recipes import LAYERS


@dataclass(frozen=True, eq=False)
class Start:
    """Weights to begin a run with.

    Attributes:
        network: what is trained: the checkpoint's network, for the images and classes of the data.
        state: the tensors that are taken over, by name.
        new: names of those that are not, because they belong to other classes.
        source: what the checkpoint holds, in words.
        note: says of what else than the binary network the weights are.
    """

    network: ModelConfig
    state: Mapping[str, Tensor]
    new: tuple[str, ...]
    source: str
    note: str = ""

    @cached_property
    def digest(self) -> str:
        """Return what tells these weights from others, for a run that goes on."""
        found = hashlib.sha256()
        for name in sorted(self.state):
            found.update(name.encode())
            found.update(self.state[name].contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    @property
    def summary(self) -> str:
        """Say where the weights come from and which are new."""
        new = f"; new, for other classes: {', '.join(self.new)}" if self.new else ""
        return f"begins with the weights of {self.source}{self.note and '; '}{self.note}{new}"

    def load(self, network: nn.Module) -> None:
        """Take the weights over, as far as this form of the network has them: a float twin has no learned scale."""
        own = network.state_dict()
        network.load_state_dict({name: self.state.get(name, tensor) for name, tensor in own.items()})


def start_from(checkpoint: Checkpoint, data: DataDescription) -> Start:
    """Fit the network of a checkpoint to other data.

    Where the classes are the same, by name and order, every weight is kept; else those are new whose shape depends on
    the number of classes.

    Raises:
        BnasError: the network takes images of other channels, or of other sizes than these.
    """
    before = checkpoint.network
    if before.in_channels != data.in_channels:
        raise BnasError(
            f"{before.name} of the checkpoint takes images of {before.in_channels} channels, {data.name} has "
            f"{data.in_channels}; choose other data, or give --in-channels {before.in_channels} where images are in "
            "folders"
        )
    config = before.fitted(**data.sizes)
    new = () if checkpoint.labels == data.class_names else _of_classes(config)
    # A stage of float layers finds a composite under the name of the convolution that it stands for.
    named = {**float_state(checkpoint.build()), **checkpoint.state}
    state = {name: tensor for name, tensor in named.items() if name not in new}
    return Start(config, state, new, f"{before.name}, trained on {checkpoint.data}", _note(before))


def _note(network: ModelConfig) -> str:
    """Say of what else than a binary network the weights are, and what is trained now; nothing of a binary one."""
    if network.is_float:
        return f"they are of {LAYERS['float']}, and that is trained"
    relaxed = getattr(network, "relaxed", None)  # families without stages have no such field
    return f"they are of a stage with {LAYERS[relaxed]}, and the binary network is trained" if relaxed else ""


def _of_classes(config: ModelConfig) -> tuple[str, ...]:
    """Return the tensors whose shape depends on the number of classes."""
    with torch.random.fork_rng(devices=[]):  # a random initialisation that must leave no trace
        one, other = (
            build_network(
                config.fitted(classes=classes, in_channels=config.in_channels, image_size=config.image_size)
            ).state_dict()
            for classes in (config.classes, config.classes + 1)
        )
    return tuple(name for name in one if one[name].shape != other[name].shape)
