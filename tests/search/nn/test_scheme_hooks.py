"""What a scheme may ask of layers, networks and training, by a scheme that asks for all of it."""

from dataclasses import dataclass, replace
from typing import Self

import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.search.nn.estimators import scale_gradient, sign_activation
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.image_size import Sized, fit_to_images
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryLinear, BinaryWeightConv2d
from bnas_deploy.search.nn.scheme import Binarised, FloatWeights, Learned, Scheme
from bnas_deploy.search.nn.scheme_layer import regularisers, set_progress
from bnas_deploy.search.nn.schemes.xnor_net import XnorNet
from bnas_deploy.search.training.losses import TrainingLoss
from bnas_deploy.search.training.recipes import Loss


@dataclass(frozen=True)
class Demanding(Scheme):
    """Half the filters, each of them twice; gradients that grow with the progress; a loss; odd kernels only."""

    factor: float = 1.0

    def excludes(self, geometry: Geometry) -> str | None:
        return None if geometry.kernel_size[0] % 2 else f"kernels of {geometry.kernel_size}"

    def activation(self, channels: int) -> nn.Module | None:
        return nn.PReLU(channels)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0] // 2, *shape[1:])

    def at(self, progress: float) -> Self:
        return replace(self, factor=1 + progress)

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        return {"level": weight.new_zeros(channels_in)}

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        return scale_gradient(sign_activation(x - learned["level"][:, None, None]), self.factor)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        return super().weights(torch.cat([weight, weight]), learned)

    def real_weights(self, weight: Tensor, learned: Learned) -> Binarised:
        return super().real_weights(torch.cat([weight, weight]), learned)

    def regulariser(self, weight: Tensor, learned: Learned) -> Tensor | None:
        return weight.square().sum()


def test_the_defaults_are_neutral() -> None:
    scheme = XnorNet()
    assert type(scheme.convolution(Geometry.of(3, 4, 3, 2, 1, 1, 1), bias=True)) is BinaryConv2d
    assert scheme.activation(4) is None
    assert scheme.at(0.7) is scheme
    layer = BinaryConv2d(3, 4, 3, scheme=scheme)
    assert layer.weight.shape == (4, 3, 3, 3)
    assert layer.regulariser() is None
    assert regularisers(nn.Sequential(layer, nn.ReLU())) is None


def test_parameters_know_the_channels_of_all_groups() -> None:
    assert BinaryConv2d(6, 8, 3, groups=2, scheme=Demanding()).learned["level"].shape == (6,)
    assert BinaryWeightConv2d(6, 8, 3, groups=2, scheme=Demanding()).learned["level"].shape == (6,)
    assert BinaryLinear(6, 8, scheme=Demanding()).conv.learned["level"].shape == (6,)


def test_weights_of_another_shape_than_their_parameter() -> None:
    x = torch.randn(2, 3, 5, 5)
    for kind in (BinaryConv2d, BinaryWeightConv2d):
        layer = kind(3, 4, 3, bias=False, scheme=Demanding())
        assert layer.weight.shape == (2, 3, 3, 3)
        y = layer(x)
        assert torch.equal(y[:, :2], y[:, 2:])
    relaxed = BinaryConv2d(3, 4, 3, scheme=FloatWeights(of=Demanding()))
    assert relaxed.weight.shape == (2, 3, 3, 3)
    assert relaxed(x).shape == (2, 4, 3, 3)


@pytest.mark.parametrize("kind", [BinaryConv2d, BinaryWeightConv2d])
def test_a_convolution_that_a_scheme_excludes(kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"^kernels of \(2, 2\)$"):
        kind(4, 4, 2, scheme=Demanding())


def test_gradients_follow_the_progress_and_values_do_not() -> None:
    layer = BinaryConv2d(3, 4, 3, scheme=Demanding())
    network = nn.Sequential(layer)

    def gradient() -> tuple[Tensor, Tensor]:
        x = torch.linspace(-0.9, 0.9, 75).reshape(1, 3, 5, 5).requires_grad_()
        y = network(x)
        y.sum().backward()
        assert x.grad is not None
        return y.detach(), x.grad

    y, start = gradient()
    set_progress(network, 0.5)
    same, later = gradient()
    assert torch.equal(y, same)
    assert torch.equal(later, 1.5 * start)
    assert torch.equal(gradient()[1], gradient()[1])
    network.eval()  # which has no progress
    assert torch.equal(gradient()[1], start)


def test_float_weights_keep_what_the_activations_need() -> None:
    relaxed = FloatWeights(of=Demanding())
    assert relaxed.at(0.5) == FloatWeights(of=Demanding(factor=1.5))
    assert isinstance(relaxed.activation(3), nn.PReLU)
    assert relaxed.excludes(Geometry(3, 4, (2, 2))) == "kernels of (2, 2)"
    assert FloatWeights(k_map=True).excludes(Geometry(4, 4, (3, 3), groups=2)) is not None


def test_the_loss_has_the_terms_of_the_schemes() -> None:
    network = nn.Sequential(BinaryConv2d(3, 4, 3, scheme=Demanding()), nn.ReLU(), BinaryConv2d(4, 2, 1), nn.Flatten())
    images, labels = torch.randn(2, 3, 3, 3), torch.tensor([0, 1])
    logits = network(images)
    term = regularisers(network)
    assert term is not None
    assert torch.equal(term, network[0].weight.square().sum())
    loss = TrainingLoss(Loss(), network)(images, logits, labels, 0.0)
    assert torch.equal(loss, nn.functional.cross_entropy(logits, labels) + term)


class PerPixel(Sized):
    """A bias for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("bias", None)

    def fit_to(self, x: Tensor) -> None:
        self.bias = nn.Parameter(x.new_zeros(x.shape[2:]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def test_parameters_of_the_size_of_the_images() -> None:
    norm = nn.BatchNorm2d(3)
    network = nn.Sequential(norm, nn.MaxPool2d(2), PerPixel(), nn.Flatten(), nn.Dropout())
    network[4].eval()
    fit_to_images(network, 3, (8, 6))
    assert dict(network.named_parameters())["2.bias"].shape == (4, 3)
    assert norm.num_batches_tracked == 0
    assert [module.training for module in network] == [True, True, True, True, False]
    assert not network[2]._forward_pre_hooks


def test_a_network_without_such_a_layer_is_not_run() -> None:
    fit_to_images(nn.Linear(3, 4), 1, (8, 6))  # which it would refuse


def test_they_are_made_without_data() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), PerPixel())
        fit_to_images(network, 3, (8, 6))
    assert dict(network.named_parameters())["1.bias"].is_meta
