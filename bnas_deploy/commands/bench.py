"""`bnas-deploy bench`: measure a bundle against its twins."""

import os.path
from pathlib import Path
from typing import Any

import click

from bnas_deploy.commands.measuring import (
    check_reports,
    effort_options,
    host_options,
    json_option,
    measure_there,
    page_options,
    show_report,
)
from bnas_deploy.commands.old_spellings import MISSING, BenchWithOldSpellings
from bnas_deploy.commands.options import say
from bnas_deploy.core.errors import BundleError


@click.command("bench", cls=BenchWithOldSpellings)
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@effort_options("1, and all processors", "each number of --threads and --batch; the engines share it")
@json_option
@page_options
@host_options
def command(
    bundle: Path | None,
    threads: tuple[int, ...] | None,
    batches: tuple[int, ...],
    min_seconds: float,
    host: str | None,
    port: int | None,
    python: str | None,
    wheel: Path | None,
    **files: Path | None,
) -> None:
    """Measure BUNDLE's binary network against its float twin and its int8 twin, in turns, in onnxruntime.

    The answer is checked first: bit for bit against onnxruntime without the operator library, and against what PyTorch
    gave to the same images. Times of single layers are from onnxruntime's profiler, in runs of their own. The int8 twin
    is measured in OpenVINO too, where the package openvino is installed.

    With --host all of that is done on another machine, over the system's OpenSSH, which asks for a password itself if
    it needs one. Packages and the bundle go to ~/.cache/bnas-deploy there and are kept for the next time. The device
    needs Python 3.11 and no network. The bundle is verified there before it is measured.

    See bench-layers for single layers against other engines, and bench-ops for the table of a latency-aware search.
    """
    if bundle is None:
        raise click.UsageError(MISSING)
    check_reports(**files)
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.core.bundle import read_bundle
    from bnas_deploy.report.measuring import measure_bundle

    if os.path.isfile(bundle):
        raise BundleError(
            f"{bundle}: a file, and bench takes the folder of a bundle; "
            f"if it is a checkpoint, export it first: bnas-deploy export {bundle} -o BUNDLE"
        )
    opened = read_bundle(bundle)
    effort: dict[str, Any] = {"threads": threads, "batches": batches, "min_seconds": min_seconds}
    if host:
        result = measure_there(host, opened, [], port=port, python=python, wheel=wheel, **effort)
    else:
        result = measure_bundle(opened, **effort, on_step=say, show=click.echo)
    show_report(result, **files)
