"""Schedules are checked at their corners, against the figures in the paper; files by what is wrong with them."""

import math
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.cells.config import SEARCH_RECIPES
from bnas_deploy.search.data.kinds import DATA_KINDS, training_defaults
from bnas_deploy.search.models.bnas.config import NETWORKS
from bnas_deploy.search.training.recipes import (
    LAYERS,
    RECIPES,
    RENAMED,
    Augmentation,
    ColourJitter,
    Loss,
    Optimiser,
    Recipe,
    find_recipe,
    recipe_file,
)
from bnas_deploy.search.training.recipes.schedules import SCHEDULES, Cosine, Length, Linear, Steps, TorchSchedule

RELATIVE = 1e-12  # a handful of float64 operations, 1.1e-16 each


def schedule_of(recipe: Recipe, epochs: int, steps_of_epoch: int = 1) -> list[tuple[float, float]]:
    """(learning rate, momentum or first beta) that each step uses."""
    optimizer = recipe.optimiser.build(torch.nn.Linear(1, 1).parameters())
    length = Length(epochs, steps_of_epoch)
    schedule = recipe.schedule.build(optimizer, length)
    used = []
    for _ in range(length.steps):
        group = optimizer.param_groups[0]
        used.append((group["lr"], group["momentum"] if "momentum" in group else group["betas"][0]))
        optimizer.step()
        schedule.step()
    return used


def rates_of(schedule, epochs, steps_of_epoch=1, learning_rate=1.0):
    recipe = replace(RECIPES["minimal"], schedule=schedule)
    recipe = replace(recipe, optimiser=replace(recipe.optimiser, learning_rate=learning_rate))
    return [rate for rate, _ in schedule_of(recipe, epochs, steps_of_epoch)]


# ---- the recipes of the papers


def test_the_cifar_recipe_is_the_papers():
    recipe = RECIPES["cifar-standard"]
    used = schedule_of(recipe, 1000)
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser.weight_decay) == (600, 256, 3e-6)
    # torch's phases end at steps .45 n - 1, .9 n - 2 and n - 1.
    assert used[0] == pytest.approx((0.0025, 0.95), rel=RELATIVE)
    assert used[449] == pytest.approx((0.05, 0.85), rel=RELATIVE)
    assert used[898] == pytest.approx((0.0025, 0.95), rel=RELATIVE)
    assert used[999] == pytest.approx((4e-4, 0.95), rel=RELATIVE)


def test_the_official_code_ends_cifar_at_a_hundredth_of_the_start():
    paper, code = RECIPES["cifar-standard"], RECIPES["cifar-code"]
    assert schedule_of(code, 1000)[999] == pytest.approx((0.0025 / 100, 0.95), rel=RELATIVE)
    schedule = replace(code.schedule, final_learning_rate=4e-4)
    assert replace(code, name=paper.name, summary=paper.summary, schedule=schedule) == paper


def test_the_imagenet_recipe_is_the_papers():
    recipe = RECIPES["imagenet-standard"]
    numbers = (recipe.epochs, recipe.batch_size, recipe.optimiser.kind, recipe.optimiser.clip_norm)
    assert numbers == (250, 512, "SGD", 5)
    assert (recipe.loss.label_smoothing, recipe.augmentation.jitter) == (0.1, ColourJitter(0.4, 0.4, 0.4, 0.2))
    used = schedule_of(recipe, 250, 4)
    assert {momentum for _, momentum in used} == {0.9}
    for start in range(0, 1000, 200):  # every 50 epochs
        assert used[start][0] == pytest.approx(0.1, rel=RELATIVE)
        assert used[start + 100][0] == pytest.approx(0.05, rel=RELATIVE)
        assert used[start + 199][0] == pytest.approx(0.05 * (1 - math.cos(math.pi / 200)), rel=1e-9)  # 1 - cos cancels


@pytest.mark.parametrize("name", ["digits", "small"])
def test_a_gradient_cannot_throw_a_short_run_on_small_images(name):
    """A searched BNAS-Mini lost its loss in 2 epochs, in which one-cycle rises to 0.1 within 40 steps."""
    optimiser = RECIPES[name].optimiser
    assert optimiser.kind == "Adam" or optimiser.clip_norm == 5  # a step of Adam is bounded by its rate


