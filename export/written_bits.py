"""What a value of bits stands for: the float result that its layer would have made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bnas_deploy.core.bits import pack_signs, sign
from bnas_deploy.core.operators import bits_of_channels
from bnas_deploy.export.opset import max_pool

Floats = NDArray[np.float32]

BITS = "bits"
"""Key of a node's note: what the bits that it writes stand for, `Bits`."""


@dataclass(frozen=True)
class Bits:
    """What a layer made before it wrote bits.

    Attributes:
        layer: the node that it was, whose constants are as they were; what else it reads is left out.
        thresholds: what its result is compared with, (sets, O) float32.
        max_pool: whether it is the largest of 2x2 pixels of the result that is compared. PyTorch may have no value for
            that: it may have scaled the pixels before it took their maximum.
    """

    layer: ir.Node
    thresholds: Floats
    max_pool: bool = False

    @property
    def value(self) -> ir.Value:
        """Return the float result, which no node of the graph makes any more; with `max_pool` before the maximum."""
        return self.layer.outputs[0]

    def thresholds_of(self, places: Floats) -> Floats:
        """Return the thresholds of the set that a reader of bits `places` reads."""
        number = int(places[0]) // bits_of_channels(self.thresholds.shape[1])
        found: Floats = self.thresholds[number]
        return found

    def of(self, floats: Floats) -> NDArray[np.uint8]:
        """Return the bits of what the layer made, (N, O, H, W)."""
        compared = self._compared(floats)
        return _packed([sign(np.moveaxis(compared, 1, -1), threshold) for threshold in self.thresholds])

    def ties(self, floats: Floats, bound: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return 1 for every bit that may be another one, if each float is only known to within `bound`."""
        least, most = (np.moveaxis(end, 1, -1) for end in self.range_of(floats, bound))
        return _packed([np.where(may_tie(least, most, threshold), 1, -1) for threshold in self.thresholds])

    def range_of(self, floats: Floats, bound: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the least and the most that is compared, if each float is only known to within `bound`.

        A maximum is known where one pixel decides it: those below it may be anything.
        """
        known, allowed = floats.astype(np.float64), np.broadcast_to(bound, floats.shape)
        return self._compared(known - allowed), self._compared(known + allowed)

    def _compared(self, result: NDArray[Any]) -> NDArray[Any]:
        return max_pool(result) if self.max_pool else result


def may_tie(least: NDArray[Any], most: NDArray[Any], threshold: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell whether numbers from `least` to `most` may be on either side of a threshold."""
    found: NDArray[np.bool_] = (least <= threshold) & (threshold <= most) & (least < most)
    return found


def _packed(sets: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """Pack signs, (N, H, W, O) for each threshold, as the operators do: (N, R, H, W)."""
    return np.moveaxis(np.concatenate([pack_signs(each) for each in sets], axis=-1), -1, 1)


def bits_of(value: ir.Value) -> Bits | None:
    """Return what a value stands for if it is bits, else None."""
    maker = value.producer()
    found = None if maker is None else maker.meta.get(BITS)
    return found if isinstance(found, Bits) else None


def float_of(value: ir.Value) -> ir.Value:
    """Return the float result that a value of bits was made of, or the value itself.

    Where bits are pooled it is what is before the maximum, with four times the pixels.
    """
    bits = bits_of(value)
    return value if bits is None else bits.value
