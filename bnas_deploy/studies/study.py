"""What a study is declared with: rows, what is measured of each, what is compared, and the paper's own figures.

A study has no code of its own. Its budget says how large everything is; the rows say what differs. No framework is
imported, so that `--help` can show what is in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Measure:
    """A figure of a trial.

    Attributes:
        key: its name in `results.TrialResult.figures`.
        title: of its column.
        unit: "%" for shares of 1, which are shown times 100; else what stands behind the number, or nothing.
        digits: behind the point.
        scale: what a number is divided by before it is shown.
    """

    key: str
    title: str
    unit: str = "%"
    digits: int = 1
    scale: float = 1.0

    @property
    def points(self) -> str:
        """Return what a difference of two figures is counted in."""
        return "points" if self.unit == "%" else self.unit

    def shown(self, value: float) -> float:
        """Return a figure in the unit of its column."""
        return 100 * value if self.unit == "%" else value / self.scale


TEST = Measure("test_accuracy", "test accuracy")
TRAIN = Measure("train_accuracy", "training accuracy")
TEST_ABOVE_TRAIN = Measure("test_above_train", "test above training")
FLOPS = Measure("flops", "1e6 FLOPs", "", 3, 1e6)
MEMORY = Measure("memory_bytes", "kB", "", 1, 1e3)
MEGABYTES = Measure("memory_bytes", "MB", "", 4, 2**20)
ZEROISE_SHARE = Measure("zeroise_share", "Zeroise, of all edges")
SEPARABLE_SHARE = Measure("separable_share", "separable, of all edges")
LEARNABLE_EARLY = Measure("learnable_share_early", "with weights, of all edges, early")
VALIDATION = Measure("validation_accuracy", "validation accuracy of the supernet")
GRADIENT_SPIKES = Measure("gradient_spikes", "largest / median gradient of a layer", "", 1)
ERROR = Measure("relative_error", "relative error", "", 3)
ERROR_WITH_K = Measure("relative_error_with_k", "with K", "", 3)
SAVED_SHARE = Measure("saved_by_zeroise", "layers that Zeroise would save")
SEARCH_ERROR = Measure("search_error", "training error at the end of the search")


@dataclass(frozen=True)
class Printed:
    """A figure as a paper prints it, and the table or figure that it stands in."""

    text: str
    source: str

    @property
    def value(self) -> float:
        """Return the number."""
        return float(self.text)


BACKBONE = "backbone"


@dataclass(frozen=True)
class Named:
    """A network by its name, "" for that of the budget, `BACKBONE` for the one whose widths are searched.

    Attributes:
        settings: of it, by keyword. A width factor of `BACKBONE` is on top of the budget's.
        equal_flops: choose its width factor so that it has the operations of the budget's network, where the budget
            compares at equal ones.
    """

    network: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    equal_flops: bool = False


@dataclass(frozen=True)
class Searched:
    """The budget's network with the cells of a search.

    Attributes:
        options: of the search that differ from the defaults, by the keywords of `configure_search`.
        gamma: of Eq. 5; rows that differ in it alone share a search.
        zeroise: whether Zeroise can be chosen; None: as the strategy has it. As gamma, it is asked after the search.
        settings: of the network, by keyword.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    gamma: float = 1.0
    zeroise: bool | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OfOneOperation:
    """The small network of Table 1, of one operation alone."""

    operation: str


@dataclass(frozen=True)
class Widened:
    """The budget's backbone with searched widths (DMS), or those of one ratio for the same memory.

    Attributes:
        options: of the search that differ from the budget's, by the fields of `WidthSearchConfig`.
        uniform: take the widths of one ratio.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    uniform: bool = False


Subject = Named | Searched | OfOneOperation | Widened


class Record(StrEnum):
    """What a trial measures besides accuracies."""

    GRADIENTS = "gradients"
    """Sum of the magnitudes of each convolution's gradient, after every epoch."""
    ERRORS = "errors"
    """The quantisation error of every layer of a float network that could be binary."""


@dataclass(frozen=True)
class Row:
    """A row of a table: one thing that is trained, once for each seed.

    Attributes:
        name: in the table.
        subject: the network.
        is_float: train its float twin.
        recipe: of the training; "" for that of the budget or the data.
        changes: of the recipe, as `--set` takes them.
        times_epochs: how many times the epochs of the budget.
        records: what is measured besides.
        printed: the paper's figures by the key of the measure.
        budgets: those that have the row; none stands for all.
    """

    name: str
    subject: Subject
    is_float: bool = False
    recipe: str = ""
    changes: tuple[str, ...] = ()
    times_epochs: float = 1.0
    records: tuple[Record, ...] = ()
    printed: Mapping[str, Printed] = field(default_factory=dict)
    budgets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contrast:
    """Two rows that the paper compares: a sentence of the findings."""

    row: str
    other: str
    measure: Measure = TEST


