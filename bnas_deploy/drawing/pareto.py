"""Searches as points: latency to the right, accuracy upwards."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnas_deploy.drawing.colours import LINE, SKIP
from bnas_deploy.report.pareto import Candidate, front

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pareto_figure(candidates: Sequence[Candidate], title: str) -> "Figure":
    """Draw every candidate, and the front as steps; measured latencies are circles beside the predicted crosses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    best = front(candidates)
    axes.step(
        [each.predicted_ms for each in best],
        [100 * each.merit for each in best],
        where="post",
        color=SKIP,
        label="front",
        zorder=1,
    )
    predicted = [each.predicted_ms for each in candidates]
    accuracies = [100 * each.merit for each in candidates]
    axes.plot(predicted, accuracies, "x", color=LINE, label="predicted", zorder=3)
    measured = [each for each in candidates if each.measured_ms is not None]
    if measured:
        axes.plot(
            [each.measured_ms or 0.0 for each in measured],
            [100 * each.merit for each in measured],
            "o",
            markerfacecolor="none",
            color=LINE,
            label="measured",
            zorder=2,
        )
    for each in candidates:
        axes.annotate(
            each.run, (each.predicted_ms, 100 * each.merit), xytext=(5, 5), textcoords="offset points", fontsize=7
        )
    axes.set_xlabel("latency, ms")
    trained = any(each.trained_accuracy is not None for each in candidates)
    axes.set_ylabel(f"validation accuracy {'after training' if trained else 'of the supernet'}, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
