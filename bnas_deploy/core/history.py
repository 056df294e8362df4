"""What a search measured, epoch by epoch: the file history.json in its folder.

    format        1
    bnas_deploy   version that wrote the file
    operations    the columns of every table
    edges         the rows of every table, [source, node]
    settings      how the search was made; a resumed search must have the same
    epochs        the fields of `Epoch`, in order
    best_epoch    whose genotype genotype.json is

A search can be drawn and judged with this file alone, without PyTorch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bnas_deploy
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import Genotype
from bnas_deploy.core.json_records import from_json, read_json, shown

FORMAT_VERSION = 1
EXPECTED = "history.json of `bnas-deploy search`"

Table = tuple[tuple[float, ...], ...]


class HistoryError(BnasError):
    """A history cannot be read."""


@dataclass(frozen=True)
class Tables:
    """A number for each edge (row) and operation (column) of both cells."""

    normal: Table
    reduction: Table


@dataclass(frozen=True)
class Epoch:
    """What one epoch left and measured; accuracies are shares of 1, losses means over images.

    Attributes:
        epoch: from 1.
        learning_rate: of the weights.
        train_loss, train_accuracy: on the images that the weights are trained with, while they change.
        architecture_loss: what the alphas descend: cross-entropy on the held-out images plus all terms, mean over
            the steps.
        terms: the mean of each term, as it is added; the diversity term is negative.
        validation_loss, validation_accuracy: on the held-out images, after the epoch.
        alphas: after the epoch.
        probabilities: their softmax.
        entropy: mean over all edges, natural logarithm.
        learnable_share: share of the edges whose most probable operation has weights.
        learnable_probability: mean over all edges of the probability of operations with weights.
        genotype: what would be derived after this epoch.
        duration_s: seconds.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    architecture_loss: float
    terms: Mapping[str, float]
    validation_loss: float
    validation_accuracy: float
    alphas: Tables
    probabilities: Tables
    entropy: float
    learnable_share: float
    learnable_probability: float
    genotype: Genotype
    duration_s: float

    @property
    def summary(self) -> str:
        """Return losses, accuracies and entropy, as a line of progress shows them."""
        return (
            f"loss {self.train_loss:.3f}  accuracy: training {self.train_accuracy:.2%}, validation "
            f"{self.validation_accuracy:.2%}  entropy {self.entropy:.3f}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `History.from_json` reads."""
        return {**asdict(self), "terms": dict(self.terms), "genotype": self.genotype.to_json()}


@dataclass(frozen=True)
class History:
    """All epochs of a search so far, and the rows and columns of their tables."""

    operations: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    settings: Mapping[str, Any]
    epochs: tuple[Epoch, ...]

    @property
    def best(self) -> Epoch | None:
        """Return the epoch with the highest validation accuracy, the first of them if there are several."""
        return max(self.epochs, key=lambda epoch: epoch.validation_accuracy, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "format": FORMAT_VERSION,
            "bnas_deploy": bnas_deploy.__version__,
            "operations": list(self.operations),
            "edges": [list(edge) for edge in self.edges],
            "settings": dict(self.settings),
            "epochs": [epoch.to_json() for epoch in self.epochs],
            "best_epoch": self.best.epoch if self.best else None,
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> "History":
        """Build a history from parsed JSON; `where` names its origin in errors.

        Raises:
            HistoryError: a field is missing or of another kind, or a table does not fit the edges and operations.
        """
        if not isinstance(data, Mapping) or "format" not in data:
            raise HistoryError(f"{where}: not the history of a search; expected {EXPECTED}")
        if data["format"] != FORMAT_VERSION:
            raise HistoryError(
                f"{where}: format version {shown(data['format'])}, this bnas-deploy reads {FORMAT_VERSION}; "
                "upgrade bnas-deploy, or search again"
            )
        try:
            file: _File = from_json(_File, data, passing_over=True)
        except ValueError as error:
            raise HistoryError(f"{where}: {error}; copy it again, or search again") from None
        history = cls(file.operations, file.edges, file.settings, file.epochs)
        history._check(where)
        return history

    def _check(self, where: str) -> None:
        shape = [len(self.operations)] * len(self.edges)
        for i, epoch in enumerate(self.epochs, start=1):
            if epoch.epoch != i:
                raise HistoryError(f"{where}: epoch {epoch.epoch} in place {i}; copy it again, or search again")
            for tables in (epoch.alphas, epoch.probabilities):
                for table in (tables.normal, tables.reduction):
                    if [len(row) for row in table] != shape:
                        raise HistoryError(
                            f"{where}: epoch {i}: a table is not {len(self.edges)} edges by {len(self.operations)} "
                            "operations; copy it again, or search again"
                        )


@dataclass(frozen=True)
class _File:
    """history.json, as far as it is read."""

    operations: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    settings: dict[str, Any]
    epochs: tuple[Epoch, ...]


def read_history(path: Path) -> History:
    """Read history.json.

    Raises:
        HistoryError: it cannot be read, is not JSON, or not a history.
    """
    return History.from_json(read_json(path, EXPECTED, HistoryError), str(path))
