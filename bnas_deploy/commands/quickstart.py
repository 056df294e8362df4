"""`bnas-deploy quickstart`: the whole way once, on images that come with the installation."""

import os.path
from pathlib import Path

import click

from bnas_deploy.commands import bench, export, init, train
from bnas_deploy.commands.command import Command
from bnas_deploy.core.errors import BnasError

FULL_SIZE = "BNAS-A"


@click.command("quickstart", cls=Command)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("quickstart"),
    show_default=True,
    help="Folder for everything; it must be new or empty.",
)
@click.pass_context
def command(context: click.Context, out: Path) -> None:
    """Measure a full-size BNAS-A; then train a small binary network on digits, export and verify it and measure that.

    BNAS-A keeps its random weights: latency does not depend on them.
    """
    if os.path.isdir(out) and any(out.iterdir()):
        raise BnasError(f"{out}: not empty; it was left alone, choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    full, full_bundle = out / "bnas-a.safetensors", out / "bnas-a-bundle"
    run, bundle = out / "digits", out / "digits-bundle"
    _step(1, f"{FULL_SIZE}, 32x32 images: export it to ONNX, check it against PyTorch")
    context.invoke(init.command, network=FULL_SIZE, output=full)
    context.invoke(export.command, checkpoint=full, output=full_bundle)
    _step(2, "Measure it against its float twin and its int8 twin")
    context.invoke(bench.command, bundle=full_bundle, json_path=out / "bnas-a.json", html_path=out / "bnas-a.html")
    _step(3, "Train a binary network on scikit-learn's digits, 8x8 images, and export it")
    context.invoke(train.command, out=run)
    context.invoke(export.command, checkpoint=run / "best.safetensors", output=bundle)
    _step(4, "Measure that: layers this small gain little")
    context.invoke(bench.command, bundle=bundle, json_path=out / "digits.json", html_path=out / "digits.html")
    click.echo(
        f"""
Everything is in {out}:
  {full_bundle}   {FULL_SIZE} with random weights
  {run / "best.safetensors"}   the network that was trained
  {bundle}   what an app loads: model.onnx and its float twin
  {out / "bnas-a.json"}, {out / "digits.json"}   every figure
  {out / "bnas-a.html"}, {out / "digits.html"}   the same to look at in a browser
In short:
{_in_short(FULL_SIZE, out / "bnas-a.json")}
{_in_short("digits", out / "digits.json")}
Try next:
  bnas-deploy inspect {bundle}
  bnas-deploy verify {bundle}
  bnas-deploy init --network BNAS-D -o bnas-d.safetensors
  bnas-deploy train --data cifar10:FOLDER --out runs/cifar10"""
    )


def _in_short(name: str, path: Path) -> str:
    """Return the result of a report again, since it is far above by now."""
    from bnas_deploy.report import headline, read_report

    return "\n".join(f"  {name}: {line}" for line in headline(read_report(path)).splitlines())


def _step(number: int, title: str) -> None:
    click.secho(f"\n[{number}/4] {title}\n", bold=True)
