"""`bnas-deploy export FILE.py:NAME`: a network of a user's own, with its weights."""

import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.core.bundle import read_bundle
from bnas_deploy.core.errors import CheckpointError
from bnas_deploy.export.foreign.user_module import build_user_module, importable, load_weights

NETWORK = """
import torch
from torch import nn
from torch.nn import functional as F
from sizes import CHANNELS


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() < 1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CHANNELS, CHANNELS, 3, 3))
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, x):
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        return self.norm(F.conv2d(Sign.apply(x), Sign.apply(self.weight) * scale, padding=1)) + x


class Net(nn.Sequential):
    def __init__(self):
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 3)
        super().__init__(nn.Conv2d(1, CHANNELS, 3), Block(), *head)


class Pair(Net):
    def forward(self, images, table):
        logits = super().forward(images) + table.sum(0)
        return {"logits": logits, "likely": logits.argmax(1)}


ready = Net()
colour = nn.Conv2d(3, 8, 3)
number = 3


def wrong():
    return [Net()]


def broken():
    return Net().missing


def leaves():
    raise SystemExit(3)


def two(first, second):
    return Net()


class Flat(nn.Flatten):
    def forward(self, x):
        return super().forward(x)[0]
"""


@pytest.fixture
def network(tmp_path: Path) -> Path:
    (tmp_path / "sizes.py").write_text("CHANNELS = 8\n")
    path = tmp_path / "mymodel.py"
    path.write_text(NETWORK)
    return path


def _export(network: str | Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["export", str(network), *options])


