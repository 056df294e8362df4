"""What a training run leaves behind, and how it tells people."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnas_deploy.core.counts import counted
from bnas_deploy.core.run_metrics import EpochRecord

BEST = "best.safetensors"
LAST = "last.safetensors"


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        finished: False where it was asked to stop before its last epoch.
        history: every epoch that is done.
        was_finished: it was resumed, and nothing was left to do.
    """

    folder: Path
    finished: bool
    history: tuple[EpochRecord, ...]
    was_finished: bool = False

    @property
    def best(self) -> EpochRecord | None:
        """Return the epoch that best.safetensors holds; None before the first is finished."""
        return best_of(self.history)

    @property
    def summary(self) -> str:
        """Say how the run ended and where its result is."""
        best = self.best
        if best is None:
            return f"Stopped before the first epoch was finished; the place is saved in {self.folder}"
        return (
            f"{'Finished' if self.finished else 'Stopped'} after {counted(len(self.history), 'epoch')}; best test "
            f"accuracy {best.test_accuracy:.2%} after epoch {best.epoch}: {self.folder / BEST}"
            + (
                f"\nNothing was left to do. To train it longer: --from {self.folder / LAST}"
                if self.was_finished
                else ""
            )
        )


def best_of(history: Sequence[EpochRecord]) -> EpochRecord | None:
    """Return the record with the highest test accuracy, the first of them if there are several."""
    return max(history, key=lambda record: record.test_accuracy, default=None)
