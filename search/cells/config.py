"""Every number and switch of a search, as a value that travels in its files.

This module imports no framework, so that `--help` can show what is in it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import ZEROISE, check_groups
from bnas_deploy.search.cells.space import SPACES, SearchSpace
from bnas_deploy.search.data.augmentation import Augmentation
from bnas_deploy.search.data.kinds import SearchDefaults
from bnas_deploy.search.models.bnas.config import DEVIATIONS
from bnas_deploy.search.nn.schemes import DEFAULT
from bnas_deploy.search.training.recipes import check_known

SEARCH_DEVIATIONS = {
    **{name: DEVIATIONS[name] for name in ("centre-weights", "clamp-weights", "fan-in-gradient", "sign-of-zero")},
    "real-last-convolutions": "leave the weights of the last 2 L + 2 of the candidate convolutions float, L cells; "
    "their inputs stay signs",
    "stale-entropy-index": "take the entropy of the last edge of the reduction cell for all 14 of them",
    "gamma-on-first-edge": "divide by gamma all operations of a cell's first edge, not Zeroise on every edge",
    "genotype-from-epoch-start": "choose the genotype of the start of the epoch that reached the best validation "
    "accuracy, not of its end",
}
"""What the official search code does and its paper does not say, by name. Off unless asked for."""

PRECISIONS = {
    "binary": "binary weights and activations",
    "float": "neither",
    "binary-activations": "float weights and binary activations, as BATS searches",
}


@dataclass(frozen=True)
class SupernetConfig:
    """Everything that the supernet is built from.

    Cells and channels count as in `NetworkConfig`. In the supernet the 1x1 and 3x3 convolutions before a cell are
    always float, and no BN of a candidate has gamma and beta, as in the official code.

    Attributes:
        precision: of the candidate convolutions, one of `PRECISIONS`.
        k_map: multiply binary convolutions by the map K (BNAS v2, Eq. 3).
        inter_cell_skip: add the output of the previous cell (BNAS v2, section 4.2).
    """

    space: SearchSpace
    cells: int
    channels: int
    classes: int
    in_channels: int
    image_size: tuple[int, int]
    precision: str = "binary"
    k_map: bool = False
    inter_cell_skip: bool = True
    deviations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.cells < 3:
            raise BnasError(f"a search with {self.cells} cells; at least 3 are needed, two of them reduce")
        for name in ("channels", "classes", "in_channels"):
            if getattr(self, name) < 1:
                raise BnasError(f"a search with {name} {getattr(self, name)}; at least 1 is needed")
        check_groups(self.space.operations, self.channels, "the supernet (--channels)")
        if any(side < 4 or side % 4 for side in self.image_size):
            height, width = self.image_size
            raise BnasError(f"images of {height}x{width}; the two reduction cells of a search need multiples of 4")
        if self.precision not in PRECISIONS:
            raise BnasError(f"unknown precision {self.precision!r}; there are {', '.join(PRECISIONS)}")

    @property
    def scheme(self) -> str:
        """Return the scheme of binary convolutions: one whose scale is positive, which the supernet relies on."""
        return DEFAULT

    @property
    def is_float(self) -> bool:
        """Say whether nothing is binary, as `NetworkConfig.is_float`."""
        return self.precision == "float"

    @property
    def stem(self) -> str:
        """Return what stands before the cells, as `NetworkConfig.stem`."""
        return "cifar"


@dataclass(frozen=True)
class SearchRecipe:
    """How weights and alphas are trained, in turns, on one half of the training images each.

    The weights take SGD whose learning rate falls along half a cosine, epoch by epoch, the alphas Adam.
    """

    name: str
    epochs: int
    batch_size: int
    first_learning_rate: float
    last_learning_rate: float
    momentum: float
    weight_decay: float
    alpha_learning_rate: float
    alpha_betas: tuple[float, float]
    alpha_weight_decay: float
    augmentation: Augmentation

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BnasError(f"search recipe {self.name}: {name} must be at least 1, got {getattr(self, name)}")

    def of_length(self, epochs: int | None, batch_size: int | None) -> "SearchRecipe":
        """Return this recipe with other numbers of epochs and of images of a step, where they are given."""
        return replace(self, epochs=epochs or self.epochs, batch_size=batch_size or self.batch_size)

    def learning_rate(self, epoch: int) -> float:
        """Return that of the weights in an epoch, from 0."""
        height = self.first_learning_rate - self.last_learning_rate
        return self.last_learning_rate + height * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


@dataclass(frozen=True)
class SearchConfig:
    """A whole search.

    Attributes:
        network: the supernet.
        recipe: how it is trained.
        strategy: one of `STRATEGIES`.
        first_temperature, last_temperature: of the strategies that sample, along a line over the search.
        diversity: lambda of Eq. 6; 0: no diversity term.
        diversity_epochs: tau of Eq. 6.
        gamma: how many times as probable Zeroise must be as another operation to be chosen (Eq. 5).
        zeroise: whether it can be chosen at all; without, it is a placeholder, as in DARTS's code.
        arithmetic: of steps, one of `recipes.ARITHMETICS`; the supernet is evaluated in float32.
        compiled: let torch.compile make code of full batches' steps.
    """

    network: SupernetConfig
    recipe: SearchRecipe
    strategy: str = "bnas"
    first_temperature: float = 1.0
    last_temperature: float = 1.0
    diversity: float = 0.0
    diversity_epochs: float = 1.0
    gamma: float = 1.0
    zeroise: bool = True
    arithmetic: str = "float32"
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise BnasError(f"unknown search strategy {self.strategy!r}; there are {', '.join(STRATEGIES)}")
        check_known(self.arithmetic)
        if self.compiled and self.strategy == "gdas":
            raise BnasError("--compile: gdas runs other operations in every step, for which no code can be kept")
        for name in ("first_temperature", "last_temperature", "diversity_epochs", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise BnasError(f"a search with {name} {value}; a positive number is needed")
        if not (math.isfinite(self.diversity) and self.diversity >= 0):
            raise BnasError(f"a search with diversity {self.diversity}; 0 or a positive number is needed")
        if self.gamma != 1 and ZEROISE not in self.network.space.operations:
            raise BnasError(f"gamma is {self.gamma}, but the search space has no Zeroise for it; leave one of them out")
        unknown = sorted(set(self.network.deviations) - set(SEARCH_DEVIATIONS))
        if unknown:
            raise BnasError(f"unknown deviation {unknown[0]!r} of a search; there are {', '.join(SEARCH_DEVIATIONS)}")

    def deviates(self, name: str) -> bool:
        """Say whether a deviation of the official code is asked for."""
        return name in self.network.deviations

    def to_json(self) -> dict[str, Any]:
        """Return every setting, for files and for comparing."""
        return asdict(self)


@dataclass(frozen=True)
class StrategyDefaults:
    """What a strategy is run with unless something else is asked for."""

    summary: str
    diversity: float
    zeroise: bool
    first_temperature: float = 1.0
    last_temperature: float = 1.0


STRATEGIES: Mapping[str, StrategyDefaults] = {
    "bnas": StrategyDefaults("softmax and the diversity term, Zeroise is kept", diversity=1.0, zeroise=True),
    "darts": StrategyDefaults("softmax", diversity=0.0, zeroise=False),
    # Where these temperatures come from, and what is ours of them: docs/search.md.
    "snas": StrategyDefaults("Gumbel-softmax, relaxed samples", diversity=0.0, zeroise=False, last_temperature=0.03),
    "gdas": StrategyDefaults(
        *("Gumbel-softmax, one operation of an edge at a time", 0.0, False),
        first_temperature=10.0,
        last_temperature=0.1,
    ),
}
"""Every strategy by name. DARTS's code, which the others follow, never derives Zeroise."""


