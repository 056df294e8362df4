"""`bnas-deploy quickstart`: the whole way once, on images that come with the installation."""

import os.path
from pathlib import Path

import click

from bnas_deploy.commands import bench, export, init, train
from bnas_deploy.errors import BnasError

FULL_SIZE = "BNAS-A"


@click.command("quickstart")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("quickstart"),
    show_default=True,
    help="Folder for everything; it must be new or empty.",
)
@click.pass_context
def command(context: click.Context, out: Path) -> None:
    """Train a small binary network on digits, export, verify and measure it; then measure a full-size BNAS-A.

    BNAS-A keeps its random weights: latency does not depend on them.
    """
    if os.path.isdir(out) and any(out.iterdir()):
        raise BnasError(f"{out}: not empty; it was left alone, choose another folder with --out")
    run, bundle = out / "digits", out / "digits-bundle"
    full, full_bundle = out / "bnas-a.safetensors", out / "bnas-a-bundle"
    _step(1, "Train a binary network on scikit-learn's digits")
    context.invoke(train.command, out=run)
    _step(2, "Export it to ONNX and check it against PyTorch")
    context.invoke(export.command, checkpoint=run / "best.safetensors", output=bundle)
    _step(3, "Measure it against its float twin")
    context.invoke(bench.command, bundle=bundle, json_path=out / "digits.json", html_path=out / "digits.html")
    _step(4, f"{FULL_SIZE}, 32x32 images: export and measure")
    context.invoke(init.command, network=FULL_SIZE, output=full)
    context.invoke(export.command, checkpoint=full, output=full_bundle)
    context.invoke(bench.command, bundle=full_bundle, json_path=out / "bnas-a.json", html_path=out / "bnas-a.html")
    click.echo(
        f"""
Everything is in {out}:
  {run / "best.safetensors"}   the trained network
  {bundle}   what an app loads: model.onnx and its float twin
  {full_bundle}   {FULL_SIZE} with random weights
  {out / "digits.json"}, {out / "bnas-a.json"}   every figure
  {out / "digits.html"}, {out / "bnas-a.html"}   the same to look at in a browser
Try next:
  bnas-deploy inspect {bundle}
  bnas-deploy verify {bundle}
  bnas-deploy init --network BNAS-D -o bnas-d.safetensors
  bnas-deploy train --data cifar10:FOLDER --out runs/cifar10"""
    )


def _step(number: int, title: str) -> None:
    click.secho(f"\n[{number}/4] {title}\n", bold=True)
