"""Searches are of a tiny supernet on random images, where an epoch takes a fraction of a second."""

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

from bnas_deploy.core.errors import BnasError, CheckpointError, DataError
from bnas_deploy.core.genotype import read_genotype
from bnas_deploy.core.history import read_history
from bnas_deploy.search.cells import search_run as module
from bnas_deploy.search.cells.checks import SearchError
from bnas_deploy.search.cells.config import (
    SEARCH_DEVIATIONS,
    SEARCH_RECIPES,
    STRATEGIES,
    SearchConfig,
    SupernetConfig,
)
from bnas_deploy.search.cells.search import search
from bnas_deploy.search.cells.space import EDGES, SPACES
from bnas_deploy.search.training.checkpoint import read_tensors, write_tensors
from bnas_deploy.search.training.recipes import Augmentation

RECIPE = replace(SEARCH_RECIPES["digits"], epochs=3, batch_size=6, augmentation=Augmentation(shift=1, flip=True))
NETWORK = SupernetConfig(SPACES["bnas"], cells=3, channels=2, classes=3, in_channels=1, image_size=(8, 8))
CONFIG = SearchConfig(NETWORK, RECIPE, diversity=1.0, diversity_epochs=1.5)
STEPS = 3  # of an epoch: 17 images in batches of 6
FILES = ["genotype.json", "history.json", "resume.safetensors"]


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
        result = search(values.pop("data"), values.pop("config"), folder, **values)
        return result, listener.told

    return run


@pytest.fixture(scope="module")
def run(bright_rows, recorder):
    return runner(bright_rows, recorder)


def without_times(folder):
    data = json.loads((folder / "history.json").read_text())
    return {**data, "epochs": [{**epoch, "duration_s": 0} for epoch in data["epochs"]]}


def assert_same_searches(left, right):
    """Same bits everywhere but for the time."""
    assert (left / "genotype.json").read_bytes() == (right / "genotype.json").read_bytes()
    assert without_times(left) == without_times(right)
    tensors = [read_tensors(folder / "resume.safetensors", "bnas_deploy_search")[0] for folder in (left, right)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name]), name


# ---- what a search leaves


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    result, told = run(folder)
    return folder, result, told


def test_a_search_leaves_a_genotype_and_a_history(finished):
    folder, result, told = finished
    assert sorted(file.name for file in folder.iterdir()) == FILES
    assert result.finished
    assert told == [
        ("started", 3, STEPS, 0),
        *(entry for epoch in (1, 2, 3) for entry in (("stepped", STEPS * epoch), ("finished", epoch))),
    ]
    history = read_history(folder / "history.json")
    assert history == result.history
    assert history.edges == EDGES
    assert [epoch.epoch for epoch in history.epochs] == [1, 2, 3]
    best = max(epoch.validation_accuracy for epoch in history.epochs)
    chosen = next(epoch for epoch in history.epochs if epoch.validation_accuracy == best)
    assert json.loads((folder / "history.json").read_text())["best_epoch"] == chosen.epoch
    assert read_genotype(str(folder / "genotype.json")) == chosen.genotype == result.genotype


def test_the_history_is_worked_out_from_the_alphas(finished):
    _, result, _ = finished
    for epoch in result.history.epochs:
        rows = torch.tensor(epoch.alphas.normal + epoch.alphas.reduction, dtype=torch.float64).softmax(dim=1)
        got = torch.tensor(epoch.probabilities.normal + epoch.probabilities.reduction, dtype=torch.float64)
        torch.testing.assert_close(got, rows, rtol=1e-6, atol=0)  # the softmax was taken in float32
        assert epoch.entropy == pytest.approx(-(rows * rows.log()).sum(dim=1).mean().item(), rel=1e-6)
        assert epoch.learnable_share == (rows.argmax(dim=1) >= 3).double().mean().item()
        assert epoch.learnable_probability == pytest.approx(rows[:, 3:].sum(dim=1).mean().item(), rel=1e-6)
        assert set(epoch.terms) == {"diversity"}
        assert epoch.architecture_loss > epoch.terms["diversity"] > -math.log(7)


