"""What all networks have in common that others trained on ImageNet."""

from collections.abc import Callable
from functools import partial

from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.family import Layout


def _data(config: BackboneConfig) -> str:
    return "imagenet"


def _names(config: BackboneConfig) -> tuple[str, ...]:
    return tuple(map(str, range(config.classes)))


def _order(config: BackboneConfig) -> tuple[int, ...]:
    """Return the class of each logit: that of its place among the WordNet numbers of the classes, sorted."""
    return tuple(range(config.classes))


def _mean(config: BackboneConfig) -> tuple[float, ...]:
    return (0.485, 0.456, 0.406)


def _std(config: BackboneConfig) -> tuple[float, ...]:
    return (0.229, 0.224, 0.225)


imagenet_layout: Callable[..., Layout] = partial(Layout, data=_data, names=_names, order=_order, mean=_mean, std=_std)
"""Makes a `Layout` of weights that were trained on ImageNet, whose logits are in the order of the sorted folders."""
