"""What the operators of `bnas_deploy.core.operators` compute: in numpy, and in standard ONNX operators.

`reference` is the numpy meaning, `function` the body that every exported file carries. docs/operators.md says both.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from bnas_deploy.core.bits import pack_signs, sign, unpack_signs
from bnas_deploy.core.operators import (
    BYTE,
    DOMAIN,
    ONNX_OPSET,
    Activation,
    Operator,
    bits_of_channels,
    defaults,
    operator,
)

# --------------------------------------------------------------------------------------------------------------------
# The numpy meaning


def reference(name: str, inputs: Sequence[NDArray[Any]], attributes: Mapping[str, Any]) -> NDArray[Any]:
    """What operator `name` computes, float32 (N, O, OH, OW), or uint8 (N, R, OH, OW) where it writes bits.

    It is slow, and each line one line of docs/operators.md.

    `inputs` are in the order of `Operator.inputs`; attributes left out have their defaults. Every float32 operation
    below is one rounding, in the documented order. K is summed in float64 and rounded once, so other implementations
    agree with it within (C + KH * KW + 3) * 2^-24 relative to K, not bit for bit.
    """
    row = operator(name)
    named = dict(zip(row.inputs, inputs, strict=True))
    x = np.concatenate([named[part] for part in row.activations], axis=1)
    if not row.convolves:
        return finished(row, x, named)
    attributes = {**defaults(), **attributes}
    weights = unpack_signs(named["W"], attributes["weight_shape"][3])
    signs = _signs_of_bits(x, named["place"]) if row.of_bits else sign(x, _per_channel(named["threshold"]))
    constant = np.ones((len(x), *attributes["constant_channels"], *x.shape[2:]), signs.dtype)
    signs = np.concatenate([signs, constant], axis=1)
    accumulator = _convolve(signs, weights, attributes, named.get("pad")) + named["offset"]
    if row.max_pool:
        accumulator = max_pool(accumulator)
    if row.to_bits:
        return _bits_of(accumulator, named["level"])
    k = _k_map(x, weights, attributes) if row.k_map else None
    return epilogue(row, accumulator, named, k)


def epilogue(
    row: Operator, accumulator: NDArray[Any], named: Mapping[str, NDArray[Any]], k: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """What operator `row` makes of its accumulator (N, O, OH, OW); `named` are its inputs, `k` is the map K."""
    with np.errstate(invalid="ignore", over="ignore"):  # as below
        scaled: NDArray[np.float32] = accumulator.astype(np.float32) * _per_channel(named["scale"])
    return finished(row, scaled, named, k)


def finished(
    row: Operator, y: NDArray[np.float32], named: Mapping[str, NDArray[Any]], k: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """What operator `row` makes of its scaled accumulator, or where it does not convolve of X."""
    # A K of inf times an accumulator of 0 is NaN, and 3e38 + 3e38 is inf, as IEEE 754 has it; numpy need not warn.
    with np.errstate(invalid="ignore", over="ignore"):
        if row.second_bit:
            y = y * (_per_channel(named["step"]) - np.abs(y))
        if row.reaches:
            y = np.where(named["before1"] >= _per_channel(named["reach"]), y, np.float32(0))
        if k is not None:
            y = y * k
        if row.gate:
            y = y * named["gate"]
        if row.convolves:
            y = y + _per_channel(named["bias"])
        for name in row.before_inputs:
            y = y + named[name]
        if row.scaled and not row.convolves:
            y = y * _per_channel(named["scale"]) + _per_channel(named["bias"])
        y = _activated(row, y, named)
        if row.affine:
            y = y * _per_channel(named["scale2"]) + _per_channel(named["bias2"])
        for name in row.added_inputs:
            y = y + named[name]
        if row.scaled_last:
            y = y * _per_channel(named["scale3"]) + _per_channel(named["bias3"])
        if row.max_pool:  # of images: the accumulators of others have been pooled
            y = max_pool(y)
        if row.mean_pool:
            y = mean_pool(y)
    return y


def _signs_of_bits(x: NDArray[np.uint8], place: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sign of each channel, which is bit `place` of a pixel."""
    bits = unpack_signs(np.moveaxis(x, 1, -1), BYTE * x.shape[1])
    return np.moveaxis(bits[..., place.astype(int)], -1, 1)


