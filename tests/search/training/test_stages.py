"""Runs in stages are of a tiny network on random images; each recipe goes the whole way, scaled down."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bnas_deploy.core.errors import BnasError, ExportError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.data import open_data
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.training import training_run as module
from bnas_deploy.search.training.checkpoint import load_checkpoint, read_tensors
from bnas_deploy.search.training.checks import TrainError
from bnas_deploy.search.training.recipes import RECIPES, Augmentation, Recipe
from bnas_deploy.search.training.stages import train_in_stages

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
EPOCHS = 8
"""Of a run that is killed: after the first there are more to come."""

RESULTS = ("best.safetensors", "last.safetensors")


def make_data() -> InMemoryDataSet:
    """Images whose class is the row that is bright; 5 batches of 8 to train on, 2 to test on."""
    random = torch.Generator().manual_seed(0)

    def images(count: int) -> Images:
        labels = torch.randint(3, (count,), generator=random)
        pixels = torch.randint(100, (count, 1, 8, 8), generator=random, dtype=torch.uint8)
        pixels[torch.arange(count), 0, 2 * labels + 1] = 255
        return Images(pixels, labels)

    description = DataDescription("rows", ("top", "middle", "bottom"), 1, (8, 8), (0.4,), (0.3,))
    return InMemoryDataSet(description, images(36), images(11))


DATA = make_data()


def short(name: str, epochs: int = 2) -> Recipe:
    """A recipe for a few small images in memory."""
    recipe = RECIPES[name].of_length(epochs, 8)
    stages = tuple(replace(stage, augmentation=Augmentation()) for stage in recipe.stages)
    return replace(recipe, augmentation=Augmentation(), stages=stages)


def run(folder: Path, recipe: Recipe, *, stop_after: int | None = None, config=CONFIG, **settings):
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_after

    return train_in_stages(DATA, config, recipe, folder, stop=stop, **settings)


def assert_same_runs(left: Path, right: Path) -> None:
    """Same bytes in every checkpoint of every stage, same histories but for the time."""
    files = [
        sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) for folder in (left, right)
    ]
    assert files[0] == files[1]
    for file in files[0]:
        if file.name in RESULTS:
            assert (left / file).read_bytes() == (right / file).read_bytes(), file
        if file.name == "metrics.jsonl":
            lines = [
                [
                    {**json.loads(line), "duration_s": 0, "waiting_share": 0}
                    for line in (folder / file).read_text().splitlines()
                ]
                for folder in (left, right)
            ]
            assert lines[0] == lines[1]


# ---- every recipe, from end to end


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for number in range(3):
                pixels = random.integers(256, size=(70, 66, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return open_data(f"imagefolder:{folder}", image_size=(64, 64))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_from_end_to_end(tmp_path, photos, name):
    recipe = RECIPES[name].of_length(2, 4)
    data, config = DATA, CONFIG
    if recipe.augmentation.crop_area:
        data, config = photos, replace(CONFIG, stem="imagenet", classes=2, in_channels=3, image_size=(64, 64))
    told = []
    result = train_in_stages(data, config, recipe, tmp_path, announce=told.append)
    stages = recipe.all_stages
    assert result.finished
    assert [(stage.name, stage.layers, stage.epochs) for stage in result.stages] == [
        (stage.name, stage.layers, stage.epochs) for stage in stages
    ]
    assert len(told) == (len(stages) if len(stages) > 1 else 0)
    assert load_checkpoint(tmp_path / "best.safetensors").network == config
    for number, (stage, line) in enumerate(zip(stages, told, strict=False), start=1):
        assert line.startswith(f"Stage {number} of {len(stages)}, {stage.name}: ")


def test_the_stages_learn(tmp_path):
    """Rows are learnt within a few epochs by every stage; the recipes are for a hundred, so the rates are higher."""
    recipe = short("multi-stage", 9)
    fast = [replace(stage, optimiser=replace(stage.optimiser, learning_rate=0.02)) for stage in recipe.all_stages]
    recipe = replace(fast[-1], stages=tuple(fast[:-1]))
    result = run(tmp_path, recipe)
    assert [stage.layers for stage in result.stages] == ["float", "tanh", "float-weights", "binary"]
    assert all(stage.best_test_accuracy > 0.9 for stage in result.stages), result.stages


# ---- what a stage has of the one before


def test_the_last_stage_begins_with_the_weights_that_the_one_before_ended_with(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "best_of", lambda history: next(iter(history), None))  # so that the last is another
    run(tmp_path, short("two-stage"), stop_after=15)  # 5 steps and 2 test batches of each epoch, and a step
    before = load_checkpoint(tmp_path / "stages" / "1-signs" / "last.safetensors")
    start = load_checkpoint(tmp_path / "last.safetensors")
    assert before.network == replace(CONFIG, relaxed="float-weights")
    assert start.network == CONFIG
    assert start.metrics["epoch"] == 0
    assert start.state.keys() == before.state.keys()
    assert all(torch.equal(start.state[name], before.state[name]) for name in start.state)


def test_a_stage_without_them_begins_anew(tmp_path):
    recipe = short("multi-stage", 1)
    run(tmp_path, recipe, stop_after=8)
    start = load_checkpoint(tmp_path / "stages" / "2-tanh" / "last.safetensors")
    torch.manual_seed(0)
    anew = build_network(replace(CONFIG, relaxed="tanh")).state_dict()
    assert all(torch.equal(start.state[name], anew[name]) for name in anew)


def test_the_teacher_is_what_the_stage_before_ended_with(tmp_path):
    """A first step by hand, with the network, the teacher and both terms."""
    run(tmp_path, short("multi-stage", 1), stop_after=8)
    teacher = load_checkpoint(tmp_path / "stages" / "1-float" / "last.safetensors").build()
    tensors, description = read_tensors(tmp_path / "stages" / "2-tanh" / "resume.safetensors", "bnas_deploy_run")
    assert description["place"]["step"] == 1
    torch.manual_seed(0)
    student = build_network(replace(CONFIG, relaxed="tanh")).train()
    images, labels = next(iter(DATA.train_batches(8, Augmentation(), seed=0, epoch=0)))
    seen = [[], []]
    for network, outputs in zip((student, teacher), seen, strict=True):
        for cell in network.cells:
            cell.register_forward_hook(lambda cell, x, y, outputs=outputs: outputs.append(y))
    logits, answers = student(images), teacher(images).detach()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    wanted = answers.softmax(dim=1)
    loss = loss + 3 * (wanted * (wanted.log() - logits.log_softmax(dim=1))).sum(dim=1).mean()
    distances = []
    for mine, other in zip(*seen, strict=True):
        for left, right in zip(mine, other, strict=True):  # image by image
            areas = [(each**2).mean(dim=0) for each in (left, right.detach())]
            maps = [area / area.max() for area in areas]
            distances.append(((maps[0] - maps[1]) ** 2).mean())
    loss = loss + 30 * torch.stack(distances).mean()
    loss.backward()
    for number, (name, parameter) in enumerate(student.named_parameters()):
        gradient = parameter.grad + 2e-5 * parameter.detach()
        # Adam's first moment after a step is 0.1 of the gradient. Gradients of up to 1 are float32 sums of some hundred
        # terms in another order.
        got = tensors[f"optimizer.{number}.exp_avg"]
        torch.testing.assert_close(got, 0.1 * gradient, rtol=1e-3, atol=1e-6, msg=lambda text, name=name: name + text)


# ---- stopping, killing and going on


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder, short("multi-stage"))
    return folder


# `stop` is asked after each of 5 training and 2 test batches of an epoch; the stages have 3, 2, 2 and 2 epochs.
@pytest.mark.parametrize(
    "stops",
    [[3], [21], [22], [24, 11], [35, 1, 1], [36], [61, 2], [5] * 13],
    ids=["first", "end-of-first", "second-begins", "twice", "between", "third", "last", "again-and-again"],
)
def test_a_run_that_was_stopped_in_any_stage_ends_as_one_that_was_not(tmp_path, uninterrupted, stops):
    recipe = short("multi-stage")
    assert [stage.epochs for stage in recipe.all_stages] == [3, 2, 2, 2]
    for number, stop_after in enumerate(stops):
        assert not run(tmp_path, recipe, stop_after=stop_after, resume=number > 0).finished
    result = run(tmp_path, recipe, resume=True)
    assert result.finished
    assert len(result.stages) == 4
    assert_same_runs(tmp_path, uninterrupted)


def test_a_run_that_ended_between_two_stages_goes_on_with_the_next(tmp_path, uninterrupted):
    recipe = short("multi-stage")

    class KillError(Exception):
        pass

    def killed(line: str) -> None:
        if line.startswith("Stage 3"):
            raise KillError

    with pytest.raises(KillError):
        run(tmp_path, recipe, announce=killed)
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == ["1-float", "2-tanh"]
    assert run(tmp_path, recipe, resume=True).finished
    assert_same_runs(tmp_path, uninterrupted)


SCRIPT = """
import sys
import torch
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

