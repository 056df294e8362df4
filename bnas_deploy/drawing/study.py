"""The pictures of a study, one function for each kind; what moves is in `moving_gradients`."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bnas_deploy.drawing.colours import LINE, SKIP, run_colour
from bnas_deploy.studies.results import RowResult, StudyResult
from bnas_deploy.studies.study import Measure, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4  # of small pictures side by side
_NAMES_SIZE = 8


def bars_figure(result: StudyResult) -> "Figure":
    """Draw the first measure of every row, from the least to the largest seed, and the paper's figure."""
    from matplotlib.figure import Figure

    measure = result.study.measures[0]
    rows = [row for row in result.rows if row.spread(measure)]
    figure = Figure(figsize=(8, 1.4 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        spread = row.spread(measure)
        assert spread is not None
        mean, least, most = (measure.shown(each) for each in (spread.mean, spread.least, spread.most))
        axes.barh(place, mean, color=run_colour(5 if row.row.is_float else 0), alpha=0.75, height=0.7)
        axes.plot([least, most], [place, place], color=LINE, linewidth=2)
        axes.plot([measure.shown(each) for each in row.values(measure)], [place] * spread.seeds, ".", color=LINE)
    printed = [(row.row.printed[measure.key].value, i) for i, row in enumerate(rows) if measure.key in row.row.printed]
    if printed:
        axes.plot(*zip(*printed, strict=True), "D", markerfacecolor="none", color=SKIP, label="paper")
        axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    axes.set_yticks(range(len(rows)), [row.row.name for row in rows], fontsize=_NAMES_SIZE)
    axes.invert_yaxis()
    axes.set_xlabel(_axis(measure))
    axes.grid(axis="x", alpha=0.3)
    return figure


def curves_figure(result: StudyResult) -> "Figure":
    """Draw test and training accuracy of every row in a picture of its own, a thin line for each seed."""

    def draw(axes: "Axes", row: RowResult) -> None:
        for trial in row.results:
            for name, style, colour in (("train_accuracy", "--", 1), ("test_accuracy", "-", 0)):
                values = [100 * each for each in trial.series.get(name, ())]
                axes.plot(range(1, len(values) + 1), values, style, color=run_colour(colour), linewidth=1)
        axes.set_ylim(0, 102)

    return _small_pictures(result, draw, "accuracy, %: test (line) and training (dashed), by epoch", "test_accuracy")


def learnable_figure(result: StudyResult) -> "Figure":
    """Draw the share of the edges whose most probable operation has weights, as means over seeds."""
    return _lines(
        result, "learnable_share", "edges whose most probable operation has weights, %", "epoch of the search"
    )


def search_error_figure(result: StudyResult) -> "Figure":
    """Draw the training error of the searches for widths: Figure 3 of DMS."""
    return _lines(result, "search_error", "training error, %", "passes that train weights")


def trade_figure(result: StudyResult) -> "Figure":
    """Draw accuracy against memory, a point for each row with its spread."""
    from matplotlib.figure import Figure

    accuracy, memory = result.study.measures[0], result.study.measures[-1]
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(result.rows):
        height, place = row.spread(accuracy), row.spread(memory)
        if height and place:
            x = memory.shown(place.mean)
            axes.plot([x, x], [100 * height.least, 100 * height.most], color=run_colour(number), linewidth=2)
            axes.plot(x, 100 * height.mean, "o", color=run_colour(number), label=row.row.name)
    axes.set_xscale("log")
    axes.set_xlabel(f"memory, {memory.title}")
    axes.set_ylabel(_axis(accuracy))
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)
    return figure


def channels_figure(result: StudyResult) -> "Figure":
    """Draw the channels that each search found, beside the base: Figure 4 of DMS. They are of the first seed."""

    def draw(axes: "Axes", row: RowResult) -> None:
        trial = row.results[0]
        searched, _, base = trial.frames["channels"]
        for shift, channels, colour in ((-0.2, searched, run_colour(0)), (0.2, base, LINE)):
            axes.bar([i + shift for i in range(len(channels))], channels, width=0.38, color=colour)
        axes.set_xticks(range(len(searched)), trial.labels["channels"], rotation=90, fontsize=6)

    return _small_pictures(result, draw, "channels: searched (coloured) and base (grey)", "channels")


def errors_figure(result: StudyResult) -> "Figure":
    """Draw the relative error of every layer; above the red line Zeroise would have the smaller error."""

    def draw(axes: "Axes", row: RowResult) -> None:
        trial = row.results[0]
        plain, with_k = trial.frames["errors"]
        for shift, errors, colour in ((-0.2, plain, run_colour(0)), (0.2, with_k, run_colour(5))):
            axes.bar([i + shift for i in range(len(errors))], errors, width=0.38, color=colour)
        axes.axhline(1, color=SKIP, linewidth=1)
        axes.set_xlabel("layer", fontsize=7)

    return _small_pictures(result, draw, "relative error: dark without K, light with K; 1 is that of Zeroise", "errors")


FIGURES: dict[Picture, Callable[[StudyResult], "Figure"]] = {
    Picture.BARS: bars_figure,
    Picture.CURVES: curves_figure,
    Picture.LEARNABLE: learnable_figure,
    Picture.WIDTHS: channels_figure,
    Picture.SEARCH_ERROR: search_error_figure,
    Picture.TRADE: trade_figure,
    Picture.ERRORS: errors_figure,
}
"""What draws each kind, but for the one that moves."""


def _small_pictures(result: StudyResult, draw: Callable[["Axes", RowResult], None], title: str, needs: str) -> "Figure":
    """Draw a small picture for each row that has the series or the rows `needs`."""
    from matplotlib.figure import Figure

    rows = [row for row in result.rows if any(needs in {**each.series, **each.frames} for each in row.results)]
    columns = min(_COLUMNS, max(1, len(rows)))
    lines = max(1, math.ceil(len(rows) / columns))
    figure = Figure(figsize=(max(5.0, 2.5 * columns), 0.5 + 1.9 * lines), layout="constrained")
    figure.suptitle(title, fontsize=9)
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes, row in zip(panels, rows, strict=False):
        draw(axes, row)
        axes.set_title(row.row.name, fontsize=_NAMES_SIZE, parse_math=False)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    for axes in list(panels)[len(rows) :]:
        axes.set_visible(False)
    return figure


def _lines(result: StudyResult, series: str, what: str, along: str) -> "Figure":
    """Draw a line for each row that has a series: its mean over seeds, between the least and the largest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    # Rows that share their search have the same line, which is drawn once.
    drawn: set[tuple[Sequence[float], ...]] = set()
    for row in result.rows:
        seeds = tuple(each.series[series] for each in row.results if series in each.series)
        if not seeds or seeds in drawn:
            continue
        drawn.add(seeds)
        columns = [[100 * value for value in column] for column in zip(*seeds, strict=False)]
        places = range(1, len(columns) + 1)
        colour = run_colour(len(drawn) - 1)
        axes.fill_between(
            places, [min(each) for each in columns], [max(each) for each in columns], color=colour, alpha=0.15
        )
        axes.plot(places, [sum(each) / len(each) for each in columns], ".-", color=colour, label=row.row.name)
    axes.set_xlabel(along)
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)
    legend: Any = axes.legend(fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _axis(measure: Measure) -> str:
    return f"{measure.title}, {measure.unit}" if measure.unit else measure.title
