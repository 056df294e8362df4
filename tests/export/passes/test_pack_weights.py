"""Float ±1 weights become bits, channels last."""

import numpy as np
import pytest

from bnas_deploy.core.bits import unpack_signs
from bnas_deploy.export.graph import constant, constant_array, input_of, set_input
from bnas_deploy.export.passes import DropUnused, PackWeights
from bnas_deploy.export.rewrite import run

INPUTS = "(x, W, threshold, offset, scale, bias)"


@pytest.mark.parametrize("channels", [1, 7, 8, 9, 64])
def test_pack(load, evaluate, binary_conv, rng: np.random.Generator, channels: int) -> None:
    constants = binary_conv(channels, 3, kernel=3)
    model = load(
        f"(float[N,{channels},4,4] x) => (float[N,3,4,4] y) {{ y = bnas.BinaryConv2d <pads = [1, 1, 1, 1]> {INPUTS} }}",
        **constants,
    )
    feeds = {"x": rng.normal(size=(2, channels, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    log = run([PackWeights(), DropUnused()], model)

    node = model.graph[0]
    packed = constant_array(input_of(node, "W"))
    assert log.applied == {"PackWeights": 1}
    assert (packed.dtype, packed.shape) == (np.uint8, (3, 3, 3, -(-channels // 8)))
    assert node.attributes.get_ints("weight_shape") == (3, 3, 3, channels)
    assert (unpack_signs(packed, channels) == np.moveaxis(constants["W"], 1, -1)).all()
    assert (evaluate(model, feeds)["y"] == wanted).all()
    assert "W" not in model.graph.initializers  # the float copy


def test_left_alone_because_packed(load, binary_conv) -> None:
    model = load(f"(float[N,2,1,1] x) => (float[N,3,1,1] y) {{ y = bnas.BinaryConv2d {INPUTS} }}", **binary_conv(2, 3))

    log = run([PackWeights(), PackWeights()], model)

    assert list(map(str, log.refusals)) == ["PackWeights: y: already packed"]


def test_weights_that_are_not_signs_are_a_bug(load, binary_conv) -> None:
    constants = binary_conv(2, 3)
    model = load(f"(float[N,2,1,1] x) => (float[N,3,1,1] y) {{ y = bnas.BinaryConv2d {INPUTS} }}", **constants)
    set_input(model.graph[0], "W", constant(model.graph, "halves", constants["W"] / 2))

    with pytest.raises(AssertionError, match="y: weights that are not ±1"):
        run([PackWeights()], model)
