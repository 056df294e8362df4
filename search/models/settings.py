"""The settings of a family's networks, as a command line shows and takes them. Neither click nor a framework is needed.

A setting that several families have in the same sense is defined once, here or beside the first of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bnas_deploy.search.nn.schemes import DEFAULT, scheme_names


@dataclass(frozen=True)
class Count:
    """An integer of at least `least`."""

    least: int = 1


@dataclass(frozen=True)
class Choice:
    """One of `names`, in any case; with `repeated` several of them, which arrive as a tuple."""

    names: tuple[str, ...]
    repeated: bool = False


@dataclass(frozen=True)
class Switch:
    """An option without a value; the setting has the value `on` where it is given."""

    on: bool = True


@dataclass(frozen=True)
class Text:
    """A text that `read` makes the value of; it raises BnasError. `metavar` stands for it in `--help`."""

    metavar: str
    read: Callable[[str], object]


Kind = Count | Choice | Switch | Text


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        keyword: of the family's `configure`.
        option: its spelling on a command line, such as "--depth".
        kind: the values that it takes.
        help: for `--help`; it names the default, which is the family's business.
        binary: whether it says how layers are binary, and so means nothing to a float twin.
    """

    keyword: str
    option: str
    kind: Kind
    help: str
    binary: bool = False


SCHEME = Setting(
    "scheme",
    "--scheme",
    Choice(tuple(scheme_names())),
    "How binary convolutions binarise; docs/schemes.md describes each scheme. [default: that of the network's paper, "
    f"as `networks` lists it, of BNAS {DEFAULT}; of search-widths zero-alpha]",
    binary=True,
)

K_MAP = Setting(
    "k_map",
    "--k-map",
    Switch(),
    "Multiply every binary convolution by the activation scale K of XNOR-Net.",
    binary=True,
)
