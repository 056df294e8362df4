"""Every figure of memory and operations that the papers print of a network that can be built here.

Tests count each of them by its rule. docs/counting.md has the table of what came out.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bnas_deploy.core.counting.rules import Count, Rule
from bnas_deploy.core.genotype import GENOTYPES

MEMORY_SAVING, SPEED_UP, FLOPS, MEGABYTES, FLOAT_MEGABYTES = (
    "memory saving",
    "speed-up",
    "1e8 FLOPs",
    "MB",
    "MB of the float network",
)
RATIOS = (MEMORY_SAVING, SPEED_UP)
"""The figures that depend on the float network, too."""

FIGURES: Mapping[str, Callable[[Rule, Count], float | None]] = {
    MEMORY_SAVING: lambda rule, count: count.memory_saving,
    SPEED_UP: lambda rule, count: count.speed_up,
    FLOPS: lambda rule, count: None if count.operations is None else count.operations / 1e8,
    MEGABYTES: lambda rule, count: None if count.bits is None else rule.megabytes(count.bits),
    FLOAT_MEGABYTES: lambda rule, count: None if count.float_bits is None else rule.megabytes(count.float_bits),
}
"""How each kind of figure is made of a count."""


@dataclass(frozen=True)
class Printed:
    """A figure as it stands in a table.

    Attributes:
        table: the paper and the number of the table.
        row: what the paper calls the network.
        figure: which one, of `FIGURES`.
        text: as printed, with its digits.
        rule: by which it is counted here.
        network: the one that can be built, a name of `--network`.
        options: settings of it, by keyword.
        against: settings of the network whose float twin it is compared with, where that is not its own.
        why: what is known of a difference; empty where nothing is, or where there is none.
    """

    table: str
    row: str
    figure: str
    text: str
    rule: str
    network: str
    options: Mapping[str, Any] = field(default_factory=dict)
    against: Mapping[str, Any] | None = None
    why: str = ""

    def agrees(self, here: float) -> bool:
        """Tell whether a number is the printed one, rounded to its digits."""
        return self.rounded(here) == self.text

    def rounded(self, here: float) -> str:
        """Return a number with as many decimals as the printed one has."""
        return f"{here:.{len(self.text.partition('.')[2])}f}"

    def difference(self, here: float) -> float:
        """Return how much more it is than printed, as a share of the printed one."""
        return here / float(self.text) - 1


_ZEROISE_LEFT_OUT = {"genotype": GENOTYPES["imagenet"]}
"""BNAS-A without Zeroise: the cells of the ImageNet networks, which have none, at its size."""

_NOTHING = "nothing that we tried gives it"
_BINARY_CLASSIFIER = "with the classifier counted as binary it is"


def _bnas(table: int, figure: str, rows: Iterable[tuple[str, str, str]]) -> tuple[Printed, ...]:
    """Return a row of a table of BNAS v2 about its own networks: (network, as printed, why)."""
    return tuple(
        Printed(f"BNAS v2, Table {table}", name, figure, text, "bnas-v2", name, why=why) for name, text, why in rows
    )


CIFAR, IMAGENET = {"form": "cifar"}, {"form": "imagenet"}

BRACKET = "a bracket that several networks share"
"""Tables 6 to 8 print their FLOPs with a tilde, once for a group of networks."""

_PCNN = "how PCNN counts is not known"


def _bracket(
    table: int, text: str, *rows: tuple[str, str, Mapping[str, Any]], why: str = BRACKET
) -> tuple[Printed, ...]:
    """Return the networks in a bracket of FLOPs: (row, network, options)."""
    return tuple(
        Printed(f"BNAS v2, Table {table}", row, FLOPS, text, "bnas-v2", network, options, why=why)
        for row, network, options in rows
    )


_TABLE_6 = (
    *_bracket(
        6,
        "0.16",
        ("XNOR-Net (ResNet18), CIFAR10", "ResNet-18-float-shortcuts", CIFAR),
        ("XNOR-Net (DenseNet)", "DenseNet-121", CIFAR),
        ("XNOR-Net (NiN)", "NiN", {}),
        ("XNOR-Net (SENet)", "SENet-18", CIFAR),
        ("BNAS-A", "BNAS-A", {}),
    ),
    *_bracket(
        6,
        "0.27",
        ("XNOR-Net (ResNet34), CIFAR10", "ResNet-34-float-shortcuts", CIFAR),
        ("XNOR-Net (WRN40)", "WRN-40-4", {}),
        ("BNAS-B", "BNAS-B", {}),
    ),
    *_bracket(6, "0.90", ("XNOR-Net (ResNext29-64)", "ResNeXt-29-64", {}), ("BNAS-C", "BNAS-C", {})),
    *_bracket(6, "1.48", ("XNOR-Net (ResNet18), ImageNet", "ResNet-18", IMAGENET), ("BNAS-D", "BNAS-D", {})),
    *_bracket(6, "1.63", ("Bi-Real* (Bi-Real Net18)", "Bi-Real-18", IMAGENET), ("BNAS-E", "BNAS-E", {})),
    *_bracket(6, "1.78", ("XNOR-Net (ResNet34), ImageNet", "ResNet-34", IMAGENET), ("BNAS-F", "BNAS-F", {})),
    *_bracket(6, "1.93", ("Bi-Real* (Bi-Real Net34)", "Bi-Real-34", IMAGENET), ("BNAS-G", "BNAS-G", {})),
    *_bracket(6, "6.56", ("BNAS-H", "BNAS-H", {})),
)
_TABLES_7_AND_8 = (
    *_bracket(
        7,
        "0.04",
        ("PCNN(i = 16) (ResNet18)", "ResNet-18-float-shortcuts", {**CIFAR, "width_factor": 0.25}),
        why=_PCNN,
    ),
    *_bracket(7, "0.04", ("BNAS-Mini", "BNAS-Mini", {})),
    *_bracket(7, "0.16", ("BinaryNet (ResNet18), CIFAR10", "ResNet-18-float-shortcuts", CIFAR)),
    *_bracket(7, "0.27", ("PCNN(i = 64) (ResNet18)", "ResNet-18-float-shortcuts", CIFAR), why=_PCNN),
    *_bracket(7, "1.48", ("BinaryNet, ABC-Net (ResNet18), ImageNet", "ResNet-18", IMAGENET)),
    *_bracket(
        7,
        "1.63",
        ("Bi-Real, BONN (Bi-Real Net18)", "Bi-Real-18", IMAGENET),
        ("XNOR-Net++, PCNN, BinaryDuo (ResNet18)", "ResNet-18-float-shortcuts", IMAGENET),
    ),
    *_bracket(7, "1.78", ("ABC-Net (ResNet34)", "ResNet-34", IMAGENET)),
    *_bracket(7, "1.93", ("Bi-Real (Bi-Real Net34)", "Bi-Real-34", IMAGENET)),
    *_bracket(8, "1.48", ("BNAS-D-No-Reg, with a dagger", "BNAS-D-dagger", {})),
)
_TABLE_12 = (
    Printed(
        "BNAS v2, Table 12",
        "BNAS-A w/o Zeroise",
        MEMORY_SAVING,
        "31.79",
        "bnas-v2",
        "BNAS-A",
        _ZEROISE_LEFT_OUT,
        why=f"{_BINARY_CLASSIFIER} 31.80",
    ),
    Printed("BNAS v2, Table 12", "BNAS-A w/o Zeroise", FLOPS, "0.36", "bnas-v2", "BNAS-A", _ZEROISE_LEFT_OUT),
    Printed("BNAS v2, Table 12", "BNAS-A w/o Zeroise", SPEED_UP, "58.01", "bnas-v2", "BNAS-A", _ZEROISE_LEFT_OUT),
    Printed(
        "BNAS v2, Table 12", "BNAS-A w/ Zeroise", MEMORY_SAVING, "91.06", "bnas-v2", "BNAS-A", {}, _ZEROISE_LEFT_OUT
    ),
    Printed("BNAS v2, Table 12", "BNAS-A w/ Zeroise", FLOPS, "0.14", "bnas-v2", "BNAS-A"),
    Printed("BNAS v2, Table 12", "BNAS-A w/ Zeroise", SPEED_UP, "149.14", "bnas-v2", "BNAS-A", {}, _ZEROISE_LEFT_OUT),
)
_TABLE_14 = (
    *_bnas(
        14,
        MEMORY_SAVING,
        (
            ("BNAS-D", "13.91", ""),
            ("BNAS-E", "14.51", _NOTHING),
            ("BNAS-F", "30.37", f"{_BINARY_CLASSIFIER} 30.38"),
            ("BNAS-G", "14.85", ""),
            ("BNAS-H", "21.75", ""),
        ),
    ),
    *_bnas(
        14,
        SPEED_UP,
        (
            ("BNAS-D", "20.85", ""),
            ("BNAS-E", "21.15", ""),
            ("BNAS-F", "24.29", ""),
            ("BNAS-G", "19.34", ""),
            ("BNAS-H", "24.81", ""),
        ),
    ),
)
_BI_REAL = tuple(
    Printed(table, row, figure, text, "bi-real", network, IMAGENET)
    for table, row, network, figures in (
        (
            "BNAS v2, Table 14",
            "Bi-Real Net18",
            "Bi-Real-18",
            {FLOPS: "1.63", MEMORY_SAVING: "11.14", SPEED_UP: "11.06"},
        ),
        (
            "BNAS v2, Table 14",
            "Bi-Real Net34",
            "Bi-Real-34",
            {FLOPS: "1.93", MEMORY_SAVING: "15.97", SPEED_UP: "18.99"},
        ),
        ("ReActNet, Table 1", "ReActNet-A", "ReActNet-A", {FLOPS: "0.87"}),
    )
    for figure, text in figures.items()
)


def _dms(
    row: str,
    network: str,
    base: Mapping[str, Any],
    floats: str,
    megabytes: tuple[str, ...],
    savings: tuple[str, ...],
    unknown: Mapping[int, str] = MappingProxyType({}),
) -> tuple[Printed, ...]:
    """Return a network of Table 1: in float, and in binary with once to four times its channels."""
    factor = base.get("width_factor", 1)
    table = "DMS, Table 1"
    rows = [Printed(table, f"{row}, Full Prec.", FLOAT_MEGABYTES, floats, "dms", network, base)]
    for figure, texts in ((MEGABYTES, megabytes), (MEMORY_SAVING, savings)):
        for times, text in enumerate(texts, start=1):
            options = {**base, "width_factor": factor * times}
            against, why = None, unknown.get(times, "")
            if figure == MEMORY_SAVING:
                against, why = base, f"of the printed MB it is {float(floats) / float(megabytes[times - 1]):.2f}"
            rows.append(Printed(table, f"{row}, BNN {times}x", figure, text, "dms", network, options, against, why))
    return tuple(rows)


_DMS = (
    *_dms("VGG-11 CIFAR10", "VGG-11", {}, "2.20", ("0.08", "0.29", "0.65", "1.14"), ("27", "7.6", "3.4", "1.9")),
    *_dms(
        "Res-18 CIFAR10",
        "ResNet-18",
        {**CIFAR, "width_factor": 0.25},
        "2.67",
        ("0.09", "0.40", "0.98", "1.92"),
        ("29", "6.7", "2.7", "1.4"),
        dict.fromkeys((2, 3, 4), _NOTHING),
    ),
    *_dms(
        "Res-18 ImageNet",
        "ResNet-18",
        IMAGENET,
        "44.5",
        ("3.29", "9.24", "17.8", "29.1"),
        ("13.5", "4.8", "2.5", "1.5"),
    ),
)

PUBLISHED = (*_TABLE_6, *_TABLES_7_AND_8, *_TABLE_12, *_TABLE_14, *_BI_REAL, *_DMS)
"""All of them, table by table."""
