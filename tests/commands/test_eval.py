"""`bnas-deploy eval` and `predict`: what they print and write, and what they refuse."""

import csv
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from bnas_deploy.cli import main
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.export import Images, export_checkpoint
from bnas_deploy.runtime.session import open_bundle
from bnas_deploy.search.data import open_data
from bnas_deploy.search.data.digits import open_digits
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.training.checkpoint import load_checkpoint, save_checkpoint
from bnas_deploy.search.training.evaluate import evaluate
from bnas_deploy.search.training.untrained import untrained_checkpoint

SMALL = NetworkConfig("small", 3, 4, "cifar", GENOTYPES["cifar"], classes=10, in_channels=1, image_size=(8, 8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.safetensors, an untrained network for digits, and its bundle."""
    path = tmp_path_factory.mktemp("eval")
    about = open_digits().description
    untrained = untrained_checkpoint(SMALL, seed=0)
    checkpoint = replace(untrained, labels=about.class_names, preprocessing=about.preprocessing)
    save_checkpoint(path / "net.safetensors", checkpoint)
    save_checkpoint(path / "other.safetensors", replace(checkpoint, labels=tuple("abcdefghij")))
    export_checkpoint(checkpoint, path / "bundle", Images(torch.zeros(4, 1, 8, 8)))
    return path


def run(*words: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [*map(str, words)], input=stdin)


def refusal(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    return result.output


def test_a_checkpoint_counts_as_training_does(folder: Path, tmp_path: Path) -> None:
    files = ("--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv", "-o", tmp_path / "a.svg")
    result = run("eval", folder / "net.safetensors", "--data", "digits", "--device", "cpu", *files)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "a.json").read_text())["engines"]["PyTorch"]
    wanted = evaluate(load_checkpoint(folder / "net.safetensors").build(), open_digits(), batch_size=64)
    assert figures["right"] == round(wanted.accuracy * 359)
    # Both are means of the same 359 float32 logits' cross-entropies, once in float32 by batches: 64 terms of 2^-24.
    assert figures["loss"] == pytest.approx(wanted.loss, rel=64 * 2**-24)
    assert f"{figures['right']} of 359" in result.output
    rows = list(csv.reader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert rows[0] == ["right class / predicted class", *"0123456789"]
    assert [[int(count) for count in row[1:]] for row in rows[1:]] == figures["confusion"]
    assert np.array(figures["confusion"]).trace() == figures["right"]
    picture = (tmp_path / "a.svg").read_text()
    assert "predicted class" in picture
    assert "small on digits, PyTorch" in picture


def test_a_bundle_is_compared_with_its_bodies_and_pytorch(folder: Path, tmp_path: Path) -> None:
    checkpoint = ("--checkpoint", folder / "net.safetensors", "--device", "cpu")
    result = run("eval", folder / "bundle", "--data", "digits", *checkpoint, "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert "function bodies against operator library: the same logits to the bit" in result.output
    found = json.loads((tmp_path / "a.json").read_text())
    assert [*found["engines"]] == ["operator library", "function bodies", "PyTorch"]
    bodies, pytorch = found["differences"]
    assert (bodies["images"], bodies["largest"]) == ([], 0)
    flips = found["engines"]["PyTorch"]["right"] - found["engines"]["operator library"]["right"]
    assert abs(flips) <= len(pytorch["images"])  # each image that changes sides is one that is named


def test_the_checkpoint_of_another_run_is_told(folder: Path, tmp_path: Path) -> None:
    words = ("eval", folder / "bundle", "--data", "digits", "--limit", 10, "--library-only", "--device", "cpu")
    right = run(*words, "--checkpoint", folder / "net.safetensors", "--json", tmp_path / "right.json")
    assert json.loads((tmp_path / "right.json").read_text())["notes"] == []
    genuine = load_checkpoint(folder / "net.safetensors")
    other = untrained_checkpoint(SMALL, seed=1)
    other = replace(other, labels=genuine.labels, preprocessing=genuine.preprocessing)
    save_checkpoint(tmp_path / "another.safetensors", other)
    result = run(*words, "--checkpoint", tmp_path / "another.safetensors", "--json", tmp_path / "a.json")
    assert (right.exit_code, result.exit_code) == (0, 0), result.output
    said = f"{tmp_path / 'another.safetensors'} answers the images in {folder / 'bundle'} otherwise than PyTorch did at"
    assert said in result.output
    assert said not in right.output
    assert json.loads((tmp_path / "a.json").read_text())["notes"][0].endswith("exported from another checkpoint.")


def test_the_bodies_can_be_left_out(folder: Path) -> None:
    result = run("eval", folder / "bundle", "--data", "digits", "--library-only")
    assert result.exit_code == 0, result.output
    assert "function bodies" not in result.output


def test_a_quick_look_says_that_it_is_one(folder: Path, tmp_path: Path) -> None:
    limit = ("--limit", 12, "--csv", tmp_path / "a.csv")
    result = run("eval", folder / "net.safetensors", "--data", "digits", "--device", "cpu", *limit)
    assert result.exit_code == 0, result.output
    assert "small on digits, limited to 12" in result.output
    rows = list(csv.reader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert [sum(map(int, row[1:])) for row in rows[1:]] == [2, 2, *[1] * 8]


def test_another_answer_is_shown(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bnas_deploy.runtime.session import Model

    genuine = Model.predict
    calls = iter(range(100))

    def predict(self: Model, images: np.ndarray) -> np.ndarray:
        logits = genuine(self, images)
        if next(calls) == 3:  # the second batch, without the library
            logits[7] = 0
            logits[7, (logits_before[0][7].argmax() + 1) % 10] = 100
        logits_before[:] = [logits.copy()]
        return logits

    logits_before: list[np.ndarray] = []
    monkeypatch.setattr(Model, "predict", predict)
    result = run("eval", folder / "bundle", "--data", "digits", "--batch-size", 100)
    assert result.exit_code == 0, result.output
    wanted = "function bodies against operator library: 1 image gets another class (number 107, from 0); logits differ"
    assert wanted in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("net.safetensors", "--library-only"), "--library-only is for bundles, which are folders; leave it out"),
        (("net.safetensors", "--checkpoint", "net.safetensors"), "--checkpoint is for bundles, which are folders"),
        (
            ("bundle", "--device", "cpu"),
            "a folder, and --device is for PyTorch; add --checkpoint FILE, or leave it out",
        ),
        (("bundle", "--checkpoint", "other.safetensors"), "give the checkpoint that the bundle was exported from"),
        (("other.safetensors",), "the network tells apart a, b, c and 7 more; give the data that it was trained on"),
        (("missing",), "no such file or folder; expected a checkpoint (.safetensors) or a bundle (folder)"),
        (("net.safetensors", "-o", "a.pdf"), "a picture's name ends in .svg or .png"),
    ],
)
def test_what_does_not_fit_is_a_sentence(
    words: tuple[str, ...], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert message in refusal("eval", *words, "--data", "digits")


def test_images_of_another_size_are_refused(folder: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(folder / "net.safetensors")
    larger = replace(
        checkpoint,
        network=replace(SMALL, image_size=(12, 12)),
        preprocessing=replace(checkpoint.preprocessing, height=12, width=12),
    )
    save_checkpoint(tmp_path / "larger.safetensors", larger)
    message = refusal("eval", tmp_path / "larger.safetensors", "--data", "digits")
    assert "--data digits: images of (1, 8, 8)" in message
    assert "the network takes images of (1, 12, 12)" in message


def test_a_folder_of_training_names_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "net.safetensors", tmp_path / "best.safetensors")
    message = refusal("eval", tmp_path, "--data", "digits")
    assert f"give the checkpoint in it: {tmp_path / 'best.safetensors'}" in message


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of b.png (8x8, test image 0), a.png (coloured, 20x10), notes.txt, and a broken c.png."""
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    Image.fromarray(open_digits().test.pixels[0, 0].numpy()).save(path / "b.png")
    Image.fromarray(rng.integers(0, 256, (10, 20, 3), np.uint8)).save(path / "a.png")
    (path / "c.png").write_bytes((path / "b.png").read_bytes()[:40])
    (path / "notes.txt").write_text("no image")
    return path


def test_a_prediction_is_the_softmax_of_the_logits(folder: Path, pictures: Path) -> None:
    result = run("predict", folder / "bundle", pictures / "b.png", "--top", 99, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    model = open_bundle(folder / "bundle")
    logits = model.predict(model.preprocess(open_digits().test.pixels[:1, 0].numpy()))[0].astype(float)
    shares = np.exp(logits) / np.exp(logits).sum()
    assert found["image"] == str(pictures / "b.png")
    assert [each["label"] for each in found["classes"]] == [str(i) for i in np.argsort(-shares)]
    # Both in float64 with sums of ten terms.
    assert [each["probability"] for each in found["classes"]] == pytest.approx(sorted(shares, reverse=True), rel=1e-14)


def test_a_folder_gives_its_images_by_name_and_a_bad_one_stops_nothing(folder: Path, pictures: Path) -> None:
    result = run("predict", folder / "bundle", pictures, "--json")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["a.png", "b.png", "c.png"]
    assert ["error" in line for line in lines] == [False, False, True]
    assert all(len(line["classes"]) == 3 for line in lines[:2])
    assert f"Error: {pictures / 'c.png'}: cannot be read as an image" in result.stderr
    assert result.stderr.endswith("Error: 1 of 3 could not be read; the lines above say why\n")


def test_standard_input_is_one_image(folder: Path, pictures: Path) -> None:
    piped = run("predict", folder / "bundle", "-", stdin=(pictures / "b.png").read_bytes())
    assert piped.exit_code == 0, piped.output
    named = run("predict", folder / "bundle", pictures / "b.png")
    assert piped.output.removeprefix("-: ") == named.output.removeprefix(f"{pictures / 'b.png'}: ")
    assert piped.output.count(" %") == 3
    empty = run("predict", folder / "bundle", "-", stdin=b"")
    assert empty.exit_code == 1
    assert "Error: -: cannot be read as an image" in empty.stderr


def test_what_is_missing_or_has_no_images_is_named(folder: Path, pictures: Path, tmp_path: Path) -> None:
    result = run("predict", folder / "bundle", tmp_path / "none.png", tmp_path, pictures / "b.png")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{pictures / 'b.png'}: ")
    assert f"Error: {tmp_path / 'none.png'}: no such file; give the path of an image" in result.stderr
    assert f"Error: {tmp_path}: no images in it; expected files that end in .jpg" in result.stderr


WITHOUT = "import sys; sys.modules[sys.argv.pop(1)] = None; from bnas_deploy.cli import main; main(sys.argv[1:])"


def without(module: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", WITHOUT, module, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_predicting_needs_no_pytorch(folder: Path, pictures: Path) -> None:
    result = without("torch", "predict", folder / "bundle", pictures / "b.png", pictures / "a.png")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2


def test_predicting_says_what_reads_images(folder: Path, pictures: Path) -> None:
    result = without("PIL", "predict", folder / "bundle", pictures / "b.png")
    assert result.returncode == 1
    assert result.stderr == "Error: images are read by Pillow, which is not installed; run: pip install pillow\n"


def folder_of_images(folder: Path, bad: int) -> Path:
    """Two classes of four images each, of which the first `bad` of the test images are damaged."""
    for part in ("train", "val"):
        for label in ("a", "b"):
            (folder / part / label).mkdir(parents=True)
            for number in range(4):
                Image.new("L", (8, 8), 40 * number).save(folder / part / label / f"{number}.png")
    for path in sorted((folder / "val").glob("*/*.png"))[:bad]:
        path.write_bytes(b"no image")
    return folder


def test_bad_images_are_an_error_or_left_out_and_counted(tmp_path: Path) -> None:
    config = replace(SMALL, classes=2)
    data = f"imagefolder:{folder_of_images(tmp_path / 'images', 2)}"
    opened = open_data(data, image_size=(8, 8), in_channels=1, skip_bad=True).description
    net = tmp_path / "net.safetensors"
    about = replace(untrained_checkpoint(config, seed=0), labels=opened.class_names, preprocessing=opened.preprocessing)
    save_checkpoint(net, about)
    assert "0.png" in refusal("eval", net, "--data", data)

    result = run("eval", net, "--data", data, "--skip-bad", "--batch-size", 2, "--json", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    assert "of 6" in result.output
    assert "Left out, since they cannot be read: 2 images (" in result.output
    assert [Path(name).name for name in json.loads((tmp_path / "a.json").read_text())["skipped"]] == ["0.png", "1.png"]

    data = f"imagefolder:{folder_of_images(tmp_path / 'worse', 8)}"
    assert "no test image can be read; see that the folder" in refusal("eval", net, "--data", data, "--skip-bad")
