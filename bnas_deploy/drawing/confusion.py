"""A confusion matrix as a picture: a row for each right class, a column for each predicted one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.drawing.colours import TEXT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bnas_deploy.evaluation.evaluate import Evaluation

MOST_COUNTS = 30
"""Classes up to which every cell has its number, and every class its name."""

INCHES_PER_CLASS = 0.38
MARGIN_INCHES = 2.4
LARGEST_INCHES = MARGIN_INCHES + MOST_COUNTS * INCHES_PER_CLASS
LONGEST_NAME = 24


def evaluation_figure(result: "Evaluation") -> "Figure":
    """Draw the confusion matrix of the first engine of an evaluation."""
    engine, figures = next(iter(result.figures.items()))
    return confusion_figure(figures.confusion, result.labels, f"{result.network} on {result.data}, {engine}")


def confusion_figure(confusion: NDArray[np.int64], labels: Sequence[str], title: str) -> "Figure":
    """Draw counts (right class, predicted class); the colour is the share of the images of the right class."""
    from matplotlib.figure import Figure

    classes = len(labels)
    side = max(5.0, min(MARGIN_INCHES + classes * INCHES_PER_CLASS, LARGEST_INCHES))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, parse_math=False)
    images = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shares = confusion / images
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axes, shrink=0.6, label="share of the class's images")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("right class")
    step = -(-classes // MOST_COUNTS)  # of many classes every so many-th is named
    ticks = range(0, classes, step)
    names = [_short(labels[i]) for i in ticks]
    axes.set_xticks(ticks, names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(ticks, names, fontsize=8, parse_math=False)
    if classes <= MOST_COUNTS:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                colour = "white" if shares[row, column] > 0.5 else TEXT
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=7, color=colour)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
