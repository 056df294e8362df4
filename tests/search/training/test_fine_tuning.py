"""Runs that begin with the weights of a checkpoint."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.training.checkpoint import Checkpoint, load_checkpoint
from bnas_deploy.search.training.checks import TrainError
from bnas_deploy.search.training.fine_tuning import start_from
from bnas_deploy.search.training.recipes import RECIPES, Augmentation, find_recipe
from bnas_deploy.search.training.stages import train_in_stages
from bnas_deploy.search.training.train import train

CONFIG = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], 3, 1, (8, 8))
RECIPE = replace(RECIPES["digits"], epochs=1, batch_size=12, augmentation=Augmentation())


def make_data(classes: int = 3, size: int = 8, channels: int = 1, first: str = "a") -> InMemoryDataSet:
    random = torch.Generator().manual_seed(0)
    names = tuple(chr(ord(first) + number) for number in range(classes))
    description = DataDescription("made up", names, channels, (size, size), (0.4,) * channels, (0.3,) * channels)
    images = Images(
        torch.randint(256, (12, channels, size, size), generator=random, dtype=torch.uint8), torch.arange(12) % classes
    )
    return InMemoryDataSet(description, images, images)


DATA = make_data()


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(7)
    about = DATA.description
    state = build_network(CONFIG).state_dict()
    return Checkpoint(CONFIG, state, about.preprocessing, about.class_names, about.name)


def test_the_same_classes_keep_every_weight(checkpoint: Checkpoint) -> None:
    start = start_from(checkpoint, make_data(size=16).description)
    assert start.new == ()
    assert start.state.keys() == checkpoint.state.keys()
    assert start.network == replace(CONFIG, image_size=(16, 16))
    assert start.summary == "begins with the weights of tiny, trained on made up"


@pytest.mark.parametrize(
    ("before", "note"),
    [
        (CONFIG.float_twin(), "; they are of the float twin: float weights, no sign, and that is trained"),
        (
            CONFIG.relax("tanh"),
            "; they are of a stage with tanh of activations, float weights, and the binary network is trained",
        ),
        (
            CONFIG.relax("float-weights"),
            "; they are of a stage with signs of activations, float weights, and the binary network is trained",
        ),
    ],
    ids=["float", "tanh", "float-weights"],
)
def test_a_start_that_is_not_binary_says_so(checkpoint: Checkpoint, before: NetworkConfig, note: str) -> None:
    start = start_from(replace(checkpoint, network=before, state=build_network(before).state_dict()), DATA.description)
    assert start.summary == f"begins with the weights of tiny, trained on made up{note}"
    assert start.network == replace(before, relaxed=None)


@pytest.mark.parametrize(("classes", "first"), [(5, "a"), (3, "x"), (1, "a")])
def test_other_classes_get_a_new_head(checkpoint: Checkpoint, classes: int, first: str) -> None:
    before = torch.get_rng_state()
    start = start_from(checkpoint, make_data(classes, first=first).description)
    assert torch.equal(torch.get_rng_state(), before)
    assert start.new == ("classifier.weight", "classifier.bias")
    assert start.network == replace(CONFIG, classes=classes)
    assert start.summary.endswith("; new, for other classes: classifier.weight, classifier.bias")
    network = build_network(start.network)
    head = network.classifier.weight.clone()
    start.load(network)
    assert torch.equal(network.classifier.weight, head)
    assert torch.equal(network.stem.conv.weight, checkpoint.state["stem.conv.weight"])


def test_images_of_other_channels_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(BnasError) as refusal:
        start_from(checkpoint, make_data(channels=3).description)
    assert refusal.value.message == (
        "tiny of the checkpoint takes images of 1 channels, made up has 3; choose other data, or give --in-channels 1 "
        "where images are in folders"
    )


def test_a_run_begins_with_the_weights_and_says_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    start = start_from(checkpoint, DATA.description)
    stops = iter([True])
    train(DATA, start.network, RECIPE, tmp_path / "run", start=start, stop=lambda: next(stops, True))
    # Before its first step; stopped after it, nothing else is written.
    written = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert all(torch.equal(written.state[name], tensor) for name, tensor in checkpoint.state.items())
    assert written.metrics["started_from"] == "tiny, trained on made up"


def test_a_run_that_goes_on_needs_the_same_start(checkpoint: Checkpoint, tmp_path: Path) -> None:
    start = start_from(checkpoint, DATA.description)
    train(DATA, start.network, RECIPE, tmp_path / "run", start=start, stop=lambda: True)
    other = replace(start, state={**start.state, "classifier.bias": start.state["classifier.bias"] + 1})
    for wrong in (other, None):
        with pytest.raises(TrainError, match=r"the run was begun with other settings: start \("):
            train(DATA, start.network, RECIPE, tmp_path / "run", start=wrong, resume=True)
    result = train(DATA, start.network, RECIPE, tmp_path / "run", start=start, resume=True)
    train(DATA, start.network, RECIPE, tmp_path / "whole", start=start)
    assert result.finished
    whole, parts = (tmp_path / name / "last.safetensors" for name in ("whole", "run"))
    assert whole.read_bytes() == parts.read_bytes()


def test_the_first_of_several_stages_begins_with_the_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    start = start_from(checkpoint, DATA.description)
    recipe = find_recipe("two-stage").of_length(1, 12)
    stages = tuple(replace(stage, augmentation=Augmentation()) for stage in recipe.stages)
    recipe = replace(recipe, augmentation=Augmentation(), stages=stages)
    train_in_stages(DATA, CONFIG, recipe, tmp_path / "run", start=start, stop=lambda: True)
    (first,) = (tmp_path / "run" / "stages").iterdir()
    state = load_checkpoint(first / "last.safetensors").state
    assert torch.equal(state["stem.conv.weight"], checkpoint.state["stem.conv.weight"])
