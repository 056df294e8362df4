"""Both cells of a genotype as one picture.

Laid out like a circuit, so that no two things can lie on top of each other. Every state has a row and a column of its
own: the two inputs first, then the nodes. What feeds a node stands left of it in its row, in boxes; a wire goes down
from its source and then right to the box. A dot is where wires are joined; without a dot they only cross.

    c_{k-2}
      |     c_{k-1} ------------- skip ------------+
      |       |                                    |
      o-------|-[ bin_conv_3x3 ]--( 2 )------------|
              o-[ none ]----------   |             + -> c_k
                                     o-[ ... ]-(3)-|
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnas_deploy.core.genotype import INNER_NODES, INPUT_NODES, ZEROISE, Cell, Edge, Genotype
from bnas_deploy.drawing.colours import LINE, SKIP, TEXT, colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]

COLUMN, ROW = 3.1, 1.25
"""Distances between neighbouring states: a column has room for the box of the longest operation, a row for two."""

BOX_WIDTH, BOX_HEIGHT = 2.2, 0.4
STATE_RADIUS = 0.24
EDGE_OFFSET = 0.27
"""How far above and below the middle of its row a node's two edges run."""

INCHES = 0.6
"""Size of one unit of a layout: boxes and letters of 7 points fit each other."""

INPUT_NAMES = ("$c_{k-2}$", "$c_{k-1}$")

ZEROISE_LABEL = "none (Zeroise)"


@dataclass(frozen=True)
class State:
    """An input or a node, and where its middle is."""

    number: int
    at: Point


@dataclass(frozen=True)
class Operation:
    """A box around `at`, and the wires: down from the source, right to the box, and from the box to the node."""

    edge: Edge
    stride: int
    at: Point
    drop: tuple[Point, Point]
    wire: tuple[Point, Point]
    out: tuple[Point, Point]

    @property
    def label(self) -> str:
        """Return the operation, and the stride where it is not 1."""
        if self.edge.operation == ZEROISE:
            return ZEROISE_LABEL
        return self.edge.operation if self.stride == 1 else f"{self.edge.operation}, s{self.stride}"


@dataclass(frozen=True)
class Layout:
    """Where everything of a cell is; y grows upwards. The outputs of the nodes end at `sum_x`."""

    states: tuple[State, ...]
    operations: tuple[Operation, ...]
    sum_x: float

    @property
    def height(self) -> float:
        """Return the height of what is drawn."""
        return ROW * len(self.states)

    @property
    def width(self) -> float:
        """Return the width of what is drawn."""
        return self.sum_x + COLUMN


def layout(cell: Cell, *, reduction: bool) -> Layout:
    """Place the states and operations of `cell`."""
    states = tuple(State(i, (_column(i), -ROW * i)) for i in range(INPUT_NODES + INNER_NODES))
    operations = tuple(
        operation
        for node in states[INPUT_NODES:]
        for operation in _operations(cell.inputs_of(node.number), node, states, reduction=reduction)
    )
    return Layout(states, operations, _column(len(states) - 1) + COLUMN / 2)


def _column(state: int) -> float:
    """Return the x of a state. The second input stands near the first, because no box has to fit between them."""
    return 0.0 if state == 0 else COLUMN * (state - 1) + 0.7


def _operations(edges: tuple[Edge, ...], node: State, states: tuple[State, ...], *, reduction: bool) -> list[Operation]:
    """Place the operations of a node, the one with the nearer source on top, so that their wires do not cross."""
    x, y = node.at[0] - STATE_RADIUS - 0.28 - BOX_WIDTH / 2, node.at[1]
    placed = []
    for edge, offset in zip(sorted(edges, key=lambda edge: -edge.source), (EDGE_OFFSET, -EDGE_OFFSET), strict=True):
        source, level = states[edge.source].at, y + offset
        joint = source[0], level
        stride = 2 if reduction and edge.source < INPUT_NODES else 1
        placed.append(
            Operation(
                edge,
                stride,
                at=(x, level),
                drop=((source[0], source[1] - STATE_RADIUS), joint),
                wire=(joint, (x - BOX_WIDTH / 2, level)),
                out=((x + BOX_WIDTH / 2, level), (node.at[0] - 0.16, y + offset / 2)),
            )
        )
    return placed


