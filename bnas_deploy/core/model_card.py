"""The model card of a folder, README.md: its Markdown and the front matter that hubs of models read; whose it is.

A card begins with front matter, YAML between two lines `---`. JSON is YAML, so its values are written as JSON. It ends
with a seal, a comment with the SHA-256 of all above. A card whose seal fits is as it was written and may be replaced.
Any other README.md is a person's: nothing here ever changes it.
"""

import hashlib
import json
import os.path
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import read_bytes, write_whole

CARD = "README.md"

MOST_NAMES = 20
"""Classes that a card lists; of more it has the first ones."""

_LARGEST_CARD = 1_000_000  # bytes; those that are written here have some thousands

_SEAL = "<!-- bnas-deploy wrote this file, and replaces it as long as it is not changed: sha256 {} -->\n"

_MARKS = re.compile(r"([\\`*_\[\]<>|~&#$!])")
"""Characters that mean something to Markdown inside a line; all text stands behind a word or a mark of ours."""

_NOT_OF_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""Characters that may stand in JSON and not in YAML, the byte-order mark among them; halves of pairs are in no text."""


# ---- text


def front_matter(entries: Mapping[str, Any]) -> str:
    """Return the YAML in front of a card; the values are what JSON can hold, their floats 0 or of 1e-4 to 1e15."""
    return "".join(["---\n", *(f"{key}: {_json(value)}\n" for key, value in entries.items()), "---\n"])


def _json(value: Any) -> str:
    # Not as ASCII: JSON escapes what is above U+FFFF as a pair, which YAML takes for two characters.
    text = json.dumps(value, ensure_ascii=False)
    return _NOT_OF_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text.encode(errors="replace").decode())


def plain(text: str) -> str:
    """Return a text that anybody may have written as Markdown that shows it, on one line and without effect."""
    one_line = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text)
    return _MARKS.sub(r"\\\1", " ".join(one_line.split()))


def fenced(text: str, language: str = "") -> str:
    """Return a block of code that ends where `text` ends, whatever is in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def blocks(*parts: str) -> str:
    """Return parts of a card, which are Markdown, with an empty line between them; empty ones are left out."""
    return "\n\n".join(stripped for part in parts if (stripped := part.strip("\n"))) + "\n"


def bullets(lines: Iterable[str]) -> str:
    """Return a list of lines, which are Markdown."""
    return "\n".join(f"* {line}" for line in lines)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells, which are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def few(names: Sequence[str]) -> str:
    """Return names that anybody may have written, the first of them where they are many."""
    shown = ", ".join(map(plain, names[:MOST_NAMES]))
    return f"{shown} and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else shown


# ---- the file


def sealed(text: str) -> bytes:
    """Return what lies in the file of a card."""
    body = f"{text}\n".encode(errors="replace")
    return body + _SEAL.format(hashlib.sha256(body).hexdigest()).encode()


def is_as_written(path: Path) -> bool:
    """Tell whether the card at `path` is one of ours that nobody has changed."""
    try:
        data = read_bytes(path, _LARGEST_CARD)
    except OSError:
        return False
    body = data[: -len(_SEAL.format("0" * 64))]
    return data == body + _SEAL.format(hashlib.sha256(body).hexdigest()).encode()


def check_card(folder: Path, error: type[BnasError]) -> None:
    """Make sure that a card can be written into `folder` without taking anything from anybody.

    Raises:
        error: there is a README.md that was not written here, or was changed since.
    """
    path = folder / CARD
    if os.path.lexists(path) and not is_as_written(path):
        raise error(
            f"{path}: not written by bnas-deploy, or changed since, and a {CARD} of its own goes here; it was left "
            "alone: move it away, or choose another output folder"
        )


def write_card(folder: Path, text: str) -> None:
    """Write the card of `folder`, unless somebody has written or changed the one that is there.

    Raises:
        BnasError: it cannot be written.
    """
    path = folder / CARD
    if not os.path.lexists(path) or is_as_written(path):
        write_whole(path, sealed(text))
