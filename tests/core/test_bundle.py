"""Writing a bundle is all or nothing; reading one finds out everything that is wrong with it."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from bnas_deploy.core.bundle import (
    FILES,
    FORMAT_VERSION,
    IMAGES,
    MANIFEST,
    MODEL,
    PIECES,
    Corner,
    FileRecord,
    Manifest,
    PieceCheck,
    Preprocessing,
    Quantization,
    Verification,
    describe_files,
    read_bundle,
)
from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.model_card import CARD, sealed, write_card
from bnas_deploy.core.new_bundle import new_bundle
from bnas_deploy.core.tensor_spec import TensorSpec

BINARY = LayerCost("conv", (8, 4, 4), (8, 4, 4), (3, 3), (1, 1), (1, 1), groups=1, weight_bits=1)
STILL_FLOAT = replace(BINARY, name="stem", weight_bits=32)
PIECE = PieceCheck("conv", (Corner("x", "x", (1, 8, 4, 4)),), Corner("y", "y", (1, 8, 3, 3)), (1, 8, 4, 4))
NO_BUNDLE = "expected the folder that `bnas-deploy export -o` wrote"
TOO_LONG = 300 * "x"
"""No file can have this name, whoever asks; tests may run as root, whom permissions do not stop."""


def manifest_of(folder: Path) -> Manifest:
    return Manifest(
        bnas_deploy="0.1",
        network={"name": "tiny"},
        opset={"onnx": 20, "bnas": 1},
        inputs=(TensorSpec("x", "float32", (None, 8, 4, 4)),),
        outputs=(TensorSpec("y", "float32", (None, 2)),),
        labels=("cat", "dog"),
        preprocessing=Preprocessing(4, 4, mean=(0.5,) * 8, std=(0.25,) * 8),
        layers=(STILL_FLOAT, BINARY),
        verification=Verification({"y": 1e-5}, (PIECE,)),
        metrics={"accuracy": 0.5},
        files=describe_files(folder),
    )


def write(path: Path, content: str = "one") -> None:
    """Write a bundle whose files hold their name and `content`."""
    with new_bundle(path) as folder:
        for name in FILES:
            (folder / name).write_text(f"{name} {content}")
        (folder / MANIFEST).write_text(manifest_of(folder).to_json())


def tree(folder: Path) -> dict[str, str]:
    """Return what is below `folder`, hidden files included: the text of each file, "" for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_text() if path.is_file() else "" for path in folder.rglob("*")
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    write(path)
    return path


@pytest.fixture
def change_manifest(bundle: Path) -> Callable[[Callable[[dict[str, Any]], object]], None]:
    """Let a function change the JSON of the bundle's manifest."""

    def change(edit: Callable[[dict[str, Any]], object]) -> None:
        data = json.loads((bundle / MANIFEST).read_text())
        edit(data)
        (bundle / MANIFEST).write_text(json.dumps(data))

    return change


def refusal_of(path: Path) -> str:
    with pytest.raises(BundleError) as refusal:
        read_bundle(path)
    return str(refusal.value.message)


# --------------------------------------------------------------------------------------------------------------------
# Writing


def test_a_bundle_is_read_as_it_was_written(bundle: Path) -> None:
    opened = read_bundle(bundle)
    assert opened.path == bundle
    assert opened.manifest == manifest_of(bundle)
    assert opened.manifest.still_float == (STILL_FLOAT,)
    assert opened.file(IMAGES).read_text() == f"{IMAGES} one"


def test_describe_files_lists_everything_but_the_manifest(bundle: Path) -> None:
    described = describe_files(bundle)
    assert sorted(described) == sorted(FILES)
    text = (bundle / MODEL).read_bytes()
    assert described[MODEL] == FileRecord(bytes=len(text), sha256=hashlib.sha256(text).hexdigest())


def test_a_bundle_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    with new_bundle(path) as folder:
        assert not path.exists()
        assert (folder / IMAGES).parent.is_dir()
        assert [entry for entry in tmp_path.iterdir() if not entry.name.startswith(".")] == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "today" / "bundle"
    write(path)
    assert read_bundle(path).path == path


