"""How a search for widths went, and the channels that it found: Figures 3 and 4 of DMS."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnas_deploy.core.width_history import WEIGHTS, WidthHistory
from bnas_deploy.drawing.colours import LINE, RUN_COLOURS, run_colour
from bnas_deploy.drawing.pictures import FORMATS, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 12  # lines of mu; of more widths none is named, since no reader could tell them apart


def channels_figure(history: WidthHistory, title: str) -> "Figure":
    """Draw the channels of every layer: searched, of the base, and of one ratio for the same cost (Figure 4)."""
    from matplotlib.figure import Figure

    heading, last = history.heading, history.epochs[-1]
    figure = Figure(figsize=(max(6.0, 0.55 * len(heading.names) + 2), 4.2), layout="constrained")
    axes = figure.subplots()
    bars = {
        f"searched: {last.cost:.4g} {heading.unit}": last.widths,
        f"one ratio, the same {heading.goal}": heading.uniform,
        "base": heading.base,
    }
    for number, (name, channels) in enumerate(bars.items()):
        places = [place + (number - 1) * 0.27 for place in range(len(channels))]
        axes.bar(places, channels, width=0.25, label=name, color=LINE if name == "base" else run_colour(number))
    axes.set_xticks(range(len(heading.names)), heading.names, rotation=45, ha="right", fontsize=8)
    axes.set_ylabel("channels")
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def width_history_figure(history: WidthHistory, title: str) -> "Figure":
    """Draw error, loss, ratios and cost, pass by pass."""
    from matplotlib.figure import Figure

    heading = history.heading
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    figure.suptitle(title, parse_math=False)
    (error, loss), (ratios, cost) = figure.subplots(2, 2, sharex=True)
    for axes, field in ((error, "error"), (loss, "loss")):
        for trained, name, style in ((True, "training half", "-"), (False, "held-out half, while mu is trained", "o")):
            chosen = [each for each in history.epochs if (each.trained == WEIGHTS) == trained]
            axes.plot([each.epoch for each in chosen], [getattr(each, field) for each in chosen], style, label=name,
                      color=run_colour(not trained), markersize=3)  # fmt: skip
    error.legend(fontsize=8)
    epochs = [each.epoch for each in history.epochs]
    for number, name in enumerate(heading.names):
        label = name if len(heading.names) <= _NAMED else None
        style = ("-", "--", ":")[number // RUN_COLOURS % 3]
        ratios.plot(epochs, [each.mu[number] for each in history.epochs], style, color=run_colour(number), label=label)
    if len(heading.names) <= _NAMED:
        ratios.legend(fontsize=7, ncols=2)
    cost.plot(epochs, [each.cost for each in history.epochs], color=run_colour(0), label="of the ratios")
    cost.plot(epochs, [each.expected_cost for each in history.epochs], "--", color=run_colour(0), label="expected")
    cost.axhline(heading.target, color=LINE, label="target")
    cost.legend(fontsize=8)
    for axes, name in (
        (error, "Share of wrong answers"),
        (loss, "Cross-entropy"),
        (ratios, "mu, the ratio of each width"),
        (cost, f"{heading.goal.capitalize()}, {heading.unit}"),
    ):
        _finish(axes, name)
    return figure


def training_error_figure(histories: Mapping[str, WidthHistory], title: str) -> "Figure":
    """Draw the training error of several searches on top of each other, such as with and without best effort."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, history) in enumerate(histories.items()):
        passes = [each for each in history.epochs if each.trained == WEIGHTS]
        counted = range(1, len(passes) + 1)
        axes.plot(counted, [each.error for each in passes], color=run_colour(number), label=name)
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    _finish(axes, title)
    axes.set_xlabel("passes that train weights")
    axes.set_ylabel("training error")
    return figure


def _finish(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)


def draw_width_search(folder: Path, history: WidthHistory) -> None:
    """Write channels and history to `folder`, as SVG and PNG.

    Raises:
        BnasError: a file cannot be written.
    """
    for name, figure in (
        ("channels", channels_figure(history, str(folder))),
        ("history", width_history_figure(history, str(folder))),
    ):
        for ending in FORMATS:
            save_picture(figure, folder / f"{name}{ending}")
