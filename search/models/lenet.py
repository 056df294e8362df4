"""LeNet-5 for 28x28 images, as the best known code of XNOR-Net in PyTorch has it."""

from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, Form

if TYPE_CHECKING:
    from torch import nn

WIDTH_NAMES = ("conv1", "conv2", "dense3")


def _build(config: BackboneConfig) -> "nn.Module":
    """Return two 5x5 convolutions without padding and two dense layers; the first and the last of the four are float.

    The order is BN -> binary layer -> ReLU. In front of the binary dense layer BN is per channel, not per pixel.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Layers, Mean, OnePixel, channels_behind, halving_maximum

    layers = Layers(config)
    conv1, conv2, dense3 = config.widths
    first = nn.Conv2d(config.in_channels, conv1, 5, bias=False)
    stem = nn.Sequential(first, nn.BatchNorm2d(conv1), nn.ReLU(), halving_maximum())
    convolution = nn.Sequential(
        nn.BatchNorm2d(conv1),
        layers.convolution(conv1, conv2, 5, padding=0),
        layers.activation(conv2, has_relu=True),
        halving_maximum(),
        nn.BatchNorm2d(conv2),
        OnePixel(),
    )
    pixel, _, _ = channels_behind([stem, convolution], config.in_channels, config.image_size)
    dense = nn.Sequential(layers.convolution(pixel, dense3, 1), layers.activation(dense3, has_relu=True))
    return Network(stem, [convolution, dense], nn.Sequential(Mean(), nn.Linear(dense3, config.classes)))


NETWORKS = {
    "LeNet-5": Backbone(
        "LeCun et al. 1998, with the sizes of the public code of XNOR-Net for MNIST",
        {"cifar": Form((20, 50, 500), (28, 28), 10)},
        least_image=15,
    )
}

LENET = BackboneFamily("lenet", NETWORKS, lambda backbone: WIDTH_NAMES, _build)
