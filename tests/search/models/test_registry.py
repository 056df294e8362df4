"""A family of networks that is only in this test goes the whole way by its row of the registry."""

import importlib.util
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.latency_table import Workload
from bnas_deploy.report.inspection import inspect
from bnas_deploy.search.models import registry
from bnas_deploy.search.models.family import Family, Searched
from bnas_deploy.search.models.registry import (
    build_network,
    candidate_workloads,
    configure,
    network_names,
    read_config,
    searched_networks,
    shared_settings,
)
from bnas_deploy.search.models.settings import SCHEME, Count, Setting
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.schemes import scheme_names
from bnas_deploy.search.training.checkpoint import load_checkpoint, save_checkpoint
from bnas_deploy.search.training.untrained import untrained_checkpoint


@dataclass(frozen=True)
class PlainConfig:
    name: str = "Plain"
    classes: int = 3
    in_channels: int = 1
    image_size: tuple[int, int] = (8, 8)
    width: int = 4
    is_float: bool = False
    model: str = "plain"
    summary: str = "two convolutions"

    def float_twin(self):
        return replace(self, is_float=True)

    def to_json(self):
        return asdict(self)

    def describe(self):
        return [f"width {self.width}"]


def _read(data, where):
    return PlainConfig(**{**data, "image_size": tuple(data["image_size"])})


def _configure(name, *, classes, in_channels, image_size, width=4):
    return PlainConfig("Plain", classes or 3, in_channels, image_size or (8, 8), width)


def _build(config):
    kind = nn.Conv2d if config.is_float else BinaryConv2d
    inner = kind(config.width, config.width, 3, padding=1, **_BIAS[config.is_float])
    return nn.Sequential(
        nn.Conv2d(config.in_channels, config.width, 3, padding=1),
        nn.BatchNorm2d(config.width),
        inner,
        nn.BatchNorm2d(config.width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(config.width, config.classes),
    )


WIDTH = Setting("width", "--width", Count(), "Channels of both convolutions. [default: 4]")
_BIAS = {True: {"bias": False}, False: {}}
PLAIN = Family("plain", ("Plain",), (WIDTH, SCHEME), _configure, _read, _build)


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setitem(registry.FAMILIES, "plain", PLAIN)
    return configure("Plain", in_channels=1, options={"width": 6, "genotype": None})


def test_a_row_is_all_that_a_checkpoint_an_export_and_a_look_need(plain, tmp_path: Path) -> None:
    from bnas_deploy.export import export_checkpoint
    from bnas_deploy.export.images import verification_images

    path = tmp_path / "plain.safetensors"
    save_checkpoint(path, untrained_checkpoint(plain, seed=0))
    checkpoint = load_checkpoint(path)
    assert checkpoint.network == plain
    result = export_checkpoint(checkpoint, tmp_path / "bundle", verification_images(checkpoint, None, 2))
    assert [layer.weight_bits for layer in result.bundle.manifest.layers] == [32, 1, 32]
    text = inspect(path)
    assert text.startswith("checkpoint of Plain: two convolutions, 3 classes, binary\nimages 1 x 8 x 8, data none\n")
    assert "\nwidth 6\n" in text
    assert "1-bit weights 324" in text


def test_a_family_is_trained_by_its_row(plain, tmp_path: Path) -> None:
    from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
    from bnas_deploy.search.training.recipes import RECIPES
    from bnas_deploy.search.training.train import train

    pixels = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.arange(24) % 3)
    description = DataDescription("rows", ("a", "b", "c"), 1, (8, 8), (0.5,), (0.3,))
    data = InMemoryDataSet(description, images, images)
    recipe = replace(RECIPES["digits"], epochs=1, batch_size=8)
    with pytest.raises(BnasError, match=r"drop_path is 0.1, but Plain has no branches to leave out; --set drop_path=0"):
        train(data, plain, replace(recipe, drop_path=0.1), tmp_path)
    result = train(data, plain, recipe, tmp_path)
    assert result.finished
    assert load_checkpoint(tmp_path / "last.safetensors").network == plain


def test_its_names_are_offered(plain) -> None:
    assert network_names()[-1] == "Plain"
    assert network_names()[0] == "BNAS-Mini"


def test_a_float_twin_takes_the_weights_of_its_network(plain) -> None:
    twin = build_network(plain.float_twin()).state_dict()
    assert twin.keys() <= build_network(plain).state_dict().keys()
    assert twin["2.weight"].shape == torch.Size([6, 6, 3, 3])


