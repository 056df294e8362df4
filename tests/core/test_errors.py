"""A message is one line that every terminal can print, whatever it quotes."""

import pytest

from bnas_deploy.core.errors import LONGEST_MESSAGE, BnasError


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("a name in two\nlines", r"a name in two\nlines"),
        ("\x1b[2Jclears the screen", r"\x1b[2Jclears the screen"),
        ("half of a pair \ud800", r"half of a pair \ud800"),
        ("\u202eright to left", r"\u202eright to left"),
        ("Zürich 東京 🐈", "Zürich 東京 🐈"),
    ],
)
def test_what_cannot_be_printed_is_written_out(quoted: str, shown: str) -> None:
    assert BnasError(f"file: {quoted}; copy it again").message == f"file: {shown}; copy it again"


def test_a_very_long_message_loses_its_middle() -> None:
    message = BnasError("start" + "x" * 10 * LONGEST_MESSAGE + "end").message
    assert message.startswith("startx")
    assert message.endswith("xend")
    assert len(message) == LONGEST_MESSAGE + len(" ... ")
