"""`bnas-deploy bench`: measure a bundle against its twins, or single layers against other engines."""

import math
import os.path
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_deploy.commands import bench_ops
from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import check_outputs, host_options
from bnas_deploy.core.errors import BundleError

if TYPE_CHECKING:
    from bnas_deploy.core.bundle import Bundle
    from bnas_deploy.report import Report
    from bnas_deploy.runtime.bench.engines import LeftOut
    from bnas_deploy.runtime.bench.machine import Machine
    from bnas_deploy.runtime.bench.records import Record


MOST_IMAGES = 4096


class Counts(click.ParamType[tuple[int, ...]]):
    """Numbers of something with commas between them, such as 1,2."""

    name = "n,n,..."

    def __init__(self, what: str, most: int | None = None) -> None:
        self.what = what
        self.most = most

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers, each once, in the order given."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and self._is_in_range(int(part)) for part in parts):
            bounds = "at least 1" if self.most is None else f"from 1 to {self.most}"
            self.fail(f"{value!r} is not a list of numbers of {self.what}, each {bounds}, such as 1,2", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))

    def _is_in_range(self, count: int) -> bool:
        return count >= 1 and (self.most is None or count <= self.most)


@click.command("bench", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--layers", is_flag=True, help="Measure a fixed list of single layers; takes no BUNDLE.")
@click.option(
    "--ops", is_flag=True, help="Measure every operation that a network of a size can have; takes no BUNDLE. See below."
)
@bench_ops.target_options
@click.option(
    "--threads",
    type=Counts("threads"),
    help="Numbers of threads to measure with, such as 1,2. [default: 1, and all processors; with --layers 1, and 2]",
)
@click.option(
    "--batch",
    "batches",
    type=Counts("images", MOST_IMAGES),
    default=(1,),
    help="Numbers of images per run to measure with, such as 1,8. [default: 1]",
)
@click.option(
    "--min-seconds",
    type=click.FloatRange(min=0),
    default=4.0,
    show_default=True,
    help="How long to measure with each of --threads and --batch, or each of --layers, at least; the engines share it.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="File for every figure, as JSON.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="File for the tables, as Markdown.")
@click.option(
    "--html", "html_path", type=click.Path(path_type=Path), help="File for tables and pictures, as a page of its own."
)
@host_options
def command(
    bundle: Path | None,
    layers: bool,
    ops: bool,
    threads: tuple[int, ...] | None,
    batches: tuple[int, ...],
    min_seconds: float,
    json_path: Path | None,
    markdown_path: Path | None,
    html_path: Path | None,
    host: str | None,
    port: int | None,
    python: str | None,
    wheel: Path | None,
    **target: Any,
) -> None:
    """Measure BUNDLE's binary network against its float twin and its int8 twin, in turns, in onnxruntime.

    The answer is checked first: bit for bit against onnxruntime without the operator library, and against what PyTorch
    gave to the same images. Times of single layers are from onnxruntime's profiler, in runs of their own. The int8 twin
    is measured in OpenVINO too, where the package openvino is installed.

    With --layers instead of BUNDLE: binary convolutions of fixed shapes against onnxruntime's float32 and int8, and
    against OpenVINO's binary convolution where the package openvino is installed. Results are checked first, too.

    With --host all of that is done on another machine, over the system's OpenSSH, which asks for a password itself if
    it needs one. What has to be installed goes to ~/.cache/bnas-deploy there and is kept for the next time, as is the
    bundle; the device needs Python 3.11 and no network. The bundle is verified there before it is measured.

    With --ops: single operations, as they are in the networks of one --network's size (--image-size, --in-channels,
    --classes, --no-skip), with one number of threads. Its --json is the table that a latency-aware search needs of a
    device.
    """
    # Imported here so that --help does not wait for the frameworks.
    from bnas_deploy import report
    from bnas_deploy.core.files import write_whole
    from bnas_deploy.runtime.bench.machine import after_measuring, read_machine

    if not math.isfinite(min_seconds):
        raise click.UsageError(f"--min-seconds is {min_seconds}; give a number of seconds, such as 4")
    if host is None and any((port, python, wheel)):
        raise click.UsageError("--port, --python and --wheel are about the machine that --host names; name it")
    if ops:
        if bundle or layers or markdown_path or html_path or host:
            raise click.UsageError(
                "--ops measures no BUNDLE and no --layers, is run on the device itself, and writes --json only; "
                "leave the other options out"
            )
        bench_ops.run(
            threads=threads, batches=batches, min_seconds=min_seconds, json_path=json_path, target=target, on_step=_say
        )
        return
    if any(value not in (None, False) for value in target.values()):
        raise click.UsageError("--network, --image-size, --in-channels, --classes and --no-skip go with --ops")
    if layers == (bundle is not None):
        raise click.UsageError(
            "give either a BUNDLE, the folder that `bnas-deploy export -o` wrote, or --layers, or --ops"
        )
    check_outputs({"--json": json_path, "--markdown": markdown_path, "--html": html_path})
    if host:
        counts = ["--threads", ",".join(map(str, threads))] if threads else []
        counts += ["--batch", ",".join(map(str, batches)), "--min-seconds", str(min_seconds)]
        arguments = [*counts, *(["--layers"] if layers else [])]
        result = _measure_on(host, bundle, arguments, port=port, python=python or "python3", wheel=wheel)
    else:
        machine = read_machine()  # before measuring, so that the load is that of others
        result = (
            _measure_bundle(machine, bundle, threads, batches, min_seconds)
            if bundle
            else _measure_layers(machine, threads, batches, min_seconds)
        )
        result = replace(result, machine=after_measuring(machine))
    click.echo()
    report.print_report(result)
    if json_path:
        write_whole(json_path, result.to_json().encode())
    if markdown_path:
        write_whole(markdown_path, report.markdown(result).encode())
    if html_path:
        write_whole(html_path, report.report_page(result).encode())


def _measure_on(
    host: str, path: Path | None, arguments: list[str], *, port: int | None, python: str, wheel: Path | None
) -> "Report":
    from bnas_deploy.core.bundle import read_bundle
    from bnas_deploy.remote.session import measure_on
    from bnas_deploy.report import parse_report

    if path:
        _refuse_checkpoint(path)
    bundle = read_bundle(path) if path else None
    say = partial(click.echo, err=True)
    text = measure_on(host, bundle, arguments, port=port, python=python, wheel=wheel, say=say)
    return parse_report(text, f"report of {host}")


def _measure_bundle(
    machine: "Machine", path: Path, threads: tuple[int, ...] | None, batches: tuple[int, ...], min_seconds: float
) -> "Report":
    from bnas_deploy import report
    from bnas_deploy.core.bundle import read_bundle
    from bnas_deploy.runtime.bench.answers import check_answers, check_twins
    from bnas_deploy.runtime.bench.engines import LeftOut, engines_for
    from bnas_deploy.runtime.bench.machine import usable_cpus
    from bnas_deploy.runtime.bench.networks import measure_bundle

    _refuse_checkpoint(path)
    bundle = read_bundle(path)
    counts = threads or tuple(dict.fromkeys((1, usable_cpus())))
    _say("checking the answer")
    click.echo(report.answer(check_answers(bundle, counts)))
    engines, left_out = engines_for(bundle)
    for check in check_twins(bundle, engines):
        click.echo(report.twin_answer(check))
        if not check.sensible:
            engines = [engine for engine in engines if engine.name != check.engine]
            left_out.append(LeftOut(check.engine, None, "it answers otherwise than the float twin"))
    records = measure_bundle(bundle, engines, threads=counts, batches=batches, min_seconds=min_seconds, on_step=_say)
    return report.Report(machine, tuple(records), tuple(left_out), network=_network_of(bundle))


def _network_of(bundle: "Bundle") -> str:
    """Name what was measured, so that reports are divided by one another only where that is the same."""
    name = bundle.manifest.network.get("name", bundle.path.resolve().name)
    _, height, width = bundle.manifest.input_shape
    int8 = any(layer.weight_bits == 8 for layer in bundle.manifest.layers)
    return f"{name}, {height}x{width}{', int8 layers' if int8 else ''}"


def _measure_layers(
    machine: "Machine", threads: tuple[int, ...] | None, batches: tuple[int, ...], min_seconds: float
) -> "Report":
    from bnas_deploy.report import Report
    from bnas_deploy.runtime.bench.layer_problems import LAYERS
    from bnas_deploy.runtime.bench.layers import measure_layers
    from bnas_deploy.runtime.bench.machine import usable_cpus

    counts = threads or tuple(dict.fromkeys((1, min(2, usable_cpus()))))
    records: list[Record] = []
    left_out: dict[LeftOut, None] = {}
    for batch in batches:
        _say(f"batch {batch}")
        measured, missing = measure_layers(LAYERS, threads=counts, batch=batch, min_seconds=min_seconds, on_step=_say)
        records += measured
        left_out |= dict.fromkeys(missing)
    return Report(machine, tuple(records), tuple(left_out))


def _say(step: str) -> None:
    """Tell people who wait what is being done: a line, because something that moves would take time while measuring."""
    click.echo(f"... {step}", err=True)


def _refuse_checkpoint(path: Path) -> None:
    if os.path.isfile(path):
        raise BundleError(
            f"{path}: a file, and bench takes the folder of a bundle; "
            f"if it is a checkpoint, export it first: bnas-deploy export {path} -o BUNDLE"
        )
