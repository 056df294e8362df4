"""All nine published networks, convolution by convolution, and the arithmetic of a cell."""

import csv
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from bnas_deploy.core.counting.rules import RULES
from bnas_deploy.core.genotype import GENOTYPES, Cell, Edge, Genotype
from bnas_deploy.core.layer_cost import LayerCost, total
from bnas_deploy.report.inspection import inspect
from bnas_deploy.search.models.bnas.cell import ReductionSkip, SearchedCell
from bnas_deploy.search.models.bnas.config import DEVIATIONS, NETWORKS, NetworkConfig, published_config
from bnas_deploy.search.models.bnas.network import Network, build_network
from bnas_deploy.search.models.layer_costs import layer_costs, network_size
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryWeightConv2d
from bnas_deploy.search.nn.schemes.xnor_net import XnorNet
from bnas_deploy.search.training.checkpoint import load_checkpoint, save_checkpoint
from bnas_deploy.search.training.untrained import randomise_statistics, untrained_checkpoint

TINY = NetworkConfig("tiny", 4, 2, "cifar", GENOTYPES["imagenet"], classes=3, in_channels=1, image_size=(8, 8))


class Figures(NamedTuple):
    """Sums over one published network."""

    parameters: int
    binary_weights: int
    binary_macs: int
    float_macs: int


# Measured on the official modules. The logs in the official README print the parameters of BNAS-A and BNAS-F too.
# Binary weights include the last two convolutions, which the official code leaves real by mistake, and the dead
# preprocess1 of reduction cells.
FIGURES = {
    "BNAS-Mini": Figures(1_473_784, 1_089_216, 156_303_360, 39_743_232),
    "BNAS-A": Figures(5_578_252, 4_708_368, 696_729_600, 87_926_400),
    "BNAS-B": Figures(10_945_744, 8_278_016, 1_329_594_368, 273_754_112),
    "BNAS-C": Figures(42_360_532, 34_793_712, 5_028_397_056, 773_387_136),
    "BNAS-D": Figures(28_407_560, 24_653_824, 2_931_884_032, 304_087_040),
    "BNAS-E": Figures(31_997_890, 27_831_856, 3_309_822_208, 342_498_048),
    "BNAS-F": Figures(39_781_442, 35_600_176, 4_179_874_048, 342_498_048),
    "BNAS-G": Figures(37_343_287, 32_521_964, 3_576_222_272, 404_395_200),
    "BNAS-H": Figures(160_016_936, 147_111_936, 15_837_954_048, 1_192_624_128),
}

LAST_TWO = {
    **dict.fromkeys(("BNAS-Mini", "BNAS-A", "BNAS-B", "BNAS-C"), ("edges.1.conv", "edges.2.conv")),
    **dict.fromkeys(
        ("BNAS-D", "BNAS-D-dagger", "BNAS-E", "BNAS-F", "BNAS-G", "BNAS-H"), ("edges.6.conv", "edges.7.conv")
    ),
}
"""The two convolutions of the last cell whose weights the official code never binarises."""


Row = tuple[str, int, int, int, int, int, int, int, int, int]


def on_meta(config: NetworkConfig) -> Network:
    """Build a network that has shapes and no data."""
    with torch.device("meta"):
        return build_network(config)


def published_rows(network: str) -> list[Row]:
    """Read the convolutions of the official modules, in the order of declaration, by the names used here.

    Only the skip of a reduction cell has moved, from before the edges to after them, where it runs. All kernels and
    images are square, no convolution has groups, and none but the skips has a bias.
    """
    path = Path(__file__).with_name("published_convolutions.csv")
    with path.open(newline="") as file:
        rows = [list(row.values()) for row in csv.DictReader(file) if row["network"] == network]
    return [(row[1], *map(int, row[2:])) for row in rows]


def square(pair: tuple[int, int]) -> int:
    assert pair[0] == pair[1]
    return pair[0]


