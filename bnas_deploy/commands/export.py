"""`bnas-deploy export`: from a checkpoint, or from a network of a user's own, to a bundle."""

import os.path
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import (
    Decorator,
    Name,
    all_of,
    data_option,
    image_size_option,
    in_channels_option,
    normalisation_options,
    output_option,
)
from bnas_deploy.core.errors import CheckpointError
from bnas_deploy.core.float_layers import CHOICES, FloatLayers
from bnas_deploy.core.names import python_name

_of_modules: Decorator = all_of(
    click.option(
        "--weights", type=click.Path(path_type=Path), help="Of FILE.py: safetensors, or a file of torch.save."
    ),
    image_size_option("Of FILE.py: height and width of its images. [default: those of --data]"),
    in_channels_option,
    normalisation_options("Of FILE.py: "),
    click.option("--labels", type=click.Path(path_type=Path), help="Of FILE.py: a class name in each line of a file."),
    click.option(
        "--inputs",
        metavar="FILE.npz",
        type=click.Path(path_type=Path),
        help="Of FILE.py, where it takes more than images: an array of examples for each argument of forward, by name.",
    ),
    click.option(
        "--fixed", metavar="NAME", multiple=True, help="Of --inputs: an array without an axis of examples; repeatable."
    ),
)


@click.command("export", cls=Command)
@click.argument("checkpoint", metavar="CHECKPOINT|FILE.py:NAME", type=click.Path(path_type=Path))
@output_option("Folder to write.", required=True)
@data_option
@click.option(
    "--images",
    type=click.IntRange(min=1),
    help="How many images to verify with. [default: 64, fewer if they are large]",
)
@click.option(
    "--float-layers",
    type=Name(CHOICES),
    default="float",
    show_default=True,
    help="Arithmetic of float layers. int8 is mostly faster and changes the outputs slightly; auto takes int8 where it "
    "is measured to be faster. The report says by how much.",
)
@click.option(
    "--latency-table",
    metavar="DEVICE.json",
    type=click.Path(path_type=Path),
    help="Of --float-layers auto: what a device measured, by `bnas-deploy bench-ops --float-layers --json`. [default: "
    "it is measured here]",
)
@_of_modules
def command(
    checkpoint: Path,
    output: Path,
    data: str | None,
    images: int | None,
    float_layers: FloatLayers,
    latency_table: Path | None,
    **of_module: Any,
) -> None:
    """Turn CHECKPOINT into a bundle that runs without PyTorch, and check it against PyTorch.

    FILE.py:NAME is a network of your own instead: a function or class without arguments that makes it. Its binary
    layers are recognised by what they compute, however they are written, and the network itself is the judge. It may
    take several inputs and answer anything made of tensors, such as boxes and masks.

    The images to check with are test images of --data; without it, of the embedded digits if the network was trained
    on them, else random ones. They stay in the bundle, so that `bnas-deploy verify` can repeat the check anywhere.
    """
    if latency_table is not None and float_layers != "auto":
        raise click.UsageError("--latency-table says what --float-layers auto chooses; give both or neither")
    choice: dict[str, Any] = {"float_layers": float_layers, "latency_table": latency_table}
    if python_name(str(checkpoint)) is not None:
        _export_user_module(str(checkpoint), output, data, images, choice, **of_module)
        return
    if advice := _advice(checkpoint):
        raise CheckpointError(f"{checkpoint}: {advice}")
    if given := [name for name, value in of_module.items() if value not in (None, ())]:
        option = f"--{given[0].replace('_', '-')}"
        raise click.UsageError(f"{option} is for networks in a Python file, such as mymodel.py:build")
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.export import export_checkpoint
    from bnas_deploy.export.images import verification_images
    from bnas_deploy.report import verification
    from bnas_deploy.search.training.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    chosen = verification_images(loaded, data, images)
    with _progress(loaded.network.name) as progress:
        result = export_checkpoint(loaded, output, chosen, **choice, progress=progress)
    click.echo(verification.describe_export(result))


_NO_WEIGHTS = "those that {} made, random ones unless it loads some; give trained ones with --weights FILE"


def _export_user_module(
    given: str,
    output: Path,
    data: str | None,
    count: int | None,
    choice: Mapping[str, Any],
    *,
    weights: Path | None,
    labels: Path | None,
    **images: Any,
) -> None:
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.export import LooksBinaryWarning, export_module
    from bnas_deploy.export.foreign.user_images import UserImages, images_for
    from bnas_deploy.export.foreign.user_module import UserCodeError, build_user_module, importable, load_weights
    from bnas_deploy.report import verification

    with importable(given):
        try:
            module = build_user_module(given)
        except UserCodeError as error:
            click.echo(f"Error: {error.message}\n{error.trace}", err=True)
            raise click.exceptions.Exit(1) from None
        if weights is not None and (note := load_weights(module, weights)):
            click.echo(note, err=True)
        name = type(module).__name__
        chosen, description = images_for(module, name, UserImages(data=data, labels=labels, count=count, **images))
        if weights is None:
            description = replace(description, doubt=_NO_WEIGHTS.format(given))
        with _progress(name) as progress, warnings.catch_warnings():
            warnings.simplefilter("ignore", LooksBinaryWarning)  # the report says it
            result = export_module(module, None, output, chosen, description, **choice, progress=progress)
    click.echo(verification.describe_export(result))


@contextmanager
def _progress(name: str) -> Iterator[Callable[[str], None]]:
    from rich.console import Console

    with Console(stderr=True).status(f"exporting {name}") as status:
        yield lambda doing: status.update(f"exporting {name}: {doing}")


def _advice(path: Path) -> str:
    """Say what else than a checkpoint is at `path`, and what to do with that; "" where it may be one."""
    wanted = "export takes a checkpoint, a .safetensors file that `bnas-deploy train` or `init` wrote"
    if os.path.isfile(path / "manifest.json"):
        return f"a bundle, which is what export writes; go on with: bnas-deploy bench {path}"
    if os.path.isfile(path / "best.safetensors"):
        return f"a folder of `bnas-deploy train`; give the checkpoint in it: {path / 'best.safetensors'}"
    if os.path.isfile(path / "genotype.json"):
        path = path / "genotype.json"
        return f"a folder of `bnas-deploy search`; train what it found first: bnas-deploy train --genotype {path}"
    if os.path.isdir(path):
        return f"a folder; {wanted}"
    file, colon, name = str(path).rpartition(":")
    if colon and os.path.isfile(f"{file}.py"):
        return f"no file; did you mean {file}.py:{name}?"
    if path.suffix == ".onnx":
        return f"an ONNX model; {wanted}, or a network in PyTorch, FILE.py:NAME"
    if path.suffix != ".json":
        return ""
    return f"a JSON file; {wanted}. A genotype has no weights, train it first: bnas-deploy train --genotype {path}"
