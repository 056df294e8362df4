"""The command is tried on digits with the smallest supernet."""

import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bnas_deploy.cli import main
from bnas_deploy.commands.search import command, shared_channels
from bnas_deploy.commands.search import command as search_command
from bnas_deploy.commands.search_widths import command as search_widths_command
from bnas_deploy.core.genotype import BATS_GROUPS, Cell, Edge, Genotype, read_genotype
from bnas_deploy.core.history import read_history
from bnas_deploy.search.cells.config import (
    SEARCH_DEVIATIONS,
    SEARCH_RECIPES,
    STRATEGIES,
    configure_search,
    configure_supernet,
)
from bnas_deploy.search.data.kinds import DATA_KINDS
from bnas_deploy.search.models.bnas.config import NETWORKS
from bnas_deploy.search.training.checkpoint import load_checkpoint
from bnas_deploy.search.widths.config import configure_width_search

TINY = ("--cells", 3, "--channels", 1, "--epochs", 1, "--batch-size", 359, "--device", "cpu")


def invoke(*words):
    return CliRunner().invoke(command, [str(word) for word in words])


def settings(folder):
    return read_history(folder / "history.json").settings["search"]


def test_help_shows_every_default():
    text = " ".join(invoke("--help").output.split()).replace("- ", "-")  # lines break after hyphens
    for kind, defaults in ((kind.name, kind.search) for kind in DATA_KINDS.values()):
        for value in (defaults.cells, defaults.channels, defaults.recipe):
            assert f"{kind} {value}" in text
    for recipe in SEARCH_RECIPES.values():
        assert f"{recipe.name} {recipe.epochs}" in text
        assert f"{recipe.name} {recipe.batch_size}" in text
    for name, strategy in STRATEGIES.items():
        assert f"{name}: {strategy.summary}" in text
    for name in (*SEARCH_DEVIATIONS, "runs/search-DATA", "7.7 for every 50 epochs", "with the strategy bnas only"):
        assert name in text


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    """What a search by each strategy says, and its folder."""
    folder = tmp_path_factory.mktemp("searches")
    return {name: (invoke(*TINY, "--strategy", name, "-o", folder / name), folder / name) for name in STRATEGIES}


def test_defaults_are_those_of_data_and_strategy(searches):
    for strategy, defaults in STRATEGIES.items():
        result, out = searches[strategy]
        assert result.exit_code == 0, result.output
        assert f"Next: bnas-deploy train --device cpu --genotype {out / 'genotype.json'}" in result.output
        made = settings(out)
        assert (made["strategy"], made["diversity"], made["zeroise"]) == (
            strategy,
            defaults.diversity,
            defaults.zeroise,
        )
        assert made["diversity_epochs"] == pytest.approx(7.7 / 50)  # of one epoch


def next_line(output):
    """Return the command that a search prints, as words behind the name of the program."""
    return shlex.split(output.split("\nNext: ")[1].splitlines()[0])[1:]


def test_what_a_search_prints_trains_the_same_images_and_layers(tmp_path, monkeypatch):
    """The line is run as it is printed, with one epoch and a small network instead of the default ones."""
    monkeypatch.chdir(tmp_path)
    alike = ("--data", "digits", "--limit", "40", "--k-map", "--no-skip", "--like-official-code", "clamp-weights")
    more = ("--like-official-code", "stale-entropy-index", "--space", "bats", "--cells", 3, "--channels", 12)
    result = invoke(*alike, *more, "--epochs", 1, "--batch-size", 20, "--device", "cpu", "-o", "my search")
    assert result.exit_code == 0, result.output
    words = next_line(result.output)
    # digits is the default, of both commands; the other deviation is one of searches.
    assert words[:5] == ["train", "--limit", "40", "--no-skip", "--k-map"]
    assert "--like-official-code" in words
    assert "stale-entropy-index" not in words
    trained = CliRunner().invoke(main, [*words, "--cells", "3", "--epochs", "1", "--batch-size", "20", "-o", "run"])
    assert trained.exit_code == 0, trained.output
    network = load_checkpoint(Path("run/best.safetensors")).network
    assert (network.k_map, network.inter_cell_skip, network.deviations) == (True, False, ("clamp-weights",))
    assert network.genotype == read_genotype("my search/genotype.json")


