"""Activations in front of signs: counted as numpy does, and drawn for every layer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bnas_deploy.cli import main
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.drawing.activations import activations_figure
from bnas_deploy.evaluation.activations import BINS, LARGEST, activations_before_signs
from bnas_deploy.search.data import open_data
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training.checkpoint import Checkpoint, save_checkpoint
from bnas_deploy.search.training.untrained import untrained_checkpoint

SMALL = NetworkConfig("small", 3, 4, "cifar", GENOTYPES["cifar"], classes=10, in_channels=1, image_size=(8, 8))


def checkpoint_of(config: NetworkConfig) -> Checkpoint:
    about = open_data("digits").description
    return replace(untrained_checkpoint(config, seed=0), labels=about.class_names, preprocessing=about.preprocessing)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return checkpoint_of(SMALL)


def test_the_counts_are_those_of_numpy(checkpoint: Checkpoint) -> None:
    network = checkpoint.build()
    seen: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda layer, inputs: seen.__setitem__(name, inputs[0].flatten().double().numpy())

    for name, layer in network.named_modules():
        if isinstance(layer, BinaryConv2d):
            layer.register_forward_pre_hook(keep(name))
    images = torch.cat([batch.images for batch in open_data("digits", limit=12).test_batches(16)])
    with torch.no_grad():
        network(images)
    found = activations_before_signs(checkpoint, "digits", 12)
    assert {each.layer for each in found} == set(seen)
    for each in found:
        values = seen[each.layer]
        assert each.counts.sum() == len(values)
        assert each.positive == (values >= 0).sum() / len(values)
        assert each.passing == (np.abs(values) <= 1).sum() / len(values)
        inside = np.clip(values, -LARGEST, LARGEST)
        wanted, edges = np.histogram(inside, BINS, (-LARGEST, LARGEST))
        # Float32 rounds x + 3 to 2^-22 at most: what lies that near to an edge may fall on its other side.
        near = sum(int((np.abs(inside - edge) < 2**-21).sum()) for edge in edges)
        assert np.abs(each.counts - wanted).sum() <= 2 * near


def test_each_layer_has_its_histogram(checkpoint: Checkpoint) -> None:
    found = activations_before_signs(checkpoint, "digits", 12)
    panels = [axes for axes in activations_figure(found, "title").axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [each.layer for each in found]
    assert all(f"+1: {each.positive:.0%}" in axes.texts[0].get_text() for axes, each in zip(panels, found, strict=True))


def test_the_command_draws_them(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "net.safetensors", checkpoint)
    words = ["draw", str(tmp_path / "net.safetensors"), "-o", str(tmp_path / "a.svg"), "--data", "digits"]
    result = CliRunner().invoke(main, [*words, "--limit", "10"])
    assert result.exit_code == 0, result.output
    assert "activations in front of the sign" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("float.safetensors", "--data", "digits"), "small: no activations become signs in it; is it a float twin?"),
        (("net.safetensors",), "net.safetensors: a checkpoint is drawn with --data, as histograms of its activations"),
        (("net.safetensors", "cifar", "--data", "digits"), "--data goes with one CHECKPOINT, not with 2 of them"),
        (("net.safetensors", "--data", "digits", "--limit", "3"), "digits: a limit of 3 images for 10 classes"),
        (("cifar", "--limit", "3"), "--limit goes with --data and a CHECKPOINT; leave it out"),
        (("missing.safetensors", "--data", "digits"), "missing.safetensors: cannot be read: No such file"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(
    words: tuple[str, ...], message: str, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(Path("net.safetensors"), checkpoint)
    save_checkpoint(Path("float.safetensors"), checkpoint_of(SMALL.float_twin()))
    result = CliRunner().invoke(main, ["draw", *words, "-o", "a.svg"])
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), "a traceback"
    assert message in result.output
    assert not Path("a.svg").exists()
