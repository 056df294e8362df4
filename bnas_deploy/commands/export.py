"""`bnas-deploy export`: from a checkpoint to a bundle."""

import os.path
from pathlib import Path
from typing import Literal

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import Name, data_option, output_option
from bnas_deploy.core.errors import CheckpointError


@click.command("export", cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@output_option("Folder to write.", required=True)
@data_option
@click.option(
    "--images",
    type=click.IntRange(min=1),
    help="How many images to verify with. [default: 64, fewer if they are large]",
)
@click.option(
    "--float-layers",
    type=Name(["float", "int8"]),
    default="float",
    show_default=True,
    help="Arithmetic of float layers. int8 is faster and changes the outputs slightly; the report says by how much.",
)
def command(
    checkpoint: Path, output: Path, data: str | None, images: int | None, float_layers: Literal["float", "int8"]
) -> None:
    """Turn CHECKPOINT into a bundle that runs without PyTorch, and check it against PyTorch.

    The images to check with are test images of --data; without it, of the embedded digits if the network was trained
    on them, else random ones. They stay in the bundle, so that `bnas-deploy verify` can repeat the check anywhere.
    """
    if os.path.isdir(checkpoint) or checkpoint.suffix in {".json", ".onnx"}:
        raise CheckpointError(f"{checkpoint}: {_advice(checkpoint)}")
    # Imported here so that --help does not wait for the frameworks.
    from rich.console import Console

    from bnas_deploy.export import export_checkpoint
    from bnas_deploy.export.images import verification_images
    from bnas_deploy.report import verification
    from bnas_deploy.search.training.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    chosen = verification_images(loaded, data, images)
    name = loaded.network.name
    with Console(stderr=True).status(f"exporting {name}") as status:
        result = export_checkpoint(
            loaded,
            output,
            chosen,
            float_layers=float_layers,
            progress=lambda doing: status.update(f"exporting {name}: {doing}"),
        )
    click.echo(verification.describe_export(result))


def _advice(path: Path) -> str:
    """Say what else than a checkpoint is at `path`, and what to do with that."""
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
    if path.suffix == ".onnx":
        return f"an ONNX model; {wanted}, or any module made of the package's layers (export_module, see README.md)"
    return f"a JSON file; {wanted}. A genotype has no weights, train it first: bnas-deploy train --genotype {path}"
