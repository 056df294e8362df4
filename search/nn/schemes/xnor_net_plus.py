"""XNOR-Net++ (Bulat and Tzimiropoulos, BMVC 2019): scales learned by gradient descent, here one per output channel.

The paper has four forms of the scale Gamma of an output (O, H, W):

    1  Gamma = alpha                          alpha (O)                                xnor-net-plus
    2  Gamma = alpha                          alpha (O, H, W)                          xnor-net-plus-map
    3  Gamma = alpha x beta                   alpha (O), beta (H, W)                   xnor-net-plus-outer
    4  Gamma = alpha x beta x gamma           alpha (O), beta (H), gamma (W)           xnor-net-plus-axes

Faithful: the forms, and signs with the clipped gradient. The paper leaves the initialisation open; here all are ones,
as in larq's code of the fourth form. Its authors published no code.
The first form is the operator's scale, the second its gate. The maps of the others are multiplied behind the operator.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bnas_deploy.search.nn.estimators import sign_weight
from bnas_deploy.search.nn.float_twin import Composite
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.image_size import Sized
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import Binarised, Learned, Scheme


@dataclass(frozen=True)
class XnorNetPlus(Scheme):
    """Weights Gamma sign(W), Gamma a parameter `learned_scale` (O) that starts as ones."""

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return the scale."""
        return {"learned_scale": weight.new_ones(len(weight))}

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W) and the learned scale."""
        return Binarised(sign_weight(weight), learned["learned_scale"])


class MappedConv2d(Composite, Sized):
    """conv(x) * factor * factor ... [+ bias]: (N, C, H, W) to (N, O, OH, OW) of one size.

    Args:
        conv: the binary convolution.
        factors: the axes of the output that a factor has sizes of, by its name: 0 is O, 1 OH, 2 OW.
        bias: add a parameter (O).
    """

    def __init__(self, conv: BinaryConv2d, factors: Mapping[str, tuple[int, ...]], *, bias: bool) -> None:
        super().__init__()
        self.conv = conv
        self.factors = dict(factors)
        for name in self.factors:
            self.register_parameter(name, None)
        self.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels)) if bias else None

    def fit_to(self, x: Tensor) -> None:
        """Make the factors of the size that the convolution of x has, as ones."""
        y = self.conv(x)
        for name in self.factors:
            if getattr(self, name) is None:
                setattr(self, name, nn.Parameter(x.new_ones(self._shape(name, y))))
        self._check(y)

    def _shape(self, name: str, y: Tensor) -> tuple[int, ...]:
        """Return the shape of a factor for an output (N, O, OH, OW)."""
        return tuple(y.shape[1 + axis] if axis in self.factors[name] else 1 for axis in range(3))

    def _check(self, y: Tensor) -> None:
        for name in self.factors:
            factor, shape = getattr(self, name), self._shape(name, y)
            if factor is None:
                raise ValueError(
                    f"{name} has no size yet, which is that of the images: call fit_to_images on the network first"
                )
            if factor.shape != shape:
                raise ValueError(f"{name} is {tuple(factor.shape)}, made for images of another size: wanted {shape}")

    def forward(self, x: Tensor) -> Tensor:
        """Return it.

        Raises:
            ValueError: the layer does not know the size of its images yet, or they have another one.
        """
        y: Tensor = self.conv(x)
        self._check(y)
        for name in self.factors:
            y = y * getattr(self, name)
        return y if self.bias is None else y + self.bias[:, None, None]

    def real_weight(self) -> Tensor:
        """Return that of the convolution."""
        return self.conv.real_weight()

    def latent(self, weight: Tensor) -> dict[str, Tensor]:
        """Return it for the convolution."""
        return {"conv.weight": weight}


_CHANNEL, _ROW, _COLUMN = 0, 1, 2


@dataclass(frozen=True)
class XnorNetPlusMap(Scheme):
    """sign(W), and factors whose sizes are those of the output.

    Attributes:
        factors: the axes of each, by its name, without the scale of the channels.
        per_channel: whether there is a scale of the channels besides, which the operator holds.
    """

    factors: tuple[tuple[str, tuple[int, ...]], ...] = (("scale_map", (_CHANNEL, _ROW, _COLUMN)),)
    per_channel: bool = False

    def build(self, geometry: Geometry, *, bias: bool) -> nn.Module:
        """Return a binary convolution and its factors; `fit_to_images` has to make them."""
        scheme = XnorNetPlus(k_map=self.k_map) if self.per_channel else Scheme(k_map=self.k_map)
        return MappedConv2d(BinaryConv2d.of(geometry, scheme), dict(self.factors), bias=bias)


OUTER = XnorNetPlusMap(factors=(("pixel_scale", (_ROW, _COLUMN)),), per_channel=True)
AXES = XnorNetPlusMap(factors=(("row_scale", (_ROW,)), ("column_scale", (_COLUMN,))), per_channel=True)

SCHEME = XnorNetPlus()
