"""The float twin that is derived from a captured network."""

import gc
import weakref
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.core.bundle import FLOAT_TWIN, Preprocessing
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export import Description, Images, export_module
from bnas_deploy.export.capture import capture
from bnas_deploy.export.finish import finish
from bnas_deploy.export.inputs import Feed
from bnas_deploy.export.separate_twin import needs_own_capture, twin_of_family, with_float_layers
from bnas_deploy.export.twin import FloatTwin, derived_twin
from bnas_deploy.runtime.session import create_session, session_options
from bnas_deploy.search.models.registry import build_network, configure
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryLinear, BinaryWeightConv2d
from bnas_deploy.search.nn.schemes import named_scheme

SHAPE = (3, 8, 8)
CLASSES = 5


def _images(count: int = 4) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def _twin(module: nn.Module, images: Tensor) -> FloatTwin:
    with torch.no_grad():
        return derived_twin(capture(module, images.shape[1:]), module, images)


def _twin_answers(twin: FloatTwin, images: Tensor) -> Tensor:
    (answers,) = twin.network(Feed.of_images(images))
    return answers


def _answers(model: ir.Model, images: Tensor, path: Path) -> Tensor:
    path.write_bytes(finish(model).SerializeToString())
    session = create_session(path, session_options(library=False))
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _head(channels: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_binary_layers_become_convolutions_with_the_weights_behind_the_signs(tmp_path: Path) -> None:
    binary = nn.Sequential(
        BinaryConv2d(3, 8, 3, 2, padding=1, bias=True),
        BinaryConv2d(8, 8, (2, 4), padding="same", groups=2, dilation=(1, 2)),
        BinaryWeightConv2d(8, 6, 1),
        nn.Flatten(),
        BinaryLinear(96, CLASSES),
    ).eval()
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, padding=1),
        nn.Conv2d(8, 8, (2, 4), padding="same", groups=2, dilation=(1, 2), bias=False),
        nn.Conv2d(8, 6, 1),
        nn.Flatten(),
        nn.Linear(96, CLASSES, bias=False),
    )
    state = {name.replace("4.conv.", "4."): value for name, value in binary.state_dict().items()}
    state["4.weight"] = state["4.weight"][:, :, 0, 0]
    plain.load_state_dict(state)
    twin = _twin(binary, _images())
    assert all(node.domain == "" for node in twin.model.graph)
    with torch.no_grad():
        want = plain(_images())
        signs = binary(_images())
    # Sums of at most 96 products in another order, four layers deep: 400 roundings of 6e-8.
    error = 400 * 6e-8 * float(want.abs().max())
    assert (_twin_answers(twin, _images()) - want).abs().max() <= error
    assert (_answers(twin.model, _images(), tmp_path / "float.onnx") - want).abs().max() <= error
    assert (signs - want).abs().max() > 1000 * error


def test_signs_times_scale_where_nobody_knows_the_weights() -> None:
    layer = BinaryConv2d(3, CLASSES, 1)
    module = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    twin = derived_twin(capture(module, SHAPE), nn.Identity(), _images())  # a module that has no such layer
    (weight,) = [node.inputs[1] for node in twin.model.graph if node.op_type == "Conv"]
    assert weight is not None
    assert weight.const_value is not None
    want = layer.effective_weight().detach().numpy()
    np.testing.assert_array_equal(weight.const_value.numpy(), want)
    assert (want != layer.weight.detach().numpy()).any()


def _deep(layers: int) -> nn.Module:
    """Return layers whose BNs fit sums of signs, which have hundreds of times the magnitude of the float sums."""
    body: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1)]
    for _ in range(layers):
        norm = nn.BatchNorm2d(16)
        nn.init.constant_(norm.running_var, 0.01)
        body += [BinaryConv2d(16, 16, 3, padding=1), norm]
        nn.init.normal_(body[-2].weight)
    return nn.Sequential(*body, *_head(16)).eval()


def test_a_batch_norm_is_calibrated_so_that_nothing_explodes(tmp_path: Path) -> None:
    module, images = _deep(8), _images()
    twin = _twin(module, images)
    assert _twin_answers(twin, images).abs().max() < 10
    with torch.no_grad():
        for layer in (plain := with_float_layers(module)).modules():
            assert not isinstance(layer, BinaryConv2d)
        assert plain(images).abs().max() > 1e6  # with the statistics of the binary network
    got = _answers(twin.model, images, tmp_path / "float.onnx")
    # Rounding is passed on by 8 layers, each of which divides by a deviation: 2^12 roundings leave room for that.
    assert (got - _twin_answers(twin, images)).abs().max() <= 2**12 * 6e-8 * 10


