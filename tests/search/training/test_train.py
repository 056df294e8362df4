"""Runs are of a tiny network on random images, where an epoch takes milliseconds."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bnas_deploy.core.errors import BnasError, CheckpointError, DataError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.data import open_data
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.training import checks
from bnas_deploy.search.training import training_run as module
from bnas_deploy.search.training.acceleration import memory_format_of
from bnas_deploy.search.training.checkpoint import load_checkpoint, read_tensors, write_tensors
from bnas_deploy.search.training.checks import TrainError
from bnas_deploy.search.training.evaluate import evaluate
from bnas_deploy.search.training.recipes import ARITHMETICS, RECIPES, Augmentation, ColourJitter, Loss, Optimiser
from bnas_deploy.search.training.recipes.schedules import Cosine, Linear, Steps, TorchSchedule
from bnas_deploy.search.training.resume import differences, stop_on_signals
from bnas_deploy.search.training.train import train

CONFIG = NetworkConfig(
    name="tiny",
    cells=3,
    channels=4,
    stem="cifar",
    genotype=GENOTYPES["imagenet"],
    classes=3,
    in_channels=1,
    image_size=(8, 8),
)
RECIPE = replace(RECIPES["digits"], name="quick", epochs=3, batch_size=8, augmentation=Augmentation(shift=1, flip=True))
STEPS = 5  # of an epoch
FILES = ["README.md", "best.safetensors", "last.safetensors", "metrics.jsonl", "resume.safetensors"]


def runner(bright_rows, recorder):
    """Return a function that runs in a folder and returns the result and what a listener was told."""

    def run(folder, *, train_size=36, stop_after=None, **changes):
        listener = recorder(stop_after)
        values = {
            "data": bright_rows(train_size),
            "config": CONFIG,
            "recipe": RECIPE,
            "stop": listener.stop,
            "listener": listener,
        } | changes
        result = train(values.pop("data"), values.pop("config"), values.pop("recipe"), folder, **values)
        return result, listener.told

    return run


@pytest.fixture(scope="module")
def run(bright_rows, recorder):
    return runner(bright_rows, recorder)


def assert_same_runs(left, right):
    """Same bytes in both checkpoints and the card, the same measured but for the times."""
    for name in ("best.safetensors", "last.safetensors", "README.md"):
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    histories = [
        [
            {**json.loads(line), "duration_s": 0, "waiting_share": 0}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (left, right)
    ]
    assert histories[0] == histories[1]


# ---- a whole run


def test_a_run_leaves_its_five_files(run, tmp_path):
    result, told = run(tmp_path / "some" / "run")
    assert result.finished
    assert [record.epoch for record in result.history] == [1, 2, 3]
    assert sorted(file.name for file in result.folder.iterdir()) == FILES
    assert told == [
        ("started", 3, STEPS, 0),
        ("stepped", 5),
        ("finished", 1),
        ("stepped", 10),
        ("finished", 2),
        ("stepped", 15),
        ("finished", 3),
    ]


def test_the_checkpoints_say_what_was_trained_and_how_well(run, bright_rows, tmp_path):
    result, _ = run(tmp_path)
    last, best = (load_checkpoint(tmp_path / name) for name in ("last.safetensors", "best.safetensors"))
    assert last.network == CONFIG
    assert (last.data, last.labels, last.preprocessing.mean) == ("rows", ("top", "middle", "bottom"), (0.4,))
    assert last.metrics["test_accuracy"] == result.history[-1].test_accuracy
    assert best.metrics["epoch"] == result.best.epoch
    assert result.best.test_accuracy == max(record.test_accuracy for record in result.history)
    measured = evaluate(best.build(), bright_rows(), batch_size=RECIPE.batch_size)
    assert (measured.accuracy, measured.loss) == (result.best.test_accuracy, result.best.test_loss)


def test_it_learns(run, tmp_path):
    result, _ = run(tmp_path, recipe=replace(RECIPE, epochs=15, augmentation=Augmentation()))
    assert result.best.test_accuracy > 0.9
    assert result.history[-1].train_loss < result.history[0].train_loss / 2


def test_the_float_twin_learns(run, tmp_path):
    result, _ = run(
        tmp_path, config=CONFIG.float_twin(), recipe=replace(RECIPE, epochs=15, augmentation=Augmentation())
    )
    assert result.best.test_accuracy > 0.9


def test_the_seed_decides(run, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        torch.manual_seed(len(name))  # the global generator does not matter
        run(tmp_path / name, seed=seed)
    assert_same_runs(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "last.safetensors").read_bytes() != (tmp_path / "c" / "last.safetensors").read_bytes()


def test_the_global_generator_is_put_back(run, tmp_path):
    before = torch.get_rng_state()
    run(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_photos_train(run, tmp_path):
    random = np.random.default_rng(0)
    for part, name in itertools.product(("train", "val"), ("cat", "dog")):
        (tmp_path / "photos" / part / name).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(256, size=(50, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / part / name / f"{number}.jpg")
    data = open_data(f"imagefolder:{tmp_path / 'photos'}")
    config = replace(CONFIG, stem="imagenet", classes=2, in_channels=3, image_size=(224, 224))
    result, _ = run(
        tmp_path / "run", data=data, config=config, recipe=replace(RECIPES["imagenet-standard"], epochs=1, batch_size=3)
    )
    assert result.finished
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").data == "image folder photos"


# ---- stopping and resuming


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder)
    return folder


# `stop` is asked after each of 5 training batches and 2 test batches of an epoch.
@pytest.mark.parametrize(
    ("stop_after", "epochs"),
    [(1, 0), (3, 0), (5, 0), (6, 0), (7, 0), (8, 1), (19, 2), (21, 2)],
    ids=["first-step", "middle", "last-step", "evaluation", "last-test-batch", "next-epoch", "third-epoch", "very-end"],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(run, tmp_path, uninterrupted, stop_after, epochs):
    stopped, _ = run(tmp_path, stop_after=stop_after)
    assert (stopped.finished, len(stopped.history)) == (False, epochs)
    load_checkpoint(tmp_path / "last.safetensors")
    resumed, told = run(tmp_path, resume=True)
    assert resumed.finished
    assert told[0] == ("started", 3, STEPS, epochs * STEPS + min(stop_after - 7 * epochs, STEPS))
    assert_same_runs(tmp_path, uninterrupted)


def test_a_run_can_be_stopped_again_and_again(run, tmp_path, uninterrupted):
    finished, first = False, True
    while not finished:
        result, _ = run(tmp_path, stop_after=4, resume=not first)
        finished, first = result.finished, False
    assert_same_runs(tmp_path, uninterrupted)


def test_a_long_epoch_is_saved_on_the_way(run, tmp_path, monkeypatch, uninterrupted):
    monkeypatch.setattr("bnas_deploy.search.training.run.SAVE_EVERY_S", 0.0)

    class KillError(Exception):
        pass

    def killed():
        place = read_tensors(tmp_path / "resume.safetensors", "bnas_deploy_run")[1]["place"]
        if place["step"] == 2:
            raise KillError
        return False

    with pytest.raises(KillError):
        run(tmp_path, stop=killed)
    _, told = run(tmp_path, resume=True)
    assert told[0] == ("started", 3, STEPS, 2)
    assert_same_runs(tmp_path, uninterrupted)


def test_a_run_killed_between_two_of_its_files_does_the_epoch_again(run, tmp_path, monkeypatch, uninterrupted):
    def no_room(path, data):
        raise CheckpointError(f"{path}: cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", no_room)  # the history comes after both checkpoints
        with pytest.raises(CheckpointError):
            run(tmp_path)
    _, told = run(tmp_path, resume=True)
    assert told[0] == ("started", 3, STEPS, 0)
    assert_same_runs(tmp_path, uninterrupted)


def test_resuming_a_finished_run_changes_nothing(run, tmp_path, uninterrupted):
    before = {name: (uninterrupted / name).read_bytes() for name in FILES}
    result, told = run(uninterrupted, resume=True)
    assert result.finished
    assert told == [("started", 3, STEPS, 15)]
    more = f"\nNothing was left to do. To train it longer: --from {uninterrupted / 'last.safetensors'}"
    assert result.summary.endswith(f"best.safetensors{more}")
    assert {name: (uninterrupted / name).read_bytes() for name in FILES} == before


def test_a_run_stopped_at_once_leaves_a_checkpoint(run, tmp_path):
    run(tmp_path, stop_after=1)
    checkpoint = load_checkpoint(tmp_path / "last.safetensors")
    assert checkpoint.metrics == {"epoch": 0, "arithmetic": "float32"}
    assert not (tmp_path / "best.safetensors").exists()


# ---- refusals


def test_a_folder_with_a_run_is_left_alone(run, tmp_path):
    (tmp_path / "best.safetensors").write_text("mine")
    with pytest.raises(
        TrainError, match=r"already holds a run \(best\.safetensors\), which was left alone; add --resume"
    ):
        run(tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("best.safetensors", "mine")]


def test_another_process_at_work_is_told(run, tmp_path):
    run(tmp_path, stop_after=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code = "import sys; from pathlib import Path; from bnas_deploy.core.locks import locked_folder\n"
    code += "with locked_folder(Path(sys.argv[1])) as alone: print(alone, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"True\n"
        for resume in (False, True):
            with pytest.raises(TrainError) as refusal:
                run(tmp_path, resume=resume)
            assert refusal.value.message == (
                f"{tmp_path}: another process is at work on this run, which was left alone; wait until it has ended, "
                "or choose another output folder"
            )
        other.stdin.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run(tmp_path, resume=True)[0].finished


def test_other_files_in_the_folder_stay(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


ADAM = Optimiser(kind="Adam", learning_rate=0.01, betas=(0.8, 0.99))
MILESTONES = {"milestones": [3, 9]}
OTHERS = {
    "cosine": (Optimiser(kind="AdamW", learning_rate=0.01, clip_norm=0.1), Cosine(restart_epochs=1.5)),
    "linear": (Optimiser(kind="RMSprop", learning_rate=0.01, arguments={"alpha": 0.9}), Linear(warmup_epochs=1.0)),
    "flips": (Optimiser(kind="Bop", learning_rate=0.01, arguments={"gamma": 0.1, "threshold": 1e-4}), Cosine()),
    "sums": (Optimiser(kind="Adafactor", learning_rate=0.01), TorchSchedule(name="MultiStepLR", arguments=MILESTONES)),
    "steps": (ADAM, Steps(after_epochs=(1.0, 2.0), factor=0.3)),
}


@pytest.mark.parametrize(("optimiser", "schedule"), OTHERS.values(), ids=OTHERS)
def test_a_run_of_any_optimiser_and_schedule_is_resumed_exactly(run, tmp_path, optimiser, schedule):
    recipe = replace(RECIPE, optimiser=optimiser, schedule=schedule, loss=Loss(label_smoothing=0.1))
    run(tmp_path / "whole", recipe=recipe)
    run(tmp_path / "parts", recipe=recipe, stop_after=9)
    run(tmp_path / "parts", recipe=recipe, resume=True)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("stop_after", [3, 9, 17])
def test_a_run_that_drops_paths_and_looks_at_activations_is_resumed_exactly(run, tmp_path, stop_after):
    recipe = replace(RECIPE, drop_path=0.6, loss=Loss(activation_distribution=0.5, activation_distribution_share=0.5))
    run(tmp_path / "whole", recipe=recipe)
    run(tmp_path / "parts", recipe=recipe, stop_after=stop_after)
    run(tmp_path / "parts", recipe=recipe, resume=True)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("stop_after", [3, 9])
def test_a_run_that_averages_its_weights_is_resumed_exactly(run, tmp_path, stop_after):
    recipe = replace(RECIPE, weight_average=0.9)
    run(tmp_path / "whole", recipe=recipe)
    run(tmp_path / "parts", recipe=recipe, stop_after=stop_after)
    run(tmp_path / "parts", recipe=recipe, resume=True)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def test_the_average_is_what_is_evaluated_and_saved(run, bright_rows, tmp_path):
    for name, share in (("plain", 0.0), ("averaged", 0.9)):
        run(tmp_path / name, recipe=replace(RECIPE, weight_average=share))
    plain, averaged = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "averaged")
    )
    assert [each["train_loss"] for each in plain] == [each["train_loss"] for each in averaged]
    assert [each["test_loss"] for each in plain] != [each["test_loss"] for each in averaged]
    last = load_checkpoint(tmp_path / "averaged" / "last.safetensors")
    measured = evaluate(last.build(), bright_rows(), batch_size=RECIPE.batch_size)
    assert measured.loss == averaged[-1]["test_loss"]
    tensors, _ = read_tensors(tmp_path / "averaged" / "resume.safetensors", "bnas_deploy_run")
    name = next(key for key in last.state if key.endswith("conv.weight"))
    assert torch.equal(tensors[f"average.module.{name}"], last.state[name])
    assert not torch.equal(tensors[f"network.{name}"], last.state[name])


def test_a_run_of_a_version_without_averages_goes_on(run, tmp_path):
    run(tmp_path / "run", stop_after=7)
    path = tmp_path / "run" / "resume.safetensors"
    tensors, description = read_tensors(path, "bnas_deploy_run")
    del description["settings"]["recipe"]["weight_average"]
    write_tensors(path, tensors, "bnas_deploy_run", description)
    assert run(tmp_path / "run", resume=True)[0].finished


def test_drop_path_rises_with_the_epochs_as_in_the_official_code(run, tmp_path, monkeypatch):
    seen = []
    for each in (checks, module):
        monkeypatch.setattr(each, "set_drop_path", lambda network, probability: seen.append(probability) or 1)
    run(tmp_path, recipe=replace(RECIPE, drop_path=0.3))
    assert seen == [0.0, 0.0, pytest.approx(0.1), pytest.approx(0.2)]  # the first is a look for branches


def test_a_dropped_path_changes_training_and_no_evaluation(run, bright_rows, tmp_path):
    for name, share in (("without", 0.0), ("with", 0.5)):
        run(tmp_path / name, recipe=replace(RECIPE, drop_path=share))
    first, *others = [
        [json.loads(line)["train_loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("without", "with")
    ]
    assert first[0] == others[0][0]  # the first epoch drops nothing
    assert first[1:] != others[0][1:]
    best = load_checkpoint(tmp_path / "with" / "best.safetensors")
    measured = evaluate(best.build(), bright_rows(), batch_size=RECIPE.batch_size)
    assert (measured.accuracy, measured.loss) == (best.metrics["test_accuracy"], best.metrics["test_loss"])


def test_a_part_of_a_recipe_without_a_place_in_the_network_is_refused(run, tmp_path):
    recipe = replace(RECIPE, loss=Loss(activation_distribution=2.0))
    with pytest.raises(
        TrainError, match=r"loss.activation_distribution is 2.0, but tiny takes no signs; --set loss.ac"
    ):
        run(tmp_path / "run", recipe=recipe, config=CONFIG.float_twin())
    assert not (tmp_path / "run").exists()


def test_labels_are_smoothed_and_gradients_clipped_as_the_recipe_says(run, bright_rows, tmp_path):
    """One step of SGD on a batch is done again by hand."""
    recipe = replace(
        RECIPE,
        epochs=1,
        batch_size=36,
        augmentation=Augmentation(),
        loss=Loss(label_smoothing=0.3),
        optimiser=Optimiser(kind="SGD", learning_rate=0.5, clip_norm=0.25),
        schedule=Linear(),
    )
    run(tmp_path, recipe=recipe)
    torch.manual_seed(0)
    network = module.build_network(CONFIG).train()
    layout = memory_format_of(network, torch.device("cpu"))
    network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's annotation lacks this pair
    ((images, labels),) = bright_rows().train_batches(36, Augmentation(), seed=0, epoch=0)
    images = images.contiguous(memory_format=layout)  # a rounding elsewhere could turn a sign
    smoothed = torch.nn.functional.one_hot(labels, 3) * 0.7 + 0.1
    (-(smoothed * network(images).log_softmax(dim=1)).sum(dim=1).mean()).backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norm = sum(float((gradient.double() ** 2).sum()) for gradient in gradients) ** 0.5
    assert norm > 0.25
    state = load_checkpoint(tmp_path / "last.safetensors").state
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            wanted = parameter.detach() - 0.5 * 0.25 / norm * parameter.grad
            # float32 roundings of a gradient, of the norm and of a step; a step is 0.125 at most
            torch.testing.assert_close(state[name], wanted, rtol=0, atol=1e-5)


def test_a_recipe_alone_brings_another_optimiser_and_schedule(run, tmp_path):
    """Adam's state has a number and two tensors for each parameter; a resumed run ends with the same bits."""
    schedule = TorchSchedule(name="CosineAnnealingLR", arguments={"T_max": {"share": 1.0}, "eta_min": 1e-4})
    recipe = replace(RECIPE, optimiser=ADAM, schedule=schedule)
    run(tmp_path / "whole", recipe=recipe)
    run(tmp_path / "parts", recipe=recipe, stop_after=7)
    resumed, _ = run(tmp_path / "parts", recipe=recipe, resume=True)
    assert resumed.finished
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")
    rates = [record.learning_rate for record in resumed.history]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.0005  # the last of 15 steps, 1e-4 + 0.00495 (1 + cos(14/15 pi)) = 2.1e-4
    other = replace(recipe, optimiser=replace(ADAM, learning_rate=0.02))
    with pytest.raises(TrainError, match=r"recipe.optimiser.learning_rate \(0.01 before, 0.02 now\)"):
        run(tmp_path / "parts", recipe=other, resume=True)


