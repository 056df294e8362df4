"""The command is tried on digits with the smallest published network, one epoch at most."""

import io
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from bnas_deploy.commands.runs import ProgressBar, resume_command
from bnas_deploy.commands.train import command
from bnas_deploy.core.memory import Limit
from bnas_deploy.core.run_metrics import EpochRecord
from bnas_deploy.export import export_checkpoint
from bnas_deploy.export.images import verification_images
from bnas_deploy.runtime.session import open_bundle
from bnas_deploy.search.data.kinds import training_defaults
from bnas_deploy.search.models.bnas.config import NETWORKS
from bnas_deploy.search.training.checkpoint import load_checkpoint

FILES = ["README.md", "best.safetensors", "last.safetensors", "metrics.jsonl", "resume.safetensors"]


def invoke(*words):
    return CliRunner().invoke(command, [str(word) for word in words])


def process(*words):
    """Start the command in a process of its own; Ctrl-C can be sent to it."""
    code = "from bnas_deploy.commands.train import command; command(prog_name='bnas-deploy train')"
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "error", "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # One thread: several slow each other down where other tests run beside this one.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_help_shows_every_default():
    text = " ".join(invoke("--help").output.split()).replace("- ", "-")  # lines break behind hyphens
    for kind, defaults in training_defaults().items():
        assert f"{kind} {defaults.network}" in text
        assert f"{kind} {defaults.recipe}" in text
    assert text.count("default: (from the recipe)") == 2
    for default in (
        "default: digits",
        "default: auto",
        "default: float32",
        "default: 0",
        "runs/NETWORK-DATA",
        "was published with",
    ):
        assert default in text
    assert all(network in text for network in NETWORKS)


def test_help_imports_no_framework():
    code = (
        "import sys; from bnas_deploy.commands.train import command; command(['--help'], standalone_mode=False); "
        "print({'torch', 'numpy', 'PIL', 'sklearn', 'safetensors', 'rich'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "set()\n")


@pytest.mark.parametrize("terminal", [False, True], ids=["plain", "coloured"])
def test_a_line_stays_a_line_where_nobody_looks(terminal):
    written = io.StringIO()
    console = Console(file=written, width=40, force_terminal=terminal)  # which FORCE_COLOR does
    now = iter((100.0, 128.0))
    with Progress(console=console, transient=True) as progress:
        bar = ProgressBar(progress, lambda: next(now))
        bar.started(epochs=200, steps=10, done=50)
        bar.finished(EpochRecord(7, 0.1, 1.25, 0.5, 1.5, 0.25, 12.5))
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in written.getvalue().splitlines()]
    lines = [line for line in lines if line.startswith("epoch   7/200")]
    # 28 s for the two epochs since the resume, and 193 are left: 45 minutes and 2 seconds. A terminal has the bar.
    left = "" if terminal else ", 0:45:02 left"
    assert lines == [f"epoch   7/200  loss 1.250  accuracy: training 50.00%, test 25.00%  (12.5 s{left})"]


def test_the_last_epoch_has_no_time_left():
    written = io.StringIO()
    with Progress(console=Console(file=written), transient=True) as progress:
        bar = ProgressBar(progress)
        bar.started(epochs=7, steps=10, done=0)
        bar.finished(EpochRecord(7, 0.1, 1.25, 0.5, 1.5, 0.25, 12.5))
    assert written.getvalue().strip().endswith("test 25.00%  (12.5 s)")


def test_ctrl_c_then_resume(tmp_path):
    """Ctrl-C in the first epoch, then resume: the run is finished, and the message said how."""
    folder = tmp_path / "my run"
    options = ("--epochs", 1, "--batch-size", 64, "--device", "cpu", "-o", folder)
    training = process(*options)
    deadline = time.monotonic() + 120
    while not (folder / "resume.safetensors").exists():
        assert training.poll() is None, training.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    training.send_signal(signal.SIGINT)
    output, _ = training.communicate(timeout=120)
    assert training.returncode == 130, output
    assert "Traceback" not in output
    assert f"Stopped before the first epoch was finished; the place is saved in {folder}" in output
    wanted = f"bnas-deploy train --epochs 1 --batch-size 64 --device cpu -o '{folder}' --resume"
    assert f"Go on with: {wanted}" in output

    resumed = process(*options, "--resume")
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    assert "Finished after 1 epoch; best test accuracy" in output
    assert sorted(file.name for file in folder.iterdir()) == FILES


