"""The command is tried on digits with the smallest VGG, and its file of widths all the way to a bundle."""

import json
import shlex
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from bnas_deploy.cli import main
from bnas_deploy.commands.search_widths import command, train_words
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.layer_cost import total
from bnas_deploy.core.width_history import WIDTH_HISTORY, read_width_history
from bnas_deploy.search.data.kinds import kind_of
from bnas_deploy.search.models.layer_costs import layer_costs
from bnas_deploy.search.models.registry import configure, least_images
from bnas_deploy.search.training.checkpoint import load_checkpoint
from bnas_deploy.search.widths.config import PRESETS, evaluation_options

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
    train = "bnas-deploy train --network VGG-11 --form cifar --scheme zero-alpha --device cpu"
    assert f"Next: {train} --widths {folder / 'widths.json'} -o {folder}-trained" in output
    assert f" MB): {train} --widths {folder / 'uniform.json'} -o {folder}-uniform" in output
    names = {file.name for file in folder.iterdir()}
    assert names == {
        *("widths.json", "uniform.json", "width-history.jsonl", "README.md", "resume.safetensors"),
        *("channels.svg", "channels.png", "history.svg", "history.png"),
    }
    text = (folder / "channels.svg").read_text()
    assert "conv8" in text
    assert "one ratio, the same memory" in text


def test_the_network_of_one_ratio_has_the_memory_that_is_said(found, tmp_path):
    folder, output = found
    words = ("init", "--network", "VGG-11", "--widths", folder / "uniform.json", "--image-size", 8, "--in-channels", 1)
    assert invoke(*words, "-o", tmp_path / "net").exit_code == 0
    shown = " ".join(invoke("inspect", tmp_path / "net").output.split())
    assert f"widths {', '.join(map(str, read_width_history(folder / WIDTH_HISTORY).heading.uniform))}" in shown
    layers = layer_costs(load_checkpoint(tmp_path / "net").network)
    assert f"As large, of one ratio ({total(layers).weight_bytes / 2**20:.4g} MB): " in output


def test_the_folder_says_what_it_is_and_how_to_use_it(found, tmp_path):
    folder, _ = found
    card = (folder / "README.md").read_text()
    last = read_width_history(folder / WIDTH_HISTORY).epochs[-1]
    widths = json.loads((folder / "widths.json").read_text())
    about = {"data": "digits", "goal": "memory", "unit": "MB", "target": 0.004, "cost": last.cost}
    assert (widths["scheme"], widths["found"]) == ("zero-alpha", about)
    for said in (
        "# Widths for VGG-11, searched on digits\n",
        "* scheme zero-alpha\n",
        f"| conv8 | 16 | {last.widths[-1]} | ",
        "* 1,438 training images: half of them train weights, half the widths",
        "| goal.target | 0.004 |\n",
        "bnas-deploy search-widths --width-factor 0.125 --preset small --memory-target 0.004 --epochs 1 --batch-size "
        "360 --data digits\n",
        f"| `widths.json` | {last.cost:.4g} |\n",
        "bnas-deploy train --network VGG-11 --form cifar --scheme zero-alpha --widths widths.json --data digits -o RUN",
    ):
        assert said in card


def test_the_scheme_of_the_search_is_kept_unless_another_is_asked_for(found, tmp_path):
    words = ("init", "--network", "VGG-11", "--widths", found[0] / "widths.json", "--image-size", 8, "--in-channels", 1)
    assert invoke(*words, "-o", tmp_path / "same").exit_code == 0
    assert load_checkpoint(tmp_path / "same").network.scheme == "zero-alpha"
    assert invoke(*words, "--scheme", "xnor-net", "-o", tmp_path / "other").exit_code == 0
    assert load_checkpoint(tmp_path / "other").network.scheme == "xnor-net"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--memory-target", "nan"), "a search for widths with a memory target of nan; wanted a positive number"),
        ((), "no target: give --memory-target MB"),
        (("--latency-target", 3, "--latency-table", "nothing.json"), "nothing.json: cannot be read"),
        (("--memory-target", 1, "--network", "BNAS-A"), "BNAS-A has no widths to search"),
        (("--memory-target", 1, "-o", "there"), "there: already holds a search for widths (widths.json)"),
    ],
)
def test_what_needs_no_data_is_refused_before_they_are_read(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("there/widths.json").touch()
    result = search("--data", "idx:not-looked-for", "--device", "cpu", *words)
    assert (result.exit_code, message in result.output) == (1, True), result.output
    assert "not-looked-for" not in result.output


def next_lines(output):
    """Return the two commands that a search prints, as words behind the name of the program."""
    lines = [line for line in output.splitlines() if ": bnas-deploy train " in line]
    return [shlex.split(line.partition(": ")[2])[1:] for line in lines]


def test_what_a_search_prints_trains_the_same_images_and_layers(tmp_path, monkeypatch):
    """Both lines are run as they are printed, with one epoch instead of the recipe's."""
    monkeypatch.chdir(tmp_path)
    for part, name, number in product(("train", "val"), ("cat", "dog"), range(4)):
        path = Path("photos") / part / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), 20 * number + (name == "dog")).save(path)
    words = ("--data", "imagefolder:photos", "--limit", 6, "--scheme", "xnor-net", "--k-map", "--network", "VGG-11")
    size = ("--width-factor", 0.125, "--memory-target", 1, "--epochs", 1, "--batch-size", 3, "--device", "cpu")
    result = search(*words, *size, "-o", "my widths")
    assert result.exit_code == 0, result.output
    searched, uniform = next_lines(result.output)
    assert searched[:7] == ["train", "--data", "imagefolder:photos", "--image-size", "32x32", "--limit", "6"]
    heading = read_width_history(Path("my widths") / WIDTH_HISTORY).heading
    last = read_width_history(Path("my widths") / WIDTH_HISTORY).epochs[-1]
    for line, widths in ((searched, last.widths), (uniform, heading.uniform)):
        trained = invoke(*line, "--recipe", "small", "--epochs", 1, "--batch-size", 3)
        assert trained.exit_code == 0, trained.output
        network = load_checkpoint(Path(line[-1]) / "best.safetensors").network
        assert (network.widths, network.image_size, network.scheme) == (widths, (32, 32), "xnor-net")
        assert network.k_map
        assert "6 training" in trained.output


