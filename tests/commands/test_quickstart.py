"""`bnas-deploy quickstart`, with a smaller network and a shorter training, from its first line to its last."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bnas_deploy.cli import main
from bnas_deploy.commands import bench, quickstart
from bnas_deploy.core.bundle import read_bundle
from bnas_deploy.search.models.bnas import config
from bnas_deploy.search.training import recipes


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(config.NETWORKS["BNAS-Mini"], cells=3, channels=4)
    monkeypatch.setitem(config.NETWORKS, "BNAS-Mini", tiny)
    monkeypatch.setitem(config.NETWORKS, quickstart.FULL_SIZE, tiny)
    short = replace(recipes.RECIPES["digits"], epochs=1, batch_size=256)
    monkeypatch.setattr("bnas_deploy.commands.train.find_recipe", lambda given, changes: short)
    # What other programs do is not what is tested here.
    monkeypatch.setattr("bnas_deploy.runtime.bench.waiting.HARMLESS_NS", 10**15)
    (min_seconds,) = (option for option in bench.command.params if option.name == "min_seconds")
    monkeypatch.setattr(min_seconds, "default", 0.1)


@pytest.mark.usefixtures("small")
def test_it_goes_the_whole_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["quickstart", "-o", str(out)])
    assert result.exit_code == 0, result.output
    for step in range(1, 5):
        assert f"[{step}/4]" in result.output
    # The network that shows the gain comes first, and its result is also the first of the last lines.
    places = [
        result.output.index(text) for text in ("BNAS-A, 32x32 images", "Train a binary network on", "In short:\n")
    ]
    assert places == sorted(places)
    short = result.output[places[-1] :].splitlines()
    assert re.fullmatch(r"  BNAS-A: bnas with 1 thread: \d+\.\d\d times as fast as ort-fp32 \(.*\)\.", short[1])
    assert any(line.startswith("  digits: bnas with 1 thread") for line in short)
    for bundle in ("digits-bundle", "bnas-a-bundle"):
        assert read_bundle(out / bundle).manifest.verification.pieces
    for report in ("digits.json", "bnas-a.json"):
        records = json.loads((out / report).read_text())["records"]
        assert {record["engine"] for record in records if record["subject"] == "network"} >= {
            "bnas",
            "ort-fp32",
            "ort-int8",
        }
    # Every file that the last lines name is there, and the commands that they propose are ours.
    told = result.output[result.output.index("Everything is in") :]
    named = [word.rstrip(",") for line in told.splitlines() for word in line.split() if word.startswith(str(out))]
    assert len(named) > 5
    assert all(Path(name.rstrip(":")).exists() for name in named)
    proposed = {line.split()[1] for line in told.splitlines() if line.startswith("  bnas-deploy ")}
    assert proposed == {"inspect", "verify", "init", "train"}
    assert proposed <= set(main.commands)


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("important")
    result = CliRunner().invoke(main, ["quickstart", "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path}: not empty; it was left alone, choose another folder with -o\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis"]
