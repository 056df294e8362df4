"""Both published genotypes, and every way in which a genotype is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnas_deploy.core.genotype import GENOTYPES, OPERATIONS, Cell, Edge, Genotype, GenotypeError, read_genotype

# As the official repository lists them: `latest_cell_zeroise` and `latest_cell`.
CIFAR = {
    "normal": "none 1, bin_dil_conv_3x3 0, bin_conv_3x3 1, none 2, none 2, none 3, none 3, none 4",
    "reduction": "max_pool_3x3 0, none 1, max_pool_3x3 0, none 2, none 3, none 2, none 3, none 4",
}
IMAGENET = {
    "normal": "bin_conv_3x3 1, bin_dil_conv_3x3 0, bin_conv_3x3 1, bin_conv_3x3 2, "
    "bin_conv_3x3 2, bin_dil_conv_3x3 1, bin_dil_conv_3x3 1, bin_conv_3x3 0",
    "reduction": "max_pool_3x3 0, max_pool_3x3 1, max_pool_3x3 0, bin_conv_3x3 2, "
    "max_pool_3x3 0, bin_dil_conv_3x3 3, max_pool_3x3 0, bin_dil_conv_3x3 4",
}

WriteGenotype = Callable[[object], Path]


@pytest.fixture
def write_genotype(tmp_path: Path) -> WriteGenotype:
    def write(data: object) -> Path:
        path = tmp_path / "genotype.json"
        path.write_text(json.dumps(data))
        return path

    return write


def listed(cell: Cell) -> str:
    return ", ".join(f"{edge.operation} {edge.source}" for edge in cell.edges)


def with_edge(index: int, entry: object) -> dict[str, Any]:
    """Return the published CIFAR genotype with another edge in its reduction cell."""
    data: dict[str, Any] = GENOTYPES["cifar"].to_json()
    data["reduction"][index] = entry
    return data


@pytest.mark.parametrize(("name", "cells"), [("cifar", CIFAR), ("imagenet", IMAGENET)])
def test_published_genotype(name: str, cells: dict[str, str]) -> None:
    genotype = read_genotype(name)
    assert genotype is GENOTYPES[name]
    assert listed(genotype.normal) == cells["normal"]
    assert listed(genotype.reduction) == cells["reduction"]


def test_the_operations_are_seven() -> None:
    # v2, Table 3, in the order of the published code, whose alphas are indexed by it.
    names = "none, max_pool_3x3, avg_pool_3x3, bin_dil_conv_3x3, bin_dil_conv_5x5, bin_conv_3x3, bin_conv_5x5"
    assert ", ".join(OPERATIONS) == names


def test_a_node_has_two_edges_in_order() -> None:
    cell = GENOTYPES["cifar"].normal
    assert cell.inputs_of(2) == (Edge("none", 1), Edge("bin_dil_conv_3x3", 0))
    assert cell.inputs_of(5) == (Edge("none", 3), Edge("none", 4))
    assert tuple(edge for node in (2, 3, 4, 5) for edge in cell.inputs_of(node)) == cell.edges


@pytest.mark.parametrize("name", GENOTYPES)
def test_a_file_gives_back_what_was_written(name: str, write_genotype: WriteGenotype) -> None:
    assert read_genotype(str(write_genotype(GENOTYPES[name].to_json()))) == GENOTYPES[name]


@pytest.mark.parametrize(
    ("index", "entry", "message"),
    [
        (
            5,
            ["conv_3x3", 2],
            "reduction cell, edge 5: unknown operation 'conv_3x3'; the operations are none, max_pool_3x3, "
            "avg_pool_3x3, bin_dil_conv_3x3, bin_dil_conv_5x5, bin_conv_3x3, bin_conv_5x5, skip_connect, "
            "bin_sep_conv_3x3, bin_sep_conv_5x5, bin_dil_sep_conv_3x3, bin_dil_sep_conv_5x5, bats_conv_3x3, "
            "bats_conv_5x5, bats_dil_conv_3x3, bats_dil_conv_5x5",
        ),
        (0, ["none", 2], "reduction cell, edge 0 (none) reads node 2, but node 2 can only read 0..1"),
        (7, ["none", 5], "reduction cell, edge 7 (none) reads node 5, but node 5 can only read 0..4"),
        (3, ["none", -1], "reduction cell, edge 3 (none) reads node -1, but node 3 can only read 0..2"),
        (1, ["none"], 'reduction cell, edge 1: expected [operation, source], got ["none"]'),
        (1, ["none", 0, 0], 'reduction cell, edge 1: expected [operation, source], got ["none", 0, 0]'),
        (1, [1, "none"], 'reduction cell, edge 1: expected [operation, source], got [1, "none"]'),
        (1, ["none", 1.0], 'reduction cell, edge 1: expected [operation, source], got ["none", 1.0]'),
        (1, ["none", True], 'reduction cell, edge 1: expected [operation, source], got ["none", true]'),
        (1, "none", 'reduction cell, edge 1: expected [operation, source], got "none"'),
        (1, None, "reduction cell, edge 1: expected [operation, source], got null"),
    ],
)
def test_refused_edge(index: int, entry: object, message: str, write_genotype: WriteGenotype) -> None:
    path = write_genotype(with_edge(index, entry))
    with pytest.raises(GenotypeError) as refusal:
        read_genotype(str(path))
    assert refusal.value.message == f"{path}: {message}"


@pytest.mark.parametrize("edges", [0, 7, 9])
def test_refused_number_of_edges(edges: int, write_genotype: WriteGenotype) -> None:
    data = GENOTYPES["cifar"].to_json() | {"normal": [["none", 0]] * edges}
    path = write_genotype(data)
    with pytest.raises(GenotypeError) as refusal:
        read_genotype(str(path))
    assert refusal.value.message == (f"{path}: normal cell, a cell has 8 edges (two into each of 4 nodes), got {edges}")


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        ([], "normal"),
        ("cifar", "normal"),
        (None, "normal"),
        ({}, "normal"),
        ({"normal": {}, "reduction": []}, "normal"),
        ({"normal": [["none", 0]] * 8}, "reduction"),
        ({"normal": [["none", 0]] * 8, "reduce": [["none", 0]] * 8}, "reduction"),
    ],
)
def test_refused_without_two_lists(data: object, missing: str, write_genotype: WriteGenotype) -> None:
    path = write_genotype(data)
    with pytest.raises(GenotypeError) as refusal:
        read_genotype(str(path))
    assert refusal.value.message == (
        f'{path}: a genotype is {{"normal": [[operation, source], ...], "reduction": [...]}}; no list {missing!r} found'
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"normal: []", b'{"normal": ', b"\xff\xfe", b"[" + 5000 * b"9" + b"]"],
    ids=["empty", "yaml", "cut short", "not UTF-8", "huge integer"],
)
def test_refused_as_no_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    path.write_bytes(content)
    with pytest.raises(GenotypeError, match=f"^{re.escape(str(path))}: not a JSON file: .*; expected a genotype$"):
        read_genotype(str(path))


def test_refused_as_neither_a_name_nor_a_file(tmp_path: Path) -> None:
    path = tmp_path / "missing.json"
    with pytest.raises(GenotypeError) as refusal:
        read_genotype(str(path))
    assert refusal.value.message == f"{path}: neither a published genotype (cifar, imagenet) nor a file"


def test_refused_as_no_name() -> None:
    with pytest.raises(GenotypeError) as refusal:
        read_genotype("")
    assert refusal.value.message == "'': neither a published genotype (cifar, imagenet) nor a file"


def test_refused_as_nested_too_deeply(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(100_000 * "[" + 100_000 * "]")
    with pytest.raises(GenotypeError) as refusal:
        read_genotype(str(path))
    assert refusal.value.message == f"{path}: not a JSON file: nested too deeply; expected a genotype"


def test_refused_edge_nested_too_deeply_to_show() -> None:
    entry: list[Any] = []
    for _ in range(100_000):
        entry = [entry]
    with pytest.raises(GenotypeError) as refusal:
        Genotype.from_json(with_edge(1, entry), "memory")
    assert refusal.value.message == (
        "memory: reduction cell, edge 1: expected [operation, source], got lists nested too deeply to show"
    )


def test_refused_as_a_folder(tmp_path: Path) -> None:
    with pytest.raises(GenotypeError) as refusal:
        read_genotype(str(tmp_path))
    assert refusal.value.message == f"{tmp_path}: cannot be read: Is a directory; expected a JSON file"


def test_genotypes_are_equal_by_value() -> None:
    again = Genotype.from_json(GENOTYPES["imagenet"].to_json(), "memory")
    assert again == GENOTYPES["imagenet"]
    assert hash(again) == hash(GENOTYPES["imagenet"])
