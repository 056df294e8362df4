"""Numbers with a range, in dataclasses that check themselves."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from bnas_deploy.core.errors import RecipeError


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`; without the ends that are `open`."""

    least: float
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def __contains__(self, number: float) -> bool:
        above = self.least < number if self.open_least else self.least <= number
        return above and (number < self.most if self.open_most else number <= self.most)

    def __str__(self) -> str:
        low = f"{'above' if self.open_least else 'of at least'} {self.least:g}"
        if self.most == math.inf:
            return f"a number {low}"
        return f"a number {low} and {'below' if self.open_most else 'at most'} {self.most:g}"

    def of_field(self) -> Mapping[str, Any]:
        """Return the metadata of a dataclass field whose numbers must be in this range."""
        return {"range": self}


COUNT = Range(1, 1_000_000_000).of_field()
POSITIVE = Range(0).of_field()
ABOVE_ZERO = Range(0, open_least=True).of_field()
SHARE = Range(0, 1).of_field()
SHARE_BELOW_ONE = Range(0, 1, open_most=True).of_field()


class Checked:
    """A dataclass that refuses numbers out of the range of their field; `table` is where its keys stand in a file."""

    table: ClassVar[str]

    def __post_init__(self) -> None:
        """Check every field that has a range.

        Raises:
            RecipeError: a number is out of it.
        """
        for each in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            allowed, value = each.metadata.get("range"), getattr(self, each.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if allowed is not None and not all(number is None or number in allowed for number in numbers):
                key = f"{self.table}.{each.name}" if self.table else each.name
                shown = list(value) if isinstance(value, tuple) else value
                raise RecipeError(f"{key}: got {shown}, wanted {allowed}")