def test_every_setting_of_a_network_is_in_what_is_printed():
    """A setting that a family gets later is there, too."""
    words = ["--network", "QuickNet", "--form", "imagenet", "--scheme", "bi-real", "--k-map", "--like-larq"]
    more = ["--width-factor", "0.5", "--in-channels", "1", "--skip-bad"]
    with command.make_context("search-widths", [*words, *more]) as context:
        config = configure("QuickNet", options={"scheme": "bi-real", "like_larq": True, "k_map": True})
        line = train_words(context, config, (64, 48))
    data = ["--image-size", "64x48", "--in-channels", "1", "--skip-bad"]
    assert line == ["bnas-deploy", "train", *data, *words]


@pytest.mark.parametrize(
    ("data", "preset", "network", "options"),
    [
        ("cifar10:X", None, "vgg", ("--recipe", "dms")),
        ("cifar100:X", "dms-a", "vgg", ("--recipe", "dms")),
        ("cifar10:X", "dms-b", "vgg", ("--recipe", "dms", "--set", "optimiser.weight_decay=2e-4")),
        ("cifar10:X", "dms-b", "resnet", ()),  # DMS trains them in a float stage first
        ("cifar10:X", "small", "vgg", ()),
        ("digits", "dms-a", "vgg", ()),
    ],
)
def test_the_published_evaluation_is_named_where_there_is_one(data, preset, network, options):
    assert evaluation_options(preset, kind_of(data), network) == options


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
    assert "dms-a 0.12, dms-b 1.0; small has none" in text


@pytest.mark.parametrize("name", ["search-widths", "train"])
def test_help_names_the_networks_that_need_larger_images_than_the_default_ones(name):
    text = " ".join(invoke(name, "--help").output.split()).replace("- ", "-")  # lines break behind hyphens
    needs = least_images()
    assert needs["LeNet-5"] == 15
    for network, pixels in needs.items():
        assert f"{network} {pixels}" in text
        with pytest.raises(BnasError, match=f"wanted at least {pixels} pixels in height and width"):
            configure(network, image_size=(8, 8))


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


def test_a_file_of_widths_is_not_drawn_and_a_search_not_with_a_run(found, tmp_path):
    folder, _ = found
    for name in ("widths.json", "uniform.json"):
        result = invoke("draw", folder / name, "-o", tmp_path / "x.svg")
        assert result.exit_code == 1
        said = f"{folder / name}: a file of widths is not drawn; give the folder of its search, which has width-hist"
        assert said in " ".join(result.output.split())


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
        (
            ("--memory-target", 1, "--latency-target", 5),
            2,
            "--memory-target and --latency-target exclude each other; leave one of them out",
        ),
        (
            ("--first-ratio", 1e9, "--memory-target", 1),
            1,
            "VGG-11: a search from the ratio 1e+09 begins with candidates of up to 1.28e+11 channels, and a layer "
            "has 65536 at most; choose a smaller --first-ratio or --width-factor",
        ),
        (
            ("--penalty", 1e300, "--memory-target", 1),
            1,
            "a search for widths with a memory penalty of 1e+300; wanted at most 1e+100, since the squares of its "
            "gradients have to be numbers",
        ),
        (
            ("--width-factor", 0.1, "--memory-target", 1, "--scheme", "cbcn"),
            1,
            ": 3 output channels are no multiple of 4 rotations; choose another --scheme or --network",
        ),
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
    ("text", "message"),
    [
        ("0,1,1", "--widths: width 1 is 0; wanted a number from 1 to 65536"),
        ("1,99999", "--widths: width 2 is 99999; wanted a number from 1 to 65536"),
        *(
            (f"8,{part},8", f"--widths: width 2 is '{part}'; wanted whole numbers from 1 to 65536 between commas, or a")
            for part in ("-1", "1.5", "nan", "inf", "1e3", "9999999999", "", "\u0664", "conv")
        ),
        ("-3", "--widths: width 1 is '-3'; wanted whole numbers"),
        ("none.json", "none.json: cannot be read: No such file or directory; expected a file of widths, as"),
        ("a,b", "a,b: cannot be read: No such file or directory; expected a file of widths, as search-widths"),
    ],
)
def test_widths_that_no_layer_has_are_told(tmp_path, text, message):
    result = invoke("init", "--network", "VGG-11", "--widths", text, "-o", tmp_path / "net")
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_a_file_of_widths_may_have_commas_and_digits_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("1,2").write_text(json.dumps({"channels": [8] * 8, "network": "VGG-11", "form": "cifar"}))
    assert invoke("init", "--network", "VGG-11", "--widths", "1,2", "-o", "net").exit_code == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"channels": [1] * 6, "network": "VGG-Small", "form": "cifar"},
            "widths of VGG-Small in its cifar form, wanted those of VGG-11 in its cifar form; choose that network",
        ),
        (
            {"channels": [0] + [8] * 7, "network": "VGG-11", "form": "cifar"},
            "widths.json: width 1 is 0; wanted a number from 1 to 65536",
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
