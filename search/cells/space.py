"""Which edges a cell may have, and which operations an edge may be.

This module imports no framework, so that `--help` can show what is in it.
"""

from dataclasses import dataclass, replace

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import EXTRA_OPERATIONS, INNER_NODES, INPUT_NODES, LEARNABLE, OPERATIONS, ZEROISE

EDGES = tuple((source, node) for node in range(INPUT_NODES, INPUT_NODES + INNER_NODES) for source in range(node))
"""(source, node) of the 14 edges of a cell, in the order of the rows of every table of alphas."""


class SpaceError(BnasError):
    """A search space cannot be searched."""


@dataclass(frozen=True)
class SearchSpace:
    """The candidate operations of an edge, in the order of the columns of every table of alphas."""

    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        known = OPERATIONS + EXTRA_OPERATIONS
        for name in self.operations:
            if name not in known:
                raise SpaceError(f"unknown operation {name!r} in the search space; there are {', '.join(known)}")
        if len(set(self.operations)) < len(self.operations):
            twice = next(name for name in self.operations if self.operations.count(name) > 1)
            raise SpaceError(f"operation {twice!r} is twice in the search space; name each once")
        if len(self.operations) < 2 or set(self.operations) <= {ZEROISE}:
            raise SpaceError(
                f"a search space of {', '.join(self.operations) or 'nothing'}; at least two operations are needed"
            )

    @property
    def learnable(self) -> tuple[bool, ...]:
        """Say for each operation whether it has weights."""
        return tuple(name in LEARNABLE for name in self.operations)

    def with_separable(self) -> "SearchSpace":
        """Return this space and the separable convolutions (BNAS v2, section 6.7)."""
        added = tuple(name for name in SEPARABLE if name not in self.operations)
        return replace(self, operations=self.operations + added)

    def without_dilated(self) -> "SearchSpace":
        """Return this space without dilated convolutions (BNAS v2, section 6.6)."""
        return replace(self, operations=tuple(name for name in self.operations if "_dil_" not in name))


SEPARABLE = ("bin_sep_conv_3x3", "bin_sep_conv_5x5")
_SHARED_WITH_DARTS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect")

SPACES = {
    # BNAS v2, Table 3.
    "bnas": SearchSpace(OPERATIONS),
    # The eight operations of DARTS, which SNAS and GDAS took over.
    "darts": SearchSpace(
        (
            "none",
            "max_pool_3x3",
            "avg_pool_3x3",
            "skip_connect",
            *SEPARABLE,
            *(f"bin_dil_sep_conv_{k}" for k in ("3x3", "5x5")),
        )
    ),
    # BATS (Bulat et al.): the eight of DARTS with one grouped convolution in place of each separable one.
    "bats": SearchSpace(
        (*_SHARED_WITH_DARTS, "bats_conv_3x3", "bats_conv_5x5", "bats_dil_conv_3x3", "bats_dil_conv_5x5")
    ),
}
"""Every search space by name."""
