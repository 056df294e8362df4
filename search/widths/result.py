"""What a search for widths leaves behind, and how it tells people."""

from dataclasses import dataclass
from pathlib import Path

from bnas_deploy.core.width_history import WidthHistory

WIDTHS_FILE = "widths.json"


@dataclass(frozen=True)
class WidthSearchResult:
    """What a search for widths left behind. `finished` is False where it was asked to stop before its end.

    Attributes:
        uniform_ratio: the ratio for all widths at which the network costs as much; None before the first pass.
    """

    folder: Path
    finished: bool
    history: WidthHistory
    uniform_ratio: float | None

    def summary(self, *, scheme: str, base_factor: float) -> str:
        """Say how the search ended, how to train its result, and the uniform network that it compares with.

        `base_factor` is the --width-factor of the base.
        """
        epochs = self.history.epochs
        if not epochs or self.uniform_ratio is None:
            return f"Stopped before the first pass was finished; the place is saved in {self.folder}"
        heading, last = self.history.heading, epochs[-1]
        path = self.folder / WIDTHS_FILE
        train = f"bnas-deploy train --network {heading.network} --form {heading.form} --scheme {scheme}"
        return (
            f"{'Finished' if self.finished else 'Stopped'} after {len(epochs)} passes; {heading.goal} "
            f"{last.cost:.4g} {heading.unit}, aimed at {heading.target:g}: {path}\n"
            f"widths {', '.join(map(str, last.widths))}\n"
            f"Next: {train} --widths {path}\n"
            f"As large, of one ratio: {train} --width-factor {self.uniform_ratio * base_factor:.6g}"
        )
