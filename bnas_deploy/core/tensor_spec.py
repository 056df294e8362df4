"""Inputs and outputs of a model: what they are called, and which arrays they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from bnas_deploy.core.json_records import wanted

DTYPES = ("float32", "uint8", "int8", "int32", "int64", "bool", "float64")
"""What an input or an output may be made of."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or an output of model.onnx; None in `shape` is a size that is free.

    Along axis 0 that is N, the number of examples. What has no such axis is the same for all examples.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def is_batched(self) -> bool:
        """Tell whether it has an entry for each example."""
        return bool(self.shape) and self.shape[0] is None

    @property
    def size(self) -> str:
        """Its shape, for people."""
        texts = ["?" if size is None else str(size) for size in self.shape]
        if not self.is_batched:
            return "x".join(texts) or "one number"
        return "N x " + "x".join(texts[1:]) if texts[1:] else "N"

    def fits(self, dtype: object, shape: Sequence[int]) -> bool:
        """Tell whether an array of this type and shape can be it."""
        sizes = len(shape) == len(self.shape) and all(
            mine is None or mine == size for mine, size in zip(self.shape, shape, strict=True)
        )
        return sizes and str(dtype) == self.dtype

    @property
    def wanted(self) -> str:
        """Type and shape, as numpy writes them."""
        sizes = ["N" if size is None and axis == 0 else str(size) for axis, size in enumerate(self.shape)]
        return f"{self.dtype} ({', '.join(sizes)}{',' * (len(sizes) == 1)})"


def check_tensors(tensors: Sequence[TensorSpec], where: str) -> None:
    """Raise ValueError where some are none that a model can have together; `where` is their field."""
    names = [each.name for each in tensors]
    wanted(len(set(names)) == len(names) > 0, names, where, "at least one, each of another name")
    for index, each in enumerate(tensors):
        wanted(each.dtype in DTYPES, each.dtype, f"{where}[{index}].dtype", f"one of {', '.join(DTYPES)}")
        sizes = [size for size in each.shape if size is not None]
        wanted(min(sizes, default=1) > 0, list(each.shape), f"{where}[{index}].shape", "sizes of at least 1, or null")
