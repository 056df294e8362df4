"""What a search for widths leaves behind, and how it tells people."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bnas_deploy.core.counts import counted
from bnas_deploy.core.files import write_whole
from bnas_deploy.core.model_card import check_card, write_card
from bnas_deploy.core.width_history import (
    UNIFORM_FILE,
    WIDTH_HISTORY,
    WIDTHS_FILE,
    Heading,
    WidthEpoch,
    WidthHistory,
)
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.models.backbone_settings import Found, Widths
from bnas_deploy.search.training.run import RESUME, check_free
from bnas_deploy.search.widths.card import Searched, width_search_card
from bnas_deploy.search.widths.checks import WidthSearchError

WHAT = "search for widths"
"""What a user calls it."""

RESULTS = (WIDTHS_FILE, UNIFORM_FILE, WIDTH_HISTORY)
"""The files that it leaves besides the place to go on from."""

NEAR = 0.05
"""How far above its target, as a share of it, a network may be that is said to have reached it."""


@dataclass(frozen=True)
class WidthSearchResult:
    """What a search for widths left behind. `finished` is False where it was asked to stop before its end.

    Attributes:
        uniform_cost: what the network of `heading.uniform` costs; None before the first pass.
    """

    folder: Path
    finished: bool
    history: WidthHistory
    uniform_cost: float | None

    def summary(self, train: Sequence[str]) -> str:
        """Say how the search ended, whether it reached its target, and how to train its result.

        The last line is the same of the uniform network that it compares with. `train` are the words of the command
        line before --widths.
        """
        epochs = self.history.epochs
        if not epochs or self.uniform_cost is None:
            return f"Stopped before the first pass was finished; the place is saved in {self.folder}"
        heading, last = self.history.heading, epochs[-1]
        searched, uniform = (
            shlex.join([*train, "--widths", str(self.folder / file), "-o", f"{self.folder}-{what}"])
            for file, what in ((WIDTHS_FILE, "trained"), (UNIFORM_FILE, "uniform"))
        )
        return "\n".join(
            [
                f"{'Finished' if self.finished else 'Stopped'} after {counted(len(epochs), 'pass', 'passes')}; "
                f"{heading.goal} {last.cost:.4g} {heading.unit}, aimed at {heading.target:g}: "
                f"{self.folder / WIDTHS_FILE}",
                *(_missed(heading, last) if self.finished else ()),
                f"widths {', '.join(map(str, last.widths))}",
                f"Next: {searched}",
                f"As large, of one ratio ({self.uniform_cost:.4g} {heading.unit}): {uniform}",
            ]
        )


def check_folder(folder: Path) -> None:
    """Make sure that a search can be begun in a folder: nothing of one is there, nor a README.md of somebody else.

    Raises:
        WidthSearchError: there is.
    """
    check_free(folder, (*RESULTS, RESUME), WHAT, WidthSearchError)
    check_card(folder, WidthSearchError)


def write_folder(folder: Path, searched: Searched, data: DataSet) -> None:
    """Write what a search has found so far: the widths, the history and the model card.

    Raises:
        BnasError: a file cannot be written.
    """
    history, base = searched.history, searched.config.network
    heading, last = history.heading, history.epochs[-1]
    for file, channels, cost in (
        (WIDTHS_FILE, last.widths, last.cost),
        (UNIFORM_FILE, heading.uniform, searched.uniform_cost),
    ):
        found = Found(data.description.name, heading.goal, heading.unit, heading.target, cost)
        widths = Widths(channels, heading.network, heading.form, base.scheme, found)
        write_whole(folder / file, (json.dumps(asdict(widths)) + "\n").encode())
    write_whole(folder / WIDTH_HISTORY, history.to_text().encode())
    write_card(folder, width_search_card(searched, data))


def _missed(heading: Heading, last: WidthEpoch) -> list[str]:
    """Return a line where a finished search is above its target, and what would bring it there; else none."""
    above = last.cost / heading.target - 1
    if above <= NEAR:
        return []
    return [
        f"The target is missed: {above:.1%} above it. Search again with more --epochs, a larger --penalty or "
        "--width-learning-rate, or a smaller --first-ratio"
    ]
