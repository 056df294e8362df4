"""A monotone function in front of a sign as one comparison per channel."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Threshold:
    """sign(BN(x)) is +1 where (x >= level) != flip, per channel."""

    level: Floats
    flip: NDArray[np.bool_]


def threshold_of(norm: Callable[[Floats], Floats], before: Floats) -> Threshold:
    """Fold norm(x) >= before into one comparison of x per channel, exactly.

    In float32, with its roundings, norm is monotone in x: a product with a constant is, a sum with a constant is, and
    rounding is. So the x for which norm(x) >= before are, per channel, one of

        rising  (gamma > 0)   x >= level
        falling (gamma < 0)   x <= last, that is not (x >= level) with level the float above last
        always or never (gamma = 0)   x >= -inf, or the same flipped

    The level is found by bisection over the floats in their order, with `norm` itself as the judge, so the fold agrees
    with whatever `norm` rounds, on every x. (NaN compares false; a flipped channel then gives +1, a plain one -1.)
    A chain of functions may overflow on the way, and an infinity times 0 is NaN: such x are left out of the search. An
    infinite x of which norm makes a number counts: it may be what a function in front overflowed to.
    """
    lowest, highest = np.float32(-np.inf), np.float32(np.inf)
    low, high = (_number(norm, np.full_like(before, bound)) for bound in (lowest, highest))
    at_low, at_high = norm(low) >= before, norm(high) >= before
    flip = at_low & ~at_high
    varies = at_low != at_high
    # Invariant: `below` answers as the lowest float does, `level` as the highest does.
    below, level = _keys(low), _keys(high)
    while (level - below > 1).any():
        middle = below + (level - below) // 2
        upper = (norm(_floats(middle)) >= before) == at_high
        level = np.where(upper, middle, level)
        below = np.where(upper, below, middle)
    always_or_never = ~varies
    return Threshold(
        level=np.where(always_or_never, lowest, _floats(level)).astype(np.float32),
        flip=flip | (always_or_never & ~at_low),
    )


_VECTOR_PIXELS = 64


def as_on_images(function: Callable[[Tensor], Tensor], x: Floats) -> Floats:
    """Apply a function of images (1, C, H, W) to each number of x, (C) or (C, n), to the bit as it does to images.

    Each number is repeated along a row of pixels, so that the vector code runs that runs on images.
    """
    columns = torch.from_numpy(np.ascontiguousarray(x, np.float32)).reshape(1, len(x), -1, 1)
    rows = columns.expand(-1, -1, -1, _VECTOR_PIXELS).contiguous()
    result: Floats = function(rows)[..., 0].reshape(x.shape).numpy()
    return result


def _number(norm: Callable[[Floats], Floats], bounds: Floats) -> Floats:
    """Return the floats nearest to the infinite bounds of which norm makes numbers.

    What is between such a float and 0 is a number, too: an overflow that comes with one x comes with all larger ones.
    Where norm makes no number of 0 either, the largest finite float is returned.
    """
    far = _keys(np.where(np.isnan(norm(bounds)), _finite(bounds), bounds))
    near = _keys(np.zeros_like(bounds))
    searched = np.isnan(norm(_floats(far))) & ~np.isnan(norm(_floats(near)))
    # Invariant, where searched: norm makes a number of `near`, and none of `far`.
    while (searched & (abs(far - near) > 1)).any():
        middle = near + (far - near) // 2
        nameless = np.isnan(norm(_floats(middle)))
        far, near = np.where(searched & nameless, middle, far), np.where(searched & ~nameless, middle, near)
    return _floats(np.where(searched, near, far))


def _finite(values: Floats) -> Floats:
    """Return the largest finite floats in place of infinities, so that 0 * x stays 0."""
    limit = np.finfo(np.float32).max
    return np.clip(values, -limit, limit)


def _keys(values: Floats) -> NDArray[np.int64]:
    """Number the floats in their order: -0.0 and 0.0 are neighbours, and x < y gives key(x) < key(y)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(2**31) - bits - 1)


def _floats(keys: NDArray[np.int64]) -> Floats:
    """Undo `_keys`."""
    bits = np.where(keys >= 0, keys, -(2**31) - keys - 1)
    return bits.astype(np.int32).view(np.float32)
