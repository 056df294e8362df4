"""The model card of a training run, and the parts of it that the card of an exported network has as well."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import bnas_deploy
from bnas_deploy.core.bundle import Preprocessing
from bnas_deploy.core.counts import counted
from bnas_deploy.core.layer_cost import LayerCost, total
from bnas_deploy.core.model_card import blocks, bullets, fenced, few, front_matter, plain, table
from bnas_deploy.core.run_metrics import EpochRecord
from bnas_deploy.search.data.kinds import hub_name
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.training.checkpoint import Checkpoint
from bnas_deploy.search.training.recipes import LAYERS, RECIPES
from bnas_deploy.search.training.training_record import TrainingRecord

LIBRARY = "bnas-deploy"
TASK = "image-classification"
_FIGURES_DIGITS = 4
"""Of an accuracy as a share of 1: 10,000 test images."""


def run_card(
    checkpoint: Checkpoint,
    layers: Sequence[LayerCost],
    history: Sequence[EpochRecord],
    best: EpochRecord,
    *,
    best_file: str,
    last_file: str,
) -> str:
    """Return the card of a run.

    Args:
        checkpoint: of the last epoch; its weights are not looked at.
        layers: of its network.
        history: what was measured so far, an epoch at least.
        best: the epoch of the best checkpoint.
        best_file: name of the best checkpoint.
        last_file: name of the last one.
    """
    config, record = checkpoint.network, checkpoint.training
    binary = bool(total(layers).binary_weights)
    evaluate = evaluation_command(best_file, record)
    rows = [
        (f"`{name}`", str(epoch.epoch), f"{epoch.test_accuracy:.2%}", f"{epoch.test_loss:.4f}")
        for name, epoch in ((best_file, best), (last_file, history[-1]))
    ]
    planned = f" of {record.numbers['epochs']}" if record else ""
    return blocks(
        card_head(
            config.name, checkpoint.data, record, binary=binary, accuracy=best.test_accuracy, tags=("safetensors",)
        ),
        f"# {plain(config.name)}, trained on {plain(checkpoint.data)}",
        f"A folder of `bnas-deploy train`. `{best_file}` has the epoch with the highest test accuracy, `{last_file}` "
        "the last\nfinished one, `metrics.jsonl` what every epoch measured. `resume.safetensors` is there to go on.",
        network_section(config.name, config, layers),
        data_section(checkpoint.data, checkpoint.labels, checkpoint.preprocessing, record),
        training_section(record, checkpoint.metrics),
        "## Figures",
        table(("checkpoint", "epoch", "test accuracy", "test loss"), rows),
        f"{len(history)}{planned} epochs are done. The best epoch is chosen by the accuracy on the test images. "
        "`metrics.jsonl` has all\nof them; `bnas-deploy draw . -o curves.svg` draws them.",
        f"The same accuracy again, with classes and confusion:\n\n{fenced(evaluate, 'sh')}" if evaluate else "",
        "## How to use it",
        f"With [bnas-deploy](#{LIBRARY}), in this folder:",
        fenced(_RUN_SNIPPET.format(best_file), "python"),
        f"As a bundle that runs without PyTorch, checked and measured:\n\n"
        f"{fenced(_RUN_COMMANDS.format(best_file), 'sh')}"
        if binary
        else "",
        library_section(),
        licence_section(),
    )


_RUN_SNIPPET = """from pathlib import Path

from bnas_deploy.search.training.checkpoint import load_checkpoint

