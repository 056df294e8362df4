"""The row of the registry for the networks of BNAS v2. It imports no framework before a network is built."""

from typing import TYPE_CHECKING

from bnas_deploy.core.genotype import read_genotype
from bnas_deploy.search.models.bnas.config import DEVIATIONS, NETWORKS, NetworkConfig, published_config
from bnas_deploy.search.models.bnas.official import OFFICIAL_LAYOUTS
from bnas_deploy.search.models.family import Family, Searched
from bnas_deploy.search.models.settings import K_MAP, SCHEME, Choice, Count, Setting, Switch, Text

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.core.latency_table import Workload

CELLS = Setting("cells", "--cells", Count(3), "Cells, two of which reduce. [default: as published]")

CHANNELS = Setting("channels", "--channels", Count(), "Channels of the first cell. [default: as published]")

STEM_GROUPS = Setting(
    "stem_groups",
    "--stem-groups",
    Count(),
    "Groups of the second and third convolution of the stem for 224x224 images. [default: as published]",
)

GENOTYPE = Setting(
    "genotype",
    "--genotype",
    Text("cifar|imagenet|FILE", read_genotype),
    "Which cells: a published genotype or a JSON file. [default: the one the network was published with]",
)

INTER_CELL_SKIP = Setting(
    "inter_cell_skip",
    "--no-skip",
    Switch(on=False),
    "Ablation: no skip from cell to cell, neither the sum nor its 2x2 convolutions.",
)

LIKE_OFFICIAL_CODE = Setting(
    "deviations",
    "--like-official-code",
    Choice(tuple(DEVIATIONS), repeated=True),
    f"Deviate from the paper as the official code does; may be repeated. One of {', '.join(DEVIATIONS)}.",
    binary=True,
)


def _build(config: NetworkConfig) -> "nn.Module":
    from bnas_deploy.search.models.bnas.network import build_network

    return build_network(config)


def _workloads(config: NetworkConfig) -> "list[Workload]":
    from bnas_deploy.search.models.bnas.candidate_workloads import candidate_workloads

    return candidate_workloads(config)


BNAS = Family(
    name="bnas",
    networks=tuple(NETWORKS),
    settings=(CELLS, CHANNELS, STEM_GROUPS, GENOTYPE, SCHEME, K_MAP, INTER_CELL_SKIP, LIKE_OFFICIAL_CODE),
    configure=published_config,
    read=NetworkConfig.from_json,
    build=_build,
    layouts=OFFICIAL_LAYOUTS,
    searched=Searched((INTER_CELL_SKIP,), _workloads),
    rule="bnas-v2",
)
