"""The model card of a run: what it says, that what it says can be run, and whose text it never replaces."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from bnas_deploy.cli import main
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.core.model_card import CARD, plain
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bnas_deploy.search.training.checks import TrainError
from bnas_deploy.search.training.fine_tuning import start_from
from bnas_deploy.search.training.recipes import RECIPES, Augmentation
from bnas_deploy.search.training.stages import train_in_stages
from bnas_deploy.search.training.train import train
from bnas_deploy.search.training.training_record import StageRecord, TrainingRecord

CONFIG = NetworkConfig(
    "tiny", 3, 4, "cifar", GENOTYPES["imagenet"], classes=3, in_channels=1, image_size=(8, 8), scheme="xnor-net-plus"
)
RECIPE = replace(RECIPES["digits"], epochs=2, batch_size=8, augmentation=Augmentation())


def make_data(name: str = "rows", labels: tuple[str, ...] = ("a", "b", "c")) -> InMemoryDataSet:
    random = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(256, (24, 1, 8, 8), generator=random, dtype=torch.uint8), torch.arange(24) % len(labels)
    )
    data = InMemoryDataSet(DataDescription(name, labels, 1, (8, 8), (0.4,), (0.3,)), images, images)
    data.named = "idx:FOLDER"
    return data


def entries(card: str) -> dict[str, Any]:
    """Return the front matter; every value is JSON on one line."""
    _, lines, _ = card.split("---\n", 2)
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in lines.splitlines())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    train(make_data().limited(12), CONFIG, RECIPE, path, class_weights=(1.0, 2.0, 0.5), seed=7, command="the command")
    return path


@pytest.fixture(scope="module")
def card(folder: Path) -> str:
    return (folder / CARD).read_text()


@pytest.mark.parametrize(
    "said",
    [
        "# tiny, trained on rows, limited to 12\n",
        "* tiny: 3 cells, 4 channels, cifar stem\n* scheme xnor-net-plus\n* weights: ",
        "```text\nnormal cell\n  node 2 = bin_conv_3x3(1) + bin_dil_conv_3x3(0)\n",
        "* rows, limited to 12: 12 training and 12 test images\n* images of 8x8, grey\n* normalisation: pixels scaled "
        "to 0..1, then mean 0.4, standard deviation 0.3\n* 3 classes: a, b, c\n",
        "* limited to 12 training and test images, the first of each class\n",
        "* class weights of the loss: 1, 2, 0.5\n",
        "* recipe: digits; `bnas-deploy recipes digits` shows the source of each number\n* seed: 7\n"
        "* arithmetic: float32\n",
        "| epochs | 2 |\n| batch\\_size | 8 |\n",
        "| optimiser.learning\\_rate | 0.1 |\n",
        "```sh\nthe command\n```\n",
        "2 of 2 epochs are done.",
        "```sh\nbnas-deploy eval best.safetensors --data idx:FOLDER --limit 12\n```\n",
        "Whoever publishes this folder chooses it",
    ],
)
def test_it_says(said: str, card: str) -> None:
    assert said in card


def test_it_has_the_figures_of_both_checkpoints(folder: Path, card: str) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        metrics = load_checkpoint(folder / name).metrics
        row = f"| `{name}` | {metrics['epoch']} | {metrics['test_accuracy']:.2%} | {metrics['test_loss']:.4f} |\n"
        assert row in card


def test_front_matter(folder: Path, card: str) -> None:
    accuracy = load_checkpoint(folder / "best.safetensors").metrics["test_accuracy"]
    dataset = {"type": "idx", "name": "rows, limited to 12"}
    metric = {"type": "accuracy", "name": "test accuracy", "value": round(accuracy, 4)}
    result = {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": [metric]}
    assert entries(card) == {
        "library_name": "bnas-deploy",
        "pipeline_tag": "image-classification",
        "tags": ["binary-neural-network", "safetensors"],
        "metrics": ["accuracy"],
        "model-index": [{"name": "tiny", "results": [result]}],
    }


@pytest.mark.parametrize(("named", "hub"), [("cifar10:FOLDER", "uoft-cs/cifar10"), ("hf:a/b", "a/b")])
def test_a_data_set_of_the_hub_is_named(named: str, hub: str, tmp_path: Path) -> None:
    data = make_data()
    data.named = named
    train(data, CONFIG, replace(RECIPE, epochs=1), tmp_path)
    found = entries((tmp_path / CARD).read_text())
    assert found["datasets"] == [hub]
    assert found["model-index"][0]["results"][0]["dataset"] == {"type": hub, "name": "rows"}


def test_what_it_shows_can_be_run(
    folder: Path, card: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (python,) = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    exec(compile(python, "card", "exec"), {})
    assert capsys.readouterr().out == "('a', 'b', 'c')\n"
    lines = re.findall(r"^bnas-deploy .*", card, re.MULTILINE)
    assert [line.split()[1] for line in lines] == ["eval", "export", "verify", "bench"]
    for line in lines:
        _, name, *arguments = shlex.split(line)
        main.commands[name].make_context(name, arguments)


def test_a_float_network_is_not_called_binary(tmp_path: Path) -> None:
    train(make_data(), CONFIG.float_twin(), replace(RECIPE, epochs=1), tmp_path)
    card = (tmp_path / CARD).read_text()
    assert entries(card)["tags"] == ["safetensors"]
    assert "* weights: 0 of 1 bit, " in card
    assert "bnas-deploy export" not in card.replace("`bnas-deploy export`", "")


def test_data_of_python_has_no_command(tmp_path: Path) -> None:
    data = make_data()
    data.named = None
    train(data, CONFIG, replace(RECIPE, epochs=1), tmp_path)
    card = (tmp_path / CARD).read_text()
    assert "bnas-deploy eval" not in card
    assert "To train it again" not in card
    assert entries(card)["model-index"][0]["results"][0]["dataset"]["type"] == "other"


def test_text_of_users_has_no_effect(tmp_path: Path) -> None:
    labels = ("a|b\n# c", "`d`\n---\n", "<img src=x>")
    train(make_data('x: "y"\n---\n# z', labels), CONFIG, replace(RECIPE, epochs=1), tmp_path, command="a\n```\nb")
    card = (tmp_path / CARD).read_text()
    assert entries(card)["model-index"][0]["results"][0]["dataset"]["name"] == 'x: "y"\n---\n# z'
    assert r"* 3 classes: a\|b \# c, \`d\` ---, \<img src=x\>" in card
    assert "````sh\na\n```\nb\n````\n" in card
    headings = re.findall(r"^#+ .*", card, re.MULTILINE)
    assert headings[0] == r'# tiny, trained on x: "y" --- \# z'
    assert headings[1:] == ["## Network", "## Data", "## Training", "## Figures", "## How to use it", "## bnas-deploy",
                            "## Licence"]  # fmt: skip


def test_every_stage_has_a_card(tmp_path: Path) -> None:
    first = replace(RECIPE, name="signs", layers="float-weights", epochs=1)
    recipe = replace(RECIPE, name="mine", epochs=1, stages=(first,))
    config = replace(CONFIG, scheme="xnor-net")
    train_in_stages(make_data(), config, recipe, tmp_path)
    stages = [f"* stage {number} of 2, {name}: " for number, name in ((1, "signs"), (2, "last"))]
    for place, this in ((tmp_path / "stages" / "1-signs", 0), (tmp_path, 1)):
        lines = (place / CARD).read_text().splitlines()
        assert "* recipe: mine" in lines
        told = [line for line in lines if line.startswith("* stage ")]
        assert [line.startswith(stage) for line, stage in zip(told, stages, strict=True)] == [True, True]
        assert [line.endswith(", 1 epoch (this one)") for line in told] == [this == 0, this == 1]


def test_where_weights_came_from_is_told(folder: Path, tmp_path: Path) -> None:
    data = make_data()
    start = start_from(load_checkpoint(folder / "best.safetensors"), data.description)
    train(data, start.network, replace(RECIPE, epochs=1), tmp_path, start=start)
    assert f"* begun with the weights of {plain(start.source)}\n" in (tmp_path / CARD).read_text()


# ---- whose it is


@pytest.mark.parametrize("stages", [(), (replace(RECIPE, name="one", layers="float"),)], ids=["one", "two"])
def test_a_readme_that_is_there_is_left_alone_and_nothing_is_begun(stages: tuple[Any, ...], tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("a thesis")
    message = (
        r"README.md: not written by bnas-deploy, or changed since, .*: move it away, or choose another output folder"
    )
    with pytest.raises(TrainError, match=message):
        train_in_stages(make_data(), CONFIG, replace(RECIPE, stages=stages), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [CARD]
    with pytest.raises(TrainError, match=message):
        train(make_data(), CONFIG, RECIPE, tmp_path)


def test_a_changed_card_stays_when_the_run_goes_on(tmp_path: Path) -> None:
    train(make_data(), CONFIG, RECIPE, tmp_path, stop=(tmp_path / CARD).exists)  # from the second epoch on
    mine = (tmp_path / CARD).read_text().replace("---\n", "---\nlicense: mit\n", 1)
    assert "1 of 2 epochs are done." in mine
    (tmp_path / CARD).write_text(mine)
    assert train(make_data(), CONFIG, RECIPE, tmp_path, resume=True).finished
    assert (tmp_path / CARD).read_text() == mine


# ---- what a checkpoint keeps


def test_a_checkpoint_keeps_how_it_was_trained(folder: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(folder / "last.safetensors")
    record = checkpoint.training
    assert record is not None
    assert (record.recipe, record.seed, record.train_images, record.test_images) == ("digits", 7, 12, 12)
    assert (record.data_options, record.class_weights) == ("--data idx:FOLDER --limit 12", (1.0, 2.0, 0.5))
    assert record.numbers["epochs"] == 2
    staged = TrainingRecord(
        "mine", {"a": {"b": [1]}}, 0, 1, 1, None, None, None, (StageRecord("x", "tanh", 3),), 0, None
    )
    save_checkpoint(tmp_path / "a.safetensors", replace(checkpoint, training=staged))
    assert load_checkpoint(tmp_path / "a.safetensors").training == staged
    assert staged.data_options is None


def test_a_checkpoint_without_is_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnas_deploy.search.training import checkpoint as module

    written = module.write_tensors

    def as_before(path: Path, tensors: Any, key: str, description: Any) -> None:
        written(path, tensors, key, {name: value for name, value in description.items() if name != "training"})

    monkeypatch.setattr(module, "write_tensors", as_before)
    checkpoint: Checkpoint = load_checkpoint(folder / "last.safetensors")
    save_checkpoint(tmp_path / "old.safetensors", checkpoint)
    assert load_checkpoint(tmp_path / "old.safetensors").training is None


def test_the_command_line_of_a_card_names_no_folder(tmp_path: Path) -> None:
    options = ["--cells", "3", "--channels", "2", "--epochs", "1", "--limit", "20", "--out", str(tmp_path / "run")]
    recipe = tmp_path / "my recipe.toml"
    recipe.write_text('like = "digits"\n')
    given = ["train", *options, "--recipe", str(recipe), "--set", "optimiser.learning_rate=0.05", "--device", "cpu"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    card = (tmp_path / "run" / CARD).read_text()
    assert (
        "\nbnas-deploy train --limit 20 --network BNAS-Mini --cells 3 --channels 2 --recipe 'my recipe.toml' "
        "--set optimiser.learning_rate=0.05 --epochs 1 --data digits\n"
    ) in card
    assert "* recipe: my recipe\n" in card
    assert str(tmp_path) not in card
    options = ["--from", str(tmp_path / "run"), "--epochs", "1", "--limit", "20", "--out", str(tmp_path / "tuned")]
    result = CliRunner().invoke(main, ["train", *options])
    assert result.exit_code == 0, result.output
    card = (tmp_path / "tuned" / CARD).read_text()
    assert "\nbnas-deploy train --limit 20 --from run --recipe digits --epochs 1 --data digits\n" in card
    assert str(tmp_path) not in card
