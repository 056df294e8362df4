"""The operators of the domain `bnas`, version 1: names, inputs, attributes and limits, stated once.

docs/operators.md is the specification. `export/opset.py` adds the function body and the numpy meaning. The exporter's
passes, the writer of models and the readers of a device take names and inputs from here. `runtime/build/native.py`
writes the same rows as a C header, from which the library takes its operators, inputs, attributes and limits.

An ONNX function can neither ask whether an input is there nor choose a computation by data. Such a choice is a field of
`Operator` and a piece of its name. Where a neutral vector costs nothing at run time, every operator has an input
instead, as `offset` is.

A piece of the name is also what keeps an older library from computing something else: it passes over an attribute that
it does not know, and it takes any version of the domain. An operator that it does not know it leaves to the function
body in the file. So the set grows by operators, and its version by changes of what an operator means.

Only the standard library is imported: a build reads this file before anything is installed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import inf
from typing import Any, Final, Literal

DOMAIN = "bnas"
VERSION = 1

ONNX_OPSET = 18
"""The first opset with BitwiseAnd, which the function bodies unpack weights with; onnxruntime 1.17 has it."""

IR_VERSION = 9
"""The first IR version in which a function has defaults for its attributes, and the newest of onnxruntime 1.17."""

MOST_PARTS = 4
"""Tensors that X may be the concatenation of: a cell has four nodes."""

MOST_ADDED = 2
"""Tensors that an operator may add to its result: in a cell, the node's other branch and the skip past the cell."""

MOST_BEFORE = 1
"""Tensors that an operator may add before its activation: a shortcut."""

LARGEST_SIZE = 2**31 - 1
"""Bound of attributes, channels and sides of images: no sum or product of two of them overflows 64 bits."""

MOST_TERMS = 2**24
"""Bound of the terms of one sum, which stay below it: float32, in which a function body adds them, is exact so far."""

Activation = Literal["", "Relu", "PRelu", "Clip"]
"""The ONNX operator behind the bias and the sums before it, or "" for none; Clip has limits for each channel."""

ACTIVATIONS: tuple[Activation, ...] = ("", "Relu", "PRelu", "Clip")

Piece = (
    Literal[
        "",
        "BinaryConv2d",
        "SecondBit",
        "Reach",
        "K",
        "Gate",
        "Pad",
        "Scale",
        "Affine",
        "LastAffine",
        "OfBits",
        "ToBits",
    ]
    | Activation
)
"""What decides which inputs an operator has."""

BYTE: Final = 8
"""Bits of a byte: the channels of a pixel that one of a tensor of bits holds."""


