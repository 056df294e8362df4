"""A dense layer behind an image becomes a convolution as large as the image, with the same answers."""

import numpy as np
import pytest

from bnas_deploy.export.passes import DropUnused, FlattenIntoKernel, PackWeights, WriteBits
from bnas_deploy.export.rewrite import run

CONSTANTS = "W, threshold, offset, scale, bias"
HEADER = "(float[N,3,2,4] x)"
FLAT = {"flat": np.int64([0, 24, 1, 1])}
DENSE = f"f = Reshape (x, flat) y = bnas.BinaryConv2d <group = 1> (f, {CONSTANTS})"


def _layer(binary_conv, *, of_pixels: bool = False) -> dict[str, np.ndarray]:
    """Return the constants of a dense layer of 24 features, 8 pixels in 3 channels."""
    layer = binary_conv(24, 5)
    layer["threshold"] = np.repeat(np.float32([-0.5, 0.25, 1]), 8)
    if of_pixels:
        layer["threshold"][7] = 0
    return layer


def test_the_same_features(load, listing, evaluate, binary_conv, rng) -> None:
    model = load(f"{HEADER} => (float[N,5,1,1] y) {{ {DENSE} }}", **_layer(binary_conv), **FLAT)
    feeds = {"x": rng.normal(size=(2, 3, 2, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([FlattenIntoKernel(), DropUnused()], model)

    assert listing(model) == ["y = BinaryConv2d(x)"]
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)


def test_signs_at_the_padding_are_of_channels_too(load, listing, evaluate, binary_conv, rng) -> None:
    nodes = "f = Reshape (x, flat) y = bnas.BinaryConv2dClip (f, W, threshold, pad, offset, scale, bias, low, high)"
    limits = {"low": np.full(5, -1, np.float32), "high": np.ones(5, np.float32), "pad": np.zeros(24, np.float32)}
    model = load(f"{HEADER} => (float[N,5,1,1] y) {{ {nodes} }}", **_layer(binary_conv), **limits, **FLAT)
    feeds = {"x": rng.normal(size=(2, 3, 2, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([FlattenIntoKernel(), DropUnused(), PackWeights()], model)

    assert listing(model) == ["y = BinaryConv2dClip(x)"]
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)


def test_the_layer_in_front_writes_bits(load, listing, evaluate, binary_conv, rng) -> None:
    """A convolution, a maximum, a dense layer: LeNet's."""
    first = {f"{name}1": data for name, data in binary_conv(2, 3, kernel=3).items()}
    nodes = (
        "c = bnas.BinaryConv2dRelu <pads = [1, 1, 1, 1]> (i, W1, threshold1, offset1, scale1, bias1) "
        f"x = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c) {DENSE}"
    )
    model = load(f"(float[N,2,4,8] i) => (float[N,5,1,1] y) {{ {nodes} }}", **_layer(binary_conv), **first, **FLAT)
    feeds = {"i": rng.normal(size=(2, 2, 4, 8)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([FlattenIntoKernel(), DropUnused(), PackWeights(), WriteBits(), DropUnused()], model)

    assert listing(model) == ["x.bits = BinaryConv2dMaxPoolToBits(i)", "y = BinaryConv2dOfBits(x.bits)"]
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)


@pytest.mark.parametrize(
    ("nodes", "of_pixels", "reason"),
    [
        (DENSE, True, "the threshold of y differs from pixel to pixel"),
        (DENSE.replace("BinaryConv2d ", "BinaryConv2dK "), False, "the K map averages features"),
        (DENSE.replace("group = 1", "constant_channels = [8]"), False, "y has groups or constant channels"),
    ],
    ids=["thresholds", "K", "constant channels"],
)
def test_what_is_no_image_stays_flat(load, listing, binary_conv, nodes: str, of_pixels: bool, reason: str) -> None:
    layer = _layer(binary_conv, of_pixels=of_pixels)
    flat = FLAT
    if "constant" in reason:
        nodes, flat = nodes.replace("(x, flat)", "(s, flat)"), {"flat": np.int64([0, 16, 1, 1])}
        nodes = f"s = Slice (x, starts, ends, axes) {nodes}"
        layer["threshold"] = layer["threshold"][:16]
        layer |= {"starts": np.int64([0]), "ends": np.int64([2]), "axes": np.int64([1])}
    model = load(f"{HEADER} => (float[N,5,1,1] y) {{ {nodes} }}", **layer, **flat)
    before = listing(model)

    log = run([FlattenIntoKernel()], model)

    assert listing(model) == before
    (refusal,) = log.refusals
    assert reason in str(refusal)


@pytest.mark.parametrize(
    "nodes",
    [
        f"{DENSE} z = Abs (f)",
        f"f = Reshape (x, flat) y = bnas.BinaryConv2d <pads = [1, 1, 1, 1]> (f, {CONSTANTS}) z = Abs (x)",
    ],
    ids=["others read the features", "padded"],
)
def test_other_layers_are_no_matter(load, listing, binary_conv, nodes: str) -> None:
    model = load(f"{HEADER} => (float[N,5,A,B] y, float[N,C,D,E] z) {{ {nodes} }}", **_layer(binary_conv), **FLAT)
    before = listing(model)

    log = run([FlattenIntoKernel()], model)

    assert listing(model) == before
    assert not log.refusals