@dataclass(frozen=True)
class Ranking:
    """A row against all others: a sentence of the findings."""

    row: str
    measure: Measure = TEST


@dataclass(frozen=True)
class Level:
    """A measure of a row by itself against a level, such as a relative error against 1.

    Attributes:
        above, below: what is said of a row all of whose seeds are on that side.
    """

    row: str
    measure: Measure
    level: float
    above: str
    below: str


Finding = Contrast | Ranking | Level


class Picture(StrEnum):
    """A kind of picture."""

    BARS = "bars"
    """The first measure of every row, with its spread and the paper's figure."""
    CURVES = "curves"
    """Training and test accuracy of every row, epoch by epoch."""
    LEARNABLE = "learnable"
    """The share of the edges whose most probable operation has weights, epoch by epoch of the search."""
    GRADIENTS = "gradients"
    """Gradient magnitudes, layer by layer; it moves from epoch to epoch."""
    WIDTHS = "widths"
    """The channels of every layer."""
    SEARCH_ERROR = "search-error"
    """The training error of searches for widths, pass by pass."""
    TRADE = "trade"
    """Accuracy against memory."""
    ERRORS = "errors"
    """The relative error of every layer."""


@dataclass(frozen=True)
class Budget:
    """How large everything is.

    Attributes:
        network, settings: what is trained where a row does not say, a network of BNAS.
        backbone, backbone_settings: whose widths are searched.
        channels, dense: of the small network of one operation.
        limit: images of each part at most; None: all.
        least: training images that it takes at least; with fewer the spread over seeds hides whatever there is.
        seeds: how many trainings each row has.
        recipe: of the training; "" for that of the data.
        epochs: of the training; None: as the recipe has it.
        search: options of a search for cells, by the keywords of `configure_search`.
        widths: options of a search for widths, by the keywords of `configure_width_search`.
        equal_flops: whether backbones are compared at the operations of `network`; else as they are published.
    """

    name: str
    network: str
    settings: Mapping[str, Any]
    backbone: str
    backbone_settings: Mapping[str, Any]
    channels: int
    dense: int
    limit: int | None
    least: int
    seeds: int
    recipe: str
    epochs: int | None
    search: Mapping[str, Any]
    widths: Mapping[str, Any]
    equal_flops: bool


TOY, SMALL, PAPER = "toy", "small", "paper"

BUDGETS = {
    # Every part of a study once, in a second a trial: for tests, and by no means for conclusions.
    TOY: Budget(
        name=TOY,
        network="BNAS-Mini",
        settings={"cells": 3, "channels": 2},
        backbone="VGG-Small",
        backbone_settings={"width_factor": 0.02},
        channels=2,
        dense=8,
        limit=60,
        least=40,
        seeds=1,
        recipe="",
        epochs=1,
        search={"cells": 3, "channels": 1, "recipe": "digits", "epochs": 1, "batch_size": 15},
        widths={"epochs": 1, "batch_size": 16, "memory_mb": 0.001},
        equal_flops=True,
    ),
    # Minutes on two processors.
    SMALL: Budget(
        name=SMALL,
        network="BNAS-Mini",
        settings={"cells": 4, "channels": 16},
        backbone="VGG-11",
        backbone_settings={},
        channels=32,
        dense=64,
        limit=2000,
        least=1000,
        seeds=3,
        recipe="",
        epochs=8,
        search={"cells": 3, "channels": 8, "recipe": "digits", "epochs": 10},
        widths={"preset": "small"},
        equal_flops=True,
    ),
    # What the papers did, on CIFAR-10.
    PAPER: Budget(
        name=PAPER,
        network="BNAS-A",
        settings={},
        backbone="VGG-11",
        backbone_settings={},
        channels=64,
        dense=256,
        limit=None,
        least=10_000,
        seeds=3,
        recipe="",
        epochs=None,
        search={},
        widths={},
        equal_flops=False,
    ),
}
"""Every budget by name."""


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        name: on the command line.
        title: of its table.
        repeats: the paper, its tables and figures.
        question: what it answers, in a sentence.
        rows: of the table.
        measures: its columns; the first is drawn.
        findings: what is compared.
        pictures: the first is shown above the findings.
        changes: of budgets, by their names and the fields of `Budget`.
        rule: by which memory and operations are counted; "" for that of the network's paper.
        notes: what differs from the paper, sentence by sentence.
    """

    name: str
    title: str
    repeats: str
    question: str
    rows: tuple[Row, ...]
    measures: tuple[Measure, ...]
    findings: tuple[Finding, ...]
    pictures: tuple[Picture, ...]
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rule: str = ""
    notes: tuple[str, ...] = ()

    def budget(self, name: str) -> Budget:
        """Return a budget as this study has it."""
        return replace(BUDGETS[name], **self.changes.get(name, NOTHING))

    def rows_of(self, budget: str) -> tuple[Row, ...]:
        """Return the rows of a budget."""
        return tuple(row for row in self.rows if not row.budgets or budget in row.budgets)
