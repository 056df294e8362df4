"""What every family of networks says about itself; `bnas_deploy.search.models.registry` lists them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from bnas_deploy.core.counting.rules import DEFAULT_RULE
from bnas_deploy.search.models.settings import Setting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bnas_deploy.core.latency_table import Workload


class ModelConfig(Protocol):
    """What the configuration of any network says; the rest is the business of its family.

    `model` is the name of the family, `name` that of the network. `image_size` is (height, width). `is_float` tells
    whether it is a float twin, which has float weights and no sign.
    """

    @property
    def model(self) -> str: ...  # noqa: D102  # the class says it, here and below
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def classes(self) -> int: ...  # noqa: D102
    @property
    def in_channels(self) -> int: ...  # noqa: D102
    @property
    def image_size(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def is_float(self) -> bool: ...  # noqa: D102

    def float_twin(self) -> "ModelConfig":
        """Return the same architecture with float weights and no sign; the network has its parameters, too."""

    def fitted(self, *, classes: int, in_channels: int, image_size: tuple[int, int]) -> "ModelConfig":
        """Return the same architecture for other images, all of it trained.

        Raises:
            BnasError: they do not fit it.
        """

    def to_json(self) -> dict[str, Any]:
        """Return what the family's `read` reads."""

    @property
    def summary(self) -> str:
        """Return its size in a few words, for people."""

    def describe(self) -> list[str]:
        """Return what else `inspect` shows before the layers, in lines."""


@runtime_checkable
class Relaxable(Protocol):
    """The configuration of a network that can be trained in stages, of which the last has binary layers."""

    def relax(self, how: str) -> ModelConfig:
        """Return the same network with something else in the place of binary layers: "float-weights" or "tanh"."""


def _one_by_one(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    return dict(state)


def _unchanged(name: str, tensor: "Tensor", shape: tuple[int, ...]) -> "Tensor":
    return tensor


@dataclass(frozen=True)
class Layout:
    """Weights of a family's networks as another project stores them.

    Attributes:
        summary: whose they are, for `--help`.
        rename: of a configuration, their name of a tensor to the name here; one that it does not know stays as it is.
        options: settings of `configure` under which the network here computes what theirs does.
        data: the name of the data set that they were trained on, for a configuration.
        names: of the classes.
        order: the number of the class of each of their logits.
        mean, std: of the images that they take, per channel, with pixels in 0..1.
        networks: those of the family that it has weights of; None for all.
        join: makes one tensor of several that are one here. It gets all of them by their own names, and returns them
            so; what does not fit together it leaves.
        adapt: makes a tensor, with its name and its shape here, the one that stands here: reshaped, or negated.
        layers: of files of Keras, whose arrays have no names that last: the names here of the layers with weights, in
            the order of theirs; others between them do not matter.
        sign_of_zero: the sign of a weight of 0 is 0 there, and +1 here.
    """

    summary: str
    rename: Callable[[Any, str], str]
    options: Mapping[str, Any]
    data: Callable[[Any], str]
    names: Callable[[Any], tuple[str, ...]]
    order: Callable[[Any], tuple[int, ...]]
    mean: Callable[[Any], tuple[float, ...]]
    std: Callable[[Any], tuple[float, ...]]
    networks: tuple[str, ...] | None = None
    join: "Callable[[Mapping[str, Tensor]], dict[str, Tensor]]" = _one_by_one
    adapt: "Callable[[str, Tensor, tuple[int, ...]], Tensor]" = _unchanged
    layers: "Callable[[nn.Module], Iterable[str]] | None" = None
    sign_of_zero: bool = False


@dataclass(frozen=True)
class Searched:
    """What a latency-aware search needs to know of a family in which it chooses the operations or the widths.

    Attributes:
        settings: those that change the workloads.
        workloads: gives every workload whose time such a search needs for a network of the size of a configuration,
            each once.
    """

    settings: tuple[Setting, ...]
    workloads: Callable[[Any], "list[Workload]"]


@dataclass(frozen=True)
class Family:
    """A way to build networks from a configuration.

    Attributes:
        name: in checkpoints.
        networks: the names that `--network` takes, as published.
        settings: what `configure` takes besides classes, in_channels and image_size, in the order of `--help`.
        configure: makes the configuration of a published network, fitted to other images where they are given.
        read: makes a configuration of parsed JSON; the second argument names its origin in errors.
        build: makes the network, with the initialisation that training starts from.
        layouts: weights that `import` reads, by the name of the layout.
        searched: None for a family that no search chooses operations or widths of.
        width_names: names the numbers of channels in the `widths` of a configuration, which can be chosen one by one;
            None for a family whose configurations have none.
        forms: the forms of a network by its name, each a value of the setting `form`; nothing for one that has one.
        rule: by which its own paper counts memory and operations, a name of `bnas_deploy.core.counting.rules`.

    `configure` and `read` raise BnasError.
    """

    name: str
    networks: tuple[str, ...]
    settings: tuple[Setting, ...]
    configure: Callable[..., ModelConfig]
    read: Callable[[object, str], ModelConfig]
    build: Callable[[Any], "nn.Module"]
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    searched: Searched | None = None
    width_names: Callable[[Any], tuple[str, ...]] | None = None
    forms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rule: str = DEFAULT_RULE

    def setting(self, keyword: str) -> Setting | None:
        """Return the setting that `configure` takes by a keyword."""
        return next((setting for setting in self.settings if setting.keyword == keyword), None)


Options = Mapping[str, Any]
"""Settings of a network by keyword; None where nothing was given."""
