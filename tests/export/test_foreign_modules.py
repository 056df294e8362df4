"""Modules as other people write them: wrapped, hooked, traced. Each works, or is refused by the layer's name."""

import copy
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export import Description, FloatLayers, Images, export_module
from bnas_deploy.export.capture import OUTPUT, capture
from bnas_deploy.export.module_checks import answers_of, other_floats, own_doing, prepared
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryLinear, Zeroise
from bnas_deploy.search.nn.scheme import Binarised

CLASSES = 5
SHAPE = (3, 8, 8)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = BinaryConv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.stem(x)).mean((2, 3)))


def _images(count: int = 2) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def _export(module: nn.Module, path: Path) -> None:
    description = Description({}, tuple("abcde"), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3), {})
    twin = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES))
    export_module(module, twin, path, Images(_images()), description)


def _with(change: Callable[[Small], object]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        module = Small()
        change(module)
        return module

    return make


# --- exported -------------------------------------------------------------------------------------------------------


class ChannelsLast(nn.Module):
    """Layers on (N, H, W, C), as ConvNeXt has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)
        return self.attention(rows, rows, rows, need_weights=False)[0].transpose(1, 2).reshape(x.shape)


class AnyArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Small()

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.inner(*arguments)


def _behind(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return _with(lambda module: setattr(module, "conv", nn.Sequential(module.conv, layer())))


def _compiled_forward(module: Small) -> None:
    module.forward = torch.compile(module.forward)  # type: ignore[method-assign] # as people do


EXPORTED: dict[str, Callable[[], nn.Module]] = {
    "channels last": _behind(ChannelsLast),
    "attention": _behind(Attention),
    "transposed in groups": _behind(lambda: nn.ConvTranspose2d(8, 8, 2, stride=2, groups=4)),
    "layer norm of images": _behind(lambda: nn.LayerNorm([8, 8])),
    "spectral norm": _behind(lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 1))),
    "any arguments": AnyArguments,
    "compiled forward": _with(_compiled_forward),
}


def _twin_of(make: Callable[[], nn.Module]) -> nn.Module:
    """Return the same with float convolutions."""
    twin = make()
    for parent in list(twin.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, BinaryConv2d):
                setattr(parent, name, nn.Conv2d(8, 8, 3, padding=1))
    return twin


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_other_floats_become_float32(kind: torch.dtype) -> None:
    module = _with(lambda module: module.head.to(kind))()

    ours = prepared(module, "Small")

    assert {value.dtype for value in ours.parameters()} == {torch.float32}
    assert module.head.weight.dtype == kind
    said = f"2 of 5 parameters of Small: {kind}; the export made that torch.float32, and compares with it"
    assert other_floats(module) == said
    assert other_floats(ours) is None


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch.compile of PyTorch's own
@pytest.mark.parametrize("make", EXPORTED.values(), ids=EXPORTED)
def test_layers_around_binary_ones(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    description = Description({}, tuple("abcde"), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3), {})
    result = export_module(make(), _twin_of(make), tmp_path / "bundle", Images(_images()), description)
    assert result.verification.failures == []
    assert result.bundle.manifest.verification.pieces


def test_a_linear_layer_of_images_is_counted_for_every_pixel(tmp_path: Path) -> None:
    make = _behind(ChannelsLast)
    description = Description({}, tuple("abcde"), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3), {})
    result = export_module(make(), _twin_of(make), tmp_path / "bundle", Images(_images()), description)
    shapes = {layer.name: (layer.input, layer.output) for layer in result.bundle.manifest.layers}
    assert shapes["conv.1.layers.1"] == ((8, 64, 1), (16, 64, 1))
    assert shapes["conv.1.layers.3"] == ((16, 64, 1), (8, 64, 1))


class Score(Small):
    """One number for each image: a product with a vector, whose weights have a single axis."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.arange(5.0))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) @ self.vector


class Pair(Small):
    """A product with two matrices, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.Parameter(torch.arange(30.0).reshape(2, 5, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return (torch.stack([y, -y], 1).unsqueeze(2) @ self.matrices).flatten(1)


def test_several_matrices_stay_float_in_the_int8_twin(tmp_path: Path) -> None:
    result = export_module(Pair(), None, tmp_path / "bundle", Images(_images()), Description({}), float_layers="int8")
    assert result.verification.failures == []
    bits = {layer.name: layer.weight_bits for layer in result.bundle.manifest.layers}
    assert (bits["head"], bits["matmul"]) == (8, 32)


@pytest.mark.parametrize("float_layers", ["float", "int8"])
def test_a_product_with_a_vector_is_counted(float_layers: FloatLayers, tmp_path: Path) -> None:
    images, description = Images(_images()), Description({})
    result = export_module(Score(), None, tmp_path / "bundle", images, description, float_layers=float_layers)
    assert result.verification.failures == []
    last = result.bundle.manifest.layers[-1]
    assert (last.input, last.output) == ((5, 1, 1), (1, 1, 1))


def test_a_twin_with_a_binary_layer(tmp_path: Path) -> None:
    description = Description({}, tuple("abcde"), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3), {})
    with pytest.raises(ExportError, match="the float twin: conv is a binary layer; give the same network with float"):
        export_module(Small(), Small(), tmp_path / "bundle", Images(_images()), description)


# --- refused before anything is captured ----------------------------------------------------------------------------


class TwoInputs(Small):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x * mask)


class OnGpu(Small):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("Torch not compiled with CUDA enabled")  # what x.cuda() says on most machines


class Misfit(Small):
    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(9, 8, 3)


class Dictionary(Small):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override] # which is the point
        return {"logits": super().forward(x), "more": x}


class Double(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).double()


class Logarithm(Small):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Identity(), nn.Softsign(), nn.LogSigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.body(x / 0).sum((1, 2, 3), keepdim=True).flatten(1)


def _diverged(module: Small) -> None:
    with torch.no_grad():
        module.conv.weight[0, 0] = torch.nan
        module.conv.weight[1, 0, 0, 0] = torch.inf


def _negative_variance(module: Small) -> None:
    module.norm = nn.BatchNorm2d(8)
    module.norm.running_var[3] = -1


def _on_meta() -> nn.Module:
    with torch.device("meta"):
        return Small()


def _quantised() -> nn.Module:
    module = Small()
    # A stand-in for what torch.ao makes, which is deprecated and warns.
    module.head = type("Linear", (nn.Linear,), {"__module__": "torch.ao.nn.quantized.dynamic.modules.linear"})(8, 5)
    return module


def _traced_inside() -> nn.Module:
    module = Small()
    module.stem = torch.jit.trace(module.stem.eval(), _images())
    return module


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a second input": (TwoInputs, r"TwoInputs: its forward takes x: .*: missing a required argument: 'mask'; "),
    "an error of its own": (OnGpu, r"OnGpu: test_foreign_modules.py:\d+, AssertionError: Torch .*; .*or mend .*CPU"),
    "an error inside": (Misfit, r"Misfit: in conv \(BinaryConv2d\), test_.*.py:\d+, .*given images float32 .*or mend"),
    "two answers": (Dictionary, r"Dictionary: answers logits, more to 2 images, wanted \(2, 5\).*without labels"),
    "double logits": (Double, r"Double: answers torch.float64, wanted torch.float32; call .float\(\)"),
    "NaN answers": (Logarithm, r"Logarithm: answers NaN .* first made by .*; check what that layer divides by"),
    "NaN weights": (_with(_diverged), r"Small: conv.weight has 10 of 576 values that are NaN .*; the training"),
    "negative variance": (_with(_negative_variance), r"Small: norm has running statistics that are NaN, .*calibrate"),
    "meta": (_on_meta, r"Small: stem.weight is on the meta device and has no values; load a checkpoint"),
    "integers": (
        _with(lambda module: setattr(module.head, "weight", nn.Parameter(torch.ones(5, 8).int(), requires_grad=False))),
        r"Small: head.weight is not float32 but torch.int32; replace its layer",
    ),
    "lazy": (
        _with(lambda module: setattr(module, "head", nn.LazyLinear(CLASSES))),
        r"Small: head.weight has no shape yet, .*; run the module on images once",
    ),
    "quantised": (_quantised, r'Small: head: Linear of torch.ao is quantised already; give .* float_layers="int8"'),
    "traced": (_traced_inside, r"Small: stem: a traced or scripted module, .*; give the Python module"),
    "a lock": (
        _with(lambda module: setattr(module.conv, "lock", threading.Lock())),
        r"Small: conv.lock \(lock\) cannot be copied: .*; keep it out of the module",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature", "ignore:.*torch.jit.trace.* is deprecated")
@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_by_name(make: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        _export(make(), tmp_path / "bundle")

    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_the_float_twin_is_asked_too(tmp_path: Path) -> None:
    description = Description({}, tuple("abcde"), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3), {})
    with pytest.raises(ExportError, match=r"the float twin: test_foreign_modules.py:\d+, AssertionError: Torch not"):
        export_module(Small(), _twin_of(OnGpu), tmp_path / "bundle", Images(_images()), description)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (
            0.5,
            0.0,
            r"preprocessing\.std: got \[0\.0, 0\.0, 0\.0\], wanted more than 0 each; mend the preprocessing",
        ),
        (float("nan"), 0.5, r"preprocessing\.mean\[0\]: got NaN, wanted a number that float32 can hold; mend the prep"),
    ],
)
def test_a_normalisation_that_no_bundle_may_have(mean: float, std: float, message: str, tmp_path: Path) -> None:
    description = Description({}, tuple("abcde"), Preprocessing(8, 8, (mean,) * 3, (std,) * 3), {})
    with pytest.raises(ExportError, match=message):
        export_module(Small(), path=tmp_path / "bundle", images=Images(_images()), description=description)
    assert list(tmp_path.iterdir()) == []


def test_as_many_labels_as_images_are_wanted(tmp_path: Path) -> None:
    description = Description({}, tuple("abcde"), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3), {})
    images = Images(_images(), torch.tensor([0, 1, 2]))
    with pytest.raises(ExportError, match=r"images: labels of shape \(3,\) for 2 images; give one class for each"):
        export_module(Small(), path=tmp_path / "bundle", images=images, description=description)


class Squeezed(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.stem(x)).mean((2, 3), keepdim=True).squeeze())


def test_a_network_that_cannot_run_on_one_example(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"logits of the shape \(5,\) to one example and \(2, 5\) to 2; .*flatten"):
        _export(Squeezed(), tmp_path / "bundle")


class SqueezedTooMuch(Small):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.stem(x)).squeeze().mean((2, 3)))


class AnswersMoreToSeveral(Small):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (super().forward(x),) * len(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (SqueezedTooMuch, r"SqueezedTooMuch, given one example: .*IndexError: Dimension out of range"),
        (AnswersMoreToSeveral, r"AnswersMoreToSeveral: answers 1 tensor to one example and 2 to 2; answer as many"),
    ],
)
def test_a_network_that_one_example_is_too_few_for(module: type[Small], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_module(module(), path=tmp_path / "bundle", images=Images(_images()), description=Description({}))


class EndsWithDropout(Small):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), training=self.training)


def test_a_network_without_labels_may_end_with_a_copy(tmp_path: Path) -> None:
    result = export_module(
        EndsWithDropout().eval(), path=tmp_path / "bundle", images=Images(_images()), description=Description({})
    )
    assert result.verification.failures == []


# --- code that freezing would drop ----------------------------------------------------------------------------------


class PlusOne(BinaryConv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Doubled(BinaryConv2d):
    def binarised(self) -> Binarised:
        binarised = super().binarised()
        return replace(binarised, scale=2 * binarised.scale)


class Shifted(Zeroise):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def _hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * 2


def _own_forward(module: Small) -> None:
    forward = module.conv.forward
    module.conv.forward = lambda x: forward(x) + 1  # type: ignore[method-assign] # as people do


DROPPED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "hook": (
        _with(lambda module: module.conv.register_forward_hook(_hook)),
        "conv: BinaryConv2d with the forward hook _hook, which the exported layer would not run; remove the hook",
    ),
    "pre-hook": (
        _with(lambda module: module.conv.register_forward_pre_hook(lambda layer, inputs: None)),
        "conv: BinaryConv2d with the forward hook .*lambda",
    ),
    "forward": (
        _with(lambda module: setattr(module, "conv", PlusOne(8, 8, 3))),
        "conv: PlusOne has a forward of its own, .*; take BinaryConv2d and do the rest in a module around it",
    ),
    "weights": (
        _with(lambda module: setattr(module, "conv", Doubled(8, 8, 3))),
        "conv: Doubled has a binarised of its own, which the exported layer would not run",
    ),
    "forward of an instance": (_with(_own_forward), "conv: BinaryConv2d has a forward of its own"),
    "zeroise": (lambda: nn.Sequential(Shifted(1)), "0: Shifted has a forward of its own, .*; take Zeroise and"),
}


@pytest.mark.parametrize(("make", "message"), DROPPED.values(), ids=DROPPED)
def test_code_that_would_be_dropped(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        capture(make(), SHAPE)


# --- written to, random ---------------------------------------------------------------------------------------------


class Writes(Small):
    def forward(self, x: Tensor) -> Tensor:
        self.stem.weight.data = self.stem.weight.data * 0.9
        return super().forward(x)


class Counts(Small):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class Noisy(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x))


class Drops(nn.Module):
    """Dropout that stays on, in front of a sign."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x).sign()


class NoisyInside(Small):
    def __init__(self) -> None:
        super().__init__()
        self.drop = Drops()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.drop(x))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Writes, "Writes: stem.weight is written to in forward, .*training mode only"),
        (Noisy, r"Noisy: it answers differently .*\(functional.dropout needs training="),
        (Counts, "Counts: it answers differently to the same input each time; .* count nothing"),
        (NoisyInside, r"NoisyInside: drop \(Drops\) answers differently to the same input each time"),
    ],
)
def test_answers_that_change(module: type[nn.Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        _export(module(), tmp_path / "bundle")


def test_a_steady_module_is_not_to_blame() -> None:
    assert own_doing(Small().eval(), _images()) is None


# --- taken as they are ----------------------------------------------------------------------------------------------


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def _compiled_in_place() -> nn.Module:
    module = Small()
    module.conv.compile(backend="eager")
    module.compile(backend="eager")
    return module


def _compiled(layer: nn.Module) -> nn.Module:
    compiled: nn.Module = torch.compile(layer, backend="eager")  # type: ignore[assignment] # torch says "a callable"
    return compiled


def _wrapped_inside() -> nn.Module:
    module = Small()
    module.stem, module.conv = nn.DataParallel(_compiled(module.stem)), _compiled(module.conv)
    return module


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "DataParallel": lambda: nn.DataParallel(Small()),
    "DistributedDataParallel": lambda: nn.parallel.DistributedDataParallel(Small()),
    "torch.compile": lambda: _compiled(Small()),
    "compile()": _compiled_in_place,
    "inside": _wrapped_inside,
}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_are_taken_off(make: Callable[[], nn.Module]) -> None:
    module = make()

    ours = prepared(module, "the module")

    assert type(ours) is Small
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in Small().named_parameters()]
    assert all(layer._compiled_call_impl is None for layer in ours.modules())
    assert answers_of(ours, _images(), "the module").shape == (2, CLASSES)
    assert not ours.training
    assert module.training  # the caller's stays as it is


