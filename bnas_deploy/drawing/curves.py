"""How training went, epoch by epoch, of one run or of several on top of each other."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bnas_deploy.drawing.colours import TEXT, run_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bnas_deploy.core.run_metrics import EpochRecord

Runs = Mapping[str, "Sequence[EpochRecord]"]
"""What each run measured, by the name that the picture gives it."""

Figures = Callable[["EpochRecord"], float | None]

# Any, because matplotlib's types want literals.
TEST_LINE: Any = "-"
TRAINING_LINE: Any = "--"


def curves_figure(runs: Runs, title: str) -> "Figure":
    """Draw accuracy and loss, test against training, the learning rate, and the share of signs that changed.

    Each run has a colour. What a run did not measure is left out.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    figure.suptitle(title, parse_math=False)
    (accuracy, loss), (rate, signs) = figure.subplots(2, 2, sharex=True)
    for number, history in enumerate(runs.values()):
        colour = run_colour(number)
        _line(accuracy, history, lambda epoch: epoch.train_accuracy, TRAINING_LINE, colour)
        _line(accuracy, history, lambda epoch: epoch.test_accuracy, TEST_LINE, colour)
        _line(loss, history, lambda epoch: epoch.train_loss, TRAINING_LINE, colour)
        _line(loss, history, lambda epoch: epoch.test_loss, TEST_LINE, colour)
        _line(rate, history, lambda epoch: epoch.learning_rate, TEST_LINE, colour)
        _line(signs, history, lambda epoch: epoch.changed_signs, TEST_LINE, colour)
    for axes, name in (
        (accuracy, "Accuracy"),
        (loss, "Loss"),
        (rate, "Learning rate of the last step"),
        (signs, "Binary weights that changed sign, share"),
    ):
        _finish(axes, name)
    for axes in (rate, signs):
        axes.set_xlabel("epoch")
    styles = [Line2D([], [], color=TEXT, linestyle=style) for style in (TEST_LINE, TRAINING_LINE)]
    accuracy.legend(styles, ["test", "training"], fontsize=8)
    if len(runs) > 1:
        lines = [Line2D([], [], color=run_colour(number), linewidth=2) for number in range(len(runs))]
        legend = figure.legend(lines, list(runs), loc="outside lower center", fontsize=8, ncols=2)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _line(axes: "Axes", history: "Sequence[EpochRecord]", value: Figures, style: Any, colour: str) -> None:
    points = [(epoch.epoch, figure) for epoch in history if (figure := value(epoch)) is not None]
    if points:
        # Of few epochs each is seen; of many the points would hide the line.
        marker = "." if len(points) <= 40 else ""
        axes.plot(*zip(*points, strict=True), style, color=colour, marker=marker, linewidth=1.4)


def _finish(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
