"""The supernet shares work between edges; the oracle runs every operation of every edge by itself."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bnas_deploy.core.genotype import LEARNABLE
from bnas_deploy.search.cells.config import SupernetConfig
from bnas_deploy.search.cells.fans import Convolutions, Fan, Separately
from bnas_deploy.search.cells.space import EDGES, SPACES, SearchSpace
from bnas_deploy.search.cells.supernet import Mixture, Supernet, rows_from
from bnas_deploy.search.nn.estimators import (
    activation_scale,
    centred_and_clamped,
    scale_gradient,
    sign_activation,
    sign_weight,
    weight_scale,
)

CONFIG = SupernetConfig(SPACES["bnas"], cells=3, channels=4, classes=3, in_channels=1, image_size=(8, 8))


# ---- the oracle


def plain_batch_norm(x):
    """Batch statistics, no gamma and beta."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def plain_convolution(x, weight, real, config, stride, kernel, dilation):
    """BN -> sign -> convolution -> times beta [and K] -> ReLU of one edge."""
    padding = dilation * (kernel - 1) // 2
    normed = plain_batch_norm(x)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    if config.precision == "float":
        return torch.relu(nn.functional.conv2d(normed, weight, **geometry))
    sign_of_zero = "sign-of-zero" in config.deviations
    signed = sign_activation(normed, sign_of_zero=sign_of_zero)
    if real or config.precision == "binary-activations":
        y = nn.functional.conv2d(signed, weight, **geometry)
    else:
        latent = weight
        if "fan-in-gradient" in config.deviations:
            latent = scale_gradient(latent, latent[0].numel() * (1 - 1 / latent.shape[1]))
        latent = centred_and_clamped(
            latent, centre="centre-weights" in config.deviations, clamp="clamp-weights" in config.deviations
        )
        # The sum of signs is often exactly 0, where ReLU has its corner, so beta comes afterwards.
        signs = sign_weight(latent, sign_of_zero=sign_of_zero)
        y = nn.functional.conv2d(signed, signs, **geometry) * weight_scale(latent)[:, None, None]
    if config.k_map:
        y = y * activation_scale(normed, (kernel, kernel), *((value, value) for value in geometry.values()))
    return torch.relu(y)


def plain_operation(name, x, stride, weight, real, config):
    if name == "none":
        return torch.zeros_like(x[:, :, ::stride, ::stride])
    if name == "max_pool_3x3":
        return plain_batch_norm(nn.functional.max_pool2d(x, 3, stride, 1))
    if name == "avg_pool_3x3":
        return plain_batch_norm(nn.functional.avg_pool2d(x, 3, stride, 1, count_include_pad=False))
    if name == "skip_connect" and stride == 1:
        return x
    if name.startswith(("bats_", "bin_sep_", "bin_dil_sep_")):
        return weight(x)
    kernel = int(name[-1]) if name != "skip_connect" else 3
    return plain_convolution(x, weight, real, config, stride, kernel, 2 if "_dil_" in name else 1)


def weight_of(cell, row, name):
    """Return the weights of one operation of one edge, and whether they are left real; or its module, or None."""
    source = EDGES[row][0]
    operation = cell.fans[source].operations[name] if name != "none" else None
    edge = rows_from(source).index(row)
    if isinstance(operation, Separately):
        return operation.edges[edge], False
    if not isinstance(operation, Convolutions):
        return None, False
    part = slice(edge * operation.channels, (edge + 1) * operation.channels)
    return operation.conv.weight[part], edge >= operation.float_from


def plain_forward(network, x, mixture):
    config = network.config
    before, previous = network.stem(x)
    for cell in network.cells:
        weights = mixture.reduction if cell.reduction else mixture.normal
        states = [cell.preprocess0(before), cell.preprocess1(previous)]
        for node in range(2, 6):
            total = 0
            for row, (source, end) in enumerate(EDGES):
                if end != node:
                    continue
                stride = 2 if cell.reduction and source < 2 else 1
                for column, name in enumerate(config.space.operations):
                    weight, real = weight_of(cell, row, name)
                    y = plain_operation(name, states[source], stride, weight, real, config)
                    total = total + weights[row, column] * y
            states.append(total)
        y = torch.cat(states[2:], dim=1)
        if cell.skip is not None:
            y = y + cell.skip(previous)
        before, previous = previous, y
    return network.classifier(previous.mean(dim=(2, 3)))


