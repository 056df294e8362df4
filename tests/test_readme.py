"""What README.md shows is run: its Python as it stands, and every command line as far as its options."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch

from bnas_deploy.cli import main
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.export import Images, export_checkpoint
from bnas_deploy.search.models.bnas.config import NETWORKS, NetworkConfig, published_config
from bnas_deploy.search.training.untrained import untrained_checkpoint

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


PAGES = [README, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))]


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as quickstart leaves it, with a smaller network."""
    small = NetworkConfig("small", 3, 4, "cifar", GENOTYPES["cifar"], classes=10, in_channels=1, image_size=(8, 8))
    checkpoint = replace(untrained_checkpoint(small, seed=0), labels=tuple("0123456789"))
    path = tmp_path_factory.mktemp("readme")
    export_checkpoint(checkpoint, path / "quickstart" / "digits-bundle", Images(torch.zeros(4, 1, 8, 8)))
    return path


@pytest.mark.parametrize(
    "code", [code for page in PAGES for code in blocks("python", page)], ids=lambda code: code.splitlines()[0]
)
def test_python_runs(
    code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(compile(code, "a page", "exec"), {})
    printed = capsys.readouterr().out
    assert ("print(" in code) == bool(printed)


COMMANDS = [
    line.strip()
    for page in PAGES
    for block in blocks("sh", page)
    for line in re.findall(r"bnas-deploy [a-z][^#`&|\n]*", block.replace("\\\n", " "))
    if "$" not in line  # a variable of the shell
]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_parse(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = main.commands[name]
    command.make_context(name, arguments, resilient_parsing=False)
    assert isinstance(command, click.Command)


def advice() -> list[str]:
    """Commands that messages, help texts, comments and pages name, with the options that follow at once."""
    sources = [path for part in ("bnas_deploy", "search", "export", "runtime") for path in (ROOT / part).rglob("*.py")]
    text = "\n".join([*PAGES, *(path.read_text(encoding="utf-8") for path in sources)])
    return sorted(set(re.findall(r"(?:`|run: |&& )bnas-deploy ([a-z][a-z-]*(?: --?[a-z][a-z-]*)*)", text)))


@pytest.mark.parametrize("words", advice())
def test_what_is_advised_exists(words: str) -> None:
    name, *options = words.split()
    assert name in main.commands
    known = {option for parameter in main.commands[name].params for option in parameter.opts}
    assert set(options) <= known | {"--help"}


def test_the_table_of_networks_is_right() -> None:
    from bnas_deploy.core.layer_cost import total
    from bnas_deploy.search.models.layer_costs import layer_costs

    rows = re.findall(
        r"^\| (BNAS-[\w-]+) \| (\d+)x\d+ \| (\d+), (\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|", README, re.M
    )
    assert [row[0] for row in rows] == list(NETWORKS)
    for name, side, cells, channels, *counts in rows:
        config = published_config(name)
        costs = total(layer_costs(config))
        assert (config.image_size[0], config.cells, config.channels) == (int(side), int(cells), int(channels))
        figures = (costs.binary_weights, round(costs.binary_macs / 1e6), round(costs.float_macs / 1e6))
        assert tuple(int(count.replace(",", "")) for count in counts) == figures
