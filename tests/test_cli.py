"""The command line as a whole."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bnas_deploy.cli import TRAINING_PACKAGES, main


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: main {name} ")


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["exprot"])
    assert result.exit_code == 2
    assert "No such command 'exprot'" in result.output


def test_a_command_without_its_packages_says_what_to_install() -> None:
    # A plain install has none of these; hiding one from the import system comes to the same.
    hidden = "import sys; sys.modules['torch'] = None; from bnas_deploy.cli import main; main(['init', '-o', 'x'])"
    run = subprocess.run([sys.executable, "-P", "-c", hidden], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == (
        "Error: init needs the package torch, which is not installed; run pip install '.[train]' in a clone of "
        "bnas-deploy, or pip install 'FILE.whl[train]' with its wheel\n"
    )


def test_another_missing_module_stays_a_traceback() -> None:
    assert "numpy" not in TRAINING_PACKAGES
    hidden = "import sys; sys.modules['numpy'] = None; from bnas_deploy.cli import main; main(['verify', 'x'])"
    run = subprocess.run([sys.executable, "-P", "-c", hidden], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in run.stderr


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_ends_alike_when_it_is_interrupted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    command = main.commands[name]
    for parameter in command.params:
        monkeypatch.setattr(parameter, "required", False)
    monkeypatch.setattr(command, "callback", interrupted)
    result = CliRunner().invoke(main, [name])
    assert result.exit_code == 130
    assert result.output == "\nStopped. Files that were finished are kept, the others are as they were.\n"


def test_ctrl_c_while_measuring() -> None:
    # From within, so that the signal comes while the command is at work, however fast the machine is.
    code = """
import os, signal
from bnas_deploy.cli import main
from bnas_deploy.runtime.bench import layers
layers.measure_layers = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)
main(["bench", "--layers"])
"""
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 130
    assert run.stderr == ("... batch 1\n\nStopped. Files that were finished are kept, the others are as they were.\n")


TOO_LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        f"inspect {TOO_LONG}",
        f"eval {TOO_LONG} --data digits",
        f"eval {TOO_LONG} --data digits --device cpu",
        f"predict {TOO_LONG} image.png",
        f"draw {TOO_LONG} -o cells.svg",
        f"draw {TOO_LONG} {TOO_LONG} -o curves.svg",
        f"verify {TOO_LONG}",
        f"report {TOO_LONG}",
        f"recipes {TOO_LONG}.toml",
        f"train --data idx:{TOO_LONG}",
        f"train --genotype {TOO_LONG}",
    ],
)
def test_a_name_that_is_too_long_is_a_sentence(words: str) -> None:
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith(f"Error: {TOO_LONG}")
    assert done.stderr.count("\n") == 1


def test_letters_that_the_output_lacks_are_escaped(tmp_path: Path) -> None:
    name = str(tmp_path / "二値.so")
    result = CliRunner(charset="cp1252").invoke(main, ["ops-library", "-o", name])
    assert result.exit_code == 0, result.output
    assert "\\u4e8c\\u5024.so" in result.output
    assert Path(name).is_file()
