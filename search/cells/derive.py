"""From the probabilities of a search to a genotype."""

from collections.abc import Sequence

from bnas_deploy.core.genotype import EDGES_PER_NODE, INNER_NODES, INPUT_NODES, ZEROISE, Cell, Edge, Genotype
from bnas_deploy.core.history import Table, Tables
from bnas_deploy.search.cells.config import SearchConfig
from bnas_deploy.search.cells.space import EDGES


def derive(probabilities: Tables, config: SearchConfig) -> Genotype:
    """Return the genotype: the strongest operation of the two strongest edges into each node.

    An edge is as strong as its strongest operation, and Zeroise counts p / gamma (BNAS v2, Eq. 5), or not at all
    without `config.zeroise`. The stronger edge comes first; among equals the first wins.
    """
    return Genotype(*(_derive_cell(table, config) for table in (probabilities.normal, probabilities.reduction)))


def _derive_cell(table: Table, config: SearchConfig) -> Cell:
    strengths = [_strengths(row, index, config) for index, row in enumerate(table)]
    edges = []
    for node in range(INPUT_NODES, INPUT_NODES + INNER_NODES):
        into = [row for row, (_, end) in enumerate(EDGES) if end == node]
        strongest = sorted(into, key=lambda row: max(strengths[row]), reverse=True)[:EDGES_PER_NODE]
        for row in strongest:
            column = max(range(len(strengths[row])), key=strengths[row].__getitem__)
            edges.append(Edge(config.network.space.operations[column], EDGES[row][0]))
    return Cell(tuple(edges))


def _strengths(row: Sequence[float], index: int, config: SearchConfig) -> list[float]:
    """Return how much each operation of an edge counts; `index` is the edge's row."""
    operations = config.network.space.operations

    def is_divided(name: str) -> bool:
        return index == 0 if config.deviates("gamma-on-first-edge") else name == ZEROISE

    strengths = [p / config.gamma if is_divided(name) else p for name, p in zip(operations, row, strict=True)]
    if not config.zeroise:
        return [-1.0 if name == ZEROISE else p for name, p in zip(operations, strengths, strict=True)]
    return strengths
