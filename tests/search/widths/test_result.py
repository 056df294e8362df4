"""How a search for widths tells its end: reached or missed, and the command lines that go on."""

from pathlib import Path

import pytest

from bnas_deploy.core.width_history import Heading, WidthEpoch, WidthHistory
from bnas_deploy.search.widths.result import WidthSearchResult

HEADING = Heading("VGG-11", "cifar", ("a", "b"), (8, 8), "memory", "MB", 0.02, uniform=(7, 7))
MISSED = "The target is missed"


def result_of(cost: float, *, finished: bool = True, passes: int = 2) -> WidthSearchResult:
    epochs = tuple(
        WidthEpoch(number, 1, "weights", 0.1, 1.0, 0.5, None, 1.0, (1.5, 1.5), (12, 12), cost, cost, 1.0)
        for number in range(1, passes + 1)
    )
    return WidthSearchResult(Path("my runs/w"), finished, WidthHistory(HEADING, {}, epochs), 0.0195 if passes else None)


def test_the_end_of_a_search_that_reached_its_target() -> None:
    assert result_of(0.02).summary(["bnas-deploy", "train", "--data", "idx:a b"]).splitlines() == [
        "Finished after 2 passes; memory 0.02 MB, aimed at 0.02: my runs/w/widths.json",
        "widths 12, 12",
        "Next: bnas-deploy train --data 'idx:a b' --widths 'my runs/w/widths.json' -o 'my runs/w-trained'",
        "As large, of one ratio (0.0195 MB): bnas-deploy train --data 'idx:a b' --widths 'my runs/w/uniform.json' "
        "-o 'my runs/w-uniform'",
    ]


@pytest.mark.parametrize(("cost", "missed"), [(0.001, None), (0.02099, None), (0.0212, "6.0%"), (0.04, "100.0%")])
def test_a_target_that_is_missed_is_told(cost: float, missed: str | None) -> None:
    told = [line for line in result_of(cost).summary([]).splitlines() if line.startswith(MISSED)]
    assert told == (
        [
            f"{MISSED}: {missed} above it. Search again with more --epochs, a larger --penalty or "
            "--width-learning-rate, or a smaller --first-ratio"
        ]
        if missed
        else []
    )


def test_a_search_that_was_stopped_has_missed_nothing_yet() -> None:
    text = result_of(0.04, finished=False, passes=1).summary([])
    assert text.startswith("Stopped after 1 pass; memory 0.04 MB, aimed at 0.02: ")
    assert MISSED not in text
    text = result_of(0.04, finished=False, passes=0).summary([])
    assert text == "Stopped before the first pass was finished; the place is saved in my runs/w"