def bits_of_channels(channels: int) -> int:
    """Return the bits that a tensor of bits has for so many channels: whole bytes."""
    return -(-channels // BYTE) * BYTE


Size = Literal["O", "C", "KH", "KW", "packed C", "bytes of Y", 1, 8]
"""A dimension of an input.

O, KH and KW are sizes of `weight_shape`; C are the channels of X, all groups together. "packed C" are the bytes of the
channels of one group, with the constant ones. "bytes of Y" are those of a pixel where Y is bits.
"""


@dataclass(frozen=True)
class Constant:
    """An input that is no activation.

    Attributes:
        name: of the input.
        dtype: of its numbers.
        shape: its dimensions.
        neutral: a number that changes nothing where it is everywhere.
        only_with: the piece that it belongs to; "" is for all operators.
        not_with: the piece in whose place it stands; "" where there is none.
    """

    name: str
    dtype: Literal["float32", "uint8"]
    shape: tuple[Size, ...]
    neutral: float = 0.0
    only_with: Piece = ""
    not_with: Piece = ""

    def dimensions(self, sizes: Mapping[Size, int]) -> tuple[int, ...]:
        """Return its shape where the sizes that it names are these."""
        return tuple(size if isinstance(size, int) else sizes[size] for size in self.shape)


CONSTANTS = (
    Constant("W", "uint8", ("O", "KH", "KW", "packed C"), only_with="BinaryConv2d"),
    Constant("threshold", "float32", ("C",), only_with="BinaryConv2d", not_with="OfBits"),
    Constant("place", "float32", ("C",), only_with="OfBits"),
    Constant("pad", "float32", ("C",), only_with="Pad"),
    Constant("offset", "float32", ("O", 1, 1), only_with="BinaryConv2d"),
    Constant("step", "float32", ("O",), only_with="SecondBit"),
    Constant("reach", "float32", ("O",), neutral=inf, only_with="Reach"),
    Constant("level", "float32", ("bytes of Y", BYTE), only_with="ToBits"),
    Constant("scale", "float32", ("O",), neutral=1.0, only_with="Scale"),
    Constant("bias", "float32", ("O",), only_with="Scale"),
    Constant("slope", "float32", ("O",), neutral=1.0, only_with="PRelu"),
    Constant("low", "float32", ("O",), neutral=-inf, only_with="Clip"),
    Constant("high", "float32", ("O",), neutral=inf, only_with="Clip"),
    Constant("scale2", "float32", ("O",), neutral=1.0, only_with="Affine"),
    Constant("bias2", "float32", ("O",), only_with="Affine"),
    Constant("scale3", "float32", ("O",), neutral=1.0, only_with="LastAffine"),
    Constant("bias3", "float32", ("O",), only_with="LastAffine"),
)
"""In the order of an operator's inputs. They stand behind the parts of X and before the tensors that are added."""


def constant(name: str) -> Constant:
    """Return the row of `CONSTANTS` with this name; KeyError if there is none."""
    return _CONSTANTS_BY_NAME[name]


_CONSTANTS_BY_NAME = {row.name: row for row in CONSTANTS}


@dataclass(frozen=True)
class Attribute:
    """An attribute: an integer where `default` is one, else a list of `length` integers. Required without a default."""

    name: str
    default: int | tuple[int, ...] | None
    length: int
    least: int

    @property
    def is_list(self) -> bool:
        """Tell whether it is a list of integers in ONNX."""
        return not isinstance(self.default, int)


ATTRIBUTES = (
    Attribute("weight_shape", None, length=4, least=1),
    Attribute("strides", (1, 1), length=2, least=1),
    Attribute("pads", (0, 0, 0, 0), length=4, least=0),
    Attribute("dilations", (1, 1), length=2, least=1),
    Attribute("group", 1, length=1, least=1),
    Attribute("constant_channels", (0,), length=1, least=0),
)
"""No value is above LARGEST_SIZE.

A node should carry all that its function has: onnx's ReferenceEvaluator (1.23) does not look up the defaults of one.
"""


@dataclass(frozen=True)
class Operator:
    """A binary convolution, what is done to its result, and in how many parts X comes; the name says all of it.

    Operators are of four kinds. Those of cells have what the nodes of searched cells need, and the layers of most
    other networks. Those of blocks have a gate, sums before the activation, limits or a second scale and bias, which
    blocks of published networks need; X comes in one part. Those of bits read or write bits instead of floats. All of
    blocks and of bits have an input `pad`, which is 0 where padding is. Those of images do not convolve: what is done
    to a result they do to X. They have at least one constant, whose length is the number of channels. X may come in
    parts, and the result may be the largest or the mean of 2x2 pixels.

    Attributes:
        convolves: X is convolved first.
        second_bit: X is multiplied by what its magnitude lacks to `step`. Only of images.
        reaches: X counts only where `before1` reaches `reach`. Only of images.
        k_map: the result is multiplied by K.
        gate: the scaled result is multiplied by a tensor: a number for each image and channel, or for each pixel.
        pads_signs: padded taps hold what `pad` says for each channel, +1 or -1, and 0 where it is 0 throughout. Not
            with K, whose padding is 0. True of all operators of blocks and of bits.
        before: tensors that are added before the activation.
        scaled: a scale and a bias stand in front of the activation, and of images behind those sums. True of all that
            convolve but those that write bits.
        activation: behind the bias and those sums.
        affine: a second scale and bias stand behind the activation.
        added: tensors that are added to the result.
        scaled_last: a third scale and bias stand behind all of it. Only of images.
        parts: tensors that X is the concatenation of.
        of_bits: X are bits, eight channels to a byte, and no threshold is needed.
        max_pool: the accumulator is the largest of 2x2 pixels, with stride 2 and without padding; where nothing is
            convolved the result is. Of convolutions only where Y is bits: a bit is 1 where any of the four would be, so
            nothing but bits has to be written before it.
        mean_pool: the result is the mean of 2x2 pixels, with stride 2 and without padding. Only of images.
        to_bits: Y are bits: whether the accumulator reaches levels. That is all the epilogue there is.
    """

    convolves: bool = True
    second_bit: bool = False
    reaches: bool = False
    k_map: bool = False
    gate: bool = False
    pads_signs: bool = False
    before: int = 0
    scaled: bool = False
    activation: Activation = ""
    affine: bool = False
    added: int = 0
    scaled_last: bool = False
    parts: int = 1
    of_bits: bool = False
    max_pool: bool = False
    mean_pool: bool = False
    to_bits: bool = False

    def __post_init__(self) -> None:
        if self.k_map and self.pads_signs:
            raise ValueError("no operator has both K and Pad: K is a mean of |X|, which is 0 at the padding")
        if self.k_map and self.is_of_blocks:
            raise ValueError("no operator of blocks has K")
        if not self.convolves:
            if self.k_map or self.pads_signs or self.has_bits:
                raise ValueError("an operator of images neither pads nor has bits")
            if self.reaches and not self.before:
                raise ValueError("what reaches something is added, too")
            if self.max_pool and (
                self.gate or self.activation or self.added or self.scaled or not self.affine or len(self.constants) > 2
            ):
                raise ValueError("a maximum of pixels stands behind a second scale and bias alone")
            if self.mean_pool and (self.gate or self.affine or self.added or self.scaled or len(self.constants) > 1):
                raise ValueError("a mean of pixels stands behind an activation alone")
            if not self.constants:
                raise ValueError("an operator of images has numbers of its channels")
            return
        if self.second_bit or self.reaches or self.scaled_last or self.mean_pool:
            raise ValueError("no operator that convolves has a second bit, a reach, a third scale or a mean")
        object.__setattr__(self, "scaled", not self.to_bits)
        if not self.activation and (self.before or self.affine):
            raise ValueError("nothing is before or behind an activation that is not there")
        if (self.k_map or self.is_of_blocks) and self.has_bits:
            raise ValueError("no operator with K or of blocks reads or writes bits")
        if self.to_bits and (self.activation or self.added):
            raise ValueError("bits are made of the accumulator, without an activation or a sum")
        if self.max_pool and not self.to_bits:
            raise ValueError("no operator has MaxPool and writes floats")
        if self.is_of_blocks or self.has_bits:
            object.__setattr__(self, "pads_signs", True)

    @property
    def is_of_blocks(self) -> bool:
        """Tell whether it has something that cells do not need."""
        return self.convolves and (self.gate or self.before > 0 or self.activation == "Clip" or self.affine)

    @property
    def has_bits(self) -> bool:
        """Tell whether it reads or writes bits."""
        return self.of_bits or self.to_bits

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What decides about its constants."""
        return (
            "BinaryConv2d" if self.convolves else "",
            "SecondBit" if self.second_bit else "",
            "Reach" if self.reaches else "",
            "K" if self.k_map else "",
            "Gate" if self.gate else "",
            "Pad" if self.pads_signs else "",
            "Scale" if self.scaled else "",
            self.activation,
            "Affine" if self.affine else "",
            "LastAffine" if self.scaled_last else "",
            "OfBits" if self.of_bits else "",
            "ToBits" if self.to_bits else "",
        )

    @property
    def name(self) -> str:
        """The operator's name, such as BinaryConv2dReluAddConcat4, and of images GateAffineAdd.

        From the factor to the bits its pieces stand in the order of computation. Concat, which is first, stands last.
        """
        of_bits, to_bits = "OfBits" if self.of_bits else "", "ToBits" if self.to_bits else ""
        factor = "K" if self.k_map else "Gate" if self.gate else ""
        pad = "Pad" if self.pads_signs and not (self.is_of_blocks or self.has_bits) else ""
        before, added = "Add" * self.before, "Add" * self.added
        first, affine, last = (
            "Affine" if there else "" for there in (self.scaled and not self.convolves, self.affine, self.scaled_last)
        )
        made = f"{'MaxPool' if self.max_pool else ''}{'MeanPool' if self.mean_pool else ''}{to_bits}"
        concat = f"Concat{self.parts}" if self.parts > 1 else ""
        convolution = "BinaryConv2d" if self.convolves else ""
        of_images = f"{'SecondBit' if self.second_bit else ''}{'Reach' if self.reaches else ''}"
        behind = f"{before}{first}{self.activation}{affine}{added}{last}{made}{concat}"
        return f"{convolution}{of_images}{of_bits}{factor}{pad}{behind}"

    @property
    def activations(self) -> tuple[str, ...]:
        """Names of the parts of X: X, or X1, X2 and so on."""
        return ("X",) if self.parts == 1 else tuple(f"X{i + 1}" for i in range(self.parts))

    @property
    def constants(self) -> tuple[Constant, ...]:
        """The inputs that are no activations."""
        pieces = {*self.pieces, ""}
        return tuple(
            row for row in CONSTANTS if row.only_with in pieces and (not row.not_with or row.not_with not in pieces)
        )

    @property
    def gate_inputs(self) -> tuple[str, ...]:
        """Name of the input that the result is multiplied by, if it has one."""
        return ("gate",) if self.gate else ()

    @property
    def before_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that are added before the activation."""
        return tuple(f"before{i + 1}" for i in range(self.before))

    @property
    def added_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that are added to the result."""
        return tuple(f"added{i + 1}" for i in range(self.added))

    @property
    def computed_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that stand behind the constants: gate, what is added before and behind."""
        return (*self.gate_inputs, *self.before_inputs, *self.added_inputs)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all inputs, in order."""
        return (*self.activations, *(constant.name for constant in self.constants), *self.computed_inputs)


def _of_cells() -> Iterator[Operator]:
    padding = (Operator(), Operator(pads_signs=True), Operator(k_map=True))
    cells = product(padding, ACTIVATIONS[:3], range(MOST_ADDED + 1), range(1, MOST_PARTS + 1))
    return (replace(row, activation=activation, added=added, parts=parts) for row, activation, added, parts in cells)


def _of_blocks() -> Iterator[Operator]:
    """Return the combinations that networks have: a session takes about 0.04 ms for each.

    A shortcut is added either before the activation or behind it.
    """
    sums = ((0, 0), (1, 0), (0, 1))
    for gate, (before, added), activation, affine in product((False, True), sums, ACTIVATIONS, (False, True)):
        needs_activation = before > 0 or affine
        at_most_one = gate + affine + (activation == "Clip") <= 1
        if at_most_one and (activation or not needs_activation):
            row = Operator(gate=gate, before=before, activation=activation, affine=affine, added=added)
            if row.is_of_blocks:
                yield row


def _of_bits() -> Iterator[Operator]:
    """Return those that make bits of any X, and those that read them in one part. A maximum stands in chains."""
    yield from (Operator(to_bits=True, parts=parts) for parts in range(1, MOST_PARTS + 1))
    yield Operator(of_bits=True, to_bits=True)
    yield from (Operator(of_bits=of_bits, max_pool=True, to_bits=True) for of_bits in (False, True))
    for activation, added in product(ACTIVATIONS[:3], range(MOST_ADDED + 1)):
        yield Operator(of_bits=True, activation=activation, added=added)


def _of_images() -> Iterator[Operator]:
    """Return those for what no convolution takes in.

    A gate that reads what it scales (BNext, SENet), a PReLU between others, a BN of joined features and the maximum of
    it (BinaryDenseNet), and activations of two bits (FracBNN).
    """
    yield from (Operator(convolves=False, gate=True, affine=True, added=added) for added in (0, 1))
    yield from (Operator(convolves=False, activation="PRelu", mean_pool=pools) for pools in (False, True))
    for parts in range(1, MOST_PARTS + 1):
        yield Operator(convolves=False, affine=True, max_pool=True, parts=parts)
    yield Operator(convolves=False, second_bit=True)
    yield Operator(
        convolves=False,
        reaches=True,
        before=1,
        scaled=True,
        activation="PRelu",
        affine=True,
        added=1,
        scaled_last=True,
    )


CONVOLUTIONS = (*_of_cells(), *_of_blocks(), *_of_bits())
IMAGES = tuple(_of_images())
OPERATORS = (*CONVOLUTIONS, *IMAGES)
_BY_NAME = {row.name: row for row in OPERATORS}


def operator(name: str) -> Operator:
    """Return the row of `OPERATORS` with this name; KeyError if there is none."""
    return _BY_NAME[name]


def with_changes(row: Operator, **fields: Any) -> Operator | None:
    """Return the operator that has these fields and for the rest those of `row`; None where there is none."""
    try:
        changed = replace(row, **fields)
    except ValueError:
        return None  # not even a name is there for it
    return changed if is_operator(changed.name) else None


def is_operator(name: str) -> bool:
    """Tell whether `OPERATORS` has a row of this name."""
    return name in _BY_NAME


def defaults(*, constant_channels: bool = True) -> dict[str, int | list[int] | None]:
    """Return every attribute with its default, as ONNX writes it; None where it is required.

    A function without constant channels has no such attribute.
    """
    return {
        row.name: list(row.default) if isinstance(row.default, tuple) else row.default
        for row in ATTRIBUTES
        if constant_channels or row.name != "constant_channels"
    }
