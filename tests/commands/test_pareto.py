"""`bnas-deploy pareto`: which searches are on the front, what is predicted and what is measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import GENOTYPES, OPERATIONS, Genotype
from bnas_deploy.core.latency_table import LatencyTable, Workload, WorkloadTime, read_latency_table
from bnas_deploy.report.pareto import Candidate, front
from bnas_deploy.report.searches import exported_workloads
from bnas_deploy.runtime.bench.machine import native_isa, read_machine
from bnas_deploy.runtime.bench.operations import measure_workloads
from bnas_deploy.search.models.bnas.candidate_workloads import candidate_workloads, refuse_other_operations
from bnas_deploy.search.models.bnas.config import NetworkConfig

CONFIG = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["cifar"], classes=10, in_channels=1, image_size=(8, 8))
EDGES = [[source, node] for node in range(2, 6) for source in range(node)]


def table(cpu: str = "another processor", config: NetworkConfig = CONFIG) -> LatencyTable:
    def us(workload: Workload) -> float:
        return 1000.0 if workload.operator == "BinaryConv2dRelu" and workload.kernel != (1, 1) else 10.0

    workloads = candidate_workloads(config)
    times = tuple(WorkloadTime(each, us(each), us(each), us(each), 10) for each in workloads)
    return LatencyTable({"cpu": cpu}, "generic", config.to_json(), 1, 1, times)


def epoch(number: int, accuracy: float, genotype: Genotype) -> dict[str, Any]:
    uniform = [[1 / len(OPERATIONS)] * len(OPERATIONS)] * len(EDGES)
    names = ("train_loss", "train_accuracy", "architecture_loss", "validation_loss", "learnable_share")
    return {
        **dict.fromkeys((*names, "learnable_probability", "entropy", "learning_rate", "duration_s"), 0.5),
        "epoch": number,
        "terms": {"diversity": -0.25},
        "validation_accuracy": accuracy,
        "alphas": {"normal": uniform, "reduction": uniform},
        "probabilities": {"normal": uniform, "reduction": uniform},
        "genotype": genotype.to_json(),
    }


def write_search(folder: Path, genotype: str, *accuracies: float) -> Path:
    """Write the folder that a search with these validation accuracies leaves."""
    folder.mkdir()
    (folder / "genotype.json").write_text(json.dumps(GENOTYPES[genotype].to_json()))
    epochs = [epoch(i, accuracy, GENOTYPES[genotype]) for i, accuracy in enumerate(accuracies, start=1)]
    history = {"format": 1, "bnas_deploy": "0", "operations": OPERATIONS, "edges": EDGES, "settings": {}}
    (folder / "history.json").write_text(json.dumps({**history, "epochs": epochs, "best_epoch": 1}))
    return folder


@pytest.fixture
def searches(tmp_path: Path) -> list[Path]:
    """A fast one, a slow one that is better, and a slow one that is worse."""
    (tmp_path / "device.json").write_text(table().to_json())
    return [
        write_search(tmp_path / "fast", "cifar", 0.2, 0.5, 0.4),
        write_search(tmp_path / "slow", "imagenet", 0.6),
        write_search(tmp_path / "worse", "imagenet", 0.45),
    ]


def pareto(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["pareto", *map(str, arguments)])


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [(0.5, 2.0), (0.6, 3.0), (0.6, 2.5), (0.4, 2.0), (0.3, 1.0), (0.6, 2.5)]
    candidates = [Candidate(str(i), *point) for i, point in enumerate(points)]
    assert [each.run for each in front(candidates)] == ["4", "0", "2", "5"]


def test_searches_are_compared(searches: list[Path], tmp_path: Path) -> None:
    files = tmp_path / "front.svg", tmp_path / "front.json"
    result = pareto(*searches, "--latency-target", tmp_path / "device.json", "-o", files[0], "--json", files[1])
    assert result.exit_code == 0, result.output
    found = json.loads(files[1].read_text())
    slow, fast = (
        table().total_us(exported_workloads(replace(CONFIG, genotype=each)))
        for each in (GENOTYPES["imagenet"], GENOTYPES["cifar"])
    )
    rows = [(row["accuracy"], row["predicted_ms"], row["front"]) for row in found["candidates"]]
    assert rows == [(0.5, fast / 1000, True), (0.6, slow / 1000, True), (0.45, slow / 1000, False)]
    assert found["network"] == "tiny"
    marked = [line.split()[1] for line in result.output.splitlines() if line.startswith("*")]
    assert marked == [str(searches[0]), str(searches[1])]
    assert "validation accuracy of the supernet" in files[0].read_text()


def test_predictions_are_compared_with_this_machine(searches: list[Path], tmp_path: Path) -> None:
    times = measure_workloads(candidate_workloads(CONFIG), threads=1, batch=1, min_seconds=0)
    here = LatencyTable({"cpu": read_machine().cpu}, native_isa(), CONFIG.to_json(), 1, 1, tuple(times))
    (tmp_path / "here.json").write_text(here.to_json())
    figures = tmp_path / "front.json"
    result = pareto(searches[0], "--latency-target", tmp_path / "here.json", "--measure", "--json", figures)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(figures.read_text())["candidates"]
    assert row["measured_ms"] > 0
    assert f"{row['predicted_ms'] / row['measured_ms'] - 1:+.1%}" in result.output


def test_what_was_found_is_trained(searches: list[Path], tmp_path: Path) -> None:
    files = tmp_path / "front.svg", tmp_path / "front.json"
    aim = ("--latency-target", tmp_path / "device.json", "--train", "1", "-o", files[0], "--json", files[1])
    result = pareto(*searches[:2], *aim)
    assert result.exit_code == 0, result.output
    rows = json.loads(files[1].read_text())["candidates"]
    assert [row["accuracy"] for row in rows] == [0.5, 0.6]
    for row in rows:
        assert row["trained_accuracy"] * 719 == pytest.approx(round(row["trained_accuracy"] * 719))  # of the other half
        assert f"{row['trained_accuracy']:.2%}" in result.output
    assert "validation accuracy after training" in files[0].read_text()


def test_training_that_does_not_suit_is_refused(searches: list[Path], tmp_path: Path) -> None:
    aim = ("--latency-target", tmp_path / "device.json", "--train", "1")
    (tmp_path / "three.json").write_text(table(config=replace(CONFIG, classes=3)).to_json())
    result = pareto(searches[0], "--latency-target", tmp_path / "three.json", "--train", "1")
    assert result.exit_code == 1
    assert f"{searches[0]}: what it found cannot be trained: " in result.output
    assert "or leave it out" in result.output
    result = pareto(searches[0], *aim, "--data", "imagefolder:x")
    assert result.exit_code == 1
    assert "x: no such folder; expected the folder of the data set imagefolder" in result.output


def test_the_accuracy_after_training_decides() -> None:
    candidates = [Candidate("a", 0.9, 1.0, trained_accuracy=0.5), Candidate("b", 0.8, 2.0, trained_accuracy=0.6)]
    assert [each.run for each in front(candidates)] == ["a", "b"]


def test_another_machine_is_not_measured_in_place_of_the_device(searches: list[Path], tmp_path: Path) -> None:
    result = pareto(searches[0], "--latency-target", tmp_path / "device.json", "--measure")
    assert result.exit_code == 1
    assert f"{tmp_path / 'device.json'}: measured on another processor (generic), this is " in result.output
    assert "leave --measure out, or run bench-ops here first" in result.output


def test_a_search_without_an_epoch_is_refused(tmp_path: Path, searches: list[Path]) -> None:
    folder = write_search(tmp_path / "empty", "cifar")
    result = pareto(folder, "--latency-target", tmp_path / "device.json")
    assert result.exit_code == 1
    assert f"{folder}: no epoch was finished; go on with this search before it is compared" in result.output


def test_operations_without_a_latency_are_named(tmp_path: Path, searches: list[Path]) -> None:
    genotype = GENOTYPES["cifar"].to_json()
    genotype["normal"][0][0] = "skip_connect"
    (searches[0] / "genotype.json").write_text(json.dumps(genotype))
    result = pareto(searches[0], "--latency-target", tmp_path / "device.json")
    assert result.exit_code == 1
    assert "tiny: no latency is known of skip_connect; it can be predicted for none, max_pool_3x3" in result.output


def test_networks_with_k_have_no_latency() -> None:
    with pytest.raises(BnasError) as refused:
        refuse_other_operations(replace(CONFIG, k_map=True))
    assert refused.value.message == "tiny: latencies are known of networks without the map K; leave --k-map out"


def test_a_table_without_a_network_is_refused(tmp_path: Path, searches: list[Path]) -> None:
    data = json.loads(table().to_json())
    data["network"] = {"name": "tiny"}
    (tmp_path / "device.json").write_text(json.dumps(data))
    assert read_latency_table(tmp_path / "device.json").network == {"name": "tiny"}
    result = pareto(searches[0], "--latency-target", tmp_path / "device.json")
    assert result.exit_code == 1
    assert f"{tmp_path / 'device.json'}: network: the field" in result.output


def test_the_history_of_a_search_is_drawn(tmp_path: Path, searches: list[Path]) -> None:
    result = CliRunner().invoke(main, ["draw", str(searches[0]), "-o", str(tmp_path / "history.svg")])
    assert result.exit_code == 0, result.output
    drawn = (tmp_path / "history.svg").read_text()
    for text in (*OPERATIONS, "diversity", "Entropy of an edge", "Operations with weights", "held-out half"):
        assert text in drawn


def test_probabilities_are_means_over_the_edges() -> None:
    from bnas_deploy.drawing.history import mean_probabilities

    tables = [((0.0, 1.0), (0.5, 0.5)), ((0.25, 0.75), (0.75, 0.25))]
    assert mean_probabilities(tables, 0) == [0.25, 0.5]
    assert mean_probabilities(tables, 1) == [0.75, 0.5]


def test_the_table_that_is_read_is_not_written_over(searches: list[Path], tmp_path: Path) -> None:
    device = tmp_path / "device.json"
    before = device.read_text()
    result = pareto(*searches, "--latency-target", device, "--json", device)
    assert result.exit_code == 2
    assert f"--json names {device}, which is read" in " ".join(result.output.split())
    assert device.read_text() == before
