"""Class weights: what --class-weights means, and that the loss has them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bnas_deploy.cli import main
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.training.checks import TrainError
from bnas_deploy.search.training.class_weights import class_weights
from bnas_deploy.search.training.recipes import RECIPES
from bnas_deploy.search.training.train import train

CONFIG = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], classes=3, in_channels=1, image_size=(8, 8))
RECIPE = replace(RECIPES["digits"], epochs=1, batch_size=12)
LABELS = [0] * 8 + [1] * 3 + [2]


def data_of(labels: list[int], classes: int = 3) -> InMemoryDataSet:
    pixels = torch.randint(256, (len(labels), 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = Images(pixels, torch.tensor(labels))
    return InMemoryDataSet(DataDescription("few", tuple("abcd"[:classes]), 1, (8, 8), (0.5,), (0.3,)), images, images)


def test_balanced_weights_give_every_class_the_same_part() -> None:
    weights = class_weights("Balanced", data_of(LABELS))
    assert weights == (12 / (3 * 8), 12 / (3 * 3), 12 / 3)
    assert class_weights("balanced", data_of([0, 0, 1], 4)) == (3 / 8, 3 / 4, 0.0, 0.0)


def test_numbers_are_taken_as_they_are() -> None:
    assert class_weights("1,0, 2.5", data_of(LABELS)) == (1.0, 0.0, 2.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2", "2 numbers for 3 classes (a, b, c); give one each"),
        ("heavy", "neither balanced nor numbers with commas, such as 1,2.5,1"),
        ("1,,2", "neither balanced nor numbers with commas, such as 1,2.5,1"),
        ("1,2,-1", "weights are finite numbers, none of them negative and not all 0"),
        ("1,2,nan", "weights are finite numbers, none of them negative and not all 0"),
        ("1,2,inf", "weights are finite numbers, none of them negative and not all 0"),
        ("0,0,0", "weights are finite numbers, none of them negative and not all 0"),
    ],
)
def test_what_are_no_weights_is_refused(text: str, message: str) -> None:
    with pytest.raises(BnasError) as refusal:
        class_weights(text, data_of(LABELS))
    assert refusal.value.message == f"--class-weights {text}: {message}"


def test_the_loss_is_the_weighted_mean(tmp_path: Path) -> None:
    """Of one batch of all images, before any step: with the same seed both networks give the same logits."""
    data = data_of(LABELS)
    plain, first, only = (
        train(data, CONFIG, RECIPE, tmp_path / str(i), class_weights=weights).history[0].train_loss
        for i, weights in enumerate((None, (2.0, 0.0, 0.0), (0.0, 3.0, 0.0)))
    )
    rest = train(data, CONFIG, RECIPE, tmp_path / "rest", class_weights=(0.0, 0.0, 1.0)).history[0].train_loss
    # Means over 8, 3 and 1 images make up the mean over 12; each is a sum of float32 terms of size 1 to 5.
    assert (8 * first + 3 * only + rest) / 12 == pytest.approx(plain, rel=12 * 2**-23)


def test_a_run_goes_on_with_its_weights_only(tmp_path: Path) -> None:
    data = data_of(LABELS)
    train(data, CONFIG, RECIPE, tmp_path, class_weights=(1.0, 2.0, 3.0))
    train(data, CONFIG, RECIPE, tmp_path, class_weights=(1.0, 2.0, 3.0), resume=True)
    with pytest.raises(TrainError, match=r"class_weights \(\[1.0, 2.0, 3.0\] before, None now\)"):
        train(data, CONFIG, RECIPE, tmp_path, resume=True)


def test_the_command_takes_them(tmp_path: Path) -> None:
    words = ["train", "--cells", "3", "--channels", "1", "--limit", "10", "--epochs", "1", "-o", str(tmp_path)]
    refused = CliRunner().invoke(main, [*words, "--class-weights", "1,2"])
    assert refused.exit_code == 1
    assert "--class-weights 1,2: 2 numbers for 10 classes (0, 1, 2, 3, 4, ...); give one each" in refused.output
    result = CliRunner().invoke(main, [*words, "--class-weights", "balanced"])
    assert result.exit_code == 0, result.output
    again = CliRunner().invoke(main, [*words, "--resume"])
    assert "class_weights" in again.output
