"""Searches are of a tiny VGG on random images, where a pass takes a fraction of a second."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import BnasError, CheckpointError, DataError
from bnas_deploy.core.width_history import WEIGHTS, WIDTHS, read_width_history
from bnas_deploy.search.data.augmentation import Augmentation
from bnas_deploy.search.models.backbone_settings import read_widths_file
from bnas_deploy.search.models.registry import configure
from bnas_deploy.search.training.checkpoint import read_tensors, write_tensors
from bnas_deploy.search.widths import search as module
from bnas_deploy.search.widths.config import PRESETS, Goal, WidthSearchConfig
from bnas_deploy.search.widths.search import search_widths

BASE = configure(
    "VGG-11", classes=3, in_channels=1, image_size=(8, 8), options={"width_factor": 0.125, "scheme": "zero-alpha"}
)
CONFIG = WidthSearchConfig(
    network=BASE,
    goal=Goal("memory", 0.003, 10.0),
    epochs=5,
    batch_size=6,
    width_learning_rate=0.05,
    first_ratio=1.5,
    augmentation=Augmentation(shift=1, flip=True),
    round_epochs=2,
)
STEPS = 3  # of a pass: 17 images in batches of 6
PASSES = [WEIGHTS, WEIGHTS, WIDTHS, WEIGHTS, WEIGHTS, WIDTHS, WEIGHTS, WIDTHS]
FILES = ["README.md", "resume.safetensors", "uniform.json", "width-history.jsonl", "widths.json"]


def runner(bright_rows, recorder):
    """Return a function that runs in a folder and returns the result and what a listener was told."""

    def run(folder, *, train_size=35, stop_after=None, **changes):
        listener = recorder(stop_after)
        values = {
            "data": bright_rows(train_size),
            "config": CONFIG,
            "stop": listener.stop,
            "listener": listener,
        } | changes
        result = search_widths(values.pop("data"), values.pop("config"), folder, **values)
        assert all("cost" in record.summary for record in listener.records)
        return result, listener.told

    return run


@pytest.fixture(scope="module")
def run(bright_rows, recorder):
    return runner(bright_rows, recorder)


def without_times(folder):
    lines = [json.loads(line) for line in (folder / "width-history.jsonl").read_text().splitlines()]
    return [{**line, "duration_s": 0} for line in lines]


def assert_same_searches(left, right):
    """Same bits everywhere but for the time."""
    assert (left / "widths.json").read_bytes() == (right / "widths.json").read_bytes()
    assert without_times(left) == without_times(right)
    tensors = [read_tensors(folder / "resume.safetensors", "bnas_deploy_search_widths")[0] for folder in (left, right)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name]), name


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    result, told = run(folder)
    return folder, result, told


# ---- what a search leaves


def test_a_search_leaves_widths_and_a_history(finished):
    folder, result, told = finished
    assert sorted(file.name for file in folder.iterdir()) == FILES
    assert result.finished
    assert told[0] == ("started", 8, STEPS, 0)
    assert [each for each in told if each[0] == "finished"] == [("finished", number) for number in range(1, 9)]
    history = read_width_history(folder / "width-history.jsonl")
    assert history == result.history
    assert [each.trained for each in history.epochs] == PASSES
    assert [each.round for each in history.epochs] == [1, 1, 1, 2, 2, 2, 3, 3]
    assert history.heading.names == tuple(f"conv{number}" for number in range(1, 9))
    assert history.heading.base == BASE.widths
    widths = read_widths_file(folder / "widths.json")
    assert (widths.network, widths.form) == ("VGG-11", "cifar")
    assert widths.channels == history.epochs[-1].widths
    configure("VGG-11", image_size=(8, 8), options={"widths": widths})


def test_the_card_trains_what_was_found_as_dms_does(run, tmp_path):
    options = ("--recipe", "dms", "--set", "optimiser.weight_decay=2e-4")
    run(tmp_path / "one", config=replace(CONFIG, epochs=1), evaluation=options)
    card = (tmp_path / "one" / "README.md").read_text()
    assert " --widths widths.json --data DATA --recipe dms --set optimiser.weight_decay=2e-4 -o RUN\n" in card
    assert "* method: DMS, differentiable dimension search\n* seed: 0\n" in card


def test_mu_moves_in_passes_for_widths_only(finished):
    _, result, _ = finished
    before = (1.5,) * 8
    for each in result.history.epochs:
        assert (each.mu == before) == (each.trained == WEIGHTS)
        assert (each.penalty is None) == (each.trained == WEIGHTS)
        before = each.mu
    assert result.history.epochs[-1].cost < result.history.epochs[0].cost  # the target is below the start


def test_sigma_falls_by_one_factor(finished):
    _, result, _ = finished
    sigmas = {each.round: each.sigma for each in result.history.epochs}
    assert sigmas == pytest.approx({number: 0.3 ** ((number - 1) / 3) for number in (1, 2, 3)})
    assert CONFIG.sigma(CONFIG.rounds) == pytest.approx(0.3)


def test_the_learning_rate_falls_along_half_a_cosine_in_every_round():
    assert CONFIG.learning_rate(0, 0) == CONFIG.learning_rate(3, 0) == CONFIG.learning_rate(6, 0) == 0.05
    assert CONFIG.learning_rate(1, 0) == pytest.approx(0.03)
    assert CONFIG.learning_rate(1, 1) == CONFIG.learning_rate(6, 1) == pytest.approx(0.01)  # the last round is shorter


def test_the_published_numbers_are_those_of_the_paper():
    for name, ratio, memory in (("dms-a", 1.5, 0.12), ("dms-b", 2.5, 1.0)):
        preset = PRESETS[name]
        assert (preset.first_ratio, preset.memory_mb, preset.epochs, preset.batch_size) == (ratio, memory, 250, 64)
        assert (preset.penalty, preset.round_epochs) == (0.01, 5)
        assert (preset.width_learning_rate("vgg"), preset.width_learning_rate("resnet")) == (2e-3, 1e-3)
    assert (CONFIG.first_learning_rate, CONFIG.last_learning_rate) == (0.05, 0.01)
    assert (CONFIG.momentum, CONFIG.weight_decay, CONFIG.temperature) == (0.9, 1e-4, 1.0)
    assert (CONFIG.first_sigma, CONFIG.last_sigma) == (1.0, 0.3)


def test_a_round_begins_with_the_weights_before_or_with_new_ones(run, monkeypatch, tmp_path):
    for best_effort in (True, False):
        seen = []
        real = module._WidthRun.next_round

        def noted(self, number, real=real, seen=seen):
            before = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            real(self, number)
            name = next(name for name in before if name.endswith("weight"))
            after = self.network.state_dict()[name]
            part = tuple(slice(min(sizes)) for sizes in zip(before[name].shape, after.shape, strict=True))
            seen.append(torch.equal(before[name][part], after[part]))

        monkeypatch.setattr(module._WidthRun, "next_round", noted)
        run(tmp_path / str(best_effort), config=replace(CONFIG, best_effort=best_effort))
        assert seen == [best_effort] * 2


# ---- going on


@pytest.mark.parametrize("stop_after", [1, STEPS, 2 * STEPS + 1, 3 * STEPS, 3 * STEPS + 2, 8 * STEPS - 1])
def test_a_resumed_search_ends_with_the_same_bits(run, finished, tmp_path, stop_after):
    folder, _, _ = finished
    result, _ = run(tmp_path, stop_after=stop_after)
    assert not result.finished
    result, told = run(tmp_path, resume=True)
    assert result.finished
    assert told[0] == ("started", 8, STEPS, stop_after)
    assert_same_searches(folder, tmp_path)


def test_a_killed_search_goes_on_from_its_last_pass(run, finished, tmp_path):
    folder, _, _ = finished
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "import torch; torch.set_num_threads(1)\n"
        "import conftest, test_search\n"
        "test_search.runner(conftest.make_bright_rows, conftest.Recorder)(Path(sys.argv[1]))\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path), *map(str, Path(__file__).parents[:2])]
    process = subprocess.Popen(words)
    while process.poll() is None and not (tmp_path / "widths.json").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result, told = run(tmp_path, resume=True)
    assert result.finished
    assert told[0][-1] % STEPS == 0
    assert_same_searches(folder, tmp_path)


def test_a_search_is_resumed_with_the_same_settings_only(run, tmp_path):
    run(tmp_path, stop_after=1)
    with pytest.raises(
        BnasError, match=r"begun with other settings: search\.goal\.target \(0\.003 before, 0\.004 now\)"
    ):
        run(tmp_path, resume=True, config=replace(CONFIG, goal=Goal("memory", 0.004, 10.0)))
    with pytest.raises(BnasError, match=r"already holds a search for widths \(resume\.safetensors\), which was left"):
        run(tmp_path)
    with pytest.raises(BnasError, match=r"no resume\.safetensors in it, so there is no search for widths to resume"):
        run(tmp_path / "other", resume=True)


@pytest.mark.parametrize("damage", [-3.0, float("nan"), 1e9])
def test_a_damaged_place_is_refused(run, tmp_path, damage):
    run(tmp_path, stop_after=1)
    path = tmp_path / "resume.safetensors"
    tensors, description = read_tensors(path, "bnas_deploy_search_widths")
    tensors["distribution.sigma_now"] = torch.tensor(damage, dtype=torch.float64)
    write_tensors(path, tensors, "bnas_deploy_search_widths", description)
    with pytest.raises(CheckpointError, match="damaged"):
        run(tmp_path, resume=True)


# ---- what goes wrong


@pytest.mark.parametrize(("step", "name"), [("weight_step", "loss"), ("width_step", "loss")])
def test_what_is_not_finite_stops_the_search_and_keeps_its_place(run, finished, tmp_path, monkeypatch, step, name):
    real = getattr(module._WidthRun, step)

    def poisoned(self, images, labels):
        if self.place.epoch >= 4:
            self.network.network.classifier.linear.weight.data.fill_(math.nan)
        real(self, images, labels)

    with monkeypatch.context() as patched:
        patched.setattr(module._WidthRun, step, poisoned)
        with pytest.raises(BnasError) as caught:
            run(tmp_path)
    number = 5 if step == "weight_step" else 6
    assert f"the {name} is nan in pass {number}, step " in caught.value.message
    assert (
        f"still holds {counted(number - 1, 'pass', 'passes')} before it, and widths.json of them. Try another --seed"
        in caught.value.message
    )
    assert len(read_width_history(tmp_path / "width-history.jsonl").epochs) == number - 1
    run(tmp_path, resume=True)
    assert_same_searches(finished[0], tmp_path)


def test_weights_that_signs_hide_from_the_loss_stop_it_too(run, tmp_path, monkeypatch):
    real = module._WidthRun.weight_step

    def poisoned(self, images, labels):
        real(self, images, labels)
        self.network.network.blocks[0][0].weight.data[0, 0, 0, 0] = math.inf

    monkeypatch.setattr(module._WidthRun, "weight_step", poisoned)
    with pytest.raises(BnasError, match=r"the largest weight is (inf|nan) in pass 1, step 3; no pass was finished"):
        run(tmp_path)


@pytest.mark.parametrize("rate", [1e30, 1e5])
def test_widths_that_no_network_may_have_stop_it(run, tmp_path, rate):
    message = r"width \d of VGG-11, of at most 65,536 channels, grew to \S+ in pass \d; .* lower --width-learning-rate"
    with pytest.raises(BnasError, match=message):
        run(tmp_path, config=replace(CONFIG, width_learning_rate=rate))


def test_a_network_for_other_images_or_too_few_are_refused(run, tmp_path):
    other = configure("VGG-11", classes=3, in_channels=3, image_size=(8, 8), options={"width_factor": 0.125})
    with pytest.raises(BnasError, match=r"VGG-11-0\.125x has channels in 3, but rows has 1"):
        run(tmp_path, config=replace(CONFIG, network=other))
    with pytest.raises(DataError, match=r"each half of a search has 5, fewer than one batch of 6; use a larger"):
        run(tmp_path, train_size=11)
    with pytest.raises(DataError, match=r"halves of 19 images in batches of 6 leave a last batch of one, which has no"):
        run(tmp_path, train_size=38)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "a search for widths with epochs 0; wanted a positive number"),
        (
            {"width_learning_rate": math.nan},
            "a search for widths with width_learning_rate nan; wanted a positive number",
        ),
        ({"first_ratio": 0.2}, "a search for widths that begins at the ratio 0.2; the least ratio is 0.3"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(BnasError) as caught:
        replace(CONFIG, **change)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no heading in its first line"),
        ("[1]\n", "no heading in its first line"),
        ('{"format": 1}\n', "heading: got null, wanted an object"),
        ("{\n", "not width-history.jsonl of `bnas-deploy search-widths`"),
    ],
)
def test_another_file_is_no_history(tmp_path, text, message):
    path = tmp_path / "width-history.jsonl"
    path.write_text(text)
    with pytest.raises(BnasError) as caught:
        read_width_history(path)
    assert message in caught.value.message


def test_a_history_of_another_format_or_with_a_gap_is_refused(finished, tmp_path):
    lines = (finished[0] / "width-history.jsonl").read_text().splitlines()
    path = tmp_path / "width-history.jsonl"
    path.write_text(lines[0].replace('"format": 1', '"format": 9'))
    with pytest.raises(BnasError, match=r"format 9, this bnas-deploy reads 1; upgrade"):
        read_width_history(path)
    path.write_text("\n".join([lines[0], lines[2]]))
    with pytest.raises(BnasError, match=r"epoch 2 in place 1"):
        read_width_history(path)
    path.write_text("\n".join([lines[0], lines[1].replace('"widths": [', '"widths": [1, ')]))
    with pytest.raises(BnasError, match=r"8 ratios and 9 widths, wanted 8"):
        read_width_history(path)