def test_minimal_regularisation_is_without_all_of_it():
    recipe, standard = RECIPES["minimal"], RECIPES["imagenet-standard"]
    assert (recipe.optimiser.kind, recipe.optimiser.weight_decay, recipe.optimiser.clip_norm) == ("Adam", 0, None)
    assert (recipe.loss.label_smoothing, recipe.augmentation) == (0, replace(standard.augmentation, jitter=None))
    rates = [rate for rate, _ in schedule_of(recipe, 250, 4)]
    assert rates == sorted(rates, reverse=True)
    assert rates[500] == pytest.approx(recipe.optimiser.learning_rate / 2, rel=RELATIVE)
    longer = RECIPES["minimal-longer"]
    assert replace(longer, epochs=250, name=recipe.name, summary=recipe.summary) == recipe
    assert longer.epochs == 500


# ---- schedules


def test_each_phase_of_one_cycle_is_a_straight_line():
    rates = [rate for rate, _ in schedule_of(RECIPES["cifar-standard"], 1000)]
    for first, last in ((0, 449), (449, 898), (898, 999)):
        middle = rates[first] + (rates[last] - rates[first]) / (last - first)
        assert rates[first + 1] == pytest.approx(middle, rel=RELATIVE)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
def test_the_learning_rate_is_always_positive_and_ends_low(recipe, steps):
    short = recipe.of_length(steps, None)
    rates = [rate for rate, _ in schedule_of(short, steps)]
    assert min(rates) > 0
    assert max(rates) <= recipe.optimiser.learning_rate * (1 + RELATIVE)
    if recipe.schedule.kind == "one-cycle":
        assert rates[-1] == pytest.approx(recipe.schedule.final_learning_rate, rel=RELATIVE)


def test_a_warm_up_rises_to_the_highest_rate():
    assert rates_of(Linear(warmup_epochs=1.0), 2, 4) == pytest.approx([0.25, 0.5, 0.75, 1, 0.5, 0.375, 0.25, 0.125])
    got = rates_of(Steps(after_epochs=(2.0, 3.0), factor=0.1, warmup_epochs=1.0), 4, 2, learning_rate=0.5)
    assert got == pytest.approx([0.25, 0.5, 0.5, 0.5, 0.05, 0.05, 0.005, 0.005])
    got = rates_of(Cosine(warmup_epochs=1.0), 3, 2)
    assert got == pytest.approx([0.5, 1, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])


def test_a_cosine_restarts():
    got = rates_of(Cosine(restart_epochs=2.0), 5, 2)
    cycle = [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]
    assert got == pytest.approx([*cycle, *cycle, 1, cycle[1]])


def test_what_is_counted_in_epochs_keeps_its_share_of_another_length():
    assert RECIPES["imagenet-standard"].of_length(25, 64).schedule == Cosine(restart_epochs=5.0)
    assert Steps(after_epochs=(40.0, 60.0), factor=0.3, warmup_epochs=5.0).stretched(0.5) == Steps(
        after_epochs=(20.0, 30.0), factor=0.3, warmup_epochs=2.5
    )
    assert Linear(warmup_epochs=4.0).stretched(2) == Linear(warmup_epochs=8.0)
    assert RECIPES["digits"].of_length(3, None) == replace(RECIPES["digits"], epochs=3)
    assert RECIPES["imagenet-standard"].of_length(None, 64).schedule.restart_epochs == 50


def test_one_cycle_moves_adams_first_beta():
    one_cycle = RECIPES["digits"].schedule
    recipe = replace(RECIPES["digits"], optimiser=Optimiser(kind="Adam", learning_rate=0.1, betas=(0.95, 0.999)))
    betas = [beta for _, beta in schedule_of(recipe, 100)]
    assert (max(betas), min(betas)) == pytest.approx((0.95, 0.85), rel=RELATIVE)
    recipe = replace(recipe, schedule=replace(one_cycle, low_momentum=None))
    assert {beta for _, beta in schedule_of(recipe, 100)} == {0.95}
    recipe = replace(recipe, optimiser=Optimiser(kind="Adagrad", learning_rate=0.1), schedule=one_cycle)
    with pytest.raises(BnasError, match=r"low_momentum: got 0.85, and the momentum of Adagrad is 0"):
        schedule_of(recipe, 100)


# ---- PyTorch's


