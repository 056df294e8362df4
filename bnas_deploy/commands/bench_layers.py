"""`bnas-deploy bench-layers`: single binary convolutions against other engines."""

from pathlib import Path
from typing import Any

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.measuring import (
    check_reports,
    effort_options,
    host_options,
    json_option,
    measure_there,
    page_options,
    show_report,
)
from bnas_deploy.commands.options import say


@click.command("bench-layers", cls=Command)
@effort_options("1, and 2", "each layer; the engines share it")
@json_option
@page_options
@host_options
def command(
    threads: tuple[int, ...] | None,
    batches: tuple[int, ...],
    min_seconds: float,
    host: str | None,
    port: int | None,
    python: str | None,
    wheel: Path | None,
    **files: Path | None,
) -> None:
    """Measure binary convolutions of fixed shapes against onnxruntime's float32 and int8.

    They are measured against OpenVINO's binary convolution too, where the package openvino is installed. Results are
    checked first. With --host all of that is done on another machine, as by bench.
    """
    check_reports(**files)
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy.report.measuring import measure_single_layers

    effort: dict[str, Any] = {"threads": threads, "batches": batches, "min_seconds": min_seconds}
    if host:
        # The old spelling: a wheel of 0.1 on the device understands it, too.
        result = measure_there(host, None, ["--layers"], port=port, python=python, wheel=wheel, **effort)
    else:
        result = measure_single_layers(**effort, on_step=say)
    show_report(result, **files)
