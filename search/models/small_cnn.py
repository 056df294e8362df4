"""A small network of one operation alone, for the study of layer types (BNAS v2, Table 1).

The paper says: "repeating each kind of convolutional layers three times, followed by three fully connected layers".
What it does not say was chosen here. A float 3x3 convolution makes the channels out of the image, since the published
networks have a float first layer, too. A maximum over 2x2 stands behind each layer, and the dense layers are float. No
command offers the network by name; studies make its configuration.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import LEARNABLE
from bnas_deploy.core.json_records import from_json
from bnas_deploy.search.models.family import Family, ModelConfig
from bnas_deploy.search.models.settings import K_MAP, SCHEME
from bnas_deploy.search.models.size_limits import check_sizes
from bnas_deploy.search.nn.schemes import DEFAULT, check_scheme

if TYPE_CHECKING:
    from torch import nn

LAYERS = 3
"""Of the operation; each halves the image."""

LEAST_IMAGE = 2**LAYERS


@dataclass(frozen=True)
class SmallCnnConfig:
    """Everything that the network is built from.

    Attributes:
        operation: one of `core.genotype` that has weights.
        channels: of all layers of the operation.
        dense: numbers of the first and the second dense layer.
    """

    name: str
    operation: str
    channels: int
    dense: int
    classes: int
    in_channels: int
    image_size: tuple[int, int]
    scheme: str = DEFAULT
    k_map: bool = False
    is_float: bool = False
    deviations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.operation not in LEARNABLE:
            raise BnasError(
                f"{self.name}: operation {self.operation!r} has no weights; wanted one of "
                f"{', '.join(sorted(LEARNABLE))}"
            )
        check_sizes(
            self.name,
            image_size=self.image_size,
            channels=self.channels,
            classes=self.classes,
            in_channels=self.in_channels,
        )
        check_scheme(self.scheme, self.name)
        if min(self.image_size) < LEAST_IMAGE:
            height, width = self.image_size
            raise BnasError(
                f"{self.name}: images of {height}x{width}, which {LAYERS} layers halve; wanted at least "
                f"{LEAST_IMAGE}x{LEAST_IMAGE}"
            )

    @property
    def model(self) -> str:
        """Return the name of the family."""
        return SMALL_CNN.name

    def float_twin(self) -> "SmallCnnConfig":
        """Return the same architecture with float weights and no sign."""
        return replace(self, is_float=True, scheme=DEFAULT, k_map=False)

    def fitted(self, *, classes: int, in_channels: int, image_size: tuple[int, int]) -> "SmallCnnConfig":
        """Return the same architecture for other images."""
        return replace(self, classes=classes, in_channels=in_channels, image_size=image_size)

    @property
    def summary(self) -> str:
        """Return operation and channels."""
        return f"{LAYERS} times {self.operation} of {self.channels} channels"

    def describe(self) -> list[str]:
        """Return what is unusual."""
        return [f"scheme {self.scheme}"] if self.scheme != DEFAULT else []

    def to_json(self) -> dict[str, Any]:
        """Return what `read` reads."""
        return asdict(self)


def _build(config: SmallCnnConfig) -> "nn.Module":
    from torch import nn

    from bnas_deploy.search.models.bnas.operations import OPERATION_BUILDERS

    channels, dense = config.channels, config.dense
    build = OPERATION_BUILDERS[config.operation]
    layers = [nn.Sequential(build(channels, 1, config), nn.MaxPool2d(2)) for _ in range(LAYERS)]
    height, width = (side // LEAST_IMAGE for side in config.image_size)
    return nn.Sequential(
        nn.Conv2d(config.in_channels, channels, 3, padding=1, bias=False),
        *layers,
        nn.Flatten(),
        nn.Linear(channels * height * width, dense),
        nn.ReLU(),
        nn.Linear(dense, dense),
        nn.ReLU(),
        nn.Linear(dense, config.classes),
    )


def _read(data: object, where: str) -> SmallCnnConfig:
    try:
        config: SmallCnnConfig = from_json(SmallCnnConfig, data if isinstance(data, Mapping) else {})
    except ValueError as error:
        raise BnasError(f"{where}: {error}") from None
    return config


def _configure(network: str, **settings: Any) -> ModelConfig:
    return SmallCnnConfig(name=network, **settings)


SMALL_CNN = Family(
    name="small-cnn", networks=(), settings=(SCHEME, K_MAP), configure=_configure, read=_read, build=_build
)