def genotype_figure(genotype: Genotype, title: str, *, skip: bool = True) -> "Figure":
    """Draw both cells, the normal one above, each with the skip past it unless told otherwise."""
    from matplotlib.figure import Figure

    cells = [
        ("Normal cell", layout(genotype.normal, reduction=False), False),
        ("Reduction cell", layout(genotype.reduction, reduction=True), True),
    ]
    width, height = cells[0][1].width, sum(placed.height for _, placed, _ in cells)
    figure = Figure(figsize=(INCHES * width, INCHES * height + 1), layout="constrained")
    figure.suptitle(title)
    for axes, (name, placed, reduction) in zip(figure.subplots(len(cells), 1), cells, strict=True):
        axes.set_title(name, fontsize=11)
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set_xlim(-0.8, placed.width - 0.4)
        axes.set_ylim(-ROW * (len(placed.states) - 1) - 0.75, 0.5)
        _draw_operations(axes, placed)
        _draw_states(axes, placed)
        output_at = _draw_output(axes, placed)
        if skip:
            _draw_skip(axes, placed, output_at, reduction=reduction)
    return figure


def _draw_operations(axes: "Axes", placed: Layout) -> None:
    from matplotlib.patches import FancyBboxPatch

    for operation in placed.operations:
        zero = operation.edge.operation == ZEROISE
        style = "--" if zero else "-"
        colour = colour_of(ZEROISE) if zero else LINE
        axes.plot(*zip(*operation.drop, strict=True), color=LINE, linewidth=1.1, zorder=1)  # others may share it
        for wire in (operation.wire, operation.out):
            axes.plot(*zip(*wire, strict=True), color=colour, linestyle=style, linewidth=1.1, zorder=1)
        axes.plot(*operation.wire[0], marker="o", markersize=3.5, color=LINE, zorder=2)
        (x, y), face = operation.at, colour_of(operation.edge.operation)
        axes.add_patch(
            FancyBboxPatch(
                (x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2),
                BOX_WIDTH,
                BOX_HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.09",
                facecolor="white" if zero else face,
                edgecolor=colour,
                linestyle=style,
                zorder=3,
            )
        )
        axes.text(x, y, operation.label, ha="center", va="center", fontsize=7, color=colour if zero else TEXT, zorder=4)


def _draw_states(axes: "Axes", placed: Layout) -> None:
    from matplotlib.patches import Circle

    for state in placed.states:
        axes.add_patch(Circle(state.at, STATE_RADIUS, facecolor="white", edgecolor=LINE, zorder=3))
        name = INPUT_NAMES[state.number] if state.number < INPUT_NODES else str(state.number)
        axes.text(*state.at, name, ha="center", va="center", fontsize=8, color=TEXT, zorder=4)


def _draw_output(axes: "Axes", placed: Layout) -> Point:
    """Draw the nodes' way to the concatenation and on to the output; return where a skip would be added."""
    nodes, x = placed.states[INPUT_NODES:], placed.sum_x
    top, bottom = nodes[0].at[1] + 0.35, nodes[-1].at[1] - 0.35
    for node in nodes:
        start = node.at[0] + STATE_RADIUS, node.at[1]
        axes.plot(*zip(start, (x, node.at[1]), strict=True), color=LINE, linewidth=1.1, zorder=1)
    axes.plot((x, x), (top, bottom), color=LINE, linewidth=5, solid_capstyle="butt", zorder=2)
    axes.text(x, bottom - 0.1, "concatenate", ha="center", va="top", fontsize=7, color=TEXT)
    middle = (top + bottom) / 2
    plus = x + 0.6, middle
    axes.plot((x, plus[0] + 0.55), (middle, middle), color=LINE, linewidth=1.1, zorder=1)
    axes.text(plus[0] + 0.6, middle, "$c_k$", ha="left", va="center", fontsize=9, color=TEXT)
    return plus


def _draw_skip(axes: "Axes", placed: Layout, plus: Point, *, reduction: bool) -> None:
    """Draw the skip from the second input to the sum at `plus`."""
    previous = placed.states[INPUT_NODES - 1].at
    corner = plus[0], previous[1]
    skip = (previous[0] + STATE_RADIUS, previous[1]), corner, (plus[0], plus[1] + 0.17)
    axes.plot(*zip(*skip, strict=True), color=SKIP, linewidth=1.6, zorder=1)
    label = "skip (float 2x2 convolution, s2)" if reduction else "skip"
    axes.text((previous[0] + corner[0]) / 2, corner[1] + 0.09, label, ha="center", fontsize=7, color=SKIP)
    axes.plot(*plus, marker="o", markersize=11, markerfacecolor="white", markeredgecolor=SKIP, zorder=3)
    axes.text(*plus, "+", ha="center", va="center", fontsize=9, color=SKIP, zorder=4)
