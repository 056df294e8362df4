"""Histograms of the activations in front of each sign, a small one for each layer."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bnas_deploy.drawing.colours import SKIP, run_colour
from bnas_deploy.evaluation.activations import BINS, LARGEST, Activations

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 8
WIDTH_INCHES, HEIGHT_INCHES = 1.7, 1.35
TITLE_INCHES = 0.7
"""Of one histogram, and of what is above all of them."""


def activations_figure(layers: Sequence[Activations], title: str) -> "Figure":
    """Draw the distribution for each layer in the order of the network; a red line is at 0, where the sign changes."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(layers))
    rows = math.ceil(len(layers) / columns)
    size = (max(columns * WIDTH_INCHES, 5.0), rows * HEIGHT_INCHES + TITLE_INCHES)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flat
    for axes, layer in zip(panels, layers, strict=False):
        _draw(axes, layer)
    for axes in list(panels)[len(layers) :]:
        axes.set_visible(False)
    return figure


def _draw(axes: "Axes", layer: Activations) -> None:
    edges = np.linspace(-LARGEST, LARGEST, BINS + 1)
    axes.stairs(layer.counts / layer.counts.sum(), edges, fill=True, color=run_colour(0))
    axes.axvline(0, color=SKIP, linewidth=0.8)
    axes.set_title(layer.layer, fontsize=6, parse_math=False)
    axes.text(
        *(0.03, 0.95),
        f"+1: {layer.positive:.0%}\n±1: {layer.passing:.0%}",
        transform=axes.transAxes,
        va="top",
        fontsize=5.5,
    )
    axes.set_yticks([])
    axes.tick_params(labelsize=6)