def test_a_recipe_names_any_optimiser_and_schedule_of_torch():
    optimiser = Optimiser(kind="Adam", learning_rate=0.5, betas=(0.8, 0.9), arguments={"eps": 1e-3})
    schedule = TorchSchedule(name="CosineAnnealingLR", arguments={"T_max": {"share": 1.0}})
    optimizer = optimiser.build(torch.nn.Linear(1, 1).parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.param_groups[0]["betas"], optimizer.param_groups[0]["eps"]) == ((0.8, 0.9), 1e-3)
    built = schedule.build(optimizer, Length(5, 2))
    assert built.get_last_lr() == [0.5]
    for _ in range(10):
        optimizer.step()
        built.step()
    assert built.get_last_lr() == [pytest.approx(0, abs=1e-15)]  # half a cosine has ended, float64 roundings of 0.5


@pytest.mark.parametrize(
    ("optimiser", "message"),
    [
        ({"kind": "Adm"}, r"optimiser.kind: got 'Adm', wanted one of .*SGD; did you mean Adam\?"),
        ({"kind": "LBFGS"}, "optimiser.kind: got 'LBFGS', wanted one of"),
        ({"kind": "Adam", "momentum": 0.9}, "optimiser.momentum: Adam does not take it; it takes betas, eps, "),
        ({"kind": "SGD", "betas": (0.9, 0.9)}, "optimiser.betas: SGD does not take it; it takes momentum"),
        ({"kind": "SGD", "arguments": {"nestrov": True}}, r"optimiser.arguments.nestrov: .*did you mean nesterov\?"),
        ({"kind": "SGD", "arguments": {"nesterov": True}}, "SGD of PyTorch refuses its arguments: Nesterov momentum"),
        ({"kind": "Adam", "arguments": {"eps": "x"}}, "Adam of PyTorch refuses its arguments: "),
    ],
)
def test_an_optimiser_that_torch_lacks_is_named(optimiser, message):
    with pytest.raises(BnasError, match=message):
        Optimiser(learning_rate=0.1, **optimiser).build(torch.nn.Linear(1, 1).parameters())


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"name": "StepL"}, r"schedule.name: got 'StepL', wanted one of .*; did you mean StepLR\?"),
        ({"name": "ReduceLROnPlateau"}, "wanted one of .*StepLR; ReduceLROnPlateau asks for a loss"),
        ({"name": "LambdaLR"}, "wanted one of .*StepLR; LambdaLR takes a function"),
        ({"name": "StepLR"}, "StepLR of PyTorch refuses its arguments: .*step_size"),
    ],
)
def test_a_schedule_that_torch_lacks_is_named(schedule, message):
    optimizer = Optimiser(kind="SGD", learning_rate=0.1).build(torch.nn.Linear(1, 1).parameters())
    with pytest.raises(BnasError, match=message):
        TorchSchedule(**schedule).build(optimizer, Length(1, 1))


# ---- names and files


