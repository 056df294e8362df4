"""Where the widths of a network are in its layers, found by building it with other widths.

No family says which layer reads and writes which width, so that this holds for all of them. The network is built once
as it is and once for each width with twice as many channels, without data. What changes in the input or in the output
of a layer shows how many channels of it a channel of the width makes, its *share*:

    channels = constant + sum over widths of share * width

A convolution behind a concatenation has several shares in its input. That the form is right is checked with all
widths tripled at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.layer_costs import layer_costs
from bnas_deploy.search.nn.schemes import named_scheme


@dataclass(frozen=True)
class Channels:
    """Channels of one side of a layer: `constant` plus `shares` times the widths, one number for each width."""

    constant: float
    shares: tuple[float, ...]

    @property
    def of_widths(self) -> tuple[int, ...]:
        """Return the numbers of the widths that change it."""
        return tuple(number for number, share in enumerate(self.shares) if share)

    def at(self, widths: Sequence[float]) -> float:
        """Return how many there are."""
        return self.constant + sum(share * width for share, width in zip(self.shares, widths, strict=True))


@dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
        cost: of the base network.
        out: channels that it writes.
        read: channels that it reads.
        fan: of `read`, those that one output channel reads: all of them, or those of one group.
    """

    cost: LayerCost
    out: Channels
    read: Channels
    fan: Channels


@dataclass(frozen=True)
class Layout:
    """All layers of a network, and what its widths have to be multiples of: for groups, and for the scheme."""

    base: BackboneConfig
    layers: tuple[Layer, ...]
    multiples: tuple[int, ...]

    def channels(self, ratios: Sequence[float]) -> tuple[int, ...]:
        """Return the widths of some ratios, one for each: the nearest that its multiple divides, of one at least."""
        return tuple(
            max(1, round(ratio * width / multiple)) * multiple
            for ratio, width, multiple in zip(ratios, self.base.widths, self.multiples, strict=True)
        )


def layout_of(base: BackboneConfig) -> Layout:
    """Find the widths of a network in its layers.

    Raises:
        BnasError: it cannot be built, since its scheme or its groups do not suit it, or its layers are other
            functions of its widths.
    """
    plain = _costs(base, base.widths)
    twice = [
        _costs(base, tuple(2 * width if i == number else width for i, width in enumerate(base.widths)))
        for number in range(len(base.widths))
    ]
    layers = tuple(
        Layer(cost, *(_channels(cost, [costs[i] for costs in twice], base.widths, side) for side in (_out, _in, _fan)))
        for i, cost in enumerate(plain)
    )
    triple = tuple(3 * width for width in base.widths)
    for layer, cost in zip(layers, _costs(base, triple), strict=True):
        if (layer.out.at(triple), layer.read.at(triple), layer.fan.at(triple)) != (_out(cost), _in(cost), _fan(cost)):
            raise BnasError(
                f"{base.name}: the channels of {layer.cost.name} are no sum of its widths, so that they cannot be "
                "searched; choose another --network"
            )
    turned = 1 if base.is_float else named_scheme(base.scheme).output_multiple
    multiples = tuple(
        lcm(_multiple(layers, number, width), _multiple_written(layers, number, turned))
        for number, width in enumerate(base.widths)
    )
    return Layout(base, layers, multiples)


def _costs(base: BackboneConfig, widths: tuple[int, ...]) -> list[LayerCost]:
    try:
        return layer_costs(base.with_widths(widths))
    except ValueError as error:
        # A layer says so where a scheme excludes it, or where groups do not divide its channels.
        raise BnasError(
            f"{base.name}: scheme {base.scheme}: {error}; choose another --scheme, --network or --width-factor"
        ) from None


def _out(cost: LayerCost) -> int:
    return cost.output[0]


def _in(cost: LayerCost) -> int:
    return cost.input[0]


def _fan(cost: LayerCost) -> int:
    return cost.input[0] // cost.groups


def _channels(
    cost: LayerCost, twice: Sequence[LayerCost], widths: Sequence[int], side: Callable[[LayerCost], int]
) -> Channels:
    shares = tuple((side(other) - side(cost)) / width for other, width in zip(twice, widths, strict=True))
    return Channels(side(cost) - sum(share * width for share, width in zip(shares, widths, strict=True)), shares)


def _multiple(layers: Sequence[Layer], number: int, width: int) -> int:
    """Return what a width has to be a multiple of, so that the groups of all layers divide their channels."""
    multiple = 1
    for layer in layers:
        groups = layer.cost.groups
        # The groups of a depthwise convolution grow with its channels: an output channel reads as many as before.
        fixed = groups > 1 and (layer.fan.of_widths or not layer.read.of_widths)
        if fixed and number in (*layer.read.of_widths, *layer.out.of_widths) and width % groups == 0:
            multiple = lcm(multiple, groups)
    return multiple


def _multiple_written(layers: Sequence[Layer], number: int, wanted: int) -> int:
    """Return what a width has to be a multiple of, so that binary layers write multiples of `wanted` channels.

    A layer writes share * width of it, share a fraction n/d. That is a multiple of m where width is one of
    m d / gcd(m d, n).
    """
    shares = (Fraction(each.out.shares[number]).limit_denominator() for each in layers if each.cost.is_binary)
    return lcm(*(wanted * share.denominator // gcd(wanted * share.denominator, share.numerator) for share in shares))
