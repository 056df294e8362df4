"""What the codes of Bi-Real Net and ReActNet store in another form than this package: kernels, and learned shifts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_NEGATED = (".level", ".shift_in")


def as_kernel(tensor: "Tensor", shape: tuple[int, ...]) -> "Tensor":
    """Return weights that are stored as one column, (O C KH KW, 1), as a kernel of `shape`; others as they are."""
    from math import prod

    return tensor.reshape(shape) if tuple(tensor.shape) == (prod(shape), 1) else tensor


def adapt(name: str, tensor: "Tensor", shape: tuple[int, ...]) -> "Tensor":
    """Return a tensor of ReActNet as it stands here.

    Its shifts are (1, C, 1, 1) and are added. Here a threshold (C) and the first shift of an RPReLU, (C, 1, 1), are
    subtracted, so they have the other sign: x + b and x - (-b) are one number in floating point.
    """
    if tensor.ndim == 4 and tensor.shape[0] == 1 and tensor.shape[2:] == (1, 1) and len(shape) in (1, 3):
        tensor = tensor.reshape(-1) if len(shape) == 1 else tensor[0]
    elif name.endswith(".weight"):
        tensor = as_kernel(tensor, shape)
    return -tensor if name.endswith(_NEGATED) else tensor
