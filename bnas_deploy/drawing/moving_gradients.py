"""Gradient magnitudes, layer by layer, as an SVG that moves from epoch to epoch: comb_grads of BNAS v2 (Table 11).

Each row of the study has a picture, each layer a bar. The bars are animated by SVG itself (SMIL), so that a page shows
the file as any other image. Where nothing moves, as on paper, the last epoch is seen.
"""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from bnas_deploy.drawing.colours import LINE, TEXT, run_colour
from bnas_deploy.studies.results import RowResult, StudyResult, TrialResult

WIDTH, HEIGHT = 360, 150
"""Of the picture of a row, in SVG's units."""

MARGIN, TITLE = 12, 26
SECONDS = 0.8
"""Of an epoch."""


def moving_gradients(result: StudyResult) -> str:
    """Return the SVG: of each row the first seed that was finished."""
    shown = [(row, trial) for row in result.rows if (trial := _first(row))]
    height = len(shown) * (HEIGHT + TITLE + MARGIN) + MARGIN
    width = WIDTH + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="10">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (row, trial) in enumerate(shown):
        top = MARGIN + number * (HEIGHT + TITLE + MARGIN)
        parts += [f'<g transform="translate({MARGIN} {top})">', *_panel(row.row.name, trial, number), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _first(row: RowResult) -> TrialResult | None:
    return next((each for each in row.results if each.frames.get("gradients")), None)


def _panel(name: str, trial: TrialResult, number: int) -> list[str]:
    """Return the picture of a row: its name, the epoch, and the bars; the highest of all epochs fills the height."""
    frames, epochs = trial.frames["gradients"], trial.series["gradient_epochs"]
    highest = max(max(frame, default=0.0) for frame in frames) or 1.0
    layers = len(trial.labels["gradients"])
    step = WIDTH / max(1, layers)
    parts = [
        f'<text x="0" y="12" fill="{TEXT}">{escape(name)}: sum of |gradient| of each convolution, up to '
        f"{highest:.3g}</text>",
        *_epochs(epochs),
        f'<line x1="0" y1="{TITLE + HEIGHT}" x2="{WIDTH}" y2="{TITLE + HEIGHT}" stroke="{LINE}"/>',
    ]
    for layer in range(layers):
        heights = [HEIGHT * frame[layer] / highest for frame in frames]
        tops = [TITLE + HEIGHT - each for each in heights]
        parts.append(
            f'<rect x="{layer * step:.2f}" width="{max(0.5, 0.8 * step):.2f}" y="{tops[-1]:.2f}" '
            f'height="{heights[-1]:.2f}" fill="{run_colour(number)}">'
            f"{_animated('y', tops)}{_animated('height', heights)}</rect>"
        )
    return parts


def _epochs(epochs: Sequence[float]) -> list[str]:
    """Return the number of the epoch, each number seen while it is drawn."""
    parts = []
    for number, epoch in enumerate(epochs):
        seen = ["1" if i == number else "0" for i in range(len(epochs))]
        opacity = "1" if number == len(epochs) - 1 else "0"
        parts.append(
            f'<text x="{WIDTH}" y="12" text-anchor="end" fill="{TEXT}" opacity="{opacity}">epoch {epoch:.0f}'
            f"{_animation('opacity', seen)}</text>"
        )
    return parts


def _animated(attribute: str, values: Sequence[float]) -> str:
    return _animation(attribute, [f"{value:.2f}" for value in values])


def _animation(attribute: str, values: Sequence[str]) -> str:
    if len(values) < 2:
        return ""
    return (
        f'<animate attributeName="{attribute}" values="{";".join(values)}" dur="{SECONDS * len(values):.1f}s" '
        'calcMode="discrete" repeatCount="indefinite"/>'
    )
