"""A data set is a module that opens it and a row in the table: a new one goes through every command that takes data."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data import open_data
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.data.kinds import DATA_KINDS, FOLDER, DataKind, SearchDefaults, TrainingDefaults, kind_of


def open_own(folder: Path) -> InMemoryDataSet:
    """Return images of two classes, dark and bright, as many as the file in the folder says."""
    try:
        count = int((folder / "count.txt").read_text())
    except OSError as error:
        raise DataError(f"{folder}: no count.txt in it ({error.strerror}); expected own data") from None
    labels = torch.arange(count) % 2
    pixels = (labels * 255).to(torch.uint8)[:, None, None, None].expand(count, 1, 8, 8).contiguous()
    description = DataDescription("own data", ("dark", "bright"), 1, (8, 8), (0.5,), (0.5,))
    return InMemoryDataSet(description, Images(pixels, labels), Images(pixels, labels))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Register the data set, and return a folder of it."""
    module = ModuleType("own_data")
    module.open_own = open_own  # type: ignore[attr-defined]  # a module has whatever is put into it
    monkeypatch.setitem(sys.modules, "own_data", module)
    row = DataKind(
        "own",
        opener="own_data:open_own",
        summary="made up",
        training=TrainingDefaults(network="BNAS-Mini", recipe="digits"),
        search=SearchDefaults(cells=3, channels=4, recipe="digits"),
    )
    monkeypatch.setitem(DATA_KINDS, "own", row)
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "count.txt").write_text("4")
    return folder


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def test_it_is_trained_with_its_defaults_and_exported(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("train", "--data", f"OWN:{own}", "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "own data: 4 training and 4 test images of 8x8, grey, 2 classes" in result.output
    best = tmp_path / "runs" / "BNAS-Mini-own" / "best.safetensors"  # its defaults: the network, and the folder's name
    assert best.exists()
    refused = run("export", best, "-o", tmp_path / "bundle", "--data", "digits")
    assert refused.exit_code == 1
    assert "give the data that it was trained on" in refused.output


def test_it_is_searched_with_its_defaults(own: Path, tmp_path: Path) -> None:
    result = run("search", "--data", f"own:{own}", "--epochs", 1, "--batch-size", 2, "-o", tmp_path / "search")
    assert result.exit_code == 0, result.output
    assert "Finished after 1 epoch;" in result.output


@pytest.mark.parametrize("command", ["train", "search"])
@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        ("own", (), "data 'own' without its folder; give own:FOLDER"),
        ("own:", (), "data 'own' without its folder; give own:FOLDER"),
        ("own:/none", (), "/none: no such folder; expected the folder of the data set own"),
        ("own:{tests}", (), "no count.txt in it (No such file or directory); expected own data"),
        (
            "own:{own}",
            ("--image-size", "8"),
            "--image-size, --in-channels and --skip-bad are for image files; leave them out",
        ),
        ("owm:/x", (), "hf:NAME_OR_FOLDER, own:FOLDER; did you mean own?"),
    ],
)
def test_its_errors_are_sentences(command: str, data: str, more: tuple[str, ...], message: str, own: Path) -> None:
    result = run(command, "--data", data.format(own=own, tests=Path(__file__).parent), *more)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize("command", ["train", "search"])
@pytest.mark.parametrize("data", ["svhn:/x", "SVHN", "", ":", "digits:/x"])
def test_what_no_row_has_is_refused(command: str, data: str) -> None:
    result = run(command, "--data", data)
    assert result.exit_code == 1
    assert f"unknown data {data!r}; expected one of digits, cifar10:FOLDER" in result.output


@pytest.mark.parametrize("data", ["DIGITS", "Digits"])
def test_a_kind_is_found_in_any_case(data: str) -> None:
    assert kind_of(data) is DATA_KINDS["digits"]
    assert open_data(data).description.name == "digits"


@pytest.mark.parametrize("kind", DATA_KINDS.values(), ids=lambda kind: kind.name)
def test_every_row_has_an_opener(kind: DataKind, tmp_path: Path) -> None:
    if kind.takes:
        with pytest.raises(DataError):
            kind.open(tmp_path if kind.takes == FOLDER else str(tmp_path))
    else:
        assert kind.open().train_size > 0
