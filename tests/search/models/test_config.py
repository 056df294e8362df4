"""Configurations: the published ones, what travels as JSON, and every refusal."""

import json
from dataclasses import replace
from typing import Any

import pytest

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.models.bnas.config import DEVIATIONS, NETWORKS, NetworkConfig, published_config

TINY = NetworkConfig(
    name="tiny",
    cells=3,
    channels=4,
    stem="cifar",
    genotype=GENOTYPES["cifar"],
    classes=5,
    in_channels=1,
    image_size=(8, 12),
)


def refusal_of(**changes: Any) -> str:
    with pytest.raises(BnasError) as refusal:
        replace(TINY, **changes)
    return str(refusal.value.message)


@pytest.mark.parametrize(
    ("name", "cells", "channels", "reduction_cells"),
    [
        ("BNAS-Mini", 10, 24, (3, 6)),
        ("BNAS-A", 20, 36, (6, 13)),
        ("BNAS-B", 12, 64, (4, 8)),
        ("BNAS-C", 16, 108, (5, 10)),
        ("BNAS-D", 12, 64, (4, 8)),
        ("BNAS-E", 12, 68, (4, 8)),
        ("BNAS-F", 15, 68, (5, 10)),
        ("BNAS-G", 11, 74, (3, 7)),
        ("BNAS-H", 16, 128, (5, 10)),
    ],
)
def test_published_sizes(name: str, cells: int, channels: int, reduction_cells: tuple[int, int]) -> None:
    config = published_config(name)
    on_cifar = name in {"BNAS-Mini", "BNAS-A", "BNAS-B", "BNAS-C"}
    assert (config.name, config.cells, config.channels) == (name, cells, channels)
    assert config.reduction_cells == reduction_cells
    assert config.stem == ("cifar" if on_cifar else "imagenet")
    assert config.genotype == GENOTYPES["cifar" if on_cifar else "imagenet"]
    assert config.image_size == ((32, 32) if on_cifar else (224, 224))
    assert (config.in_channels, config.classes) == (3, 10 if on_cifar else 1000)


@pytest.mark.parametrize(
    ("cells", "channels", "name"),
    [(None, None, ""), (10, 24, ""), (3, None, "-3x24"), (None, 1, "-10x1"), (6, 16, "-6x16")],
)
def test_a_network_of_another_size_is_called_after_it(cells: int | None, channels: int | None, name: str) -> None:
    config = published_config("bnas-mini", cells=cells, channels=channels)
    assert config.name == f"BNAS-Mini{name}"
    assert (config.cells, config.channels) == (cells or 10, channels or 24)
    assert NetworkConfig.from_json(config.to_json(), "test") == config


def test_nine_networks_are_published() -> None:
    assert [name for name in NETWORKS if name != "BNAS-D-dagger"] == [
        "BNAS-Mini",
        *(f"BNAS-{letter}" for letter in "ABCDEFGH"),
    ]


@pytest.mark.parametrize(
    ("network", "channels", "groups", "name"),
    [
        ("BNAS-D", None, None, "BNAS-D"),
        ("BNAS-D", None, 4, "BNAS-D-12x64-g4"),
        ("BNAS-D", 80, 4, "BNAS-D-12x80-g4"),
        ("bnas-d-DAGGER", None, None, "BNAS-D-dagger"),
        ("BNAS-D-dagger", None, 1, "BNAS-D-dagger-12x88-g1"),
        ("BNAS-D-dagger", 96, None, "BNAS-D-dagger-12x96"),
    ],
)
def test_groups_of_the_stem_are_in_the_name(network: str, channels: int | None, groups: int | None, name: str) -> None:
    config = published_config(network, channels=channels, stem_groups=groups)
    assert config.name == name
    assert config.stem_groups == (groups or NETWORKS[published_config(network).name].stem_groups)
    assert config.float_twin().stem_groups == config.stem_groups
    told = f"12 cells, {config.channels} channels, imagenet stem"
    assert config.summary == (f"{told} with {config.stem_groups} groups" if config.stem_groups > 1 else told)


IMAGENET_NETWORKS = "BNAS-D, BNAS-D-dagger, BNAS-E, BNAS-F, BNAS-G, BNAS-H"


def test_only_the_imagenet_stem_has_groups() -> None:
    assert refusal_of(stem_groups=2) == (
        "tiny: stem_groups is 2, and the cifar stem takes no groups; leave --stem-groups out, or choose a network of "
        f"the imagenet stem: {IMAGENET_NETWORKS}"
    )
    said = "tiny: stem_groups is 0; wanted a number from 1 to 65536"
    assert refusal_of(stem="imagenet", image_size=(32, 32), stem_groups=0) == said


@pytest.mark.parametrize("groups", [4, 24, 5])
def test_groups_divide_the_channels_of_both_convolutions(groups: int) -> None:
    changes = {"stem": "imagenet", "image_size": (32, 32), "channels": 12, "stem_groups": groups}
    assert refusal_of(**changes) == (
        f"tiny: stem_groups is {groups}, which has to divide channels/2, 6; choose one of 1, 2, 3, 6, or other "
        "--channels"
    )


