"""Layers as TensorFlow and Keras have them, for weights of larq: the padding "same", and the constants of BN."""

from torch import nn

from bnas_deploy.search.nn.geometry import Pair


def halved(image: Pair) -> Pair:
    """Return the size of an image behind a stride of 2 that loses no row and no column."""
    return -(-image[0] // 2), -(-image[1] // 2)


def same_padding(image: Pair, kernel_size: int, stride: int) -> tuple[Pair, Pair]:
    """Return the padding above and left, and how much more there is below and right, of TensorFlow's "same".

    An output of ceil(n / stride) reads (ceil(n / stride) - 1) stride + kernel_size pixels of n and the padding.
    """
    total = [max(0, (-(-size // stride) - 1) * stride + kernel_size - size) for size in image]
    return (total[0] // 2, total[1] // 2), (total[0] % 2, total[1] % 2)


def same_maximum(image: Pair) -> nn.MaxPool2d:
    """Return a 3x3 maximum of stride 2 with TensorFlow's padding "same".

    For an even size that is a row below, which `ceil_mode` reads as well; for an odd size one above and one below.
    """
    return nn.MaxPool2d(3, stride=2, padding=(image[0] % 2, image[1] % 2), ceil_mode=True)


def set_norms(network: nn.Module, *, eps: float, momentum: float) -> None:
    """Give all BN of a network other constants; `momentum` is the share of a batch, which Keras calls 1 - momentum."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = eps, momentum
