"""Rows of bars as SVG: groups of rows, a bar for each engine or report in a row, numbers at their ends.

Text is set in a monospaced font, whose width is known without a browser, so nothing overlaps and nothing is cut off.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

FONT_SIZE = 12
LETTER = 7.3
"""Width of a letter of FONT_SIZE: monospaced fonts have 0.55 to 0.61 of their size."""
LINE = 18
BAR, BAR_STEP = 11, 13
ROW_GAP, GROUP_GAP = 7, 12
LONGEST_LABEL = 46
"""Letters; what is longer is shortened in its middle and is whole in the tool tip."""
LONGEST_KEY = 100
"""The same for the names of the legend, which have a line to themselves."""
BARS_WIDTH = 380
GAP = 8


@dataclass(frozen=True)
class Part:
    """A piece of a bar: the name that its colour goes by in the legend, and its length."""

    name: str
    length: float


@dataclass(frozen=True)
class Bar:
    """Pieces end to end, and the text behind them."""

    parts: tuple[Part, ...]
    text: str


@dataclass(frozen=True)
class BarRow:
    """A label and its bars, the first at the top."""

    label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class BarGroup:
    """Rows that belong together; a title of nothing takes no line."""

    title: str
    rows: tuple[BarRow, ...]


def picture(title: str, groups: Iterable[BarGroup], names: Sequence[str]) -> Element:
    """Draw `groups` on one scale. `names` are those of the parts, in the order of their colours and of the legend."""
    groups = [group for group in groups if group.rows]
    rows = [row for group in groups for row in group.rows]
    bars = [bar for row in rows for bar in row.bars]
    left = GAP + LETTER * max((len(_shortened(row.label)) for row in rows), default=0)
    longest = max((_length(bar) for bar in bars), default=0)
    scale = BARS_WIDTH / longest if longest else 0.0
    texts = LETTER * max((len(bar.text) for bar in bars), default=0)
    width = max(left + GAP + BARS_WIDTH + GAP + texts, *(_key_width(name) for name in names), 0)
    svg = Element("svg", {"class": "bars", "role": "img"})
    _text_of(SubElement(svg, "title"), title)
    y = _legend(svg, names, width)
    for group in groups:
        if group.title:
            y += LINE
            _text(svg, 0, y - 4, group.title, "group")
        for row in group.rows:
            y = _row(svg, row, left, y, scale, names)
        y += GROUP_GAP
    svg.set("viewBox", f"0 0 {width:.0f} {y:.0f}")
    svg.set("style", f"width: {width:.0f}px")
    return svg


def _row(svg: Element, row: BarRow, left: float, y: float, scale: float, names: Sequence[str]) -> float:
    """Draw one row below `y` and return where it ends."""
    height = BAR_STEP * len(row.bars)
    label = _text(svg, left - GAP, y + height / 2 + 4, _shortened(row.label), "label")
    if _shortened(row.label) != row.label:
        _text_of(SubElement(label, "title"), row.label)
    for i, bar in enumerate(row.bars):
        x, top = left, y + i * BAR_STEP
        for part in bar.parts:
            length = part.length * scale
            if length > 0:
                place = {"x": f"{x:.1f}", "y": f"{top:.1f}", "width": f"{length:.1f}", "height": str(BAR)}
                SubElement(svg, "rect", {"class": _colour(part.name, names), **place})
            x += length
        _text(svg, x + GAP / 2, top + BAR - 1, bar.text, "figure")
    return y + height + ROW_GAP


def _legend(svg: Element, names: Sequence[str], width: float) -> float:
    """Draw the names behind squares in their colours, in as many lines as it takes; return where they end."""
    x, y = 0.0, 0.0
    for name in names:
        taken = _key_width(name)
        if x and x + taken > width:
            x, y = 0.0, y + LINE
        place = {"x": f"{x:.1f}", "y": f"{y + 2:.1f}", "width": str(BAR), "height": str(BAR)}
        SubElement(svg, "rect", {"class": _colour(name, names), **place})
        _text(svg, x + BAR + GAP / 2, y + BAR + 1, _shortened(name, LONGEST_KEY), "key")
        x += taken
    return y + LINE + GAP


def _key_width(name: str) -> float:
    return 2 * GAP + BAR + LETTER * len(_shortened(name, LONGEST_KEY))


def _colour(name: str, names: Sequence[str]) -> str:
    return f"colour{names.index(name) % COLOURS}"


COLOURS = 6
"""So many the page has; more bars in a row than this repeat them."""


def _length(bar: Bar) -> float:
    return sum(part.length for part in bar.parts)


def _shortened(text: str, longest: int = LONGEST_LABEL) -> str:
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[: longest - 1 - half]}…{text[-half:]}"


def _text(svg: Element, x: float, y: float, text: str, kind: str) -> Element:
    return _text_of(SubElement(svg, "text", {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}"}), text)


def _text_of(element: Element, text: str) -> Element:
    element.text = text
    return element