# ---- the same values and gradients


def random_mixture(network, seed=1):
    random = torch.Generator().manual_seed(seed)
    shape = network.alphas["normal"].shape
    tables = [torch.randn(shape, generator=random).softmax(dim=1).requires_grad_() for _ in range(2)]
    return Mixture(*tables)


def one_hot_mixture(network):
    columns = torch.randint(len(network.config.space.operations), (2, len(EDGES)))
    tables = [torch.eye(len(network.config.space.operations))[row].requires_grad_() for row in columns]
    return Mixture(*tables, single=True)


def gradients(network, logits, mixture):
    loss = (logits * torch.arange(1.0, logits.numel() + 1).reshape(logits.shape)).sum()
    names, parameters = zip(*((n, p) for n, p in network.named_parameters() if "alphas" not in n), strict=True)
    found = torch.autograd.grad(loss, [mixture.normal, mixture.reduction, *parameters], allow_unused=True)
    return dict(zip(("normal", "reduction", *names), found, strict=True))


def assert_close(got, want, name):
    # Both sum the same float64 products in another order; the longest sums have some 1e4 terms, so that errors stay
    # below 1e4 * 2.2e-16 of the largest value, times what ten layers of BN amplify.
    tolerance = 1e-8 * max(1.0, want.abs().max().item())
    assert (got - want).abs().max().item() <= tolerance, name