def _bits_of(accumulator: NDArray[np.float64], level: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Compare with the levels of each set of bytes; behind the last channel are bits of 0."""
    channels = accumulator.shape[1]
    sets = level.reshape(-1, bits_of_channels(channels))[:, :channels]
    packed = [pack_signs(np.moveaxis(sign(accumulator, _per_channel(each)), 1, -1)) for each in sets]
    return np.moveaxis(np.concatenate(packed, axis=-1), -1, 1)


def max_pool(y: NDArray[Any]) -> NDArray[Any]:
    """Return the largest of each 2x2 pixels of (N, O, H, W); a last row or column of its own is left out."""
    images, channels, height, width = y.shape
    rows, columns = height // 2, width // 2
    windows = y[:, :, : 2 * rows, : 2 * columns].reshape(images, channels, rows, 2, columns, 2)
    largest: NDArray[Any] = windows.max(axis=(3, 5))
    return largest


def mean_pool(y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of each 2x2 pixels of (N, C, H, W), summed row by row; a last row or column is left out."""
    rows, columns = y.shape[2] // 2 * 2, y.shape[3] // 2 * 2
    top_left, top_right, left, right = (y[:, :, row:rows:2, column:columns:2] for row in (0, 1) for column in (0, 1))
    mean: NDArray[np.float32] = (((top_left + top_right) + left) + right) * np.float32(0.25)
    return mean


def _activated(row: Operator, y: NDArray[np.float32], named: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    if row.activation == "Relu":
        y = np.maximum(y, np.float32(0))
    if row.activation == "PRelu":
        y = np.where(y < 0, _per_channel(named["slope"]) * y, y)
    if row.activation == "Clip":
        y = np.minimum(np.maximum(y, _per_channel(named["low"])), _per_channel(named["high"]))
    return y


def _per_channel(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(-1, 1, 1)


def _k_map(x: NDArray[Any], weights: NDArray[Any], attributes: Mapping[str, Any]) -> NDArray[np.float32]:
    _, height, width, _ = weights.shape
    mean = np.abs(x.astype(np.float64)).mean(axis=1, keepdims=True)
    box = np.ones((1, height, width, 1))
    k: NDArray[np.float32] = (_convolve(mean, box, attributes) / (height * width)).astype(np.float32)
    return k


def _convolve(
    x: NDArray[Any], weights: NDArray[Any], attributes: Mapping[str, Any], pad: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Convolve (N, C, H, W) with (O, KH, KW, C/G), one tap at a time.

    A padded tap holds `pad` in the first channels, and 0 in those behind.
    """
    (row_stride, column_stride), (row_step, column_step) = attributes["strides"], attributes["dilations"]
    top, left, bottom, right = attributes["pads"]
    sides = [(0, 0), (0, 0), (top, bottom), (left, right)]
    padded = np.pad(x.astype(np.float64), sides)
    if pad is not None:
        is_padding = np.pad(np.zeros(x.shape[2:], bool), sides[2:], constant_values=True)
        padded[:, : len(pad)] += _per_channel(pad) * is_padding
    channels_out, height, width, group_channels = weights.shape
    groups = x.shape[1] // group_channels
    rows = (padded.shape[2] - row_step * (height - 1) - 1) // row_stride + 1
    columns = (padded.shape[3] - column_step * (width - 1) - 1) // column_stride + 1
    y = np.zeros((len(x), groups, channels_out // groups, rows * columns))
    for tap_row, tap_column in np.ndindex(height, width):
        tap = padded[:, :, tap_row * row_step :, tap_column * column_step :]
        tap = tap[:, :, ::row_stride, ::column_stride][:, :, :rows, :columns]
        tap = tap.reshape(len(x), groups, group_channels, rows * columns)
        y += weights[:, tap_row, tap_column].reshape(groups, -1, group_channels).astype(np.float64) @ tap
    return y.reshape(len(x), channels_out, rows, columns)


# --------------------------------------------------------------------------------------------------------------------
# The function body
#
# A body must load in every onnxruntime from 1.17 on, keep the documented roundings at every optimisation level, let
# onnx infer every shape while the batch is symbolic, and cost little: onnxruntime folds all that depends on constants
# only when it loads the model. Each comment below says which of these its line is for.

# Not Sign(X - threshold): Where decides 0, -0.0 and NaN as the operator does.
_SIGNS = """
  plus = Constant <value = float {{1.0}}> ()
  minus = Constant <value = float {{-1.0}}> ()
  per_channel = Constant <value = int64[3] {{-1, 1, 1}}> ()
{less_pad}  threshold_per_channel = Reshape (threshold, per_channel)
  positive = GreaterOrEqual (X, threshold_per_channel)
  {signs} = Where (positive, {plus}, {minus})
"""

# Every channel's byte, and the bit in it.
_SIGNS_OF_BITS = """
  plus = Constant <value = float {{1.0}}> ()
  minus = Constant <value = float {{-1.0}}> ()
  per_channel = Constant <value = int64[3] {{-1, 1, 1}}> ()
{less_pad}  bits_of_byte = Constant <value = int64 {{8}}> ()
  channel_places = Cast <to = 7> (place)
  byte_of_channel = Div (channel_places, bits_of_byte)
  bit_of_channel = Mod (channel_places, bits_of_byte)
  bytes_of_channels = Gather <axis = 1> (X, byte_of_channel)
  bit = Cast <to = 2> (bit_of_channel)
  single = Constant <value = uint8 {{1}}> ()
  masks = BitShift <direction = "LEFT"> (single, bit)
  mask_per_channel = Reshape (masks, per_channel)
  masked = BitwiseAnd (bytes_of_channels, mask_per_channel)
  positive = Cast <to = 9> (masked)
  {signs} = Where (positive, {plus}, {minus})
"""

# Conv pads with 0, so it convolves S - pad, which is 0 at the padding; _PAD_SUM adds the rest. That needs no copy of X.
# S - pad is 0, +2 or -2. Sums of fewer than 2^24 of these are even and below 2^25: float32 holds them exactly.
_LESS_PAD = """
  pad_per_channel = Reshape (pad, per_channel)
  plus_less_pad = Sub (plus, pad_per_channel)
  minus_less_pad = Sub (minus, pad_per_channel)
"""

# Only for files with such channels: to join them copies X. They come before the Conv pads, and are +1 on the image.
# The attribute is a list, because a Constant makes a shape of nothing else that onnx infers from.
_CONSTANT_CHANNELS = """
  count = Constant <value_ints: ints = @constant_channels> ()
  ones = ConstantOfShape <value = float[1] {1.0}> (count)
  axes = Constant <value = int64[3] {0, 2, 3}> ()
  pixel = Unsqueeze (ones, axes)
  zero = Constant <value = int64[1] {0}> ()
  one = Constant <value = int64[1] {1}> ()
  first = Slice (positive, zero, one, one)
  image = Where (first, plus, plus)
  constant = Mul (image, pixel)
  signs = Concat <axis = 1> (of_x, constant)
"""

# The channels are cut to length by the attribute, not by Shape(X), which onnxruntime would not fold; and the Slice
# names all four axes, because onnx then infers its shape. The second Reshape changes nothing: it fails where W is too
# short for weight_shape, which a Slice passes over and a Conv would read beyond.
_WEIGHTS = """
  last = Constant <value = int64[1] {-1}> ()
  bytes = Unsqueeze (W, last)
  places = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
  shifted = BitShift <direction = "RIGHT"> (bytes, places)
  lowest_bit = Constant <value = uint8 {1}> ()
  bits = BitwiseAnd (shifted, lowest_bit)
  joined_bytes = Constant <value = int64[4] {0, 0, 0, -1}> ()
  all_bits = Reshape (bits, joined_bytes)
  origin = Constant <value = int64[4] {0, 0, 0, 0}> ()
  weight_shape = Constant <value_ints: ints = @weight_shape> ()
  channel_bits = Slice (all_bits, origin, weight_shape)
  all_there = Reshape (channel_bits, weight_shape)
  is_plus = Cast <to = 9> (all_there)
  channels_last = Where (is_plus, plus, minus)
  weights = Transpose <perm = [0, 3, 1, 2]> (channels_last)
"""

# What all taps add to every output where each holds `pad`. The 1x1 Conv knows the groups, and onnx infers its shape.
_PAD_SUM = """
  kernel_axes = Constant <value = int64[2] {{2, 3}}> ()
  tap_sums = ReduceSum <keepdims = 1> (weights, kernel_axes)
  one_pixel = Constant <value = int64[4] {{1, -1, 1, 1}}> ()
  pad_of_x = Reshape (pad, one_pixel)
  {pad_pixel}
  pad_sums = Conv <group: int = @group> (pad_pixel, tap_sums)
  shifted_offset = Sum (offset, pad_sums)
"""

# Constant channels are 0 at the padding.
_PAD_PIXEL = {
    False: "pad_pixel = Identity (pad_of_x)",
    True: "no_pad = Sub (pixel, pixel)\n  pad_pixel = Concat <axis = 1> (pad_of_x, no_pad)",
}

# Sum, not Add: onnxruntime fuses Conv, Add and Mul into one Conv whose weights are no longer +1 and -1, so that every
# partial sum would round. It leaves a Sum alone.
_ACCUMULATOR = """
  products = Conv <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, group: int = @group>
    (signs, weights)
  accumulator = Sum (products, {offset})
"""

# Of accumulators, which are whole numbers, and not of bits: four axes, and one set of them for any number of levels.
_MAX_POOL = """
  {y} = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> ({x})
"""

# Each bit takes its channel out of the accumulator, and those behind the last channel take the last one. Their numbers
# are made of the levels, whose shape they have, because onnx infers from nothing else how many bytes there are.
_BITS = """
  no_number = IsNaN (level)
  none = Cast <to = 7> (no_number)
  zero_times = Constant <value = int64 {0}> ()
  all_zero = Mul (none, zero_times)
  step = Constant <value = int64 {1}> ()
  all_one = Add (all_zero, step)
  row_axis = Constant <value = int64 {0}> ()
  bit_axis = Constant <value = int64 {1}> ()
  row_number = CumSum <exclusive = 1> (all_one, row_axis)
  bit_number = CumSum <exclusive = 1> (all_one, bit_axis)
  eight = Constant <value = int64 {8}> ()
  first_of_row = Mul (row_number, eight)
  number = Add (first_of_row, bit_number)
  output_shape = Constant <value_ints: ints = @weight_shape> ()
  first_size = Constant <value = int64 {0}> ()
  channels = Gather <axis = 0> (output_shape, first_size)
  seven = Constant <value = int64 {7}> ()
  past = Add (channels, seven)
  bytes_of_channels_out = Div (past, eight)
  bits_of_channels_out = Mul (bytes_of_channels_out, eight)
  channel = Mod (number, bits_of_channels_out)
  last_channel = Sub (channels, step)
  there = Min (channel, last_channel)
  is_there = LessOrEqual (channel, last_channel)
  never = Constant <value = float {inf}> ()
  level_of_bit = Where (is_there, level, never)
  pixel_axes = Constant <value = int64[2] {2, 3}> ()
  level_per_bit = Unsqueeze (level_of_bit, pixel_axes)
  accumulators = Gather <axis = 1> ({accumulator}, there)
  reaches = GreaterOrEqual (accumulators, level_per_bit)
  weight_of_bit = Constant <value = float[8,1,1] {1, 2, 4, 8, 16, 32, 64, 128}> ()
  nothing = Constant <value = float {0}> ()
  weighted = Where (reaches, weight_of_bit, nothing)
  axis_of_bits = Constant <value = int64[1] {2}> ()
  number_of_byte = ReduceSum <keepdims = 0> (weighted, axis_of_bits)
  Y = Cast <to = 2> (number_of_byte)
"""

_PER_CHANNEL = """
  per_channel = Constant <value = int64[3] {-1, 1, 1}> ()
"""

_SCALE = """
  scale_per_channel = Reshape (scale, per_channel)
  scaled = Mul (accumulator, scale_per_channel)
"""

# The box of ones is one kernel of the weights without its signs, because onnx infers the shape of a Slice but not
# that of a ConstantOfShape.
_K = """
  absolute = Abs (X)
  channel_axis = Constant <value = int64[1] {1}> ()
  mean = ReduceMean <keepdims = 1> (absolute, channel_axis)
  first = Constant <value = int64[2] {0, 0}> ()
  second = Constant <value = int64[2] {1, 1}> ()
  one_kernel = Slice (weights, first, second)
  box = Abs (one_kernel)
  taps = ReduceSum <keepdims = 0> (box)
  box_sum = Conv <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations> (mean, box)
  k = Div (box_sum, taps)
  multiplied = Mul (scaled, k)
"""

_GATE = """
  multiplied = Mul ({x}, gate)
"""

_BIAS = """
  bias_per_channel = Reshape (bias, per_channel)
  {y} = Add ({x}, bias_per_channel)
"""

# Not ONNX's Clip, whose limits are one number for all channels.
_ACTIVATION: dict[Activation, str] = {
    "": "",
    "Relu": """
  {y} = Relu ({x})
""",
    "PRelu": """
  slope_per_channel = Reshape (slope, per_channel)
  {y} = PRelu ({x}, slope_per_channel)
""",
    "Clip": """
  low_per_channel = Reshape (low, per_channel)
  high_per_channel = Reshape (high, per_channel)
  not_below = Max ({x}, low_per_channel)
  {y} = Min (not_below, high_per_channel)
""",
}

# Not ONNX's PRelu, for which onnxruntime has no vectors: of images it would take half of all time.
_PRELU_OF_IMAGES = """
  slope_per_channel = Reshape (slope, per_channel)
  nothing = Constant <value = float {{0}}> ()
  is_negative = Less ({x}, nothing)
  sloped = Mul ({x}, slope_per_channel)
  {y} = Where (is_negative, sloped, {x})
"""

_AFFINE = """
  scale{number}_per_channel = Reshape (scale{number}, per_channel)
  bias{number}_per_channel = Reshape (bias{number}, per_channel)
  scaled{number} = Mul ({x}, scale{number}_per_channel)
  {y} = Add (scaled{number}, bias{number}_per_channel)
"""

_SECOND_BIT = """
  step_per_channel = Reshape (step, per_channel)
  magnitude = Abs ({x})
  lacking = Sub (step_per_channel, magnitude)
  {y} = Mul ({x}, lacking)
"""

_REACH = """
  reach_per_channel = Reshape (reach, per_channel)
  is_reached = GreaterOrEqual (before1, reach_per_channel)
  not_counted = Constant <value = float {{0}}> ()
  {y} = Where (is_reached, {x}, not_counted)
"""

# Not AveragePool, for whose sum ONNX defines no order. The first of each two rows end before the last row: an odd one
# is left out.
_MEAN_POOL = """
  sides = Constant <value = int64[2] {{2, 3}}> ()
  by_two = Constant <value = int64[2] {{2, 2}}> ()
  at_00 = Constant <value = int64[2] {{0, 0}}> ()
  at_01 = Constant <value = int64[2] {{0, 1}}> ()
  at_10 = Constant <value = int64[2] {{1, 0}}> ()
  at_11 = Constant <value = int64[2] {{1, 1}}> ()
  to_00 = Constant <value = int64[2] {{-1, -1}}> ()
  to_01 = Constant <value = int64[2] {{-1, 2147483647}}> ()
  to_10 = Constant <value = int64[2] {{2147483647, -1}}> ()
  to_11 = Constant <value = int64[2] {{2147483647, 2147483647}}> ()
  pixel_00 = Slice ({x}, at_00, to_00, sides, by_two)
  pixel_01 = Slice ({x}, at_01, to_01, sides, by_two)
  pixel_10 = Slice ({x}, at_10, to_10, sides, by_two)
  pixel_11 = Slice ({x}, at_11, to_11, sides, by_two)
  sum_of_2 = Add (pixel_00, pixel_01)
  sum_of_3 = Add (sum_of_2, pixel_10)
  sum_of_4 = Add (sum_of_3, pixel_11)
  quarter = Constant <value = float {{0.25}}> ()
  {y} = Mul (sum_of_4, quarter)
"""

# Sum, as above: onnxruntime fuses a float convolution and the Add that reads it: one rounding less.
_ADDITION = """
  {y} = Sum ({x}, {added})
"""


def function(name: str, *, constant_channels: bool = False) -> onnx.FunctionProto:
    """Return operator `name` as a model-local function of standard operators, equal to it bit for bit (K: see above).

    onnxruntime runs a registered operator where there is one, else this body; so a file that carries it runs anywhere.
    Without `constant_channels` the function has no such attribute.
    """
    row = operator(name)
    joined = f"  X = Concat <axis = 1> ({', '.join(row.activations)})\n" if row.parts > 1 else ""
    if not row.convolves:
        return _parsed(row, {}, joined + _PER_CHANNEL + _epilogue(row))
    convolution = (*_operands(row, constant_channels), *_accumulation(row, constant_channels))
    body = "".join((joined, *convolution, _bits(row) if row.to_bits else _SCALE + _epilogue(row)))
    return _parsed(row, defaults(constant_channels=constant_channels), body)


def _parsed(row: Operator, declared: Mapping[str, int | list[int] | None], body: str) -> onnx.FunctionProto:
    attributes = ", ".join(_attribute_text(*item) for item in declared.items())
    text = (
        f'<domain: "{DOMAIN}", opset_import: ["": {ONNX_OPSET}]>\n'
        f"{row.name}{f' <{attributes}>' if attributes else ''} ({', '.join(row.inputs)}) => (Y)\n{{{body}}}"
    )
    return onnx.parser.parse_function(text)


def _operands(row: Operator, constant_channels: bool) -> tuple[str, ...]:
    """Return the lines that make what Conv reads."""
    plus, minus = ("plus_less_pad", "minus_less_pad") if row.pads_signs else ("plus", "minus")
    signs = (_SIGNS_OF_BITS if row.of_bits else _SIGNS).format(
        less_pad=_LESS_PAD if row.pads_signs else "",
        signs="of_x" if constant_channels else "signs",
        plus=plus,
        minus=minus,
    )
    return signs, _CONSTANT_CHANNELS if constant_channels else "", _WEIGHTS


def _accumulation(row: Operator, constant_channels: bool) -> tuple[str, ...]:
    """Return the lines from the operands to the scaled accumulator."""
    if not row.pads_signs:
        return (_ACCUMULATOR.format(offset="offset"),)
    return _PAD_SUM.format(pad_pixel=_PAD_PIXEL[constant_channels]), _ACCUMULATOR.format(offset="shifted_offset")


def _bits(row: Operator) -> str:
    """Return the lines from the accumulator to Y where that is bits."""
    if row.max_pool:
        return _MAX_POOL.format(x="accumulator", y="largest") + _BITS.replace("{accumulator}", "largest")
    return _BITS.replace("{accumulator}", "accumulator")


def _epilogue(row: Operator) -> str:
    """Return the lines from the scaled accumulator, or X, to Y, the result of whichever comes last."""
    steps = [
        _SECOND_BIT if row.second_bit else "",
        _REACH if row.reaches else "",
        _BIAS if row.convolves else "",
        *(_ADDITION.replace("{added}", name) for name in row.before_inputs),
        _AFFINE.replace("{number}", "") if row.scaled and not row.convolves else "",
        _ACTIVATION[row.activation] if row.convolves or row.activation != "PRelu" else _PRELU_OF_IMAGES,
        _AFFINE.replace("{number}", "2") if row.affine else "",
        *(_ADDITION.replace("{added}", name) for name in row.added_inputs),
        _AFFINE.replace("{number}", "3") if row.scaled_last else "",
        _MAX_POOL if row.max_pool else "",
        _MEAN_POOL if row.mean_pool else "",
    ]
    steps = [step for step in steps if step]
    scaled = "scaled" if row.convolves else "X"
    factor = _K if row.k_map else _GATE.replace("{x}", scaled) if row.gate else ""
    results = ["multiplied" if factor else scaled, *(f"result{i}" for i in range(1, len(steps))), "Y"]
    return factor + "".join(step.format(x=x, y=y) for step, (x, y) in zip(steps, pairwise(results), strict=True))


def _attribute_text(name: str, default: int | list[int] | None) -> str:
    if default is None:
        return name
    kind = "int" if isinstance(default, int) else "ints"
    return f"{name}: {kind} = {default}"
