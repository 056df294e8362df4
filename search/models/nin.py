"""Network in Network (Lin et al. 2014), as the best known code of XNOR-Net in PyTorch has it for CIFAR-10."""

from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, cifar_form

if TYPE_CHECKING:
    from torch import nn

KERNELS = (5, 1, 1, 5, 1, 1, 3, 1)
"""Of the convolutions but the last, which makes the classes."""

WIDTH_NAMES = tuple(f"conv{number}" for number in range(1, len(KERNELS) + 1))


def _build(config: BackboneConfig) -> "nn.Module":
    """Return a chain of BN -> binary convolution -> ReLU with two 3x3 pools of stride 2, a maximum and a mean.

    First and last convolution are float. Dropout of the authors' code is left to the recipe; a binary convolution has
    no bias here.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Layers, Mean, float_unit

    layers = Layers(config)
    pools: dict[int, list[nn.Module]] = {
        4: [nn.MaxPool2d(3, stride=2, padding=1)],
        7: [nn.AvgPool2d(3, stride=2, padding=1)],
    }

    def unit(number: int, before: int, channels: int) -> nn.Sequential:
        convolution = layers.convolution(before, channels, KERNELS[number - 1])
        activation = layers.activation(channels, has_relu=True)
        return nn.Sequential(*pools.get(number, []), nn.BatchNorm2d(before), convolution, activation)

    widths = config.widths
    last = widths[-1]
    return Network(
        float_unit(config.in_channels, widths[0], KERNELS[0]),
        [unit(number, widths[number - 2], widths[number - 1]) for number in range(2, len(widths) + 1)],
        nn.Sequential(nn.BatchNorm2d(last), nn.Conv2d(last, config.classes, 1), nn.ReLU(), Mean()),
    )


NETWORKS = {
    "NiN": Backbone(
        "Lin et al. 2014, with the sizes of the public code of XNOR-Net for CIFAR-10: BNAS v2, Table 6",
        {"cifar": cifar_form(192, 160, 96, 192, 192, 192, 192, 192)},
    )
}

NIN = BackboneFamily("nin", NETWORKS, lambda backbone: WIDTH_NAMES, _build)
