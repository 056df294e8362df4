"""`bnas-deploy search`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.options import (
    Name,
    arithmetic_option,
    image_size_option,
    in_channels_option,
    k_map_option,
    latency_target_option,
    no_skip_option,
    seed_option,
)
from bnas_deploy.commands.train import INTERRUPTED, find_device, progress_bar, resume_command
from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.cells.config import (
    FOLDER_IMAGES,
    PRECISIONS,
    PUBLISHED_DIVERSITY_SHARE,
    SEARCH_DEFAULTS,
    SEARCH_DEVIATIONS,
    SEARCH_RECIPES,
    STRATEGIES,
    SearchConfig,
    SupernetConfig,
)
from bnas_deploy.search.cells.space import SPACES

# These import no framework.
from bnas_deploy.search.models.bnas.config import NetworkConfig

if TYPE_CHECKING:
    from bnas_deploy.search.cells.objective import Objective
    from bnas_deploy.search.cells.search import SearchResult


def _by_data(field: str) -> str:
    return ", ".join(f"{kind} {getattr(defaults, field)}" for kind, defaults in SEARCH_DEFAULTS.items())


def _by_recipe(field: str) -> str:
    return "that of the recipe: " + ", ".join(
        f"{name} {getattr(recipe, field)}" for name, recipe in SEARCH_RECIPES.items()
    )


@click.command("search", cls=Command)
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="DATA",
    help="digits (comes with scikit-learn), cifar10:FOLDER or cifar100:FOLDER (the binary version), or "
    "imagefolder:FOLDER (train/CLASS/*.jpg, val/CLASS/*.jpg, or any other format that Pillow reads).",
)
@image_size_option("Height and width that the images of a folder are made, multiples of 4. [default: 32]")
@in_channels_option
@click.option(
    "--strategy",
    type=Name(STRATEGIES),
    default="bnas",
    show_default=True,
    help="; ".join(f"{name}: {defaults.summary}" for name, defaults in STRATEGIES.items()) + ".",
)
@click.option(
    "--space",
    type=Name(SPACES),
    default="bnas",
    show_default=True,
    help="Which operations an edge may be: those of BNAS, of DARTS (separable convolutions) or of BATS (grouped ones).",
)
@click.option(
    "--precision",
    type=Name(PRECISIONS),
    default="binary",
    show_default=True,
    help="Of the candidates. " + "; ".join(f"{name}: {summary}" for name, summary in PRECISIONS.items()) + ".",
)
@click.option("--separable", is_flag=True, help="Ablation: add separable convolutions to the space.")
@click.option("--no-dilated", is_flag=True, help="Ablation: leave dilated convolutions out of the space.")
@no_skip_option
@click.option(
    "--zeroise/--no-zeroise",
    default=None,
    show_default="with the strategy bnas only",
    help="Whether Zeroise can be chosen; if not, it is still searched, as in DARTS's code.",
)
@click.option(
    "--gamma",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Transferability: how many times as probable as another operation Zeroise must be. Published: 3 for ImageNet.",
)
@click.option(
    "--diversity",
    type=click.FloatRange(min=0),
    show_default=", ".join(f"{name} {defaults.diversity}" for name, defaults in STRATEGIES.items()),
    help="lambda, the weight of the diversity term; 0: the ablation without it.",
)
@click.option(
    "--diversity-epochs",
    type=click.FloatRange(min=0, min_open=True),
    show_default="7.7 for every 50 epochs",
    help="tau, the time constant with which the diversity term fades.",
)
@k_map_option
@click.option(
    "--like-official-code",
    "deviations",
    multiple=True,
    type=Name(SEARCH_DEVIATIONS),
    metavar="NAME",
    help="Deviate from the paper as the official code does; may be repeated. One of "
    + ", ".join(SEARCH_DEVIATIONS)
    + ".",
)
@latency_target_option(required=False)
@click.option(
    "--latency-weight",
    type=click.FloatRange(min=0),
    help="How much latency counts, as a multiple of the cross-entropy. Goes with --latency-target.",
)
@click.option("--cells", type=click.IntRange(min=3), show_default=_by_data("cells"), help="Cells of the supernet.")
@click.option(
    "--channels",
    type=click.IntRange(min=1),
    show_default=_by_data("channels"),
    help="Channels of its first cell; in the space of BATS a multiple of 12.",
)
@click.option("--recipe", type=Name(SEARCH_RECIPES), show_default=_by_data("recipe"), help="Training scheme.")
@click.option(
    "--epochs", type=click.IntRange(min=1), show_default=_by_recipe("epochs"), help="Passes over the training images."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), show_default=_by_recipe("batch_size"), help="Images per step."
)
@seed_option("split, weights, alphas, order and augmentation")
@click.option(
    "--device",
    type=Name(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: the GPU if there is one.",
)
@arithmetic_option
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Let PyTorch make code of a step, on a GPU CUDA graphs. That takes minutes, once; not with gdas.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="runs/search-DATA",
    help="Folder for genotype.json, history.json, pictures of both, and resume.safetensors.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the search in the output folder; give the same options as before."
)
@click.pass_context
def command(
    context: click.Context,
    data: str,
    image_size: tuple[int, int] | None,
    in_channels: int | None,
    strategy: str,
    space: str,
    precision: str,
    separable: bool,
    no_dilated: bool,
    no_skip: bool,
    zeroise: bool | None,
    gamma: float,
    diversity: float | None,
    diversity_epochs: float | None,
    k_map: bool,
    deviations: tuple[str, ...],
    latency_target: Path | None,
    latency_weight: float | None,
    cells: int | None,
    channels: int | None,
    recipe: str | None,
    epochs: int | None,
    batch_size: int | None,
    seed: int,
    device: str,
    arithmetic: str,
    compiled: bool,
    out: Path | None,
    resume: bool,
) -> None:
    """Search for the cells of a network: which operation on which edge.

    Afterwards: bnas-deploy train --genotype DIR/genotype.json. Ctrl-C finishes the current step and saves the place;
    --resume goes on from there.
    """
    if (latency_target is None) != (latency_weight is None):
        raise click.UsageError("--latency-target and --latency-weight go together; give both or neither")
    if latency_weight is not None and not math.isfinite(latency_weight):
        raise click.UsageError(f"--latency-weight is {latency_weight}; give a number, such as 0.1")
    # Imported here so that --help does not wait for PyTorch.
    from bnas_deploy.drawing.pictures import check_library
    from bnas_deploy.drawing.search import draw_search
    from bnas_deploy.search.cells.search import search
    from bnas_deploy.search.data import open_in_memory
    from bnas_deploy.search.training.resume import stop_on_signals

    check_library()
    kind = data.partition(":")[0]
    if kind == "imagefolder":
        image_size = image_size or FOLDER_IMAGES
    images = open_in_memory(data, image_size=image_size, in_channels=in_channels)
    click.echo(images.summary)
    sizes = SEARCH_DEFAULTS[kind]
    chosen = SPACES[space]
    chosen = chosen.without_dilated() if no_dilated else chosen
    description = images.description
    scheme = SEARCH_RECIPES[recipe or sizes.recipe]
    scheme = replace(scheme, epochs=epochs or scheme.epochs, batch_size=batch_size or scheme.batch_size)
    defaults = STRATEGIES[strategy]
    config = SearchConfig(
        network=SupernetConfig(
            space=chosen.with_separable() if separable else chosen,
            cells=cells or sizes.cells,
            channels=channels or sizes.channels,
            classes=description.classes,
            in_channels=description.in_channels,
            image_size=description.image_size,
            precision=precision,
            k_map=k_map,
            inter_cell_skip=not no_skip,
            deviations=deviations,
        ),
        recipe=scheme,
        strategy=strategy,
        first_temperature=defaults.first_temperature,
        last_temperature=defaults.last_temperature,
        diversity=defaults.diversity if diversity is None else diversity,
        diversity_epochs=diversity_epochs or PUBLISHED_DIVERSITY_SHARE * scheme.epochs,
        gamma=gamma,
        zeroise=defaults.zeroise if zeroise is None else zeroise,
        arithmetic=arithmetic,
        compiled=compiled,
    )
    with stop_on_signals() as stop, progress_bar() as bar:
        result = search(
            images,
            config,
            out or Path("runs") / f"search-{kind}",
            seed=seed,
            device=find_device(device),
            objectives=_objectives(latency_target, latency_weight, config),
            resume=resume,
            stop=stop,
            listener=bar,
        )
    click.echo(_summary(result, no_skip=no_skip))
    if not result.finished:
        click.echo(f"Go on with: {resume_command(context)}")
    if result.genotype is not None:
        draw_search(result.folder, result.genotype, result.history, skip=not no_skip)
    if not result.finished:
        context.exit(INTERRUPTED)


def _objectives(target: Path | None, weight: float | None, config: SearchConfig) -> "dict[str, Objective]":
    """Return the latency term, if there is a device to aim at."""
    if target is None or weight is None:
        return {}
    from bnas_deploy.core.latency_table import read_latency_table
    from bnas_deploy.search.cells.expected_latency import ExpectedLatency
    from bnas_deploy.search.cells.space import EDGES

    if config.network.k_map:
        raise BnasError(f"--k-map: {target} has no times of convolutions with K; search without it")
    table = read_latency_table(target)
    network = NetworkConfig.from_json(table.network, f"{target}: network")
    _warn_of_another_size(target, network, config.network)
    return {"latency": ExpectedLatency(table, network, config.network.space.operations, EDGES, weight)}


def _warn_of_another_size(target: Path, network: NetworkConfig, supernet: SupernetConfig) -> None:
    """Say where the network that a table is of has other images than the search, which may be what is wanted."""
    names = {"image_size": "images of", "in_channels": "channels of the images:", "classes": "classes:"}
    sizes = [{name: getattr(each, name) for name in names} for each in (network, supernet)]
    there, here = [{**each, "image_size": "x".join(map(str, each["image_size"]))} for each in sizes]
    differing = [
        f"{words} {there[name]}, here {here[name]}" for name, words in names.items() if there[name] != here[name]
    ]
    if differing:
        size = f"--image-size {here['image_size']} --in-channels {supernet.in_channels} --classes {supernet.classes}"
        again = f"bnas-deploy bench --ops --network {network.name} {size} --json {target}"
        click.echo(
            f"Warning: {target} is of another network than these data are for ({'; '.join(differing)}). "
            f"The search aims at that one. Unless that is meant, measure again: {again}",
            err=True,
        )


def _summary(result: "SearchResult", *, no_skip: bool) -> str:
    best = result.history.best
    if best is None:
        return f"Stopped before the first epoch was finished; the place is saved in {result.folder}"
    return (
        f"{'Finished' if result.finished else 'Stopped'} after {len(result.history.epochs)} epochs; best validation "
        f"accuracy {best.validation_accuracy:.2%} after epoch {best.epoch}: {result.folder / 'genotype.json'}\n"
        f"Next: bnas-deploy train --genotype {result.folder / 'genotype.json'}" + (" --no-skip" if no_skip else "")
    )