def test_cells_of_grouped_operations_are_trained_with_channels_that_can_be_shared():
    bats = Cell((Edge("bats_conv_3x3", 0), *(Edge("skip_connect", 0),) * 7))
    plain = Cell((Edge("skip_connect", 0),) * 8)
    assert NETWORKS["BNAS-B"].channels == 64
    for genotype in (Genotype(bats, plain), Genotype(plain, bats)):
        assert shared_channels("BNAS-B", genotype) == ["--channels", "72"]
    assert shared_channels("BNAS-B", Genotype(plain, plain)) == []
    assert NETWORKS["BNAS-Mini"].channels % BATS_GROUPS == 0
    assert shared_channels("BNAS-Mini", Genotype(bats, bats)) == []
    assert shared_channels("VGG-11", Genotype(bats, bats)) == []


def test_every_option_reaches_the_search(tmp_path):
    out = tmp_path / "search"
    words = ("--space", "darts", "--precision", "float", "--no-dilated", "--no-skip", "--zeroise", "--gamma", 3)
    words += ("--diversity", 0.5, "--diversity-epochs", 2, "--k-map", "--like-official-code", "stale-entropy-index")
    result = invoke(*TINY, *words, "--seed", 7, "-o", out)
    assert result.exit_code == 0, result.output
    made = settings(out)
    network = made["network"]
    assert "skip_connect" in network["space"]["operations"]
    assert not [name for name in network["space"]["operations"] if "_dil_" in name]
    assert (network["precision"], network["k_map"], network["inter_cell_skip"]) == ("float", True, False)
    assert (network["cells"], network["channels"], network["deviations"]) == (3, 1, ["stale-entropy-index"])
    assert (made["gamma"], made["diversity"], made["diversity_epochs"], made["zeroise"]) == (3.0, 0.5, 2.0, True)
    assert (made["recipe"]["epochs"], made["recipe"]["batch_size"]) == (1, 359)
    assert read_history(out / "history.json").settings["seed"] == 7
    said = result.output.splitlines()[-1].split()
    assert said[:3] == ["Next:", "bnas-deploy", "train"], said
    assert {"--no-skip", "--k-map"} < set(said)
    assert said[said.index("--genotype") + 1] == str(out / "genotype.json")
    assert "skip</text>" not in (out / "cells.svg").read_text()


def test_a_quick_look_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*TINY, "--limit", 40, "--batch-size", 20)
    assert result.exit_code == 0, result.output
    assert "digits, limited to 40: 40 training and 40 test images" in result.output
    assert read_history(tmp_path / "runs/search-digits-limit40/history.json").settings["data"]["train_size"] == 40


def test_separable_convolutions_can_be_added(tmp_path):
    assert invoke(*TINY, "--separable", "-o", tmp_path / "search").exit_code == 0
    assert settings(tmp_path / "search")["network"]["space"]["operations"][-1] == "bin_sep_conv_5x5"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--data", "nowhere"), 1, "unknown data 'nowhere'; expected one of digits, cifar10:FOLDER"),
        (("--data", "imagefolder"), 1, "data 'imagefolder' without its folder; give imagefolder:FOLDER"),
        (("--data", "imagefolder:x"), 1, "x: no such folder; expected the folder of the data set imagefolder"),
        (
            ("--image-size", "16"),
            1,
            "--data digits: --image-size, --in-channels and --skip-bad are for image files; leave them out",
        ),
        (("--data", "cifar10"), 1, "data 'cifar10' without its folder; give cifar10:FOLDER"),
        (("--batch-size", "720"), 1, "each half of a search has 719, fewer than one batch of 720; use a larger"),
        (
            ("--space", "bats", "--channels", "13"),
            1,
            "the supernet (--channels): 13 channels cannot be shared among the 12 groups of bats_conv_3x3; choose a "
            "multiple of 12, such as 24",
        ),
        (("--gamma", "0"), 2, "0.0 is not in the range x>0"),
        (
            ("--latency-target", "d", "--latency-weight", "nan"),
            2,
            "--latency-weight is nan; give a number, such as 0.1",
        ),
        (
            ("--latency-target", "d", "--latency-weight", "0", "--k-map"),
            1,
            "--k-map: d has no times of convolutions with",
        ),
        (("--resume",), 1, "no resume.safetensors in it, so there is no search to resume"),
    ],
)
def test_refusals(tmp_path, words, code, message):
    result = invoke(*words, "-o", tmp_path / "search")
    assert result.exit_code == code
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "search").exists()


