"""How larq's zoo stores the weights of its networks, and what these do differently.

Code: github.com/larq/zoo at 77c5853, larq_zoo/sota/quicknet.py, and birealnet.py, densenet.py and meliusnet.py of
larq_zoo/literature. The order of the arrays is that of the layers in a Keras model, as TF-Keras 2 saves it.

Its networks pad strided layers as TensorFlow does: as many zeros as an output of half the size needs, the odd one below
and at the right. Their BN has TensorFlow's constants in places. The setting `like_larq` does both.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.family import Layout
from bnas_deploy.search.models.layouts.imagenet import imagenet_layout

if TYPE_CHECKING:
    from torch import nn


def in_order(network: "nn.Module") -> Iterator[str]:
    """Yield the names of the modules of a network in the order in which they run, one after another."""
    for name, _ in network.named_modules():
        yield name


def bi_real_order(network: "nn.Module") -> Iterator[str]:
    """Yield them for Bi-Real Net, where Keras orders the two branches of a sum by their distance from it."""
    inside = ("first.0", "shortcut.1", "first.1", "shortcut.2", "second.0", "second.1")
    yield from (f"stem.{name}" for name, _ in network.get_submodule("stem").named_modules() if name)
    for number, block in enumerate(network.get_submodule("blocks").children()):
        has = {name for name, _ in block.named_modules()}
        yield from (f"blocks.{number}.{name}" for name in inside if name in has)
    yield "classifier.linear"


def _same(config: BackboneConfig, theirs: str) -> str:
    return theirs


def larq_layouts(
    layers: "Callable[[nn.Module], Iterator[str]]" = in_order, networks: tuple[str, ...] | None = None
) -> dict[str, Layout]:
    """Return larq's layout of a family whose layers have this order, by its name."""
    return {
        "larq": imagenet_layout(
            "larq's zoo, a file of Keras (.h5) or of numpy (.npz)",
            _same,
            {"like_larq": True},
            networks=networks,
            layers=layers,
        )
    }
