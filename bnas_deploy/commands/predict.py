"""`bnas-deploy predict`: what a bundle sees in images."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnas_deploy.commands.command import Command

if TYPE_CHECKING:
    from bnas_deploy.evaluation.predict import Prediction


@click.command("predict", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="How many classes to name.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each image.")
def command(bundle: Path, images: tuple[Path, ...], top: int, as_json: bool) -> None:
    """Name what BUNDLE sees in each IMAGE, with probabilities: needs numpy, onnxruntime and Pillow only.

    IMAGE is a file, a folder (its images by name; no folders in it), or - for one image from the standard input.
    Images become the network's size and colours as those of an image folder do in training. If one cannot be read,
    the others still are, and the exit code is 1.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.core.errors import DataError
    from bnas_deploy.evaluation.predict import predict_images
    from bnas_deploy.runtime.session import open_bundle

    failed = done = 0
    for prediction in predict_images(open_bundle(bundle), images, sys.stdin.buffer, top=top):
        done += 1
        if as_json:
            click.echo(_json(prediction))
        elif prediction.error is None:
            named = ", ".join(f"{label} {100 * share:.1f} %" for label, share in prediction.classes)
            click.echo(f"{click.format_filename(prediction.path)}: {named}")
        if prediction.error is not None:
            failed += 1
            click.echo(f"Error: {prediction.error}", err=True)
    if failed:
        raise DataError(f"{failed} of {done} could not be read; the lines above say why")


def _json(prediction: "Prediction") -> str:
    """Return a line; `classes` are missing where there is an `error`."""
    if prediction.error is not None:
        return json.dumps({"image": str(prediction.path), "error": prediction.error})
    classes = [{"label": label, "probability": share} for label, share in prediction.classes]
    return json.dumps({"image": str(prediction.path), "classes": classes})
