"""The layers that backbones are made of, as their configuration wants them: binary, relaxed or float."""

from dataclasses import replace

from torch import Tensor, nn

from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.nn.schemes import named_scheme


class Layers:
    """Makes the layers of one network.

    Args:
        config: says how they are binary.
    """

    def __init__(self, config: BackboneConfig) -> None:
        self.is_float = config.is_float
        self.k_map = config.k_map
        self.scheme = named_scheme(config.scheme)

    def convolution(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
    ) -> nn.Module:
        """Return a binary convolution, of a float twin a float one: no bias, an image of stride 1 keeps its size."""
        geometry = (in_channels, out_channels, kernel_size, stride, kernel_size // 2, 1, groups)
        if self.is_float:
            return nn.Conv2d(*geometry, bias=False)
        # The map K is a mean over all channels, so a grouped convolution has none.
        return replace(self.scheme, k_map=self.k_map and groups == 1).convolution(*geometry)

    def activation(self, channels: int) -> nn.Module:
        """Return what stands behind a convolution and its BN: nothing where a sign follows, ReLU in a float twin."""
        return nn.ReLU() if self.is_float else nn.Identity()

    def unit(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
    ) -> nn.Sequential:
        """Return convolution -> BN -> activation; the sign of a binary one is the first thing that it does."""
        return nn.Sequential(
            self.convolution(in_channels, out_channels, kernel_size, stride, groups),
            nn.BatchNorm2d(out_channels),
            self.activation(out_channels),
        )


def float_convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Return a float convolution without bias; an image of stride 1 keeps its size."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)


class Classifier(nn.Module):
    """Mean over the pixels, and a float dense layer: (N, C, H, W) to logits (N, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class Backbone(nn.Module):
    """Stem -> blocks -> classifier.

    Attributes:
        blocks: the parts whose outputs a student may be taught.
    """

    def __init__(self, stem: nn.Module, blocks: nn.ModuleList, classifier: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = blocks
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W), normalised, to logits (N, classes)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classifier(x)
        return logits
