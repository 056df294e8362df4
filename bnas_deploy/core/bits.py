"""The bit convention: the sign of a number, the meaning of a bit, and the order of bits in bytes.

Python, ONNX, the kernels and the C library follow this module; nothing else decides it.
"""

import numpy as np
from numpy.typing import NDArray


def sign(values: NDArray[np.floating], threshold: NDArray[np.floating] | float = 0.0) -> NDArray[np.floating]:
    """+1 where values >= threshold, else -1, in the dtype of `values`.

    So +0.0 and -0.0 give +1 and NaN gives -1.
    """
    return np.where(values >= threshold, 1, -1).astype(values.dtype)


def pack_signs(signs: NDArray[np.number]) -> NDArray[np.uint8]:
    """Pack ±1 along the last axis, eight to a byte: (..., n) to uint8 (..., ceil(n / 8)).

    Bit i of byte b is 1 where signs[..., 8 * b + i] is +1. Bits past the end are 0 in every packed
    operand, so that two tails never differ.
    """
    return np.packbits(signs > 0, axis=-1, bitorder="little")


def unpack_signs(packed: NDArray[np.uint8], length: int) -> NDArray[np.float32]:
    """Undo `pack_signs`: uint8 (..., ceil(length / 8)) to ±1 float32 (..., length)."""
    bits = np.unpackbits(packed, axis=-1, count=length, bitorder="little")
    return np.where(bits == 1, np.float32(1), np.float32(-1))