def test_a_file_without_groups_has_none() -> None:
    data = published_config("BNAS-D").to_json()
    del data["stem_groups"]
    assert NetworkConfig.from_json(data, "test") == published_config("BNAS-D")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_paper_is_the_default(name: str) -> None:
    config = published_config(name)
    assert (config.deviations, config.k_map, config.is_float, config.inter_cell_skip) == ((), False, False, True)


def test_a_published_size_fits_other_images() -> None:
    config = published_config(
        "BNAS-Mini", genotype=GENOTYPES["imagenet"], classes=7, in_channels=1, image_size=(8, 16), k_map=True
    )
    assert config.genotype == GENOTYPES["imagenet"]
    assert (config.classes, config.in_channels, config.image_size, config.k_map) == (7, 1, (8, 16), True)


def test_unknown_network() -> None:
    with pytest.raises(BnasError) as refusal:
        published_config("BNAS-Z")
    assert refusal.value.message == (
        "unknown network 'BNAS-Z'; the networks are BNAS-Mini, BNAS-A, BNAS-B, BNAS-C, BNAS-D, BNAS-D-dagger, "
        "BNAS-E, BNAS-F, BNAS-G, BNAS-H; did you mean BNAS-H?"
    )


def test_no_classes_is_refused_and_not_the_default() -> None:
    with pytest.raises(BnasError, match="classes is 0; wanted a number from 1 to 1000000"):
        published_config("BNAS-Mini", classes=0)


@pytest.mark.parametrize("cells", [2, 0, -1])
def test_too_few_cells(cells: int) -> None:
    assert refusal_of(cells=cells) == f"tiny: {cells} cells; at least 3 are needed, two of them reduce"


@pytest.mark.parametrize("cells", range(3, 30))
def test_two_different_cells_reduce(cells: int) -> None:
    first, second = replace(TINY, cells=cells).reduction_cells
    assert 0 < first < second < cells


def test_unknown_stem() -> None:
    assert refusal_of(stem="mnist") == "tiny: unknown stem 'mnist'; the stems are cifar, imagenet"


@pytest.mark.parametrize("field", ["channels", "classes", "in_channels"])
def test_numbers_of_channels_are_positive(field: str) -> None:
    assert refusal_of(**{field: 0}).startswith(f"tiny: {field} is 0; wanted a number from 1 to ")


@pytest.mark.parametrize(
    ("name", "changes", "most"),
    [
        ("cells", {"cells": 1001}, 1000),
        ("channels", {"channels": 65_537}, 65_536),
        ("stem_groups", {"stem_groups": 65_537}, 65_536),
        ("classes", {"classes": 1_000_001}, 1_000_000),
        ("in_channels", {"in_channels": 65_537}, 65_536),
        ("height", {"image_size": (65_540, 8)}, 65_536),
        ("width", {"image_size": (8, 65_540)}, 65_536),
        ("height", {"image_size": (0, 8)}, 65_536),
        ("width", {"image_size": (8, -4)}, 65_536),
    ],
)
def test_absurd_sizes(name: str, changes: dict[str, Any], most: int) -> None:
    got = next(side for side in changes["image_size"] if side != 8) if "image_size" in changes else changes[name]
    assert refusal_of(**changes) == f"tiny: {name} is {got}; wanted a number from 1 to {most}"


def test_the_imagenet_stem_halves_the_channels() -> None:
    message = "tiny: the imagenet stem starts with channels/2, so 5 channels must be even"
    assert refusal_of(stem="imagenet", channels=5, image_size=(32, 32)) == message
    assert replace(TINY, channels=5).channels == 5


@pytest.mark.parametrize(
    ("stem", "image_size", "multiple"),
    [
        ("cifar", (8, 10), 4),
        ("cifar", (6, 8), 4),
        ("imagenet", (48, 32), 32),
        ("imagenet", (224, 16), 32),
    ],
)
def test_image_sizes_that_cannot_be_halved(stem: str, image_size: tuple[int, int], multiple: int) -> None:
    height, width = image_size
    message = f"tiny: images of {height}x{width}; the {stem} stem and two reduction cells need multiples of {multiple}"
    if stem == "imagenet":
        message += " (of 4 with the cifar stem of BNAS-Mini, BNAS-A, BNAS-B and BNAS-C)"
    assert refusal_of(stem=stem, image_size=image_size) == message


def test_unknown_deviation() -> None:
    assert refusal_of(deviations=("clamp-weights", "sign-zero")) == (
        "tiny: unknown deviation 'sign-zero'; there are centre-weights, clamp-weights, fan-in-gradient, real-last-two, "
        "binary-weight-skip, sign-of-zero"
    )


def test_a_deviation_of_the_skip_needs_a_skip() -> None:
    assert refusal_of(deviations=("clamp-weights", "binary-weight-skip"), inter_cell_skip=False) == (
        "tiny: binary-weight-skip is about the inter-cell skip, which this network lacks; leave binary-weight-skip or "
        "--no-skip out"
    )