def test_both_weights_and_alphas_move(run, tmp_path):
    run(tmp_path, stop_after=1)
    start, _ = read_tensors(tmp_path / "resume.safetensors", "bnas_deploy_search")
    run(tmp_path, resume=True)
    end, _ = read_tensors(tmp_path / "resume.safetensors", "bnas_deploy_search")
    for name in start:
        if name.startswith("network.") and not name.endswith("num_batches_tracked"):
            assert not torch.equal(start[name], end[name]), name


def test_a_search_learns(run, tmp_path):
    recipe = replace(RECIPE, epochs=6, augmentation=Augmentation(), first_learning_rate=0.1)
    result, _ = run(tmp_path, config=replace(CONFIG, recipe=recipe))
    assert result.history.best.validation_accuracy > 0.6  # one in three by chance
    assert result.history.epochs[-1].train_loss < result.history.epochs[0].train_loss


def test_the_learning_rate_falls_along_half_a_cosine(finished):
    _, result, _ = finished
    # cos(0), cos(pi / 3), cos(2 pi / 3) = 1, 1/2, -1/2
    wanted = [0.001 + 0.024 * share for share in (1, 3 / 4, 1 / 4)]
    assert [epoch.learning_rate for epoch in result.history.epochs] == pytest.approx(wanted)


def test_the_same_seed_gives_the_same_search_and_another_does_not(run, finished, tmp_path):
    folder, _, _ = finished
    run(tmp_path / "same")
    assert_same_searches(folder, tmp_path / "same")
    run(tmp_path / "other", seed=1)
    assert without_times(folder)["epochs"] != without_times(tmp_path / "other")["epochs"]


