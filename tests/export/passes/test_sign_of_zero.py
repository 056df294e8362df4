"""The deviation "sign-of-zero": what is constantly 0 is exact, and any other 0 is refused by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.errors import ExportError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.export import Description, ExportResult, Images, export_checkpoint, export_module
from bnas_deploy.export.capture import capture
from bnas_deploy.export.passes import PIPELINE
from bnas_deploy.export.passes.sign_of_zero import check_activations
from bnas_deploy.export.rewrite import run
from bnas_deploy.report import verification
from bnas_deploy.runtime.pieces import PieceResult
from bnas_deploy.runtime.session import open_bundle
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.network import Network
from bnas_deploy.search.models.bnas.scheme import OfficialBnas
from bnas_deploy.search.nn.layers import BinaryConv2d, Zeroise
from bnas_deploy.search.training.checkpoint import Checkpoint
from bnas_deploy.search.training.untrained import untrained_checkpoint


class HalfZero(nn.Module):
    """A binary convolution whose last channels come from Zeroise, through a BN that maps 0 to `shift`."""

    def __init__(self, *, sign_of_zero: bool, shift: float = 0.0, relu: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.zeroise = Zeroise(1)
        self.norm = nn.BatchNorm2d(8)
        nn.init.constant_(self.norm.bias, shift)
        self.conv = BinaryConv2d(8, 3, 3, padding=1, scheme=OfficialBnas(sign_of_zero=sign_of_zero))
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.stem(x))
        y = self.conv(self.norm(torch.cat([y, self.zeroise(y)], dim=1)))
        answer: Tensor = self.pool(y).flatten(1)
        return answer


def _export(module: nn.Module, folder: Path, images: Tensor | None = None) -> ExportResult:
    twin = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    description = Description({"name": "half zero"}, tuple("abc"), Preprocessing(6, 6, (0.0,), (1.0,)), {})
    images = torch.randn(4, 1, 6, 6) if images is None else images
    return export_module(module, twin, folder / "bundle", Images(images), description)


def _layers(result: ExportResult) -> list[PieceResult]:
    assert result.verification.pieces is not None
    return [piece for piece in result.verification.pieces.pieces if piece.binary]


def test_channels_that_are_always_zero_are_exact(tmp_path: Path) -> None:
    module = HalfZero(sign_of_zero=True).eval()
    result = _export(module, tmp_path)
    note = (
        "sign(0) is 0 in PyTorch and +1 in the bundle: constant channels are exact, and of the rest no activation of "
        "1 binary convolutions was exactly 0 in 4 images"
    )
    assert result.log.notes == [note]
    assert note in verification.describe_export(result)
    (layer,) = _layers(result)
    assert layer.exact
    images = torch.randn(3, 1, 6, 6)
    with torch.no_grad():
        wanted = module(images).numpy()
    # 36 values of at most 36 beta, added in another order.
    np.testing.assert_allclose(open_bundle(result.bundle.path).predict(images.numpy()), wanted, rtol=0, atol=1e-4)
    # With sign(0) = +1 the zeros would count.
    module.conv.set_scheme(OfficialBnas())
    with torch.no_grad():
        assert np.abs(module(images).numpy() - wanted).max() > 0.01


def test_a_constant_other_than_zero_has_its_sign(tmp_path: Path) -> None:
    result = _export(HalfZero(sign_of_zero=True, shift=-0.5).eval(), tmp_path)
    assert all(layer.exact for layer in _layers(result))


def test_no_note_without_the_deviation(tmp_path: Path) -> None:
    assert _export(HalfZero(sign_of_zero=False).eval(), tmp_path).log.notes == []


def test_activations_that_are_zero_are_counted_and_refused(tmp_path: Path) -> None:
    module = HalfZero(sign_of_zero=True, relu=True).eval()
    images = torch.randn(4, 1, 6, 6)
    with torch.no_grad():
        zeros = int((module.stem(images) <= 0).sum())
    with pytest.raises(ExportError) as refusal:
        _export(module, tmp_path, images)
    # Of 4 channels, 36 pixels and 4 images; the constant channels are not among them.
    assert refusal.value.message == (
        f"conv: {zeros} of 576 activations in 4 images are exactly 0, whose sign is 0 in this network's scheme "
        "and +1 in the exported one; to export this network, train with a scheme whose sign(0) is +1 (without the "
        "deviation sign-of-zero)"
    )
    assert not list(tmp_path.iterdir())


def test_zeros_of_the_programs_rounding_are_counted_and_not_refused() -> None:
    """The judge has seen that the module gives a recognised layer none; one in two million was refused."""
    images = torch.randn(4, 1, 6, 6)
    captured = capture(HalfZero(sign_of_zero=True, relu=True).eval(), (1, 6, 6))
    run(PIPELINE, captured.model)

    with pytest.raises(ExportError, match=r"^conv: [\d,]+ of 576 activations in 4 images are exactly 0"):
        check_activations(captured, images, {"another layer"})
    found = check_activations(captured, images, {"conv"})

    assert found is not None
    assert found.rounded > 0
    assert str(found).endswith(f"in 4 images; {found.rounded} became 0 by rounding alone, and count as +1")


def test_weights_that_are_zero_are_counted_and_refused(tmp_path: Path) -> None:
    module = HalfZero(sign_of_zero=True).eval()
    with torch.no_grad():
        module.conv.weight[0, :2, 0, 0] = 0
        module.conv.weight[0, 7] = 0  # of a constant channel, which takes no part
    message = r"^conv: 2 of 108 weights are exactly 0, whose sign is 0 in this network's scheme; a bit"
    with pytest.raises(ExportError, match=message):
        _export(module, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_weight_of_zero_counts_as_one_without_the_deviation(tmp_path: Path) -> None:
    module = HalfZero(sign_of_zero=False).eval()
    with torch.no_grad():
        module.conv.weight[0, :2, 0, 0] = 0
    assert all(layer.exact for layer in _layers(_export(module, tmp_path)))


def _official(config: NetworkConfig) -> tuple[Checkpoint, Network]:
    """As training leaves it: where a BN has only ever seen 0, its running mean is 0."""
    checkpoint = untrained_checkpoint(config, seed=0)
    state = dict(checkpoint.state)
    # Cell 0 has no skip, so that its nodes that are Zeroise alone, half of its channels, are constantly 0.
    mean = state["cells.2.preprocess0.norm.running_mean"]
    mean[len(mean) // 2 :] = 0
    trained = Checkpoint(config, state, checkpoint.preprocessing, checkpoint.labels, checkpoint.data)
    return trained, trained.build()


def test_the_zeros_of_the_cifar_cells_are_exact(tmp_path: Path) -> None:
    """The case of the published networks: preprocess0 behind a reduction, whose BN has no beta."""
    deviations = ("centre-weights", "clamp-weights", "fan-in-gradient", "real-last-two", "sign-of-zero")
    config = NetworkConfig("tiny", 4, 4, "cifar", GENOTYPES["cifar"], 3, 3, (8, 8), deviations=deviations)
    checkpoint, network = _official(config)
    images = torch.randn(4, 3, 8, 8)
    zeros: list[Tensor] = []
    network.cells[2].preprocess0.norm.register_forward_hook(lambda module, x, y: zeros.append((y == 0).all((0, 2, 3))))
    with torch.no_grad():
        network(images)
    assert zeros[0].tolist() == [False] * 8 + [True] * 8
    result = export_checkpoint(checkpoint, tmp_path / "bundle", Images(images))
    layers = {layer.check.name: layer for layer in _layers(result)}
    assert layers["cells.2.preprocess0.conv"].exact
    # What the last two preprocess layers give has a BN folded behind it, which the float layers of that cell read.
    last = {"cells.3.preprocess0.conv", "cells.3.preprocess1.conv"}
    assert {name for name, layer in layers.items() if not layer.exact} == last
    assert result.log.notes[0].startswith("sign(0) is 0 in PyTorch")
