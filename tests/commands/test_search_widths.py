"""The command is tried on digits with the smallest VGG, and its file of widths all the way to a bundle."""

import json

import pytest
from click.testing import CliRunner

from bnas_deploy.cli import main
from bnas_deploy.core.width_history import read_width_history
from bnas_deploy.search.widths.config import PRESETS

TINY = (
    *("--network", "vgg-11", "--width-factor", 0.125, "--memory-target", 0.004, "--epochs", 1, "--batch-size", 360),
    *("--device", "cpu"),
)


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def search(*words):
    return invoke("search-widths", *words)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    result = search(*TINY, "-o", folder)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_a_search_tells_how_to_go_on_and_leaves_pictures(found):
    folder, output = found
    assert "epoch 2/2  widths   loss " in output
    last = read_width_history(folder / "width-history.jsonl").epochs[-1]
    assert f"Finished after 2 passes; memory {last.cost:.4g} MB, aimed at 0.004: {folder / 'widths.json'}" in output
    assert f"widths {', '.join(map(str, last.widths))}" in output
    train = "bnas-deploy train --network VGG-11 --form cifar --scheme zero-alpha"
    assert f"Next: {train} --widths {folder / 'widths.json'}" in output
    assert f"As large, of one ratio: {train} --width-factor 0." in output
    names = {file.name for file in folder.iterdir()}
    assert names == {
        *("widths.json", "width-history.jsonl", "resume.safetensors"),
        *("channels.svg", "channels.png", "history.svg", "history.png"),
    }
    text = (folder / "channels.svg").read_text()
    assert "conv8" in text
    assert "one ratio, the same memory" in text


def test_the_factor_of_one_ratio_gives_the_network_that_the_history_shows(found, tmp_path):
    folder, output = found
    factor = output.split("--width-factor ")[1].split()[0]
    words = ("init", "--network", "VGG-11", "--width-factor", factor, "--image-size", 8, "--in-channels", 1)
    assert invoke(*words, "-o", tmp_path / "net").exit_code == 0
    shown = invoke("inspect", tmp_path / "net").output
    uniform = read_width_history(folder / "width-history.jsonl").heading.uniform
    assert f"widths {', '.join(map(str, uniform))}" in " ".join(shown.split())


def test_the_widths_are_trained_exported_and_run(found, tmp_path):
    folder, _ = found
    widths = ("--network", "VGG-11", "--scheme", "zero-alpha", "--widths", folder / "widths.json")
    trained = invoke("train", *widths, "--epochs", 1, "--batch-size", 359, "-o", tmp_path / "run", "--device", "cpu")
    assert trained.exit_code == 0, trained.output
    bundle = tmp_path / "bundle"
    exported = invoke("export", tmp_path / "run/best.safetensors", "-o", bundle)
    assert exported.exit_code == 0, exported.output
    measured = invoke("bench", bundle, "--threads", 1, "--min-seconds", 0.01)
    assert measured.exit_code == 0, measured.output


