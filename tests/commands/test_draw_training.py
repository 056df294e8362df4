"""`bnas-deploy draw` of training runs: what the lines of a picture are, and what is refused."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.core.run_metrics import EpochRecord, metrics_lines
from bnas_deploy.drawing.curves import curves_figure


def history(epochs: int, offset: float = 0.0) -> tuple[EpochRecord, ...]:
    """Epochs that have no figure in common."""
    fields = ("learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "changed_signs")
    epoch = EpochRecord(1, 0.0, 0.0, 0.0, 0.0, 0.0, duration_s=1.0, waiting_share=0.25)
    return tuple(
        replace(epoch, epoch=i, **{name: offset + i + part / 8 for part, name in enumerate(fields)})
        for i in range(1, epochs + 1)
    )


def draw(*words: object) -> Result:
    return CliRunner().invoke(main, ["draw", *map(str, words)])


def test_each_figure_is_a_line_of_its_panel() -> None:
    runs = {"one": history(3), "two": history(2, offset=10)}
    panels = curves_figure(runs, "title").axes
    assert [axes.get_title() for axes in panels] == [
        "Accuracy",
        "Loss",
        "Learning rate of the last step",
        "Binary weights that changed sign, share",
    ]
    fields = [("train_accuracy", "test_accuracy"), ("train_loss", "test_loss"), ("learning_rate",), ("changed_signs",)]
    for axes, names in zip(panels, fields, strict=True):
        wanted = [[getattr(epoch, name) for epoch in run] for run in runs.values() for name in names]
        assert [np.asarray(line.get_ydata()).tolist() for line in axes.lines] == wanted
        assert {tuple(np.asarray(line.get_xdata()).tolist()) for line in axes.lines} == {(1, 2, 3), (1, 2)}
        # Training is dashed, and a run has one colour in every panel.
        styles = ["--" if name.startswith("train") else "-" for _ in runs for name in names]
        assert [line.get_linestyle() for line in axes.lines] == styles
        colours = [line.get_color() for line in axes.lines]
        assert colours == [colour for colour in ("#0072b2", "#d55e00") for _ in names]


def test_what_was_not_measured_is_left_out() -> None:
    first, *rest = history(3)
    runs = {"binary": (replace(first, changed_signs=None), *rest), "float": tuple(
        replace(epoch, changed_signs=None) for epoch in history(3)
    )}  # fmt: skip
    signs = curves_figure(runs, "title").axes[3]
    assert [np.asarray(line.get_xdata()).tolist() for line in signs.lines] == [[2, 3]]


def test_one_run_and_several(tmp_path: Path) -> None:
    for name in ("a", "b $x$"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_bytes(metrics_lines(history(4)))
    for words in ((tmp_path / "a",), (tmp_path / "a", tmp_path / "b $x$")):
        result = draw(*words, "-o", tmp_path / "curves.svg")
        assert (result.exit_code, result.output) == (0, f"{tmp_path / 'curves.svg'}: written\n")
        written = (tmp_path / "curves.svg").read_text()
        texts = [
            "".join(each.itertext()).strip() for each in ElementTree.fromstring(written).iter() if "text" in each.tag
        ]
        assert {str(word) for word in words} <= set(texts)
        assert draw(*words, "-o", tmp_path / "curves.svg").exit_code == 0
        assert (tmp_path / "curves.svg").read_text() == written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("run", "cifar"),
            "cifar: not the folder of a training run; only several training runs, or several "
            "searches for widths, are drawn together; draw it alone",
        ),
        (
            ("empty",),
            "empty: no history.json of a search and no metrics.jsonl of a training run in it; give the folder",
        ),
        (("bad",), r"bad/metrics.jsonl: line 1: .*; copy it again, or resume the run"),
        ((), "Missing argument"),
    ],
)
def test_other_sources_are_refused(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("run", metrics_lines(history(1))), ("bad", b"{}")):
        Path(name).mkdir()
        (Path(name) / "metrics.jsonl").write_bytes(text)
    Path("empty").mkdir()
    result = draw(*words, "-o", "curves.svg")
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), "a traceback"
    assert re.search(message, result.output)
    assert not Path("curves.svg").exists()
