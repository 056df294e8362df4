"""Networks as points: operations as the papers count them to the right, latency upwards, both on logarithmic scales."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnas_deploy.drawing.colours import LINE, run_colour
from bnas_deploy.report.network_list import NetworkRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def networks_figure(rows: Sequence[NetworkRow], title: str) -> "Figure":
    """Draw every measured network, its float twin and its int8 twin at the same place along the axis, joined by a line.

    A network with equal operations is as slow as another only where both spend them alike: that is what is seen.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    found = [(row, row.measured) for row in rows if row.measured is not None]
    for row, measured in found:
        times = [ms for ms in (measured.binary_ms, measured.int8_ms, measured.float_ms) if ms is not None]
        axes.plot([row.flops] * len(times), times, "-", color=LINE, alpha=0.3, linewidth=0.8, zorder=1)
        axes.annotate(
            row.network, (row.flops, measured.binary_ms), xytext=(4, -8), textcoords="offset points", fontsize=6
        )
    flops = [row.flops for row, _ in found]
    axes.plot(flops, [each.binary_ms for _, each in found], "o", color=run_colour(0), label="binary", zorder=3)
    int8 = [(row.flops, each.int8_ms) for row, each in found if each.int8_ms is not None]
    axes.plot([x for x, _ in int8], [y for _, y in int8], "x", color=run_colour(1), label="int8 twin", zorder=2)
    axes.plot(flops, [each.float_ms for _, each in found], "+", color=run_colour(2), label="float twin", zorder=2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOPs as the papers count them: binary MACs / 64 + float MACs")
    axes.set_ylabel("latency of one image, ms")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return figure
