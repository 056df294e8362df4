"""Networks as points: operations as the papers count them to the right, latency upwards, both on logarithmic scales."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnas_deploy.drawing.colours import LINE, run_colour
from bnas_deploy.report.network_list import NetworkRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NEAR = 0.03
"""Points nearer than this along both axes, in decades, share one label."""


def networks_figure(rows: Sequence[NetworkRow], title: str) -> "Figure":
    """Draw every measured network, its float twin and its int8 twin at the same place along the axis, joined by a line.

    A network with equal operations is as slow as another only where both spend them alike: that is what is seen. Points
    are numbered, and the names stand at the right: dozens of names between the points cannot be read.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    found = [(row, row.measured) for row in rows if row.measured is not None]
    for row, measured in found:
        times = [ms for ms in (measured.binary_ms, measured.int8_ms, measured.float_ms) if ms is not None]
        axes.plot([row.flops] * len(times), times, "-", color=LINE, alpha=0.3, linewidth=0.8, zorder=1)
    flops = [row.flops for row, _ in found]
    points = [(row.flops, each.binary_ms) for row, each in found]
    axes.plot(flops, [ms for _, ms in points], "o", color=run_colour(0), label="binary", zorder=3)
    int8 = [(row.flops, each.int8_ms) for row, each in found if each.int8_ms is not None]
    axes.plot([x for x, _ in int8], [y for _, y in int8], "x", color=run_colour(1), label="int8 twin", zorder=2)
    axes.plot(flops, [each.float_ms for _, each in found], "+", color=run_colour(2), label="float twin", zorder=2)
    for group in _groups(points):
        text = ", ".join(str(number + 1) for number in group)
        axes.annotate(text, points[group[0]], xytext=(4, -8), textcoords="offset points", fontsize=6)
    names = "\n".join(f"{number}  {row.network}" for number, (row, _) in enumerate(found, start=1))
    axes.annotate(names, (1.01, 1), xycoords="axes fraction", verticalalignment="top", fontsize=6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOPs as the papers count them: binary MACs / 64 + float MACs")
    axes.set_ylabel("latency of one image, ms")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="upper left")
    return figure


def _groups(points: Sequence[tuple[float, float]]) -> list[list[int]]:
    """Return the numbers of the points, those together that lie near the first of them."""
    groups: list[list[int]] = []
    for number, point in enumerate(points):
        near = (group for group in groups if _is_near(points[group[0]], point))
        group = next(near, None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    return groups


def _is_near(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(abs(math.log10(a / b)) < NEAR for a, b in zip(one, other, strict=True))
