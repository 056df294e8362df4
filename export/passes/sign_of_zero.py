"""Schemes whose sign(0) is 0: an operator that has +1 there is only right if it meets no 0.

Channels that are 0 in every image are constants, and what they add was put into `offset` by DropConstantChannels: 0,
exactly. Of what is left, a weight of 0 is refused by the pass, and an activation of 0 by `check_activations`, which
looks at what PyTorch computed for the images of the export. Where a layer was recognised, it counts those that the
program's own rounding makes.
"""

from collections.abc import Container
from dataclasses import dataclass

import onnx_ir as ir
from torch import Tensor

from bnas_deploy.core.errors import ExportError
from bnas_deploy.export.capture import CapturedModel
from bnas_deploy.export.graph import SIGN_OF_ZERO, constant_array, input_of, is_binary_conv, origin_of
from bnas_deploy.export.inputs import Feed
from bnas_deploy.export.ties import count_zeros

_READS = "reads"
"""Key of a node's note: the `Origin` of what it takes the sign of."""

_ADVICE = "to export this network, train with a scheme whose sign(0) is +1 (without the deviation sign-of-zero)"


class TakeSignOfZero:
    """Take the attribute away from binary convolutions, and note what they take the sign of."""

    def sweep(self, model: ir.Model) -> None:
        """Rewrite in place.

        Raises:
            ExportError: a weight is 0.
        """
        for node in model.graph:
            if not is_binary_conv(node) or SIGN_OF_ZERO not in node.attributes:
                continue
            weights = constant_array(input_of(node, "W"))
            zeros = int((weights == 0).sum())
            if zeros:
                raise ExportError(
                    f"{node.name}: {zeros:,} of {weights.size:,} weights are exactly 0, whose sign is 0 in this "
                    f"network's scheme; a bit is +1 or -1; {_ADVICE}"
                )
            node.meta[_READS] = origin_of(input_of(node, "X"))
            node.attributes.pop(SIGN_OF_ZERO)


@dataclass(frozen=True)
class SignOfZero:
    """What `check_activations` looked at: convolutions in which sign(0) is 0, and images that gave none of them a 0.

    `rounded` counts those that are 0 in the captured program, by its own rounding, and not in the module.
    """

    convolutions: int
    images: int
    rounded: int = 0

    def __str__(self) -> str:
        text = (
            f"sign(0) is 0 in PyTorch and +1 in the bundle: constant channels are exact, and of the rest no activation "
            f"of {self.convolutions} binary convolutions was exactly 0 in {self.images} images"
        )
        return f"{text}; {self.rounded} became 0 by rounding alone, and count as +1" if self.rounded else text


def zero_by_chance(model: ir.Model, recognised: Container[str]) -> frozenset[str]:
    """Return the values, by name, of which a 0 is the captured program's own rounding, before any rewriting.

    They are what recognised layers take the sign of. The module gave those no 0, or they would be right for one. So
    where PyTorch's values are recorded for the bundle, such a 0 is to be a number with a sign.
    """
    return frozenset(
        origin_of(input_of(node, "X")).name
        for node in model.graph
        if is_binary_conv(node) and SIGN_OF_ZERO in node.attributes and str(node.name) in recognised
    )


def check_activations(
    captured: CapturedModel, images: Tensor | Feed, recognised: Container[str] = ()
) -> SignOfZero | None:
    """Look for zeros in front of a sign; None if no scheme in the model has sign(0) = 0.

    Args:
        captured: the rewritten graph, and the program it was made of.
        images: (N, C, H, W) float32, to look at, or what else the network takes.
        recognised: layers that were translated. The module itself gave them no 0, or they would be right for one; what
            stands in front of them is rounded otherwise in the captured program, and may become 0 by chance.

    Raises:
        ExportError: there are some in other layers.
    """
    reads = {str(node.name): node.meta[_READS] for node in captured.model.graph if _READS in node.meta}
    if not reads:
        return None
    zeros = [each for each in count_zeros(captured, reads, images) if each.zeros]
    if found := [each for each in zeros if each.name not in recognised]:
        first = found[0]
        more = f" (and {len(found) - 1} more layers)" if len(found) > 1 else ""
        raise ExportError(
            f"{first.name}: {first.zeros:,} of {first.activations:,} activations in {len(images)} images are exactly "
            f"0{more}, whose sign is 0 in this network's scheme and +1 in the exported one; {_ADVICE}"
        )
    return SignOfZero(len(reads), len(images), sum(each.zeros for each in zeros))
