"""`bnas-deploy draw`: the picture of a genotype, by what is in it and by where things lie."""

import itertools
import json
import random
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from bnas_deploy.cli import main
from bnas_deploy.core.genotype import EDGES_PER_NODE, GENOTYPES, INNER_NODES, OPERATIONS, Cell, Edge
from bnas_deploy.drawing.cells import BOX_HEIGHT, BOX_WIDTH, STATE_RADIUS, Layout, layout
from bnas_deploy.drawing.colours import SKIP, colour_of

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def draw(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, ["draw", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def texts(svg: Path) -> list[str]:
    root = ElementTree.parse(svg).getroot()
    return ["".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")]


def random_cell(seed: int) -> Cell:
    rng = random.Random(seed)
    return Cell(
        tuple(
            Edge(rng.choice(OPERATIONS), source)
            for node in range(2, 2 + INNER_NODES)
            for source in rng.choices(range(node), k=EDGES_PER_NODE)
        )
    )


def test_a_drawing_names_every_operation_of_both_cells(tmp_path: Path) -> None:
    draw("imagenet", "-o", tmp_path / "cells.svg")
    found = texts(tmp_path / "cells.svg")
    genotype = GENOTYPES["imagenet"]
    wanted = [edge.operation for edge in genotype.normal.edges]
    wanted += [edge.operation + (", s2" if edge.source < 2 else "") for edge in genotype.reduction.edges]
    assert sorted(text for text in found if re.match(r"bin_|max_", text)) == sorted(wanted)
    assert [text for text in found if text.startswith("skip")] == ["skip", "skip (float 2x2 convolution, s2)"]
    assert [text for text in found if text in "2345"] == [*"2345", *"2345"]


def test_zeroise_and_the_skip_have_colours_of_their_own(tmp_path: Path) -> None:
    draw("cifar", "-o", tmp_path / "cells.svg")
    draw("imagenet", "-o", tmp_path / "without.svg")
    zeroises = [edge for cell in (GENOTYPES["cifar"].normal, GENOTYPES["cifar"].reduction) for edge in cell.edges]
    assert texts(tmp_path / "cells.svg").count("none (Zeroise)") == sum(edge.operation == "none" for edge in zeroises)
    assert colour_of("none") in (tmp_path / "cells.svg").read_text()
    assert colour_of("none") not in (tmp_path / "without.svg").read_text()
    assert SKIP in (tmp_path / "without.svg").read_text()
    assert SKIP not in map(colour_of, OPERATIONS)
    assert len(set(map(colour_of, OPERATIONS))) == len(OPERATIONS)


def test_the_same_genotype_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        draw("cifar", "-o", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(PNG_SIGNATURE)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_lies_on_top_of_anything(seed: int) -> None:
    placed = layout(random_cell(seed), reduction=seed % 2 == 0)
    boxes = [(each.at, BOX_WIDTH / 2, BOX_HEIGHT / 2) for each in placed.operations]
    boxes += [(state.at, STATE_RADIUS, STATE_RADIUS) for state in placed.states]
    for (a, aw, ah), (b, bw, bh) in itertools.combinations(boxes, 2):
        assert abs(a[0] - b[0]) >= aw + bw or abs(a[1] - b[1]) >= ah + bh
    assert_wires_meet_no_box(placed)


def assert_wires_meet_no_box(placed: Layout) -> None:
    """Wires touch only the box that they lead to: those that go down pass between columns, the others between rows."""
    for operation in placed.operations:
        (x, top), (_, bottom) = operation.drop
        (left, level), (right, _) = operation.wire
        for other in placed.operations:
            if bottom <= other.at[1] <= top:
                assert abs(x - other.at[0]) > BOX_WIDTH / 2
            if other is not operation and left <= other.at[0] <= right:
                assert abs(level - other.at[1]) > BOX_HEIGHT / 2


def test_a_file_with_another_ending_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["draw", "cifar", "-o", str(tmp_path / "cells.pdf")])
    assert result.exit_code == 1
    assert result.output == (
        f"Error: {tmp_path / 'cells.pdf'}: a picture's name ends in .svg or .png; give one of these\n"
    )


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["draw", "cifar", "-o", str(tmp_path / "missing" / "cells.svg")])
    assert result.exit_code == 1
    assert "cells.svg: cannot be written: No such file or directory" in result.output


def test_a_genotype_with_an_unknown_operation_is_refused(tmp_path: Path) -> None:
    genotype = GENOTYPES["cifar"].to_json()
    genotype["normal"][3][0] = "conv_7x7"
    (tmp_path / "genotype.json").write_text(json.dumps(genotype))
    result = CliRunner().invoke(main, ["draw", str(tmp_path / "genotype.json"), "-o", str(tmp_path / "cells.svg")])
    assert result.exit_code == 1
    assert "normal cell, edge 3: unknown operation 'conv_7x7'" in result.output
    assert not (tmp_path / "cells.svg").exists()