def test_a_run_from_before_recipes_were_files_goes_on(run, tmp_path):
    """Its settings have the recipe as it was written then, with the same numbers."""
    recipe = replace(RECIPE, optimiser=replace(RECIPE.optimiser, clip_norm=None))  # which recipes had not then
    run(tmp_path / "whole", recipe=recipe)
    folder = tmp_path / "parts"
    run(folder, recipe=recipe, stop_after=9)
    path = folder / "resume.safetensors"
    tensors, description = read_tensors(path, "bnas_deploy_run")
    then = {
        "name": "quick",
        "epochs": 3,
        "batch_size": 8,
        "optimisation": {
            "peak_learning_rate": 0.1,
            "start_learning_rate": 0.1 / 20,
            "final_learning_rate": 4e-4,
            "low_momentum": 0.85,
            "high_momentum": 0.95,
            "weight_decay": 1e-3,
            "rising_share": 0.45,
        },
        "augmentation": {"crop_area": None, "shift": 1, "flip": True, "jitter": None},
    }
    description["settings"]["recipe"] = then
    write_tensors(path, tensors, "bnas_deploy_run", description)
    with pytest.raises(TrainError, match=r"recipe.optimiser.weight_decay \(0.001 before, 0.002 now\); resume"):
        run(
            folder,
            resume=True,
            recipe=replace(recipe, optimiser=replace(recipe.optimiser, weight_decay=0.002)),
        )
    resumed, _ = run(folder, resume=True, recipe=recipe)
    assert resumed.finished
    assert_same_runs(folder, tmp_path / "whole")


