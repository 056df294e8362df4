"""AlexNet (Krizhevsky et al. 2012) as XNOR-Net (Rastegari et al. 2016) has it: BN in front of every sign, no groups."""

from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, Form

if TYPE_CHECKING:
    from torch import nn

WIDTH_NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5", "dense6", "dense7")


def _build(config: BackboneConfig) -> "nn.Module":
    """Return BN -> binary convolution or dense layer -> ReLU, with 3x3 max pools of stride 2 between.

    The first convolution, 11x11 of stride 4 without padding, and the last dense layer are float. A pool includes the
    rest at an odd edge, which changes nothing for 227x227. Dropout is left to the recipe; a binary layer has no bias.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Layers, Mean, OnePixel, channels_behind

    layers = Layers(config)
    widths = ALEXNET.widths_of(config)

    def pool() -> nn.MaxPool2d:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    def unit(before: int, channels: int, kernel_size: int) -> nn.Sequential:
        convolution = layers.convolution(before, channels, kernel_size)
        return nn.Sequential(nn.BatchNorm2d(before), convolution, layers.activation(channels, has_relu=True))

    conv1, conv2, conv3, conv4, conv5, dense6, dense7 = (widths[name] for name in WIDTH_NAMES)
    first = nn.Conv2d(config.in_channels, conv1, 11, stride=4, bias=False)
    stem = nn.Sequential(first, nn.BatchNorm2d(conv1), nn.ReLU(), pool())
    convolutions = [
        nn.Sequential(unit(conv1, conv2, 5), pool()),
        unit(conv2, conv3, 3),
        unit(conv3, conv4, 3),
        nn.Sequential(unit(conv4, conv5, 3), pool(), OnePixel()),
    ]
    pixel, _, _ = channels_behind([stem, *convolutions], config.in_channels, config.image_size)
    dense = [unit(pixel, dense6, 1), unit(dense6, dense7, 1)]
    classifier = nn.Sequential(nn.BatchNorm2d(dense7), Mean(), nn.Linear(dense7, config.classes))
    return Network(stem, [*convolutions, *dense], classifier)


NETWORKS = {
    "AlexNet-XNOR": Backbone(
        "Krizhevsky et al. 2012 in the order of Rastegari et al. 2016, with the sizes of XNOR-Net's public code",
        {"imagenet": Form((96, 256, 384, 384, 256, 4096, 4096), (227, 227), 1000)},
        least_image=39,
    )
}

ALEXNET = BackboneFamily("alexnet", NETWORKS, lambda backbone: WIDTH_NAMES, _build)
