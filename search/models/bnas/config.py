"""The size and the settings of a network, as a value that travels in checkpoints and bundles."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import GENOTYPES, Genotype, check_groups
from bnas_deploy.core.json_records import from_json
from bnas_deploy.core.names import did_you_mean, known_name
from bnas_deploy.search.models.relaxation import RELAXED, check_relaxed
from bnas_deploy.search.models.size_limits import check_sizes
from bnas_deploy.search.nn.schemes import DEFAULT, check_scheme

DEVIATIONS = {
    "centre-weights": "before each step, subtract from each binary weight the mean over its input channels",
    "clamp-weights": "before each step, clamp binary weights to -1..1 (after centring)",
    "fan-in-gradient": "multiply the gradient of a binary weight by n (1 - 1/C), n = C KH KW; a learning-rate factor",
    "real-last-two": "leave the weights of the last two convolutions float, a cell's skip counted before its edges; "
    "the inputs of binary ones stay signs",
    "binary-weight-skip": "give the 2x2 convolutions on the inter-cell skip binary weights, centred and clamped; "
    "their inputs stay float",
    "sign-of-zero": "take 0 for sign(0), of activations and of weights, instead of +1",
}
"""What the official BNAS code does and its paper does not say, by name. Off unless asked for.

The code as published last has all but "binary-weight-skip", which its first release has as well. Which of the two the
published checkpoints were trained with is not known. The two that change weights do so as the code does: in place,
before each step of training, and the gradient passes them unchanged.
"""


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that `build_network` needs.

    `channels` is C of the first cell; it doubles at the two reduction cells, after a third and after two thirds
    of the cells. `stem_groups` are the groups of the second and the third convolution of the imagenet stem (BNAS v2,
    section 5.2.1). `image_size` is (height, width) of the input. `scheme` names how binary convolutions binarise (see
    `bnas_deploy.search.nn.schemes`). `k_map` multiplies each by the map K of XNOR-Net (BNAS v2, Eq. 3). `is_float`
    makes the float twin: float weights, no sign. Without `inter_cell_skip` no cell adds c_{k-1} to its output (the
    ablation of BNAS v2, section 4.2). `relaxed`, one of `RELAXED`, says what binary layers are before they are binary.
    """

    name: str
    cells: int
    channels: int
    stem: str
    genotype: Genotype
    classes: int
    in_channels: int
    image_size: tuple[int, int]
    scheme: str = DEFAULT
    k_map: bool = False
    is_float: bool = False
    deviations: tuple[str, ...] = ()
    inter_cell_skip: bool = True
    relaxed: str | None = None
    stem_groups: int = 1

    def __post_init__(self) -> None:
        if self.cells < 3:
            raise BnasError(f"{self.name}: {self.cells} cells; at least 3 are needed, two of them reduce")
        if self.stem not in STEM_STRIDES:
            raise BnasError(f"{self.name}: unknown stem {self.stem!r}; the stems are {', '.join(STEM_STRIDES)}")
        check_sizes(
            self.name,
            image_size=self.image_size,
            cells=self.cells,
            channels=self.channels,
            stem_groups=self.stem_groups,
            classes=self.classes,
            in_channels=self.in_channels,
        )
        check_groups(self.genotype.operations, self.channels, self.name)
        if self.stem == "imagenet" and self.channels % 2:
            raise BnasError(
                f"{self.name}: the imagenet stem starts with channels/2, so {self.channels} channels must be even"
            )
        self._check_stem_groups()
        multiple = 4 * STEM_STRIDES[self.stem]
        if any(side < multiple or side % multiple for side in self.image_size):
            height, width = self.image_size
            small = [name for name, size in NETWORKS.items() if size.stem == "cifar"]
            others = f" (of 4 with the cifar stem of {', '.join(small[:-1])} and {small[-1]})"
            raise BnasError(
                f"{self.name}: images of {height}x{width}; the {self.stem} stem and two reduction cells need "
                f"multiples of {multiple}{others if self.stem == 'imagenet' else ''}"
            )
        unknown = sorted(set(self.deviations) - set(DEVIATIONS))
        if unknown:
            raise BnasError(f"{self.name}: unknown deviation {unknown[0]!r}; there are {', '.join(DEVIATIONS)}")
        check_scheme(self.scheme, self.name)
        check_relaxed(self.relaxed, self.name, is_float=self.is_float)
        if self.deviations and self.scheme != DEFAULT:
            raise BnasError(
                f"{self.name}: scheme {self.scheme} with {self.deviations[0]}, which is about {DEFAULT}; leave "
                "--scheme or --like-official-code out"
            )
        if "binary-weight-skip" in self.deviations and not self.inter_cell_skip:
            raise BnasError(
                f"{self.name}: binary-weight-skip is about the inter-cell skip, which this network lacks; leave "
                "binary-weight-skip or --no-skip out"
            )

    def _check_stem_groups(self) -> None:
        """Refuse groups that the stem has no place for; its second convolution has channels / 2 in, C in all others."""
        groups = self.stem_groups
        if groups > 1 and self.stem != "imagenet":
            grouped = [name for name, size in NETWORKS.items() if size.stem == "imagenet"]
            raise BnasError(
                f"{self.name}: stem_groups is {groups}, and the {self.stem} stem takes no groups; leave --stem-groups "
                f"out, or choose a network of the imagenet stem: {', '.join(grouped)}"
            )
        if (self.channels // 2) % groups:
            raise BnasError(
                f"{self.name}: stem_groups is {groups}, which has to divide channels/2, {self.channels // 2}; choose "
                f"one of {', '.join(map(str, _divisors(self.channels // 2)))}, or other --channels"
            )

    @property
    def reduction_cells(self) -> tuple[int, int]:
        """Return the indices of the two cells that halve the resolution."""
        return reduction_cells(self.cells)

    def float_twin(self) -> "NetworkConfig":
        """Return the same architecture with float weights and no sign."""
        return replace(self, is_float=True, scheme=DEFAULT, k_map=False, deviations=(), relaxed=None)

    def fitted(self, *, classes: int, in_channels: int, image_size: tuple[int, int]) -> "NetworkConfig":
        """Return the same architecture for other images, with binary layers where a stage of training has others."""
        return replace(self, classes=classes, in_channels=in_channels, image_size=image_size, relaxed=None)

    def relax(self, how: str) -> "NetworkConfig":
        """Return the same network with something else in the place of binary layers, one of `RELAXED`."""
        return replace(self, relaxed=how)

    @property
    def model(self) -> str:
        """Return the name of the family."""
        return "bnas"

    @property
    def summary(self) -> str:
        """Return cells, channels and stem."""
        groups = f" with {self.stem_groups} groups" if self.stem_groups > 1 else ""
        return f"{self.cells} cells, {self.channels} channels, {self.stem} stem{groups}"

    def describe(self) -> list[str]:
        """Return what is unusual, and the genotype."""
        return [
            *([f"scheme {self.scheme}"] if self.scheme != DEFAULT else []),
            *(["multiplied by the map K"] if self.k_map else []),
            *([] if self.inter_cell_skip else ["without the skip from cell to cell"]),
            *([f"a stage of training: {RELAXED[self.relaxed]}"] if self.relaxed else []),
            *(f"deviates from the paper: {name}" for name in self.deviations),
            "",
            *self.genotype.describe(),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {**asdict(self), "genotype": self.genotype.to_json()}

    @classmethod
    def from_json(cls, data: object, where: str) -> "NetworkConfig":
        """Build a configuration from parsed JSON; `where` names its origin in errors."""
        if isinstance(data, Mapping):
            given: dict[str, Any] = dict(data)
            renamed = {RENAMED_FIELDS.get(name, name): value for name, value in given.items()}
            data = {**ADDED_FIELDS, **renamed}
        try:
            config: NetworkConfig = from_json(cls, data)
        except ValueError as error:
            raise BnasError(f"{where}: {error}") from None
        return config


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def reduction_cells(cells: int) -> tuple[int, int]:
    """Return which of so many cells halve the resolution."""
    return cells // 3, 2 * cells // 3


ADDED_FIELDS: Mapping[str, Any] = {"inter_cell_skip": True, "scheme": DEFAULT, "relaxed": None, "stem_groups": 1}
"""Fields that older files lack, with what those files mean."""

RENAMED_FIELDS = {"real": "is_float", "departures": "deviations"}
"""Names in files of bnas-deploy 0.1.0, and the names here."""

STEM_STRIDES = {"cifar": 1, "imagenet": 8}
"""How much each stem reduces the resolution."""


@dataclass(frozen=True)
class PublishedSize:
    """One row of BNAS v2, Table 5, and the images and the genotype that it was published with; or BNAS-D-dagger."""

    cells: int
    channels: int
    stem: str
    genotype: str
    image_size: tuple[int, int]
    classes: int
    stem_groups: int = 1


def _cifar(cells: int, channels: int) -> PublishedSize:
    return PublishedSize(cells, channels, "cifar", "cifar", (32, 32), 10)


def _imagenet(cells: int, channels: int, stem_groups: int = 1) -> PublishedSize:
    return PublishedSize(cells, channels, "imagenet", "imagenet", (224, 224), 1000, stem_groups)


NETWORKS = {
    "BNAS-Mini": _cifar(10, 24),
    "BNAS-A": _cifar(20, 36),
    "BNAS-B": _cifar(12, 64),
    "BNAS-C": _cifar(16, 108),
    "BNAS-D": _imagenet(12, 64),
    # The paper's BNAS-D with a dagger: group convolutions in the stem, and more channels "without increases of FLOPs"
    # (section 5.2.1; ~1.48e8 for both in Table 8). Neither number is published. Chosen here: groups = channels // 20,
    # as BATS has in its stem, to which the paper refers, and the most channels that cost no more than BNAS-D, counted
    # as the paper counts (binary MACs / 64, stem and classifier, without the skips): 143.9e6 against 144.4e6.
    "BNAS-D-dagger": _imagenet(12, 88, stem_groups=4),
    "BNAS-E": _imagenet(12, 68),
    "BNAS-F": _imagenet(15, 68),
    "BNAS-G": _imagenet(11, 74),
    "BNAS-H": _imagenet(16, 128),
}


def published_config(
    name: str,
    *,
    cells: int | None = None,
    channels: int | None = None,
    stem_groups: int | None = None,
    genotype: Genotype | None = None,
    classes: int | None = None,
    in_channels: int = 3,
    image_size: tuple[int, int] | None = None,
    deviations: tuple[str, ...] = (),
    scheme: str = DEFAULT,
    k_map: bool = False,
    inter_cell_skip: bool = True,
) -> NetworkConfig:
    """Return the configuration of a published size, as published or fitted to other images.

    The case of `name` does not matter. A network of other `cells` or `channels` is called after both: BNAS-Mini-6x16;
    one of other `stem_groups` also after these: BNAS-D-12x80-g4.

    Raises:
        BnasError: no such network, or the images do not fit it.
    """
    known = known_name(name, NETWORKS)
    if known is None:
        raise BnasError(
            f"unknown network {name!r}; the networks are {', '.join(NETWORKS)}{did_you_mean(name, NETWORKS)}"
        )
    published = NETWORKS[known]
    size = replace(
        published,
        cells=published.cells if cells is None else cells,
        channels=published.channels if channels is None else channels,
        stem_groups=published.stem_groups if stem_groups is None else stem_groups,
    )
    groups = "" if size.stem_groups == published.stem_groups else f"-g{size.stem_groups}"
    return NetworkConfig(
        name=known if size == published else f"{known}-{size.cells}x{size.channels}{groups}",
        cells=size.cells,
        channels=size.channels,
        stem=size.stem,
        genotype=genotype or GENOTYPES[size.genotype],
        classes=size.classes if classes is None else classes,
        in_channels=in_channels,
        image_size=image_size or size.image_size,
        scheme=scheme,
        k_map=k_map,
        deviations=deviations,
        inter_cell_skip=inter_cell_skip,
        stem_groups=size.stem_groups,
    )