def test_what_a_recipe_is_called_is_no_setting(run, tmp_path):
    run(tmp_path, stop_after=9)
    resumed, _ = run(tmp_path, resume=True, recipe=replace(RECIPE, name="other", summary="something"))
    assert resumed.finished


def test_a_folder_without_a_run_cannot_be_resumed(run, tmp_path):
    with pytest.raises(
        TrainError, match=r"no resume\.safetensors in it, so there is no run to resume; leave out --resume"
    ):
        run(tmp_path, resume=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainError, match="file/run: cannot be made: Not a directory; choose another output folder"):
        run(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
def test_a_folder_that_cannot_be_written_is_refused(run, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match=r"last\.safetensors: cannot be written: Permission denied"):
        run(tmp_path)


def test_a_write_protected_file_system_is_refused(run):
    with pytest.raises((TrainError, CheckpointError), match=r"/proc.*: cannot be (made|written): "):
        run(module.Path("/proc/self/run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"seed \(0 before, 1 now\)"),
        (
            {"recipe": replace(RECIPE, epochs=4, batch_size=9)},
            r"recipe.epochs \(3 .*4 now\); recipe.batch_size \(8 .*9 now\)",
        ),
        ({"recipe": replace(RECIPE, augmentation=Augmentation(shift=2, flip=True))}, r"recipe.augmentation.shift \(1 "),
        (
            {"config": replace(CONFIG, channels=6)},
            r"network.channels \(4 before, 6 now\); resume it with the same ones",
        ),
        ({"config": replace(CONFIG, inter_cell_skip=False)}, r"network.inter_cell_skip \(True before, False now\)"),
        ({"config": CONFIG.float_twin()}, r"network.is_float \(False before, True now\)"),
        (
            {"config": replace(CONFIG, genotype=GENOTYPES["cifar"])},
            r"network\.genotype\.normal; network\.genotype\.reduction; resume",
        ),
        ({"train_size": 37}, r"data.train_size \(36 before, 37 now\)"),
        ({"arithmetic": "bfloat16"}, r"arithmetic \(float32 before, bfloat16 now\)"),
    ],
    ids=["seed", "recipe", "augmentation", "channels", "skip", "twin", "genotype", "data", "arithmetic"],
)
def test_other_settings_are_named(run, uninterrupted, changes, message):
    before = (uninterrupted / "resume.safetensors").read_bytes()
    with pytest.raises(TrainError, match=rf"resume\.safetensors: the run was begun with other settings: .*{message}"):
        run(uninterrupted, resume=True, **changes)
    assert (uninterrupted / "resume.safetensors").read_bytes() == before


def test_a_run_of_an_older_format_is_left_to_the_version_that_wrote_it(run, tmp_path):
    run(tmp_path, stop_after=1)
    path = tmp_path / "resume.safetensors"
    tensors, description = read_tensors(path, "bnas_deploy_run")
    write_tensors(path, tensors, "bnas_deploy_run", description | {"format": 1, "bnas_deploy": "0.1.0"})
    message = (
        r"format version 1, this bnas-deploy reads 2 and later; go on with the bnas-deploy that wrote it \(0.1.0\)"
    )
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, resume=True)


