"""A model card: text that anybody may have written stays text, and a card that somebody changed is never replaced."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.model_card import (
    CARD,
    blocks,
    bullets,
    check_card,
    fenced,
    few,
    front_matter,
    is_as_written,
    plain,
    sealed,
    table,
    write_card,
)

NASTY = "a\"b'c: {d} #e\n---\n\\u0041 \u2028\x85\x00\ufeff \U0001f600"


def test_front_matter_has_a_line_for_each_entry() -> None:
    text = front_matter({"tags": ["a", "b"], "model-index": [{"name": "x", "value": 0.5}]})
    assert text == '---\ntags: ["a", "b"]\nmodel-index: [{"name": "x", "value": 0.5}]\n---\n'


def test_front_matter_is_of_characters_that_yaml_takes_and_means_the_same() -> None:
    text = front_matter({"name": NASTY})
    start, line, *rest = text.split("\n")
    assert (start, rest) == ("---", ["---", ""])
    # YAML reads a text in double quotes as JSON does but for pairs of surrogates, which must not be escaped.
    assert json.loads(line.removeprefix("name: ")) == NASTY
    assert "\U0001f600" in line
    assert re.findall(r"\\u[0-9a-f]{4}", line.replace("\\\\u0041", "")) == ["\\u0000", "\\ufeff"]
    assert "\ud800" not in front_matter({"name": "\ud800"}), "half of a pair cannot be written to a file"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("BNAS-A", "BNAS-A"),
        ("a_b*c*[d](e)", r"a\_b\*c\*\[d\](e)"),
        ("a|b", r"a\|b"),
        ("<script>", r"\<script\>"),
        ("# no\n\n* heading\u2028at\tall", r"\# no \* heading at all"),
        ("`x` $y$ &amp; ~~z~~ ![i](j)", r"\`x\` \$y\$ \&amp; \~\~z\~\~ \!\[i\](j)"),
        ("\\|", r"\\\|"),
        ("right\u202eleft", "right left"),
        ("Straße 猫", "Straße 猫"),
    ],
)
def test_text_has_no_effect(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(("text", "fence"), [("a", "```"), ("a ``` b", "````"), ("`````\nx", "``````")])
def test_a_block_of_code_ends_where_its_text_does(text: str, fence: str) -> None:
    assert fenced(text, "sh") == f"{fence}sh\n{text}\n{fence}"


def test_parts() -> None:
    assert bullets(["a", "b"]) == "* a\n* b"
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert blocks("\na\n", "", "b\n\n") == "a\n\nb\n"


def test_many_names_are_cut() -> None:
    assert few(["a_b", "c"]) == r"a\_b, c"
    assert few([str(i) for i in range(1200)]).endswith(", 18, 19 and 1,180 more")


# ---- whose it is


def test_a_card_is_replaced_as_long_as_it_is_as_written(tmp_path: Path) -> None:
    check_card(tmp_path, BnasError)
    write_card(tmp_path, "one")
    assert is_as_written(tmp_path / CARD)
    check_card(tmp_path, BnasError)
    write_card(tmp_path, "two\n")
    text = (tmp_path / CARD).read_text()
    assert text.startswith("two\n\n<!-- bnas-deploy wrote this file, and replaces it as long as it is not changed: sha")


def _changed(path: Path) -> None:
    path.write_bytes(sealed("one").replace(b"one", b"license: mit"))


def _longer(path: Path) -> None:
    path.write_bytes(sealed("one") + b"more\n")


BAD: dict[str, Callable[[Path], object]] = {
    "somebody's": lambda path: path.write_text("a thesis"),
    "empty": lambda path: path.write_text(""),
    "changed": _changed,
    "longer": _longer,
    "huge": lambda path: path.write_bytes(b" " * 2_000_000 + sealed("one")),
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_what_somebody_wrote_is_left_alone(make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / CARD
    make(path)
    before = path.lstat()
    assert not is_as_written(path)
    with pytest.raises(BnasError) as refusal:
        check_card(tmp_path, BnasError)
    assert refusal.value.message == (
        f"{path}: not written by bnas-deploy, or changed since, and a README.md of its own goes here; it was left "
        "alone: move it away, or choose another output folder"
    )
    write_card(tmp_path, "two")
    after = path.lstat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)
