"""`export --float-layers auto` and the table that it chooses by, measured here or by `bench-ops --float-layers`."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.core.bundle import FLOAT_LAYERS, read_bundle
from bnas_deploy.core.float_layers import read_float_layers

NETWORK = """
import torch
from torch import nn
from bnas_deploy.search.nn.layers import BinaryConv2d


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.binary = BinaryConv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.second(torch.relu(self.stem(x)))
        return self.head((x + self.binary(x)).mean((2, 3)))


class Other(Net):
    pass
"""


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


@dataclass(frozen=True)
class Made:
    """The folder of net.py, and in it the bundles `float` and `int8` and the table `device.json`."""

    folder: Path
    said: str

    def export(self, output: Path, *options: str | Path, name: str = "Net") -> Result:
        labels = self.folder / "labels.txt"
        images = "--image-size", "6", "--images", "3", "--labels", labels
        return run("export", f"{self.folder / 'net.py'}:{name}", "-o", output, *images, *options)

    def table(self, path: Path, mostly: dict[str, float], in_network: dict[str, float] | None = None) -> Path:
        """Write a table in which three of four runs with a layer in 8 bits are at least so many times as fast.

        In the network they are at most so many times as fast.
        """
        data: Any = json.loads((self.folder / "device.json").read_text())
        for part in data["parts"]:
            factor = (in_network or {}).get(part["layers"][0])
            part["in_network"] = factor and {"times_as_fast": factor, "at_most": factor}
            for form in part["forms"]:
                form["times_as_fast"] = form["mostly"] = mostly[form["in_8_bits"][0]]
                form["median_us"] = part["float_us"] / form["mostly"]
        path.write_text(json.dumps(data))
        return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("net")
    (folder / "net.py").write_text(NETWORK)
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    for form in ("float", "int8"):
        result = Made(folder, "").export(folder / form, "--float-layers", form)
        assert result.exit_code == 0, result.output
    options = "--min-seconds", "0", "--json", folder / "device.json"
    result = run("bench-ops", "--float-layers", folder / "float", folder / "int8", *options)
    assert result.exit_code == 0, result.output
    return Made(folder, result.output)


def test_a_device_measures_two_bundles(made: Made) -> None:
    table = read_float_layers(made.folder / "device.json")
    assert [(part.layers, part.beside) for part in table.parts] == [
        (("second",), ("Conv", "Relu")),
        (("head",), ("ReduceMean",)),
    ]
    assert (table.network, table.threads, table.batch) == ("Net", 1, 1)
    assert f"measured by {table.machine['cpu']}, 1 thread, kernels {table.isa}, of onnxruntime" in made.said
    assert f"float {table.parts[0].float_us:,.1f} us, int8 {table.parts[0].forms[0].median_us:,.1f} us" in made.said
    assert made.said.endswith("device.json: for `bnas-deploy export --float-layers auto --latency-table`\n")


def test_what_the_table_says_is_faster_has_8_bits(made: Made, tmp_path: Path) -> None:
    table = made.table(tmp_path / "pi.json", {"second": 2.0, "head": 0.5})
    result = made.export(tmp_path / "auto", "--float-layers", "auto", "--latency-table", table)
    assert result.exit_code == 0, result.output

    bundle = read_bundle(tmp_path / "auto")
    assert [layer.name for layer in bundle.manifest.in_8_bits] == ["second"]
    assert read_float_layers(bundle.file(FLOAT_LAYERS)) == read_float_layers(table)
    verified, inspected = (run(command, tmp_path / "auto").output for command in ("verify", "inspect"))
    for said in (result.output, verified, inspected):
        assert " second: int8; float " in said
        assert " us (with Conv, Relu), 2.00 times as fast\n" in said
        assert " us (with ReduceMean), not faster in the median and in three of four runs\n" in said
    assert "layers in 8 bits         1 of 1 agree with the exported model" in verified
    assert "% of their spread; same class for " in verified


def test_what_slows_the_network_down_stays_float(made: Made, tmp_path: Path) -> None:
    slower = {"second": 0.96, "head": 1.01}
    table = made.table(tmp_path / "pi.json", {"second": 2.0, "head": 1.5}, in_network=slower)
    result = made.export(tmp_path / "auto", "--float-layers", "auto", "--latency-table", table)
    assert result.exit_code == 0, result.output
    assert [layer.name for layer in read_bundle(tmp_path / "auto").manifest.in_8_bits] == ["head"]
    why = "2.00 times as fast by itself, but the network 0.96 times, below 1 in three of four runs\n"
    assert f" us (with Conv, Relu), {why}" in result.output


def test_where_nothing_is_faster_the_bundle_is_the_float_one(made: Made, tmp_path: Path) -> None:
    table = made.table(tmp_path / "pi.json", {"second": 1.0, "head": 0.5})
    result = made.export(tmp_path / "auto", "--float-layers", "auto", "--latency-table", table)
    assert result.exit_code == 0, result.output

    manifest = read_bundle(tmp_path / "auto").manifest
    assert (manifest.quantization, manifest.in_8_bits) == (None, ())
    assert (tmp_path / "auto/model.onnx").read_bytes() == (made.folder / "float/model.onnx").read_bytes()
    assert " nothing is faster in 8 bits: all float layers stay in float32\n" in result.output


def test_without_a_table_it_is_measured_here(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnas_deploy.export.auto_layers.MIN_SECONDS", 0.0)
    result = made.export(tmp_path / "auto", "--float-layers", "auto")
    assert result.exit_code == 0, result.output
    bundle = read_bundle(tmp_path / "auto")
    table = read_float_layers(bundle.file(FLOAT_LAYERS))
    assert tuple(layer.name for layer in bundle.manifest.in_8_bits) == table.chosen
    assert [layer.name for layer in table.layers] == ["second", "head"]


def test_a_table_without_auto_is_refused(made: Made, tmp_path: Path) -> None:
    result = made.export(tmp_path / "auto", "--latency-table", made.folder / "device.json")
    assert result.exit_code == 2
    assert "--latency-table says what --float-layers auto chooses; give both or neither" in result.output


def test_the_table_of_another_network_is_refused(made: Made, tmp_path: Path) -> None:
    table = made.folder / "device.json"
    result = made.export(tmp_path / "auto", "--float-layers", "auto", "--latency-table", table, name="Other")
    assert result.exit_code == 1
    assert f"{table}: measured Net, and this is Other; measure this network there: bnas-deploy" in result.output
    assert not (tmp_path / "auto").exists()


def _refusal(*words: str | Path) -> str:
    result = run("bench-ops", "--min-seconds", "0", *words)
    assert result.exit_code in (1, 2)
    return " ".join(result.output.split())


def test_bundles_that_are_no_pair_are_refused(made: Made, tmp_path: Path) -> None:
    floats, int8 = made.folder / "float", made.folder / "int8"
    said = _refusal("--float-layers", int8, floats)
    assert said.endswith(
        f"{int8}: has layers in 8 bits, wanted float ones; export it with --float-layers float, and give it first"
    )
    said = _refusal("--float-layers", floats, floats)
    assert said.endswith(f"{floats}: has no layers in 8 bits; export it with --float-layers int8, and give it second")
    shutil.copytree(int8, tmp_path / "other")
    manifest = tmp_path / "other/manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "Net"', '"name": "Other"'))
    said = _refusal("--float-layers", floats, tmp_path / "other")
    assert said.endswith(
        f"{tmp_path / 'other'}: Other, 4 layers; wanted the same as in {floats}, Net, 4 layers; export both of one "
        "checkpoint"
    )


def test_a_network_beside_two_bundles_is_refused(made: Made) -> None:
    said = _refusal("--float-layers", made.folder / "float", made.folder / "int8", "--network", "BNAS-A")
    assert said.endswith("--network names a network, and --float-layers measures two bundles; leave one out")
