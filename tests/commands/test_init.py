"""`bnas-deploy init`: what it writes, and what it refuses without a traceback."""

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.models.bnas.config import published_config
from bnas_deploy.search.training.checkpoint import load_checkpoint

SMALL = ("--network", "BNAS-Mini", "--image-size", "8")


def init(output: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["init", *SMALL, *arguments, "-o", str(output)])


def refusal_of(output: Path, *arguments: str) -> str:
    """Return the message of a refusal; nothing is written."""
    result = init(output, *arguments)
    assert isinstance(result.exception, SystemExit), result.output
    assert result.exit_code == 1
    assert not output.is_file()
    assert result.output.startswith("Error: ")
    return result.output.removeprefix("Error: ").rstrip("\n")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


def test_it_writes_a_checkpoint_and_says_what_comes_next(output: Path) -> None:
    result = init(output)
    assert result.exit_code == 0
    assert result.output == f"{output}: BNAS-Mini, untrained. Next: bnas-deploy export {output} -o BUNDLE\n"
    checkpoint = load_checkpoint(output)
    assert checkpoint.network == published_config("BNAS-Mini", image_size=(8, 8))
    assert checkpoint.build()(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    assert [entry.name for entry in output.parent.iterdir()] == [output.name]


def test_every_option_reaches_the_network(output: Path) -> None:
    deviations = ("--like-official-code", "clamp-weights", "--like-official-code", "real-last-two")
    assert init(output, "--genotype", "imagenet", "--classes", "7", "--k-map", *deviations).exit_code == 0
    assert load_checkpoint(output).network == published_config(
        "BNAS-Mini",
        genotype=GENOTYPES["imagenet"],
        classes=7,
        image_size=(8, 8),
        k_map=True,
        deviations=("clamp-weights", "real-last-two"),
    )


def test_images_of_any_shape(output: Path) -> None:
    assert init(output, "--image-size", "24x32", "--in-channels", "1").exit_code == 0
    network = load_checkpoint(output).network
    assert network == published_config("BNAS-Mini", image_size=(24, 32), in_channels=1)


def test_cells_and_channels_are_in_the_network_and_in_its_name(output: Path) -> None:
    assert init(output, "--cells", "4", "--channels", "6").exit_code == 0
    network = load_checkpoint(output).network
    assert network == published_config("BNAS-Mini", cells=4, channels=6, image_size=(8, 8))
    assert network.name == "BNAS-Mini-4x6"
    assert (network.float_twin().name, network.float_twin().summary) == (network.name, network.summary)


def test_the_skip_can_be_left_out(output: Path) -> None:
    assert init(output, "--no-skip").exit_code == 0
    network = load_checkpoint(output).network
    assert network == published_config("BNAS-Mini", image_size=(8, 8), inter_cell_skip=False)


def test_a_seed_gives_the_same_bytes_again(output: Path) -> None:
    written = []
    for seed in ("3", "3", "4"):
        assert init(output, "--seed", seed).exit_code == 0
        written.append(output.read_bytes())
    assert written[0] == written[1] != written[2]


def test_batch_normalisation_is_not_trivial(output: Path) -> None:
    init(output)
    gammas = torch.cat([value for name, value in load_checkpoint(output).state.items() if name.endswith("norm.weight")])
    assert (gammas < 0).any()
    assert (gammas > 0).any()


def test_help_names_the_defaults() -> None:
    text = " ".join(CliRunner().invoke(main, ["init", "--help"]).output.split())
    for default in (
        "BNAS-A",
        "as published, 10 or 1000",
        "as published, 32 or 224",
        "the one the network was published with",
    ):
        assert f"[default: {default}]" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image-size", "10"), "BNAS-Mini: images of 10x10; the cifar stem .* need multiples of 4"),
        (
            ("--network", "BNAS-D", "--image-size", "100"),
            r"BNAS-D: images of 100x100; the imagenet stem .* need multiples of 32 \(of 4 with the cifar stem of .*\)",
        ),
        (
            ("--genotype", "missing.json"),
            r"missing.json: neither a published genotype \(cifar, imagenet\) nor a file",
        ),
        (("--genotype", ""), r"'': neither a published genotype \(cifar, imagenet\) nor a file"),
        (("--classes", "1000001"), "BNAS-Mini: classes is 1000001; wanted a number from 1 to 1000000"),
    ],
)
def test_refused_options(arguments: tuple[str, ...], message: str, output: Path) -> None:
    assert re.fullmatch(message, refusal_of(output, *arguments))


def test_refused_genotype_file(output: Path, tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    path.write_text('{"normal": [["none", 0]], "reduction": []}')
    assert refusal_of(output, "--genotype", str(path)).startswith(f"{path}: normal cell, ")


@pytest.mark.parametrize(
    ("option", "offered"), [("--network", "'BNAS-Mini', 'BNAS-A'"), ("--like-official-code", "'centre-weights'")]
)
def test_an_unknown_name_gets_the_list(option: str, offered: str, output: Path) -> None:
    result = init(output, option, "typo")
    assert result.exit_code == 2
    assert f"'typo' is not one of {offered}" in result.output
    assert not output.exists()


@pytest.mark.parametrize("option", ["--classes", "--image-size"])
def test_nothing_is_no_number_of_classes_and_no_size(option: str, output: Path) -> None:
    result = init(output, option, "0")
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.output
    assert not output.exists()


def test_refused_outputs(tmp_path: Path) -> None:
    # Not even root can write these.
    (tmp_path / "file").write_text("important")
    for path in (tmp_path / "file" / "net.safetensors", tmp_path / "missing" / "net.safetensors"):
        assert refusal_of(path).startswith(f"{path}: cannot be written: ")
    assert refusal_of(tmp_path) == f"{tmp_path}: is a folder; give the name of a file in it"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "important"


def test_refused_names_of_outputs(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["init", *SMALL, "-o", ""])
    assert result.exit_code == 1
    assert result.output == "Error: .: cannot be written: this names a folder; give the name of a file\n"
    path = tmp_path / (300 * "n")
    result = init(path)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {path}: cannot be written: File name too long")
    assert not list(tmp_path.iterdir())


def test_an_old_checkpoint_survives_a_refusal(output: Path) -> None:
    init(output)
    before = output.read_bytes()
    assert init(output, "--image-size", "10").exit_code == 1
    assert output.read_bytes() == before


@pytest.mark.parametrize("scheme", ["binarynet", "xnor-net-plus"])
def test_another_scheme_is_in_the_checkpoint(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    result = init(path, "--scheme", scheme.upper())
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(path)
    assert checkpoint.network.to_json()["scheme"] == scheme
    assert f"scheme {scheme}" in checkpoint.network.describe()
    assert any("learned_scale" in name for name in checkpoint.state) == (scheme == "xnor-net-plus")
