"""The mixture of candidates, and what a round takes over from the one before."""

import pytest
import torch

from bnas_deploy.search.models.registry import configure
from bnas_deploy.search.models.width_layout import layout_of
from bnas_deploy.search.widths.supernet import WidthSupernet, best_effort


def layout(network, **options):
    return layout_of(configure(network, image_size=(8, 8), in_channels=1, classes=3, options=options))


CASES = {
    "vgg": layout("VGG-11", width_factor=0.125),
    "resnet": layout("ResNet-18", width_factor=0.0625, form="cifar"),
    "bi-real": layout("Bi-Real-18", width_factor=0.0625, form="cifar"),
    "zero-alpha": layout("VGG-11", width_factor=0.125, scheme="zero-alpha"),
    "gates": layout("SENet-18", width_factor=0.0625, form="cifar"),
    "groups": layout("ResNeXt-29-64", width_factor=0.0625),
    "several bases": layout("VGG-11", width_factor=0.125, scheme="abc-net"),
}


def candidates_of(chosen):
    return torch.tensor([chosen.channels([ratio] * len(chosen.multiples)) for ratio in (0.5, 1.0, 2.0)]).T


def supernet(chosen):
    torch.manual_seed(0)
    return WidthSupernet(chosen, candidates_of(chosen))


def only(candidate, widths):
    """Return pi that has one candidate of every width."""
    pi = torch.zeros(widths, 3)
    pi[:, candidate] = 1
    return pi


@pytest.mark.parametrize("candidate", range(3))
@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("VGG-11", {"width_factor": 0.125}),
        ("ResNet-18", {"width_factor": 0.0625}),
        ("Bi-Real-18", {"width_factor": 0.0625}),
    ],
)
def test_with_one_candidate_the_supernet_is_the_network_of_its_widths(network, options, candidate):
    """Absent channels change nothing that is read. BinaryNet, since its weights have no mean over the channels."""
    chosen = layout(network, form="cifar", scheme="binarynet", **options)
    wide = supernet(chosen).eval()
    widths = candidates_of(chosen)[:, candidate]
    narrow = WidthSupernet(chosen, widths[:, None].repeat(1, 3)).eval()
    best_effort(narrow, wide)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    got, wanted = wide(images, only(candidate, len(widths))), narrow(images, only(0, len(widths)))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)  # signs are exact, float layers sum 16 products


def test_the_mixture_is_the_sum_of_convolutions_with_padded_weights():
    """Eq. 11, for a layer whose signs are known."""
    chosen = CASES["vgg"]
    network = supernet(chosen)
    name = next(layer.cost.name for layer in chosen.layers if layer.read.of_widths == (1,))
    convolution = dict(network.network.named_modules())[name]
    signs = torch.randn(2, convolution.in_channels, 4, 4).sign()
    weight = torch.randn_like(convolution.weight)
    pi = torch.rand(len(chosen.multiples), 3).softmax(dim=1)
    network._pi = pi
    got = convolution.convolve(signs, weight)
    wanted = 0
    for candidate, channels in enumerate(candidates_of(chosen)[1].tolist()):
        padded = torch.zeros_like(weight)
        padded[:, :channels] = weight[:, :channels]
        wanted = wanted + pi[1, candidate] * torch.nn.functional.conv2d(signs, padded, padding=1)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)  # float32, sums of up to 72 products


@pytest.mark.parametrize("name", CASES)
def test_every_width_has_a_gradient_in_training_mode(name):
    chosen = CASES[name]
    network = supernet(chosen).train()
    pi = torch.full((len(chosen.multiples), 3), 1 / 3, requires_grad=True)
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.nn.functional.cross_entropy(network(images, pi), torch.arange(16) % 3).backward()
    assert (pi.grad.std(dim=1) > 1e-7).all()  # not the same for all candidates: BN would leave rounding only


def test_best_effort_copies_the_leading_part_of_everything():
    chosen = CASES["vgg"]
    wide = supernet(chosen)
    torch.manual_seed(1)
    other = WidthSupernet(chosen, candidates_of(chosen) // 2 + 1)
    for before, after in ((wide, other), (other, wide)):
        fresh = {name: tensor.clone() for name, tensor in after.state_dict().items()}
        old = {name: tensor.clone() for name, tensor in before.state_dict().items()}
        best_effort(after, before)
        for name, tensor in after.state_dict().items():
            wanted = fresh[name]
            part = tuple(slice(min(a, b)) for a, b in zip(wanted.shape, old[name].shape, strict=True))
            wanted[part] = old[name][part]
            assert torch.equal(tensor, wanted), name


def test_a_layer_run_outside_of_the_supernet_says_so():
    with pytest.raises(AssertionError, match="outside of the supernet"):
        supernet(CASES["vgg"]).network(torch.zeros(1, 1, 8, 8))
