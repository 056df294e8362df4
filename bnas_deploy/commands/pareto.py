"""`bnas-deploy pareto`: searches with several latency weights, side by side."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import check_outputs, latency_target_option, seed_option
from bnas_deploy.commands.train import find_device
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import temporary_folder

if TYPE_CHECKING:
    from bnas_deploy.core.latency_table import LatencyTable, Workload
    from bnas_deploy.report.pareto import Candidate
    from bnas_deploy.search.models.bnas.config import NetworkConfig

SECONDS = 1.0
"""For how long each network is measured."""


@click.command("pareto", cls=Command)
@click.argument("runs", nargs=-1, required=True, type=click.Path(file_okay=False, path_type=Path))
@latency_target_option(required=True)
@click.option(
    "--train",
    "epochs",
    type=click.IntRange(min=1),
    help="Also train every network for so many epochs, on one half of the training images of --data, and compare "
    "its accuracy on the other half instead of the supernet's.",
)
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="DATA",
    help="What --train trains on: digits, cifar10:FOLDER, cifar100:FOLDER or imagefolder:FOLDER.",
)
@seed_option("the halves, weights and order of --train")
@click.option("--measure", is_flag=True, help="Also export every network, untrained, and measure it on this machine.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Picture to write, FILE.svg or FILE.png.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="File for every figure, as JSON.")
def command(
    runs: tuple[Path, ...],
    latency_target: Path,
    epochs: int | None,
    data: str,
    seed: int,
    measure: bool,
    output: Path | None,
    json_path: Path | None,
) -> None:
    """Compare RUNS, folders of `bnas-deploy search`: validation accuracy against latency on a device.

    The latency is that of the network that the device's table is of, built from the cells that a search has found. A
    star marks the searches that no other beats in both. The accuracy is the supernet's, in which all operations still
    run, so it hardly falls with what was found; --train tells what that is worth.
    """
    # Imported here so that --help does not wait for the frameworks.
    from dataclasses import replace

    from bnas_deploy.core.files import write_whole
    from bnas_deploy.core.latency_table import read_latency_table
    from bnas_deploy.drawing.pareto import pareto_figure
    from bnas_deploy.drawing.pictures import check_picture, save_picture
    from bnas_deploy.report import pareto

    if output:
        check_picture(output)
    check_outputs({"--output": output, "--json": json_path}, inputs=[latency_target])
    table = read_latency_table(latency_target)
    configs = [_network(folder, table, latency_target) for folder in runs]
    candidates = [_candidate(folder, config, table) for folder, config in zip(runs, configs, strict=True)]
    if epochs:
        trained = _train(runs, configs, data, epochs, seed)
        candidates = [replace(each, trained_accuracy=share) for each, share in zip(candidates, trained, strict=True)]
    if measure:
        measured = _measure(configs, table, latency_target)
        candidates = [replace(each, measured_ms=ms) for each, ms in zip(candidates, measured, strict=True)]
    click.echo(pareto.table(candidates))
    about = {"network": configs[0].name, "device": table.machine["cpu"], "isa": table.isa, "threads": table.threads}
    if json_path:
        write_whole(json_path, pareto.to_json(candidates, about).encode())
    if output:
        save_picture(pareto_figure(candidates, f"{configs[0].name} on {about['device']}, {about['isa']}"), output)


def _network(folder: Path, table: "LatencyTable", path: Path) -> "NetworkConfig":
    """Return the network that the table is of, with the cells of a search."""
    from dataclasses import replace

    from bnas_deploy.core.genotype import read_genotype
    from bnas_deploy.search.models.bnas.config import NetworkConfig

    config = NetworkConfig.from_json(table.network, f"{path}: network")
    return replace(config, genotype=read_genotype(str(folder / "genotype.json")))


def _candidate(folder: Path, config: "NetworkConfig", table: "LatencyTable") -> "Candidate":
    from bnas_deploy.core.history import read_history
    from bnas_deploy.report.pareto import Candidate

    best = read_history(folder / "history.json").best
    if best is None:
        raise BnasError(f"{folder}: no epoch was finished; go on with this search before it is compared")
    return Candidate(str(folder), best.validation_accuracy, table.total_us(exported_workloads(config)) / 1000)


@cache  # searches often find the same cells, and PyTorch captures a network in seconds
def exported_workloads(config: "NetworkConfig") -> "Counter[Workload]":
    """Return the workloads of a run of the exported network."""
    from bnas_deploy.core.latency_table import RUN
    from bnas_deploy.export.workloads import network_workloads
    from bnas_deploy.search.cells.candidate_workloads import refuse_other_operations
    from bnas_deploy.search.models.untrained import untrained_checkpoint

    refuse_other_operations(config)
    click.echo(f"... exporting the graph of {config.name}", err=True)
    network = untrained_checkpoint(config, seed=0).build()
    return Counter([RUN]) + network_workloads(network, (config.in_channels, *config.image_size))


def _train(runs: Sequence[Path], configs: "Sequence[NetworkConfig]", name: str, epochs: int, seed: int) -> list[float]:
    """Train every network on one half of the training images, and return its share of right answers on the other."""
    from dataclasses import replace

    from bnas_deploy.search.data import open_in_memory
    from bnas_deploy.search.training.recipes import RECIPES, defaults_of
    from bnas_deploy.search.training.train import TrainError, train

    kind, image_size = name.partition(":")[0], configs[0].image_size
    of_folder = kind == "imagefolder"  # other images have a size of their own
    data = open_in_memory(
        name,
        image_size=image_size if of_folder else None,
        in_channels=configs[0].in_channels if of_folder else None,
    )
    half, _ = data.halves(seed)
    recipe = replace(RECIPES[defaults_of(kind, image_size).recipe], epochs=epochs)
    accuracies = []
    with temporary_folder() as folder:
        for number, (run, config) in enumerate(zip(runs, configs, strict=True)):
            click.echo(f"... training what {run} found", err=True)
            try:
                result = train(half, config, recipe, folder / f"{number}", seed=seed, device=find_device("auto"))
            except TrainError as error:
                raise BnasError(f"{run}: what it found cannot be trained: {error.message}; or leave it out") from None
            accuracies.append(result.history[-1].test_accuracy)
    return accuracies


def _measure(configs: "Sequence[NetworkConfig]", table: "LatencyTable", path: Path) -> list[float]:
    """Export every network with random weights, and return the milliseconds that each takes here, in turns."""
    import numpy as np

    from bnas_deploy.core.bundle import MODEL
    from bnas_deploy.runtime.bench.machine import native_isa, read_machine
    from bnas_deploy.runtime.bench.operations import time_models

    here = read_machine()
    if (here.cpu, native_isa()) != (table.machine.get("cpu"), table.isa):
        raise BnasError(
            f"{path}: measured on {table.machine.get('cpu')} ({table.isa}), this is {here.cpu} ({native_isa()}); "
            "leave --measure out, or run bench --ops here first"
        )
    with temporary_folder() as folder:
        bundles = [_export(config, folder / f"{i}") for i, config in enumerate(configs)]
        click.echo("... measuring", err=True)
        shape = table.batch, configs[0].in_channels, *configs[0].image_size
        images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        models = [bundle / MODEL for bundle in bundles]
        return time_models(models, images, threads=table.threads, min_seconds=SECONDS * len(models))


def _export(config: "NetworkConfig", path: Path) -> Path:
    from bnas_deploy.export import export_checkpoint
    from bnas_deploy.export.images import verification_images
    from bnas_deploy.search.models.untrained import untrained_checkpoint

    click.echo(f"... exporting {config.name}", err=True)
    checkpoint = untrained_checkpoint(config, seed=0)
    return export_checkpoint(checkpoint, path, verification_images(checkpoint, None, 1)).bundle.path
