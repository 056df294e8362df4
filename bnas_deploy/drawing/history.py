"""What a search did, epoch by epoch, as one picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnas_deploy.drawing.colours import LINE, colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bnas_deploy.core.history import History, Table


def mean_probabilities(tables: "Sequence[Table]", operation: int) -> list[float]:
    """Return the mean over the edges of the probability of an operation (a column), for each epoch's table."""
    return [sum(row[operation] for row in table) / len(table) for table in tables]


def history_figure(history: "History", title: str) -> "Figure":
    """Draw the probabilities of the operations in both cells, entropy, learnable operations, and accuracies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8.4), layout="constrained")
    figure.suptitle(title)
    (normal, reduction), (entropy, share), (accuracy, loss) = figure.subplots(3, 2)
    epochs = [each.epoch for each in history.epochs]
    for axes, name in ((normal, "normal"), (reduction, "reduction")):
        tables = [getattr(each.probabilities, name) for each in history.epochs]
        _draw_operations(axes, epochs, history.operations, tables)
        axes.set_title(f"{name.capitalize()} cell: mean probability of each operation", fontsize=10)
    reduction.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7)
    _draw_lines(entropy, epochs, {"": [each.entropy for each in history.epochs]})
    entropy.set_title("Entropy of an edge (natural logarithm), mean", fontsize=10)
    _draw_lines(
        share,
        epochs,
        {
            "most probable": [each.learnable_share for each in history.epochs],
            "mean probability": [each.learnable_probability for each in history.epochs],
        },
    )
    share.set_title("Operations with weights: share of the edges", fontsize=10)
    share.set_ylim(-0.03, 1.03)
    _draw_lines(
        accuracy,
        epochs,
        {
            "training half": [each.train_accuracy for each in history.epochs],
            "held-out half": [each.validation_accuracy for each in history.epochs],
        },
    )
    accuracy.set_title("Accuracy of the supernet", fontsize=10)
    terms = dict.fromkeys(name for each in history.epochs for name in each.terms)
    _draw_lines(
        loss,
        epochs,
        {
            "objective of the alphas": [each.architecture_loss for each in history.epochs],
            **{name: [each.terms.get(name, 0.0) for each in history.epochs] for name in terms},
        },
    )
    loss.set_title("Objective, and the terms in it", fontsize=10)
    for axes in (accuracy, loss):
        axes.set_xlabel("epoch")
    return figure


def _draw_operations(axes: "Axes", epochs: Sequence[int], operations: Sequence[str], tables: "Sequence[Table]") -> None:
    for i, name in enumerate(operations):
        values = mean_probabilities(tables, i)
        style = "--" if name == "none" else "-"
        axes.plot(epochs, values, style, marker=".", color=colour_of(name), label=name, linewidth=1.8)
    _whole_epochs(axes)


def _draw_lines(axes: "Axes", epochs: Sequence[int], lines: dict[str, list[float]]) -> None:
    for style, (name, values) in zip(("-", "--", ":", "-."), lines.items(), strict=False):
        axes.plot(epochs, values, style, marker=".", color=LINE, label=name)
    if len(lines) > 1:
        axes.legend(fontsize=7)
    _whole_epochs(axes)


def _whole_epochs(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
