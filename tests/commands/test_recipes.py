"""Recipes on the command line: what is listed, shown, chosen and changed."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.search.models.bnas.config import NETWORKS
from bnas_deploy.search.training.checkpoint import load_checkpoint, read_tensors
from bnas_deploy.search.training.recipes import RECIPES, recipe_file

QUICK = ("--epochs", "1", "--batch-size", "1438", "--set", "optimiser.momentum=0.9")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_table_has_every_recipe() -> None:
    result = invoke("recipes")
    assert result.exit_code == 0, result.output
    for name, recipe in RECIPES.items():
        (line,) = (line for line in result.output.splitlines() if line.split()[:1] == [name])
        epochs = {"two-stage": "128 + 128", "multi-stage": "100 + 75 + 75 + 75"}.get(name, recipe.epochs)
        words = f"{epochs} {recipe.batch_size} {recipe.optimiser.kind} {recipe.optimiser.learning_rate:g}"
        assert f"{recipe.summary} {words} {recipe.schedule.kind}" in " ".join(line.split())
    assert "Show one with `bnas-deploy recipes NAME`." in result.output


def test_a_recipe_is_shown_as_it_is() -> None:
    result = invoke("recipes", "Cifar-Standard")
    assert result.stdout == recipe_file("cifar-standard").read_text(encoding="utf-8")
    assert "# paper, section 6.1" in result.stdout
    assert result.stderr == ""


def test_an_old_name_is_told_on_the_error_output() -> None:
    result = invoke("recipes", "cifar")
    assert result.stdout == recipe_file("cifar-standard").read_text(encoding="utf-8")
    told = "The recipe cifar is now called cifar-standard; `bnas-deploy recipes cifar-standard` shows it.\n"
    assert result.stderr == told


def test_what_is_no_recipe_is_refused(tmp_path: Path) -> None:
    result = invoke("recipes", "digit")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: unknown recipe 'digit'; the recipes are" in result.stderr
    (tmp_path / "mine.toml").write_text('like = "digits"\nepoch = 3\n')
    result = invoke("recipes", tmp_path / "mine.toml")
    assert "mine.toml: epoch: unknown key" in result.stderr
    result = invoke("train", "--recipe", "imagnet", "-o", tmp_path / "run")
    assert "did you mean imagenet?" in result.stderr
    assert not (tmp_path / "run").exists()


def test_no_framework_is_needed() -> None:
    code = (
        "import sys; from bnas_deploy.cli import main; main(['recipes', 'digits'], standalone_mode=False); "
        "print({'torch', 'PIL', 'sklearn', 'safetensors'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "set()\n")


def test_a_run_takes_a_file_and_changes_of_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('like = "digits"\nepochs = 4\n')
    options = ("--recipe", mine, *QUICK, "--set", "loss.label_smoothing=0.2", "-o", tmp_path / "run")
    result = invoke("train", *options)
    assert result.exit_code == 0, result.output
    settings = read_tensors(tmp_path / "run" / "resume.safetensors", "bnas_deploy_run")[1]["settings"]["recipe"]
    assert (settings["epochs"], settings["batch_size"], settings["loss"]["label_smoothing"]) == (1, 1438, 0.2)
    assert (settings["optimiser"]["momentum"], settings["schedule"]["start_divisor"]) == (0.9, 20)
    result = invoke("train", "--recipe", mine, *QUICK, "-o", tmp_path / "run", "--resume")
    assert re.search(r"recipe\.loss\.label_smoothing \(0\.2 before, 0\.0 now\)", result.output)
    assert invoke("train", *options, "--resume").exit_code == 0


def test_every_stage_has_its_row_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "BNAS-Mini", replace(NETWORKS["BNAS-Mini"], cells=3, channels=4))
    folder = tmp_path / "run"
    no_crop = ("--set", "augmentation.crop_area=false")
    options = ("train", "--recipe", "two-stage", "--epochs", 1, "--batch-size", 256, *no_crop, "-o", folder)
    result = invoke(*options)
    assert result.exit_code == 0, result.output
    assert "Stage 1 of 2, signs: signs of activations, float weights; 1 epoch\n" in result.output
    table = result.output.partition("\nStages\n")[2].splitlines()
    last = f"{read_accuracy(folder / 'last.safetensors'):.2%}"
    assert table[0].split() == ["stage", "layers", "epochs", "training", "test", "best", "test"]
    assert table[2].startswith("signs  signs of activations, float weights")
    assert table[3].startswith("last   binary, as the network has them")
    assert table[3].split()[-2:] == [last, last]
    again = invoke(*options, "--resume")
    assert again.exit_code == 0, again.output
    assert again.output.partition("\nStages\n")[2].startswith(result.output.partition("\nStages\n")[2])
    assert "Nothing was left to do. To train it longer: --from " in again.output


def read_accuracy(path: Path) -> float:
    share = load_checkpoint(path).metrics["test_accuracy"]
    assert isinstance(share, float)
    return share


@pytest.mark.parametrize("change", ["optimiser.lerning_rate=1", "epochs=0"])
def test_a_change_that_no_recipe_has_begins_nothing(tmp_path: Path, change: str) -> None:
    result = invoke("train", "--set", change, "-o", tmp_path / "run")
    assert result.exit_code == 1
    assert f"Error: recipe digits: {change.partition('=')[0]}: " in result.stderr
    assert not (tmp_path / "run").exists()
