"""Bounds of the pieces that no rule of `bounds.py` covers, measured with noise.

These have Sigmoid, Softmax, Resize, normalisation over channels, or are what torch.onnx made several operators of. Such
a piece is run on PyTorch's values with relative noise of `NOISE` = 16 u in each, which is more than its own
roundings do. The bound is `MARGIN` times the largest change of the channel, and 32 u |y|. No sign amplifies it, since a
sign reads a recorded value. onnxruntime computes Sigmoid with a quotient of polynomials, whose error is absolute: up to
2.8 u where y is nearly 0. So a piece with one is allowed `SIGMOID` u more. GELU is x / 2 times 1 and an error function,
which either library may have wrong by about u where it is nearly -1. So a piece with one is allowed `GELU` u |x| more,
for the largest |x| that it reads.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bnas_deploy.export.bounds import ROUNDING, Bound
from bnas_deploy.export.pieces import Array, Piece, Recorded

NOISE = 2.0**-20
MARGIN = 4
NOISE_RUNS = 2
SIGMOID = 4
GELU = 4


def measured_bounds(
    pieces: Sequence[Piece], recorded: Recorded, answers: Callable[[Mapping[str, Array]], Sequence[Array]]
) -> list[Bound]:
    """Return what noise in the inputs of pieces makes of their outputs; `answers` runs them on arrays by name."""
    generator = np.random.default_rng(0)
    values = {str(value.name): recorded[value] for piece in pieces for value in piece.inputs}
    values |= {str(piece.output.name): recorded[piece.output] for piece in pieces}
    quiet = answers(values)
    moved = [np.zeros(each.shape) for each in quiet]
    for _ in range(NOISE_RUNS):
        noisy = answers({name: _with_noise(data, generator) for name, data in values.items()})
        changes = (np.abs(np.subtract(left, right, dtype=np.float64)) for left, right in zip(noisy, quiet, strict=True))
        moved = [np.maximum(*both) for both in zip(moved, changes, strict=True)]
    return [_measured(piece, recorded, each) for piece, each in zip(pieces, moved, strict=True)]


def _measured(piece: Piece, recorded: Recorded, moved: Bound) -> Bound:
    y = recorded[piece.output]
    axes = tuple(axis for axis in range(y.ndim) if axis != 1)
    largest: Bound = moved.max(axis=axes, keepdims=True) if y.ndim > 1 else moved.max(keepdims=True)
    used = {node.op_type for node in piece.nodes}
    absolute = SIGMOID * ROUNDING if "Sigmoid" in used else 0.0
    if used & {"Gelu", "Erf"}:
        read = (recorded[value] for value in piece.inputs)
        absolute += GELU * ROUNDING * max((float(np.abs(x).max()) for x in read if x.dtype == np.float32), default=0.0)
    return np.nan_to_num(MARGIN * largest + 32 * ROUNDING * np.abs(y.astype(np.float64)) + absolute)


def _with_noise(data: Array, generator: np.random.Generator) -> Array:
    if data.dtype != np.float32:
        return data
    noisy: Array = (data.astype(np.float64) * (1 + NOISE * generator.uniform(-1, 1, data.shape))).astype(np.float32)
    return noisy
