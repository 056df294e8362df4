"""Whole searched networks: what Zeroise leaves goes, and every binary convolution is PyTorch's to the bit."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from bnas_deploy.core import operators
from bnas_deploy.core.genotype import GENOTYPES, OPERATIONS, Cell, Edge, Genotype
from bnas_deploy.export.capture import OUTPUT, capture
from bnas_deploy.export.finish import finish
from bnas_deploy.export.inputs import INPUT, Feed
from bnas_deploy.export.passes import FLOAT_PIPELINE, PIPELINE
from bnas_deploy.export.rewrite import RewriteLog, run
from bnas_deploy.export.vectors import Vectors, output_tolerances
from bnas_deploy.runtime.pieces import PieceResult, compare_pieces
from bnas_deploy.runtime.session import create_session
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.network import Network, build_network
from bnas_deploy.search.training.untrained import untrained_checkpoint

CHANNELS = 4
IMAGE_SIZE = (8, 8)


def _cell(*edges: tuple[str, int]) -> Cell:
    return Cell(tuple(Edge(*edge) for edge in edges))


def _random_genotype(seed: int) -> Genotype:
    """Return a genotype in which two edges of five are Zeroise, so that whole nodes are zero."""
    rng = np.random.default_rng(seed)
    chances = np.array([0.4 if name == "none" else 0.1 for name in OPERATIONS])
    cells = [
        _cell(*((str(rng.choice(OPERATIONS, p=chances)), int(rng.integers(2 + edge // 2))) for edge in range(8)))
        for _ in ("normal", "reduction")
    ]
    return Genotype(*cells)


NOTHING = ("none", 0)

ZERO_NODES_ARE_READ = Genotype(
    normal=_cell(
        NOTHING, NOTHING, ("bin_conv_3x3", 2), ("avg_pool_3x3", 2), ("bin_dil_conv_5x5", 3), ("max_pool_3x3", 2),
        ("bin_conv_5x5", 4), ("avg_pool_3x3", 3),
    ),
    reduction=_cell(
        NOTHING, ("none", 1), ("bin_dil_conv_3x3", 2), NOTHING, ("avg_pool_3x3", 3), ("max_pool_3x3", 2),
        ("bin_conv_3x3", 2), ("max_pool_3x3", 1),
    ),
)  # fmt: skip
"""Node 2 is zero; padded convolutions and pools read it, and others read what they make of it."""

EMPTY_NORMAL_CELL = Genotype(
    normal=_cell(*[NOTHING] * 8),
    reduction=_cell(("max_pool_3x3", 0), ("bin_conv_3x3", 1), *[("avg_pool_3x3", 1), ("bin_dil_conv_3x3", 2)] * 3),
)
"""The first cell gives zeros alone, so that all that reads it is constant."""


OTHER_SPACES = {
    "darts": Genotype(
        normal=_cell(
            ("bin_sep_conv_3x3", 0), ("skip_connect", 1), ("bin_dil_sep_conv_5x5", 2), ("skip_connect", 0),
            ("bin_sep_conv_5x5", 1), ("max_pool_3x3", 3), NOTHING, ("bin_dil_sep_conv_3x3", 4),
        ),
        reduction=_cell(
            ("skip_connect", 0), ("bin_sep_conv_3x3", 1), ("bin_dil_sep_conv_5x5", 1), ("avg_pool_3x3", 0),
            ("skip_connect", 2), ("bin_sep_conv_5x5", 0), NOTHING, ("bin_dil_sep_conv_3x3", 3),
        ),
    ),
    "bats": Genotype(
        normal=_cell(
            ("bats_conv_3x3", 0), ("skip_connect", 1), ("bats_dil_conv_5x5", 2), ("skip_connect", 0),
            ("bats_conv_5x5", 1), ("max_pool_3x3", 3), NOTHING, ("bats_dil_conv_3x3", 4),
        ),
        reduction=_cell(
            ("skip_connect", 0), ("bats_conv_3x3", 1), ("bats_dil_conv_5x5", 1), ("avg_pool_3x3", 0),
            ("bats_conv_5x5", 0), ("skip_connect", 2), NOTHING, ("bats_dil_conv_3x3", 3),
        ),
    ),
}  # fmt: skip
"""Every operation that is in other search spaces than that of BNAS."""


@dataclass(frozen=True)
class Exported:
    """A network, its finished model, and how its pieces, and the binary ones of them, compare with PyTorch."""

    network: Network
    log: RewriteLog
    model: onnx.ModelProto
    failures: list[str]
    layers: tuple[PieceResult, ...]
    difference: float
    tolerance: float

    def node(self, name: str) -> onnx.NodeProto:
        return next(node for node in self.model.graph.node if node.name == name)

    def constant(self, name: str) -> NDArray[np.generic]:
        return numpy_helper.to_array(next(tensor for tensor in self.model.graph.initializer if tensor.name == name))

    def count(self, op_type: str) -> int:
        return Counter(node.op_type for node in self.model.graph.node)[op_type]


def _config(genotype: Genotype, cells: int = 3, **settings: object) -> NetworkConfig:
    return NetworkConfig("tiny", cells, CHANNELS, "cifar", genotype, 3, 3, IMAGE_SIZE, **settings)


def _network(config: NetworkConfig) -> Network:
    checkpoint = untrained_checkpoint(config, seed=0)
    network = build_network(config)
    network.load_state_dict(dict(checkpoint.state))
    return network.eval()


def _export(config: NetworkConfig, folder: Path) -> Exported:
    network, images = _network(config), torch.randn(2, 3, *IMAGE_SIZE)
    captured = capture(network, (3, *IMAGE_SIZE))
    values = captured.values_of(images[:1])
    log = run(FLOAT_PIPELINE if config.is_float else PIPELINE, captured.model)
    model = finish(captured.model)
    onnx.save(model, folder / "model.onnx")
    vectors = Vectors.of(captured.model, values, folder / "model.onnx")
    found = compare_pieces(folder / "model.onnx", vectors.whole_checks(), vectors.arrays())
    assert found.alike
    layers = tuple(piece for piece in found.pieces if piece.binary)
    answers = create_session(folder / "model.onnx").run([OUTPUT], {INPUT: images.numpy()})[0]
    with torch.no_grad():
        difference = np.abs(answers - network(images).numpy()).max()
    (tolerance,) = output_tolerances(lambda feed: (network(*feed.tensors),), Feed.of_images(images))
    return Exported(network, log, model, found.failures, layers, float(difference), tolerance)


def _assert_right(exported: Exported) -> None:
    assert exported.failures == []
    assert [layer.failure for layer in exported.layers if not layer.exact] == []
    assert exported.difference <= exported.tolerance


def _assert_nothing_is_left_over(exported: Exported) -> None:
    model = exported.model
    assert exported.count("Zeroise") == exported.count("BatchNormalization") == 0
    pools = [(node.input[0], str(node.attribute)) for node in model.graph.node if node.op_type == "MaxPool"]
    assert len(pools) == len(set(pools))
    read = {name for node in model.graph.node for name in node.input} | {OUTPUT}
    made = [name for node in model.graph.node for name in node.output]
    assert set(made) <= read
    assert {tensor.name for tensor in model.graph.initializer} <= read
    float_weights = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    binary = {node.name: node for node in model.graph.node if node.domain == operators.DOMAIN}
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4 and tensor.dims[0] != 1:
            assert tensor.name in float_weights  # not a copy of binary weights
    assert not {node.name for node in model.graph.node if node.op_type == "Conv"} & set(binary)


@pytest.mark.parametrize(
    ("genotype", "cells"),
    [(ZERO_NODES_ARE_READ, 4), (EMPTY_NORMAL_CELL, 4), *((_random_genotype(seed), 3 + seed % 3) for seed in range(2))],
    ids=["zero nodes are read", "empty normal cell", *(f"random {seed}" for seed in range(2))],
)
def test_any_genotype(genotype: Genotype, cells: int, tmp_path: Path) -> None:
    exported = _export(_config(genotype, cells), tmp_path)

    _assert_right(exported)
    _assert_nothing_is_left_over(exported)


@pytest.mark.parametrize("genotype", OTHER_SPACES.values(), ids=OTHER_SPACES)
def test_operations_of_other_spaces(genotype: Genotype, tmp_path: Path) -> None:
    config = replace(_config(GENOTYPES["cifar"]), genotype=genotype, channels=12)
    exported = _export(config, tmp_path)

    _assert_right(exported)
    _assert_nothing_is_left_over(exported)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export(_config(GENOTYPES["cifar"], cells=6), tmp_path_factory.mktemp("cifar"))


def _channels_read(exported: Exported, name: str) -> int:
    attributes = {attribute.name: attribute for attribute in exported.node(name).attribute}
    constant = attributes["constant_channels"].ints[0] if "constant_channels" in attributes else 0
    return attributes["weight_shape"].ints[3] - constant


def test_cifar_is_right(cifar: Exported) -> None:
    _assert_right(cifar)
    _assert_nothing_is_left_over(cifar)


def test_cifar_keeps_the_layers_that_matter(cifar: Exported) -> None:
    # Nodes 4 and 5 are zero in every cell; a reduction cell (2 and 4) is a pool of its first input, and its second
    # input is read by the inter-cell skip alone.
    normal = ["preprocess0.conv", "preprocess1.conv", "edges.1.conv", "edges.2.conv"]
    wanted = [f"cells.{cell}.{name}" for cell in (0, 1, 3, 5) for name in normal]
    wanted += ["cells.2.preprocess0.conv", "cells.4.preprocess0.conv"]
    assert sorted(layer.check.name for layer in cifar.layers) == sorted(wanted)


def test_cifar_has_one_pool_in_a_reduction_cell(cifar: Exported) -> None:
    assert cifar.count("MaxPool") == 2


@pytest.mark.parametrize("name", ["cells.1.preprocess1.conv", "cells.2.preprocess0.conv"])
def test_cifar_stage_1_reads_half_of_a_cell(cifar: Exported, name: str) -> None:
    assert _channels_read(cifar, name) == 2 * CHANNELS


def test_cifar_behind_the_first_reduction_zeros_become_constant_channels(cifar: Exported) -> None:
    node = cifar.node("cells.3.preprocess0.conv")  # 3x3, stride 2, padded; its BN has no gamma and beta

    attributes = {attribute.name: attribute for attribute in node.attribute}
    assert _channels_read(cifar, node.name) == 2 * CHANNELS
    assert list(attributes["constant_channels"].ints) == [2 * CHANNELS]
    assert attributes["weight_shape"].ints[3] == 4 * CHANNELS


def test_cifar_log_names_what_was_left_alone(cifar: Exported) -> None:
    assert len(cifar.log.refusals) == 1
    assert "stem.conv pads with zeros behind the BN" in cifar.log.refusals[0].reason


@pytest.mark.parametrize("genotype", [GENOTYPES["cifar"], ZERO_NODES_ARE_READ], ids=["cifar", "zero nodes are read"])
def test_float_twin(genotype: Genotype, tmp_path: Path) -> None:
    exported = _export(_config(genotype, cells=4, is_float=True), tmp_path)

    assert exported.failures == []
    assert exported.difference <= exported.tolerance
    assert exported.count("Zeroise") == 0
    if genotype is GENOTYPES["cifar"]:
        names = {node.name for node in exported.model.graph.node if node.op_type == "Conv"}
        assert not names & {"cells.1.preprocess1.conv", "cells.2.preprocess1.conv"}
        weight = exported.constant(exported.node("cells.1.skip.conv").input[1])
        assert weight.shape[1] == 2 * CHANNELS
        assert exported.count("MaxPool") == 2


@pytest.mark.parametrize(
    "genotype",
    [GENOTYPES["cifar"], ZERO_NODES_ARE_READ, EMPTY_NORMAL_CELL, _random_genotype(2)],
    ids=["cifar", "zero nodes are read", "empty normal cell", "random"],
)
def test_without_the_skip_between_cells(genotype: Genotype, tmp_path: Path) -> None:
    exported = _export(_config(genotype, cells=4, inter_cell_skip=False), tmp_path)

    _assert_right(exported)
    _assert_nothing_is_left_over(exported)
    names = [
        *(node.name for node in exported.model.graph.node),
        *(each.name for each in exported.model.graph.initializer),
    ]
    assert not [name for name in names if "skip" in name]
    # Two of these genotypes make a network whose answer does not depend on the image; nothing of it is computed.
    constant = genotype in (ZERO_NODES_ARE_READ, EMPTY_NORMAL_CELL)
    floats = {node.name for node in exported.model.graph.node if node.op_type == "Conv"}
    assert floats == (set() if constant else {"stem.conv"})


def test_deviation_real_last_two(tmp_path: Path) -> None:
    exported = _export(_config(GENOTYPES["cifar"], deviations=("real-last-two",)), tmp_path)

    _assert_right(exported)
    # The last two are the second preprocess of the last cell, which is dead, and its skip, which is real anyway.
    real = {node.name for node in exported.model.graph.node if node.op_type == "Conv"}
    assert real == {"stem.conv", "cells.1.skip.conv", "cells.2.skip.conv"}
    assert "cells.2.preprocess0.conv" in {layer.check.name for layer in exported.layers}


def test_deviation_real_last_two_of_the_edges(tmp_path: Path) -> None:
    exported = _export(_config(GENOTYPES["imagenet"], deviations=("real-last-two", "sign-of-zero")), tmp_path)

    _assert_right(exported)
    real = {node.name for node in exported.model.graph.node if node.op_type == "Conv"}
    edges = {"cells.2.edges.5.conv", "cells.2.edges.7.conv"}
    assert real == {"stem.conv", "cells.1.skip.conv", "cells.2.skip.conv", *edges}
    # Their inputs are signs of which 0 has none, by an operator of ONNX that says the same.
    assert exported.count("Sign") == len(edges)


def test_deviation_binary_weight_skip(tmp_path: Path) -> None:
    deviations = ("centre-weights", "clamp-weights", "binary-weight-skip")
    exported = _export(_config(GENOTYPES["cifar"], deviations=deviations), tmp_path)

    _assert_right(exported)
    _assert_nothing_is_left_over(exported)
    weight = np.abs(exported.constant(exported.node("cells.2.skip.conv").input[1]))
    assert (weight == weight[:, :, :1, :1]).all()  # beta times the slope of the BN before it


def test_k_map(tmp_path: Path) -> None:
    exported = _export(_config(ZERO_NODES_ARE_READ, cells=4, k_map=True), tmp_path)

    assert exported.failures == []
    assert all(layer.allowed > 0 for layer in exported.layers)
    assert exported.difference <= exported.tolerance
    binary = [operators.operator(node.op_type) for node in exported.model.graph.node if node.domain == operators.DOMAIN]
    assert all(row.k_map and row.activation == "Relu" for row in binary)
    assert len(binary) == len(exported.layers) > 0
    assert exported.count("BatchNormalization") == exported.count("Zeroise") == 0
