"""Networks that others designed: one configuration for all of them, and their families from a few facts each.

A backbone is a chain of layers whose numbers of channels can be chosen one by one, its *widths*; `search-widths`
searches them. It comes in forms: "cifar" for small images and "imagenet" for large ones, which differ in the stem. A
module of `bnas_deploy.search.models` states a family: its published networks, the names of their widths, and how they
are built. No framework is imported before a network is built.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.json_records import from_json
from bnas_deploy.core.names import known_name
from bnas_deploy.search.models.backbone_settings import (
    FORM,
    FORMS,
    LARGE_IMAGE,
    LIKE_LARQ,
    WIDTH_FACTOR,
    WIDTHS,
    Widths,
    checked_widths,
)
from bnas_deploy.search.models.family import Family, Layout, Searched
from bnas_deploy.search.models.relaxation import RELAXED, check_relaxed
from bnas_deploy.search.models.settings import K_MAP, SCHEME
from bnas_deploy.search.models.size_limits import check_sizes
from bnas_deploy.search.nn.schemes import DEFAULT, check_scheme

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.core.latency_table import Workload


@dataclass(frozen=True)
class Form:
    """A published network for images of one kind.

    Attributes:
        widths: channels, in the order of the family's names for them.
        image_size: (height, width).
        classes: how many.
    """

    widths: tuple[int, ...]
    image_size: tuple[int, int]
    classes: int


def cifar_form(*widths: int) -> Form:
    """Return a form for CIFAR-10."""
    return Form(widths, (32, 32), 10)


def imagenet_form(*widths: int) -> Form:
    """Return a form for ImageNet."""
    return Form(widths, (224, 224), 1000)


@dataclass(frozen=True)
class Backbone:
    """A network as published.

    Attributes:
        source: who designed it, and the rows of tables that it is.
        forms: by name, of `FORMS`.
        architecture: what else the family's builder needs, such as the number of blocks.
        scheme: how its own paper binarises.
        least_image: the height and the width from which on an image leaves something behind every layer.
    """

    source: str
    forms: Mapping[str, Form]
    architecture: Any = None
    scheme: str = DEFAULT
    least_image: int = 1


@dataclass(frozen=True)
class BackboneConfig:
    """Everything that a builder of a backbone needs.

    Attributes:
        model: name of the family.
        network: name of the published network.
        name: of this network, with what differs from the published one.
        form: of `FORMS`.
        widths: channels, in the order of the family's names for them.
        classes: how many.
        in_channels: of an image.
        image_size: (height, width).
        scheme: how binary convolutions binarise, of `bnas_deploy.search.nn.schemes`.
        k_map: multiply each by the map K of XNOR-Net.
        is_float: the float twin, with float weights and no sign.
        relaxed: what binary layers are before they are binary, of `RELAXED`.
        like_larq: pad strided layers and normalise as larq's networks do.
    """

    model: str
    network: str
    name: str
    form: str
    widths: tuple[int, ...]
    classes: int
    in_channels: int
    image_size: tuple[int, int]
    scheme: str = DEFAULT
    k_map: bool = False
    is_float: bool = False
    relaxed: str | None = None
    like_larq: bool = False

    def __post_init__(self) -> None:
        checked_widths(self.name, self.widths)
        check_sizes(self.name, image_size=self.image_size, classes=self.classes, in_channels=self.in_channels)
        check_scheme(self.scheme, self.name)
        check_relaxed(self.relaxed, self.name, is_float=self.is_float)

    def float_twin(self) -> "BackboneConfig":
        """Return the same architecture with float weights and no sign."""
        return replace(self, is_float=True, scheme=DEFAULT, k_map=False, relaxed=None)

    def fitted(self, *, classes: int, in_channels: int, image_size: tuple[int, int]) -> "BackboneConfig":
        """Return the same architecture for other images, with binary layers where a stage of training has others."""
        return replace(self, classes=classes, in_channels=in_channels, image_size=image_size, relaxed=None)

    def relax(self, how: str) -> "BackboneConfig":
        """Return the same network with something else in the place of binary layers, one of `RELAXED`."""
        return replace(self, relaxed=how)

    def with_widths(self, widths: tuple[int, ...]) -> "BackboneConfig":
        """Return the same network, by the same name, with other widths."""
        return replace(self, widths=widths)

    @property
    def summary(self) -> str:
        """Return form and widths."""
        return f"{self.form} form, {min(self.widths)} to {max(self.widths)} channels"

    def describe(self) -> list[str]:
        """Return what is unusual, and the widths."""
        return [
            *([] if self.is_float else [f"scheme {self.scheme}"]),
            *(["multiplied by the map K"] if self.k_map else []),
            *(["padded and normalised as larq's"] if self.like_larq else []),
            *([f"a stage of training: {RELAXED[self.relaxed]}"] if self.relaxed else []),
            f"widths {', '.join(map(str, self.widths))}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return what the family's `read` reads."""
        return asdict(self)


