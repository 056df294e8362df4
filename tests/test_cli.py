"""The command line as a whole."""

import subprocess
import sys

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
        "Error: init needs the package torch, which is not installed; run: pip install 'bnas-deploy[train]'\n"
    )


def test_another_missing_module_stays_a_traceback() -> None:
    assert "numpy" not in TRAINING_PACKAGES
    hidden = "import sys; sys.modules['numpy'] = None; from bnas_deploy.cli import main; main(['verify', 'x'])"
    run = subprocess.run([sys.executable, "-P", "-c", hidden], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in run.stderr