torch.set_num_threads(1)
spec = spec_from_file_location("stages", sys.argv[1])
stages = module_from_spec(spec)
spec.loader.exec_module(stages)
stages.run(Path(sys.argv[2]), stages.short("two-stage", stages.EPOCHS), resume=len(sys.argv) > 3)
"""


def test_a_run_that_is_killed_in_each_stage_ends_as_one_that_is_not(tmp_path):
    recipe, flags = short("two-stage", EPOCHS), ()
    for history in ("stages/1-signs/metrics.jsonl", "metrics.jsonl"):
        process = subprocess.Popen([sys.executable, "-P", "-c", SCRIPT, __file__, str(tmp_path / "parts"), *flags])
        deadline = time.monotonic() + 120
        while not (tmp_path / "parts" / history).exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait()
        flags = ("resume",)
    assert run(tmp_path / "parts", recipe, resume=True).finished
    run(tmp_path / "whole", recipe)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


# ---- refusals


def test_a_folder_with_a_run_in_stages_is_left_alone(tmp_path, uninterrupted):
    message = r"already holds a run \(stages, best.safetensors, .*\), which was left alone; add --resume"
    for recipe in (short("multi-stage"), short("digits")):
        with pytest.raises(TrainError, match=message):
            run(uninterrupted, recipe)
    with pytest.raises(TrainError, match=r"no resume.safetensors in it, so there is no run to resume"):
        run(tmp_path, short("multi-stage"), resume=True)


def test_another_number_of_any_stage_is_named(tmp_path):
    recipe = short("two-stage")
    run(tmp_path, recipe, stop_after=3)
    other = replace(recipe, batch_size=9)
    with pytest.raises(TrainError, match=r"stages\.last\.batch_size \(8 before, 9 now\); resume it with the same ones"):
        run(tmp_path, other, resume=True)
    with pytest.raises(TrainError, match=r"so there is no run to resume"):
        run(tmp_path, short("digits"), resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_from_before": True}, "weights_from_before: digits is the first stage, there is none before it"),
        ({"loss": {"attention": 1.0}}, "loss.attention: digits is the first stage, there is none before it; leave it"),
        ({"loss": {"distillation": 1.0}}, "loss.distillation: digits is the first stage"),
    ],
)
def test_the_first_stage_has_nothing_from_before(tmp_path, change, message):
    recipe = short("digits")
    if "loss" in change:
        change = {"loss": replace(recipe.loss, **change["loss"])}
    with pytest.raises(BnasError, match=message):
        run(tmp_path / "run", replace(recipe, **change))
    assert not (tmp_path / "run").exists()


def test_a_float_twin_has_no_stages(tmp_path):
    with pytest.raises(
        TrainError, match=r"layers of signs: float-weights \(signs of .*\), but tiny is a float twin; choo"
    ):
        run(tmp_path, short("two-stage"), config=CONFIG.float_twin())
    assert not list(tmp_path.iterdir())


def test_a_stage_is_exported_where_an_operator_does_what_it_does() -> None:
    # Imported here so that a process that only trains does not wait for it.
    from bnas_deploy.export.capture import capture

    with pytest.raises(
        ExportError, match=r"the network has tanh in the place of signs, .*; export best\.safetensors of"
    ):
        capture(build_network(replace(CONFIG, relaxed="tanh")).eval(), (1, 8, 8))
    network = build_network(replace(CONFIG, relaxed="float-weights")).eval()
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(capture(network, (1, 8, 8)).values_of(images)["logits"], network(images))
