"""`bnas-deploy inspect` on a checkpoint, a bundle, a genotype and on what is none of them."""

import json
import pickle
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

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
    read_bundle,
)
from bnas_deploy.core.counting.energy import SOURCE
from bnas_deploy.core.counting.rules import EXECUTED, EXECUTED_WEIGHTS, RULES, Network
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.new_bundle import new_bundle
from bnas_deploy.core.tensor_spec import TensorSpec
from bnas_deploy.report.inspection import layer_table
from bnas_deploy.report.saved import Report, digest_of
from bnas_deploy.runtime.bench.machine import Machine, read_machine
from bnas_deploy.runtime.bench.records import Ratio, Record
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

1-bit weights 2,304, 0.0369 MMAC
32-bit weights 752, 0.028 MMAC
weights alone take 3.3 kB, in float32 12.2 kB (3.71 times as much)
"""


# The rule bi-real, of networks whose own paper has none: 2,304 * 16 / 64 = 576 binary and 27,648 + 320 float operations
# of 36,864 + 27,968. How many parameters BN had is not in a bundle.
COUNTED = """\
                     bi-real  executed  measured
memory, kB                 -       3.3      12.3
  of the float twin        -      12.2      12.3
  times as small           -      3.71      1.00
operations, 1e6       0.0285    0.0285         -
  of the float twin   0.0648    0.0648         -
  times fewer           2.27      2.27         -