def test_float32_is_not_mixed_and_bfloat16_is(run, tmp_path, monkeypatch):
    seen = []
    step = module.TrainingRun.train_step

    def watched(self, images, labels):
        # The last convolution of the network, whatever it is.
        handle = self.network.cells[-1].skip.conv.register_forward_hook(lambda layer, x, y: seen.append(y.dtype))
        step(self, images, labels)
        handle.remove()

    monkeypatch.setattr(module.TrainingRun, "train_step", watched)
    for arithmetic, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        seen.clear()
        run(tmp_path / arithmetic, arithmetic=arithmetic, stop_after=2)
        assert seen == [dtype] * 2


@pytest.mark.parametrize(
    ("arithmetic", "message"),
    [
        ("tf32", "--arithmetic tf32: a CPU has no TF32; use float32 or bfloat16, or --device cuda"),
        ("float8", "unknown arithmetic 'float8'; there are float32, tf32, bfloat16, float16"),
    ],
)
def test_an_arithmetic_that_is_not_there_leaves_no_run_behind(run, tmp_path, arithmetic, message):
    with pytest.raises(BnasError) as refusal:
        run(tmp_path / "run", arithmetic=arithmetic)
    assert refusal.value.message == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stop_after", [1, 8])
def test_float16_scales_the_loss_and_goes_on_with_its_factor(run, tmp_path, monkeypatch, stop_after):
    """A CPU can do it, though slowly; the first factors are too large, so that the first steps are left out."""
    monkeypatch.setattr("bnas_deploy.search.training.train.check_arithmetic", lambda arithmetic, device: None)
    scalers = []
    make = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp,
        "GradScaler",
        lambda *words, **more: scalers.append(make(*words, init_scale=2.0**40, **more)) or scalers[-1],
    )
    recipe = replace(RECIPE, optimiser=replace(RECIPE.optimiser, clip_norm=1.0))
    run(tmp_path / "whole", recipe=recipe, arithmetic="float16")
    assert 1 < scalers[0].get_scale() < 2.0**40
    run(tmp_path / "parts", recipe=recipe, arithmetic="float16", stop_after=stop_after)
    run(tmp_path / "parts", recipe=recipe, arithmetic="float16", resume=True)
    assert scalers[2].get_scale() == scalers[0].get_scale()
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("scale", [0.0, -1.0, "1"])
def test_a_factor_that_float16_cannot_have_is_damage(run, tmp_path, monkeypatch, scale):
    monkeypatch.setattr("bnas_deploy.search.training.train.check_arithmetic", lambda arithmetic, device: None)
    run(tmp_path, arithmetic="float16", stop_after=1)
    path = tmp_path / "resume.safetensors"
    tensors, description = read_tensors(path, "bnas_deploy_run")
    description["scaler"]["scale"] = scale
    write_tensors(path, tensors, "bnas_deploy_run", description)
    with pytest.raises(CheckpointError, match=r"damaged \((TypeError: scaler|ValueError: the loss is multiplied by)"):
        run(tmp_path, arithmetic="float16", resume=True)


