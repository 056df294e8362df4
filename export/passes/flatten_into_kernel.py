"""A binary dense layer behind an image reads the image: it is a convolution whose kernel is as large.

So the convolution in front of it may write bits, also through a maximum (LeNet-5, AlexNet).
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bnas_deploy.core.operators import operator
from bnas_deploy.export.graph import (
    activations_of,
    channels_of,
    constant,
    constant_array,
    input_of,
    is_binary_conv,
    set_input,
    sole_consumer,
)
from bnas_deploy.export.passes.shapes import is_reshape, known_sizes


class FlattenIntoKernel:
    """Reshape of (N, C, H, W) to (N, C H W, 1, 1) -> BinaryConv2d of 1x1 becomes BinaryConv2d of HxW.

    Feature c H W + h W + w of the layer is channel c of the pixel in row h and column w, which is tap (h, w) of a
    kernel that covers the image. It needs float weights, and one threshold for all pixels of a channel.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the binary convolutions of one pixel that read a flattened image."""
        return (node for node in model.graph if _image_of(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the image is flattened first."""
        if operator(node.op_type).k_map:
            return "the K map averages features, not the pixels of a channel"
        if node.attributes.get_int("group", 1) != 1 or any(node.attributes.get_ints("constant_channels", (0,))):
            return f"{node.name} has groups or constant channels"
        by_channel = _by_channel(node, constant_array(input_of(node, "threshold")))
        if not (by_channel == by_channel[:, :1]).all():
            return f"the threshold of {node.name} differs from pixel to pixel"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Read the image with a kernel of its size."""
        image, signs = _image_of(node), constant_array(input_of(node, "W"))
        assert image is not None
        named = {"W": signs.reshape(len(signs), *(known_sizes(image) or ())[1:])}
        for name in ("threshold", "pad"):
            if any(each.name == name for each in operator(node.op_type).constants):
                named[name] = _by_channel(node, constant_array(input_of(node, name)))[:, 0]
        for name, data in named.items():
            set_input(node, name, constant(model.graph, f"{node.name}.{name}", np.ascontiguousarray(data)))
        set_input(node, "X", image)


def _image_of(node: ir.Node) -> ir.Value | None:
    """Return the image of more than one pixel that `node` alone reads as one pixel; None if it reads something else."""
    if not is_binary_conv(node) or len(activations_of(node)) > 1 or any(node.attributes.get_ints("pads", (0,))):
        return None
    if constant_array(input_of(node, "W")).shape[2:] != (1, 1):
        return None
    flat = activations_of(node)[0]
    reshape = flat.producer()
    if reshape is None or not is_reshape(reshape) or sole_consumer(flat) is not node:
        return None
    image = reshape.inputs[0]
    before, behind = known_sizes(image), known_sizes(flat)
    if before is None or behind is None or len(before) != 4 or len(behind) != 4:
        return None
    _, channels, height, width = before
    if channels is None or height is None or width is None or height * width == 1:
        return None
    return image if behind[1:] == (channels * height * width, 1, 1) else None


def _by_channel(node: ir.Node, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return numbers of the features as (C, H W)."""
    image = _image_of(node)
    assert image is not None
    return numbers.reshape(channels_of(image), -1)
