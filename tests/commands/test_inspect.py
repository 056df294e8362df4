"""`bnas-deploy inspect` on a checkpoint, a bundle, a genotype and on what is none of them."""

import json
import pickle
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.core.bundle import (
    FILES,
    MANIFEST,
    MODEL,
    Corner,
    Manifest,
    PieceCheck,
    Preprocessing,
    Verification,
    describe_files,
)
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.new_bundle import new_bundle
from bnas_deploy.report.inspection import layer_table
from bnas_deploy.search.models.bnas.config import NetworkConfig, published_config
from bnas_deploy.search.training.checkpoint import save_checkpoint
from bnas_deploy.search.training.untrained import untrained_checkpoint

CIFAR_CELLS = """\
normal cell
  node 2 = none(1) + bin_dil_conv_3x3(0)
  node 3 = bin_conv_3x3(1) + none(2)
  node 4 = none(2) + none(3)
  node 5 = none(3) + none(4)
reduction cell
  node 2 = max_pool_3x3(0) + none(1)
  node 3 = max_pool_3x3(0) + none(2)
  node 4 = none(3) + none(2)
  node 5 = none(3) + none(4)
"""

LAYERS = (
    LayerCost("stem", (3, 8, 8), (16, 8, 8), (3, 3), (1, 1), (1, 1), groups=1, weight_bits=32),
    LayerCost("conv", (16, 8, 8), (32, 4, 4), (3, 3), (2, 2), (2, 2), groups=2, weight_bits=1),
    LayerCost("classifier", (32, 1, 1), (10, 1, 1), (1, 1), (1, 1), (1, 1), groups=1, weight_bits=32),
)
# stem 432 weights on 64 pixels; conv 8 * 32 * 9 = 2,304 weights on 16; classifier 320 on 1.
# Bytes: 2,304 / 8 + 4 * 752 = 3,296, and 4 * 3,056 = 12,224 in float32.
TABLE = """\
layer       bits         input        output          kernel      weights      MMAC
stem          32         3x8x8        16x8x8          3x3 s1          432      0.03
conv           1        16x8x8        32x4x4    3x3 s2 d2 g2        2,304      0.04
classifier    32        32x1x1        10x1x1          1x1 s1          320      0.00

1-bit weights 2,304, 0.0 MMAC
32-bit weights 752, 0.0 MMAC
weights take 3.3 kB, in float32 12.2 kB (3.7 times as much)
"""


def inspect(path: Path) -> Result:
    return CliRunner().invoke(main, ["inspect", str(path)])


def text_of(path: Path) -> str:
    result = inspect(path)
    assert result.exit_code == 0, result.output
    return result.output


def refusal_of(path: Path) -> str:
    result = inspect(path)
    assert isinstance(result.exception, SystemExit), result.output
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    return result.output.removeprefix("Error: ").rstrip("\n")


def write_checkpoint(path: Path, config: NetworkConfig) -> Path:
    save_checkpoint(path, untrained_checkpoint(config, seed=0))
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    with new_bundle(path) as folder:
        for name in FILES:
            (folder / name).write_bytes(bytes(12345))
        manifest = Manifest(
            bnas_deploy="0.1",
            network={"name": "tiny"},
            opset={"onnx": 20, "bnas": 1},
            input_name="images",
            input_shape=(3, 8, 8),
            output_name="logits",
            labels=tuple("0123456789"),
            preprocessing=Preprocessing(8, 8, (0.5,) * 3, (0.25,) * 3),
            layers=LAYERS,
            verification=Verification(0.0, (PieceCheck("conv", (), Corner("y", "y", (1,)), (1,)),)),
            metrics={"accuracy": 0.5},
            files=describe_files(folder),
        )
        (folder / MANIFEST).write_text(manifest.to_json())
    return path


# --------------------------------------------------------------------------------------------------------------------
# What is shown


def test_layer_table() -> None:
    assert layer_table(LAYERS) == TABLE


def test_layer_table_of_nothing_lines_up() -> None:
    header, blank, *totals = layer_table([]).splitlines()
    assert header.startswith("layer  bits  ")
    assert blank == ""
    assert totals == [
        "1-bit weights 0, 0.0 MMAC",
        "32-bit weights 0, 0.0 MMAC",
        "weights take 0.0 kB, in float32 0.0 kB (0.0 times as much)",
    ]


def test_a_bundle(bundle: Path) -> None:
    assert text_of(bundle) == (
        "bundle of tiny, written by bnas-deploy 0.1\n"
        "input images: N x 3x8x8 float32\n"
        "output logits: N x 10 float32\n"
        "float.onnx: 12,345 bytes\n"
        "model.onnx: 12,345 bytes\n"
        "test_vectors/images.npz: 12,345 bytes\n"
        "test_vectors/pieces.npz: 12,345 bytes\n"
        'metrics: {"accuracy": 0.5}\n'
        "\n" + TABLE
    )


