"""What a genotype is said to cost is what its exported file contains, node by node."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas_deploy.export import opset
from bnas_deploy.export.capture import capture
from bnas_deploy.export.finish import finish
from bnas_deploy.export.passes import PIPELINE
from bnas_deploy.export.rewrite import run
from bnas_deploy.genotype import GENOTYPES, OPERATIONS, Cell, Edge, Genotype
from bnas_deploy.latency import CONVOLUTIONS, Work
from bnas_deploy.search import fused_works
from bnas_deploy.search.config import NETWORKS, NetworkConfig, published_config
from bnas_deploy.search.network import build_network
from bnas_deploy.search.network_works import all_works, network_works
from bnas_deploy.search.untrained import untrained_checkpoint

Key = tuple[str | int, ...]


def random_genotype(seed: int) -> Genotype:
    """Return a genotype in which every node has an edge that is not Zeroise: no node is zero."""
    rng = np.random.default_rng(seed)
    cells = [
        Cell(
            tuple(Edge(str(rng.choice(OPERATIONS[edge % 2 :])), int(rng.integers(2 + edge // 2))) for edge in range(8))
        )
        for _ in range(2)
    ]
    return Genotype(*cells)


def small(genotype: Genotype, stem: str = "cifar") -> NetworkConfig:
    size = (8, 8) if stem == "cifar" else (64, 64)
    return NetworkConfig("small", 5, 4, stem, genotype, classes=3, in_channels=3, image_size=size)


def exported(config: NetworkConfig) -> onnx.ModelProto:
    network = build_network(config)
    network.load_state_dict(dict(untrained_checkpoint(config, seed=0).state))
    captured = capture(network.eval(), (config.in_channels, *config.image_size))
    run(PIPELINE, captured.model)
    return finish(captured.model)


def keys_of_file(model: onnx.ModelProto) -> Counter[Key]:
    """Describe every node inside the cells by its operator, its shapes and its geometry."""
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}
    found: Counter[Key] = Counter()
    for node in model.graph.node:
        x, y = shapes.get(node.input[0], []), shapes[node.output[0]]
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        match node.op_type:
            case name if node.domain == opset.DOMAIN:
                shape, dilations, strides = (attributes[key] for key in ("weight_shape", "dilations", "strides"))
                (constant_channels,) = attributes.get("constant_channels", [0])
                channels = shape[3] - constant_channels
                found["binary", shape[1], dilations[0], channels, y[1], *x[2:], strides[0]] += 1
                for _ in opset.operator(name).added_inputs:
                    found["fused_add", y[1], *y[2:]] += 1
            case "Conv" if node.name.endswith("skip.conv"):
                found["skip", x[1], y[1], *x[2:]] += 1
            case "MaxPool" | "AveragePool":
                found[
                    {"MaxPool": "max_pool_3x3", "AveragePool": "avg_pool_3x3"}[node.op_type],
                    x[1],
                    *x[2:],
                    attributes["strides"][0],
                ] += 1
            case "Add" if len(shapes.get(node.input[1], [])) == len(y):  # not the shift of the BN in the stem
                found["add", y[1], *y[2:]] += 1
            case "Concat" if len(y) == 4:  # not of a shape
                found["concat", len(node.input), y[1], *y[2:]] += 1
            case "Slice":
                found["slice", x[1], y[1], *y[2:]] += 1
    return found


def key_of_work(work: Work) -> Key | None:
    image = work.height, work.width
    if work.kind in CONVOLUTIONS:
        return ("binary", *CONVOLUTIONS[work.kind], work.channels_in, work.channels_out, *image, work.stride)
    if work.kind.endswith("_pool_3x3"):
        return (work.kind, work.channels_in, *image, work.stride)
    if work.kind in ("add", "fused_add"):
        return (work.kind, work.channels_in, *image)
    if work.kind in ("skip", "concat", "slice"):
        return (work.kind, work.channels_in, work.channels_out, *image)
    return None


def keys_of_works(works: Counter[Work]) -> Counter[Key]:
    found: Counter[Key] = Counter()
    for work, count in works.items():
        if (key := key_of_work(work)) is not None:
            found[key] += count
    return found


@pytest.mark.parametrize(
    "config",
    [
        small(GENOTYPES["cifar"]),
        small(GENOTYPES["imagenet"], "imagenet"),
        small(random_genotype(0)),
        replace(small(GENOTYPES["cifar"]), inter_cell_skip=False),
        replace(small(GENOTYPES["imagenet"], "imagenet"), inter_cell_skip=False),
        replace(small(random_genotype(0)), inter_cell_skip=False),
    ],
    ids=["cifar", "imagenet", "random", "cifar, no skip", "imagenet, no skip", "random, no skip"],
)
def test_the_works_are_the_nodes_of_the_file(config: NetworkConfig) -> None:
    assert keys_of_works(network_works(config)) == keys_of_file(exported(config))


def test_convolutions_take_as_much_as_the_operators_can() -> None:
    assert (fused_works.MOST_ADDED, fused_works.MOST_PARTS) == (opset.MOST_ADDED, opset.MOST_PARTS)


def test_everything_else_is_counted_once() -> None:
    works = network_works(published_config("BNAS-A"))
    once = [work for work in works if key_of_work(work) is None]
    assert sorted(work.kind for work in once) == ["classifier", "run", "stem_cifar"]
    assert all(works[work] == 1 for work in once)


edges = [st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 1 + edge // 2)) for edge in range(8)]
cells = st.tuples(*edges).map(lambda cell: Cell(tuple(Edge(*edge) for edge in cell)))


@settings(deadline=None)
@given(st.builds(Genotype, cells, cells), st.sampled_from(sorted(NETWORKS)), st.booleans())
def test_a_table_of_a_size_has_every_work_of_its_networks(genotype: Genotype, network: str, skip: bool) -> None:
    config = published_config(network, genotype=genotype, inter_cell_skip=skip)
    assert network_works(config).keys() <= set(all_works(config))
