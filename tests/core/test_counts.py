"""One of a thing is not called by its plural."""

import pytest

from bnas_deploy.core.counts import counted


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ("epoch",), "0 epochs"),
        (1, ("epoch",), "1 epoch"),
        (2, ("epoch",), "2 epochs"),
        (1, ("pass", "passes"), "1 pass"),
        (2000, ("pass", "passes"), "2,000 passes"),
    ],
)
def test_counted(count: int, words: tuple[str, ...], text: str) -> None:
    assert counted(count, *words) == text