def test_the_float_twin_has_nothing_binary_left_to_set() -> None:
    twin = replace(TINY, k_map=True, deviations=tuple(DEVIATIONS)).float_twin()
    assert twin == replace(TINY, is_float=True)
    assert not replace(TINY, inter_cell_skip=False).float_twin().inter_cell_skip


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        TINY.float_twin(),
        replace(TINY, k_map=True, deviations=("clamp-weights", "real-last-two")),
        replace(TINY, inter_cell_skip=False),
        *map(published_config, NETWORKS),
    ],
    ids=lambda config: config.name,
)
def test_json_gives_back_what_was_written(config: NetworkConfig) -> None:
    assert NetworkConfig.from_json(json.loads(json.dumps(config.to_json())), "memory") == config
    assert NetworkConfig.from_json(config.to_json(), "memory") == config


def test_names_of_0_1_0_are_read() -> None:
    config = replace(TINY, deviations=("clamp-weights",))
    old = config.to_json()
    old["departures"], old["real"] = old.pop("deviations"), old.pop("is_float")
    del old["scheme"]
    assert NetworkConfig.from_json(old, "memory") == config


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("name", 1, "name: got 1, wanted text"),
        ("cells", "20", 'cells: got "20", wanted an integer of 64 bits'),
        ("cells", 20.0, "cells: got 20.0, wanted an integer of 64 bits"),
        ("cells", True, "cells: got true, wanted an integer of 64 bits"),
        ("channels", None, "channels: got null, wanted an integer of 64 bits"),
        ("stem", ["cifar"], 'stem: got ["cifar"], wanted text'),
        ("classes", 10.5, "classes: got 10.5, wanted an integer of 64 bits"),
        ("in_channels", {}, "in_channels: got {}, wanted an integer of 64 bits"),
        ("k_map", 1, "k_map: got 1, wanted true or false"),
        ("inter_cell_skip", 0, "inter_cell_skip: got 0, wanted true or false"),
        ("is_float", "false", 'is_float: got "false", wanted true or false'),
        ("image_size", 32, "image_size: got 32, wanted a list of 2"),
        ("image_size", [32], "image_size: got [32], wanted a list of 2"),
        ("image_size", [32, 32, 3], "image_size: got [32, 32, 3], wanted a list of 2"),
        ("image_size", ["32", "32"], 'image_size[0]: got "32", wanted an integer of 64 bits'),
        ("image_size", {"height": 32}, 'image_size: got {"height": 32}, wanted a list of 2'),
        ("deviations", "clamp-weights", 'deviations: got "clamp-weights", wanted a list'),
        ("deviations", [1], "deviations[0]: got 1, wanted text"),
    ],
)
def test_json_of_another_kind(name: str, value: object, message: str) -> None:
    with pytest.raises(BnasError) as refusal:
        NetworkConfig.from_json(TINY.to_json() | {name: value}, "net.safetensors")
    assert refusal.value.message == f"net.safetensors: {message}"


def test_json_with_another_genotype() -> None:
    data = TINY.to_json()
    data["genotype"]["normal"][2] = ["none", 4]
    with pytest.raises(BnasError) as refusal:
        NetworkConfig.from_json(data, "net.safetensors")
    assert refusal.value.message == (
        "net.safetensors: genotype: normal cell, edge 2 (none) reads node 4, but node 3 can only read 0..2"
    )


def test_what_a_stage_of_training_has_is_told_and_read() -> None:
    stage = TINY.relax("tanh")
    assert NetworkConfig.from_json(json.loads(json.dumps(stage.to_json())), "x") == stage
    assert "a stage of training: tanh of activations, float weights" in stage.describe()
    assert stage.float_twin() == TINY.float_twin()
    before = {name: value for name, value in TINY.to_json().items() if name != "relaxed"}
    assert NetworkConfig.from_json(before, "x") == TINY
    wanted = "a network of binary layers can have float-weights, tanh"
    assert refusal_of(relaxed="relu") == f"tiny: relaxed is 'relu'; {wanted}"
    assert refusal_of(relaxed="tanh", is_float=True) == f"tiny: relaxed is 'tanh'; {wanted}"


def test_json_with_other_fields() -> None:
    with pytest.raises(BnasError) as refusal:
        NetworkConfig.from_json(TINY.to_json() | {"depth": 1}, "net.safetensors")
    assert refusal.value.message == "net.safetensors: the field 'depth' is unknown"


def test_json_without_a_field() -> None:
    data = TINY.to_json()
    del data["stem"]
    with pytest.raises(BnasError, match=r"^net\.safetensors: the field 'stem' is missing$"):
        NetworkConfig.from_json(data, "net.safetensors")


def test_json_of_before_the_skip_could_be_left_out() -> None:
    data = TINY.to_json()
    assert data.pop("inter_cell_skip") is True
    assert NetworkConfig.from_json(data, "net.safetensors") == TINY


def test_json_that_is_no_object() -> None:
    with pytest.raises(BnasError, match=r"^net\.safetensors: the file: got \[\], wanted an object$"):
        NetworkConfig.from_json([], "net.safetensors")
