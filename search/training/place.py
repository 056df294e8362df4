"""The position of a run, with its counts and sums, and the check of a position from a file."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bnas_deploy.search.training.resume import check_kind


@dataclass
class Place:
    """Where a run is: finished epochs, and of the current one the steps, the sums over images, and the time.

    `images` counts the images seen, by the name of their source. The first source is trained on; `skipped` more of it
    were left out because they cannot be read.
    `correct` of those were classified rightly. Of `duration_s`, `waited_s` were waits for the data.
    """

    epoch: int = 0
    step: int = 0
    images: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    correct: int = 0
    duration_s: float = 0.0
    waited_s: float = 0.0


@dataclass(frozen=True)
class Extent:
    """How far a run goes, and what it adds up on the way.

    Attributes:
        epochs: how many there are.
        batch_size: images of a step.
        sources: images of an epoch by name, the one that is trained on first.
        sums: names of what is summed over images.
    """

    epochs: int
    batch_size: int
    sources: Mapping[str, int]
    sums: tuple[str, ...]

    @property
    def trained(self) -> str:
        """Return the name of the source that is trained on."""
        return next(iter(self.sources))

    @property
    def steps(self) -> int:
        """Return the steps of an epoch; the last batch may be smaller."""
        return math.ceil(self.sources[self.trained] / self.batch_size)

    def start_of(self, epoch: int) -> Place:
        """Return the place at the start of an epoch."""
        return Place(epoch, images=dict.fromkeys(self.sources, 0), sums=dict.fromkeys(self.sums, 0.0))

    def due(self, step: int) -> dict[str, int]:
        """Return the images of each source in the first `step` steps of an epoch."""
        return {name: min(step * self.batch_size, size) for name, size in self.sources.items()}

    def place_from_json(self, data: Any, what: str) -> Place:
        """Return a place of a run, which the user calls `what`, as its file has it.

        Raises:
            TypeError, ValueError: this run cannot have been there.
        """
        if isinstance(data, dict):
            data = {"skipped": 0, "waited_s": 0.0, **data}  # which older versions did not count
        check_kind(data, asdict(self.start_of(0)), "place")
        place = Place(**data)
        counts = (place.epoch, place.step, *place.images.values(), place.skipped, place.correct)
        if not all(type(count) is int for count in counts):
            raise TypeError(f"place counts in fractions: {place}")
        trained = place.images[self.trained]
        if not (
            0 <= place.epoch <= self.epochs
            and 0 <= place.step <= self.steps
            and place.skipped >= 0
            and (place.step == 0 or place.epoch < self.epochs)
            and place.images | {self.trained: trained + place.skipped} == self.due(place.step)
            and 0 <= place.correct <= trained
            and all(map(math.isfinite, (*place.sums.values(), place.duration_s, place.waited_s)))
        ):
            raise ValueError(f"no place of this {what}: {place}")
        return place
