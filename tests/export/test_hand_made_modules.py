"""Networks that are not BNAS, made of the same layers: a residual one with PReLU, and a plain stack."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnas_deploy.core.bits import pack_signs
from bnas_deploy.core.bundle import (
    FLOAT_TWIN,
    IMAGES,
    INT8_TWIN,
    MANIFEST,
    MODEL,
    PIECES,
    Preprocessing,
    read_bundle,
)
from bnas_deploy.core.errors import ExportError
from bnas_deploy.core.model_card import CARD
from bnas_deploy.export import Description, ExportResult, Images, export_module
from bnas_deploy.report import verification
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryLinear, BinaryWeightConv2d

CLASSES = 5
DESCRIPTION = Description(
    network={"name": "hand-made"},
    labels=tuple("abcde"),
    preprocessing=Preprocessing(8, 8, (0.5,) * 3, (0.25,) * 3),
    metrics={"accuracy": 0.5},
)


class Residual(nn.Module):
    """The block of Bi-Real Net with PReLU; where it halves the resolution, so does a pooled 1x1 shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.conv = BinaryConv2d(channels_in, channels_out, 3, stride, padding=1)
        self.norm_after = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=False)
            self.shortcut = nn.Sequential(nn.AvgPool2d(2), shortcut, nn.BatchNorm2d(channels_out))
        self.activation = nn.PReLU(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm_after(self.conv(self.norm(x))) + self.shortcut(x))


def _residual_network() -> nn.Module:
    body = (nn.Conv2d(3, 8, 3, padding=1), Residual(8, 8, 1), Residual(8, 16, 2))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))


def _stack() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)),
        *(BinaryConv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.MaxPool2d(2)),
        *(BinaryConv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.PReLU(16, init=1.5), nn.MaxPool2d(2)),
        *(nn.Flatten(), BinaryLinear(64, 12), nn.BatchNorm1d(12), nn.Linear(12, CLASSES)),
    )


def _twin() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))