def test_a_damaged_run_is_refused(run, tmp_path):
    run(tmp_path, stop_after=1)
    path = tmp_path / "resume.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"resume\.safetensors: cut short"):
        run(tmp_path, resume=True)


def without(data, key):
    return {name: value for name, value in data.items() if name != key}


MOMENTUM = "optimizer.0.momentum_buffer"
DAMAGES = {
    "no-settings": (None, lambda run: without(run, "settings"), "KeyError: 'settings'"),
    "settings": (None, lambda run: run | {"settings": []}, "TypeError: settings are not an object"),
    "no-place": (None, lambda run: without(run, "place"), "KeyError: 'place'"),
    "no-history": (None, lambda run: without(run, "history"), "KeyError: 'history'"),
    "no-list": (None, lambda run: without(run, "tensors"), "KeyError: 'tensors'"),
    "unknown": (None, lambda run: run | {"tensors": ["optimizer.x"]}, "ValueError: not enough values to unpack"),
    "schedule": (None, lambda run: run | {"schedules": {"schedule": [1]}}, "schedules.schedule is of another kind"),
    "late": (
        None,
        lambda run: run | {"schedules": {"schedule": run["schedules"]["schedule"] | {"last_epoch": 99}}},
        "the schedule is at another",
    ),
    "groups": (
        None,
        lambda run: run | {"optimizers": {"optimizer": [{}]}},
        "TypeError: optimizers.optimizer.0 is of another",
    ),
    "numbers": (
        None,
        lambda run: run | {"numbers": {"optimizer": None}},
        "TypeError: the numbers of an optimiser are not by parameter and state",
    ),
    "number": (
        None,
        lambda run: run | {"numbers": {"optimizer": {"0": {"step": "x"}}}},
        "TypeError: step of parameter 0 of an optimiser is str, no number",
    ),
    "before": (None, lambda run: run | {"place": run["place"] | {"epoch": -1}}, "the schedule is at another|no place"),
    "half": (None, lambda run: run | {"place": run["place"] | {"step": 3.0}}, "TypeError: place counts in fractions"),
    "images": (
        None,
        lambda run: run | {"place": run["place"] | {"images": {"train": 0}}},
        "ValueError: no place of this run",
    ),
    "missing": (lambda state: without(state, "network.classifier.weight"), None, r"1 missing: network.classif"),
    "random": (lambda state: without(state, "random.cpu"), None, r"1 missing: random.cpu "),
    "cut-random": (lambda state: state | {"random.cpu": state["random.cpu"][1:]}, None, "random.cpu is uint8"),
    "bad-random": (
        lambda state: state | {"random.cpu": torch.full_like(state["random.cpu"], 255)},
        None,
        "ValueError: random numbers: ",
    ),
    "momentum": (lambda state: without(state, MOMENTUM), None, rf"1 missing: {MOMENTUM} "),
    "shape": (lambda state: state | {MOMENTUM: torch.zeros(7)}, None, rf"{MOMENTUM} is float32 \[7\], expected"),
    "other": (lambda state: state | {"other": torch.zeros(1)}, None, r"1 unexpected: other "),
}