def test_the_way_to_go_on_is_told_to_other_commands_too(tmp_path, monkeypatch):
    """As quickstart calls it: the options come from code, not from a command line."""

    @contextmanager
    def stopped_at_once(*, patient):
        yield lambda: True

    @click.command()
    @click.pass_context
    def other(context):
        context.invoke(
            command, output=tmp_path, k_map=True, no_skip=True, seed=0, deviations=("clamp-weights", "real-last-two")
        )

    monkeypatch.setattr("bnas_deploy.search.training.resume.stop_on_signals", stopped_at_once)
    deviations = "--k-map --no-skip --like-official-code clamp-weights --like-official-code real-last-two"
    result = CliRunner().invoke(other)
    assert result.exit_code == 130
    assert f"train {deviations} -o {tmp_path} --resume\n" in result.output


def test_zero_and_no_are_options_too():
    @click.command()
    @click.option("--weight", type=float)
    @click.option("--share", type=float, default=0.0)
    @click.option("--keep/--drop", default=None)
    @click.option("--fast/--slow", default=True)
    @click.option("--quiet", is_flag=True)
    @click.option("--resume", is_flag=True)
    @click.pass_context
    def other(context, **options):
        click.echo(resume_command(context))

    def told(*words):
        return CliRunner().invoke(other, words).output.strip()

    assert told("--weight", "0", "--drop", "--slow") == "bnas-deploy other --weight 0.0 --drop --slow --resume"
    assert told("--share", "0", "--fast", "--quiet") == "bnas-deploy other --quiet --resume"


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    (tmp_path / "last.safetensors").write_text("mine")
    result = invoke("-o", tmp_path)
    assert result.exit_code == 1
    assert "already holds a run (last.safetensors), which was left alone; add --resume" in result.output
    assert (tmp_path / "last.safetensors").read_text() == "mine"


def test_a_quick_look_at_a_small_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--cells", "3", "--channels", "4", "--limit", "40", "--epochs", "1"]
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert "digits, limited to 40: 40 training and 40 test images" in result.output
    assert "the first images of each class, out of 1,438 and 359" in result.output
    best = load_checkpoint(tmp_path / "runs" / "BNAS-Mini-3x4-digits-limit40" / "best.safetensors")
    assert (best.network.cells, best.network.channels, best.data) == (3, 4, "digits, limited to 40")
    assert verification_images(best, None, 5).labels.tolist() == [4, 9, 4, 9, 4]  # those of all digits, as ever
    out = ["-o", "runs/BNAS-Mini-3x4-digits-limit40"]
    refused = invoke(*words[:4], "--limit", "50", "--epochs", "1", *out, "--resume")
    assert "data.train_size (40 before, 50 now); data.test_size (40 before, 50 now)" in refused.output
    assert invoke(*words, "--float-twin").exit_code == 0
    assert (tmp_path / "runs" / "BNAS-Mini-3x4-float-digits-limit40" / "best.safetensors").exists()


def test_a_run_begins_with_the_best_weights_of_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--limit", "40", "--epochs", "1"]
    assert invoke(*words, "--cells", "3", "--channels", "4", "--float-twin", "-o", "first").exit_code == 0
    tuned = invoke(*words, "--from", "first")
    assert tuned.exit_code == 0, tuned.output
    assert "begins with the weights of BNAS-Mini-3x4, trained on digits, limited to 40" in tuned.output
    best = load_checkpoint(tmp_path / "runs" / "BNAS-Mini-3x4-float-tuned-digits-limit40" / "best.safetensors")
    assert best.network.is_float
    assert best.metrics["started_from"] == "BNAS-Mini-3x4, trained on digits, limited to 40"
    resumed = invoke(*words, "--from", "first/best.safetensors", "--resume")
    assert resumed.exit_code == 0, resumed.output


def test_the_old_spelling_of_the_output_folder_still_works(tmp_path):
    for words in (("--out", tmp_path, "--resume"), (f"--out={tmp_path}", "--resume")):
        result = invoke(*words)
        assert result.exit_code == 1
        assert f"{tmp_path}: no resume.safetensors in it" in result.output
    assert "--out " not in invoke("--help").output