checkpoint = load_checkpoint(Path("{}"))
network = checkpoint.build()  # images (N, channels, height, width), normalised as above, to logits
print(checkpoint.labels)"""

_RUN_COMMANDS = """bnas-deploy export {} -o BUNDLE
bnas-deploy verify BUNDLE
bnas-deploy bench BUNDLE"""


# ---- parts


def card_head(
    network: str,
    data: str,
    record: TrainingRecord | None,
    *,
    binary: bool,
    accuracy: float | None,
    tags: tuple[str, ...],
    classifies: bool = True,
) -> str:
    """Return the front matter; `accuracy` is on the test images, a share of 1, None if none is known.

    Nobody has told what a network is for that `classifies` nothing.
    """
    known = hub_name(record.data) if record and record.data else None
    entries: dict[str, Any] = {
        "library_name": LIBRARY,
        **({"pipeline_tag": TASK} if classifies else {}),
        "tags": [*(["binary-neural-network"] if binary else []), *tags],
    }
    if known:
        entries["datasets"] = [known]
    if accuracy is not None:
        entries["metrics"] = ["accuracy"]
        metric = {"type": "accuracy", "name": "test accuracy", "value": round(accuracy, _FIGURES_DIGITS)}
        result = {
            "task": {"type": TASK},
            "dataset": {"type": known or _type_of(record), "name": data},
            "metrics": [metric],
        }
        entries["model-index"] = [{"name": network, "results": [result]}]
    return front_matter(entries)


def _type_of(record: TrainingRecord | None) -> str:
    """Return a name for data that no hub has."""
    return record.data.partition(":")[0] if record and record.data else "other"


def network_section(name: str, config: ModelConfig | None, layers: Sequence[LayerCost]) -> str:
    """Say what the network is; one that somebody has built by hand has no configuration."""
    about = [*config.describe(), ""] if config else [""]
    end = about.index("")  # behind it, a listing such as the genotype
    summary = f": {plain(config.summary)}" if config else ""
    lines = [plain(name) + summary, *map(plain, about[:end]), *size_lines(layers)]
    listing = "\n".join(about[end:]).strip("\n")
    return blocks("## Network", bullets(lines), fenced(listing, "text") if listing else "")


def size_lines(layers: Sequence[LayerCost]) -> Iterator[str]:
    """Yield how many weights and multiply-accumulates there are, by their bits."""
    costs = total(layers)
    yield (
        f"weights: {costs.binary_weights:,} of 1 bit, {costs.float_weights:,} of 32 bits"
        + (f", {costs.int8_weights:,} of 8 bits" if costs.int8_weights else "")
    )
    yield (
        f"multiply-accumulates for an image: {costs.binary_macs / 1e6:,.1f} million of 1 bit, "
        f"{costs.float_macs / 1e6:,.1f} million of 32 bits"
        + (f", {costs.int8_macs / 1e6:,.1f} million of 8 bits" if costs.int8_macs else "")
    )


def data_section(
    data: str | None,
    labels: Sequence[str] | None,
    preprocessing: Preprocessing | None,
    record: TrainingRecord | None,
    more: Sequence[str] = (),
) -> str:
    """Say what the network sees and tells apart, and which images it was trained on; `more` are lines of Markdown."""
    count = f": {record.train_images:,} training and {record.test_images:,} test images" if record else ""
    lines = [
        *([plain(data) + count] if data else []),
        *(_image_lines(preprocessing) if preprocessing is not None else []),
        *([f"{counted(len(labels), 'class', 'classes')}: {few(labels)}"] if labels is not None else []),
        *more,
    ]
    if record and record.limit is not None:
        lines.append(f"limited to {record.limit:,} training and test images, the first of each class")
    if record and record.class_weights is not None:
        lines.append(f"class weights of the loss: {_numbers(record.class_weights)}")
    return blocks("## Data", bullets(lines))


def _image_lines(preprocessing: Preprocessing) -> list[str]:
    channels = len(preprocessing.mean)
    colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    return [
        f"images of {preprocessing.height}x{preprocessing.width}, {colour}",
        f"normalisation: pixels scaled to 0..1, then mean {_numbers(preprocessing.mean)}, standard deviation "
        f"{_numbers(preprocessing.std)}",
    ]


def training_section(record: TrainingRecord | None, metrics: Mapping[str, Any]) -> str:
    """Say how the network was trained."""
    if record is None:
        return blocks("## Training", "It is not known here how it was trained.")
    source = (
        f"; `bnas-deploy recipes {record.recipe}` shows the source of each number" if record.recipe in RECIPES else ""
    )
    lines = [f"recipe: {plain(record.recipe)}{source}", f"seed: {record.seed}"]
    if "started_from" in metrics:
        lines.append(f"begun with the weights of {plain(str(metrics['started_from']))}")
    if "arithmetic" in metrics:
        lines.append(f"arithmetic: {plain(str(metrics['arithmetic']))}")
    lines += [
        f"stage {number + 1} of {len(record.stages)}, {plain(stage.name)}: {LAYERS.get(stage.layers, '')}, "
        f"{counted(stage.epochs, 'epoch')}{' (this one)' if number == record.stage else ''}"
        for number, stage in enumerate(record.stages)
    ]
    command = f"To train it again:\n\n{fenced(record.command, 'sh')}" if record.command else ""
    return blocks("## Training", bullets(lines), numbers_table("key of the recipe", record.numbers), command)


def numbers_table(what: str, numbers: Mapping[str, Any]) -> str:
    """Return a table of settings, nested ones by KEY.KEY, without those that are not set; `what` heads the keys."""
    rows = [(plain(key), plain(str(value))) for key, value in _flat(numbers) if value not in (None, "", {}, [])]
    return table((what, "value"), rows)


def evaluation_command(what: str, record: TrainingRecord | None) -> str:
    """Return the command that counts right answers again, "" where the data cannot be named."""
    options = record.data_options if record else None
    return f"bnas-deploy eval {shlex.quote(what)} {options}" if options else ""


def library_section() -> str:
    """Say what has to be installed."""
    return blocks(
        f"## {LIBRARY}",
        f"Written by bnas-deploy {bnas_deploy.__version__}, which binarises, exports, verifies and measures such "
        "networks.\nIts README says how it is installed, and `bnas-deploy --help` what it can do.",
    )


def licence_section() -> str:
    """Say who chooses the licence."""
    return blocks(
        "## Licence",
        "Whoever publishes this folder chooses it: add a line such as `license: apache-2.0` between the lines `---` at "
        "the top.\nIt has to agree with the terms of the training images.",
    )


def _flat(numbers: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield keys as `--set` takes them, and values."""
    for key, value in numbers.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _numbers(values: Sequence[float]) -> str:
    return few([f"{value:g}" for value in values])