def _weights(fill: float = 0.5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (8, 1, 3, 3), "0.bias": (8,), "1.weight": (8, 8, 3, 3), "4.weight": (3, 8), "4.bias": (3,)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return state | {
        f"1.norm.{name}": torch.full((8,), fill) for name in ("weight", "bias", "running_mean", "running_var")
    }


def test_a_network_with_its_weights(network: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    safetensors.torch.save_file(_weights(), tmp_path / "w.safetensors")
    options = ["--weights", str(tmp_path / "w.safetensors"), "-o", str(tmp_path / "bundle"), "--in-channels", "1"]
    options += ["--image-size", "10x12", "--mean", "0.5", "--std", "0.25", "--labels", str(tmp_path / "names.txt")]

    result = _export(f"{network}:Net", *options, "--images", "5")

    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "binary layer 1: activations -1 and +1 (0 at 0, which none of 3,200 values was); threshold 0 of the" in text
    assert "from 1.weight; padding 0" in text
    bundle = read_bundle(tmp_path / "bundle")
    manifest = bundle.manifest
    assert manifest.labels == ("ant", "bee", "cat")
    assert manifest.image_size == (1, 10, 12)
    assert (manifest.preprocessing.mean, manifest.preprocessing.std) == ((0.5,), (0.25,))
    assert manifest.network == {"name": "Net"}
    assert (bundle.path / "float.onnx").exists()
    with np.load(bundle.path / "test_vectors/images.npz") as arrays:
        assert arrays["images"].shape == (5, 1, 10, 12)


def test_without_weights_the_report_and_the_card_say_where_they_come_from(network: Path, tmp_path: Path) -> None:
    options = ["-o", str(tmp_path / "bundle"), "--in-channels", "1", "--image-size", "8", "--images", "2"]

    result = _export(f"{network}:Net", *options)

    assert result.exit_code == 0, result.output
    said = f"those that {network}:Net made, random ones unless it loads some; give trained ones with --weights FILE"
    assert f"WARNING: weights {said}" in " ".join(result.output.split())
    assert "* WARNING: weights: those that " in (tmp_path / "bundle/README.md").read_text()


REFUSED = {
    "no file": ("{folder}/none.py:Net", [], "none.py: no such file; give the Python file that makes the network"),
    "no name": ("{file}:net", [], "mymodel.py: has no net; give a function or class without arguments; did you mean"),
    "a number": ("{file}:number", [], "mymodel.py: number is int, wanted a function or class that makes a module"),
    "a list": ("{file}:wrong", [], "mymodel.py: wrong() returns list, wanted a torch.nn.Module"),
    "the file of images": ("{file}", ["--image-size", "8"], "say what makes the network in it: bnas-deploy export "),
    "an empty name": ("{file}:", ["--image-size", "8"], "say what makes the network in it: bnas-deploy expo"),
    "a number first": ("{file}:1x", [], "'1x' is no name; give that of a function or class of the file, such as"),
    "a call": ("{file}:wrong()", [], "'wrong()' is no name; give that of a function or class of the file, write i"),
    "a name in a name": ("{file}:Net.make", [], "'Net.make' is no name; give that of a function or class of the file"),
    "no ending": ("{folder}/mymodel:Net", ["--image-size", "8"], "mymodel:Net: no file; did you mean {file}:Net?"),
    "the file": ("{file}", [], "say what makes the network in it: bnas-deploy export {file}:NAME --weights"),
    "no size": ("{file}:ready", [], "Net: the size of its images is not known; give --image-size, or --data"),
    "deviations": (
        "{file}:ready",
        ["--image-size", "8", "--mean", "0.1,0.2", "--std", "1"],
        "Net: --mean 0.1,0.2 and --std 1 for images of 2 channels; give a number for each, for --std above 0",
    ),
    "no logits": (
        "{file}:Flat",
        ["--image-size", "8", "--labels", "{folder}/sizes.py"],
        "Flat: answers (192,) to an image, and --labels names classes; wanted (1, classes), one logit per class: leave",
    ),
    "no inputs": ("{file}:Pair", ["--inputs", "{folder}/none.npz"], "none.npz: cannot be read: No such file or direc"),
    "text for inputs": (
        "{file}:Pair",
        ["--inputs", "{file}"],
        "mymodel.py: no file of arrays: File is not a zip file; write it with numpy.savez(FILE, NAME=array, ...)",
    ),
    "images and inputs": (
        "{file}:Pair",
        ["--inputs", "{folder}/x.npz", "--image-size", "8"],
        "Pair: --inputs {folder}/x.npz has the examples; leave --image-size out",
    ),
    "other inputs": (
        "{file}:Pair",
        ["--inputs", "{folder}/x.npz"],
        "Pair: its forward takes images, table, and the inputs images do not fit: missing a required argument: 'table'",
    ),
    "images of several": (
        "{file}:Pair",
        ["--image-size", "8", "--in-channels", "1"],
        "missing a required argument: 'table'; give --inputs FILE.npz with an array of examples for each",
    ),
    "doubles": (
        "{file}:Pair",
        ["--inputs", "{folder}/y.npz"],
        "it was given images float64 (1, 1, 6, 6), table float64 (1, 3), the arrays of {folder}/y.npz: write them as "
        'the network takes them (images, table as float32 if the network computes in that: array.astype("float32")), ',
    ),
    "channels": (
        "{file}:ready",
        ["--image-size", "8", "--in-channels", "3"],
        "it was given input float32 (1, 3, 8, 8), its 3 channels by --in-channels 3, its 8x8 by --image-size: give "
        "--in-channels and --image-size, or other --data, as the network takes them, or mend its forward",
    ),
    "channels of a mean": (
        "{file}:ready",
        ["--image-size", "8", "--mean", "0.5,0.5,0.5"],
        "(1, 3, 8, 8), its 3 channels by --mean 0.5,0.5,0.5, its 8x8 by --image-size: give --mean a number",
    ),
    "channels of nothing": ("{file}:ready", ["--image-size", "8"], "its 3 channels by default, its 8x8 by"),
    "channels of data": ("{file}:colour", ["--data", "digits"], "(1, 1, 8, 8), its 1 channel by --data digits, its 8x"),
    "fixed images": (
        "{file}:ready",
        ["--image-size", "8", "--fixed", "table"],
        "Net: --fixed table is of the arrays of --inputs FILE.npz; give that, too",
    ),
    "a checkpoint's inputs": (
        "{folder}/c.safetensors",
        ["--inputs", "x.npz"],
        "--inputs is for networks in a Python file, such as mymodel.py:build",
    ),
    "names": (
        "{file}:ready",
        ["--image-size", "8", "--in-channels", "1", "--labels", "{folder}/sizes.py"],
        "sizes.py: has 1 lines; wanted 3, the name of a class in each",
    ),
    "no weights": ("{file}:ready", ["--weights", "{folder}/w.pt"], "w.pt: cannot be read: No such file or"),
    "a checkpoint's": ("{folder}/c.safetensors", ["--weights", "w"], "--weights is for networks in a Python file"),
    "no number": ("{file}:ready", ["--mean", "grey"], "'grey' is no list of numbers, such as 0.485,0.456,0.406"),
}  # fmt: skip


def test_a_network_of_several_inputs_and_outputs(network: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(3, 1, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", images=images, table=np.ones((2, 3), np.float32))

    options = ["--inputs", str(tmp_path / "x.npz"), "--fixed", "table", "-o", str(tmp_path / "bundle")]
    result = _export(f"{network}:Pair", *options)

    assert result.exit_code == 0, result.output
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert [(each.name, each.shape) for each in manifest.inputs] == [("images", (None, 1, 6, 6)), ("table", (2, 3))]
    assert [(each.name, each.dtype) for each in manifest.outputs] == [("logits", "float32"), ("likely", "int64")]
    assert (manifest.labels, manifest.preprocessing) == (None, None)
    assert "classes                  none, so that 3 examples are compared by their outputs" in result.output


@pytest.mark.parametrize(("given", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_a_sentence(given: str, options: list[str], message: str, network: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.ones((2, 1, 6, 6), np.float32))
    np.savez(tmp_path / "y.npz", images=np.ones((2, 1, 6, 6)), table=np.ones((2, 3)))
    known = {"file": str(network), "folder": str(tmp_path)}

    result = _export(given.format(**known), "-o", str(tmp_path / "b"), *(each.format(**known) for each in options))

    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit), "a traceback"
    assert message.format(**known) in " ".join(result.output.split())
    assert not (tmp_path / "b").exists()


def test_other_weights(network: Path, tmp_path: Path) -> None:
    state = _weights()
    del state["4.bias"]
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pt")

    result = _export(f"{network}:Net", "--weights", str(tmp_path / "w.pt"), "-o", str(tmp_path / "b"))

    assert result.exit_code == 1
    assert f"{tmp_path / 'w.pt'}: its tensors are not those of Net: 1 missing: 4.bias float32 [3]" in result.output


def test_a_file_that_cannot_be_imported_shows_its_own_traceback(network: Path, tmp_path: Path) -> None:
    network.write_text("import torch\n\n\ndef build():\n    return 1\n\n\nrecipe = {}\nrecipe['missing']\n")

    result = _export(f"{network}:build", "-o", str(tmp_path / "b"))

    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"Error: {network} cannot be imported; this is its own traceback:",
        "Traceback (most recent call last):",
        f'  File "{network}", line 9, in <module>',
        "    recipe['missing']",
        "    ~~~~~~^^^^^^^^^^^",
        "KeyError: 'missing'",
    ]


def test_a_file_that_ends_the_program_when_it_is_imported_does_not(network: Path, tmp_path: Path) -> None:
    network.write_text("raise SystemExit('usage: mymodel.py --data DATA')\n")

    result = _export(f"{network}:build", "-o", str(tmp_path / "b"))

    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {network} cannot be imported; this is its own traceback:\n")
    assert result.output.splitlines()[-1] == "SystemExit: usage: mymodel.py --data DATA"


def test_what_lies_beside_the_file_is_found_when_the_network_is_made(network: Path, tmp_path: Path) -> None:
    (network.parent / "beside.py").write_text(network.read_text(encoding="utf-8"), encoding="utf-8")
    late = network.parent / "late.py"
    late.write_text("def build():\n    from beside import missing_name\n", encoding="utf-8")
    result = _export(f"{late}:build", "-o", str(tmp_path / "b"))
    assert result.output.splitlines()[-1].startswith("ImportError: cannot import name 'missing_name' from 'beside'")


PACKAGE = {
    "__init__.py": "",
    "parts.py": "from torch import nn\n\n\ndef part():\n    return nn.Linear(2, 3)\n",
    "inner/__init__.py": "",
    "inner/net.py": "from ..parts import part\n\n\ndef build():\n    from .late import late\n    return late(part)\n",
    "inner/late.py": "import beside\n\n\ndef late(part):\n    return part()\n",
    "inner/beside.py": "import pkg.parts\n",
}


@pytest.mark.parametrize("left_out", ["nothing", "__init__.py"])
def test_a_file_of_a_package_imports_relatively(left_out: str, tmp_path: Path) -> None:
    for name, text in PACKAGE.items():
        (tmp_path / "pkg" / name).parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith(left_out):
            (tmp_path / "pkg" / name).write_text(text, encoding="utf-8")
    given, before = f"{tmp_path}/pkg/inner/net.py:build", list(sys.path)
    with importable(given):
        sys.path.append(str(tmp_path))  # of a folder without __init__.py nobody knows that it is in a package
        made = build_user_module(given)
    assert isinstance(made, torch.nn.Linear)
    assert sys.path == before


def test_a_package_that_cannot_be_imported_shows_its_own_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/__init__.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    (tmp_path / "broken/net.py").write_text("from . import parts\n", encoding="utf-8")

    result = _export(f"{tmp_path}/broken/net.py:build", "-o", str(tmp_path / "b"))

    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"Error: {tmp_path}/broken/net.py cannot be imported; this is its own traceback:",
        "Traceback (most recent call last):",
        f'  File "{tmp_path}/broken/__init__.py", line 1, in <module>',
        "    import nothing_of_this_name",
        "ModuleNotFoundError: No module named 'nothing_of_this_name'",
    ]


def test_weights_of_a_network_inside_of_another(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    state = {f"backbone.body.{name}": value + 1 for name, value in module.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    said = load_weights(module, tmp_path / "w.safetensors")
    assert said == (
        f"{tmp_path}/w.safetensors: its names begin with 'backbone.body.', those of the module with ''; all else is "
        "the same"
    )
    assert torch.equal(module[0].weight, state["backbone.body.0.weight"])
    safetensors.torch.save_file(module.state_dict(), tmp_path / "w.safetensors")
    around = torch.nn.ModuleDict({"net": module})
    assert "with '', those of the module with 'net.'" in str(load_weights(around, tmp_path / "w.safetensors"))
    assert load_weights(module, tmp_path / "w.safetensors") is None


def test_weights_of_other_types(tmp_path: Path) -> None:
    module, path = torch.nn.Linear(2, 3), tmp_path / "w.safetensors"
    half, double = module.weight.detach().half(), module.bias.detach().double()
    safetensors.torch.save_file({"weight": half, "bias": double}, path)
    said = load_weights(module, path)
    assert said == f"{path}: 2 tensors converted, float16 to float32, float64 to float32"
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, half.float())
    safetensors.torch.save_file({"weight": torch.ones(3, 2, dtype=torch.int64), "bias": double}, path)
    with pytest.raises(CheckpointError, match=r"type: weight is int64 \[3, 2\], expected float32 \[3, 2\]"):
        load_weights(module, path)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("broken", "AttributeError: 'Net' object has no attribute 'missing'"),
        ("leaves", "SystemExit: 3"),
        ("two", "TypeError: two() missing 2 required positional arguments: 'first' and 'second'"),
    ],
)
def test_a_call_that_raises_shows_its_own_traceback(name: str, last: str, network: Path, tmp_path: Path) -> None:
    result = _export(f"{network}:{name}", "-o", str(tmp_path / "b"))

    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {network}: {name}() raises this:\n")
    assert result.output.splitlines()[-1] == last
    assert "user_module.py" not in result.output