def test_every_data_set_has_defaults_that_exist():
    defaults = training_defaults()
    small = {f"small {kind.name}" for kind in DATA_KINDS.values() if kind.training_small}
    assert set(defaults) == {*DATA_KINDS, *small}
    assert small >= {"small imagefolder", "small torchvision", "small hf"}
    assert DATA_KINDS["imagefolder"].defaults((64, 64)) == defaults["imagefolder"]
    assert DATA_KINDS["imagefolder"].defaults((224, 63)) == defaults["small imagefolder"]
    assert {defaults[name].recipe for name in small} == {"small"}  # which mirrors nothing
    assert DATA_KINDS["digits"].defaults((8, 8)) == defaults["digits"]
    assert {each.network for each in defaults.values()} <= set(NETWORKS)
    assert {each.recipe for each in defaults.values()} <= set(RECIPES)
    assert {kind.search.recipe for kind in DATA_KINDS.values()} <= set(SEARCH_RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_number_of_a_recipe_has_its_source_beside_it(name):
    lines = recipe_file(name).read_text(encoding="utf-8").splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#") and key.strip() not in ("summary", "like", "kind"):
            assert "#" in value or above.startswith("#"), line
    assert RECIPES[name].summary
    assert RECIPES[name].name == name


def test_old_names_and_any_case_are_known():
    assert {old: find_recipe(old).name for old in RENAMED} == RENAMED
    assert find_recipe("Digits") == RECIPES["digits"]
    with pytest.raises(BnasError, match=r"unknown recipe 'digit'; the recipes are .*digits.*; did you mean digits\?"):
        find_recipe("digit")
    with pytest.raises(KeyError):
        RECIPES["digit"]
    assert len(RECIPES) == len(list(RECIPES))


MINE = """
epochs = 2  # mine
batch_size = 16
optimiser = {kind = "SGD", learning_rate = 1}
[schedule]
kind = "steps"
after_epochs = [1, 1.5]
factor = 0.5
"""


def mine(folder: Path, text: str = MINE) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_file_is_a_recipe(tmp_path):
    recipe = find_recipe(mine(tmp_path))
    assert recipe == Recipe(
        name="mine",
        epochs=2,
        batch_size=16,
        optimiser=Optimiser(kind="SGD", learning_rate=1.0),
        schedule=Steps(after_epochs=(1.0, 1.5), factor=0.5),
    )
    assert isinstance(recipe.optimiser.learning_rate, float)


def test_a_file_changes_another_recipe(tmp_path):
    text = 'like = "imagenet-standard"\nepochs = 5\n[augmentation]\njitter = false\n[schedule]\nkind = "linear"\n'
    recipe = find_recipe(mine(tmp_path, text))
    standard = RECIPES["imagenet-standard"]
    assert recipe == replace(
        standard,
        name="mine",
        epochs=5,
        schedule=Linear(),
        augmentation=replace(standard.augmentation, jitter=None),
    )
    (tmp_path / "next.toml").write_text('like = "mine.toml"\nsummary = "more"\nbatch_size = 7\n')
    wanted = replace(recipe, name="next", summary="more", batch_size=7)
    assert find_recipe(str(tmp_path / "next.toml")) == wanted


def test_any_key_can_be_changed():
    changes = [
        "optimiser.learning_rate = 1",
        'optimiser.kind="Adam"',  # first, whatever the order: it takes the other keys of the table away
        "optimiser.betas=[0.8, 0.9]",
        'schedule={kind="cosine", restart_epochs=3}',
        "augmentation.jitter.brightness=0.3",
        "augmentation.jitter.contrast=0",
        "augmentation.jitter.saturation=0",
        "augmentation.jitter.hue=0",
        "augmentation.crop_area=[0.5, 1]",
        "epochs=4",
    ]
    recipe = find_recipe("cifar-standard", changes)
    assert recipe.optimiser == Optimiser(kind="Adam", learning_rate=1.0, betas=(0.8, 0.9))
    assert recipe.schedule == Cosine(restart_epochs=3.0)
    jitter = ColourJitter(0.3, 0.0, 0.0, 0.0)
    assert recipe.augmentation == Augmentation(crop_area=(0.5, 1.0), shift=4, flip=True, jitter=jitter)
    assert recipe.epochs == 4
    assert find_recipe("imagenet-standard", ["augmentation.crop_area=false"]).augmentation.crop_area is None


REFUSALS = {
    "key": ("optimiser.lerning_rate=1", r"optimiser.lerning_rate: unknown key; .*; did you mean learning_rate\?"),
    "top": ("epoch=1", r"epoch: unknown key; the keys here are summary, epochs, .*; did you mean epochs\?"),
    "of-another": (
        "schedule.restart_epochs=2",
        "schedule.restart_epochs: unknown key; the keys here are kind, start_d",
    ),
    "name": ('name="x"', "name: unknown key; the name of a recipe is that of its file"),
    "text": ('optimiser.learning_rate="x"', 'optimiser.learning_rate: got "x", wanted a number'),
    "fraction": ("epochs=1.5", "epochs: got 1.5, wanted an integer"),
    "true": ("epochs=true", "epochs: got true, wanted an integer"),
    "range": ("optimiser.learning_rate=0", "optimiser.learning_rate: got 0.0, wanted a number above 0"),
    "share": ("loss.label_smoothing=1", "loss.label_smoothing: got 1.0, wanted a number of at least 0 and below 1"),
    "nan": ("optimiser.learning_rate=nan", "optimiser.learning_rate: got NaN, wanted a number"),
    "date": ("epochs=2020-01-01", "epochs: got 2020-01-01, wanted a number, true, false, text"),
    "in-list": ("optimiser.betas=[2020-01-01, 0]", r"optimiser.betas: got 2020-01-01, wanted"),
    "length": ("optimiser.betas=[0.9]", r"optimiser.betas: got \[0.9\], wanted a list of 2"),
    "betas": (
        "optimiser.betas=[0.9, 1]",
        r"optimiser.betas: got \[0.9, 1.0\], wanted two numbers of at least 0 and be",
    ),
    "crop": ("augmentation.crop_area=[1, 0.5]", r"augmentation.crop_area: got \[1.0, 0.5\], wanted two shares above 0"),
    "hue": ("augmentation.jitter={brightness=0, contrast=0, saturation=0, hue=1}", "augmentation.jitter.hue: got 1"),
    "part": ("augmentation.jitter.hue=0.1", "augmentation.jitter.brightness: missing; give it in the file or by --set"),
    "kind": ('schedule.kind="cosin"', r"schedule.kind: got 'cosin', wanted one of .*; did you mean cosine\?"),
    "number": ("schedule.kind=1", "schedule.kind: got 1, wanted one of one-cycle, cosine"),
    "table": (
        "loss=false",
        "loss: got false, wanted a table of keys; set its keys one by one: loss.label_smoothing, ",
    ),
    "no table": ("optimiser=1", "optimiser: got 1, wanted a table of keys; set its keys one by one: optimiser.kind, "),
    "no-table": ("epochs.many=1", "--set epochs.many: epochs is no table of keys"),
    "no-value": ("epochs", "--set epochs: wanted KEY=VALUE, such as optimiser.learning_rate=0.01"),
    "no-key": ("=1", "--set =1: wanted KEY=VALUE"),
    "half-key": ("optimiser..momentum=1", "wanted KEY=VALUE"),
    "word": ("optimiser.kind=Adam", r"--set optimiser.kind=Adam: the value is not one of TOML, such as 0.01, true"),
    "two": ("epochs=1\nbatch_size=2", "the value is not one of TOML"),
    "deep": ("epochs=" + "[" * 100_000, "the value is not one of TOML"),
    "left": ('schedule.kind="steps"', "schedule.after_epochs: missing; give it in the file or by --set schedule.after"),
}


def test_a_key_is_changed_once():
    with pytest.raises(BnasError, match=r"^--set schedule\.kind: given twice; leave one of them out$"):
        find_recipe("small", ["epochs=3", 'schedule.kind="linear"', 'schedule . kind = "cosine"'])


@pytest.mark.parametrize(("change", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_change_that_no_recipe_has_is_refused(change, message):
    with pytest.raises(BnasError, match=message):
        find_recipe("digits", [change])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", r"mine.toml: not TOML \(Invalid value"),
        ("epochs = 1\nepochs = 2", "mine.toml: not TOML"),
        ("epochs = " + "[" * 100_000, "mine.toml: nested too deeply"),
        (MINE.replace("epochs = 2", "epochs = 0"), r"recipe .*mine.toml: epochs: got 0, wanted a number of at least 1"),
        ("epochs = 2", "recipe .*mine.toml: batch_size: missing; give it in the file or by --set batch_size=VALUE"),
        ('like = "digit"', r"mine.toml: like: got 'digit', wanted a file \*.toml or one of .*; did you mean digits\?"),
        ("like = 3", "mine.toml: like: got 3, wanted a file"),
        ('like = "mine.toml"', "mine.toml: like: 'mine.toml' is like this file itself; name another recipe"),
        ('like = "gone.toml"', r"gone.toml: cannot be read: No such file or directory; expected the TOML file of a re"),
        (
            MINE.replace("epochs = 2", "epochs = 99999999999999999999"),
            "epochs: got 99999999999999999999, wanted an integer of 64 bits",
        ),
    ],
)
def test_a_file_with_a_mistake_is_refused(tmp_path, text, message):
    with pytest.raises(BnasError, match=message):
        find_recipe(mine(tmp_path, text))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"epochs = \xff")
    with pytest.raises(BnasError, match=r"mine\.toml: not text in UTF-8"):
        find_recipe(str(path))
    with pytest.raises(BnasError, match=r"\.toml: cannot be read: .*; expected the TOML file of a recipe"):
        find_recipe(f"{tmp_path}/.toml")


# ---- stages


def test_a_stage_has_what_is_other_than_in_the_last_one(tmp_path):
    text = 'like = "digits"\n[stages.one]\nepochs = 6\nlayers = "tanh"\nschedule = {kind = "linear"}\n[stages.two]\n'
    recipe = find_recipe(mine(tmp_path, text), ["stages.two.batch_size=7", "optimiser.weight_decay=0"])
    last = replace(RECIPES["digits"], optimiser=replace(RECIPES["digits"].optimiser, weight_decay=0.0))
    one = replace(last, name="one", epochs=6, layers="tanh", schedule=Linear())
    two = replace(last, name="two", batch_size=7)
    assert recipe == replace(last, name="mine", stages=(one, two))
    assert recipe.all_stages == (one, two, replace(last, name="last"))
    assert last.all_stages == (last,)


def test_stages_keep_their_lengths_to_each_other():
    recipe = RECIPES["multi-stage"].of_length(3, 8)
    assert [(stage.epochs, stage.batch_size) for stage in recipe.all_stages] == [(4, 8), (3, 8), (3, 8), (3, 8)]
    assert recipe.stages[1].schedule.after_epochs == pytest.approx((1.6, 2.4, 2.8))
    assert RECIPES["multi-stage"].of_length(1, None).stages[0].batch_size == 512
    assert RECIPES["multi-stage"].of_length(None, None) == RECIPES["multi-stage"]


def test_the_stages_are_those_of_the_papers():
    two, multi = RECIPES["two-stage"].all_stages, RECIPES["multi-stage"].all_stages
    assert [(each.layers, each.optimiser.weight_decay, each.weights_from_before) for each in two] == [
        ("float-weights", 1e-5, False),
        ("binary", 0, True),
    ]
    assert [each.layers for each in multi] == ["float", "tanh", "float-weights", "binary"]
    assert [(each.loss.attention, each.loss.distillation) for each in multi] == [(0, 0), (30, 3), (30, 3), (0, 0.8)]
    assert [each.weights_from_before for each in multi] == [False, False, False, True]
    assert [each.optimiser.learning_rate for each in multi] == [0.1, 1e-3, 1e-3, 2e-4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "stages.sign.epochs=1",
            r"--set stages.sign.epochs: no such stage; the stages are signs; did you mean signs\?",
        ),
        ("stages.signs.epochs=0", "recipe two-stage: stages.signs.epochs: got 0, wanted a number of at least 1"),
        ("stages.signs.epoch=1", r"stages.signs.epoch: unknown key; .*; did you mean epochs\?"),
        ("stages.signs.name=1", "stages.signs.name: unknown key; a stage has the keys of a recipe but name and stages"),
        ("stages.signs=1", "stages.signs: got 1, wanted a table of keys"),
        ("stages=1", "stages: got 1, wanted a table of stages"),
        ("stages={last={}}", "stages.last: the name of a stage has at most 40 letters, digits and dashes, .*'last'"),
        ('stages={"../x"={}}', "stages.../x: the name of a stage has at most 40 letters"),
        ('layers="bin"', r"layers: got 'bin', wanted one of binary, float-weights, tanh, float; did you mean binary\?"),
    ],
)
def test_a_stage_that_no_recipe_has_is_refused(change, message):
    with pytest.raises(BnasError, match=message):
        find_recipe("two-stage", [change])


