"""`bnas-deploy networks`: what is listed, written and refused, and that a measurement is the one of `bench`."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.core.counting.rules import RULES
from bnas_deploy.core.errors import BnasError
from bnas_deploy.drawing.networks import networks_figure
from bnas_deploy.report import network_list
from bnas_deploy.report.network_list import Measured, NetworkRow, network_rows, network_table
from bnas_deploy.report.table import Table
from bnas_deploy.report.text import table_markdown
from bnas_deploy.runtime.bench.machine import cpu_flags, native_isa, read_machine, vector_isa
from bnas_deploy.search.models.layer_costs import network_size
from bnas_deploy.search.models.registry import network_names

DOCS = Path(__file__).parents[2] / "docs" / "networks.md"

ROW = NetworkRow("Small", "xnor-net", (28, 32), 1000, 800, 64_000_000, 2_000_000, "bi-real", 3e6)
TIMES = Measured(1.0, 6.0, 2.0, 6.5, 2.25, 0.125, "bnas avx2, ort-fp32 avx2", disturbed=False)


def networks(*words: object) -> Result:
    return CliRunner().invoke(main, ["networks", *map(str, words)])


def test_the_page_has_what_the_command_writes(tmp_path: Path) -> None:
    result = networks("--markdown", tmp_path / "networks.md")
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "networks.md").read_text(encoding="utf-8").splitlines()
    page = DOCS.read_text(encoding="utf-8").splitlines()
    # The page's table is a measured one: the same cells come first in each line.
    for line in lines:
        assert any(known.startswith(line) for known in page), line
    # All networks, each in every form: a name begins a line of the screen, too.
    for name in network_names():
        assert any(line.startswith(name) for line in result.output.splitlines())


def test_names_choose_networks_in_every_form(tmp_path: Path) -> None:
    files = {kind: tmp_path / f"networks.{kind}" for kind in ("csv", "json")}
    result = networks("lenet5", "resnet18", "--csv", files["csv"], "--json", files["json"])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text(encoding="utf-8"))))
    assert [row["network"] for row in rows] == ["LeNet-5", "ResNet-18-cifar", "ResNet-18-imagenet"]
    assert (rows[2]["parameters"], rows[2]["height"]) == ("11689512", "224")
    data = json.loads(files["json"].read_text(encoding="utf-8"))
    assert "machine" not in data
    assert [each["flops"] for each in data["networks"]] == [float(row["flops"]) for row in rows]


@pytest.mark.parametrize(
    ("network", "rule", "flops"),
    [("BNAS-A", "bnas-v2", 0.14), ("BNAS-D", "bnas-v2", 1.44), ("LeNet-5", "bi-real", 0.01)],
)
def test_flops_are_counted_by_the_rule_of_the_networks_paper(network, rule, flops) -> None:
    ((config, row),) = network_rows([network])
    assert row.rule == rule
    assert row.flops == RULES[rule].count(network_size(config).counted).operations
    assert round(row.flops / 1e8, 2) == flops


def test_a_row_is_rounded_once() -> None:
    (cells,) = network_table([ROW]).rows
    assert cells == ("Small", "xnor-net", "28x32", "1,000", "80.0 %", "0.030", "66", "2.0")


def measured_table(times: Measured) -> Table:
    return network_table([replace(ROW, measured=times), replace(ROW, network="Other")], read_machine(), threads=2)


def test_a_measured_row_has_times_ratios_and_glue() -> None:
    table = measured_table(TIMES)
    assert table.rows[0][8:] == ("1.000", "6.000", "2.000", "6.50", "2.25", "12.5 %")
    assert table.rows[1][8:] == ("-",) * 6
    assert "one image, 2 threads, onnxruntime" in table.note
    assert table.note.endswith("; kernels: bnas avx2, ort-fp32 avx2.")
    assert "left too few runs" not in table.note
    assert "| Small | xnor-net |" in table_markdown(table)


def test_what_was_disturbed_is_marked() -> None:
    table = measured_table(replace(TIMES, disturbed=True, int8_ms=None, times_as_fast_as_int8=None))
    assert table.rows[0][10:13] == ("-", "6.50?", "-?")
    assert "?: other programs left too few runs to tell" in table.note


def test_the_picture_is_logarithmic_in_both_axes() -> None:
    near = replace(TIMES, binary_ms=1.01)
    rows = [
        replace(ROW, measured=TIMES),
        replace(ROW, network="Not measured"),
        replace(ROW, network="B", measured=near),
    ]
    (axes,) = networks_figure(rows, "a machine").axes
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_title()) == ("log", "log", "a machine")
    assert [text.get_text() for text in axes.texts] == ["1, 2", "1  Small\n2  B"]
    assert [line.get_label() for line in axes.lines[2:]] == ["binary", "int8 twin", "float twin"]
    assert axes.lines[2].get_xydata().tolist() == [[3_000_000.0, 1.0], [3_000_000.0, 1.01]]


def test_a_network_is_measured_as_bench_does(tmp_path: Path) -> None:
    files = {kind: tmp_path / f"networks.{kind}" for kind in ("json", "svg")}
    words = ("LeNet-5", "--measure", "--min-seconds", 0, "--json", files["json"], "--picture", files["svg"])
    result = networks(*words)
    assert result.exit_code == 0, result.output
    assert "... LeNet-5: exporting" in result.stderr
    assert "... LeNet-5: 1 thread: whole network" in result.stderr
    data = json.loads(files["json"].read_text(encoding="utf-8"))
    (row,) = data["networks"]
    assert data["machine"]["cpu"]
    assert row["times_as_fast_as_float"] > 0
    assert min(row["binary_ms"], row["float_ms"], row["int8_ms"]) > 0
    assert 0 < row["glue_share"] < 1
    assert (
        row["kernels"] == f"bnas {native_isa()}, ort-fp32 {vector_isa(cpu_flags())}, ort-int8 {vector_isa(cpu_flags())}"
    )
    assert files["svg"].read_text(encoding="utf-8").startswith("<?xml")


def test_a_network_that_cannot_be_measured_is_named(monkeypatch) -> None:
    def refuse(*arguments, **more):
        raise BnasError("no")

    monkeypatch.setattr(network_list, "export_checkpoint", refuse)
    result = networks("LeNet-5", "--measure")
    assert result.exit_code == 1
    assert "Error: LeNet-5: no" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("QuickNat",), "did you mean QuickNet?"),
        (("LeNet-5", "--picture", "a.svg"), "--picture shows latencies; give --measure as well"),
        (("LeNet-5", "--measure", "--picture", "a.gif"), "a picture's name ends in .svg or .png"),
        (("LeNet-5", "--csv", "same", "--json", "same"), "--csv and --json name the same file"),
        (("LeNet-5", "--threads", 0), "0 is not in the range x>=1"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message) -> None:
    result = networks(*words)
    assert result.exit_code != 0
    assert message in result.output
