"""`bnas-deploy search --latency-target`: the table of a device turns a search towards fast operations."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.core.history import read_history
from bnas_deploy.core.latency_table import LatencyTable, Workload, WorkloadTime
from bnas_deploy.search.models.bnas.candidate_workloads import candidate_workloads
from bnas_deploy.search.models.bnas.config import NetworkConfig

TINY = ("--cells", "3", "--channels", "1", "--epochs", "2", "--batch-size", "359", "--device", "cpu")
TARGET = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["cifar"], classes=10, in_channels=1, image_size=(8, 8))
SLOW = "bin_conv_5x5"


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The table of a device on which one operation takes a hundred times as long as any other."""
    return save_table(tmp_path / "device.json", TARGET)


def save_table(path: Path, network: NetworkConfig) -> Path:
    us = {workload: 100.0 if is_slow(workload) else 1.0 for workload in candidate_workloads(network)}
    times = tuple(WorkloadTime(workload, time, time, time, 10) for workload, time in us.items())
    path.write_text(LatencyTable({"cpu": "a processor"}, "generic", network.to_json(), 1, 1, times).to_json())
    return path


def is_slow(workload: Workload) -> bool:
    return (workload.operator, workload.kernel, workload.dilation) == ("BinaryConv2dRelu", (5, 5), (1, 1))


def search(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["search", *TINY, *map(str, arguments)])


def probability(folder: Path, operation: str) -> float:
    history = read_history(folder / "history.json")
    column, last = history.operations.index(operation), history.epochs[-1].probabilities
    rows = (*last.normal, *last.reduction)
    return sum(row[column] for row in rows) / len(rows)


def test_a_slow_operation_becomes_less_probable(device: Path, tmp_path: Path) -> None:
    plain, aimed = tmp_path / "plain", tmp_path / "aimed"
    for arguments in ((plain,), (aimed, "--latency-target", device, "--latency-weight", "100")):
        result = search("-o", *arguments)
        assert result.exit_code == 0, result.output
    assert probability(aimed, SLOW) < probability(plain, SLOW)
    terms = [epoch.terms for epoch in read_history(aimed / "history.json").epochs]
    assert 0 < terms[1]["latency"] < terms[0]["latency"]
    assert "latency" not in read_history(plain / "history.json").epochs[0].terms
    for name in ("cells.svg", "cells.png", "history.svg", "history.png"):
        assert (plain / name).stat().st_size > 0


def test_a_search_goes_on_with_the_same_device_only(device: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    aim = ("--latency-target", device, "--latency-weight")
    assert search("-o", out, *aim, "0.5").exit_code == 0
    assert search("-o", out, *aim, "0.5", "--resume").exit_code == 0
    result = search("-o", out, *aim, "0.7", "--resume")
    assert result.exit_code == 1
    assert "0.5" in result.output
    assert "0.7" in result.output


@pytest.mark.parametrize("given", [("--latency-weight", "1"), ("--latency-target", "device.json")])
def test_target_and_weight_go_together(given: tuple[str, str], tmp_path: Path) -> None:
    result = search("-o", tmp_path / "search", *given)
    assert result.exit_code == 2
    assert "--latency-target and --latency-weight go together; give both or neither" in result.output


def test_a_space_that_the_table_does_not_know_is_refused(device: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    result = search("-o", out, "--space", "darts", "--latency-target", device, "--latency-weight", "1")
    assert result.exit_code == 1
    assert "--latency-target: there is no table of latencies with skip_connect; search without it" in result.output
    assert not out.exists()


def test_a_table_of_other_images_is_told(device: Path, tmp_path: Path) -> None:
    """Not refused: cells that are found on small images are built for large ones, too."""
    right = search("-o", tmp_path / "right", "--latency-target", device, "--latency-weight", "1")
    assert "Warning" not in right.stderr
    other = replace(TARGET, image_size=(16, 16), in_channels=3, classes=7)
    path = save_table(tmp_path / "other.json", other)
    result = search("-o", tmp_path / "other", "--latency-target", path, "--latency-weight", "1")
    assert result.exit_code == 0, result.output
    assert (
        f"Warning: {path} is of another network than these data are for (images of 16x16, here 8x8; channels of the "
        "images: 3, here 1; classes: 7, here 10). The search aims at that one. Unless that is meant, measure again: "
        f"bnas-deploy bench-ops --network tiny --image-size 8x8 --in-channels 1 --classes 10 --json {path}\n"
        in result.stderr
    )


def test_a_damaged_table_stops_before_anything_is_written(device: Path, tmp_path: Path) -> None:
    data = json.loads(device.read_text())
    data["times"] = [time for time in data["times"] if time["operator"] != "MaxPool"]
    device.write_text(json.dumps(data))
    result = search("-o", tmp_path / "search", "--latency-target", device, "--latency-weight", "1")
    assert result.exit_code == 1
    assert "the latency table has no time of MaxPool 3x3 8x8 4->4" in result.output
    assert not (tmp_path / "search").exists()
