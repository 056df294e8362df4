"""`bnas-deploy bench-ops`, and `bench --ops` as it was spelt: a table for a network's size, and every refusal."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.commands.bench_ops import target_config
from bnas_deploy.core.latency_table import read_latency_table
from bnas_deploy.search.models.bnas.candidate_workloads import candidate_workloads
from bnas_deploy.search.models.bnas.config import NetworkConfig

SMALL = ("--network", "BNAS-Mini", "--image-size", "8", "--in-channels", "1")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def bench(*arguments: str | Path) -> Result:
    return run("bench", *arguments)


@pytest.mark.parametrize("spelling", [("bench-ops",), ("bench", "--ops")], ids=" ".join)
def test_the_table_has_every_time_that_a_network_needs(spelling: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*spelling, *SMALL, "--min-seconds", "0", "--json", tmp_path / "device.json")
    assert result.exit_code == 0, result.output
    table = read_latency_table(tmp_path / "device.json")
    assert table.total_us(dict.fromkeys(candidate_workloads(target_config("BNAS-Mini", (8, 8), 1)), 1)) > 0
    assert NetworkConfig.from_json(dict(table.network), "the table") == target_config("BNAS-Mini", (8, 8), 1)
    assert (table.threads, table.batch) == (1, 1)
    assert table.machine["onnxruntime"]
    for time in table.times:
        assert str(time.workload) in result.output


def test_a_table_can_be_of_networks_without_the_skip() -> None:
    with_skip, without = (target_config("BNAS-Mini", (8, 8), 1, no_skip=no_skip) for no_skip in (False, True))
    assert (with_skip.inter_cell_skip, without.inter_cell_skip) == (True, False)
    assert (2, 2) in {workload.kernel for workload in candidate_workloads(with_skip)}
    assert (2, 2) not in {workload.kernel for workload in candidate_workloads(without)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ops", "--layers"), "--ops measures no BUNDLE and no --layers, is run on the device itself, and writes"),
        (("--ops", "bundle"), "--ops measures no BUNDLE and no --layers, is run on the device itself, and writes"),
        (("--ops", "--threads", "1,2"), "bench-ops measures with one number of threads, got 1,2; give one"),
        (
            ("--ops", "--host", "pi"),
            "--ops measures no BUNDLE and no --layers, is run on the device itself, and writes",
        ),
        (("--ops", "--batch", "1,8"), "bench-ops measures with one number of images, got 1,8; give one"),
        (
            ("--layers", "--network", "BNAS-A"),
            "--network, --image-size, --in-channels, --classes and --no-skip go with --ops",
        ),
        (("--layers", "--no-skip"), "--network, --image-size, --in-channels, --classes and --no-skip go with --ops"),
        (("--ops", "--network", "BNAS-Z"), "'BNAS-Z' is not one of 'BNAS-Mini', 'BNAS-A'"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: tuple[str, ...], message: str) -> None:
    result = bench(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_the_old_spellings_are_hidden() -> None:
    told = run("bench", "--help").output
    assert "--layers" not in told
    assert "--ops" not in told
    assert "--network" not in told
    assert "bench-layers for single layers" in told


def test_images_that_do_not_fit_are_refused() -> None:
    result = run("bench-ops", "--network", "BNAS-D", "--image-size", "30")
    assert result.exit_code == 1
    assert "BNAS-D: images of 30x30; the imagenet stem and two reduction cells need multiples of 32" in result.output


def test_a_file_that_cannot_be_written_is_found_out_first(tmp_path: Path) -> None:
    result = run("bench-ops", *SMALL, "--json", tmp_path / "missing" / "device.json")
    assert result.exit_code == 1
    assert "device.json: cannot be written: No such file or directory" in result.output
    assert "µs" not in result.output