def test_ctrl_c_then_resume(tmp_path):
    folder = tmp_path / "my search"
    options = [str(word) for word in (*TINY, "-o", folder)]
    options[options.index("359")] = "16"  # 44 steps
    code = "from bnas_deploy.cli import main; main(prog_name='bnas-deploy')"
    searching = subprocess.Popen(
        [sys.executable, "-P", "-W", "error", "-c", code, "search", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not (folder / "resume.safetensors").exists():
        assert searching.poll() is None, searching.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    searching.send_signal(signal.SIGINT)
    output, _ = searching.communicate(timeout=120)
    assert searching.returncode == 130, output
    assert "Traceback" not in output
    assert f"Stopped before the first epoch was finished; the place is saved in {folder}" in output
    wanted = "bnas-deploy search --cells 3 --channels 1 --epochs 1 --batch-size 16 --device cpu"
    assert f"Go on with: {wanted} -o '{folder}' --resume" in output

    result = invoke(*options, "--resume")
    assert result.exit_code == 0, result.output
    assert "Finished after 1 epoch; best validation accuracy" in result.output
    pictures = {f"{name}.{kind}" for name in ("cells", "history") for kind in ("svg", "png")}
    files = {"genotype.json", "history.json", "resume.safetensors"}
    assert {file.name for file in folder.iterdir()} == files | pictures
    again = invoke(*options, "--resume", "--gamma", 2)
    assert "other settings: search.gamma (1.0 before, 2.0 now)" in " ".join(again.output.split())


def test_what_was_found_can_be_trained(searches):
    """The genotype file is what `train --genotype` reads; training itself is tested elsewhere."""
    _, folder = searches["bnas"]
    genotype = read_genotype(str(folder / "genotype.json"))
    history = json.loads((folder / "history.json").read_text())
    assert genotype.to_json() == history["epochs"][history["best_epoch"] - 1]["genotype"]


@pytest.mark.parametrize(
    ("command", "functions"),
    [
        (search_command, [configure_search, configure_supernet]),
        (search_widths_command, [configure_width_search]),
    ],
    ids=["search", "search-widths"],
)
def test_options_have_the_defaults_of_python(command, functions):
    options = command.make_context("command", []).params
    compared = 0
    for function in functions:
        for name, parameter in inspect.signature(function).parameters.items():
            if name in options and parameter.default is not parameter.empty:
                assert options[name] == parameter.default, name
                compared += 1
    assert compared >= 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "there"), "there: already holds a search (genotype.json), which was left alone"),
        (("--arithmetic", "tf32"), "--arithmetic tf32: a CPU has no TF32"),
        (("--latency-target", "nothing.json", "--latency-weight", "1"), "nothing.json: cannot be read"),
    ],
)
def test_what_needs_no_data_is_refused_before_they_are_read(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("there/genotype.json").touch()
    result = CliRunner().invoke(main, ["search", "--data", "idx:not-looked-for", "--device", "cpu", *words])
    assert (result.exit_code, message in result.output) == (1, True), result.output
    assert "not-looked-for" not in result.output