def test_a_recipe_without_stages_says_so():
    with pytest.raises(BnasError, match=r"--set stages\.signs\.epochs: no such stage; this recipe has no stages"):
        find_recipe("digits", ["stages.signs.epochs=1"])


@pytest.mark.parametrize("field", ["epochs", "batch_size"])
def test_a_recipe_needs_epochs_and_images(field):
    with pytest.raises(BnasError, match=f"{field}: got 0, wanted a number of at least 1"):
        replace(RECIPES["digits"], **{field: 0})


DOCUMENT = Path(__file__).parents[3] / "docs/training.md"


def test_the_examples_of_the_documentation_are_recipes(tmp_path):
    blocks = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    recipes = [find_recipe(mine(tmp_path, block)) for block in blocks]
    assert [[stage.name for stage in recipe.all_stages] for recipe in recipes] == [["mine"], ["signs", "last"]]
    assert recipes[0].schedule == Cosine(warmup_epochs=2.0)
    assert (recipes[1].stages[0].loss.distillation, recipes[1].loss.distillation) == (0, 1)


def test_every_key_is_documented_and_no_recipe_that_is_gone():
    text = DOCUMENT.read_text(encoding="utf-8")
    for kind in (Recipe, Optimiser, Loss, Augmentation, ColourJitter, *SCHEDULES.values()):
        for field in fields(kind):
            assert re.search(rf"[`.]{field.name}[`.]", text), (kind, field.name)
    assert all(f'`"{name}"`' in text for name in (*SCHEDULES, *LAYERS))
    # `bnas-deploy recipes` lists all; the page need not, but it may not have one that is gone.
    table = text.partition("## Recipes")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) <= set(RECIPES)


def test_every_schedule_has_its_kind():
    assert {name: kind.__dataclass_fields__["kind"].default for name, kind in SCHEDULES.items()} == {
        name: name for name in SCHEDULES
    }
    assert asdict(Linear())["kind"] == "linear"  # and is compared when a run is resumed