def test_a_checkpoint_of_a_published_network(tmp_path: Path) -> None:
    text = text_of(write_checkpoint(tmp_path / "net.safetensors", published_config("BNAS-Mini")))
    head, _, rest = text.partition("\n\n")
    assert head == (
        "checkpoint of BNAS-Mini: 10 cells, 24 channels, cifar stem, 10 classes, binary\nimages 3 x 32 x 32, data none"
    )
    assert rest.startswith(CIFAR_CELLS + "\nlayer ")
    # Published: 1,473,784 parameters, of them 1,089,216 binary weights, 9,558 gammas and betas, 10 + 192 + 384 biases.
    assert text.endswith(
        "\n1-bit weights 1,089,216, 156.3 MMAC\n"
        "32-bit weights 374,424, 39.7 MMAC\n"
        "weights take 1,633.8 kB, in float32 5,854.6 kB (3.6 times as much)\n"
    )
    (line,) = [line for line in text.splitlines() if line.startswith("cells.4.edges.1.conv ")]
    assert line.split() == ["cells.4.edges.1.conv", "1", "48x16x16", "48x16x16", "3x3", "s1", "d2", "20,736", "5.31"]
    assert len(rest.splitlines()) == len(CIFAR_CELLS.splitlines()) + 1 + 1 + 40 + 4


def test_a_checkpoint_of_a_float_twin_has_no_bit(tmp_path: Path) -> None:
    config = published_config("BNAS-Mini", image_size=(8, 8)).float_twin()
    text = text_of(write_checkpoint(tmp_path / "net.safetensors", config))
    assert "10 classes, float twin\n" in text
    assert "\n1-bit weights 0, 0.0 MMAC\n32-bit weights 1,463,640, " in text


def test_a_checkpoint_without_the_skip(tmp_path: Path) -> None:
    config = published_config("BNAS-Mini", image_size=(8, 8), inter_cell_skip=False)
    text = text_of(write_checkpoint(tmp_path / "net.safetensors", config))
    assert ", data none\nwithout the skip from cell to cell\n" in text
    assert ".skip." not in text


def test_a_checkpoint_that_deviates_from_the_paper(tmp_path: Path) -> None:
    config = published_config("BNAS-Mini", image_size=(8, 8), deviations=("clamp-weights", "real-last-two"))
    text = text_of(write_checkpoint(tmp_path / "net.safetensors", config))
    assert "\ndeviates from the paper: clamp-weights\ndeviates from the paper: real-last-two\n" in text
    # The last two have 96 * 96 * 9 weights each.
    assert f"\n1-bit weights {1_089_216 - 2 * 82_944:,}, " in text


def test_a_genotype(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    path.write_text(json.dumps(GENOTYPES["cifar"].to_json()))
    assert text_of(path) == CIFAR_CELLS


# --------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("net.safetensors", b"", "empty; expected a safetensors file"),
        ("net.safetensors", bytes(range(256)), "not a safetensors file"),
        ("net.pt", pickle.dumps({"stem": [1.0]}), "a pickle, probably from torch.save; pickles are never loaded"),
        ("net.bin", b"PK\x03\x04" + bytes(100), "a zip file, probably from torch.save, which holds pickles"),
        ("cell.json", b"{}", 'a genotype is {"normal": [[operation, source], ...], "reduction": [...]}; no list'),
        ("cell.json", b"nonsense", "not a JSON file: "),
        ("cell.json", b'{"normal": [["conv", 0]]}', "normal cell, a cell has 8 edges"),
    ],
)
def test_nonsense(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert refusal_of(path).startswith(f"{path}: {message}")


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    assert refusal_of(path) == (
        f"{path}: no such file; expected a checkpoint (.safetensors), a bundle (folder), a genotype (.json) or a "
        "published one (cifar, imagenet)"
    )


@pytest.mark.parametrize("name", ["cifar", "CIFAR", "imagenet"])
def test_a_published_genotype_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cell.json").write_text(json.dumps(GENOTYPES[name.lower()].to_json()))
    assert text_of(Path(name)) == text_of(tmp_path / "cell.json")
    assert refusal_of(Path("cifer")).endswith("published one (cifar, imagenet); did you mean cifar?")


def test_the_genotype_of_a_search_as_it_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "genotype.json").write_text(json.dumps(GENOTYPES["cifar"].to_json()))
    assert text_of(tmp_path) == text_of(tmp_path / "genotype.json")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / (300 * "x")
    assert refusal_of(path) == f"{path}: cannot be read: File name too long; check the name and the permissions"


def test_a_checkpoint_that_is_cut_short(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "net.safetensors", published_config("BNAS-Mini", image_size=(8, 8)))
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal_of(path).startswith(f"{path}: cut short: ")


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    assert refusal_of(tmp_path) == (
        f"{tmp_path}: no manifest.json in it; expected the folder that `bnas-deploy export -o` wrote"
    )


def test_a_bundle_that_was_changed(bundle: Path) -> None:
    (bundle / MODEL).write_bytes(bytes(12344) + b"\1")
    assert refusal_of(bundle) == (
        f"{bundle / MODEL}: its SHA-256 is not the one in the manifest; copy or export the bundle again"
    )
