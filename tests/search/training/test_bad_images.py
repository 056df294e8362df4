"""Images that cannot be read, in the middle of an epoch: an error with their name, or left out and counted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from bnas_deploy.cli import main
from bnas_deploy.core.errors import DataError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.data.photos import PhotoDataSet
from bnas_deploy.search.data.samples import from_samples
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.training.recipes import RECIPES
from bnas_deploy.search.training.result import TrainResult
from bnas_deploy.search.training.resume import never
from bnas_deploy.search.training.train import train

CONFIG = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], classes=3, in_channels=1, image_size=(8, 8))
BAD = (3, 7)
NO_TIME: Any = {"duration_s": 0.0, "waiting_share": 0.0}


class Damaged(list[tuple[NDArray[np.uint8], int]]):
    """Samples of which some cannot be read."""

    def __getitem__(self, index: Any) -> Any:
        if index in BAD:
            raise OSError("broken data stream when reading image file")
        return super().__getitem__(index)


@pytest.fixture
def samples(rng: Generator) -> Damaged:
    return Damaged((rng.integers(256, size=(8, 8), dtype=np.uint8), i % 3) for i in range(12))


def data_of(samples: Damaged) -> PhotoDataSet:
    good = [sample for i, sample in enumerate(samples) if i not in BAD]
    return from_samples(samples, good, class_names="abc", image_size=(8, 8), skip_bad=True)


def strict(data: PhotoDataSet) -> PhotoDataSet:
    """Have bad images be errors; `from_samples` has looked at the first images already."""
    data.skip_bad = False
    return data


def run(
    folder: Path, data: PhotoDataSet, batch_size: int, stop: Callable[[], bool] = never, **more: Any
) -> TrainResult:
    recipe = replace(RECIPES["digits"], epochs=2, batch_size=batch_size)
    return train(data, CONFIG, recipe, folder, stop=stop, **more)


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(1000))
    return lambda: next(asked) == steps - 1


def test_without_the_option_it_is_an_error_with_its_name(tmp_path: Path, samples: Damaged) -> None:
    good = [sample for i, sample in enumerate(samples) if i not in BAD]
    data = from_samples(good, samples, class_names="abc", image_size=(8, 8))
    with pytest.raises(DataError) as refusal:
        run(tmp_path, data, 4)
    assert refusal.value.message == (
        "samples: test image 3: cannot be read (broken data stream when reading image file); replace or remove it, or "
        "leave such images out with --skip-bad"
    )


# With batches of one image, some have none at all.
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("steps", [1, 2])
def test_they_are_left_out_and_a_run_goes_on_exactly(
    batch_size: int, steps: int, tmp_path: Path, samples: Damaged
) -> None:
    data = data_of(samples)
    whole = run(tmp_path / "whole", data, batch_size)
    assert data.skipped == {"samples: training image 3", "samples: training image 7"}
    stopped = run(tmp_path / "parts", data_of(samples), batch_size, stop_after(steps))
    assert not stopped.finished
    resumed = run(tmp_path / "parts", data_of(samples), batch_size, resume=True)
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for record, other in zip(whole.history, resumed.history, strict=True):
        assert replace(record, **NO_TIME) == replace(other, **NO_TIME)
        # Of the ten that can be read.
        assert record.train_accuracy * 10 == pytest.approx(round(record.train_accuracy * 10), abs=1e-12)


def test_a_run_that_met_one_goes_on_with_the_option(tmp_path: Path, samples: Damaged) -> None:
    run(tmp_path / "whole", data_of(samples), 5)
    with pytest.raises(DataError, match="samples: training image"):
        run(tmp_path / "parts", strict(data_of(samples)), 5)
    assert run(tmp_path / "parts", data_of(samples), 5, resume=True).finished
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_without_the_option_a_run_goes_on_to_the_next_one(tmp_path: Path, samples: Damaged) -> None:
    data = data_of(samples)
    assert not run(tmp_path, data, 5, stop_after(3)).finished
    assert len(data.skipped) == 2  # after all three steps of the first epoch
    with pytest.raises(DataError, match=r"samples: training image [37]: cannot be read"):
        run(tmp_path, strict(data_of(samples)), 5, resume=True)


def test_no_image_that_can_be_read_is_an_error(tmp_path: Path, samples: Damaged) -> None:
    good = [sample for i, sample in enumerate(samples) if i not in BAD]
    broken = Damaged([*samples[:8]])
    photos = from_samples(good, broken, class_names="abc", image_size=(8, 8), skip_bad=True)
    photos.test = [photos.test[i] for i in BAD]
    with pytest.raises(DataError, match="samples: no test image can be read; see that the folder is what it should be"):
        run(tmp_path / "test", photos, 5)


def test_a_class_without_a_readable_image_cannot_be_trained(samples: Damaged, tmp_path: Path) -> None:
    labels = [2 if i in BAD else i % 2 for i in range(12)]
    message = (
        r"samples: of the class 'c' no training image can be read, out of 2 such as samples: training image 3; replace "
        "them, or leave the class out"
    )
    options: dict[str, Any] = {"class_names": "abc", "image_size": (8, 8), "train_labels": labels, "skip_bad": True}
    with pytest.raises(DataError, match=message):
        run(tmp_path, from_samples(samples, samples[:2], **options), 5)
    with pytest.raises(DataError, match=message):
        from_samples(samples, samples[:2], **options).in_memory()
    # What only tests needs no training image.
    (batch,) = from_samples(samples, samples[:2], **options).test_batches(4)
    assert len(batch.labels) == 2


@pytest.fixture
def folder(tmp_path: Path, rng: Generator) -> Path:
    """An image folder with one file that ends too early, and one that is no image."""
    for part, name, number in ((p, n, i) for p in ("train", "val") for n in ("cat", "dog") for i in range(3)):
        path = tmp_path / "images" / part / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    cut = tmp_path / "images/train/cat/1.png"
    cut.write_bytes(cut.read_bytes()[:-100])
    (tmp_path / "images/train/cat/0.png").write_text("<html>")
    return tmp_path / "images"


@pytest.mark.parametrize("command", ["train", "search"])
def test_the_command_counts_them_at_the_end(command: str, folder: Path, tmp_path: Path) -> None:
    words = [command, "--data", f"imagefolder:{folder}", "--image-size", "8", "--epochs", "1", "--batch-size", "2"]
    words += ["--cells", "3", "--channels", "1", "-o", str(tmp_path / "run"), "--device", "cpu"]
    words += ["--network", "BNAS-Mini"] if command == "train" else []
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 1
    assert "train/cat/0.png: cannot be read as an image" in refused.output
    result = CliRunner().invoke(main, [*words, "--skip-bad"])
    assert result.exit_code == 0, result.output
    wanted = f"left out, since they cannot be read: 2 images ({folder}/train/cat/0.png, {folder}/train/cat/1.png)"
    assert wanted in result.output


def test_a_folder_of_bad_images_is_refused(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_text("<html>")
    result = CliRunner().invoke(main, ["train", "--data", f"imagefolder:{folder}", "--skip-bad"])
    assert result.exit_code == 1
    assert "val/dog/2.png: cannot be read as an image" in result.output