def _randomise(module: nn.Module) -> nn.Module:
    """Give every batch normalisation statistics of its own, and half of the gammas a negative sign."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean, std=2)
            nn.init.uniform_(layer.running_var, 0.1, 2)
    return module


def _export(module: nn.Module, path: Path) -> ExportResult:
    images = Images(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
    return export_module(_randomise(module), _twin(), path, images, DESCRIPTION)


NETWORKS = {"residual": _residual_network, "stack": _stack}


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ExportResult]:
    torch.manual_seed(0)
    return request.param, _export(NETWORKS[request.param](), tmp_path_factory.mktemp("exported") / "bundle")


APPLIED = {
    "residual": {
        "StaticReshape": 2,  # of the head; the second time it is one already
        "FoldIntoThreshold": 2,
        "FoldBatchNormAfterBinaryConv": 2,
        "FoldBatchNormAfterConv": 1,  # on the shortcut
        "FuseAddition": 2,
        "FuseActivation": 2,  # they come after the sums
        "FuseMeanPool": 1,  # in the shortcut
        "PackWeights": 2,
    },
    "stack": {
        "StaticReshape": 6,
        "FoldIntoThreshold": 2,  # of the float convolution; and the PReLU in front of a pool and of the dense layer
        "MoveReshapeBehind": 1,  # of the binary matrix product
        "FoldBatchNormAfterBinaryConv": 3,  # a pool follows on two
        "FlattenIntoKernel": 1,  # the Reshape behind the second pool
        "PackWeights": 3,
        "WriteBits": 2,  # through both pools
    },
}


def test_passes_apply_as_expected(exported: tuple[str, ExportResult]) -> None:
    name, result = exported

    assert {step: count for step, count in result.log.applied.items() if count} == APPLIED[name]
    assert result.log.refusals == []


def test_verification_passes(exported: tuple[str, ExportResult]) -> None:
    _, result = exported

    assert result.verification.failures == []
    assert result.verification.agreement == result.verification.images == 4
    assert result.verification.pieces is not None
    binary = [piece for piece in result.verification.pieces.pieces if piece.binary]
    folded = [layer for layer in binary if layer.allowed > 0]
    bits = [layer for layer in binary if layer.bits]  # which are the same or not
    assert len(bits) == result.log.applied.get("WriteBits", 0)
    assert len(folded) + len(bits) == result.log.applied["FoldBatchNormAfterBinaryConv"]
    assert all(layer.exact for layer in binary if layer not in folded)
    assert all(layer.allowed < 1e-3 for layer in folded)  # the values are of the order of 10


def test_bundle_is_whole(exported: tuple[str, ExportResult]) -> None:
    _, result = exported
    bundle = read_bundle(result.bundle.path)
    manifest = bundle.manifest

    files = {path.relative_to(bundle.path).as_posix() for path in bundle.path.rglob("*") if path.is_file()}
    assert files == {MODEL, FLOAT_TWIN, INT8_TWIN, MANIFEST, CARD, IMAGES, PIECES}
    assert set(manifest.files) == files - {MANIFEST, CARD}
    assert (manifest.network, manifest.labels, manifest.metrics) == (
        DESCRIPTION.network,
        DESCRIPTION.labels,
        DESCRIPTION.metrics,
    )
    assert (manifest.image_size, manifest.preprocessing) == ((3, 8, 8), DESCRIPTION.preprocessing)
    binary = {layer.name for layer in manifest.layers if layer.is_binary}
    checks = manifest.verification.pieces
    assert binary <= {check.name for check in checks}
    with np.load(bundle.file(PIECES)) as vectors:
        corners = {corner.array for check in checks for corner in (*check.inputs, check.output)}
        tolerances = {name for name in vectors if name.endswith("|tolerance")}
        assert set(vectors) == corners | tolerances
        assert {name.removesuffix("|tolerance") for name in tolerances} < {check.output.array for check in checks}


def test_no_float_copy_and_no_batch_normalisation_is_left(exported: tuple[str, ExportResult]) -> None:
    _, result = exported
    model = onnx.load(result.bundle.file(MODEL))

    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type.startswith("BinaryConv2d")]
    packed = {node.input[1] for node in convolutions}
    for tensor in model.graph.initializer:
        if tensor.name in packed:
            assert tensor.data_type == onnx.TensorProto.UINT8
    sizes = {tuple(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert not sizes & {(8, 8, 3, 3), (16, 8, 3, 3), (16, 16, 3, 3), (12, 64, 1, 1)}


def _averaged() -> nn.Module:
    # Sums of four integers, of which many are 0; PyTorch and onnxruntime round the average otherwise.
    norm, pool = nn.BatchNorm2d(16), nn.AvgPool2d(2)
    return _between_binary_convolutions(norm, pool)


def _interpolated() -> nn.Module:
    return _between_binary_convolutions(nn.Upsample(scale_factor=2, mode="bilinear"))


def _between_binary_convolutions(*layers: nn.Module) -> nn.Module:
    first, second = (BinaryConv2d(16, 16, 3, padding=1) for _ in range(2))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), first, *layers, second, *head)


@pytest.mark.parametrize("network", [_averaged, _interpolated])
def test_ties_in_front_of_a_sign_are_counted_and_no_reason_to_refuse(
    network: Callable[[], nn.Module], tmp_path: Path
) -> None:
    module = network().eval()
    images = Images(torch.randn(4, 3, 8, 8))

    result = export_module(module, _twin(), tmp_path / "bundle", images, DESCRIPTION)

    second = [name for name, layer in module.named_modules() if isinstance(layer, BinaryConv2d)][-1]
    ties = read_bundle(tmp_path / "bundle").manifest.verification.ties
    assert ties.keys() == {second}
    seen: list[Tensor] = []
    module.get_submodule(second).register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        module(images.pixels[:1])
    assert ties[second] >= int((seen[0] == 0).sum()) > 0
    told = verification.describe(result.bundle, result.verification)
    assert f"\nties                     {ties[second]} activations of an image equal a threshold or lie within " in told
    assert f"in 1 layer, most ({ties[second]}) in {second}: elsewhere they may get the other sign" in told


# --- refusals -------------------------------------------------------------------------------------------------------


class DependsOnData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(3, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean(dim=(2, 3))
        return y if y.sum() > 0 else -y


class AnswersDifferently(nn.Module):
    """A module whose captured program is not what it computes: capture sees the first answer only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(3, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean(dim=(2, 3)) + float(isinstance(self.conv, BinaryConv2d))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            _twin,
            r"no binary layer in it, .*Classes seen: .*Linear.*; \d: its weights are float: .*register\(TheirConv, ",
        ),
        (
            lambda: nn.Sequential(BinaryWeightConv2d(3, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            r"no layer can be exported as a binary one, .*: 0: its input is float, the images\. Classes seen: Binary",
        ),
        (DependsOnData, "DependsOnData cannot be captured by torch.export: .*control flow that depends on data"),
        (
            AnswersDifferently,
            "nothing was written, .*: the captured program answers differently from AnswersDifferently",
        ),
    ],
    ids=["no binary layer", "binary weights alone", "control flow", "another program"],
)
def test_refused_and_nothing_left(module: type[nn.Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        _export(module(), tmp_path / "bundle")

    assert list(tmp_path.iterdir()) == []


def test_an_export_that_disagrees_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bundle"
    module = nn.Sequential(BinaryConv2d(3, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    first = _export(module, path)

    def flipped(signs: NDArray[np.float32]) -> NDArray[np.uint8]:
        return pack_signs(-signs)

    monkeypatch.setattr("bnas_deploy.export.passes.pack_weights.pack_signs", flipped)
    refusal = "nothing was written, since the export does not agree with PyTorch: layer 0 differs from PyTorch by"
    with pytest.raises(ExportError, match=refusal):
        _export(module, path)

    assert read_bundle(path).manifest == first.bundle.manifest
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 4, 16, 16), CLASSES, r"images: got torch.float32 \(2, 4, 16, 16\), .* \(N, 3, 16, 16\)"),
        (torch.zeros(0, 3, 16, 16), CLASSES, r"images: got torch.float32 \(0, 3, 16, 16\), .* with N at least 1"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.float64), CLASSES, "images: got torch.float64 .* makes torch.float32"),
        (torch.zeros(2, 3, 16, 16), CLASSES + 1, rf"Sequential: answers \(2, {CLASSES}\) to 2 images, wanted "),
    ],
    ids=["channels", "none", "dtype", "labels"],
)
def test_images_and_labels_that_do_not_fit(images: torch.Tensor, labels: int, message: str, tmp_path: Path) -> None:
    module = nn.Sequential(BinaryConv2d(3, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    description = Description({}, tuple(map(str, range(labels))), Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3), {})
    with pytest.raises(ExportError, match=message):
        export_module(module, module, tmp_path / "bundle", Images(images), description)
    assert list(tmp_path.iterdir()) == []


def test_a_half_module(tmp_path: Path) -> None:
    module = nn.Sequential(BinaryConv2d(3, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).half()

    result = _export(module, tmp_path / "bundle")

    note = "1 of 1 parameter of Sequential: torch.float16; the export made that torch.float32"
    assert f"note                     {note}" in verification.describe_export(result)


def test_a_twin_of_other_classes(tmp_path: Path) -> None:
    module, twin = (
        nn.Sequential(BinaryConv2d(3, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for classes in (CLASSES, CLASSES + 1)
    )
    description = Description({}, ("a",) * CLASSES, Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3), {})
    with pytest.raises(ExportError, match=rf"the float twin: answers \(1, {CLASSES + 1}\) to 1 images, wanted "):
        export_module(module, twin, tmp_path / "bundle", Images(torch.zeros(1, 3, 16, 16)), description)