@dataclass(frozen=True)
class BackboneFamily:
    """What a module of backbones states.

    Attributes:
        name: in checkpoints.
        networks: the published ones by name.
        width_names: names the widths of one of them.
        build: makes a network of binary layers or of float ones, with the initialisation that training starts from.
        divisors: what a width has to be a multiple of because of groups, by its name; 1 for others.
        layouts: weights of others that `import` reads, by the name of the layout.
        in_larq: those of its networks that larq has, too, and that can be built as there.
    """

    name: str
    networks: Mapping[str, Backbone]
    width_names: Callable[[Backbone], tuple[str, ...]]
    build: Callable[[BackboneConfig], "nn.Module"]
    divisors: Callable[[Backbone], Mapping[str, int]] = lambda backbone: {}
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    in_larq: tuple[str, ...] = ()

    def row(self) -> Family:
        """Return the row of the registry."""
        return Family(
            name=self.name,
            networks=tuple(self.networks),
            settings=(FORM, WIDTH_FACTOR, WIDTHS, SCHEME, K_MAP, *([LIKE_LARQ] if self.in_larq else [])),
            configure=self.configure,
            read=self.read,
            build=self.network,
            layouts=self.layouts,
            searched=Searched(settings=(FORM, WIDTH_FACTOR, WIDTHS), workloads=_workloads),
            width_names=self.names_of_widths,
            forms={name: tuple(network.forms) for name, network in self.networks.items()},
        )

    def network(self, config: BackboneConfig) -> "nn.Module":
        """Return the network of a configuration, with the initialisation that training starts from.

        Raises:
            BnasError: widths or images do not fit it.
            ExcludedError: it cannot have its scheme.
        """
        from bnas_deploy.search.models.relaxation import relax_layers

        self._check_sizes(config, config.name)
        network = self.build(config)
        relax_layers(network, config.relaxed)
        return network

    def widths_of(self, config: BackboneConfig) -> dict[str, int]:
        """Return the widths of a configuration by name."""
        return dict(zip(self.names_of_widths(config), config.widths, strict=True))

    def names_of_widths(self, config: BackboneConfig) -> tuple[str, ...]:
        """Return what each of `config.widths` is the number of channels of."""
        return self.width_names(self.networks[config.network])

    def configure(
        self,
        network: str,
        *,
        classes: int | None = None,
        in_channels: int = 3,
        image_size: tuple[int, int] | None = None,
        form: str | None = None,
        width_factor: float = 1.0,
        widths: Widths | None = None,
        scheme: str | None = None,
        k_map: bool = False,
        like_larq: bool = False,
    ) -> BackboneConfig:
        """Return the configuration of a published network, as published or fitted to other images.

        Raises:
            BnasError: it has no such form, or the widths are not its own.
        """
        known = known_name(network, self.networks)
        assert known is not None, f"{network} is no network of {self.name}"
        backbone = self.networks[known]
        form = form or _form_for(backbone, image_size)
        if form not in backbone.forms:
            raise BnasError(f"{known}: no form {form!r}; it has {', '.join(backbone.forms)}")
        if like_larq and known not in self.in_larq:
            raise BnasError(f"{known}: larq has no such network, but {', '.join(self.in_larq)}; leave --like-larq out")
        published = backbone.forms[form]
        name = known if len(backbone.forms) == 1 else f"{known}-{form}"
        config = BackboneConfig(
            model=self.name,
            network=known,
            name=name if width_factor == 1 else f"{name}-{width_factor:g}x",
            form=form,
            widths=self._scaled(backbone, published.widths, width_factor),
            classes=published.classes if classes is None else classes,
            in_channels=in_channels,
            image_size=image_size or published.image_size,
            scheme=scheme or (widths and widths.scheme) or backbone.scheme,
            k_map=k_map,
            like_larq=like_larq,
        )
        if widths is not None:
            self._check_widths(widths, config, is_scaled=width_factor != 1)
            config = replace(config, widths=widths.channels, name=f"{known}-{form}-own-widths")
        self._check_sizes(config, config.name)
        return config

    def _scaled(self, backbone: Backbone, widths: tuple[int, ...], factor: float) -> tuple[int, ...]:
        """Return widths times a factor, each rounded to what its groups divide."""
        divisors = self.divisors(backbone)
        names = self.width_names(backbone)
        return tuple(scaled(width, factor, divisors.get(name, 1)) for name, width in zip(names, widths, strict=True))

    def _check_sizes(self, config: BackboneConfig, where: str) -> None:
        """Refuse widths that groups do not divide, and images of which a layer would leave nothing."""
        backbone = self.networks[config.network]
        widths = self.widths_of(config)
        for name, divisor in self.divisors(backbone).items():
            if widths[name] % divisor:
                raise BnasError(
                    f"{where}: {widths[name]} channels of {name}, which {divisor} groups do not divide; wanted a "
                    f"multiple of {divisor}"
                )
        if min(config.image_size) < backbone.least_image:
            height, width = config.image_size
            raise BnasError(
                f"{where}: images of {height}x{width}, of which its layers leave nothing; wanted at least "
                f"{backbone.least_image} pixels in height and width"
            )

    def _check_widths(self, widths: Widths, config: BackboneConfig, *, is_scaled: bool) -> None:
        if is_scaled:
            raise BnasError(f"{config.name}: --widths and --width-factor exclude each other; leave one of them out")
        if widths.network is not None and (widths.network, widths.form) != (config.network, config.form):
            raise BnasError(
                f"{config.name}: widths of {widths.network} in its {widths.form} form, wanted those of "
                f"{config.network} in its {config.form} form; choose that network, or another file of widths"
            )
        names = self.names_of_widths(config)
        if len(widths.channels) != len(names):
            raise BnasError(
                f"{config.name}: {counted(len(widths.channels), 'width')}, wanted {len(names)}: the channels of "
                f"{', '.join(names)}"
            )

    def read(self, data: object, where: str) -> BackboneConfig:
        """Build a configuration from parsed JSON; `where` names its origin in errors."""
        try:
            config: BackboneConfig = from_json(BackboneConfig, data)
        except ValueError as error:
            raise BnasError(f"{where}: {error}") from None
        backbone = self.networks.get(config.network)
        if config.model != self.name or backbone is None or config.form not in backbone.forms:
            raise BnasError(
                f"{where}: {config.network!r} of {config.model!r} in its form {config.form!r}; this bnas-deploy builds "
                f"{', '.join(self.networks)} of {self.name!r}, in the forms {', '.join(FORMS)}"
            )
        if len(config.widths) != len(names := self.names_of_widths(config)):
            raise BnasError(
                f"{where}: {counted(len(config.widths), 'width')}, wanted {len(names)}, those of {config.network}"
            )
        self._check_sizes(config, where)
        return config


def _workloads(config: BackboneConfig) -> "list[Workload]":
    from bnas_deploy.search.models.width_workloads import width_workloads

    return width_workloads(config)


def scaled(width: int, factor: float, divisor: int = 1) -> int:
    """Return a width times a factor, rounded to a multiple of `divisor`, and at least one of it."""
    return divisor * max(1, round(width * factor / divisor))


def _form_for(backbone: Backbone, image_size: tuple[int, int] | None) -> str:
    """Return the form that fits images; without images the one that stands last, for the larger ones."""
    forms = list(backbone.forms)
    if image_size is None or len(forms) == 1:
        return forms[-1]
    return "imagenet" if min(image_size) >= LARGE_IMAGE else "cifar"