def row_of(layer: LayerCost, module: nn.Module) -> Row:
    """Describe a convolution like the file does; sizes come from a forward pass, the rest from the module."""
    assert isinstance(module, nn.Conv2d | BinaryConv2d)
    assert module.weight.shape == (layer.output[0], layer.input[0], *layer.kernel)
    assert module.groups == layer.groups == 1
    assert (getattr(module, "bias", None) is not None) == layer.name.endswith("skip.conv")
    assert isinstance(module.padding, tuple)
    return (
        layer.name,
        layer.weight_bits,
        layer.input[0],
        layer.output[0],
        square(layer.kernel),
        square(layer.stride),
        square(module.padding),
        square(layer.dilation),
        square(layer.input[1:]),
        square(layer.output[1:]),
    )


@pytest.mark.parametrize("name", FIGURES)
def test_every_convolution_is_the_published_one(name: str) -> None:
    network = on_meta(published_config(name))
    *layers, classifier = layer_costs(published_config(name))
    got = [row_of(layer, network.get_submodule(layer.name)) for layer in layers]
    assert got == published_rows(name)
    assert (classifier.name, classifier.weight_bits) == ("classifier", 32)
    declared = [
        module_name for module_name, module in network.named_modules() if isinstance(module, nn.Conv2d | BinaryConv2d)
    ]
    assert declared == [layer.name for layer in layers]


@pytest.mark.parametrize("name", FIGURES)
def test_totals_are_the_published_ones(name: str) -> None:
    network = on_meta(published_config(name))
    costs = total(layer_costs(published_config(name)))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert FIGURES[name] == (parameters, costs.binary_weights, costs.binary_macs, costs.float_macs)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_twin_has_the_same_tensors_and_nothing_binary(name: str) -> None:
    config = published_config(name, deviations=tuple(DEVIATIONS), k_map=True)
    binary, twin = on_meta(config), on_meta(config.float_twin())
    shapes, twin_shapes = (
        {key: tensor.shape for key, tensor in network.state_dict().items()} for network in (binary, twin)
    )
    assert shapes == twin_shapes
    assert list(shapes) == list(twin_shapes)
    assert not [module for module in twin.modules() if isinstance(module, BinaryConv2d | BinaryWeightConv2d)]


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_normalisation_without_gamma_is_where_the_published_networks_have_it(name: str) -> None:
    config = published_config(name)
    network = on_meta(config)
    without = [key for key, module in network.named_modules() if getattr(module, "affine", True) is False]
    after_reductions = [f"cells.{index + 1}.preprocess0.norm" for index in config.reduction_cells]
    assert without == (after_reductions if config.stem == "cifar" else [])


# --------------------------------------------------------------------------------------------------------------------
# Groups in the stem


def operations(config: NetworkConfig) -> float:
    """Count as the paper does, as far as its figures tell."""
    counted = RULES["bnas-v2"].count(network_size(config).counted).operations
    assert counted is not None
    return counted


@pytest.mark.parametrize("name", ["BNAS-D", "BNAS-D-dagger"])
def test_operations_are_those_of_the_bracket_of_table_8(name: str) -> None:
    # ~1.48e8. How the paper counts skips is not known: left out, or as if they were binary.
    config = published_config(name)
    skips = sum(layer.macs for layer in layer_costs(config) if layer.name.endswith("skip.conv"))
    assert operations(config) <= 1.48e8 <= 1.01 * (operations(config) + skips / 64)