def test_tensors_with_a_gradient_are_copied_without() -> None:
    module = Small()
    module.last = [{"answer": module(_images())}]  # type: ignore[assignment] # a list is no module

    ours = prepared(module, "the module")

    assert torch.equal(ours.last[0]["answer"], module.last[0]["answer"])  # type: ignore[index]  # a list is no module
    assert not ours.last[0]["answer"].requires_grad  # type: ignore[index]  # a list is no module


class Computed(Small):
    """Weights, a BN and slopes that are computed in forward: of parameters alone, or of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.slope = nn.Parameter(torch.randn(8))
        nn.init.normal_(self.norm.running_mean)
        parametrizations.weight_norm(self.stem)
        with pytest.warns(FutureWarning, match="weight_norm"):
            torch.nn.utils.weight_norm(self.conv)
        self.conv.weight_g.data *= 3  # the weight is made anew in forward, and not before

    def forward(self, x: Tensor) -> Tensor:
        y = F.prelu(self.conv(self.stem(x)), torch.sigmoid(self.slope))
        mean = x.mean((0, 2, 3))
        y = self.conv(F.prelu(y, mean[:1]))
        y = F.batch_norm(y, self.norm.running_mean, self.norm.running_var, mean.repeat(3)[:8], self.norm.bias)
        y = F.conv2d(y, mean.repeat(3)[:8].reshape(1, 8, 1, 1).expand(8, 8, 1, 1) + 1)
        return self.head(self.conv(F.batch_norm(y, mean.repeat(3)[:8], self.norm.running_var)).mean((2, 3)))


def test_what_forward_computes_is_computed_by_pytorch_or_in_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = prepared(Computed(), "the module")

    captured = capture(module, SHAPE)

    values = captured.values_of(_images(1))
    assert torch.equal(values[OUTPUT], answers_of(module, _images(1), "the module"))


def test_computed_parameters_export(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # A batch of one image, since the mean of the batch is among the parameters.
    description = Description({}, tuple("abcde"), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3), {})
    twin = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES))
    result = export_module(Computed(), twin, tmp_path / "bundle", Images(_images(1)), description)

    assert result.log.applied["FuseActivation"] == 1  # the slope behind a sigmoid, with PyTorch's own roundings
    reasons = " ".join(refusal.reason for refusal in result.log.refusals)
    assert reasons.count("its parameters are computed from the input") == 2


class GeluOfVectors(nn.Module):
    """GELU of numbers so small that the error function is nearly -1, where libraries differ."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3), BinaryConv2d(8, 8, 3)
        self.wide, self.head = nn.Linear(8, 32), nn.Linear(32, 5)
        with torch.no_grad():
            self.wide.weight.mul_(0.01)
            self.wide.bias.copy_(torch.linspace(-9, -3, 32))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.stem(x)).mean((2, 3))
        answer: Tensor = self.head(F.gelu(self.wide(y)))
        return answer


def test_a_gelu_may_differ_where_it_is_nearly_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = GeluOfVectors().eval()
    description = Description({}, tuple("abcde"), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3), {})
    result = export_module(module, None, tmp_path / "bundle", Images(_images()), description)
    assert not result.verification.failures


def test_a_binary_layer_of_tensors_that_are_no_images() -> None:
    class Flat(Small):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(self.stem(x).mean(0)).mean((1, 2))).expand(x.shape[0], -1)

    with pytest.raises(ExportError, match=r"conv: reads a tensor of 3 axes, wanted images \(N, C, H, W\); reshape"):
        capture(Flat(), SHAPE)


def test_the_caller_keeps_what_it_gave() -> None:
    module = Small()
    module.conv = nn.DataParallel(module.conv)
    before = copy.deepcopy(module.state_dict())

    prepared(module, "the module")

    assert isinstance(module.conv, nn.DataParallel)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_linear_head_with_a_bias() -> None:
    captured = capture(nn.Sequential(nn.Flatten(), BinaryLinear(192, 7, bias=True), nn.Linear(7, 5)), SHAPE)

    assert captured.values_of(_images())[OUTPUT].shape == (2, 5)
