"""Every scheme by its name: trained on a small network, saved, exported exactly. A new one is covered by itself."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.export import Description, Images, export_module
from bnas_deploy.search.models.relaxation import RELAXED, relax_layers
from bnas_deploy.search.nn.estimators import standardised
from bnas_deploy.search.nn.float_twin import float_state, state_from_twin
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.image_size import fit_to_images
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import ExcludedError, Scheme
from bnas_deploy.search.nn.scheme_layer import regularisers, set_progress
from bnas_deploy.search.nn.schemes import named_scheme, scheme_names

SIZE = (8, 9)
CLASSES = 3
SHIFTING = 1e-3  # how far a parameter has to be from its first value to have moved


def network_of(convolution: object, activation: object) -> nn.Module:
    """Return stem, BN, convolution, BN, activation, a second convolution of stride 2, BN, pool and classifier."""
    assert callable(convolution)
    assert callable(activation)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        convolution(8, 8, 3, 1, 1),
        nn.BatchNorm2d(8),
        activation(8),
        convolution(8, 12, 3, 2, 1),
        nn.BatchNorm2d(12),
        activation(12),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )
    fit_to_images(network, 3, SIZE)
    return network


def binary_network(scheme: Scheme) -> nn.Module:
    def convolution(*arguments: int) -> nn.Module:
        return scheme.convolution(Geometry.of(*arguments))

    return network_of(convolution, lambda channels: scheme.activation(channels) or nn.Hardtanh())


def float_twin() -> nn.Module:
    return network_of(partial(nn.Conv2d, bias=False), lambda _: nn.Hardtanh())


def images_and_labels(count: int = 24) -> tuple[Tensor, Tensor]:
    images, labels = torch.randn(count, 3, *SIZE), torch.arange(count) % CLASSES
    images[torch.arange(count), labels] += 2.0  # a bright channel tells the class
    return images, labels


def trained(scheme: Scheme, steps: int = 40) -> tuple[nn.Module, list[float]]:
    """Return a network after some steps of Adam, and its losses."""
    torch.manual_seed(0)
    network = binary_network(scheme)
    images, labels = images_and_labels()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for step in range(steps):
        set_progress(network, step / steps)
        loss = nn.functional.cross_entropy(network(images), labels)
        losses.append(loss.item())
        of_scheme = regularisers(network)
        optimizer.zero_grad()
        (loss if of_scheme is None else loss + of_scheme).backward()
        optimizer.step()
    return network, losses


@pytest.mark.parametrize("name", scheme_names())
def test_it_learns(name: str) -> None:
    """The loss falls, and all that the scheme says is learned moves."""
    torch.manual_seed(0)
    before = {key: value.detach().clone() for key, value in binary_network(named_scheme(name)).named_parameters()}
    network, losses = trained(named_scheme(name))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    still = [key for key, value in network.named_parameters() if (value - before[key]).abs().max() < SHIFTING]
    assert not still


@pytest.mark.parametrize("name", scheme_names())
def test_what_it_excludes_is_refused_however_it_is_composed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = named_scheme(name)
    monkeypatch.setattr(type(scheme), "excludes", lambda self, geometry: "not this one")
    with pytest.raises(ExcludedError, match=r"^not this one$") as caught:
        scheme.convolution(Geometry.of(8, 8, 3))
    assert not caught.value.is_of_k_map


@pytest.mark.parametrize("name", scheme_names())
def test_a_k_map_multiplies_or_is_refused(name: str) -> None:
    """It never is taken and ignored."""
    plain = named_scheme(name)
    mapped = replace(plain, k_map=True)
    geometry = Geometry.of(8, 8, 3, padding=1)
    if mapped.excludes(geometry):
        with pytest.raises(ExcludedError) as caught:
            mapped.convolution(geometry)
        assert caught.value.is_of_k_map
        return
    with_k = mapped.convolution(geometry)
    without = plain.convolution(geometry)
    x = torch.randn(2, 8, 5, 5)
    for layer in (with_k, without):
        fit_to_images(layer, 8, (5, 5))
        layer.eval()
    without.load_state_dict(with_k.state_dict())
    with torch.no_grad():
        assert not torch.allclose(with_k(x), without(x))


@pytest.mark.parametrize("name", scheme_names())
def test_its_state_is_all_there_is(name: str) -> None:
    network, _ = trained(named_scheme(name), 5)
    other = binary_network(named_scheme(name))
    other.load_state_dict(network.state_dict())
    images, _ = images_and_labels(2)
    with torch.no_grad():
        assert torch.equal(other.eval()(images), network.eval()(images))


@pytest.mark.parametrize("name", scheme_names())
def test_it_begins_with_a_float_twin(name: str) -> None:
    """All that a float twin has is taken over, unless the scheme makes its weights of fewer."""
    scheme = named_scheme(name)
    network, twin = binary_network(scheme), float_twin()
    if scheme.latent_shape((8, 8, 3, 3)) != (8, 8, 3, 3):
        with pytest.raises(
            ValueError, match=r"^2 makes its weights of \(2, 8, 3, 3\), and a float layer has \(8, 8, 3"
        ):
            state_from_twin(network, twin.state_dict())
        return
    network.load_state_dict({**network.state_dict(), **state_from_twin(network, twin.state_dict())})
    state = float_state(network)
    for key, value in twin.state_dict().items():
        latent = standardised(value) if name in {"ir-net", "zero-alpha"} and key in {"2.weight", "5.weight"} else value
        torch.testing.assert_close(state[key], latent, rtol=0.02, atol=0)  # of two definitions of a variance


@pytest.mark.parametrize("relaxed", RELAXED)
@pytest.mark.parametrize("name", scheme_names())
def test_a_stage_of_float_weights(name: str, relaxed: str) -> None:
    """Layers with float weights have the same parameters, so that the next stage begins with them; they learn."""
    torch.manual_seed(0)
    network = binary_network(named_scheme(name))
    relax_layers(network, relaxed)
    images, labels = images_and_labels()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(network(images), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    binary_network(named_scheme(name)).load_state_dict(network.state_dict())


@pytest.mark.parametrize("name", scheme_names())
def test_mixed_precision(name: str) -> None:
    """Gradients of bfloat16 arithmetic are near those of float32: sums of signs are exact in both."""
    gradients = []
    for mixed in (False, True):
        torch.manual_seed(0)
        network = binary_network(named_scheme(name))
        images, labels = images_and_labels()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        classifier = network[-1].weight.grad
        assert all(value.grad is None or value.grad.isfinite().all() for value in network.parameters())
        gradients.append(classifier)
    # The stem's bfloat16 has 8 bits, so some of the signs behind it are others.
    assert nn.functional.cosine_similarity(*(each.flatten() for each in gradients), dim=0) > 0.9


@pytest.mark.parametrize("name", scheme_names())
def test_progress_moves_no_value(name: str) -> None:
    network, _ = trained(named_scheme(name), 5)
    images, _ = images_and_labels(2)
    network.eval()
    with torch.no_grad():
        start = network(images)
        set_progress(network, 0.9)
        assert torch.equal(network(images), start)


@pytest.mark.parametrize("name", scheme_names())
def test_it_is_exported_exactly(name: str, tmp_path: Path) -> None:
    """Each binary convolution becomes an operator that gives PyTorch's bits on PyTorch's activations."""
    network, _ = trained(named_scheme(name), 10)
    network.eval()
    images, labels = images_and_labels(3)
    size = {"height": SIZE[0], "width": SIZE[1]}
    description = Description({}, tuple("abc"), Preprocessing(**size, mean=(0.5,) * 3, std=(0.5,) * 3), {})
    result = export_module(network, None, tmp_path / "bundle", Images(images, labels), description)
    assert result.verification.failures == []
    layers = {key: module for key, module in network.named_modules() if isinstance(module, BinaryConv2d)}
    exported = {layer.name for layer in result.bundle.manifest.layers if layer.weight_bits == 1}
    assert exported == layers.keys()
