"""Arguments of wrong types, and descriptions that no bundle can hold: each is a sentence, and nothing is written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.errors import ExportError
from bnas_deploy.export import Description, Images, Inputs, export_checkpoint, export_module
from bnas_deploy.export.arguments import labels_twice
from bnas_deploy.search.nn.layers import BinaryConv2d

PIXELS = torch.zeros(4, 3, 8, 8)
DESCRIPTION = Description({"name": "net"}, tuple("abcd"))


class Net(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = BinaryConv2d(3, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


def _refusal(tmp_path: Path, **given: Any) -> str:
    arguments = {"module": Net(), "path": tmp_path / "b", "images": Images(PIXELS), "description": DESCRIPTION} | given
    with pytest.raises(ExportError) as refused:
        export_module(**arguments)
    assert list(tmp_path.iterdir()) == []
    return refused.value.message


def _described(**fields: Any) -> dict[str, Any]:
    return {"description": replace(DESCRIPTION, **fields)}


def _labelled(labels: Any) -> dict[str, Any]:
    return {"images": Images(PIXELS, labels)}


def _input(*values: Any, **fields: Any) -> dict[str, Any]:
    return {"images": Inputs(*values, **fields)}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a function": ({"module": lambda x: x}, "the module: function is no torch.nn.Module; put what it computes into"),
    "a class": ({"module": Net}, "the module: the class Net, wanted a module; make one: Net(...)"),
    "another class": ({"module": dict}, "the module: the class dict is no torch.nn.Module; put what it computes into"),
    "no module": ({"module": None}, "the module: NoneType is no torch.nn.Module; put"),
    "a twin's class": ({"twin": Net}, "the float twin: the class Net, wanted a module; make one: Net(...)"),
    "path": ({"path": 3}, "path: int, wanted the folder to write, as text or a pathlib.Path"),
    "a tensor": (
        {"images": PIXELS},
        "images: Tensor, wanted bnas_deploy.export.Images or Inputs; give Images(tensor) for images (N, C, H, W), or",
    ),
    "an array": ({"images": PIXELS.numpy()}, "images: ndarray, wanted bnas_deploy.export.Images or Inputs; give Ima"),
    "a tuple": ({"images": (PIXELS,)}, "images: tuple, wanted bnas_deploy.export.Images or Inputs; give Inputs(...)"),
    "pixels": ({"images": Images(PIXELS.numpy())}, "images: pixels are ndarray, wanted a tensor"),  # type: ignore[arg-type]  # which is the point
    "float labels": (_labelled(torch.zeros(4)), "images: labels are torch.float32, wanted torch.int64, the number of"),
    "a list of labels": (_labelled([0, 1, 2, 3]), "images: labels are list, wanted a tensor; give torch.tensor("),
    "a large label": (
        _labelled(torch.tensor([0, 1, 9, 0])),
        "images: label 9 of number 2, and the description names 4 classes, from 0 on; give labels from 0 to 3, or",
    ),
    "a negative label": (_labelled(torch.tensor([0, -1, 2, 0])), "images: label -1 of number 1, and the description"),
    "inputs' labels": (_input(PIXELS, labels=torch.full((4,), 4)), "inputs: label 4 of number 0, and the description"),
    "no inputs": (_input(None), "inputs: NoneType, wanted a tensor, a tuple of what forward takes, or a dict of it"),
    "a number for inputs": (_input(3), "inputs: int, wanted a tensor, a tuple of what forward takes, or a dict of it"),
    "an array for inputs": (_input(np.ones(3)), "inputs: ndarray, wanted a tensor, a tuple of what forward takes, or"),
    "fixed text": (_input(PIXELS, fixed="x"), "inputs: fixed is the text 'x', wanted names; give fixed=('x',)"),
    "fixed number": (_input(PIXELS, fixed=3), "inputs: fixed is 3, wanted names of inputs; give a tuple of texts"),
    "fixed numbers": (_input(PIXELS, fixed=(3,)), "inputs: fixed is (3,), wanted names of inputs; give a tuple of"),
    "no description": ({"description": "x"}, "description: str, wanted a bnas_deploy.export.Description; give Descr"),
    "network": (_described(network="net"), "description: network is str, wanted a dict, such as"),
    "metrics": (_described(metrics=0.5), "description: metrics is float, wanted a dict, such as"),
    "numpy's metrics": (
        _described(metrics={"test_accuracy": np.float32(0.5)}),
        "description: metrics cannot be written as JSON: Object of type float32 is not JSON serializable; give texts",
    ),
    "labels in one": (_described(labels="abcd"), "description: labels are str, wanted a tuple of texts, a name for"),
    "labels by number": (_described(labels=(0, 1, 2, 3)), "description: labels are tuple, wanted a tuple of texts, a"),
    "half a letter": (_described(labels=("\ud800", *"bcd")), "description: labels cannot be written as JSON: half"),
    "preprocessing": (_described(preprocessing=(8, 8)), "description: preprocessing is tuple, wanted a bnas_deploy."),
    "a mean of text": (
        _described(preprocessing=Preprocessing(8, 8, ("0",) * 3, (1.0,) * 3)),  # type: ignore[arg-type]  # as above
        'preprocessing.mean[0]: got "0", wanted a number that float32 can hold; mend the preprocessing',
    ),
    "float layers": ({"float_layers": "int4"}, "float_layers: 'int4', wanted 'float', 'int8' or 'auto'"),
    "a table for nothing": (
        {"float_layers": "int8", "latency_table": "pi.json"},
        """latency_table: given with float_layers='int8', wanted "auto", which alone chooses by it; leave one of""",
    ),
    "a table of numbers": (
        {"float_layers": "auto", "latency_table": 3},
        "latency_table: int, wanted the file of a table, as text or a pathlib.Path",
    ),
    "progress": ({"progress": None}, "progress: NoneType, wanted a function of one text; leave it out for silence"),
    "a twin of other shapes": (
        {"twin": nn.Conv2d(3, 8, 3), "description": Description({})},
        "the float twin: answers output as float32 (2, 8, 6, 6) to 2 examples, the module as float32 (2, 4); give the",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_refused_at_the_start(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert _refusal(tmp_path, **given).startswith(message)


def test_a_path_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="checkpoint: str, wanted a Checkpoint; read one from a file with bnas_dep"):
        export_checkpoint("best.safetensors", tmp_path / "b", Images(PIXELS))  # type: ignore[arg-type]  # as people do


def test_classes_of_one_name_are_told() -> None:
    assert labels_twice(("crane", "dog", "crane", "maillot", "maillot")) == (
        "labels: 2 classes are called 'crane', 2 classes are called 'maillot'; give each another name, unless that is "
        "so in the data"
    )
    assert labels_twice(("a", "b")) is labels_twice(None) is None