CONFIGS = {
    "bnas": CONFIG,
    "k-map": replace(CONFIG, k_map=True),
    "float": replace(CONFIG, precision="float"),
    "binary-activations": replace(CONFIG, precision="binary-activations"),
    "no-skip": replace(CONFIG, inter_cell_skip=False),
    "deviations": replace(
        CONFIG,
        deviations=("centre-weights", "clamp-weights", "fan-in-gradient", "real-last-convolutions", "sign-of-zero"),
    ),
    "separable": replace(CONFIG, space=SearchSpace(("bin_conv_3x3", "bin_sep_conv_3x3", "bin_dil_sep_conv_5x5"))),
    "darts": replace(CONFIG, space=SPACES["darts"], precision="binary-activations"),
    "bats": replace(CONFIG, space=SPACES["bats"], channels=12),
    "two-operations": replace(CONFIG, space=SearchSpace(("bin_conv_3x3", "none"))),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_sharing_work_changes_neither_values_nor_gradients(config):
    network = Supernet(config).double()
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    mixture = random_mixture(network)
    mixture = Mixture(*(table.double().detach().requires_grad_() for table in (mixture.normal, mixture.reduction)))
    got, want = network(x, mixture), plain_forward(network, x, mixture)
    assert_close(got, want, "logits")
    want_gradients = gradients(network, want, mixture)
    for name, gradient in gradients(network, got, mixture).items():
        wanted = want_gradients[name]
        assert gradient is not None, name
        if name in ("normal", "reduction") and "none" in config.space.operations:
            column = config.space.operations.index("none")
            assert (gradient[:, column] == 0).all()
        assert_close(gradient, wanted, name)


def test_one_operation_at_a_time_gives_what_all_of_them_would():
    network = Supernet(CONFIG).double()
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    single = one_hot_mixture(network)
    tables = [table.double().detach().requires_grad_() for table in (single.normal, single.reduction)]
    got = network(x, Mixture(*tables, single=True))
    want = plain_forward(network, x, Mixture(*tables))
    assert_close(got, want, "logits")
    wanted = gradients(network, want, Mixture(*tables))
    for name, gradient in gradients(network, got, Mixture(*tables)).items():
        if name in ("normal", "reduction"):
            chosen = torch.stack(tables)[0 if name == "normal" else 1] != 0
            assert_close(gradient[chosen], wanted[name][chosen], name)
            assert (gradient[~chosen] == 0).all()
        elif gradient is not None:  # None where nothing was chosen of a fan's candidate
            assert_close(gradient, wanted[name], name)
        else:
            assert wanted[name].abs().max() == 0, name


def test_one_operation_at_a_time_runs_no_other(monkeypatch):
    ran = []
    forward = Convolutions.forward
    monkeypatch.setattr(Convolutions, "forward", lambda self, x, part: ran.append(part.edges) or forward(self, x, part))
    network = Supernet(CONFIG)
    weights = torch.zeros(14, 7)
    weights[:, 0] = 1.0  # Zeroise, but for two edges that leave state 0
    for row in (0, 5):
        weights[row] = torch.eye(7)[CONFIG.space.operations.index("bin_conv_3x3")]
    network(torch.randn(2, 1, 8, 8), Mixture(weights, weights, single=True))
    assert ran == [[0, rows_from(0).index(5)]] * 3


def test_edges_are_those_of_the_published_tables():
    assert (
        *((0, 2), (1, 2)),
        *((0, 3), (1, 3), (2, 3)),
        *((0, 4), (1, 4), (2, 4), (3, 4)),
        *((0, 5), (1, 5), (2, 5), (3, 5), (4, 5)),
    ) == EDGES
    assert rows_from(0) == [0, 2, 5, 9]
    assert rows_from(4) == [13]


def test_the_published_supernet():
    """8 cells of 14 edges with 4 convolutions; with 16 channels that double twice, as many weights as that says."""
    config = replace(CONFIG, cells=8, channels=16, classes=10, in_channels=3, image_size=(32, 32))
    with torch.device("meta"):
        network = Supernet(config)
    convolutions = [module for module in network.modules() if isinstance(module, Convolutions)]
    weights = sum(module.conv.weight.numel() for module in convolutions)
    assert sum(len(module.conv.weight) // module.channels for module in convolutions) == 448
    assert weights == sum(14 * c * c * (9 + 25 + 9 + 25) for c in (16, 16, 32, 32, 32, 64, 64, 64))
    assert [cell.reduction for cell in network.cells] == [index in (2, 5) for index in range(8)]
    assert [tuple(table.shape) for table in network.alpha_parameters()] == [(14, 7), (14, 7)]


def test_the_official_code_binarises_430_of_448():
    config = replace(CONFIG, cells=8, deviations=("real-last-convolutions",))
    with torch.device("meta"):
        network = Supernet(config)
    real = {
        (index, row, name)
        for index, cell in enumerate(network.cells)
        for row in range(14)
        for name in config.space.operations
        if name in LEARNABLE and weight_of(cell, row, name)[1]
    }
    last = ("bin_conv_3x3", "bin_conv_5x5")
    everything = ("bin_dil_conv_3x3", "bin_dil_conv_5x5", *last)
    assert real == {(7, 9, name) for name in last} | {(7, row, name) for row in (10, 11, 12, 13) for name in everything}


def test_binary_weights_are_renewed_in_place_and_real_ones_are_not():
    deviations = ("centre-weights", "clamp-weights", "real-last-convolutions")
    network = Supernet(replace(CONFIG, deviations=deviations))
    with torch.no_grad():
        for weight in network.weight_parameters():
            weight.mul_(10)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    network.renew_weights()
    changed = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    for name, module in network.named_modules():
        if not isinstance(module, Convolutions):
            continue
        binary = slice(0, module.float_from * module.channels)
        old, new = before[f"{name}.conv.weight"], module.conv.weight
        want = (old - old.mean(dim=1, keepdim=True)).clamp(-1, 1)
        assert torch.equal(new[binary], want[binary])
        assert torch.equal(new[binary.stop :], old[binary.stop :])
        changed.discard(f"{name}.conv.weight")
    assert not changed
    plain = Supernet(CONFIG)
    before = {name: weight.detach().clone() for name, weight in plain.named_parameters()}
    plain.renew_weights()
    assert all(torch.equal(weight, before[name]) for name, weight in plain.named_parameters())


def test_initial_alphas_are_small_and_no_weights():
    network = Supernet(CONFIG)
    assert 1e-4 < network.alphas["normal"].abs().mean() < 2e-3
    ids = {id(parameter) for parameter in network.weight_parameters()}
    assert not ids & {id(parameter) for parameter in network.alpha_parameters()}
    assert len(ids) + 2 == len(list(network.parameters()))


def test_no_batch_norm_of_a_candidate_has_parameters():
    for module in Supernet(CONFIG).modules():
        if isinstance(module, Fan):
            assert not list(module.norm.parameters())
            assert not [name for name, _ in module.named_parameters() if "norm" in name]