def test_nothing_to_resume_is_refused(tmp_path):
    result = invoke("-o", tmp_path, "--resume")
    assert result.exit_code == 1
    assert "no run to resume" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "mnist"], "unknown data 'mnist'; expected one of digits, cifar10:FOLDER"),
        (["--data", "cifar10:nowhere"], "nowhere: no such folder"),
        (["--genotype", "nothing.json"], "nothing.json: neither a published genotype (cifar, imagenet) nor a file"),
        (["--network", "BNAS-D"], "BNAS-D: images of 8x8; the imagenet stem and two reduction cells need multiples"),
        (["--recipe", "imagenet"], "digits: the recipe crops by area or jitters colours"),
        (["--network", "BNAS-Z"], "'BNAS-Z' is not one of 'BNAS-Mini'"),
        (["--genotype", ""], "'': neither a published genotype (cifar, imagenet) nor a file"),
        (["--float-twin", "--k-map"], "--float-twin and --k-map exclude each other: the float twin has nothing binary"),
        (["--float-twin", "--like-official-code", "clamp-weights"], "--float-twin and --like-official-code exclude"),
        (
            ["--from", "there", "--network", "BNAS-A"],
            "--from and --network exclude each other: the network is that of the checkpoint; leave one of them out",
        ),
        (["--epochs", "1", "--set", "epochs=2"], "--epochs and --set epochs exclude each other; leave one of them out"),
        (["--batch-size", "8", "--set", "batch_size=4"], "--batch-size and --set batch_size exclude each other"),
        (["--from", "there", "--float-twin"], "--from and --float-twin exclude each other: the network is that of"),
        (["--from", "there", "--cells", "4"], "--from and --cells exclude each other: the network is that of the"),
        (["--from", "nowhere"], "nowhere: no such file or folder; give a checkpoint (.safetensors), or the folder of"),
        (["--seed", str(2**63)], f"{2**63} is not in the range 0<=x<={2**63 - 1}"),
        (["--epochs", "0"], "0 is not in the range x>=1"),
        (
            ["--image-size", "8"],
            "--data digits: --image-size, --in-channels and --skip-bad are for image files; leave them out",
        ),
        (["--image-size", "8x8x8"], "'8x8x8' is neither N nor HxW, such as 32 or 24x32"),
        (["--image-size", "-8"], "'-8' is neither N nor HxW"),
        (["--image-size", "8x0"], "'8x0' has a side of 0, at least 1 is needed"),
        (["--in-channels", "2"], "'2' is not one of '1', '3'"),
        (["--arithmetic", "tf32", "--device", "cpu"], "--arithmetic tf32: a CPU has no TF32; use float32 or bfloat16"),
        (["--limit", "9"], "digits: a limit of 9 images for 10 classes; at least one of each is needed"),
        (["--limit", "0"], "0 is not in the range x>=1"),
        (["--cells", "2"], "2 is not in the range x>=3"),
        (["--channels", "0"], "0 is not in the range x>=1"),
        (["--channels", "65537"], "BNAS-Mini-10x65537: channels is 65537; wanted a number from 1 to 65536"),
        (["--network", "BNAS-D", "--channels", "5"], "the imagenet stem starts with channels/2, so 5 channels must be"),
        (["--seed", "-1"], "-1 is not in the range 0<=x<=9223372036854775807"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_used_is_refused(tmp_path, words, message):
    result = invoke("-o", tmp_path / "run", *words)
    assert result.exit_code != 0
    assert message in result.output
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert not (tmp_path / "run").exists()


@pytest.fixture
def grey(tmp_path):
    """An image folder of grey stripes of 12x16, two classes."""
    random = np.random.default_rng(0)
    for part, (label, name) in itertools.product(("train", "val"), enumerate(("upper", "lower"))):
        folder = tmp_path / "grey" / part / name
        folder.mkdir(parents=True)
        for number in range(8):
            pixels = random.integers(100, size=(12, 16), dtype=np.uint8)
            pixels[6 * label : 6 * label + 6] += 120
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "grey" / "train" / "upper" / "notes.txt").write_text("")
    return tmp_path / "grey"


def test_a_folder_of_small_grey_images_from_training_to_an_app(tmp_path, grey):
    """The size is shown, nothing is resized, and the bundle takes the same images."""
    run = tmp_path / "run"
    words = ("--data", f"imagefolder:{grey}", "--image-size", "12x16", "--network", "BNAS-Mini", "--device", "cpu")
    result = invoke(*words, "--epochs", 1, "--batch-size", 16, "-o", run)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(
        "image folder grey: 16 training and 16 test images of 12x16, grey, 2 classes\n"
        "  every image becomes 12x16; the first of them is 12x16\n"
        "  every image is grey, so there is 1 channel; --in-channels 1 or 3 decides otherwise\n"
        "  passed over, not an image by its name: 1 (train/upper/notes.txt)\n"
    )
    checkpoint = load_checkpoint(run / "last.safetensors")
    assert (checkpoint.network.in_channels, checkpoint.network.image_size) == (1, (12, 16))
    assert (checkpoint.preprocessing.height, checkpoint.preprocessing.width) == (12, 16)
    chosen = verification_images(checkpoint, f"imagefolder:{grey}", None)
    export_checkpoint(checkpoint, tmp_path / "bundle", chosen)
    model = open_bundle(tmp_path / "bundle")
    pixels = np.stack([np.asarray(Image.open(grey / "val" / "lower" / f"{number}.png")) for number in range(8)])
    inputs = model.preprocess(pixels)
    # The labels are sorted: lower, upper; these are the first eight test images. One float32 rounding differs.
    np.testing.assert_allclose(inputs, chosen.pixels[:8].numpy(), rtol=0, atol=1e-6)
    assert model.predict(inputs).shape == (8, 2)


