"""How the official BNAS code names the weights of its networks, and what those networks do differently.

Its names, with those here behind them (i a cell, j an edge in the order of the genotype):

    stem.bn.*, stem.op.0.weight                          stem.norm.*, stem.conv.weight                    (CIFAR)
    stem0.{0,3}.weight, stem0.{1,4}.*                    stem.conv{0,1}.weight, stem.norm{0,1}.*          (ImageNet)
    stem1.1.weight, stem1.2.*                            stem.conv2.weight, stem.norm2.*                  (ImageNet)
    cells.i.preprocess{0,1}[_red].{bn.*, op.0.weight}    cells.i.preprocess{0,1}.{norm.*, conv.weight}
    cells.i.preprocess_res.{0.*, 1.weight, 1.bias}       cells.i.skip.{norm.*, conv.weight, conv.bias}
    cells.i._ops.j.{bn.*, op.0.weight}                   cells.i.edges.j.{norm.*, conv.weight}
    classifier.{weight, bias}                            the same
"""

import re
from collections.abc import Mapping

from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.family import Layout

_RENAMES = (
    (r"stem0\.0\.", "stem.conv0."),
    (r"stem0\.1\.", "stem.norm0."),
    (r"stem0\.3\.", "stem.conv1."),
    (r"stem0\.4\.", "stem.norm1."),
    (r"stem1\.1\.", "stem.conv2."),
    (r"stem1\.2\.", "stem.norm2."),
    (r"(cells\.\d+\.preprocess[01])_red\.", r"\1."),
    (r"(cells\.\d+\.)preprocess_res\.0\.", r"\1skip.norm."),
    (r"(cells\.\d+\.)preprocess_res\.1\.", r"\1skip.conv."),
    (r"(cells\.\d+\.)_ops\.", r"\1edges."),
    (r"((?:stem|cells\.\d+\.(?:preprocess[01]|edges\.\d+))\.)bn\.", r"\1norm."),
    (r"((?:stem|cells\.\d+\.(?:preprocess[01]|edges\.\d+))\.)op\.0\.", r"\1conv."),
)

CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def name_here(config: NetworkConfig, theirs: str) -> str:
    """Return the name here of a tensor of the official code; all its networks have the same names."""
    for pattern, replacement in _RENAMES:
        theirs = re.sub(f"^{pattern}", replacement, theirs)
    return theirs


def _data(config: NetworkConfig) -> str:
    return "cifar10" if config.stem == "cifar" else "imagenet"


def _names(config: NetworkConfig) -> tuple[str, ...]:
    if config.stem == "cifar" and config.classes == len(CIFAR_10):
        return CIFAR_10
    return tuple(map(str, range(config.classes)))


def _order(config: NetworkConfig) -> tuple[int, ...]:
    """Return the class of each logit.

    The official ImageNet folders are numbered by the rank of their WordNet number, and their reader sorts these numbers
    as text: logit 2 is class 10.
    """
    classes = range(config.classes)
    return tuple(classes if config.stem == "cifar" else sorted(classes, key=str))


def _mean(config: NetworkConfig) -> tuple[float, ...]:
    return (0.49139968, 0.48215827, 0.44653124) if config.stem == "cifar" else (0.485, 0.456, 0.406)


def _std(config: NetworkConfig) -> tuple[float, ...]:
    return (0.24703233, 0.24348505, 0.26158768) if config.stem == "cifar" else (0.229, 0.224, 0.225)


_LATEST = ("centre-weights", "clamp-weights", "fan-in-gradient", "real-last-two", "sign-of-zero")


def _layout(summary: str, *more: str) -> Layout:
    return Layout(summary, name_here, {"deviations": (*_LATEST, *more)}, _data, _names, _order, _mean, _std)


OFFICIAL_LAYOUTS: Mapping[str, Layout] = {
    "official": _layout("the official BNAS code"),
    "official-first": _layout(
        "the official BNAS code, as first released: its 2x2 skips are binary", "binary-weight-skip"
    ),
}
"""By name. Both have the same names and shapes, so a file does not tell which code trained it."""
