"""`bnas-deploy search`."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.network_options import setting_option
from bnas_deploy.commands.options import Name, latency_target_option, seed_option
from bnas_deploy.commands.runs import (
    DATA_OPTIONS,
    arithmetic_option,
    at_work,
    by_data,
    check_means,
    device_option,
    folder_options,
    leave,
    one_voice,
    recipe_options,
    run_folder,
    same_options,
    tell_end,
    training_data_options,
)

# These import no framework.
from bnas_deploy.core.genotype import BATS_GROUPS, Genotype, is_grouped
from bnas_deploy.search.cells.config import (
    FOLDER_IMAGES,
    PRECISIONS,
    SEARCH_DEVIATIONS,
    SEARCH_RECIPES,
    STRATEGIES,
    configure_search,
)
from bnas_deploy.search.cells.space import SPACES
from bnas_deploy.search.data.kinds import DATA_KINDS, kind_of
from bnas_deploy.search.models.bnas.config import DEVIATIONS, NETWORKS
from bnas_deploy.search.models.bnas.model import INTER_CELL_SKIP
from bnas_deploy.search.models.settings import K_MAP


def _by_kind(field: str) -> dict[str, Any]:
    return {name: getattr(kind.search, field) for name, kind in DATA_KINDS.items()}


@click.command("search", cls=Command)
@training_data_options("Height and width that the images of a folder are made, multiples of 4. [default: 32]")
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
    help="Candidate operations: BNAS, DARTS (separable convolutions) or BATS (grouped convolutions).",
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
@setting_option(INTER_CELL_SKIP)
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
    help="Zeroise is chosen only if this many times as probable as any other operation. Published: 3 for ImageNet.",
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
@setting_option(K_MAP)
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
@click.option(
    "--cells", type=click.IntRange(min=3), show_default=by_data(_by_kind("cells")), help="Cells of the supernet."
)
@click.option(
    "--channels",
    type=click.IntRange(min=1),
    show_default=by_data(_by_kind("channels")),
    help="Channels of its first cell; in the space of BATS a multiple of 12.",
)
@recipe_options(SEARCH_RECIPES, _by_kind("recipe"))
@seed_option("split, weights, alphas, order and augmentation")
@device_option
@arithmetic_option
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the step with torch.compile (CUDA graphs on a GPU). It takes minutes, once. Not for gdas.",
)
@folder_options("search", "runs/search-DATA", "genotype.json, history.json, pictures of both, and resume.safetensors")
@click.pass_context
def command(
    context: click.Context,
    /,
    data: str,
    image_size: tuple[int, int] | None,
    in_channels: int | None,
    limit: int | None,
    skip_bad: bool,
    latency_target: Path | None,
    latency_weight: float | None,
    seed: int,
    device: str,
    output: Path | None,
    resume: bool,
    **options: Any,
) -> None:
    """Search for the cells of a network: which operation on which edge.

    Afterwards: bnas-deploy train --genotype DIR/genotype.json. Ctrl-C finishes the current step and saves the place;
    --resume goes on from there.
    """
    _check_goal(latency_target, latency_weight)
    context.with_resource(one_voice())
    # Imported here so that --help does not wait for PyTorch.
    from bnas_deploy.drawing.pictures import check_library
    from bnas_deploy.drawing.search import draw_search
    from bnas_deploy.search.cells.expected_latency import latency_objectives, read_target
    from bnas_deploy.search.cells.search import search
    from bnas_deploy.search.cells.search_run import SearchRun
    from bnas_deploy.search.data import open_in_memory

    check_library()
    check_means(context, SearchRun.check_folder)
    if latency_target is not None:
        read_target(latency_target, k_map=options["k_map"])
    kind = kind_of(data)
    image_size = image_size or (FOLDER_IMAGES if kind.resizes else None)
    images = open_in_memory(data, image_size=image_size, in_channels=in_channels, limit=limit, skip_bad=skip_bad)
    click.echo(images.summary)
    config = configure_search(kind.search, **images.description.sizes, **options)
    objectives = latency_objectives(latency_target, latency_weight, config.network, warn=partial(click.echo, err=True))
    folder = output or run_folder("search", kind.word(images.description.name), limit)
    with at_work(device) as work:
        result = search(
            images,
            config,
            folder,
            seed=seed,
            objectives=objectives,
            resume=resume,
            **work.settings,
            listener=work.bar,
        )
    skip = config.network.inter_cell_skip
    train = _train(context, kind.defaults(images.description.image_size).network, result.genotype)
    tell_end(context, result.summary(train), images.skipped_note, finished=result.finished)
    if result.genotype is not None and work.processes.writes:
        draw_search(result.folder, result.genotype, result.history, skip=skip)
    leave(context, finished=result.finished)


def _train(context: click.Context, network: str, genotype: Genotype | None) -> list[str]:
    """Return the words that train cells on the same images; `network` is what these are trained with by default."""
    deviations = tuple(name for name in context.params["deviations"] if name in DEVIATIONS)
    alike = same_options(context, (*DATA_OPTIONS, "no_skip", "k_map", "deviations", "device"), deviations=deviations)
    channels = [] if genotype is None else shared_channels(network, genotype)
    return ["bnas-deploy", "train", *alike, *channels]


def shared_channels(network: str, genotype: Genotype) -> list[str]:
    """Return --channels where the groups of the cells do not divide those of a network; else nothing."""
    size = NETWORKS.get(network)  # data of one's own may be trained with another family by default
    if size is None or size.channels % BATS_GROUPS == 0 or not any(map(is_grouped, genotype.operations)):
        return []
    return ["--channels", str(size.channels + -size.channels % BATS_GROUPS)]


def _check_goal(latency_target: Path | None, latency_weight: float | None) -> None:
    """Refuse half of a latency goal.

    Raises:
        click.UsageError: one of its options is missing, or the weight is no number.
    """
    if (latency_target is None) != (latency_weight is None):
        raise click.UsageError("--latency-target and --latency-weight go together; give both or neither")
    if latency_weight is not None and not math.isfinite(latency_weight):
        raise click.UsageError(f"--latency-weight is {latency_weight}; give a number, such as 0.1")