def test_the_dagger_has_the_most_channels_that_cost_no_more() -> None:
    most = operations(published_config("BNAS-D"))
    # As many groups as in the stem of BATS, where they divide the channels.
    groups = {channels: channels // 20 for channels in range(66, 130, 2)}
    fitting = {channels: count for channels, count in groups.items() if channels // 2 % count == 0}
    affordable = [
        channels
        for channels, count in fitting.items()
        if operations(published_config("BNAS-D", channels=channels, stem_groups=count)) <= most
    ]
    dagger = published_config("BNAS-D-dagger")
    assert (dagger.channels, dagger.stem_groups) == (affordable[-1], fitting[affordable[-1]]) == (88, 4)
    assert dagger.genotype == published_config("BNAS-D").genotype
    assert (dagger.cells, dagger.image_size, dagger.classes) == (12, (224, 224), 1000)


def test_the_second_and_third_convolution_of_the_stem_have_the_groups() -> None:
    layers = {layer.name: layer for layer in layer_costs(published_config("BNAS-D-dagger"))}
    got = {name: layer.groups for name, layer in layers.items() if layer.groups > 1}
    assert got == {"stem.conv1": 4, "stem.conv2": 4}
    assert layers["stem.conv1"].weights == 44 * 88 * 9 // 4
    assert layers["stem.conv2"].macs == 88 * 88 * 9 // 4 * 28 * 28


GROUPED = NetworkConfig(
    "grouped", 3, 8, "imagenet", GENOTYPES["imagenet"], classes=3, in_channels=3, image_size=(32, 64), stem_groups=2
)


@pytest.mark.parametrize("config", [GROUPED, GROUPED.float_twin()], ids=["binary", "float"])
def test_groups_are_the_same_as_zeros_between_them(config: NetworkConfig) -> None:
    torch.manual_seed(0)
    grouped, whole = build_network(config).eval(), build_network(replace(config, stem_groups=1)).eval()
    state = grouped.state_dict()
    for name in ("stem.conv1.weight", "stem.conv2.weight"):
        first, second = state[name].chunk(2)  # (out / 2, in / 2, 3, 3) each
        zeros = torch.zeros_like(first)
        state[name] = torch.cat([torch.cat([first, zeros], dim=1), torch.cat([zeros, second], dim=1)])
    whole.load_state_dict(state)
    images = torch.randn(2, 3, 32, 64)
    for got, wanted in zip(grouped.stem(images), whole.stem(images), strict=True):
        # Sums of at most 72 products of numbers of about 1 in another order: 72 roundings of 6e-8 of at most 72.
        torch.testing.assert_close(got, wanted, rtol=0, atol=72 * 6e-8 * 72)


def test_a_checkpoint_with_groups_comes_back(tmp_path: Path) -> None:
    checkpoint = untrained_checkpoint(GROUPED, seed=0)
    save_checkpoint(tmp_path / "grouped.safetensors", checkpoint)
    loaded = load_checkpoint(tmp_path / "grouped.safetensors")
    assert loaded.network == GROUPED
    images = torch.randn(2, 3, 32, 64)
    assert torch.equal(loaded.build()(images), checkpoint.build()(images))
    text = inspect(tmp_path / "grouped.safetensors")
    assert text.startswith("checkpoint of grouped: 3 cells, 8 channels, imagenet stem with 2 groups, 3 classes, binary")
    assert re.search(r"^stem\.conv1 .* 3x3 s2 g2 .* 144 ", text, re.MULTILINE)  # 8 x 4 / 2 x 9 weights


# --------------------------------------------------------------------------------------------------------------------
# Deviations


def test_no_deviation_is_on_by_default() -> None:
    for module in on_meta(published_config("BNAS-D")).modules():
        assert not isinstance(module, BinaryWeightConv2d)
        if isinstance(module, BinaryConv2d):
            assert module.scheme == XnorNet(k_map=False)


def has_float_weights(module: nn.Module) -> bool:
    return isinstance(module, BinaryConv2d | BinaryWeightConv2d) and module.scheme.weight_bits > 1


@pytest.mark.parametrize("name", NETWORKS)
def test_real_last_two(name: str) -> None:
    config = published_config(name, deviations=("real-last-two",))
    real = [
        key
        for key, module in on_meta(config).named_modules()
        if isinstance(module, BinaryConv2d) and module.scheme.weight_bits > 1
    ]
    assert real == [f"cells.{config.cells - 1}.{edge}" for edge in LAST_TWO[name]]


@pytest.mark.parametrize(
    ("genotype", "deviations", "real"),
    [
        # Without a convolution on an edge the skip, which is real anyway, is one of the two.
        ("cifar", ("real-last-two",), ["cells.2.preprocess1.conv"]),
        (
            "cifar",
            ("real-last-two", "binary-weight-skip"),
            ["cells.2.preprocess1.conv", "cells.2.skip.conv"],
        ),
        ("imagenet", ("real-last-two", "binary-weight-skip"), ["cells.2.edges.5.conv", "cells.2.edges.7.conv"]),
    ],
    ids=["cifar", "first release", "edges"],
)
def test_real_last_two_where_the_last_cell_reduces(genotype: str, deviations: tuple[str, ...], real: list[str]) -> None:
    network = on_meta(replace(TINY, cells=3, genotype=GENOTYPES[genotype], deviations=deviations))
    assert network.config.reduction_cells == (1, 2)
    found = [key for key, module in network.named_modules() if has_float_weights(module)]
    assert found == real


def test_a_skip_that_stays_real_is_a_plain_convolution(rng: np.random.Generator) -> None:
    deviations = ("real-last-two", "binary-weight-skip")
    config = replace(TINY, cells=3, genotype=GENOTYPES["cifar"], deviations=deviations)
    skip = build_network(config).cells[2].skip
    assert isinstance(skip, ReductionSkip)
    x = torch.tensor(rng.normal(size=(2, skip.conv.in_channels, 4, 4)), dtype=torch.float32)
    assert torch.equal(skip.conv(x), nn.functional.conv2d(x, skip.conv.weight, skip.conv.bias, stride=2))


def test_real_last_two_are_counted_with_32_bits() -> None:
    plain, deviating = (
        layer_costs(published_config("BNAS-A", deviations=deviations)) for deviations in ((), ("real-last-two",))
    )
    differing = [
        (before.name, after.weight_bits) for before, after in zip(plain, deviating, strict=True) if before != after
    ]
    assert differing == [("cells.19.edges.1.conv", 32), ("cells.19.edges.2.conv", 32)]


def test_binary_weight_skip() -> None:
    config = published_config("BNAS-A", deviations=("binary-weight-skip",))
    binary = [key for key, module in on_meta(config).named_modules() if isinstance(module, BinaryWeightConv2d)]
    assert binary == ["cells.6.skip.conv", "cells.13.skip.conv"]


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_a_deviation_changes_neither_names_nor_shapes(deviation: str) -> None:
    plain, deviating = (
        {key: tensor.shape for key, tensor in on_meta(replace(TINY, deviations=names)).state_dict().items()}
        for names in ((), (deviation,))
    )
    assert plain == deviating


@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_a_deviation_changes_the_answer_or_the_gradient(deviation: str, rng: np.random.Generator) -> None:
    images = torch.tensor(rng.normal(size=(2, 1, 8, 8)), dtype=torch.float32)
    answers, gradients = [], []
    for names in ((), (deviation,)):
        torch.manual_seed(1)
        network = build_network(replace(TINY, deviations=names))
        randomise_statistics(network, seed=2)
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, BinaryConv2d | nn.Conv2d):
                    module.weight.mul_(4)  # past 1, so that clamping shows
                    module.weight[:, 0] = 0
        answer = network.eval()(images)
        answer.sum().backward()
        answers.append(answer.detach())
        gradients.append([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    same_answer = torch.equal(*answers)
    assert same_answer == (deviation == "fan-in-gradient")
    assert not all(torch.equal(before, after) for before, after in zip(*gradients, strict=True))


# --------------------------------------------------------------------------------------------------------------------
# The arithmetic of a cell

POOLS = Cell(
    (
        *(Edge("max_pool_3x3", 0), Edge("avg_pool_3x3", 1)),
        *(Edge("none", 2), Edge("max_pool_3x3", 2)),
        *(Edge("avg_pool_3x3", 0), Edge("none", 1)),
        *(Edge("max_pool_3x3", 4), Edge("avg_pool_3x3", 3)),
    )
)
"""A cell without convolutions: node 4 is its input 0 averaged, node 3 is node 2 maximised, and so on."""


def windows(x: np.ndarray, stride: int, padding: float) -> np.ndarray:
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=padding)
    return sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]


def max_pool(x: np.ndarray, stride: int = 1) -> np.ndarray:
    return np.asarray(windows(x, stride, -np.inf).max(axis=(-2, -1)))


def average_pool(x: np.ndarray, stride: int = 1) -> np.ndarray:
    return np.asarray(np.nanmean(windows(x, stride, np.nan), axis=(-2, -1)))


def cell_of_pools(*, reduction: bool, skip: bool, previous: int = 2) -> SearchedCell:
    """Return a cell whose two states are its inputs as they are."""
    cell = SearchedCell(
        POOLS,
        before_previous=2,
        previous=previous,
        channels=2,
        reduction=reduction,
        after_reduction=False,
        skip=skip,
        config=TINY,
    )
    cell.preprocess0 = cell.preprocess1 = nn.Identity()  # binary blocks otherwise
    return cell.eval()


def random_state(rng: np.random.Generator, channels: int) -> np.ndarray:
    """Multiples of 36 * 36, so that two average pools in a row are exact."""
    return 1296.0 * rng.integers(-40, 40, (2, channels, 6, 8))


def run(cell: nn.Module, *states: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        answer: Tensor = cell(*(torch.tensor(state, dtype=torch.float32) for state in states))
    return answer.numpy()


def nodes_of_pools(before_previous: np.ndarray, previous: np.ndarray, stride: int) -> np.ndarray:
    node2 = max_pool(before_previous, stride) + average_pool(previous, stride)
    node3 = max_pool(node2)
    node4 = average_pool(before_previous, stride)
    node5 = max_pool(node4) + average_pool(node3)
    return np.concatenate([node2, node3, node4, node5], axis=1)


@pytest.mark.parametrize(("reduction", "stride"), [(False, 1), (True, 2)], ids=["normal", "reduction"])
def test_nodes_are_sums_and_the_output_is_their_concatenation(
    reduction: bool, stride: int, rng: np.random.Generator
) -> None:
    states = random_state(rng, 2), random_state(rng, 2)
    got = run(cell_of_pools(reduction=reduction, skip=False), *states)
    # Only edges from the two inputs have a stride.
    np.testing.assert_array_equal(got, nodes_of_pools(*states, stride=stride))


def test_a_normal_cell_adds_its_previous_one() -> None:
    # The skip takes c_{k-1} as it comes, 4 C channels, before preprocess1 makes C of it.
    cell = cell_of_pools(reduction=False, skip=True, previous=8)
    assert isinstance(cell.skip, nn.Identity)
    cell.preprocess1 = nn.Conv2d(8, 2, 1, bias=False)  # takes the first two channels
    with torch.no_grad():
        cell.preprocess1.weight.copy_(torch.eye(2, 8)[:, :, None, None])
    rng = np.random.default_rng(1)
    before_previous, previous = random_state(rng, 2), random_state(rng, 8)
    want = nodes_of_pools(before_previous, previous[:, :2], stride=1) + previous
    np.testing.assert_array_equal(run(cell, before_previous, previous), want)


def test_a_reduction_cell_adds_a_float_convolution_of_its_previous_one(rng: np.random.Generator) -> None:
    cell = cell_of_pools(reduction=True, skip=True)
    skip = cell.skip
    assert isinstance(skip, ReductionSkip)
    assert type(skip.conv) is nn.Conv2d
    skip.norm.eps = 0.0
    weight, bias = rng.integers(-3, 4, (8, 2, 2, 2)), rng.integers(-9, 10, 8)
    with torch.no_grad():
        skip.norm.running_mean.fill_(100.0)
        skip.norm.running_var.fill_(0.25)
        skip.norm.weight.fill_(1.5)
        skip.norm.bias.fill_(7.0)
        skip.conv.weight.copy_(torch.tensor(weight))
        skip.conv.bias.copy_(torch.tensor(bias))
    before_previous, previous = random_state(rng, 2), random_state(rng, 2)
    normalised = (previous - 100) * 3 + 7
    patches = normalised.reshape(2, 2, 3, 2, 4, 2)  # images, channels, rows, 2, columns, 2
    convolved = np.einsum("ncipjq,ocpq->noij", patches, weight) + bias[:, None, None]
    want = nodes_of_pools(before_previous, previous, stride=2) + convolved
    # Integers below 2^24: exact in float32, in any order.
    np.testing.assert_array_equal(run(cell, before_previous, previous), want)


@pytest.mark.parametrize(
    ("after_reduction", "stem", "kernel", "affine"),
    [(False, "cifar", 1, True), (True, "cifar", 3, False), (True, "imagenet", 3, True)],
)
def test_the_cell_after_a_reduction_halves_its_older_input(
    after_reduction: bool, stem: str, kernel: int, affine: bool
) -> None:
    config = replace(TINY, stem=stem, image_size=(32, 32))
    cell = SearchedCell(
        POOLS,
        before_previous=3,
        previous=5,
        channels=2,
        reduction=False,
        after_reduction=after_reduction,
        skip=False,
        config=config,
    )
    assert cell.preprocess0.conv.kernel_size == (kernel, kernel)
    assert cell.preprocess0.norm.affine == affine
    assert cell.preprocess1.conv.kernel_size == (1, 1)
    assert cell.preprocess1.norm.affine
    size = 8 if after_reduction else 4
    assert run(cell, np.ones((1, 3, size, size)), np.ones((1, 5, 4, 4))).shape == (1, 8, 4, 4)


# --------------------------------------------------------------------------------------------------------------------
# Stem, classifier and the whole


def test_the_first_cell_has_no_skip_and_every_other_has_one() -> None:
    network = on_meta(TINY)
    kinds = [type(cell.skip) for cell in network.cells if isinstance(cell, SearchedCell)]
    assert kinds == [type(None), ReductionSkip, ReductionSkip, nn.Identity]


@pytest.mark.parametrize("name", ["BNAS-Mini", "BNAS-A", "BNAS-D"])
def test_without_the_skip_only_its_layers_are_gone(name: str) -> None:
    config = published_config(name)
    without = layer_costs(replace(config, inter_cell_skip=False))
    assert without == [layer for layer in layer_costs(config) if not layer.name.endswith("skip.conv")]
    # Gammas and betas of a BN, weights and biases of a 2x2 convolution; c is the number of channels of the first cell:
    # from 4 c to 8 c channels, and from 8 c to 16 c.
    sizes = [(4 * scale * config.channels, 8 * scale * config.channels) for scale in (1, 2)]
    saved = sum(2 * before + 4 * before * after + after for before, after in sizes)
    networks = [on_meta(each) for each in (config, replace(config, inter_cell_skip=False))]
    parameters = [sum(each.numel() for each in network.parameters()) for network in networks]
    assert parameters[0] - parameters[1] == saved


def test_without_the_skip_a_cell_gives_its_nodes_alone() -> None:
    network = build_network(replace(TINY, inter_cell_skip=False)).eval()
    assert not [name for name in network.state_dict() if "skip" in name]
    nothing = Cell(tuple(Edge("none", 0) for _ in range(8)))
    empty = build_network(replace(network.config, genotype=Genotype(nothing, nothing))).eval()
    outputs: list[Tensor] = []
    for cell in empty.cells:
        cell.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    logits = empty(torch.randn(2, 1, 8, 8))
    assert [tuple(output.shape) for output in outputs] == [(2, 8, 8, 8), (2, 16, 4, 4), (2, 32, 2, 2), (2, 32, 2, 2)]
    assert not any(output.any() for output in outputs)
    assert torch.equal(logits, empty.classifier.bias.expand(2, -1))


def test_both_inputs_of_the_first_cell_are_the_cifar_stem(rng: np.random.Generator) -> None:
    stem = build_network(TINY).eval().stem
    before_previous, previous = stem(torch.tensor(rng.normal(size=(2, 1, 8, 8)), dtype=torch.float32))
    assert before_previous is previous
    assert previous.shape == (2, 6, 8, 8)
    assert previous.min() == 0


def test_the_imagenet_stem_halves_three_times_and_rectifies_between(rng: np.random.Generator) -> None:
    stem = build_network(replace(TINY, stem="imagenet", image_size=(32, 64))).eval().stem
    before_previous, previous = stem(torch.tensor(rng.normal(size=(2, 1, 32, 64)), dtype=torch.float32))
    assert before_previous.shape == (2, 2, 8, 16)
    assert previous.shape == (2, 2, 4, 8)
    # Cells get the batch normalisations' outputs, both signs, and the third convolution the rectified one.
    assert before_previous.min() < 0
    assert previous.min() < 0
    assert torch.equal(previous, stem.norm2(stem.conv2(before_previous.clamp(min=0))))


@pytest.mark.parametrize("scheme", ["xnor-net", "xnor-net-plus"])
def test_a_stage_of_training_has_float_weights_and_the_same_parameters(scheme: str) -> None:
    config = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], 3, 1, (8, 8), scheme=scheme)
    binary = build_network(config)
    x = torch.randn(2, 4, 5, 5)
    for how, activation in (
        ("float-weights", lambda x: torch.where(x >= 0, 1.0, -1.0)),
        ("tanh", torch.tanh),
    ):
        stage = build_network(config.relax(how))
        assert stage.state_dict().keys() == binary.state_dict().keys()
        layers = [layer for layer in stage.modules() if isinstance(layer, BinaryConv2d)]
        assert {layer.scheme.weight_bits for layer in layers} == {32}
        layer = next(layer for layer in layers if layer.kernel_size == (3, 3) and layer.in_channels == 4)
        wanted = torch.nn.functional.conv2d(
            activation(x), layer.weight, None, layer.stride, layer.padding, layer.dilation
        )
        assert torch.equal(layer(x), wanted)
    assert [*binary.blocks] == [*binary.cells]


