"""The row of the registry for the networks of BNAS v2. It imports no framework before a network is built."""

from typing import TYPE_CHECKING

from bnas_deploy.search.models.bnas.config import NETWORKS, NetworkConfig, published_config
from bnas_deploy.search.models.bnas.official import OFFICIAL_LAYOUTS
from bnas_deploy.search.models.family import Family

if TYPE_CHECKING:
    from torch import nn


def _build(config: NetworkConfig) -> "nn.Module":
    from bnas_deploy.search.models.bnas.network import build_network

    return build_network(config)


BNAS = Family(
    name="bnas",
    networks=tuple(NETWORKS),
    options=frozenset(
        {"cells", "channels", "stem_groups", "genotype", "deviations", "scheme", "k_map", "inter_cell_skip"}
    ),
    configure=published_config,
    read=NetworkConfig.from_json,
    build=_build,
    layouts=OFFICIAL_LAYOUTS,
)
