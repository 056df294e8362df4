"""Networks that are no classifiers of images: several inputs and outputs, of any shape and type, by every step."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.cli import main
from bnas_deploy.core.bundle import FLOAT_TWIN, INT8_TWIN, MODEL, PIECES, Preprocessing, read_bundle
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.model_card import CARD
from bnas_deploy.export import Description, ExportResult, Inputs, LooksBinaryWarning, export_module
from bnas_deploy.export.leaves import outputs_of
from bnas_deploy.report.saved import size_text
from bnas_deploy.runtime.bench.answers import check_answers, check_twins
from bnas_deploy.runtime.bench.engines import engines_for
from bnas_deploy.runtime.bench.networks import measure_bundle
from bnas_deploy.runtime.examples import read_vectors
from bnas_deploy.runtime.pieces import compare_pieces
from bnas_deploy.runtime.session import create_session, open_bundle, run_session, session_options
from bnas_deploy.runtime.verify import largest_difference, verify_bundle


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class BinaryConv(nn.Conv2d):
    """Signs times signs with a scale, as people write it."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        return F.conv2d(Sign.apply(x), Sign.apply(self.weight) * scale, None, self.stride, self.padding)


def block(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels_in), BinaryConv(channels_in, channels, 3, stride, 1, bias=False))


@dataclass
class Level:
    boxes: Tensor
    scores: Tensor


class Detector(nn.Module):
    """Heads at two scales: boxes (N, cells, 4) and scores (N, cells, 3) of each, its features, and much besides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.stages = nn.ModuleList([block(8, 16, 2), block(16, 16, 2)])
        self.boxes = nn.ModuleList([nn.Conv2d(16, 4, 1) for _ in range(2)])
        self.scores = nn.ModuleList([nn.Conv2d(16, 3, 1) for _ in range(2)])
        self.register_buffer("anchors", torch.arange(8.0).reshape(2, 4))

    def forward(self, image: Tensor) -> dict[str, object]:
        x, levels, features = self.stem(image), [], []
        for stage, boxes, scores in zip(self.stages, self.boxes, self.scores, strict=True):
            x = stage(x)
            features.append(x)
            levels.append(Level(_cells(boxes(x)), _cells(scores(x)).sigmoid()))
        return {
            "levels": levels,
            "features": features,
            "anchors": self.anchors,  # a constant
            "mean": features[0].mean(),  # one number
            "labels": levels[0].scores.argmax(-1),  # whole numbers, by the name of the right classes
            "nothing": None,
            "again": features[1],  # another name of a value that is an output already
            "given": image,
        }


def _cells(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


class Masks(NamedTuple):
    logits: Tensor
    mask: Tensor


class UNet(nn.Module):
    """Down, up by interpolation and by a transposed convolution, with skips; two classes for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1)
        self.down, self.deep = block(8, 16, 2), block(16, 16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.merge = block(24, 8)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Masks:
        skip = self.stem(x)
        low = self.deep(self.down(skip))
        wide = F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)
        merged = self.merge(torch.cat([wide, skip], dim=1))
        logits = self.head(torch.cat([merged, self.up(low)], dim=1))
        return Masks(logits, logits.argmax(1) > 0)


class TwoBranches(nn.Module):
    """An image and what is known of it: numbers, a word, a switch, and a table that is the same for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, 1, 1), block(8, 16)
        self.words, self.numbers = nn.Embedding(10, 4), nn.Linear(5, 4)
        self.head = nn.Linear(16 + 4 + 4 + 2, 3)

    def forward(self, image: Tensor, meta: Tensor, *, word: Tensor, bright: Tensor, table: Tensor) -> Tensor:
        seen = self.block(self.stem(image)).mean((2, 3))
        known = torch.where(bright[:, None], self.numbers(meta), -self.numbers(meta))
        row = table.mean(0, keepdim=True).expand(image.shape[0], -1)
        return self.head(torch.cat([seen, known, self.words(word), row], dim=1))


class Sequence(nn.Module):
    """Convolutions along one axis, which stay float, and a binary dense layer behind them: (N, C, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.binary = nn.Conv1d(8, 8, 3, padding=1)
        self.norm, self.dense = nn.BatchNorm1d(8), nn.Linear(8, 6, bias=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = F.conv1d(Sign.apply(self.conv(x)), Sign.apply(self.binary.weight))
        steps = self.norm(y).transpose(1, 2)
        return [F.linear(Sign.apply(steps), Sign.apply(self.dense.weight)), y.amax(2)]


def _some(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


EXAMPLES: dict[str, dict[str, Tensor]] = {
    "detector": {"image": _some(3, 3, 16, 16)},
    "masks": {"x": _some(3, 1, 8, 8)},
    "two branches": {
        "image": _some(4, 3, 8, 8),
        "meta": _some(4, 5),
        "word": torch.arange(4),
        "bright": torch.tensor([True, False, True, True]),
        "table": _some(3, 2),
    },
    "sequence": {"x": _some(3, 4, 10)},
}
FIXED = {"table"}
CASES: dict[str, tuple[type[nn.Module], Inputs, Description]] = {
    "detector": (Detector, Inputs(EXAMPLES["detector"]["image"]), Description({"name": "Detector"})),
    "masks": (
        UNet,
        Inputs(EXAMPLES["masks"]),
        Description({"name": "UNet"}, preprocessing=Preprocessing(8, 8, (0.5,), (0.5,))),
    ),
    "two branches": (
        TwoBranches,
        Inputs(EXAMPLES["two branches"], FIXED, torch.tensor([0, 1, 2, 0])),
        Description({"name": "TwoBranches"}, ("a", "b", "c"), Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3)),
    ),
    "sequence": (Sequence, Inputs((EXAMPLES["sequence"]["x"],)), Description({"name": "Sequence"})),
}
OUTPUTS = {
    "detector": {
        "levels.0.boxes": ("float32", (None, 16, 4)),
        "levels.0.scores": ("float32", (None, 16, 3)),
        "levels.1.boxes": ("float32", (None, 4, 4)),
        "levels.1.scores": ("float32", (None, 4, 3)),
        "features.0": ("float32", (None, 16, 4, 4)),
        "features.1": ("float32", (None, 16, 2, 2)),
        "anchors": ("float32", (2, 4)),
        "mean": ("float32", ()),
        "labels": ("int64", (None, 16)),
        "again": ("float32", (None, 16, 2, 2)),
        "given": ("float32", (None, 3, 16, 16)),
    },
    "masks": {"logits": ("float32", (None, 2, 8, 8)), "mask": ("bool", (None, 8, 8))},
    "two branches": {"logits": ("float32", (None, 3))},
    "sequence": {"output.0": ("float32", (None, 8, 6)), "output.1": ("float32", (None, 8))},
}


Exported = Callable[[str], tuple[nn.Module, ExportResult]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export a network when it is asked for first."""
    known: dict[str, tuple[nn.Module, ExportResult]] = {}

    def export(name: str) -> tuple[nn.Module, ExportResult]:
        if name not in known:
            make, inputs, description = CASES[name]
            torch.manual_seed(0)
            module, path = make().eval(), tmp_path_factory.mktemp("bundles") / name.replace(" ", "")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LooksBinaryWarning)
                known[name] = module, export_module(module, None, path, inputs, description)
        return known[name]

    return export


def _feed(name: str, count: int) -> dict[str, NDArray]:
    """Return `count` examples by the names of the inputs."""
    return {
        key: (value if key in FIXED else value[torch.arange(count) % len(value)]).numpy()
        for key, value in EXAMPLES[name].items()
    }


# --- what goes through ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_each_piece_and_each_output_is_compared(name: str, exported: Exported) -> None:
    _, result = exported(name)
    manifest = result.bundle.manifest

    assert result.verification.failures == []
    assert [each.name for each in result.verification.outputs] == list(OUTPUTS[name])
    made = {check.output.value for check in manifest.verification.pieces}
    assert made >= OUTPUTS[name].keys()
    assert {each.name: (each.dtype, each.shape) for each in manifest.outputs} == OUTPUTS[name]
    assert verify_bundle(read_bundle(result.bundle.path)).failures == []


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_examples_is_answered_as_pytorch_does(name: str, count: int, exported: Exported) -> None:
    module, result = exported(name)
    feed = _feed(name, count)
    with torch.no_grad():
        want = outputs_of("", module(**{key: torch.from_numpy(array) for key, array in feed.items()}), "logits")

    got = open_bundle(result.bundle.path).run(feed)

    assert list(got) == [key for key, _ in want]
    tolerances = result.bundle.manifest.verification.output_tolerances
    for key, tensor in want:
        array = tensor.numpy()
        assert (got[key].dtype, got[key].shape) == (array.dtype, array.shape), key
        assert largest_difference(got[key], array) <= tolerances[key], key


@pytest.mark.parametrize("name", CASES)
def test_the_twins_answer_alike_in_shape(name: str, exported: Exported) -> None:
    _, result = exported(name)
    wanted = [tuple(2 if size is None else size for size in shape) for _, shape in OUTPUTS[name].values()]
    for file in map(result.bundle.file, (FLOAT_TWIN, INT8_TWIN)):
        session = create_session(file, session_options(library=False))
        answers = run_session(session, file, list(OUTPUTS[name]), _feed(name, 2))
        assert [np.shape(answer) for answer in answers] == wanted


@pytest.mark.parametrize("layer", ["boxes.0", "boxes.1", "scores.0", "scores.1", "stages.1.1", "anchors"])
def test_a_change_in_any_head_is_found(layer: str, exported: Exported, tmp_path: Path) -> None:
    _, result = exported("detector")
    model = onnx.load(result.bundle.file(MODEL))
    weight = next((node.input[1] for node in model.graph.node if node.name == layer), layer)
    constant = next(each for each in model.graph.initializer if each.name.startswith(weight))
    data = onnx.numpy_helper.to_array(constant).copy()
    data.ravel()[0] = data.ravel()[0] + 1 if data.dtype.kind == "f" else data.ravel()[0] ^ 1
    constant.CopyFrom(onnx.numpy_helper.from_array(data, constant.name))
    onnx.save(model, tmp_path / "changed.onnx")

    vectors = read_vectors(result.bundle.file(PIECES))
    found = compare_pieces(tmp_path / "changed.onnx", result.bundle.manifest.verification.pieces, vectors)

    assert len(found.failures) == 1, found.failures


def test_convolutions_along_one_axis_stay_float_and_are_named(exported: Exported) -> None:
    _, result = exported("sequence")
    (layer,) = result.doubts.likely_binary
    assert layer.reason.startswith("a convolution along one axis, and binary operators have two")
    assert [layer.name for layer in result.layers] == ["linear"]


def test_float_layers_in_8_bits(tmp_path: Path) -> None:
    make, inputs, description = CASES["masks"]
    result = export_module(make().eval(), None, tmp_path / "bundle", inputs, description, float_layers="int8")
    change = result.bundle.manifest.quantization
    assert change is not None
    assert (change.images, change.agreement) == (3, None)
    assert 0 < change.largest_difference < 1
    assert [layer.name for layer in result.bundle.manifest.in_8_bits] == ["head"]
    assert result.verification.failures == []


# --- what is said of it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_card_and_the_inspection_name_inputs_and_outputs(name: str, exported: Exported) -> None:
    _, result = exported(name)
    path = result.bundle.path
    card, inspected = (path / CARD).read_text(), CliRunner().invoke(main, ["inspect", str(path)]).output
    for each in (*result.bundle.manifest.inputs, *result.bundle.manifest.outputs):
        assert f"{each.name}: {each.size} {each.dtype}" in inspected
        assert f"{each.name}: {each.dtype} {each.size}" in card
    assert ("pipeline_tag" in card) == (name == "two branches")
    if name == "detector":
        assert '    "image": np.zeros((1, 3, 16, 16), "float32"),\n' in card
        snippet = card.partition("```python\n")[2].partition("```")[0]
        exec(compile(snippet.replace('"."', repr(str(path))), "the card's snippet", "exec"), {})


@pytest.mark.parametrize("name", ["detector", "two branches"])
@pytest.mark.parametrize("command", ["predict", "eval"])
def test_commands_for_classes_of_images_refuse(command: str, name: str, exported: Exported) -> None:
    _, result = exported(name)
    path = result.bundle.path
    options = {"predict": [str(path), "photo.png"], "eval": [str(path), "--data", "digits"]}[command]

    refused = CliRunner().invoke(main, [command, *options])

    assert refused.exit_code == 1
    assert isinstance(refused.exception, SystemExit), "a traceback"
    reason = f"{path}: no classifier: it answers {', '.join(OUTPUTS[name])} and has no labels"
    if name == "two branches":
        reason = (
            f"{path}: takes image float32 (N, 3, 8, 8), meta float32 (N, 5), word int64 (N,), bright bool (N,), table"
        )
    assert reason in refused.output


TAKEN = "image float32 (N, 3, 8, 8), meta float32 (N, 5), word int64 (N,), bright bool (N,), table float32 (3, 2)"
WRONG: dict[str, tuple[Callable[[dict[str, NDArray]], object], str]] = {
    "one of several": (lambda feed: {"image": feed["image"]}, f"inputs: got image, wanted {TAKEN}"),
    "an unknown one": (lambda feed: feed | {"more": 1}, f"bright, table, more, wanted {TAKEN}"),
    "an array": (lambda feed: feed["image"], f"one array for 5 inputs; give a dict: {TAKEN}"),
    "type": (
        lambda feed: feed | {"meta": np.zeros((2, 5))},
        "meta: got float64 (2, 5), wanted float32 (N, 5); convert",
    ),
    "shape": (
        lambda feed: feed | {"word": feed["word"][:, None]},
        "word: got int64 (2, 1), wanted int64 (N,); convert",
    ),
    "number": (lambda feed: feed | {"meta": feed["meta"][:1]}, "inputs: N differs: image 2, meta 1, word 2, bright 2"),
    "uneven": (lambda feed: feed | {"meta": [[1.0], [1.0, 2.0]]}, "meta: no array: "),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_inputs_that_do_not_fit(
    change: Callable[[dict[str, NDArray]], object], message: str, exported: Exported
) -> None:
    model = open_bundle(exported("two branches")[1].bundle.path, library=False)
    with pytest.raises(BnasError) as refusal:
        model.run(change(_feed("two branches", 2)))
    assert message in refusal.value.message


def test_a_model_without_classes(exported: Exported) -> None:
    model, image = open_bundle(exported("detector")[1].bundle.path), _feed("detector", 2)["image"]
    with pytest.raises(BnasError, match=r": takes image float32 \(N, 3, 16, 16\) and answers levels\.0\.boxes, .*run$"):
        model.predict(image)
    with pytest.raises(BnasError, match=r"does not say how an image becomes an input; it takes image float32"):
        model.preprocess(np.zeros((2, 16, 16, 3), np.uint8))
    assert model.labels is None
    assert list(model.run(image)) == list(OUTPUTS["detector"])  # of one input, the array alone


def test_an_image_among_other_inputs_is_preprocessed(exported: Exported) -> None:
    model = open_bundle(exported("two branches")[1].bundle.path)
    image = model.preprocess(np.zeros((2, 8, 8, 3), np.uint8))
    (logits,) = model.run(_feed("two branches", 2) | {"image": image}).values()
    assert (model.labels, logits.shape) == (("a", "b", "c"), (2, 3))


@pytest.mark.parametrize("name", ["detector", "two branches"])
def test_several_inputs_and_outputs_are_measured(name: str, exported: Exported) -> None:
    bundle = exported(name)[1].bundle
    engines = [engine for engine in engines_for(bundle)[0] if engine.package == "onnxruntime"]
    assert check_answers(bundle, [1]).output.startswith("logit" if name == "two branches" else "value of ")
    (twin,) = check_twins(bundle, engines)
    assert (twin.agreement is None) == (name == "detector")
    if name == "two branches":  # every type of input
        records = measure_bundle(bundle, engines, threads=[1], batches=[2], min_seconds=0.01)
        assert [each.engine for each in records if each.subject == "network"] == [engine.name for engine in engines]
        assert size_text(bundle.manifest) == "image N x 3x8x8, meta N x 5, word N, bright N, table 3x2"
