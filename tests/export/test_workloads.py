"""The workloads of a network are the nodes that onnxruntime runs, and a table of its size has all of them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.core import operators
from bnas_deploy.core.genotype import GENOTYPES, OPERATIONS, Cell, Edge, Genotype
from bnas_deploy.core.latency_table import Workload
from bnas_deploy.export.capture import capture
from bnas_deploy.export.finish import finish
from bnas_deploy.export.layer_costs import layer_costs
from bnas_deploy.export.passes import PIPELINE
from bnas_deploy.export.rewrite import run
from bnas_deploy.export.workloads import network_workloads, node_workloads, workloads
from bnas_deploy.runtime.bench.profile import original_nodes, read_profile
from bnas_deploy.runtime.onnx_file.reader import read_nodes
from bnas_deploy.runtime.session import create_session, session_options
from bnas_deploy.search.models.bnas.candidate_workloads import candidate_workloads
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.network import Network
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.schemes.xnor_net import XnorNet
from bnas_deploy.search.training.untrained import untrained_checkpoint

IMAGES = (3, 16, 16)
FUSIONS = ("BASIC", "EXTENDED")
"""Levels of onnxruntime that do not depend on the processor: EXTENDED fuses Relu into Conv, and slices into Split."""


def random_genotype(seed: int, zeroise: float) -> Genotype:
    """Return a genotype of which an edge is Zeroise with probability `zeroise`: nodes and whole cells may be zero."""
    rng = np.random.default_rng(seed)
    cells = [
        Cell(
            tuple(
                Edge(
                    "none" if rng.random() < zeroise else str(rng.choice(OPERATIONS[1:])), int(rng.integers(2 + i // 2))
                )
                for i in range(8)
            )
        )
        for _ in range(2)
    ]
    return Genotype(*cells)


def small(genotype: Genotype, stem: str = "cifar", *, skip: bool = True) -> NetworkConfig:
    size = (8, 8) if stem == "cifar" else (64, 64)
    return NetworkConfig("small", 5, 4, stem, genotype, 3, in_channels=3, image_size=size, inter_cell_skip=skip)


def build(config: NetworkConfig) -> Network:
    return untrained_checkpoint(config, seed=0).build()


class Residual(nn.Module):
    """A network that has nothing of BNAS but its layers: 7x7 stem, grouped and rectangular kernels, PReLU, K."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.wide = BinaryConv2d(8, 8, (1, 3), padding=(0, 1), groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.prelu = nn.PReLU(8)
        self.k_map = BinaryConv2d(8, 8, 3, padding=2, dilation=2, scheme=XnorNet(k_map=True))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool = nn.MaxPool2d((1, 2))
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, 16, 16) to (N, 5)."""
        x = torch.relu(self.stem(x))
        x = x + self.prelu(self.norm(self.wide(x)))
        x = torch.cat([self.k_map(x), self.depthwise(x)], dim=1).narrow(1, 4, 8)
        logits: Tensor = self.classifier(self.pool(x).mean(dim=(2, 3)))
        return logits


def exported(module: nn.Module, image_shape: tuple[int, ...], path: Path) -> ir.Model:
    """Write the finished file and read it again."""
    captured = capture(module.eval(), image_shape)
    run(PIPELINE, captured.model)
    onnx.save(finish(captured.model), path)
    return ir.load(path)


def nodes_that_run(path: Path, image_shape: tuple[int, ...], level: str) -> set[str]:
    """Return the names of the file's nodes in onnxruntime's profile of a run."""
    import onnxruntime

    options = session_options(library=True)
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    session = create_session(path, options)
    session.run(None, {"images": np.zeros((2, *image_shape), np.float32)})
    times = read_profile(Path(session.end_profiling()), skip=0)
    return {node.name for node in original_nodes(times, read_nodes(path)) if node is not None}


def depends_on_images(path: Path) -> set[str]:
    """Return the names of the nodes that read what was computed from the images, and not only their number."""
    reached, names = {"images"}, set()
    for node in read_nodes(path):
        if node.op_type != "Shape" and reached & set(node.inputs):
            reached |= set(node.outputs)
            names.add(node.name)
    return names


@pytest.mark.parametrize(
    ("module", "image_shape"),
    [
        (build(small(GENOTYPES["imagenet"], "imagenet")), (3, 64, 64)),
        (build(small(random_genotype(0, zeroise=0.5), skip=False)), (3, 8, 8)),
        (Residual(), IMAGES),
    ],
    ids=["imagenet", "random, no skip", "residual"],
)
def test_workloads_are_the_nodes_that_onnxruntime_runs(
    module: nn.Module, image_shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    model = exported(module, image_shape, path)
    found = node_workloads(model)
    behind_convolutions = {
        str(node.name) for node in model.graph if node.op_type == "Relu" and node.inputs[0].producer().op_type == "Conv"
    } - found.keys()
    assert behind_convolutions
    basic, extended = (nodes_that_run(path, image_shape, level) & depends_on_images(path) for level in FUSIONS)
    assert found.keys() == basic - behind_convolutions
    assert not extended & behind_convolutions
    sums = sum(operators.operator(node.op_type).added for node in model.graph if node.domain == operators.DOMAIN)
    assert sum(count for each, count in workloads(model).items() if each.operator == "FusedAdd") == sums
    assert network_workloads(module, image_shape) == workloads(model)


def test_a_network_of_no_search_has_its_own_workloads(tmp_path: Path) -> None:
    eight, joined = (8, 8, 8), (16, 8, 8)
    assert workloads(exported(Residual(), IMAGES, tmp_path / "model.onnx")) == Counter(
        [
            Workload("Conv", (3, 16, 16), eight, kernel=(7, 7), stride=(2, 2)),
            Workload("BinaryConv2dPRelu", eight, eight, kernel=(1, 3), groups=2),
            Workload("FusedAdd", eight, eight),
            Workload("BinaryConv2dK", eight, eight, kernel=(3, 3), dilation=(2, 2)),
            Workload("Conv", eight, eight, kernel=(3, 3), groups=8),
            Workload("Concat", joined, joined, parts=2),
            Workload("Slice", joined, eight),
            Workload("MaxPool", eight, (8, 8, 4), kernel=(1, 2), stride=(1, 2)),
            Workload("ReduceMean", (8, 8, 4), (8, 1, 1)),
            Workload("Gemm", (8, 1, 1), (5, 1, 1)),
        ]
    )


def test_pooled_bits_count_as_a_layer_of_all_pixels_and_a_maximum(tmp_path: Path) -> None:
    layers = (BinaryConv2d(8, 16, 3, padding=1), nn.MaxPool2d(2), BinaryConv2d(16, 4, 3, stride=2, padding=1))
    second = (nn.MaxPool2d(2), BinaryConv2d(4, 4, 1))
    module = nn.Sequential(nn.Conv2d(3, 8, 1), *layers, *second)
    model = exported(module, (3, 37, 33), tmp_path / "model.onnx")
    assert [node.op_type for node in model.graph if node.domain] == [
        "BinaryConv2dMaxPoolToBits",
        "BinaryConv2dOfBitsMaxPoolToBits",
        "BinaryConv2dOfBits",
    ]
    halves = {"kernel": (2, 2), "stride": (2, 2)}
    assert workloads(model) == Counter(
        [
            Workload("Conv", (3, 37, 33), (8, 37, 33)),
            Workload("BinaryConv2dRelu", (8, 37, 33), (16, 37, 33), kernel=(3, 3)),
            Workload("MaxPool", (16, 37, 33), (16, 18, 16), **halves),
            Workload("BinaryConv2dRelu", (16, 18, 16), (4, 9, 8), kernel=(3, 3), stride=(2, 2)),
            Workload("MaxPool", (4, 9, 8), (4, 4, 4), **halves),
            Workload("BinaryConv2d", (4, 4, 4), (4, 4, 4)),
        ]
    )
    # As many as without: every pixel is convolved, those of a last row or column that is left out, too.
    macs = [cost.macs for cost in layer_costs(model)]
    assert macs == [37 * 33 * 8 * 3, 37 * 33 * 16 * 8 * 9, 9 * 8 * 4 * 16 * 9, 4 * 4 * 4 * 4]


@pytest.mark.parametrize(
    "config",
    [
        small(GENOTYPES["cifar"]),
        small(random_genotype(1, zeroise=0.3)),
        small(random_genotype(2, zeroise=0.5), "imagenet", skip=False),
        small(random_genotype(3, zeroise=0.8)),
        small(Genotype(random_genotype(0, zeroise=1).normal, random_genotype(4, zeroise=0.3).reduction)),
        replace(small(random_genotype(5, zeroise=1)), cells=3),
        replace(small(GENOTYPES["imagenet"], "imagenet"), stem_groups=2),
    ],
    ids=["cifar", "random", "random, no skip", "much Zeroise", "normal cell zero", "only Zeroise", "groups"],
)
def test_a_table_of_a_size_has_every_workload_of_its_networks(config: NetworkConfig) -> None:
    found = network_workloads(build(config), (config.in_channels, *config.image_size))
    missing = found.keys() - set(candidate_workloads(config))
    assert not missing, [str(workload) for workload in missing]
