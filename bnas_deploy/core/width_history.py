"""What a search for widths measured, pass by pass: the file width-history.jsonl in its folder.

The first line is a `Heading`, each further one a `WidthEpoch`. A search can be drawn with this file alone, without
PyTorch.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bnas_deploy
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import read_bytes
from bnas_deploy.core.json_records import LARGEST_FILE, from_json, parse, shown

FORMAT_VERSION = 1
WIDTH_HISTORY = "width-history.jsonl"
"""Not history.jsonl: the metrics of a training run were called so once, and are still read."""

WIDTHS_FILE, UNIFORM_FILE = "widths.json", "uniform.json"
"""The channels that were found, and those of the network of one ratio that costs as much."""

EXPECTED = f"{WIDTH_HISTORY} of `bnas-deploy search-widths`"

WEIGHTS, WIDTHS = "weights", "widths"
"""What a pass trains."""


@dataclass(frozen=True)
class WidthEpoch:
    """What one pass over a half of the training images measured; losses and errors are means over its images.

    Attributes:
        epoch: number of the pass, from 1.
        round: from 1.
        trained: `WEIGHTS`, on one half, or `WIDTHS`, on the other.
        learning_rate: of what is trained, in its last step.
        loss: cross-entropy, while the weights or mu change.
        error: share of the images that are classified wrongly, in the same passes.
        penalty: the mean of what mu descends beside the loss; None where weights are trained.
        sigma: of the round.
        mu: ratio of each width, after the pass.
        widths: channels that these are.
        cost: memory in MB or latency in us of the network of these widths.
        expected_cost: the same, expected over candidates around mu; the penalty is of this.
        duration_s: seconds.
    """

    epoch: int
    round: int
    trained: str
    learning_rate: float
    loss: float
    error: float
    penalty: float | None
    sigma: float
    mu: tuple[float, ...]
    widths: tuple[int, ...]
    cost: float
    expected_cost: float
    duration_s: float

    @property
    def summary(self) -> str:
        """Return what a line of progress shows."""
        half = "training" if self.trained == WEIGHTS else "held-out"
        return (
            f"{self.trained:7}  loss {self.loss:.3f}  {half} error {self.error:.2%}  sigma {self.sigma:.2f}  "
            f"ratios {min(self.mu):.2f} to {max(self.mu):.2f}  cost {self.cost:.4g} ({self.expected_cost:.4g} expected)"
        )


@dataclass(frozen=True)
class Heading:
    """What a search for widths is of.

    Attributes:
        network, form: of the published network.
        names: of its widths.
        base: channels of the ratio 1.
        goal: "memory" or "latency".
        unit: of the target and of every cost.
        target: what the network is to cost at most.
        uniform: channels of the network of one ratio that takes the memory of the widths so far; empty before any.
    """

    network: str
    form: str
    names: tuple[str, ...]
    base: tuple[int, ...]
    goal: str
    unit: str
    target: float
    uniform: tuple[int, ...]


@dataclass(frozen=True)
class WidthHistory:
    """A search for widths so far; `settings` are those that a resumed search must have."""

    heading: Heading
    settings: dict[str, Any]
    epochs: tuple[WidthEpoch, ...]

    def to_text(self) -> str:
        """Return the file."""
        head = {
            "format": FORMAT_VERSION,
            "bnas_deploy": bnas_deploy.__version__,
            "heading": asdict(self.heading),
            "settings": self.settings,
        }
        return "".join(json.dumps(line) + "\n" for line in (head, *map(asdict, self.epochs)))


def epochs_from_json(data: object, widths: int) -> tuple[WidthEpoch, ...]:
    """Return the records of parsed JSON, of a search of so many widths.

    Raises:
        ValueError: they are none.
    """
    if not isinstance(data, list):
        raise ValueError(f"got {shown(data)}, wanted a list of epochs")
    epochs: tuple[WidthEpoch, ...] = tuple(from_json(WidthEpoch, each, f"epoch {i}") for i, each in enumerate(data, 1))
    for number, epoch in enumerate(epochs, start=1):
        if epoch.epoch != number:
            raise ValueError(f"epoch {epoch.epoch} in place {number}")
        if len(epoch.mu) != widths or len(epoch.widths) != widths:
            raise ValueError(f"epoch {number}: {len(epoch.mu)} ratios and {len(epoch.widths)} widths, wanted {widths}")
    return epochs


def read_width_history(path: Path) -> WidthHistory:
    """Read width-history.jsonl.

    Raises:
        BnasError: it cannot be read, or is none.
    """
    try:
        lines = read_bytes(path, LARGEST_FILE).decode("utf-8-sig").splitlines()
        head, *rest = [parse(line) for line in lines if line.strip()] or [None]
        if not isinstance(head, dict) or "format" not in head:
            raise ValueError("no heading in its first line")
        if head["format"] != FORMAT_VERSION:
            raise BnasError(
                f"{path}: format {shown(head['format'])}, this bnas-deploy reads {FORMAT_VERSION}; upgrade "
                "bnas-deploy, or search again"
            )
        heading: Heading = from_json(Heading, head.get("heading"), "heading")
        settings = head.get("settings")
        history = WidthHistory(
            heading, settings if isinstance(settings, dict) else {}, epochs_from_json(rest, len(heading.names))
        )
    except OSError as error:
        raise BnasError(f"{path}: cannot be read: {error.strerror}; expected {EXPECTED}") from None
    except ValueError as error:
        raise BnasError(f"{path}: not {EXPECTED} ({error}); copy it again, or search again") from None
    return history