def test_how_to_go_on_with_images_of_a_size(tmp_path, grey, monkeypatch):
    @contextmanager
    def stopped_at_once(*, patient):
        yield lambda: True

    monkeypatch.setattr("bnas_deploy.search.training.resume.stop_on_signals", stopped_at_once)
    words = ("--data", f"imagefolder:{grey}", "--image-size", "12x16", "--in-channels", "3", "--network", "BNAS-Mini")
    result = invoke(*words, "--recipe", "digits", "--arithmetic", "bfloat16", "--device", "cpu", "-o", tmp_path / "run")
    assert result.exit_code == 130, result.output
    told = result.output.splitlines()[-1]
    assert told == (
        f"Go on with: bnas-deploy train --data imagefolder:{grey} --image-size 12x16 --in-channels 3 "
        f"--network BNAS-Mini --recipe digits --device cpu --arithmetic bfloat16 -o {tmp_path / 'run'} --resume"
    )


def test_a_folder_of_small_images_has_defaults_of_its_own(tmp_path, grey):
    result = invoke("--data", f"imagefolder:{grey}", "--image-size", "10", "-o", tmp_path / "run")
    assert "BNAS-A: images of 10x10; the cifar stem and two reduction cells need multiples of 4" in result.output
    result = invoke("--data", f"imagefolder:{grey}", "--image-size", "65", "-o", tmp_path / "run")
    assert (
        "BNAS-D: images of 65x65; the imagenet stem and two reduction cells need multiples of 32 (of 4 with the cifar "
        "stem of BNAS-Mini, BNAS-A, BNAS-B and BNAS-C)"
    ) in result.output


def test_what_would_not_fit_into_memory_is_refused(tmp_path, grey, monkeypatch):
    monkeypatch.setattr("bnas_deploy.search.training.memory.memory_limit", lambda: Limit(10**8, "this machine has"))
    result = invoke("--data", f"imagefolder:{grey}", "--image-size", "12x16", "-o", tmp_path / "run")
    assert result.exit_code == 1
    assert "Error: BNAS-A on images of 12x16 with 16 images a step takes about " in result.output
    assert "and this machine has 100 MB; no --batch-size would fit: lower --image-size, or choose" in result.output
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_refused(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = invoke("-o", tmp_path / "run", "--device", "cuda")
    assert result.exit_code == 1
    assert "--device cuda: PyTorch finds no CUDA GPU here; use --device cpu" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "there"], "there: already holds a run (best.safetensors), which was left alone"),
        (["--recipe", "nothing.toml"], "nothing.toml: cannot be read"),
        (["--set", "optimizer.learning_rate=3"], "recipe small: optimizer: unknown key"),
        (["--set", "optimiser.arguments.foo=3"], "optimiser.arguments.foo: Adam does not take it; it takes betas"),
        (["--network", "LeNet-5", "--cells", "3"], "LeNet-5 has no setting --cells"),
        (["--network", "LeNet-5", "--widths", "nothing.json"], "nothing.json: cannot be read"),
        (["--from", "there/other.safetensors"], "there/other.safetensors: no such file or folder; give a checkpoint"),
        (["--from", "empty"], "empty: a folder without best.safetensors; give a checkpoint (.safetensors), or the"),
        (["--arithmetic", "tf32", "--device", "cpu"], "--arithmetic tf32: a CPU has no TF32"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_needs_no_data_is_refused_before_they_are_read(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    for name in ("there", "empty"):
        Path(name).mkdir()
    Path("there/best.safetensors").touch()
    result = invoke("--data", "idx:not-looked-for", *words)
    assert (result.exit_code, message in result.output) == (1, True), result.output
    assert "not-looked-for" not in result.output


def test_a_bundle_is_no_start_of_a_training(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    result = invoke("-o", tmp_path / "run", "--from", tmp_path)
    assert f"{tmp_path}: a bundle, which cannot be trained; give the run or the checkpoint it is of" in result.output
