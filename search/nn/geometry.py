"""The geometry of a convolution: channels, kernel, stride, padding, dilation and groups, in one value."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from typing import Self

Pair = tuple[int, int]
Sizes = int | Sequence[int]
"""One number, or a sequence of two: (vertical, horizontal)."""

PAD_VALUES = (-1, 0, 1)
"""What the sign at a padded tap can be."""


@dataclass(frozen=True)
class Geometry:
    """Every argument of a convolution but the bias; `of` makes one of `torch.nn.Conv2d`'s arguments.

    Attributes:
        in_channels: C, of all groups.
        out_channels: O.
        kernel_size: (height, width).
        stride: (vertical, horizontal).
        padding: rows and columns on each side, (vertical, horizontal). "same" keeps the size, with stride 1; an odd row
            or column is at the bottom or right.
        dilation: (vertical, horizontal).
        groups: 1 for an ordinary convolution, C for a depthwise one.
        pad_value: the activation of a binary convolution at the padding, of `PAD_VALUES`.
        extra_padding: rows and columns more below and at the right, (vertical, horizontal), as TensorFlow has them at a
            stride of 2.

    Raises:
        ValueError: no binary convolution has this geometry.
    """

    in_channels: int
    out_channels: int
    kernel_size: Pair
    _: KW_ONLY
    stride: Pair = (1, 1)
    padding: Pair | str = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pad_value: int = 0
    extra_padding: Pair = (0, 0)

    def __post_init__(self) -> None:
        ins, outs, groups = self.in_channels, self.out_channels, self.groups
        if min(ins, outs, groups) < 1:
            raise ValueError(f"{ins} to {outs} channels in {groups} groups; each must be at least 1")
        if ins % groups or outs % groups:
            raise ValueError(f"{groups} groups do not divide {ins} and {outs} channels")
        if self.pad_value not in PAD_VALUES:
            raise ValueError(f"pad_value={self.pad_value!r}: a padded tap holds a sign, wanted -1, 0 or 1")
        if not isinstance(self.padding, str):
            return
        if self.padding != "same":
            raise ValueError(f'padding={self.padding!r}: wanted a number, (vertical, horizontal), "same" or "valid"')
        if self.stride != (1, 1):
            raise ValueError(f'padding="same" with stride {self.stride}: a strided convolution does not keep the size')
        if any(self.extra_padding):
            raise ValueError(f'padding="same" with extra_padding={self.extra_padding}: it keeps the size by itself')

    @classmethod
    def of(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        *,
        pad_value: int = 0,
        extra_padding: Sizes = 0,
    ) -> Self:
        """Return the geometry of arguments in the forms and in the order of `torch.nn.Conv2d`.

        Raises:
            ValueError: no binary convolution has these arguments.
        """
        return cls(
            in_channels,
            out_channels,
            _pair("kernel_size", kernel_size, least=1),
            stride=_pair("stride", stride, least=1),
            padding=_padding(padding),
            dilation=_pair("dilation", dilation, least=1),
            groups=groups,
            pad_value=pad_value,
            extra_padding=_pair("extra_padding", extra_padding, least=0),
        )

    @property
    def arguments(self) -> tuple[int, int, Pair, Pair, Pair | str, Pair, int]:
        """Return the arguments of `torch.nn.Conv2d` in their order, up to the groups."""
        return (
            *(self.in_channels, self.out_channels, self.kernel_size),
            *(self.stride, self.padding, self.dilation, self.groups),
        )

    @property
    def group_channels(self) -> int:
        """Return the input channels that a filter reads, C / groups."""
        return self.in_channels // self.groups

    @property
    def sides(self) -> tuple[Pair, Pair]:
        """Return the padding above and left, and how much more there is below and right; (vertical, horizontal) each.

        "same" pads dilation * (kernel_size - 1) in all, the odd one below and right.
        """
        if not isinstance(self.padding, str):
            return self.padding, self.extra_padding
        return keeping_the_size(self.kernel_size, self.dilation)


def keeping_the_size(kernel_size: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    """Return the padding above and left that "same" is, and how much more there is below and right."""
    vertical, horizontal = (step * (size - 1) for step, size in zip(dilation, kernel_size, strict=True))
    return (vertical // 2, horizontal // 2), (vertical % 2, horizontal % 2)


def _padding(value: Sizes | str) -> Pair | str:
    if isinstance(value, str):
        return (0, 0) if value == "valid" else value
    return _pair("padding", value, least=0)


def _pair(name: str, value: Sizes, *, least: int) -> Pair:
    sizes = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(sizes) != 2 or not all(_is_size(size) and size >= least for size in sizes):
        raise ValueError(f"{name}={value!r}: wanted a number or (vertical, horizontal), integers of at least {least}")
    return int(sizes[0]), int(sizes[1])


def _is_size(value: object) -> bool:
    """Tell whether it is an integer of any type, such as numpy's; True is none, though Python has it as 1."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def lone_weight(geometry: Geometry) -> str | None:
    """Say why filters of this geometry cannot be standardised; None where they can."""
    height, width = geometry.kernel_size
    if geometry.group_channels * height * width == 1:
        return "a filter of one weight cannot be standardised: its mean is the weight itself"
    return None