def test_a_setting_of_another_family_is_refused(plain) -> None:
    message = "Plain has no setting --k-map; leave it out, or choose a network that has it: BNAS-Mini, BNAS-A"
    with pytest.raises(BnasError, match=message):
        configure("Plain", options={"k_map": True})


@pytest.fixture
def invoke(plain):
    """Return a function that runs a command whose options were made with the family in the registry."""

    def run(name, *words):
        spec = importlib.util.find_spec(f"bnas_deploy.commands.{name}")
        module = importlib.util.module_from_spec(spec)  # a second copy of the module: the options of the first are made
        spec.loader.exec_module(module)
        return CliRunner().invoke(module.command, [str(word) for word in words])

    return run


@pytest.mark.parametrize("name", ["train", "init", "import_weights"])
def test_help_shows_the_settings_of_every_family(name: str, invoke) -> None:
    words = " ".join(invoke(name, "--help").output.split())
    assert "--width INTEGER RANGE Networks of plain: Channels of both convolutions. [default: 4] [x>=1]" in words
    assert "--no-skip Networks of bnas: Ablation: no skip" in words
    # What both have in the same words belongs to no family.
    assert f"--scheme [{'|'.join(scheme_names())}] How binary convolutions binarise" in words
    assert "|BNAS-H|" in words
    assert "|Plain]" in words


def test_a_setting_reaches_a_network_that_is_written(invoke, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    result = invoke("init", "--network", "plain", "--width", 6, "--in-channels", 1, "-o", path)
    assert result.exit_code == 0, result.output
    assert load_checkpoint(path).network == PlainConfig(width=6)


def test_a_setting_reaches_a_network_that_is_trained(invoke, tmp_path: Path) -> None:
    words = ("--limit", 40, "--network", "Plain", "--epochs", 1, "--device", "cpu", "--set", "drop_path=0")
    result = invoke("train", *words, "--width", 6, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    network = load_checkpoint(tmp_path / "best.safetensors").network
    assert (network.name, network.width, network.classes) == ("Plain", 6, 10)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network", "Plain", "--cells", 3), "Plain has no setting --cells; leave it out, or choose a network"),
        (("--network", "BNAS-A", "--width", 3), "BNAS-A has no setting --width; leave it out, or choose a network"),
        (("--network", "Plain", "--no-skip"), "Plain has no setting --no-skip; leave it out, or choose a network"),
        (("--network", "Plain", "--width", 0), "Invalid value for '--width': 0 is not in the range x>=1"),
    ],
)
def test_a_command_refuses_the_settings_of_another_family(words, message: str, invoke, tmp_path: Path) -> None:
    for name in ("init", "train"):
        result = invoke(name, *words, "-o", tmp_path / "out")
        assert result.exit_code in (1, 2)
        assert message in result.output
    assert not (tmp_path / "out").exists()


def test_one_option_with_two_meanings_is_a_mistake(plain, monkeypatch) -> None:
    other = replace(PLAIN, name="other", settings=(replace(WIDTH, kind=Count(8)),))
    monkeypatch.setitem(registry.FAMILIES, "other", other)
    message = r"--width of other is width, Count\(least=8\), but of plain it is width, Count\(least=1\); spell one"
    with pytest.raises(ValueError, match=message):
        shared_settings(lambda family: family.settings)


def test_operations_are_measured_of_families_that_are_searched(plain, invoke) -> None:
    with pytest.raises(BnasError, match="Plain: no search chooses its operations, so there is no table of them; choos"):
        candidate_workloads(plain)
    assert "'Plain' is not one of 'BNAS-Mini'" in invoke("bench_ops", "--network", "Plain").output
    assert "plain" not in invoke("bench_ops", "--help").output


def test_the_workloads_of_a_searched_family_are_its_rows(monkeypatch) -> None:
    row = Workload("Mul", (1, 8, 8), (1, 8, 8))
    searched = Searched((WIDTH,), lambda config: [row] * config.width)
    monkeypatch.setitem(registry.FAMILIES, "plain", replace(PLAIN, searched=searched))
    assert candidate_workloads(configure("Plain", options={"width": 2})) == [row, row]
    assert searched_networks()[-1] == "Plain"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(BnasError, match="unknown network 'ResNet'; the networks are BNAS-Mini, "):
        configure("ResNet")
    with pytest.raises(BnasError, match=r"x: unknown model \['bnas'\]; this bnas-deploy builds bnas"):
        read_config(["bnas"], {}, "x")