@pytest.mark.parametrize(("tensors", "description", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_place_is_refused(run, tmp_path, tensors, description, message):
    run(tmp_path, stop_after=3)
    path = tmp_path / "resume.safetensors"
    state, saved = read_tensors(path, "bnas_deploy_run")
    write_tensors(
        path,
        tensors(state) if tensors else state,
        "bnas_deploy_run",
        description(saved) if description else saved,
    )
    with pytest.raises(
        CheckpointError, match=rf"resume\.safetensors: damaged \(.*({message}).*; copy it again, or begin"
    ):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_a_run_without_one_of_its_checkpoints_is_refused(run, tmp_path, name):
    run(tmp_path, stop_after=8)
    (tmp_path / name).unlink()
    message = f"{name} of the 1 finished epochs not found; put them back, or begin a run in another output folder"
    with pytest.raises(TrainError, match=message):
        run(tmp_path, resume=True)


def test_a_checkpoint_is_not_a_run_and_a_run_is_not_a_checkpoint(run, tmp_path):
    run(tmp_path, stop_after=1)
    with pytest.raises(CheckpointError, match=r"without the metadata 'bnas_deploy' \(it has: bnas_deploy_run\)"):
        load_checkpoint(tmp_path / "resume.safetensors")


def test_a_loss_that_is_not_finite_ends_the_run(run, tmp_path):
    """The step after the first one, of which the first layer of the stem is too large to be squared in float32."""
    optimiser, schedule = replace(RECIPE.optimiser, learning_rate=1e30), replace(RECIPE.schedule, start_divisor=1)
    with pytest.raises(
        TrainError,
        match=r"the training loss is (nan|inf) in epoch 1, step 2, after a step at a learning rate of 1e\+30: the "
        r"first values that are not finite are the output of \S+, from finite weights \(up to \S+\) and an input "
        r"\(up to \S+\); no epoch was finished before; .*last.safetensors holds what the run began with. Try a lower "
        r"optimiser.learning_rate",
    ):
        run(tmp_path, recipe=replace(RECIPE, optimiser=optimiser, schedule=schedule))
    for tensors in (
        load_checkpoint(tmp_path / "last.safetensors").state,
        read_tensors(tmp_path / "resume.safetensors", "bnas_deploy_run")[0],
    ):
        assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 4}, "tiny has classes 4, but rows has 3; build it for this data set"),
        ({"in_channels": 3}, "tiny has channels in 3, but rows has 1"),
        ({"image_size": (16, 16)}, r"tiny has image size \(16, 16\), but rows has \(8, 8\)"),
    ],
)
def test_a_network_for_other_images_is_refused(run, tmp_path, change, message):
    with pytest.raises(TrainError, match=message):
        run(tmp_path, config=replace(CONFIG, **change))