def test_every_option_reaches_the_search(tmp_path):
    words = ("--preset", "dms-b", "--penalty", 0.5, "--first-ratio", 1.2, "--round-epochs", 3, "--learning-rate", 0.1)
    more = ("--width-learning-rate", 0.03, "--no-best-effort", "--scheme", "binarynet", "--seed", 7)
    result = search(*TINY, *words, *more, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    settings = read_width_history(tmp_path / "width-history.jsonl").settings
    made = settings["search"]
    assert made["goal"] == {"kind": "memory", "target": 0.004, "penalty": 0.5}
    assert (made["first_ratio"], made["round_epochs"], made["best_effort"]) == (1.2, 3, False)
    assert (made["first_learning_rate"], made["last_learning_rate"]) == (0.1, pytest.approx(0.02))
    assert (made["width_learning_rate"], made["epochs"], made["batch_size"]) == (0.03, 1, 360)
    assert (made["network"]["scheme"], settings["seed"]) == ("binarynet", 7)


def test_help_shows_the_presets():
    text = " ".join(search("--help").output.split())
    for name, preset in PRESETS.items():
        assert f"{name}: {preset.summary}" in text
        assert f"{name} {preset.first_ratio}" in text


def test_two_searches_are_drawn_on_top_of_each_other(found, tmp_path):
    folder, _ = found
    again = tmp_path / "again"
    assert search(*TINY, "--no-best-effort", "-o", again).exit_code == 0
    picture = tmp_path / "figure3.svg"
    result = invoke("draw", folder, again, "-o", picture)
    assert result.exit_code == 0, result.output
    assert "training error" in picture.read_text()
    one = tmp_path / "figure4.svg"
    assert invoke("draw", folder, "-o", one).exit_code == 0
    assert "channels" in one.read_text()


def test_latency_is_aimed_at_with_a_table_of_bench_ops(tmp_path):
    table = tmp_path / "device.json"
    size = ("--image-size", 8, "--in-channels", 1, "--classes", 10, "--min-seconds", 0)
    made = invoke("bench-ops", "--network", "VGG-11", "--width-factor", 0.125, *size, "--json", table)
    assert made.exit_code == 0, made.output
    assert f"{table}: for `bnas-deploy search-widths --latency-table`" in made.output
    words = [word for word in TINY if word not in ("--memory-target", 0.004)]
    out = tmp_path / "found"
    result = search(*words, "--latency-target", 1000, "--latency-table", table, "-o", out)
    assert result.exit_code == 0, result.output
    history = read_width_history(out / "width-history.jsonl")
    assert (history.heading.goal, history.heading.unit, history.heading.target) == ("latency", "us", 1000)
    assert "; latency " in result.output
    lacking = json.loads(table.read_text())
    lacking["times"] = [each for each in lacking["times"] if each["operator"] != "Gemm"]
    table.write_text(json.dumps(lacking))
    result = search(*words, "--latency-target", 1000, "--latency-table", table, "-o", tmp_path / "other")
    assert result.exit_code == 1
    assert "the latency table has no time of Gemm" in result.output


# ---- refusals


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--network", "BNAS-A"), 1, "BNAS-A has no widths to search; choose one of "),
        (("--latency-target", 5), 2, "--latency-target and --latency-table go together; give both or neither"),
        (
            ("--memory-target", 1, "--latency-target", 5, "--latency-table", "x"),
            2,
            "--memory-target and --latency-target exclude each other; leave one of them out",
        ),
        ((), 1, "no target: give --memory-target MB, or --latency-target US and --latency-table DEVICE.json"),
        (("--memory-target", 0.0001), 1, "no widths reach a memory of 0.0001 MB; the least, with every width at 0.3"),
        (("--first-ratio", 0.1), 2, "0.1 is not in the range x>=0.3"),
    ],
)
def test_a_search_that_cannot_be_is_refused(tmp_path, words, code, message):
    result = search(*words, "-o", tmp_path / "out")
    assert result.exit_code == code
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"channels": [1] * 6, "network": "VGG-Small", "form": "cifar"},
            "widths of VGG-Small in its cifar form, wanted those of VGG-11 in its cifar form; choose that network",
        ),
        (
            {"channels": [0] + [8] * 7, "network": "VGG-11", "form": "cifar"},
            "width 1 is 0; wanted a number from 1 to 65536",
        ),
        ({"channels": [1] * 7, "network": "VGG-11", "form": "cifar"}, "7 widths, wanted 8: the channels of conv1"),
        ({"widths": [1]}, "expected a file of widths, as search-widths writes it"),
    ],
)
def test_a_file_of_other_widths_is_refused(tmp_path, content, message):
    path = tmp_path / "widths.json"
    path.write_text(json.dumps(content))
    result = invoke("init", "--network", "VGG-11", "--widths", path, "-o", tmp_path / "net")
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
