"""`bnas-deploy quickstart`: the whole way once, on images that come with the installation."""

import os.path
from pathlib import Path

import click

from bnas_deploy.commands import bench, export, init, train
from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import output_folder_option
from bnas_deploy.core.errors import BnasError

FULL_SIZE = "BNAS-A"


@click.command("quickstart", cls=Command)
@output_folder_option("Folder for everything; it must be new or empty.", default=Path("quickstart"), show_default=True)
@click.pass_context
def command(context: click.Context, output: Path) -> None:
    """Measure a full-size BNAS-A; then train a small binary network on digits, export and verify it and measure that.

    BNAS-A keeps its random weights: latency does not depend on them.
    """
    if os.path.isdir(output) and any(output.iterdir()):
        raise BnasError(f"{output}: not empty; it was left alone, choose another folder with -o")
    output.mkdir(parents=True, exist_ok=True)
    _step(1, f"{FULL_SIZE}, 32x32 images: export it to ONNX, check it against PyTorch")
    untrained = output / "bnas-a.safetensors"
    context.invoke(init.command, network=FULL_SIZE, output=untrained)
    context.invoke(export.command, checkpoint=untrained, output=output / "bnas-a-bundle")
    _step(2, "Measure it against its float twin and its int8 twin")
    _measure(context, output, "bnas-a")
    _step(3, "Train a binary network on scikit-learn's digits, 8x8 images, and export it")
    context.invoke(train.command, output=output / "digits")
    context.invoke(export.command, checkpoint=output / "digits/best.safetensors", output=output / "digits-bundle")
    _step(4, "Measure that: layers this small gain little")
    _measure(context, output, "digits")
    click.echo(_last_words(output))


def _measure(context: click.Context, folder: Path, name: str) -> None:
    """Measure a bundle, and leave its report in both formats."""
    context.invoke(
        bench.command,
        bundle=folder / f"{name}-bundle",
        json_path=folder / f"{name}.json",
        html_path=folder / f"{name}.html",
    )


def _last_words(folder: Path) -> str:
    """Return the list of the files that were made, the result of both measurements, and commands to try."""
    return f"""
Everything is in {folder}:
  {folder / "bnas-a-bundle"}   {FULL_SIZE} with random weights
  {folder / "digits/best.safetensors"}   the network that was trained
  {folder / "digits-bundle"}   what an app loads: model.onnx and its float twin
  {folder / "bnas-a.json"}, {folder / "digits.json"}   every figure
  {folder / "bnas-a.html"}, {folder / "digits.html"}   the same to look at in a browser
In short:
{_in_short(FULL_SIZE, folder / "bnas-a.json")}
{_in_short("digits", folder / "digits.json")}
Try next:
  bnas-deploy inspect {folder / "digits-bundle"}
  bnas-deploy verify {folder / "digits-bundle"}
  bnas-deploy init --network BNAS-D -o bnas-d.safetensors
  bnas-deploy train --data cifar10:FOLDER -o runs/cifar10"""


def _in_short(name: str, path: Path) -> str:
    """Return the result of a report again, since it is far above by now."""
    from bnas_deploy.report import headline, read_report

    return "\n".join(f"  {name}: {line}" for line in headline(read_report(path)).splitlines())


def _step(number: int, title: str) -> None:
    click.secho(f"\n[{number}/4] {title}\n", bold=True)
