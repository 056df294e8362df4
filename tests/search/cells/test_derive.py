"""Genotypes from tables written by hand."""

from dataclasses import replace

import pytest

from bnas_deploy.core.genotype import Edge
from bnas_deploy.core.history import Tables
from bnas_deploy.search.cells.config import SEARCH_RECIPES, SearchConfig, SupernetConfig
from bnas_deploy.search.cells.derive import derive
from bnas_deploy.search.cells.space import EDGES, SPACES, SearchSpace

NAMES = ("none", "max_pool_3x3", "bin_conv_3x3")
NETWORK = SupernetConfig(SearchSpace(NAMES), cells=3, channels=2, classes=3, in_channels=1, image_size=(8, 8))
CONFIG = SearchConfig(NETWORK, SEARCH_RECIPES["digits"])
EVEN = (0.3, 0.3, 0.4)


def table(rows):
    """Return the probabilities of `rows`, {(source, node): (none, pool, conv)}; all other edges get EVEN."""
    return tuple(rows.get(edge, EVEN) for edge in EDGES)


def derived(config=CONFIG, **rows):
    genotype = derive(Tables(table(rows.get("normal", {})), table(rows.get("reduction", {}))), config)
    return genotype.normal.edges, genotype.reduction.edges


def test_the_two_strongest_edges_into_each_node_with_their_strongest_operation():
    normal, _ = derived(
        normal={
            (2, 3): (0.1, 0.8, 0.1),
            (0, 3): (0.1, 0.2, 0.7),
            (3, 4): (0.2, 0.2, 0.6),
            (1, 4): (0.1, 0.5, 0.4),
            (4, 5): (0.05, 0.05, 0.9),
            (2, 5): (0.02, 0.03, 0.95),
            (0, 5): (0.1, 0.0, 0.9),
        }
    )
    assert normal == (
        *(Edge("bin_conv_3x3", 0), Edge("bin_conv_3x3", 1)),
        *(Edge("max_pool_3x3", 2), Edge("bin_conv_3x3", 0)),
        *(Edge("bin_conv_3x3", 3), Edge("max_pool_3x3", 1)),
        *(Edge("bin_conv_3x3", 2), Edge("bin_conv_3x3", 0)),  # of the equally strong 0 and 4 the first
    )


def test_zeroise_is_kept_and_counts_when_edges_are_compared():
    _, reduction = derived(reduction={(2, 3): (0.9, 0.05, 0.05)})
    assert reduction[2] == Edge("none", 2)


@pytest.mark.parametrize(("gamma", "operation"), [(1.0, "none"), (1.9, "none"), (2.1, "bin_conv_3x3")])
def test_equation_5(gamma, operation):
    normal, _ = derived(replace(CONFIG, gamma=gamma), normal={(0, 2): (0.6, 0.1, 0.3)})
    assert operation in {edge.operation for edge in normal[:2] if edge.source == 0}


def test_gamma_weakens_the_edge_of_a_zeroise_too():
    rows = {(2, 3): (0.9, 0.05, 0.05), (0, 3): (0.1, 0.1, 0.8)}
    assert [edge.source for edge in derived(normal=rows)[0][2:4]] == [2, 0]
    assert [edge.source for edge in derived(replace(CONFIG, gamma=3.0), normal=rows)[0][2:4]] == [0, 1]


def test_without_zeroise_the_second_best_takes_its_place():
    rows = {(0, 2): (0.98, 0.015, 0.005), (2, 3): (0.9, 0.06, 0.04)}
    normal, _ = derived(replace(CONFIG, zeroise=False), normal=rows)
    assert normal[:4] == (
        *(Edge("bin_conv_3x3", 1), Edge("max_pool_3x3", 0)),
        *(Edge("bin_conv_3x3", 0), Edge("bin_conv_3x3", 1)),
    )


def test_the_official_code_divides_the_first_edge_instead():
    rows = {(0, 2): (0.0, 0.1, 0.9), (2, 3): (0.9, 0.05, 0.05)}
    departing = replace(NETWORK, deviations=("gamma-on-first-edge",))
    normal, _ = derived(replace(CONFIG, gamma=3.0, network=departing), normal=rows)
    assert normal[:3] == (Edge("bin_conv_3x3", 1), Edge("bin_conv_3x3", 0), Edge("none", 2))  # 0.4 > 0.9 / 3


def test_every_edge_of_a_derived_cell_is_possible():
    # Edge (source, node) is as strong as its source, so the last two sources win everywhere.
    rows = {edge: (0.0, 0.0, 0.1 * (edge[0] + 1)) for edge in EDGES}
    normal, _ = derived(normal=rows)
    assert [edge.source for edge in normal] == [1, 0, 2, 1, 3, 2, 4, 3]


def test_a_space_without_zeroise_can_be_derived():
    network = replace(NETWORK, space=SearchSpace(("max_pool_3x3", "avg_pool_3x3", "bin_conv_3x3")))
    normal, _ = derived(replace(CONFIG, network=network))
    assert {edge.operation for edge in normal} == {"bin_conv_3x3"}
    assert "none" in SPACES["bnas"].operations