@pytest.mark.parametrize("last", ["batch norm", "binary layer"])
def test_the_last_value_has_the_name_of_the_output_in_the_graph(last: str, tmp_path: Path) -> None:
    body = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ends = {"batch norm": (nn.Linear(8, CLASSES), nn.BatchNorm1d(CLASSES)), "binary layer": (BinaryLinear(8, CLASSES),)}
    module = nn.Sequential(*body, *ends[last]).eval()

    twin = _twin(module, _images())

    want = _twin_answers(twin, _images())
    # Sums of at most 32 products, two layers deep, and two BNs.
    assert (_answers(twin.model, _images(), tmp_path / "twin.onnx") - want).abs().max() <= 200 * 6e-8 * want.abs().max()
    with torch.no_grad():
        assert (module(_images()) - want).abs().max() > 0.01 * want.abs().max()  # it is calibrated, and float


def test_the_module_keeps_its_statistics() -> None:
    module, images = _deep(2), _images()
    captured = capture(module, SHAPE)
    with torch.no_grad():
        before = module(images)
        derived_twin(captured.copy(), module, images)
        assert torch.equal(module(images), before)
        assert torch.equal(captured.values_of(images)["logits"], before)


def test_the_signs_are_let_go() -> None:
    module = nn.Sequential(BinaryConv2d(3, CLASSES, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    captured = capture(module, SHAPE)
    signs = weakref.ref(captured.program.state_dict["0.signs"])
    twin = derived_twin(captured, module, _images())
    del captured
    gc.collect()
    assert signs() is None
    assert _twin_answers(twin, _images()).shape == (4, CLASSES)


def test_a_channel_without_spread_does_not_magnify_roundings() -> None:
    module = nn.Sequential(BinaryConv2d(3, 4, 8), nn.BatchNorm2d(4), *_head(4)).eval()
    images = _images(1)  # one image of one pixel: no spread at all
    twin = _twin(module, images)
    moved = _twin_answers(twin, images * (1 + 1e-5)) - _twin_answers(twin, images)
    # 1e-5 of what is divided by a tenth of itself, with heads of weights below 1/2 in front of 4 channels.
    assert moved.abs().max() <= 10 * 1e-5 * 4 * 0.5


def test_a_twin_that_overflows_is_refused() -> None:
    layers = [BinaryConv2d(3, 3, 1) for _ in range(3)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1e30)
    module = nn.Sequential(*layers, *_head(3)).eval()
    with pytest.raises(ExportError, match=r"float twin that was derived answers NaN or infinity .* give a twin of"):
        _twin(module, _images())


@pytest.mark.parametrize("name", ["abc-net", "binary-duo", "real-to-binary"])
def test_several_convolutions_are_one_in_the_twin(name: str) -> None:
    layer = named_scheme(name).convolution(Geometry(4, 6, (3, 3), padding=(1, 1)))
    module = nn.Sequential(nn.Conv2d(3, 4, 1), layer, *_head(6)).eval()
    assert needs_own_capture(module)
    swapped = with_float_layers(module)
    assert [type(each) for each in swapped] == [nn.Conv2d, nn.Conv2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]
    assert torch.equal(swapped[1].weight, layer.real_weight())
    assert needs_own_capture(module)  # which stays as it was
    assert not needs_own_capture(swapped)


def test_an_even_kernel_that_keeps_the_size_does_so_in_the_twin() -> None:
    layer = BinaryConv2d(3, 4, (2, 3), padding="same")
    padded = with_float_layers(nn.Sequential(layer))[0]
    with torch.no_grad():
        assert torch.equal(padded(_images()), layer.convolve(_images(), layer.weight))


def test_a_layer_that_is_used_twice_stays_one() -> None:
    layer = BinaryConv2d(3, 3, 1)
    swapped = with_float_layers(nn.Sequential(layer, nn.ReLU(), layer))
    assert swapped[0] is swapped[2]


@pytest.mark.parametrize(
    ("network", "derived"),
    [("BNAS-Mini", True), ("VGG-11", False), ("Real-to-Binary-18", False)],
    ids=["layers alone", "ReLU in the place of signs", "scheme"],
)
def test_the_twin_of_a_family_is_captured_where_it_is_another_network(network: str, derived: bool) -> None:
    config = configure(network)
    assert (twin_of_family(config, build_network(config)) is None) == derived


DESCRIPTION = Description({}, tuple("abcde"), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3), {})


def test_a_module_is_exported_without_a_twin(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), BinaryConv2d(8, 8, 3), nn.PReLU(8), *_head(8))
    told: list[str] = []
    result = export_module(
        module, path=tmp_path / "bundle", images=Images(_images()), description=DESCRIPTION, progress=told.append
    )
    float_file = result.bundle.file(FLOAT_TWIN)
    nodes = [(node.op_type, node.name) for node in ir.load(float_file).graph if node.op_type in ("Conv", "Gemm")]
    assert nodes == [("Conv", "0"), ("Conv", "2"), ("Gemm", "6")]
    assert told[0] == "running it on 4 images"
    assert told[-1] == "verifying the bundle"
    assert len(told) == len(set(told)) == 8


def test_what_is_needed_is_named() -> None:
    with pytest.raises(TypeError, match="export_module needs path, description"):
        export_module(nn.Identity(), images=Images(_images()))