def test_an_old_bundle_stays_until_it_is_replaced(bundle: Path) -> None:
    with new_bundle(bundle) as folder:
        assert (bundle / MODEL).read_text() == f"{MODEL} one"
        assert list(folder.iterdir()) == [folder / "test_vectors"], "a new bundle starts empty"
        (folder / MODEL).write_text("two")
    assert tree(bundle) == {MODEL: "two", "test_vectors": ""}
    assert [entry.name for entry in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_nothing_behind(error: type[BaseException], tmp_path: Path) -> None:
    def fail() -> None:
        with new_bundle(tmp_path / "runs" / "today" / "bundle") as folder:
            (folder / MODEL).write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert tree(tmp_path) == {}


def test_an_error_keeps_the_old_bundle(bundle: Path) -> None:
    before = tree(bundle.parent)

    def fail() -> None:
        with new_bundle(bundle) as folder:
            (folder / MODEL).write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert tree(bundle.parent) == before


def test_a_failed_renaming_keeps_the_old_bundle(bundle: Path) -> None:
    before = tree(bundle.parent)

    def fail() -> None:
        with new_bundle(bundle) as folder:
            shutil.rmtree(folder)  # so that there is nothing to rename

    with pytest.raises(BundleError, match="cannot be written: No such file or directory; choose another folder"):
        fail()
    assert tree(bundle.parent) == before


def test_an_empty_folder_may_become_a_bundle(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.mkdir()
    write(path)
    assert read_bundle(path).manifest.labels == ("cat", "dog")


def of_format_3(data: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest as format 3 wrote it: with one input of images and one output of logits."""
    (image,), (logits,) = data["inputs"], data["outputs"]
    verification = dict(data["verification"])
    tolerances = verification.pop("output_tolerances")
    rest = {name: value for name, value in data.items() if name not in {"inputs", "outputs"}}
    return {
        **rest,
        "format": 3,
        "input_name": image["name"],
        "input_shape": image["shape"][1:],
        "output_name": logits["name"],
        "verification": {"output_tolerance": tolerances[logits["name"]], **verification},
    }


@pytest.mark.parametrize("version", [1, 2])
def test_a_bundle_of_an_older_format_is_read(version: int, bundle: Path) -> None:
    data = of_format_3(json.loads((bundle / MANIFEST).read_text()))
    if version == 1:
        del data["quantization"]  # which came with format 2
    data["verification"] = {"output_tolerance": 0.5, "layers": [{"name": "conv", "rows": 2}]}
    files = {name: record for name, record in data["files"].items() if name != PIECES}
    (bundle / MANIFEST).write_text(json.dumps({**data, "files": files, "format": version}))

    manifest = read_bundle(bundle).manifest

    assert (manifest.quantization, manifest.reference, manifest.format) == (None, "PyTorch", version)
    assert manifest.verification == Verification({"y": 0.5}, ())
    assert (manifest.inputs, manifest.outputs) == (manifest_of(bundle).inputs, manifest_of(bundle).outputs)


def test_a_bundle_of_format_3_is_what_it_was(bundle: Path) -> None:
    data = of_format_3(json.loads((bundle / MANIFEST).read_text()))
    (bundle / MANIFEST).write_text(json.dumps(data))

    assert read_bundle(bundle).manifest == replace(manifest_of(bundle), format=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("input_name"), "the field 'input_name' is missing"),
        (lambda data: data.update(output_name=1), "output_name: got 1, wanted text"),
        (lambda data: data.update(input_shape=None), "input_shape: got null, wanted a list"),
        (
            lambda data: data.update(input_shape=[8, 4]),
            "input_shape: got [8, 4], wanted channels, height and width, at least 1 each",
        ),
        (lambda data: data.update(labels=None), "labels: got null, wanted a list"),
        (lambda data: data.update(verification=1), "verification: got 1, wanted an object"),
        (
            lambda data: data["verification"].pop("output_tolerance"),
            "verification: the field 'output_tolerance' is missing",
        ),
        (
            lambda data: data["verification"].update(output_tolerance="a"),
            'verification.output_tolerance: got "a", wanted a number',
        ),
    ],
)
def test_format_3_with_wrong_values(change: Callable[[dict[str, Any]], object], message: str, bundle: Path) -> None:
    data = of_format_3(json.loads((bundle / MANIFEST).read_text()))
    change(data)
    (bundle / MANIFEST).write_text(json.dumps(data))
    assert refusal_of(bundle).startswith(f"{bundle / MANIFEST}: {message}")


def test_a_bundle_of_any_inputs_and_outputs_is_read(bundle: Path) -> None:
    given = replace(
        manifest_of(bundle),
        inputs=(TensorSpec("image", "float32", (None, 8, 4, 4)), TensorSpec("anchors", "int64", (5, 2))),
        outputs=(TensorSpec("boxes", "float32", (None, 20, 4)), TensorSpec("count", "int64", ())),
        labels=None,
        preprocessing=None,
        verification=Verification({"boxes": 1e-5, "count": 0.0}, (PIECE,)),
    )
    (bundle / MANIFEST).write_text(given.to_json())

    opened = read_bundle(bundle)

    assert opened.manifest == given
    assert given.image_size is None
    assert opened.description == f"{bundle}, tiny, N x 8x4x4, 5x2 to boxes N x 20x4, count one number"


def test_what_8_bits_changed_is_kept(bundle: Path) -> None:
    change = Quantization(largest_difference=0.5, mean_difference=0.25, images=8, agreement=7)
    layers = (replace(STILL_FLOAT, weight_bits=8), BINARY)
    manifest = replace(read_bundle(bundle).manifest, quantization=change, layers=layers)
    (bundle / MANIFEST).write_text(manifest.to_json())

    read = read_bundle(bundle).manifest

    assert read == manifest
    assert (read.in_8_bits, read.still_float, read.reference) == (layers[:1], (), "the exported model")


def _a_folder_with_files(path: Path) -> None:
    (path / "thesis").mkdir(parents=True)
    (path / "thesis" / "chapter1.txt").write_text("important")


def _a_file(path: Path) -> None:
    path.write_text("important")


def _a_folder_with_a_manifest_of_something_else(path: Path) -> None:
    _a_folder_with_files(path)
    (path / MANIFEST).write_text('{"name": "web app", "format": 1}')


def _a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


@pytest.mark.parametrize(
    "make", [_a_folder_with_files, _a_file, _a_folder_with_a_manifest_of_something_else, _a_link_to_nothing]
)
def test_what_is_no_bundle_is_left_alone(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "output"
    make(path)
    before = tree(tmp_path)
    with pytest.raises(BundleError) as refusal:
        write(path)
    assert refusal.value.message == f"{path}: exists and is not a bundle; it was left alone, choose another folder"
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "test_vectors/notes.txt", ".git", "test_vectors/more/notes.txt"])
def test_a_bundle_with_other_files_is_left_alone(name: str, bundle: Path) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("important")
    before = tree(bundle.parent)
    with pytest.raises(BundleError) as refusal:
        write(bundle, "two")
    named = name.removesuffix("/notes.txt") if "more" in name else name
    assert refusal.value.message == (
        f"{bundle}: holds files that are not of the bundle, such as {named}; it was left alone, choose another folder"
    )
    assert tree(bundle.parent) == before


def test_a_card_as_it_was_written_is_replaced_with_its_bundle(bundle: Path) -> None:
    write_card(bundle, "# one")
    assert sorted(describe_files(bundle)) == sorted(FILES)
    assert read_bundle(bundle).path == bundle
    write(bundle, "two")
    assert tree(bundle)[MODEL] == f"{MODEL} two"
    assert CARD not in tree(bundle)


@pytest.mark.parametrize("text", ["a thesis", sealed("# one").decode() + "license: mit\n"], ids=["foreign", "changed"])
def test_a_card_of_somebody_elses_is_left_alone_and_the_bundle_is_read(text: str, bundle: Path) -> None:
    (bundle / CARD).write_text(text)
    before = tree(bundle.parent)
    with pytest.raises(BundleError) as refusal:
        write(bundle, "two")
    assert refusal.value.message == (
        f"{bundle / CARD}: not written by bnas-deploy, or changed since, and a README.md of its own goes here; it was "
        "left alone: move it away, or choose another output folder"
    )
    assert tree(bundle.parent) == before
    assert read_bundle(bundle).path == bundle


def test_files_that_come_while_the_new_bundle_is_made_are_left_alone(bundle: Path) -> None:
    def come() -> None:
        with new_bundle(bundle):
            (bundle / "notes.txt").write_text("important")

    with pytest.raises(BundleError, match=r"holds files that are not of the bundle, such as notes\.txt; it was left"):
        come()
    assert (bundle / "notes.txt").read_text() == "important"
    assert read_bundle(bundle).path == bundle
    assert [entry.name for entry in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("path", [".", "..", "../..", "../here", "/"])
def test_the_current_folder_is_left_alone(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(BundleError) as refusal, new_bundle(Path(path)):
        pytest.fail("work began")
    assert refusal.value.message == (f"{path}: the current folder lies in it; it was left alone, choose another folder")
    assert tree(tmp_path) == {"above": "", "above/here": ""}


def test_a_mount_point_is_left_alone() -> None:
    with pytest.raises(BundleError) as refusal, new_bundle(Path("/proc")):
        pytest.fail("work began")
    assert refusal.value.message == (
        "/proc: a mount point, which cannot be replaced; it was left alone, choose another folder"
    )


# The argument is the bundle to write.
WAIT = """
import sys, time
from pathlib import Path
from bnas_deploy.core.new_bundle import new_bundle
with new_bundle(Path(sys.argv[1])) as folder:
    (folder / "model.onnx").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("there", [True, False], ids=["replacing", "new"])
def test_sigterm_leaves_nothing_behind(there: bool, bundle: Path) -> None:
    path = bundle if there else bundle.parent / "runs" / "new"
    before = tree(bundle.parent)
    with subprocess.Popen([sys.executable, "-c", WAIT, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert tree(bundle.parent) != before
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert tree(bundle.parent) == before


def test_the_handler_of_sigterm_is_restored(tmp_path: Path) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with new_bundle(tmp_path / "bundle"):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_handler_of_sigterm_stays(tmp_path: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with new_bundle(tmp_path / "bundle"):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_bundle_may_be_written_in_a_thread(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(write, tmp_path / "bundle").result()
    assert read_bundle(tmp_path / "bundle").path == tmp_path / "bundle"


@pytest.fixture(params=["a parent is a file", "the name is too long"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A path that not even root can write, and the folder's content is as before when the test is over."""
    match request.param:
        case "a parent is a file":
            (tmp_path / "file").write_text("important")
            path = tmp_path / "file" / "bundle"
        case _:
            path = tmp_path / "made" / TOO_LONG
    before = tree(tmp_path)
    yield path
    assert tree(tmp_path) == before


def test_an_unwritable_folder_is_refused(unwritable: Path) -> None:
    message = f"^{re.escape(str(unwritable))}: cannot be written: [A-Z][a-z ]+; choose another folder or make room$"
    with pytest.raises(BundleError, match=message):
        write(unwritable)


# --------------------------------------------------------------------------------------------------------------------
# Reading


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    assert refusal_of(tmp_path / "bundle") == f"{tmp_path / 'bundle'}: not a folder; {NO_BUNDLE}"


def test_a_file_is_no_bundle(bundle: Path) -> None:
    assert refusal_of(bundle / MODEL) == f"{bundle / MODEL}: not a folder; {NO_BUNDLE}"


def test_a_folder_without_a_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    assert refusal_of(bundle) == f"{bundle}: no manifest.json in it; {NO_BUNDLE}"


def test_a_manifest_that_cannot_be_read(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    (bundle / MANIFEST).mkdir()
    assert refusal_of(bundle) == f"{bundle / MANIFEST}: cannot be read: Is a directory"


def test_a_folder_with_an_impossible_name(tmp_path: Path) -> None:
    assert TOO_LONG in refusal_of(tmp_path / TOO_LONG)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"format": 1, ', b"\xff", 5000 * b"9", 100_000 * b"["],
    ids=["empty", "cut short", "not UTF-8", "huge integer", "nested"],
)
def test_a_manifest_that_is_no_json(content: bytes, bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes(content)
    message = refusal_of(bundle)
    assert message.startswith(f"{bundle / MANIFEST}: not a JSON file: ")
    assert message.endswith("; export the model again")


@pytest.mark.parametrize("data", [[], None, {}, {"format": "1"}, {"format": True}], ids=repr)
def test_json_that_is_no_manifest(data: object, bundle: Path) -> None:
    (bundle / MANIFEST).write_text(json.dumps(data))
    assert refusal_of(bundle) == (f"{bundle / MANIFEST}: not a manifest: no integer `format`; export the model again")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (FORMAT_VERSION + 1, "format version 5, this bnas-deploy reads up to 4; upgrade bnas-deploy"),
        (0, "format version 0, expected 1 to 4; export the model again"),
    ],
)
def test_another_format(version: int, message: str, bundle: Path, change_manifest: Callable[..., None]) -> None:
    # A newer format may lack every field that this one needs.
    change_manifest(lambda data: (data.clear(), data.update(format=version)))
    assert refusal_of(bundle) == f"{bundle / MANIFEST}: {message}"


@pytest.mark.parametrize(
    "name",
    [
        *("bnas_deploy", "network", "opset", "inputs", "outputs", "labels", "preprocessing"),
        *("layers", "verification", "metrics", "files"),
    ],
)
def test_a_manifest_without_a_field(name: str, bundle: Path, change_manifest: Callable[..., None]) -> None:
    change_manifest(lambda data: data.pop(name))
    assert refusal_of(bundle) == f"{bundle / MANIFEST}: the field {name!r} is missing; export the model again"


CHECK = {**asdict(PIECE), "name": "other"}
TOLERANCE = ["verification", "output_tolerances", "y"]
RECORD = {"bytes": 1, "sha256": "0"}


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["surprise"], 1, "the field 'surprise' is unknown"),
        (["inputs", 0, "name"], 1, "inputs[0].name: got 1, wanted text"),
        (["inputs"], [], "inputs: got [], wanted at least one, each of another name"),
        (["inputs", 0, "dtype"], "float16", 'inputs[0].dtype: got "float16", wanted one of float32, uint8'),
        (["inputs", 0, "shape"], None, "inputs[0].shape: got null, wanted a list"),
        (["inputs", 0, "shape"], [None, 0], "inputs[0].shape: got [null, 0], wanted sizes of at least 1, or null"),
        (["inputs", 0, "shape", 1], True, "inputs[0].shape[1]: got true, wanted an integer of 64 bits"),
        (["inputs", 0, "shape"], [None, 8, 4], "inputs: shapes: got [[null, 8, 4]], wanted [null, 8, 4, 4], as the"),
        (["outputs", 0, "shape"], [None, 3], 'outputs: got [["float32", [null, 3]]], wanted one of float32 [null, 2]'),
        (["outputs", 0, "dtype"], "int64", 'outputs: got [["int64", [null, 2]]], wanted one of float32 [null, 2], a'),
        (["labels"], 2, "labels: got 2, wanted a list"),
        (["labels"], ["cat", 1], "labels[1]: got 1, wanted text"),
        (["network"], [1], "network: got [1], wanted an object"),
        (["opset"], {"onnx": "20"}, "opset['onnx']: got \"20\", wanted an integer of 64 bits"),
        (["preprocessing"], [], "preprocessing: got [], wanted an object"),
        (["preprocessing", "mean"], "0.5", 'preprocessing.mean: got "0.5", wanted a list'),
        (["preprocessing", "std"], [0.5], "preprocessing.std: got [0.5], wanted one for each of 8 channels"),
        (["preprocessing", "std"], 8 * [0], "preprocessing.std: got [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], wanted"),
        (["preprocessing", "height"], 5, "inputs: shapes: got [[null, 8, 4, 4]], wanted [null, 8, 5, 4], as the"),
        (["layers"], [1], "layers[0]: got 1, wanted an object"),
        (["layers", 0], {"name": "conv"}, "layers[0]: the field 'input' is missing"),
        (["layers", 0, "input"], ["x"], 'layers[0].input: got ["x"], wanted a list of 3'),
        (["layers", 0, "input"], ["x", 1, 1], 'layers[0].input[0]: got "x", wanted an integer of 64 bits'),
        (["layers", 0, "input"], [10**400, 1, 1], "layers[0].input[0]: got 1000"),
        (["layers", 0, "kernel"], [0, 3], "layers[0].kernel: got [0, 3], wanted at least 1 each"),
        (["layers", 0, "groups"], 0, "layers[0].groups: got 0, wanted at least 1"),
        (["layers", 0, "weight_bits"], 2, "layers[0].weight_bits: got 2, wanted 1, 8 or 32"),
        (["verification"], {"pieces": [], "ties": {}}, "verification: the field 'output_tolerances' is missing"),
        (
            ["verification", "output_tolerances"],
            {},
            'verification.output_tolerances: got [], wanted one for each of ["y"]',
        ),
        (TOLERANCE, "a", "verification.output_tolerances['y']: got \"a\", wanted a number"),
        (TOLERANCE, float("nan"), "verification.output_tolerances['y']: got NaN, wanted a number"),
        (TOLERANCE, 1e300, "verification.output_tolerances['y']: got 1e+300, wanted a number that"),
        (TOLERANCE, 10**400, "verification.output_tolerances['y']: got 1000"),
        (TOLERANCE, -1, "verification.output_tolerances['y']: got -1.0, wanted 0 or more"),
        (["verification", "pieces"], [], 'verification.pieces: got [], wanted ["conv"] among them'),
        (["verification", "pieces"], [CHECK], 'verification.pieces: got ["other"], wanted ["conv"] among them'),
        (["verification", "pieces", 0, "made"], "a", 'verification.pieces[0].made: got "a", wanted a list'),
        (
            ["verification", "pieces", 0, "made"],
            [1, 8],
            "verification.pieces[0]: output, made: got [[1, 8, 3, 3], [1, 8]], wanted two shapes of one rank",
        ),
        (
            ["verification", "pieces", 0, "output", "shape"],
            [1, 8, 0, 3],
            "verification.pieces[0]: output, made: got [[1, 8, 0, 3], [1, 8, 4, 4]], wanted two shapes of one rank",
        ),
        (["verification", "ties"], {"conv": "a"}, "verification.ties['conv']: got \"a\", wanted an integer"),
        (["files"], [], "files: got [], wanted an object"),
        (["files"], {MODEL: 1}, "files['model.onnx']: got 1, wanted an object"),
        (["files"], {MODEL: {"bytes": 1}}, "files['model.onnx']: the field 'sha256' is missing"),
        (["files"], {MODEL: RECORD}, 'files: got ["model.onnx"], wanted float.onnx among them'),
        (["files"], {}, "files: got [], wanted model.onnx among them"),
    ],
)
def test_a_manifest_with_a_wrong_field(
    keys: list[str | int], value: object, message: str, bundle: Path, change_manifest: Callable[..., None]
) -> None:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    change_manifest(change)
    refusal = refusal_of(bundle)
    assert refusal.startswith(f"{bundle / MANIFEST}: {message}")
    assert refusal.endswith("; export the model again")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    assert refusal_of(bundle) == f"{bundle / name}: missing, but the manifest lists it; export the model again"


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_size(name: str, bundle: Path) -> None:
    right = (bundle / name).stat().st_size
    with (bundle / name).open("ab") as file:
        file.write(b"\0")
    assert refusal_of(bundle) == (
        f"{bundle / name}: {right + 1} bytes, the manifest says {right}; copy or export the bundle again"
    )


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte(name: str, bundle: Path) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[0] ^= 1
    (bundle / name).write_bytes(data)
    assert refusal_of(bundle) == (
        f"{bundle / name}: its SHA-256 is not the one in the manifest; copy or export the bundle again"
    )


@pytest.mark.parametrize("name", ["../secret", "test_vectors/../../secret", "/secret"])
def test_a_file_outside_the_bundle(name: str, bundle: Path, change_manifest: Callable[..., None]) -> None:
    # It is there and its size and hash are right: being outside is reason enough.
    secret = bundle.parent / "secret"
    secret.write_text("secret")
    listed = str(secret) if name.startswith("/") else name
    record = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    change_manifest(lambda data: data["files"].update({listed: record}))
    assert refusal_of(bundle) == (
        f"{bundle / MANIFEST}: lists the file {listed!r}, which is not inside the bundle; export the model again"
    )
