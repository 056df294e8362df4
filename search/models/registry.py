"""The networks that can be built by name: what `--network` offers and what a checkpoint may hold.

A new family is a module of its own and a row here. No framework is imported before a network is built.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING

from bnas_deploy.core.counting.rules import RULES, Rule
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.names import did_you_mean, known_name
from bnas_deploy.search.models.alexnet import ALEXNET
from bnas_deploy.search.models.binary_densenet import BINARY_DENSENET
from bnas_deploy.search.models.bnas.model import BNAS
from bnas_deploy.search.models.bnext import BNEXT
from bnas_deploy.search.models.densenet import DENSENET
from bnas_deploy.search.models.family import Family, Layout, ModelConfig, Options
from bnas_deploy.search.models.frac_bnn import FRAC_BNN
from bnas_deploy.search.models.ir_net import IR_NET
from bnas_deploy.search.models.lenet import LENET
from bnas_deploy.search.models.melius_net import MELIUS_NET
from bnas_deploy.search.models.nin import NIN
from bnas_deploy.search.models.quicknet import QUICKNET
from bnas_deploy.search.models.reactnet import REACTNET
from bnas_deploy.search.models.real_to_binary import REAL_TO_BINARY
from bnas_deploy.search.models.resnet import RESNET
from bnas_deploy.search.models.resnext import RESNEXT
from bnas_deploy.search.models.senet import SENET
from bnas_deploy.search.models.settings import Setting
from bnas_deploy.search.models.small_cnn import SMALL_CNN
from bnas_deploy.search.models.vgg import VGG
from bnas_deploy.search.models.wide_resnet import WIDE_RESNET
from bnas_deploy.search.nn.schemes import DEFAULT

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.core.latency_table import Workload
    from bnas_deploy.search.nn.geometry import Geometry

BACKBONES = (
    LENET,
    NIN,
    VGG,
    ALEXNET,
    RESNET,
    WIDE_RESNET,
    RESNEXT,
    SENET,
    DENSENET,
    BINARY_DENSENET,
    IR_NET,
    REAL_TO_BINARY,
    REACTNET,
    MELIUS_NET,
    QUICKNET,
    BNEXT,
    FRAC_BNN,
)
"""The families that others designed, simple ones first."""

FAMILIES = {row.name: row for row in (BNAS, *(family.row() for family in BACKBONES), SMALL_CNN)}
"""Every family by name."""


SMALLEST_IMAGES = 8
"""Height and width of the smallest images of a data set, `digits`, which is the default of commands that train."""


def network_names() -> list[str]:
    """Return the names of all published networks."""
    return [network for family in FAMILIES.values() for network in family.networks]


def least_images() -> dict[str, int]:
    """Return the pixels in height and width that a network needs, by its name, where small images have less."""
    networks = (each for family in BACKBONES for each in family.networks.items())
    return {name: network.least_image for name, network in networks if network.least_image > SMALLEST_IMAGES}


def configure(
    network: str,
    *,
    classes: int | None = None,
    in_channels: int = 3,
    image_size: tuple[int, int] | None = None,
    options: Options | None = None,
) -> ModelConfig:
    """Return the configuration of a published network, as published or fitted to other images.

    Args:
        network: its name, in any case.
        classes: how many; None: as published.
        in_channels: of an image.
        image_size: (height, width); None: as published.
        options: settings by keyword; None stands for the default of the family.

    Raises:
        BnasError: no such network, a setting that its family lacks, or images that do not fit it.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    family = _family_with(network, given)
    return family.configure(network, classes=classes, in_channels=in_channels, image_size=image_size, **given)


def check_settings(network: str, options: Options) -> None:
    """Make sure that there is such a network, and that its family has these settings.

    Raises:
        BnasError: there is none, or it lacks one.
    """
    _family_with(network, [name for name, value in options.items() if value is not None])


def published_configs(network: str) -> list[ModelConfig]:
    """Return a network as it is published, in each of its forms.

    Raises:
        BnasError: no such network.
    """
    family = _family_of(network)
    forms = family.forms.get(known_name(network, family.networks) or "", ())
    return [configure(network, options={"form": form}) for form in forms] or [configure(network)]


def configs_named(name: str) -> list[ModelConfig]:
    """Return a network in each of its forms by its name, or in the one that the name says, such as ResNet-18-cifar.

    Nothing is returned for a name that no network has.
    """
    if known := known_name(name, network_names()):
        return published_configs(known)
    every = (config for network in network_names() for config in published_configs(network))
    return [config for config in every if known_name(name, [config.name])]


def rule_of(config: ModelConfig) -> Rule:
    """Return the rule by which the paper of a network counts its memory and its operations."""
    return RULES[FAMILIES[config.model].rule]