"""


def inspect(path: Path, *options: object) -> Result:
    return CliRunner().invoke(main, ["inspect", str(path), *map(str, options)])


def text_of(path: Path, *options: object) -> str:
    result = inspect(path, *options)
    assert result.exit_code == 0, result.output
    return result.output


def layers_of(text: str) -> str:
    """Return what is printed up to the totals of the layers."""
    head, titles, _ = text.partition(" executed  measured\n")
    return head[: head.rindex("\n\n") + 1] if titles else text


def json_of(path: Path, *options: object) -> dict[str, Any]:
    (record,) = json.loads(text_of(path, "--json", *options))["networks"]
    assert isinstance(record, dict)
    return record


def refusal_of(path: Path, *options: object) -> str:
    result = inspect(path, *options)
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
            inputs=(TensorSpec("images", "float32", (None, 3, 8, 8)),),
            outputs=(TensorSpec("logits", "float32", (None, 10)),),
            labels=tuple("0123456789"),
            preprocessing=Preprocessing(8, 8, (0.5,) * 3, (0.25,) * 3),
            layers=LAYERS,
            verification=Verification({"logits": 0.0}, (PieceCheck("conv", (), Corner("y", "y", (1,)), (1,)),)),
            metrics={"accuracy": 0.5},
            files=describe_files(folder),
        )
        (folder / MANIFEST).write_text(manifest.to_json())
    return path


# --------------------------------------------------------------------------------------------------------------------
# What is shown


def test_layer_table() -> None:
    assert layer_table(Network(LAYERS)) == TABLE


def test_layer_table_of_nothing_lines_up() -> None:
    header, blank, *totals = layer_table(Network(())).splitlines()
    assert header.startswith("layer  bits  ")
    assert blank == ""
    assert totals == [
        "1-bit weights 0, 0.0 MMAC",
        "32-bit weights 0, 0.0 MMAC",
        "weights alone take 0.0 kB, in float32 0.0 kB (0.00 times as much)",
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
        "\n" + TABLE + "\n" + COUNTED + f"bi-real: {RULES['bi-real'].source}\n"
        f"  memory: {RULES['bi-real'].memory}\n"
        "  not told: an exported file has BN folded into thresholds; inspect the checkpoint or the network\n"
        f"  operations: {RULES['bi-real'].operations}\n"
        f"executed: {EXECUTED_WEIGHTS.source}\n"
        f"  memory: {EXECUTED_WEIGHTS.memory}\n"
        f"  operations: {EXECUTED.operations}\n"
        "  3,056 weights, 64,832 MACs\n"
        "measured: the files of the bundle\n"
    )


def test_a_checkpoint_of_a_published_network(tmp_path: Path) -> None:
    text = text_of(write_checkpoint(tmp_path / "net.safetensors", published_config("BNAS-Mini")))
    head, _, rest = text.partition("\n\n")
    assert head == (
        "checkpoint of BNAS-Mini: 10 cells, 24 channels, cifar stem, 10 classes, binary\nimages 3 x 32 x 32, data none"
    )
    assert rest.startswith(CIFAR_CELLS + "\nlayer ")
    # Published: 1,473,784 parameters, of them 1,089,216 binary weights, 9,558 gammas and betas, 10 + 192 + 384 biases.
    layers = layers_of(text)
    assert layers.endswith(
        "\n1-bit weights 1,089,216, 156.3 MMAC\n"
        "32-bit weights 374,424, 39.7 MMAC\n"
        "32-bit others 10,144: BN, biases, slopes\n"
        "weights alone take 1,633.8 kB, in float32 5,854.6 kB (3.58 times as much)\n"
    )
    (line,) = [line for line in text.splitlines() if line.startswith("cells.4.edges.1.conv ")]
    assert line.split() == ["cells.4.edges.1.conv", "1", "48x16x16", "48x16x16", "3x3", "s1", "d2", "20,736", "5.31"]
    lines = layers_of(rest).splitlines()
    assert len(lines) == len(CIFAR_CELLS.splitlines()) + 1 + 1 + 40 + 5


def test_a_checkpoint_of_a_float_twin_has_no_bit(tmp_path: Path) -> None:
    config = published_config("BNAS-Mini", image_size=(8, 8)).float_twin()
    text = text_of(write_checkpoint(tmp_path / "net.safetensors", config))
    assert "10 classes, float twin\n" in text
    assert "\n1-bit weights 0, 0.0 MMAC\n32-bit weights 1,463,640, " in text
    assert text.endswith(" times as much)\n")  # no rule of binary networks is asked


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
# What is counted


def counted_of(text: str) -> dict[str, list[str]]:
    """Return the cells of the table by the titles of their rows."""
    lines = text[text.index("memory, kB") :].partition("\n\n")[0].splitlines()
    table: dict[str, list[str]] = {}
    group = ""
    for line in lines:
        title, *cells = re.split(r" {2,}", line.strip())
        if line.startswith(" "):
            title = f"{group}: {title}"
        else:
            group = title
        table[title] = cells
    return table


def test_a_network_by_its_name_as_its_paper_counts_it() -> None:
    text = text_of(Path("bnas-mini"))
    assert text.startswith(
        "BNAS-Mini: 10 cells, 24 channels, cifar stem, 10 classes\nimages 3 x 32 x 32\n\nnormal cell\n"
    )
    # Stem and classifier have 1,944 + 3,840 weights: (1,089,216 + 32 * 5,784) / 8 bytes. Two numbers for each BN
    # channel, and 586 biases: 1,473,784 parameters in all.
    assert counted_of(text) == {
        "memory, kB": ["159.3", "1,674.4", "-"],
        "memory, kB: of the float twin": ["4,380.0", "5,895.1", "-"],
        "memory, kB: times as small": ["27.50", "3.52", "-"],
        "operations, 1e6": ["4.4", "42.2", "-"],
        "operations, 1e6: of the float twin": ["158.3", "196.0", "-"],
        "operations, 1e6: times fewer": ["35.68", "4.65", "-"],
    }
    assert f"bnas-v2: {RULES['bnas-v2'].source}\n  memory: {RULES['bnas-v2'].memory}\n" in text
    assert "\n  BNAS v2, Table 7: 1e8 FLOPs 0.04 in print, 0.04 here\n" in text
    assert "\n  1,473,784 parameters, 10,144 of them others than weights of layers; 196,046,592 MACs\n" in text
    assert text.endswith(
        "measured: nothing; `bnas-deploy export` writes the files, `bnas-deploy bench --json` a report for --report\n"
    )


def test_a_checkpoint_is_counted_as_its_network(tmp_path: Path) -> None:
    text = text_of(write_checkpoint(tmp_path / "net.safetensors", published_config("BNAS-Mini", scheme="bi-real")))
    assert counted_of(text)["memory, kB"] == ["159.3", "1,674.4", "-"]
    assert "Table 7: 1e8 FLOPs 0.04 in print" in text  # however it binarises
    other = text_of(write_checkpoint(tmp_path / "net.safetensors", published_config("BNAS-Mini", classes=11)))
    assert "in print" not in other


def test_a_network_in_the_form_that_its_name_says_or_in_every_form() -> None:
    assert text_of(Path("LeNet-5")).count("executed  measured") == 1
    both = json.loads(text_of(Path("VGG-11"), "--json"))["networks"]
    assert [each["name"] for each in both] == ["VGG-11"]
    text = text_of(Path("resnet-18-cifar"))
    assert text.startswith("ResNet-18-cifar: ")
    assert text.count("executed  measured") == 1
    assert text_of(Path("ResNet-18")).count("executed  measured") == 2


def test_rules_make_columns_in_the_order_in_which_they_are_given() -> None:
    text = text_of(Path("VGG-11"), "--rule", "DMS", "--rule", "xnornet", "--rule", "dms")
    assert re.search(r"^ +dms +xnor-net +executed +measured$", text, re.MULTILINE)
    table = counted_of(text)
    assert table["memory, kB"][:2] == ["78.8", "72.0"]  # (576,000 + 32 * 1,712) / 8, and 576,000 / 8
    assert table["operations, 1e6"][0] == "-"
    assert table["memory, kB: times as small"][1] == "32.00"
    assert "\n  in its MB: 0.075\n" in text
    assert "\n  DMS, Table 1: MB 0.08 in print, 0.08 here\n" in text
    assert "memory saving" not in text  # the paper's is with another network's float twin, for all but the first


def test_a_figure_that_differs_has_what_is_known_of_it() -> None:
    text = text_of(Path("BNAS-E"))
    assert "\n  BNAS v2, Table 14: memory saving 14.51 in print, 14.34 here (nothing that we tried gives it)\n" in text


def test_cells_get_the_size_of_a_network() -> None:
    assert json_of(Path("cifar"), "--network", "BNAS-Mini")["rules"] == json_of(Path("BNAS-Mini"))["rules"]


def test_table_12_compares_with_the_float_network_without_zeroise() -> None:
    text = text_of(Path("BNAS-A"), "--against", "imagenet")
    assert "\nCompared with the float network of the cells imagenet.\n" in text
    table = counted_of(text)
    assert table["memory, kB: times as small"][0] == "91.36"
    assert table["operations, 1e6: times fewer"][0] == "148.53"
    assert "\n  BNAS v2, Table 12: speed-up 149.14 in print, 148.53 here\n" in text
    alone = text_of(Path("BNAS-A"))
    assert counted_of(alone)["operations, 1e6: times fewer"][0] == "50.42"
    assert "speed-up" not in alone  # what the paper compares with is another network
    without = text_of(Path("imagenet"), "--network", "BNAS-A")
    assert "\n  BNAS v2, Table 12: speed-up 58.01 in print, 58.64 here\n" in without


def test_json_has_every_figure_of_every_layer() -> None:
    record = json_of(Path("BNAS-Mini"), "--rule", "xnor-net", "--energy")
    assert record["name"] == "BNAS-Mini"
    assert [*record["rules"]] == ["xnor-net", "executed"]
    assert record["measured"] is None
    executed = record["rules"]["executed"]
    assert executed["bits"] == sum(each["counted"]["executed"]["bits"] for each in record["layers"]) + 32 * 10_144
    assert record["other_parameters"] == 10_144
    assert executed["operations"] == sum(each["counted"]["executed"]["operations"] for each in record["layers"])
    assert executed["speed_up"] == executed["float_operations"] / executed["operations"]
    assert record["energy"]["pj"] == pytest.approx(sum(each["energy_pj"] for each in record["layers"]))
    assert record["energy"]["float_pj"] == pytest.approx(4.6 * executed["float_operations"])
    mini = json_of(Path("BNAS-Mini"))
    assert mini["energy"] is None
    assert "energy_pj" not in mini["layers"][0]
    (printed,) = mini["rules"]["bnas-v2"]["printed"]
    assert (printed["table"], printed["figure"], printed["printed"]) == ("BNAS v2, Table 7", "1e8 FLOPs", "0.04")
    assert printed["here"] == mini["rules"]["bnas-v2"]["operations"] / 1e8


def test_energy_is_a_column_and_three_rows() -> None:
    text = text_of(Path("LeNet-5"), "--energy")
    assert re.search(r"^layer .* MMAC +uJ$", text, re.MULTILINE)
    assert [*counted_of(text)][-3:] == [
        "energy, uJ", "energy, uJ: of the float twin", "energy, uJ: times less",
    ]  # fmt: skip
    assert text.endswith(f"\nenergy: {SOURCE}; a binary MAC at most 9.4 fJ\n")


def test_json_of_a_float_twin_has_its_layers(tmp_path: Path) -> None:
    twin = published_config("BNAS-Mini", image_size=(8, 8)).float_twin()
    record = json_of(write_checkpoint(tmp_path / "net.safetensors", twin))
    assert record["rules"]["executed"]["memory_saving"] == 1
    assert {each["weight_bits"] for each in record["layers"]} == {32}


# --------------------------------------------------------------------------------------------------------------------
# What is measured


@cache
def machine() -> Machine:
    return read_machine()


def write_report(
    path: Path,
    *,
    network: str | None = "tiny, 8x8",
    bytes_: int = 12345,
    disturbed: bool = False,
    settings: str | None = None,
) -> Path:
    ratio = Ratio("ort-fp32", 4.0, 5.0, 6.0, 20, disturbed=disturbed)
    own = Record("network", "bnas", "avx2", 1, 1, 20, 2.0, 2.1, 2.2, ratio=ratio, file_bytes=bytes_)
    twin = Record("network", "ort-fp32", "avx2", 1, 1, 20, 11.0, 12.0, 13.0, file_bytes=61725)
    more = (replace(own, threads=2, median_ms=1.0), replace(twin, threads=2, median_ms=6.0))
    path.write_text(Report(machine(), (*more, own, twin), network=network, settings=settings).to_json())
    return path


def test_a_bundle_with_its_report_has_times(bundle: Path, tmp_path: Path) -> None:
    text = text_of(bundle, "--report", write_report(tmp_path / "tiny.json"))
    table = counted_of(text)
    assert table["memory, kB"] == ["-", "3.3", "12.3"]
    assert table["memory, kB: of the float twin"] == ["-", "12.2", "61.7"]
    assert table["memory, kB: times as small"] == ["-", "3.71", "5.00"]
    assert table["ms"] == ["-", "-", "2.000"]
    assert table["ms: of the float twin"] == ["-", "-", "11.00"]
    assert table["ms: times as fast"] == ["-", "-", "5.00"]  # of neighbouring runs, not 11 / 2
    assert f"\nmeasured: tiny.json: {machine().cpu}, threads: 1, onnxruntime {machine().onnxruntime}, " in text


def test_a_network_by_its_name_takes_its_report(tmp_path: Path) -> None:
    record = json_of(Path("BNAS-Mini"), "--report", write_report(tmp_path / "mini.json", network="BNAS-Mini, 32x32"))
    measured = record["measured"]
    assert (measured["bytes"], measured["ms"], measured["times_as_fast"], measured["memory_saving"]) == (12345, 2, 5, 5)


def test_a_report_of_another_network_of_the_same_name_is_refused(bundle: Path, tmp_path: Path) -> None:
    settings = read_bundle(bundle).manifest.network
    for known in (digest_of(settings), None):  # None: of an older version
        assert text_of(bundle, "--report", write_report(tmp_path / "own.json", settings=known))
    other = write_report(tmp_path / "other.json", settings=digest_of({**settings, "genotype": "another"}))
    assert refusal_of(bundle, "--report", other) == (
        f"{other}: measured another tiny, 8x8, with other cells, widths, scheme or classes than this; give the "
        "report of the one that you inspect"
    )


def test_a_disturbed_measurement_has_no_ratio(bundle: Path, tmp_path: Path) -> None:
    text = text_of(bundle, "--report", write_report(tmp_path / "tiny.json", disturbed=True))
    assert counted_of(text)["ms: times as fast"] == ["-", "-", "-"]
    assert text.endswith("; other programs left too few runs to tell how many times as fast\n")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            {"network": "tiny, 8x8, int8 layers"},
            "measured tiny, 8x8, int8 layers, and this is tiny, 8x8; give the report of the one that you inspect",
        ),
        (
            {"bytes_": 99},
            "measured a model.onnx of 99 bytes, and the bundle's has 12,345; measure this bundle, or leave --report "
            "out",
        ),
    ],
)
def test_a_report_of_something_else_is_refused(
    made: dict[str, Any], message: str, bundle: Path, tmp_path: Path
) -> None:
    report = write_report(tmp_path / "other.json", **made)
    assert refusal_of(bundle, "--report", report) == f"{report}: {message}"


def test_a_report_of_single_layers_is_refused(bundle: Path, tmp_path: Path) -> None:
    report = tmp_path / "layers.json"
    layer = Record("8x8 4->4 k3 s1 d1", "bnas", "avx2", 1, 1, 20, 1.0, 1.0, 1.0, macs=1)
    report.write_text(Report(machine(), (layer,)).to_json())
    assert refusal_of(bundle, "--report", report) == (
        f"{report}: measured single layers and no network; give the report of `bnas-deploy bench --json`"
    )


# --------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize("options", [("--rule", "bnas-v2"), ("--json",), ("--energy",), ("--against", "imagenet")])
def test_a_genotype_without_a_size_cannot_be_counted(options: tuple[str, ...]) -> None:
    assert refusal_of(Path("cifar"), *options) == (
        "cifar: a genotype alone has no size, so nothing can be counted; give it one, such as --network BNAS-A"
    )


def test_a_float_twin_is_counted_by_no_rule(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "twin.safetensors", published_config("BNAS-Mini").float_twin())
    for options in (("--rule", "bnas-v2"), ("--against", "imagenet"), ("--report", write_report(tmp_path / "r.json"))):
        assert refusal_of(path, *options) == (
            f"{path}: nothing in it is binary, so no rule of binary networks counts it; give the checkpoint of the "
            "binary network, or leave --rule, --against and --report out"
        )


def test_an_unknown_rule_gets_the_nearest() -> None:
    result = inspect(Path("BNAS-D"), "--rule", "bnas-v3")
    assert result.exit_code == 2
    assert "'bnas-v3' is not one of 'xnor-net', 'bi-real', 'bnas-v2', 'dms'; did you mean bnas-v2?" in result.output


def test_an_unknown_network_gets_the_nearest(tmp_path: Path) -> None:
    assert refusal_of(Path("BNAS-Z")).endswith("`bnas-deploy networks` lists; did you mean BNAS-H?")
    assert refusal_of(Path("cifar"), "--network", "QuickNat").endswith("did you mean QuickNet?")


def test_only_cells_take_a_size(bundle: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "net.safetensors", published_config("BNAS-Mini", image_size=(8, 8)))
    for path in (bundle, checkpoint, Path("BNAS-Mini")):
        assert refusal_of(path, "--network", "BNAS-A") == (
            f"{path}: --network gives a genotype its size, and this has one of its own; leave it out"
        )


def test_a_network_that_has_no_cells_takes_none() -> None:
    assert refusal_of(Path("cifar"), "--network", "VGG-11").startswith("VGG-11 has no setting --genotype; leave it out")


def test_only_networks_of_cells_are_compared_with_other_cells(bundle: Path) -> None:
    for path in (bundle, Path("VGG-11")):
        assert refusal_of(path, "--against", "imagenet") == (
            f"{path}: --against compares with the float network of other cells, which only a BNAS network or its "
            "checkpoint has; leave it out"
        )
    assert refusal_of(Path("BNAS-Mini"), "--against", "imagenat").endswith("nor a file; did you mean imagenet?")


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
        f"{path}: no such file; expected a checkpoint (.safetensors), a bundle (folder), a genotype (.json), a "
        "published one (cifar, imagenet) or a network that `bnas-deploy networks` lists"
    )


@pytest.mark.parametrize("name", ["cifar", "CIFAR", "imagenet"])
def test_a_published_genotype_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cell.json").write_text(json.dumps(GENOTYPES[name.lower()].to_json()))
    assert text_of(Path(name)) == text_of(tmp_path / "cell.json")
    assert refusal_of(Path("cifer")).endswith("`bnas-deploy networks` lists; did you mean cifar?")


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