@pytest.mark.parametrize("genotype", GENOTYPES)
@pytest.mark.parametrize("real", [False, True], ids=["binary", "float"])
def test_a_forward_pass_gives_logits(genotype: str, real: bool) -> None:
    config = replace(TINY, genotype=GENOTYPES[genotype], image_size=(8, 12))
    network = build_network(config.float_twin() if real else config).eval()
    logits = network(torch.randn(2, 1, 8, 12))
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()


def test_logits_are_a_product_with_the_mean_over_pixels() -> None:
    network = build_network(TINY).eval()
    features: list[Tensor] = []
    network.cells[-1].register_forward_hook(lambda module, inputs, output: features.append(output))
    images = torch.randn(2, 1, 8, 8)
    got = network(images)
    assert torch.equal(got, network.classifier(features[0].mean(dim=(2, 3))))


def test_gradients_reach_every_parameter_that_matters() -> None:
    network = build_network(TINY)
    network(torch.randn(4, 1, 8, 8)).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_a_network_of_zeroise_only_still_runs() -> None:
    nothing = Cell(tuple(Edge("none", 0) for _ in range(8)))
    network = build_network(replace(TINY, genotype=Genotype(nothing, nothing))).eval()
    assert network(torch.randn(1, 1, 8, 8)).shape == (1, 3)


# --------------------------------------------------------------------------------------------------------------------
# Untrained networks


def test_random_statistics_look_like_trained_ones() -> None:
    network = build_network(published_config("BNAS-Mini"))
    randomise_statistics(network, seed=0)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    gammas = torch.cat([norm.weight for norm in norms if norm.affine])
    assert 0.25 < (gammas < 0).double().mean() < 0.42
    assert gammas.abs().min() >= 0.5
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.running_mean.count_nonzero() == norm.num_features
        assert norm.running_var.min() >= 0.25


def states_equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_an_untrained_checkpoint_is_that_of_its_seed() -> None:
    first, again, other = (untrained_checkpoint(TINY, seed) for seed in (5, 5, 6))
    assert states_equal(first.state, again.state)
    assert not states_equal(first.state, other.state)
    assert (first.network, first.data, first.labels) == (TINY, "none", ("class 0", "class 1", "class 2"))
    assert (first.preprocessing.mean, first.preprocessing.std) == ((0.5,), (0.25,))


def test_an_untrained_checkpoint_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    untrained_checkpoint(TINY, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
