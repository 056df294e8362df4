"""What all tests of the search share: one thread, a small data set, and a listener."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks as small as these spend their time on waking a second thread, ten times longer on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_bright_rows(train_size: int = 36, test_size: int = 11) -> InMemoryDataSet:
    """Return random images (1, 8, 8) of three classes: the row that is bright."""
    random = torch.Generator().manual_seed(0)

    def images(count: int) -> Images:
        labels = torch.randint(3, (count,), generator=random)
        pixels = torch.randint(100, (count, 1, 8, 8), generator=random, dtype=torch.uint8)
        pixels[torch.arange(count), 0, 2 * labels + 1] = 255
        return Images(pixels, labels)

    description = DataDescription("rows", ("top", "middle", "bottom"), 1, (8, 8), (0.4,), (0.3,))
    return InMemoryDataSet(description, images(train_size), images(test_size))


class Recorder:
    """A listener that notes what it is told, and asks to stop after some steps of this session."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked = 0
        self.stop_after = stop_after
        self.told: list[tuple[Any, ...]] = []
        self.records: list[Any] = []

    def stop(self) -> bool:
        self.asked += 1
        return self.asked == self.stop_after

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        self.told.append(("started", epochs, steps, done))

    def stepped(self, *, done: int, loss: float) -> None:
        assert loss >= 0
        self.told.append(("stepped", done))

    def finished(self, record: Any) -> None:
        self.told.append(("finished", record.epoch))
        self.records.append(record)


@pytest.fixture(scope="session")
def bright_rows() -> Callable[..., InMemoryDataSet]:
    """Return `make_bright_rows`. A program that a test starts loads this file instead."""
    return make_bright_rows


@pytest.fixture(scope="session")
def recorder() -> type[Recorder]:
    """Return the class."""
    return Recorder