def test_a_search_leaves_no_trace_in_the_random_numbers(run, tmp_path):
    before = torch.get_rng_state()
    run(tmp_path, stop_after=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_alpha_steps_leave_the_weights_and_weight_steps_the_alphas(run, tmp_path, monkeypatch):
    moved = []

    def watch(name, others):
        step = getattr(module.SearchRun, name)

        def watched(self, images, labels):
            before = [parameter.detach().clone() for parameter in getattr(self, others)]
            step(self, images, labels)
            after = getattr(self, others)
            moved.append(any(not torch.equal(left, right) for left, right in zip(before, after, strict=True)))

        monkeypatch.setattr(module.SearchRun, name, watched)

    watch("alpha_step", "weights")
    watch("weight_step", "alphas")
    run(tmp_path, stop_after=2)
    assert moved == [False] * 4


def test_weights_and_alphas_see_different_images(run, tmp_path, monkeypatch):
    seen = {}

    def watch(name):
        step = getattr(module.SearchRun, name)
        seen[name] = []

        def watched(self, images, labels):
            seen[name].append(images.clone())
            step(self, images, labels)

        monkeypatch.setattr(module.SearchRun, name, watched)

    watch("alpha_step")
    watch("weight_step")
    recipe = replace(RECIPE, epochs=1, augmentation=Augmentation())
    run(tmp_path, config=replace(CONFIG, recipe=recipe))
    halves = [{tuple(image.flatten().tolist()) for batch in part for image in batch} for part in seen.values()]
    assert [len(half) for half in halves] == [18, 17]
    assert not halves[0] & halves[1]


# ---- strategies, spaces, ablations


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("precision", ["binary", "float"])
def test_every_strategy_searches(run, strategy, precision, tmp_path):
    defaults = STRATEGIES[strategy]
    config = replace(
        CONFIG,
        network=replace(NETWORK, precision=precision),
        recipe=replace(RECIPE, epochs=2),
        strategy=strategy,
        diversity=defaults.diversity,
        first_temperature=defaults.first_temperature,
        last_temperature=defaults.last_temperature,
        zeroise=defaults.zeroise,
    )
    result, _ = run(tmp_path, config=config)
    operations = {edge.operation for epoch in result.history.epochs for edge in epoch.genotype.normal.edges}
    assert defaults.zeroise or "none" not in operations
    assert set(result.history.epochs[0].terms) == ({"diversity"} if strategy == "bnas" else set())


@pytest.mark.parametrize(
    "changes",
    [
        {"network": replace(NETWORK, space=NETWORK.space.without_dilated())},
        {"network": replace(NETWORK, inter_cell_skip=False)},
        {"network": replace(NETWORK, k_map=True)},
        {"network": replace(NETWORK, precision="binary-activations")},
        {"network": replace(NETWORK, deviations=tuple(SEARCH_DEVIATIONS)), "gamma": 3.0},
        {"network": replace(NETWORK, space=NETWORK.space.with_separable())},
        {"network": replace(NETWORK, space=SPACES["darts"]), "strategy": "gdas"},
        {"network": replace(NETWORK, space=SPACES["bats"], channels=12, precision="binary-activations")},
        {"diversity": 0.0},
        {"zeroise": False},
    ],
    ids=[
        "no-dilated",
        "no-skip",
        "k-map",
        "binary-activations",
        "official",
        "separable",
        "darts",
        "bats",
        "no-diversity",
        "no-zeroise",
    ],
)
def test_every_ablation_searches(run, changes, tmp_path):
    config = replace(CONFIG, recipe=replace(RECIPE, epochs=1), **changes)
    result, _ = run(tmp_path, config=config)
    used = {edge.operation for cell in (result.genotype.normal, result.genotype.reduction) for edge in cell.edges}
    assert used <= set(config.network.space.operations)
    assert "none" not in used or config.zeroise


def test_a_term_of_ones_own_moves_the_alphas(run, tmp_path):
    class NoPooling:
        def __call__(self, probabilities, epoch, cross_entropy):
            return 100 * (probabilities.normal[:, 1:3].sum() + probabilities.reduction[:, 1:3].sum())

        def settings(self):
            return {"weight": 100}

    recipe = replace(RECIPE, alpha_learning_rate=0.5)
    config = replace(CONFIG, recipe=recipe)
    result, _ = run(tmp_path, config=config, objectives={"no pooling": NoPooling()})
    pools = [sum(row[1:3]) for row in result.history.epochs[-1].probabilities.normal]
    assert max(pools) < 0.05
    assert set(result.history.epochs[0].terms) == {"diversity", "no pooling"}
    with pytest.raises(SearchError, match=r"other settings: terms.no pooling \({'weight': 100} before, None now\)"):
        run(tmp_path, config=config, resume=True)


def test_the_diversity_term_delays_the_drop_of_learnable_operations(run, tmp_path):
    """A pull towards pooling stands in for the convolutions of the first epochs, which are undertrained."""

    class PullTowardsPooling:
        def __call__(self, probabilities, epoch, cross_entropy):
            return 0.5 * (probabilities.normal[:, 3:].sum() + probabilities.reduction[:, 3:].sum()) / 28

        def settings(self):
            return {}

    recipe = replace(RECIPE, alpha_learning_rate=0.5)
    histories = [
        run(
            tmp_path / str(weight),
            config=replace(CONFIG, recipe=recipe, diversity=weight, diversity_epochs=7.7),
            objectives={"pull": PullTowardsPooling()},
        )[0].history
        for weight in (1.0, 0.0)
    ]
    for epoch, without in zip(*(history.epochs for history in histories), strict=True):
        assert epoch.learnable_probability > without.learnable_probability
        assert epoch.entropy > without.entropy
    assert epoch.learnable_probability > 1.5 * without.learnable_probability  # after the last epoch


def test_the_genotype_from_the_start_of_the_epoch_is_that_of_the_end_of_the_one_before(run, finished, tmp_path):
    _, paper, _ = finished
    config = replace(CONFIG, network=replace(NETWORK, deviations=("genotype-from-epoch-start",)))
    result, _ = run(tmp_path, config=config)
    ends = [epoch.genotype for epoch in paper.history.epochs]
    starts = [epoch.genotype for epoch in result.history.epochs]
    assert starts[1:] == ends[:-1]
    assert len(set(ends)) > 1
    assert result.genotype == starts[result.history.best.epoch - 1]


# ---- stopping and resuming

# `stop` is asked after each of 3 steps and 3 validation batches of an epoch.
STOPS = {
    "first-step": ("bnas", 1, 0, 1),
    "last-step": ("bnas", 3, 0, 3),
    "validation": ("bnas", 5, 0, 3),
    "third-epoch": ("bnas", 14, 2, 2),
    "snas": ("snas", 8, 1, 2),
    "gdas": ("gdas", 8, 1, 2),
}


@pytest.mark.parametrize(("strategy", "stop_after", "epochs", "step"), STOPS.values(), ids=STOPS)
def test_a_search_that_was_stopped_ends_as_one_that_was_not(
    run, tmp_path, finished, strategy, stop_after, epochs, step
):
    config = replace(CONFIG, strategy=strategy)
    uninterrupted = finished[0]
    if strategy != "bnas":
        uninterrupted = tmp_path / "uninterrupted"
        run(uninterrupted, config=config)
    folder = tmp_path / "stopped"
    stopped, _ = run(folder, config=config, stop_after=stop_after)
    assert (stopped.finished, len(stopped.history.epochs)) == (False, epochs)
    resumed, told = run(folder, config=config, resume=True)
    assert resumed.finished
    assert told[0] == ("started", 3, STEPS, epochs * STEPS + step)
    assert_same_searches(folder, uninterrupted)


def test_a_long_epoch_is_saved_on_the_way(run, tmp_path, monkeypatch, finished):
    monkeypatch.setattr("bnas_deploy.search.training.run.SAVE_EVERY_S", 0.0)

    class KillError(Exception):
        pass

    def killed():
        if read_tensors(tmp_path / "resume.safetensors", "bnas_deploy_search")[1]["place"]["step"] == 1:
            raise KillError
        return False

    with pytest.raises(KillError):
        run(tmp_path, stop=killed)
    _, told = run(tmp_path, resume=True)
    assert told[0] == ("started", 3, STEPS, 1)
    assert_same_searches(tmp_path, finished[0])


@pytest.mark.parametrize("fails", ["genotype.json", "history.json"])
def test_a_search_killed_between_two_of_its_files_does_the_epoch_again(run, tmp_path, monkeypatch, finished, fails):
    write = module.write_whole

    def no_room(path, data):
        if path.name == fails:
            raise CheckpointError(f"{path}: cannot be written")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", no_room)
        with pytest.raises(CheckpointError):
            run(tmp_path)
    _, told = run(tmp_path, resume=True)
    assert told[0] == ("started", 3, STEPS, 0)
    assert_same_searches(tmp_path, finished[0])


def test_resuming_a_finished_search_changes_nothing(run, finished):
    folder = finished[0]
    before = {name: (folder / name).read_bytes() for name in FILES}
    result, told = run(folder, resume=True)
    assert result.finished
    assert told == [("started", 3, STEPS, 3 * STEPS)]
    assert {name: (folder / name).read_bytes() for name in FILES} == before


ENDLESS = """
import sys
import torch
from dataclasses import replace
from pathlib import Path
from importlib.util import module_from_spec, spec_from_file_location

torch.set_num_threads(1)


def load(path):
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


test = Path(sys.argv[1])
searches, conftest = load(test), load(test.parents[1] / "conftest.py")
recipe = replace(searches.RECIPE, epochs=100_000, batch_size=17)
config = replace(searches.CONFIG, recipe=recipe, strategy="gdas", network=replace(searches.NETWORK, channels=1))
run = searches.runner(conftest.make_bright_rows, conftest.Recorder)
run(Path(sys.argv[2]), config=config, resume=len(sys.argv) > 3)
"""


def test_a_kill_leaves_files_that_can_be_read(tmp_path):
    """Epochs of one step, so that the kill often hits a write."""
    folder = tmp_path / "search"
    epochs = 0
    for flags in ([], ["resume"]):
        process = subprocess.Popen([sys.executable, "-P", "-c", ENDLESS, __file__, str(folder), *flags])
        deadline = time.monotonic() + 60
        while finished_epochs(folder) < epochs + 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        read_genotype(str(folder / "genotype.json"))
        epochs = read_tensors(folder / "resume.safetensors", "bnas_deploy_search")[1]["place"]["epoch"]
        assert epochs >= 1
        assert len(read_history(folder / "history.json").epochs) in (epochs, epochs + 1)


def finished_epochs(folder):
    path = folder / "history.json"
    return len(read_history(path).epochs) if path.exists() else 0


# ---- refusals


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_a_search_is_left_alone(run, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(SearchError, match=rf"already holds a search \({name}\), which was left alone; add --resume"):
        run(tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


def test_a_folder_without_a_search_cannot_be_resumed(run, tmp_path):
    with pytest.raises(
        SearchError, match=r"no resume\.safetensors in it, so there is no search to resume; leave out --resume"
    ):
        run(tmp_path, resume=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SearchError, match="file/search: cannot be made: Not a directory; choose another output folder"):
        run(tmp_path / "file" / "search")


def test_a_folder_that_cannot_be_written_is_refused(run):
    with pytest.raises(BnasError, match=r"/proc.*: cannot be (made|written): "):
        run(Path("/proc/self/search"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"seed \(0 before, 1 now\)"),
        (
            {"config": replace(CONFIG, recipe=replace(RECIPE, epochs=4, batch_size=5))},
            r"search.recipe.epochs \(3 before, 4 now\); search.recipe.batch_size \(6 before, 5 now\)",
        ),
        (
            {"config": replace(CONFIG, network=replace(NETWORK, channels=3))},
            r"search.network.channels \(2 before, 3 now\); resume it with the same ones, or choose another",
        ),
        (
            {"config": replace(CONFIG, network=replace(NETWORK, space=SPACES["bnas"].without_dilated()))},
            r"search\.network\.space\.operations; resume",
        ),
        ({"config": replace(CONFIG, strategy="snas")}, r"search.strategy \(bnas before, snas now\)"),
        (
            {"config": replace(CONFIG, diversity=0.5)},
            r"search.diversity \(1.0 before, 0.5 now\); terms.diversity.weight \(1.0 before, 0.5 now\)",
        ),
        ({"train_size": 37}, r"data.train_size \(35 before, 37 now\)"),
    ],
    ids=["seed", "recipe", "channels", "space", "strategy", "diversity", "data"],
)
def test_other_settings_are_named(run, finished, changes, message):
    folder = finished[0]
    before = (folder / "resume.safetensors").read_bytes()
    with pytest.raises(SearchError, match=rf"resume\.safetensors: the search was begun with other settings: {message}"):
        run(folder, resume=True, **changes)
    assert (folder / "resume.safetensors").read_bytes() == before


def without(data, key):
    return {name: value for name, value in data.items() if name != key}


MOMENTUM = "weights.0.momentum_buffer"
DAMAGES = {
    "no-settings": (None, lambda run: without(run, "settings"), "KeyError: 'settings'"),
    "settings": (None, lambda run: run | {"settings": []}, "TypeError: settings are not an object"),
    "no-place": (None, lambda run: without(run, "place"), "KeyError: 'place'"),
    "no-history": (None, lambda run: without(run, "history"), "KeyError: 'history'"),
    "history": (None, lambda run: run | {"history": {}}, "ValueError: .*not the history of a search"),
    "long-history": (None, lambda run: run | {"place": run["place"] | {"epoch": 1}}, "history is not of 1 epochs"),
    "genotype": (None, lambda run: run | {"extra": {"start_genotype": {}}}, "ValueError: .*a genotype is"),
    "no-list": (None, lambda run: without(run, "tensors"), "KeyError: 'tensors'"),
    "unknown": (None, lambda run: run | {"tensors": ["weights.x"]}, "ValueError: not enough values to unpack"),
    "groups": (None, lambda run: run | {"optimizers": {"weights": [{}], "alphas": [{}]}}, "TypeError: optimizers.weig"),
    "half": (None, lambda run: run | {"place": run["place"] | {"step": 2.0}}, "TypeError: place counts in fractions"),
    "images": (
        None,
        lambda run: run | {"place": run["place"] | {"images": run["place"]["images"] | {"train": 0}}},
        "ValueError: no place of this s",
    ),
    "missing": (lambda state: without(state, "network.alphas.normal"), None, r"1 missing: network.alphas.norm"),
    "momentum": (lambda state: without(state, MOMENTUM), None, rf"1 missing: {MOMENTUM} "),
    "shape": (lambda state: state | {MOMENTUM: torch.zeros(7)}, None, rf"{MOMENTUM} is float32 \[7\], expected"),
    "other": (lambda state: state | {"other.x": torch.zeros(1)}, None, r"1 unexpected: other.x "),
}


@pytest.fixture(scope="module")
def stopped(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    run(folder, stop_after=2)
    return read_tensors(folder / "resume.safetensors", "bnas_deploy_search")


@pytest.mark.parametrize(("tensors", "description", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_place_is_refused(run, tmp_path, stopped, tensors, description, message):
    state, saved = stopped
    path = tmp_path / "resume.safetensors"
    write_tensors(
        path,
        tensors(state) if tensors else state,
        "bnas_deploy_search",
        description(saved) if description else saved,
    )
    with pytest.raises(
        CheckpointError, match=rf"resume\.safetensors: damaged \(.*({message}).*; copy it again, or begin"
    ):
        run(tmp_path, resume=True)


def test_a_place_that_was_cut_short_is_refused(run, tmp_path):
    run(tmp_path, stop_after=1)
    path = tmp_path / "resume.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"resume\.safetensors: cut short"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("size", "batch", "message"),
    [
        (
            11,
            6,
            "rows: 11 training images, so that each half of a search has 5, fewer than one batch of 6; use a larger",
        ),
        (1, 1, "rows: 1 training images, so that each half of a search has 0, fewer than one batch of 1"),
    ],
)
def test_a_data_set_too_small_to_split_is_refused(run, tmp_path, size, batch, message):
    with pytest.raises(DataError, match=message):
        run(tmp_path / "search", train_size=size, config=replace(CONFIG, recipe=replace(RECIPE, batch_size=batch)))
    assert not (tmp_path / "search").exists()


def test_a_supernet_for_other_images_is_refused(run, tmp_path):
    with pytest.raises(SearchError, match="the supernet has classes 4, but rows has 3"):
        run(tmp_path, config=replace(CONFIG, network=replace(NETWORK, classes=4)))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            {"first_learning_rate": 1e30, "last_learning_rate": 1e30},
            "is (nan|inf) in epoch 1, step 2: the first values .*;",
        ),
        ({"alpha_learning_rate": 1e38}, "is (nan|inf) in epoch 1, step 2: .* finite.*;"),
    ],
    ids=["weights", "alphas"],
)
def test_a_loss_that_is_not_finite_ends_the_search(run, tmp_path, recipe, message):
    with pytest.raises(SearchError, match=rf"{message}.*Try another --seed"):
        run(tmp_path, config=replace(CONFIG, recipe=replace(RECIPE, **recipe)))
    tensors, _ = read_tensors(tmp_path / "resume.safetensors", "bnas_deploy_search")
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_float16_is_for_training(run, tmp_path):
    with pytest.raises(SearchError, match=r"--arithmetic float16: a search has losses of .* use bfloat16"):
        run(tmp_path / "search", config=replace(CONFIG, arithmetic="float16"))
    assert not (tmp_path / "search").exists()
