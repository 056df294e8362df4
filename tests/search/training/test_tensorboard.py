"""Scalars for TensorBoard: by a small stand-in for its writer, and by the package itself where it is installed."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from bnas_deploy.cli import main
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.core.run_metrics import EpochRecord
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.training.listener import Silence
from bnas_deploy.search.training.recipes import RECIPES
from bnas_deploy.search.training.result import TrainResult
from bnas_deploy.search.training.tensorboard import SCALARS, to_tensorboard
from bnas_deploy.search.training.train import train

CONFIG = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], classes=3, in_channels=1, image_size=(8, 8))
RECIPE = replace(RECIPES["digits"], epochs=3, batch_size=10)
INSTALLED = importlib.util.find_spec("tensorboard") is not None


class Writer:
    """As SummaryWriter, but it keeps what it is told."""

    made: list["Writer"]

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.log_dir, self.purge_step = log_dir, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        self.closed = False
        Writer.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        assert not self.closed

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """Put the stand-in in place, and return those that are made."""
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]  # a module has whatever is put into it
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [], raising=False)
    return Writer.made


def run(folder: Path, *, stop_after: int = 10**6, resume: bool = False) -> TrainResult:
    pixels = torch.randint(256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = Images(pixels, torch.arange(20) % 3)
    data = InMemoryDataSet(DataDescription("noise", ("a", "b", "c"), 1, (8, 8), (0.5,), (0.3,)), images, images)
    asked = iter(range(10**6))
    with to_tensorboard(folder, Silence()) as listener:
        stop = lambda: next(asked) == stop_after - 1  # noqa: E731  # short, and used once
        return train(data, CONFIG, RECIPE, folder, stop=stop, listener=listener, resume=resume)


def wanted(records: tuple[EpochRecord, ...]) -> list[tuple[str, float, int]]:
    return [(name, getattr(each, field), each.epoch) for each in records for name, field in SCALARS.items()]


def test_every_epoch_is_written_once(writers: list[Writer], tmp_path: Path) -> None:
    # Two steps and two batches of test images in an epoch: the fifth question is after a step of the second one.
    assert not run(tmp_path, stop_after=5).finished
    resumed = run(tmp_path, resume=True)
    first, second = writers
    assert {each.log_dir for each in writers} == {str(tmp_path / "tensorboard")}
    assert (first.purge_step, second.purge_step) == (1, 2)
    assert first.scalars + second.scalars == wanted(resumed.history)
    assert first.closed
    assert second.closed


def test_what_was_not_measured_is_not_written(writers: list[Writer], tmp_path: Path) -> None:
    with to_tensorboard(tmp_path, Silence()) as listener:
        listener.started(epochs=1, steps=1, done=0)
        listener.finished(EpochRecord(1, 0.1, 1.0, 0.5, 1.0, 0.5, 2.0))
    assert {name for name, _, _ in writers[0].scalars} == set(SCALARS) - {"changed signs", "waiting for data"}


def test_a_run_that_is_refused_leaves_no_files(writers: list[Writer], tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(Exception, match="already holds a run"):
        run(tmp_path)
    assert len(writers) == 1


def test_without_the_package_nothing_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "tensorboard" else found(name, *more)
    )
    result = CliRunner().invoke(main, ["train", "--tensorboard", "-o", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "--tensorboard: the package tensorboard is not installed; pip install tensorboard" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not INSTALLED, reason="tensorboard is not installed")
@pytest.mark.filterwarnings("ignore")  # of the package itself
def test_the_true_tensorboard_reads_it(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, stop_after=5)
    history = run(tmp_path, resume=True).history
    read: Any = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    for name, field in SCALARS.items():
        values = [(event.step, event.value) for event in read.Scalars(name)]
        # TensorBoard keeps float32.
        assert values == [(each.epoch, pytest.approx(getattr(each, field), rel=2**-23)) for each in history]