def shared_settings(settings: Callable[[Family], Iterable[Setting]]) -> dict[str, dict[str, Setting]]:
    """Return some settings of every family, by option and then by the family's name.

    Raises:
        ValueError: an option has two meanings, and a command line can take one only.
    """
    by_option: dict[str, dict[str, Setting]] = {}
    for family in FAMILIES.values():
        for setting in settings(family):
            others = by_option.setdefault(setting.option, {})
            for name, other in others.items():
                if (setting.keyword, setting.kind, setting.binary) != (other.keyword, other.kind, other.binary):
                    raise ValueError(
                        f"{setting.option} of {family.name} is {setting.keyword}, {setting.kind}, but of {name} it is "
                        f"{other.keyword}, {other.kind}; spell one of them otherwise"
                    )
            others[family.name] = setting
    return by_option


def searched_networks() -> list[str]:
    """Return the names of the published networks whose operations or widths a search chooses."""
    return [network for family in FAMILIES.values() if family.searched for network in family.networks]


def candidate_workloads(config: ModelConfig) -> "list[Workload]":
    """Return every workload whose time a search needs for a network of the size of `config`, each once.

    Raises:
        BnasError: no search chooses operations of its family.
    """
    searched = FAMILIES[config.model].searched
    if searched is None:
        raise BnasError(
            f"{config.name}: no search chooses its operations, so there is no table of them; choose one of "
            f"{', '.join(searched_networks())}, or measure the network itself with bench"
        )
    return searched.workloads(config)


def read_config(model: object, data: object, where: str) -> ModelConfig:
    """Build a configuration from what a checkpoint says; `where` names its origin in errors.

    Raises:
        BnasError: no such family, or not its configuration.
    """
    if not isinstance(model, str) or model not in FAMILIES:
        raise BnasError(f"{where}: unknown model {model!r}; this bnas-deploy builds {', '.join(FAMILIES)}")
    return FAMILIES[model].read(data, where)


def build_network(config: ModelConfig) -> "nn.Module":
    """Return the network of a configuration, with the initialisation that training starts from.

    Raises:
        BnasError: a layer of the network cannot have its scheme.
    """
    from bnas_deploy.search.nn.image_size import fit_to_images
    from bnas_deploy.search.nn.scheme import ExcludedError

    try:
        network = FAMILIES[config.model].build(config)
    except ExcludedError as error:
        remedy = "leave --k-map out" if error.is_of_k_map else "choose another --scheme or --network"
        raise BnasError(f"{config.name}: {_name_of(config, error.geometry)}{error}; {remedy}") from None
    fit_to_images(network, config.in_channels, config.image_size)
    return network


def _name_of(config: ModelConfig, geometry: "Geometry") -> str:
    """Return the name of the first layer of a geometry, with a colon, for an error; "" where it is not to be found.

    A network that cannot be built has no names, so it is built in a scheme that excludes nothing.
    """
    import torch

    from bnas_deploy.search.nn.layers import BinaryConv2d
    from bnas_deploy.search.nn.scheme import ExcludedError

    if not (is_dataclass(config) and {"scheme", "k_map"} <= {each.name for each in fields(config)}):
        return ""
    try:
        with torch.device("meta"):
            network = FAMILIES[config.model].build(replace(config, scheme=DEFAULT, k_map=False))
    except (BnasError, ExcludedError):
        return ""
    named = (name for name, layer in network.named_modules() if isinstance(layer, BinaryConv2d) and layer.has(geometry))
    return next((f"{name}: " for name in named), "")


def layouts() -> dict[str, Layout]:
    """Return every foreign layout of weights by name."""
    return {name: layout for family in FAMILIES.values() for name, layout in family.layouts.items()}


def layout_of(network: str, layout: str | None = None) -> tuple[str, Layout]:
    """Return the name and the facts of a layout of the weights of a network; None stands for its first one.

    Raises:
        BnasError: no such network, or none of its layouts has that name.
    """
    family = _family_of(network)
    canonical = known_name(network, family.networks)
    known = {name: row for name, row in family.layouts.items() if row.networks is None or canonical in row.networks}
    chosen = next(iter(known), None) if layout is None else layout
    if chosen not in known:
        what = "layout" if chosen is None else f"layout {chosen!r}"
        raise BnasError(f"{network}: no {what} of its weights; there are {', '.join(known) or 'none'}")
    return chosen, known[chosen]


def _family_with(network: str, keywords: Iterable[str]) -> Family:
    family = _family_of(network)
    for keyword in keywords:
        if not family.setting(keyword):
            raise BnasError(_foreign(network, keyword))
    return family


def _family_of(network: str) -> Family:
    for family in FAMILIES.values():
        if known_name(network, family.networks):
            return family
    near = did_you_mean(network, network_names())
    raise BnasError(f"unknown network {network!r}; the networks are {', '.join(network_names())}{near}")


def _foreign(network: str, keyword: str) -> str:
    """Say that a network has no such setting, and which networks have it."""
    having = [family for family in FAMILIES.values() if family.setting(keyword)]
    spellings = [setting.option for family in having if (setting := family.setting(keyword))]
    networks = [name for family in having for name in family.networks]
    return (
        f"{network} has no setting {spellings[0] if spellings else keyword}; leave it out, or choose a network that "
        f"has it: {', '.join(networks) or 'there is none'}"
    )
