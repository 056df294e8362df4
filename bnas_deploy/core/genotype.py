"""A searched architecture: two cells, each a list of (operation, source) edges; and the published ones."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import read_bytes
from bnas_deploy.core.json_records import LARGEST_FILE, parse, shown, value_of
from bnas_deploy.core.names import did_you_mean, known_name

ZEROISE = "none"
"""The operation that gives 0: an edge that has it is no edge."""

OPERATIONS = (
    ZEROISE,
    "max_pool_3x3",
    "avg_pool_3x3",
    "bin_dil_conv_3x3",
    "bin_dil_conv_5x5",
    "bin_conv_3x3",
    "bin_conv_5x5",
)
"""The seven candidate operations of BNAS (v2, Table 3)."""

EXTRA_OPERATIONS = (
    "skip_connect",
    "bin_sep_conv_3x3",
    "bin_sep_conv_5x5",
    "bin_dil_sep_conv_3x3",
    "bin_dil_sep_conv_5x5",
    "bats_conv_3x3",
    "bats_conv_5x5",
    "bats_dil_conv_3x3",
    "bats_dil_conv_5x5",
)
"""Those of the other search spaces: of DARTS, and of BATS."""

BATS_GROUPS = 12
"""Groups of the convolutions of BATS, which must divide the channels of a network that has them."""

LEARNABLE = frozenset(name for name in OPERATIONS + EXTRA_OPERATIONS if "conv" in name)
"""The operations that have weights."""

INPUT_NODES = 2
INNER_NODES = 4
EDGES_PER_NODE = 2


def is_grouped(operation: str) -> bool:
    """Tell whether an operation is one of BATS, of `BATS_GROUPS` groups."""
    return operation.startswith("bats_")


def check_groups(operations: Collection[str], channels: int, where: str) -> None:
    """Refuse channels that the grouped convolutions of BATS cannot be shared among; `where` begins the message.

    Raises:
        BnasError: there are such operations, and the channels are no multiple of their groups.
    """
    grouped = sorted(filter(is_grouped, operations))
    if grouped and channels % BATS_GROUPS:
        raise BnasError(
            f"{where}: {channels} channels cannot be shared among the {BATS_GROUPS} groups of {grouped[0]}; "
            f"choose a multiple of {BATS_GROUPS}, such as {channels + -channels % BATS_GROUPS}"
        )


class GenotypeError(BnasError):
    """A genotype is malformed; the message names the cell and the edge."""


@dataclass(frozen=True)
class Edge:
    """Apply `operation` to the state `source`."""

    operation: str
    source: int


@dataclass(frozen=True)
class Cell:
    """Two edges into each of four inner nodes, in node order; nodes 0 and 1 are the two inputs.

    A node is the sum of its edges. The cell's output is the concatenation of nodes 2 to 5
    (BNAS v2, section 4.2).
    """

    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        wanted = INNER_NODES * EDGES_PER_NODE
        if len(self.edges) != wanted:
            raise GenotypeError(
                f"a cell has {wanted} edges (two into each of {INNER_NODES} nodes), got {len(self.edges)}"
            )
        for i, edge in enumerate(self.edges):
            node = INPUT_NODES + i // EDGES_PER_NODE
            known = OPERATIONS + EXTRA_OPERATIONS
            if edge.operation not in known:
                raise GenotypeError(
                    f"edge {i}: unknown operation {edge.operation!r}; the operations are {', '.join(known)}"
                )
            if not 0 <= edge.source < node:
                raise GenotypeError(
                    f"edge {i} ({edge.operation}) reads node {edge.source}, but node {node} can only read 0..{node - 1}"
                )

    def inputs_of(self, node: int) -> tuple[Edge, ...]:
        """Return the edges into `node` (2 to 5)."""
        first = EDGES_PER_NODE * (node - INPUT_NODES)
        return self.edges[first : first + EDGES_PER_NODE]

    def describe(self) -> list[str]:
        """Return a line per node, for people."""
        nodes = range(INPUT_NODES, INPUT_NODES + len(self.edges) // EDGES_PER_NODE)
        return [
            f"node {node} = " + " + ".join(f"{edge.operation}({edge.source})" for edge in self.inputs_of(node))
            for node in nodes
        ]


@dataclass(frozen=True)
class Genotype:
    """The cell that keeps the resolution and the cell that halves it."""

    normal: Cell
    reduction: Cell

    @property
    def operations(self) -> set[str]:
        """Return the names of all operations in both cells."""
        return {edge.operation for cell in (self.normal, self.reduction) for edge in cell.edges}

    def describe(self) -> list[str]:
        """Return a line per node of both cells, for people."""
        return [
            line
            for name, cell in (("normal", self.normal), ("reduction", self.reduction))
            for line in (f"{name} cell", *(f"  {node}" for node in cell.describe()))
        ]

    def to_json(self) -> dict[str, list[list[Any]]]:
        """Return what `from_json` reads."""
        return {
            name: [[edge.operation, edge.source] for edge in cell.edges]
            for name, cell in (("normal", self.normal), ("reduction", self.reduction))
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> "Genotype":
        """Build a genotype from parsed JSON; `where` names its origin in errors."""
        return cls(normal=_cell(data, "normal", where), reduction=_cell(data, "reduction", where))


def _cell(data: object, name: str, where: str) -> Cell:
    if not isinstance(data, Mapping) or not isinstance(data.get(name), list):
        raise GenotypeError(
            f'{where}: a genotype is {{"normal": [[operation, source], ...], "reduction": [...]}}; '
            f"no list {name!r} found"
        )
    edges = []
    for i, entry in enumerate(data[name]):
        try:
            edges.append(Edge(*value_of(tuple[str, int], entry, "")))
        except ValueError:
            raise GenotypeError(
                f"{where}: {name} cell, edge {i}: expected [operation, source], got {shown(entry)}"
            ) from None
    try:
        return Cell(tuple(edges))
    except GenotypeError as error:
        raise GenotypeError(f"{where}: {name} cell, {error.message}") from None


def _published(normal: list[tuple[str, int]], reduction: list[tuple[str, int]]) -> Genotype:
    return Genotype(*(Cell(tuple(Edge(*edge) for edge in cell)) for cell in (normal, reduction)))


GENOTYPES = {
    # Searched with transferability gamma 1 (BNAS v2, Eq. 5): the cell of Mini, A, B and C.
    "cifar": _published(
        normal=[
            ("none", 1), ("bin_dil_conv_3x3", 0), ("bin_conv_3x3", 1), ("none", 2),
            ("none", 2), ("none", 3), ("none", 3), ("none", 4),
        ],
        reduction=[
            ("max_pool_3x3", 0), ("none", 1), ("max_pool_3x3", 0), ("none", 2),
            ("none", 3), ("none", 2), ("none", 3), ("none", 4),
        ],
    ),
    # Searched with gamma 3, no Zeroise left: the cell of D to H.
    "imagenet": _published(
        normal=[
            ("bin_conv_3x3", 1), ("bin_dil_conv_3x3", 0), ("bin_conv_3x3", 1), ("bin_conv_3x3", 2),
            ("bin_conv_3x3", 2), ("bin_dil_conv_3x3", 1), ("bin_dil_conv_3x3", 1), ("bin_conv_3x3", 0),
        ],
        reduction=[
            ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("max_pool_3x3", 0), ("bin_conv_3x3", 2),
            ("max_pool_3x3", 0), ("bin_dil_conv_3x3", 3), ("max_pool_3x3", 0), ("bin_dil_conv_3x3", 4),
        ],
    ),
}  # fmt: skip
"""The two published genotypes."""


def read_genotype(name_or_path: str) -> Genotype:
    """Return a published genotype by name, whose case does not matter, or the one in a JSON file.

    Raises:
        GenotypeError: neither, or the file is malformed.
    """
    if known := known_name(name_or_path, GENOTYPES):
        return GENOTYPES[known]
    if not name_or_path:  # Path("") would be the current folder
        raise GenotypeError(f"'': neither a published genotype ({', '.join(GENOTYPES)}) nor a file")
    path = Path(name_or_path)
    try:
        data = parse(read_bytes(path, LARGEST_FILE))
    except FileNotFoundError:
        raise GenotypeError(
            f"{name_or_path}: neither a published genotype ({', '.join(GENOTYPES)}) nor a file"
            f"{did_you_mean(name_or_path, GENOTYPES)}"
        ) from None
    except OSError as error:
        raise GenotypeError(f"{path}: cannot be read: {error.strerror}; expected a JSON file") from None
    except ValueError as error:
        raise GenotypeError(f"{path}: not a JSON file: {error}; expected a genotype") from None
    return Genotype.from_json(data, str(path))
