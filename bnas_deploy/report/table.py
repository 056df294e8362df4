"""A table of text, for every printer alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Table:
    """Cells as they are printed; the columns in `left` are flush left, the others are numbers.

    A column's title may be broken at a newline where that saves width.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})
    strong: frozenset[int] = frozenset()
    """Rows that carry the result."""
    note: str = ""
    spare: tuple[str, ...] = ()
    """Columns that a narrow page can do without, in the order in which they are given up."""
    wraps: bool = False
    """Whether the texts in `left` may go on in the next line; where not, a row is a line."""

    def without(self, columns: Sequence[str]) -> "Table":
        """Leave out `columns`, and say so in the note."""
        kept = [i for i, column in enumerate(self.columns) if column not in columns]
        names = ", ".join(column.replace("\n", " ") for column in columns)
        return replace(
            self,
            columns=tuple(self.columns[i] for i in kept),
            rows=tuple(tuple(row[i] for i in kept) for row in self.rows),
            left=frozenset(place for place, i in enumerate(kept) if i in self.left),
            note=f"{self.note} Not shown, for want of width: {names}.".strip(),
            spare=tuple(column for column in self.spare if column not in columns),
        )
