"""The model card of a bundle: what it says, and that what it says can be run in its folder."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bnas_deploy.cli import main
from bnas_deploy.core.bundle import FLOAT_TWIN, INT8_TWIN, MODEL, Preprocessing, read_bundle
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.core.model_card import CARD, is_as_written
from bnas_deploy.export import Description, ExportResult, Images, export_checkpoint, export_module
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.training.training_record import TrainingRecord
from bnas_deploy.search.training.untrained import untrained_checkpoint

CONFIG = NetworkConfig("tiny", 3, 16, "cifar", GENOTYPES["cifar"], classes=3, in_channels=3, image_size=(8, 12))
RECORD = TrainingRecord("small", {"epochs": 2}, 5, 100, 10, "cifar10:FOLDER", None, None, (), 0, "bnas-deploy train")
CHECKPOINT = replace(
    untrained_checkpoint(CONFIG, seed=0),
    data="CIFAR-10",
    metrics={"epoch": 2, "test_accuracy": 0.91234, "arithmetic": "float32"},
    training=RECORD,
)
IMAGES = Images(torch.randn(4, 3, 8, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0]))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return export_checkpoint(CHECKPOINT, tmp_path_factory.mktemp("card") / "bundle", IMAGES)


@pytest.fixture(scope="module")
def card(result: ExportResult) -> str:
    return (result.bundle.path / CARD).read_text()


def entries(card: str) -> dict[str, Any]:
    """Return the front matter; every value is JSON on one line."""
    _, lines, _ = card.split("---\n", 2)
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in lines.splitlines())}


@pytest.mark.parametrize(
    "said",
    [
        "# tiny, trained on CIFAR-10\n",
        "* tiny: 3 cells, 16 channels, cifar stem\n",
        "* CIFAR-10: 100 training and 10 test images\n* images of 8x12, RGB\n",
        "* recipe: small; `bnas-deploy recipes small` shows the source of each number\n* seed: 5\n* arithmetic: ",
        "```sh\nbnas-deploy train\n```\n",
        "Test accuracy: 91.23%, measured in PyTorch after epoch 2 of training.\n",
        "```sh\nbnas-deploy eval . --data cifar10:FOLDER\n```\n",
        "* with and without the operator library: identical\n",
        "Images are unsigned bytes (N, height, width, channels):\n",
    ],
)
def test_it_says(said: str, card: str) -> None:
    assert said in card


def test_it_has_sizes_and_what_was_verified(result: ExportResult, card: str) -> None:
    bundle = read_bundle(result.bundle.path)
    whole = bundle.manifest.files[FLOAT_TWIN].bytes
    for name in (MODEL, FLOAT_TWIN, INT8_TWIN):
        size = bundle.file(name).stat().st_size
        assert re.search(rf"^\| `{name}` \| .* \| {size:,} \| 1/{whole / size:.1f} \|$", card, re.MULTILINE)
    assert result.verification.pieces is not None
    count = sum(piece.binary for piece in result.verification.pieces.pieces)
    assert f"* binary convolutions: {count} of {count} give the recorded values to the bit, 0 within" in card
    found = result.verification
    assert f"* the same class as PyTorch for 4 of 4 images, the right one for {found.correct}\n" in card


def test_front_matter(card: str) -> None:
    found = entries(card)
    assert (found["library_name"], found["tags"]) == ("bnas-deploy", ["binary-neural-network", "onnx"])
    assert found["datasets"] == ["uoft-cs/cifar10"]
    (of_data,) = found["model-index"][0]["results"]
    assert of_data["dataset"] == {"type": "uoft-cs/cifar10", "name": "CIFAR-10"}
    assert of_data["metrics"] == [{"type": "accuracy", "name": "test accuracy", "value": 0.9123}]


def test_what_it_shows_can_be_run(
    result: ExportResult, card: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(result.bundle.path)
    (python,) = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    exec(compile(python, "card", "exec"), {})
    assert capsys.readouterr().out.startswith("class ")
    for line in re.findall(r"bnas-deploy (?:eval|verify|bench) [^`\n]*", card):
        _, name, *arguments = shlex.split(line)
        main.commands[name].make_context(name, arguments)


def test_an_untrained_network_claims_nothing(tmp_path: Path) -> None:
    export_checkpoint(untrained_checkpoint(CONFIG, seed=0), tmp_path / "bundle", Images(IMAGES.pixels))
    card = (tmp_path / "bundle" / CARD).read_text()
    assert "# tiny\n" in card
    assert "It is not known here how it was trained." in card
    assert "No test accuracy is known." in card
    assert "* the same class as PyTorch for 4 of 4 images\n" in card
    assert "model-index" not in card
    assert "bnas-deploy eval" not in card


def test_int8_layers_are_told_and_an_older_card_is_replaced(tmp_path: Path) -> None:
    export_checkpoint(CHECKPOINT, tmp_path / "bundle", IMAGES)
    export_checkpoint(CHECKPOINT, tmp_path / "bundle", IMAGES, float_layers="int8")
    card = (tmp_path / "bundle" / CARD).read_text()
    assert re.search(r"^\* float layers in 8 bits: the same class as with float ones for \d of 4 images$", card, re.M)
    assert " of 8 bits\n" in card
    assert is_as_written(tmp_path / "bundle" / CARD)


@pytest.mark.parametrize("accuracy", ["91 %", None, True, 91.2, float("nan")])
def test_a_module_of_somebody_else(accuracy: object, tmp_path: Path) -> None:
    from torch import nn

    from bnas_deploy.search.nn.layers import BinaryConv2d

    def network(convolution: Any) -> nn.Module:
        return nn.Sequential(
            convolution(3, 8, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        )

    description = Description(
        {"name": "a|b\n# c"}, ("<b>", "`"), Preprocessing(8, 12, (0.5,) * 3, (0.5,) * 3), {"test_accuracy": accuracy}
    )
    images = Images(IMAGES.pixels, torch.tensor([0, 1, 1, 0]))
    export_module(network(BinaryConv2d), network(nn.Conv2d), tmp_path / "bundle", images, description)
    card = (tmp_path / "bundle" / CARD).read_text()
    assert "# a\\|b \\# c\n" in card
    assert r"* 2 classes: \<b\>, \`" in card
    assert "No test accuracy is known." in card
