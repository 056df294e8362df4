"""Runs with schemes whose gradients follow the epochs, whose losses are added, or that a network excludes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training import training_run as module
from bnas_deploy.search.training.checkpoint import load_checkpoint
from bnas_deploy.search.training.checks import TrainError
from bnas_deploy.search.training.recipes import RECIPES, Augmentation, Optimiser
from bnas_deploy.search.training.train import train

CONFIG = NetworkConfig(
    name="tiny",
    cells=3,
    channels=4,
    stem="cifar",
    genotype=GENOTYPES["imagenet"],
    classes=3,
    in_channels=1,
    image_size=(8, 8),
)
RECIPE = replace(RECIPES["digits"], name="quick", epochs=2, batch_size=8, augmentation=Augmentation())
RANDOM = torch.Generator().manual_seed(0)
DATA = InMemoryDataSet(
    DataDescription("noise", ("a", "b", "c"), 1, (8, 8), (0.4,), (0.3,)),
    *(
        Images(
            torch.randint(256, (count, 1, 8, 8), generator=RANDOM, dtype=torch.uint8),
            torch.randint(3, (count,), generator=RANDOM),
        )
        for count in (24, 6)
    ),
)


class After:
    """Asks to stop after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize("name", ["ir-net", "binary-duo", "pcnn", "xnor-net-plus-map", "abc-net"])
def test_a_run_is_resumed_exactly(name: str, tmp_path: Path) -> None:
    config = replace(CONFIG, scheme=name)
    train(DATA, config, RECIPE, tmp_path / "whole")
    train(DATA, config, RECIPE, tmp_path / "parts", stop=After(4))  # in the second epoch
    train(DATA, config, RECIPE, tmp_path / "parts", resume=True)
    for file in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_steps_know_the_share_of_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def remembered(network: torch.nn.Module, progress: float) -> None:
        seen.append(progress)

    monkeypatch.setattr(module, "set_progress", remembered)
    train(DATA, CONFIG, RECIPE, tmp_path)
    assert seen == [0.0, 0.5]


def test_a_scheme_that_a_network_excludes() -> None:
    with pytest.raises(
        BnasError, match=r"^tiny: cells\.0\.preprocess0\.conv: a circulant filter has 3x3 taps, .*; choose another"
    ):
        build_network(replace(CONFIG, scheme="cbcn"))


@pytest.mark.parametrize(
    ("scheme", "k_map", "message"),
    [
        ("abc-net", True, "the K map is of one basis of activations, and abc-net has several; leave --k-map out"),
        ("dorefa", True, "the K map is the mean of .*, which scales signs and not .*; leave --k-map out"),
        ("cbcn", True, "a circulant filter has 3x3 taps, .*; choose another --scheme or --network"),
    ],
)
def test_the_map_k_is_blamed_where_the_scheme_alone_is_possible(scheme: str, k_map: bool, message: str) -> None:
    with pytest.raises(BnasError, match=f"^tiny: [a-z0-9.]+: {message}$"):
        build_network(replace(CONFIG, scheme=scheme, k_map=k_map))


def test_a_network_without_anything_to_flip(tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimiser=Optimiser(kind="Bop", learning_rate=0.01))
    with pytest.raises(
        TrainError, match=r"optimiser.kind is Bop, but tiny.* has no binary weights to flip; --set 'opt"
    ):
        train(DATA, CONFIG.float_twin(), recipe, tmp_path)


def test_flipped_weights_are_signs(tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimiser=Optimiser(kind="Bop", learning_rate=0.01))
    train(DATA, CONFIG, recipe, tmp_path)
    network = load_checkpoint(tmp_path / "last.safetensors").build()
    layers = [layer for layer in network.modules() if isinstance(layer, BinaryConv2d)]
    # Dead branches of a cell have no gradient, and keep what they began with.
    assert sum(bool((layer.weight.abs() == 1).all()) for layer in layers) > len(layers) // 2