SEARCH_RECIPES = {
    # BNAS v2, "Details on Searching Architectures", and DARTS's for what it takes from there.
    "cifar": SearchRecipe(
        name="cifar",
        epochs=50,
        batch_size=64,
        first_learning_rate=0.025,
        last_learning_rate=0.001,
        momentum=0.9,
        weight_decay=3e-4,
        alpha_learning_rate=3e-4,
        alpha_betas=(0.5, 0.999),
        alpha_weight_decay=1e-3,
        augmentation=Augmentation(shift=4, flip=True),
    ),
    # A step of Adam moves an alpha by about its learning rate. There are 19,550 steps in the published search and 230
    # here, so the rate is larger; nothing is augmented, as when training on digits.
    "digits": SearchRecipe(
        name="digits",
        epochs=10,
        batch_size=32,
        first_learning_rate=0.025,
        last_learning_rate=0.001,
        momentum=0.9,
        weight_decay=3e-4,
        alpha_learning_rate=0.02,
        alpha_betas=(0.5, 0.999),
        alpha_weight_decay=1e-3,
        augmentation=Augmentation(),
    ),
}
"""Every search recipe by name."""


FOLDER_IMAGES = (32, 32)
"""Height and width of an image folder's images in a search, unless others are asked for: those of the published one."""

PUBLISHED_DIVERSITY_SHARE = 7.7 / 50
"""tau of Eq. 6 is 7.7 epochs of the 50; a search of another length has the same share of its epochs."""


def configure_search(
    sizes: SearchDefaults,
    *,
    strategy: str = "bnas",
    recipe: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    zeroise: bool | None = None,
    diversity: float | None = None,
    diversity_epochs: float | None = None,
    gamma: float = 1.0,
    arithmetic: str = "float32",
    compiled: bool = False,
    **supernet: Any,
) -> SearchConfig:
    """Return a search as the options of `bnas-deploy search` describe it; None stands for a default.

    `sizes` are the defaults of the data, and `supernet` the arguments of `configure_supernet`. The others are by the
    names in `SearchConfig`; `strategy` and `recipe` have the defaults of what is not given.

    Raises:
        BnasError: they do not fit each other.
    """
    chosen = SEARCH_RECIPES[recipe or sizes.recipe].of_length(epochs, batch_size)
    defaults = STRATEGIES[strategy]
    return SearchConfig(
        network=configure_supernet(sizes, **supernet),
        recipe=chosen,
        strategy=strategy,
        first_temperature=defaults.first_temperature,
        last_temperature=defaults.last_temperature,
        diversity=defaults.diversity if diversity is None else diversity,
        diversity_epochs=diversity_epochs or PUBLISHED_DIVERSITY_SHARE * chosen.epochs,
        gamma=gamma,
        zeroise=defaults.zeroise if zeroise is None else zeroise,
        arithmetic=arithmetic,
        compiled=compiled,
    )


def configure_supernet(
    sizes: SearchDefaults,
    *,
    space: str = "bnas",
    separable: bool = False,
    no_dilated: bool = False,
    no_skip: bool = False,
    cells: int | None = None,
    channels: int | None = None,
    **settings: Any,
) -> SupernetConfig:
    """Return a supernet of the space by that name, with separable convolutions too, or without dilated ones.

    `sizes` has the cells and channels that are not given; `settings` are by the names in `SupernetConfig`.

    Raises:
        BnasError: they do not fit each other.
    """
    operations = SPACES[space]
    operations = operations.without_dilated() if no_dilated else operations
    return SupernetConfig(
        space=operations.with_separable() if separable else operations,
        cells=cells or sizes.cells,
        channels=channels or sizes.channels,
        inter_cell_skip=not no_skip,
        **settings,
    )
