"""Layers that stay float: why, and what their author can do about it."""

from dataclasses import dataclass


class NotTranslated(Exception):  # noqa: N818  # no mistake of anybody's: it says what a layer is not
    """A layer is none that an operator can compute.

    The message says why, and `remedy` what makes it one; "" where nothing does.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


REGISTER = "say what its class computes with bnas_deploy.export.register(TheirConv, rule)"
"""The remedy for code that cannot be read, if a rule can say what it computes."""

FLOAT_WEIGHTS = "its weights are float"
"""How the reason for most layers of a network begins."""

BINARISE = "if a training loop makes its weights binary outside of forward, let it do so before the export"
"""The remedy for float weights behind binary activations."""


@dataclass(frozen=True)
class Left:
    """A layer that stays float: what its weights or its activations are instead, and what makes it binary.

    `line` is that of the code where a name is none that its author has given.
    """

    name: str
    reason: str
    remedy: str = ""
    line: str = ""

    @property
    def called(self) -> str:
        """Its name, and where it stands if that says little."""
        return f"{self.name} ({self.line})" if self.line else self.name

    @property
    def advice(self) -> str:
        """The reason with its remedy."""
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason
