"""Inputs and outputs that nobody can export: each is a sentence, and nothing is written."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export import Description, Images, Inputs, export_module
from bnas_deploy.export.inputs import Feed, taken_by
from bnas_deploy.export.leaves import outputs_of
from bnas_deploy.search.nn.layers import BinaryConv2d


class Pair(nn.Module):
    """An image and numbers; `answer` makes what forward returns of the result (N, 4)."""

    def __init__(self, answer: Callable[[Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        self.conv = BinaryConv2d(3, 4, 1)
        self.answer = answer

    def forward(self, image: Tensor, meta: Tensor) -> Any:
        return self.answer(self.conv(image).mean((2, 3)) + meta.sum(1, keepdim=True))


class Unused(Pair):
    def forward(self, image: Tensor, meta: Tensor) -> Any:
        return self.conv(image).mean((2, 3))


IMAGE, META = torch.ones(2, 3, 4, 4), torch.ones(2, 5)
BOTH = {"image": IMAGE, "meta": META}


def _refusal(
    tmp_path: Path, given: Images | Inputs, module: nn.Module | None = None, description: Description | None = None
) -> str:
    with pytest.raises(ExportError) as refused:
        export_module(module or Pair(), path=tmp_path / "b", images=given, description=description or Description({}))
    assert list(tmp_path.iterdir()) == []
    return refused.value.message


INPUTS: dict[str, tuple[Images | Inputs, str]] = {
    "one of two": (
        Inputs(IMAGE),
        "missing a required argument: 'meta'; give Inputs(...) with a tuple in its order, or",
    ),
    "images alone": (
        Images(IMAGE),
        "Pair: its forward takes image: torch.Tensor, meta: torch.Tensor, and the inputs do",
    ),
    "three of two": (Inputs((IMAGE, META, META)), "too many positional arguments; give Inputs"),
    "another name": (Inputs({"image": IMAGE, "mata": META}), "missing a required argument: 'meta'"),
    "none": (Inputs({}), "missing a required argument: 'image'"),
    "no tensor": (Inputs((IMAGE, 3)), "inputs: meta is int, wanted a tensor, or a list, tuple, dict or dataclass of"),
    "an array": (Inputs((IMAGE, META.numpy())), "inputs: meta is ndarray, wanted a tensor"),
    "type": (Inputs((IMAGE, META.half())), "inputs: meta is torch.float16, wanted float32, uint8, int8, int32, int64,"),
    "not finite": (Inputs((IMAGE, META / 0)), "inputs: 10 of 10 values of meta are NaN or infinite; give examples"),
    "empty": (Inputs((IMAGE[:0], META[:0])), "inputs: image is empty, (0, 3, 4, 4); give at least one example"),
    "other numbers": (
        Inputs((IMAGE, META[:1])),
        "inputs: other numbers of examples along axis 0: image 2, meta 1; give as many of each, or name with "
        "Inputs(fixed=...) what has no axis of examples",
    ),
    "one number": (
        Inputs((IMAGE, META[0, 0])),
        "inputs: meta is one number, without an axis of examples; name with",
    ),
    "fixed name": (
        Inputs(BOTH, fixed=("mata",)),
        "inputs: Inputs(fixed=...) names 'mata', the inputs are image, meta; did you mean meta?",
    ),
    "all fixed": (
        Inputs(BOTH, fixed=BOTH),
        "inputs: all are fixed, so that there are no examples; leave one of image,",
    ),
    "labels": (Inputs(BOTH, labels=torch.zeros(3)), "inputs: labels of shape (3,) for 2 examples; give one class for"),
    "a name": (
        Inputs(({"a|b": IMAGE}, META)),
        "inputs: the name 'image.a|b'; give one of printable characters without",
    ),
    "shape": (Inputs((IMAGE[:, :2], META)), "Pair: in conv (BinaryConv2d), "),
    "what was given": (
        Inputs((META, IMAGE)),
        "; it was given image float32 (2, 5), meta float32 (2, 3, 4, 4), the values of Inputs(...): give examples as "
        "the network takes them, or mend its forward, which the export runs on the CPU in evaluation mode",
    ),
    "doubles": (Inputs((IMAGE.double(), META)), '(image as float32 if the network computes in that: array.astype("fl'),
}


@pytest.mark.parametrize(("given", "message"), INPUTS.values(), ids=INPUTS)
def test_inputs_that_do_not_fit(given: Images | Inputs, message: str, tmp_path: Path) -> None:
    assert message in _refusal(tmp_path, given)


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a number": (lambda y: {"y": y, "count": 3}, "Pair: its answers: count is int, wanted a tensor, or a list, tuple,"),
    "text": (lambda y: "cat", "Pair: its answers: are str, wanted a tensor"),
    "nothing": (lambda y: None, "Pair: answers nothing; return at least one tensor from its forward"),
    "an empty list": (lambda y: [], "Pair: answers nothing; return at least one tensor"),
    "type": (lambda y: {"y": y.half()}, "Pair: answers torch.float16 as y, wanted float32, uint8, int8, int32, int64,"),
    "empty": (lambda y: (y, y[:0]), "Pair: answers output.1 of the shape (0, 4), which is empty; leave it out"),
    "not finite": (lambda y: (y, y / 0), "Pair: answers NaN or infinity to the images, first made by"),
    "twice": (lambda y: {"a": [y], "a.0": y}, "Pair: its answers: two have the name 'a.0'; give each another one"),
    "an input's": (lambda y: {"meta": y}, "inputs and outputs: two have the name 'meta'; give each another one"),
    "a name": (lambda y: {"a|b": y}, "Pair: its answers: the name 'a|b'; give one of printable characters without '|'"),
}


@pytest.mark.parametrize(("answer", "message"), OUTPUTS.values(), ids=OUTPUTS)
def test_answers_that_cannot_be_exported(answer: Callable[[Tensor], Any], message: str, tmp_path: Path) -> None:
    assert message in _refusal(tmp_path, Inputs(BOTH), Pair(answer))


def test_an_input_that_changes_nothing(tmp_path: Path) -> None:
    message = "Unused: no output depends on the input meta; leave it out, and give forward a default for it"
    assert _refusal(tmp_path, Inputs(BOTH), Unused()) == message


def test_labels_of_what_is_no_classifier(tmp_path: Path) -> None:
    two = Description({}, ("a", "b"))
    assert _refusal(tmp_path, Inputs(BOTH), None, two).startswith(
        "Pair: answers (2, 4) to 2 images, wanted (2, 2), one logit for each of 2 labels; describe it with 4 labels if "
        "those are its classes, else put it into a module that returns the logits alone"
    )
    several = _refusal(tmp_path, Inputs(BOTH), Pair(lambda y: [y, y]), Description({}, tuple("abcd")))
    assert several.startswith(
        "Pair: answers output.0, output.1 to 2 images, wanted (2, 4), one logit for each of 4 labels; put "
    )
    assert several.endswith("or describe it without labels if it is no classifier")


def test_a_preprocessing_of_other_images(tmp_path: Path) -> None:
    other = Description({}, preprocessing=Preprocessing(8, 8, (0.5,) * 3, (0.5,) * 3))
    message = "inputs: none is torch.float32 (N, 3, 8, 8), which the preprocessing makes of images; mend"
    assert _refusal(tmp_path, Inputs(BOTH), None, other).startswith(message)


def test_a_hook_of_the_whole_module(tmp_path: Path) -> None:
    module = Pair()
    module.register_forward_hook(lambda layer, x, y: None)
    assert "Pair: the whole module has the forward hook " in _refusal(tmp_path, Inputs(BOTH), module)


def test_a_twin_of_other_outputs(tmp_path: Path) -> None:
    twin = nn.Module()
    twin.forward = lambda image, meta: {"other": meta}  # type: ignore[method-assign]  # as people do
    with pytest.raises(ExportError, match=r"the float twin: answers other, the module answers output; give the same"):
        export_module(Pair(), twin, tmp_path / "b", Inputs(BOTH), Description({}))


class Named(NamedTuple):
    y: Tensor
    parts: list[Tensor]


@dataclass
class Whole:
    named: Named
    nothing: Tensor | None = None
    more: dict[str, Tensor] = field(default_factory=dict)


def test_the_names_of_nested_answers() -> None:
    y = torch.ones(1)
    answers = {"single": y, "list": [y, (y, y)], "whole": Whole(Named(y, [y]), more={"deep": y})}
    names = {what: [name for name, _ in outputs_of("it", answer, "logits")] for what, answer in answers.items()}
    assert names == {
        "single": ["logits"],
        "list": ["output.0", "output.1.0", "output.1.1"],
        "whole": ["named.y", "named.parts.0", "more.deep"],
    }


def test_nested_inputs_are_tensors_in_a_row() -> None:
    class Batch(nn.Module):
        def forward(self, batch: dict[str, Any], *rest: Tensor, scale: Tensor | None = None) -> None: ...

    a, b, c, d = (torch.full((2, 1), float(number)) for number in range(4))
    feed, structure = taken_by(Batch(), Inputs(({"x": a, "y": [b, None]}, c, d), fixed=("rest.1",)), "it")
    assert (feed.names, len(feed)) == (("batch.x", "batch.y.0", "rest.0", "rest.1"), 2)
    assert [tensor.shape for tensor in feed[:1].tensors] == [(1, 1), (1, 1), (1, 1), (2, 1)]
    tens = [tensor * 10 for tensor in feed.tensors]
    assert structure.filled(tens) == (({"x": tens[0], "y": [tens[1], None]}, tens[2], tens[3]), {})
    assert not structure.is_flat
    assert Feed.of_images(a).zeros(3).tensors[0].shape == (3, 1)
