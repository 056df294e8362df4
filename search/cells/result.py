"""What a search leaves behind, and how it tells people."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnas_deploy.core.counts import counted
from bnas_deploy.core.genotype import Genotype
from bnas_deploy.core.history import History

GENOTYPE = "genotype.json"


@dataclass(frozen=True)
class SearchResult:
    """What a search left behind. `finished` is False where it was asked to stop before its last epoch."""

    folder: Path
    finished: bool
    history: History

    @property
    def genotype(self) -> Genotype | None:
        """Return what genotype.json holds; None before the first epoch is finished."""
        return self.history.best.genotype if self.history.best else None

    def summary(self, train: Sequence[str]) -> str:
        """Say how the search ended and how to train its result; `train` are the words of that before --genotype."""
        best = self.history.best
        if best is None:
            return f"Stopped before the first epoch was finished; the place is saved in {self.folder}"
        path = self.folder / GENOTYPE
        return (
            f"{'Finished' if self.finished else 'Stopped'} after {counted(len(self.history.epochs), 'epoch')}; best "
            f"validation accuracy {best.validation_accuracy:.2%} after epoch {best.epoch}: {path}\n"
            f"Next: {shlex.join([*train, '--genotype', str(path)])}"
        )
