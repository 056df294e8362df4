"""One colour for each operation, the same in every picture, and one for each of several runs."""

_COLOURS = {
    "none": "#d1620f",  # the only one that stands out: Zeroise is what a searched cell is read for
    "max_pool_3x3": "#5fb56b",
    "avg_pool_3x3": "#b5dca0",
    "bin_dil_conv_3x3": "#b8a9e0",
    "bin_dil_conv_5x5": "#8f7ac9",
    "bin_conv_3x3": "#a6cbe8",
    "bin_conv_5x5": "#6ba3d6",
    "skip_connect": "#d8d8d8",
}

_FAMILIES = (("dil", "#e0b8d8"), ("conv", "#e8dca0"), ("", "#e4e4e4"))
"""For operations that are not above: the first of these that is part of the name."""

SKIP = "#c4161c"
_RUNS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of Okabe and Ito, which people who see fewer colours can tell apart."""

RUN_COLOURS = len(_RUNS)
"""How many runs have a colour of their own."""

LINE, TEXT = "#555555", "#111111"


def colour_of(operation: str) -> str:
    """Return the colour of an operation, `#rrggbb`; related operations outside BNAS's seven may share one."""
    return _COLOURS.get(operation) or next(colour for part, colour in _FAMILIES if part in operation)


def run_colour(number: int) -> str:
    """Return the colour of a run, `#rrggbb`, by its place from 0; the eighth has that of the first again."""
    return _RUNS[number % len(_RUNS)]
