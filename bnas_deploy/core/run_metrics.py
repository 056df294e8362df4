"""What a training run measured, epoch by epoch: the file metrics.jsonl in its folder, one `EpochRecord` a line.

A run can be drawn and compared with this file alone, without PyTorch.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import read_bytes
from bnas_deploy.core.json_records import from_json, parse

METRICS = "metrics.jsonl"
FORMER = "history.jsonl"
"""What the file was called before 0.2.0; it is read, too."""

_MOST_BYTES = 100_000_000
"""An epoch takes a line of about 300 bytes."""


class MetricsError(BnasError):
    """What a run measured cannot be read."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch measured; accuracies are shares of 1, losses are means over the images.

    The training side is measured while the weights change, on augmented images, with all terms of the recipe's loss;
    the test side after the epoch, by the cross-entropy alone.

    Attributes:
        epoch: from 1.
        learning_rate: of the last step.
        duration_s: seconds of its steps, without the test images.
        waiting_share: share of that time in which no image was there to go on with.
        changed_signs: share of the binary weights whose sign is another than at the start of the epoch.

    The last two are None in files of older versions, the last one for a network without binary weights as well.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    duration_s: float
    waiting_share: float | None = None
    changed_signs: float | None = None

    @property
    def summary(self) -> str:
        """Return losses and accuracies, as a line of progress shows them."""
        return (
            f"loss {self.train_loss:.3f}  accuracy: training {self.train_accuracy:.2%}, test {self.test_accuracy:.2%}"
        )


def metrics_lines(history: Sequence[EpochRecord]) -> bytes:
    """Return what `read_metrics` reads."""
    return "".join(json.dumps(asdict(record)) + "\n" for record in history).encode()


def has_metrics(folder: Path) -> bool:
    """Say whether a folder holds what a training run measured."""
    # Not Path.exists, which raises for a name that is too long; so below.
    return any(os.path.exists(folder / name) for name in (METRICS, FORMER))


def read_metrics(folder: Path) -> tuple[EpochRecord, ...]:
    """Read what the run in `folder` measured.

    Raises:
        MetricsError: there is no such file, or a line of it is no epoch.
    """
    path = folder / (METRICS if os.path.exists(folder / METRICS) else FORMER)
    try:
        lines = read_bytes(path, _MOST_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise MetricsError(f"{path}: cannot be read: {reason}; expected {METRICS} of `bnas-deploy train`") from None
    history = []
    for number, line in enumerate(lines, start=1):
        try:
            record: EpochRecord = from_json(EpochRecord, parse(line), passing_over=True)
        except ValueError as error:
            raise MetricsError(f"{path}: line {number}: {error}; copy it again, or resume the run") from None
        if record.epoch != number:
            raise MetricsError(f"{path}: line {number} is epoch {record.epoch}; copy it again, or resume the run")
        history.append(record)
    return tuple(history)