def test_a_recipe_that_does_not_suit_leaves_no_run_behind(run, tmp_path):
    recipe = replace(RECIPE, augmentation=Augmentation(jitter=ColourJitter(0.1, 0.1, 0.1, 0.1)))
    with pytest.raises(DataError, match="jitters colours"):
        run(tmp_path / "run", recipe=recipe)
    assert not (tmp_path / "run").exists()


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_acts_as_usual(number):
    acted = []
    usual = signal.signal(number, lambda *_: acted.append(True))
    try:
        with stop_on_signals() as stop:
            assert not stop()
            signal.raise_signal(number)
            assert stop()
            assert not acted
            signal.raise_signal(number)
            assert acted
    finally:
        signal.signal(number, usual)


def test_signals_act_as_usual_afterwards():
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


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
runs, conftest = load(test), load(test.parents[1] / "conftest.py")
run = runs.runner(conftest.make_bright_rows, conftest.Recorder)
run(Path(sys.argv[2]), recipe=replace(runs.RECIPE, epochs=100_000), resume=len(sys.argv) > 3)
"""


def test_a_kill_leaves_files_that_can_be_read(tmp_path):
    """Each epoch takes about as long as writing its files, so the kill often hits a write."""
    folder = tmp_path / "run"
    epochs = 0
    for flags in ([], ["resume"]):
        process = subprocess.Popen([sys.executable, "-P", "-c", ENDLESS, __file__, str(folder), *flags])
        deadline = time.monotonic() + 60
        while _finished_epochs(folder) < epochs + 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        for name in ("best.safetensors", "last.safetensors"):
            load_checkpoint(folder / name)
        epochs = read_tensors(folder / "resume.safetensors", "bnas_deploy_run")[1]["place"]["epoch"]
        assert epochs >= 1


def _finished_epochs(folder):
    path = folder / "metrics.jsonl"
    return len([json.loads(line) for line in path.read_text().splitlines()]) if path.exists() else 0


# ---- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA GPU")
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_gpu_trains_and_resumes(run, bright_rows, tmp_path, arithmetic):
    device = torch.device("cuda")
    recipe = replace(RECIPE, epochs=15, augmentation=Augmentation())
    run(tmp_path, recipe=recipe, device=device, arithmetic=arithmetic, stop_after=20)
    result, _ = run(tmp_path, recipe=recipe, device=device, arithmetic=arithmetic, resume=True)
    assert result.best.test_accuracy > 0.9
    network = load_checkpoint(tmp_path / "best.safetensors").build()
    assert evaluate(network, bright_rows(), batch_size=8).accuracy == pytest.approx(result.best.test_accuracy, abs=0.1)


def test_a_difference_is_one_line() -> None:
    assert differences({"name": "a\nb"}, {"name": "a"}) == ["name (a b before, a now)"]
