"""How a network was trained, for people: the record in a checkpoint and on a model card."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StageRecord:
    """A stage of a recipe: its name, what is trained in the place of binary layers, and its epochs."""

    name: str
    layers: str
    epochs: int


@dataclass(frozen=True)
class TrainingRecord:
    """How a network was trained.

    Attributes:
        recipe: its name, or the name of its file.
        numbers: the keys of the recipe and their values, as they were used.
        seed: of the initial weights, the order and the augmentation.
        train_images, test_images: how many there were.
        data: what `--data` names, a folder as FOLDER; None for data of the Python API.
        limit: of training and of test images, None if there was none.
        class_weights: of the loss, None for 1 each.
        stages: all of the recipe where it has several; `stage` counts from 0 and says which one this is.
        command: the command line that trains so, None where there was none.
    """

    recipe: str
    numbers: Mapping[str, Any]
    seed: int
    train_images: int
    test_images: int
    data: str | None
    limit: int | None
    class_weights: tuple[float, ...] | None
    stages: tuple[StageRecord, ...]
    stage: int
    command: str | None

    @property
    def data_options(self) -> str | None:
        """Return the options that name the same images to a command, None where none can."""
        if self.data is None:
            return None
        return f"--data {self.data}" + ("" if self.limit is None else f" --limit {self.limit}")
