"""The rules by which papers count memory and operations, and the one that counts all that runs.

Every figure of a paper, "58 times as fast" or "13.91 times smaller", is a quotient of two sums over layers. Rules
differ in the layers that they leave out and in what a binary layer counts for. docs/counting.md works through each.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from bnas_deploy.core.layer_cost import LayerCost

WORD = 64
"""So many binary multiply-accumulates count as one operation: as many signs as a register holds (XNOR-Net, 4.1)."""

FLOAT_BITS = 32


@dataclass(frozen=True)
class Network:
    """What is counted.

    Attributes:
        layers: convolutions and matrix products, in running order.
        other_parameters: trained numbers that are no layer's weights: of BN, biases, slopes. None where a file does not
            say: an exported one has most of them folded into thresholds.
    """

    layers: tuple[LayerCost, ...]
    other_parameters: int | None = None

    @property
    def is_binary(self) -> bool:
        """Tell whether a layer has binary weights."""
        return any(layer.is_binary for layer in self.layers)


def _every(layer: LayerCost) -> bool:
    return True


def _binary(layer: LayerCost) -> bool:
    return layer.is_binary


def _no_skip(layer: LayerCost) -> bool:
    # The 2x2 float convolutions on the skips from cell to cell of BNAS, which no other network here has.
    return layer.is_binary or layer.kernel != (2, 2)


@dataclass(frozen=True)
class Rule:
    """How one paper counts.

    Attributes:
        name: on the command line.
        source: the paper, and how its rule is known.
        memory: its bits, in words.
        operations: its operations, in words.
        in_memory: the layers whose weights it counts, one bit for each of a binary layer.
        counts_others: whether it counts the parameters that are no layer's weights, too, 32 bits each.
        in_operations: the layers whose operations it counts; None for a rule that counts memory alone.
        counts_scales: whether a binary layer has one more operation for each output, the product with its scale.
        megabyte: bytes of its MB.
    """

    name: str
    source: str
    memory: str
    operations: str
    in_memory: Callable[[LayerCost], bool] = _every
    counts_others: bool = False
    in_operations: Callable[[LayerCost], bool] | None = _every
    counts_scales: bool = False
    megabyte: int = 10**6

    def bits_of(self, layer: LayerCost) -> int:
        """Return the bits of a layer's weights."""
        return layer.weights * layer.weight_bits if self.in_memory(layer) else 0

    def operations_of(self, layer: LayerCost) -> float:
        """Return the operations of a layer for one image: 64 binary MACs are one, and each other MAC is."""
        if self.in_operations is None or not self.in_operations(layer):
            return 0
        if not layer.is_binary:
            return layer.macs
        channels, height, width = layer.output
        return layer.macs / WORD + (channels * height * width if self.counts_scales else 0)

    def megabytes(self, bits: float) -> float:
        """Return bits in the MB of this rule."""
        return bits / 8 / self.megabyte

    def count(self, network: Network, against: Network | None = None) -> "Count":
        """Count a network, and its float twin or that of another network, `against`.

        A figure that the rule does not have, or that takes parameters of which the file says nothing, is None.
        """
        twin = against or network
        counts_operations = self.in_operations is not None
        return Count(
            self._bits(network, sum(map(self.bits_of, network.layers))),
            self._bits(twin, FLOAT_BITS * sum(layer.weights for layer in twin.layers if self.in_memory(layer))),
            sum(map(self.operations_of, network.layers)) if counts_operations else None,
            self._macs(twin.layers) if counts_operations else None,
        )

    def _bits(self, network: Network, weights: int) -> int | None:
        if not self.counts_others:
            return weights
        return None if network.other_parameters is None else weights + FLOAT_BITS * network.other_parameters

    def _macs(self, layers: Iterable[LayerCost]) -> int:
        assert self.in_operations is not None
        return sum(layer.macs for layer in layers if self.in_operations(layer))


@dataclass(frozen=True)
class Count:
    """A binary network and its float twin by one rule: bits, and operations for one image. None: not counted."""

    bits: int | None
    float_bits: int | None
    operations: float | None
    float_operations: float | None

    @property
    def memory_saving(self) -> float | None:
        """Return how many times the memory of the binary network the float twin takes."""
        return _quotient(self.float_bits, self.bits)

    @property
    def speed_up(self) -> float | None:
        """Return how many times the operations of the binary network the float twin has."""
        return _quotient(self.float_operations, self.operations)


def _quotient(twin: float | None, own: float | None) -> float | None:
    return twin / own if twin is not None and own else None


EXECUTED = Rule(
    "executed",
    "all that is there and runs",
    "1 bit for each binary weight, 32 for every other parameter, those of BN and biases included",
    "binary MACs / 64 + all other MACs",
    counts_others=True,
)
"""What the figures of a paper are to be compared with."""

EXECUTED_WEIGHTS = replace(
    EXECUTED,
    source="all that is in the file and runs; layers that nothing reads, which the export drops, count nowhere",
    memory="1 bit for each binary weight, 32 or 8 for every other one; BN is folded into thresholds and not counted",
    counts_others=False,
)
"""The same for a file that does not say how many other parameters there were."""

_RULES = (
    Rule(
        "xnor-net",
        "XNOR-Net (2016), section 4.1: S = 64 c N_W / (c N_W + 64), 62.27 for c = 256 and N_W = 3 * 3",
        "1 bit for each binary weight; layers that stay float are left out",
        "binary MACs / 64 + outputs of binary layers (the product with a scale) + MACs of float layers",
        in_memory=_binary,
        counts_scales=True,
    ),
    Rule(
        "bi-real",
        "Bi-Real Net (2018), as quoted by BNAS v2, Table 14, and ReActNet (2020): OPs = BOPs / 64 + FLOPs",
        "1 bit for each binary weight, 32 for every other parameter, those of BN and biases included",
        "binary MACs / 64 + MACs of float convolutions and matrix products; nothing else",
        counts_others=True,
    ),
    Rule(
        "bnas-v2",
        "BNAS v2, Tables 6, 7, 8, 12 and 14; the paper states no rule, this one is inferred from its figures",
        "1 bit for each binary weight, 32 for each of stem and classifier; no BN, no biases, no 2x2 convolutions of "
        "skips",
        "binary MACs / 64 + MACs of stem and classifier; no 2x2 convolutions of skips",
        in_memory=_no_skip,
        in_operations=_no_skip,
    ),
    Rule(
        "dms",
        "DMS, Table 1; the paper states no rule, this one is inferred from its figures",
        "1 bit for each binary weight, 32 for each weight of other layers; no BN, no biases; MB of 2**20 bytes",
        "none: the paper counts memory alone",
        in_operations=None,
        megabyte=2**20,
    ),
)

RULES = {rule.name: rule for rule in _RULES}
"""The rules of papers by name."""

DEFAULT_RULE = "bi-real"
"""For networks whose own paper has no rule: the one that most papers use."""
