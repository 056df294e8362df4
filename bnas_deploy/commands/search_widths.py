"""`bnas-deploy search-widths`."""

from pathlib import Path
from typing import Any

import click

from bnas_deploy.commands.command import Command
from bnas_deploy.commands.network_options import given_settings, network_help, network_settings, setting_names
from bnas_deploy.commands.options import (
    Decorator,
    Name,
    all_of,
    seed_option,
)
from bnas_deploy.commands.runs import (
    DATA_OPTIONS,
    attended,
    by_data,
    check_means,
    device_option,
    folder_options,
    leave,
    published_command,
    run_folder,
    same_options,
    tell_end,
    training_data_options,
)

# These import no framework.
from bnas_deploy.core.latency_table import read_latency_table
from bnas_deploy.search.data.kinds import kind_of
from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.family import Family
from bnas_deploy.search.models.registry import check_settings, configure, network_names
from bnas_deploy.search.models.settings import Setting
from bnas_deploy.search.widths.config import (
    PRESETS,
    SCHEME,
    chosen_goal,
    chosen_preset,
    configure_width_search,
    evaluation_options,
    preset_name,
)

IMAGES = (32, 32)
"""Height and width of an image folder's images, unless others are asked for."""

_ABOVE_ZERO = click.FloatRange(min=0, min_open=True)


def _of_base(family: Family) -> tuple[Setting, ...]:
    """Return the settings of the networks that have widths, but for the widths themselves."""
    settings = family.settings if family.width_names else ()
    return tuple(setting for setting in settings if setting.keyword != "widths")


def _by_preset(field: str) -> str:
    values = {name: getattr(preset, field) for name, preset in PRESETS.items()}
    none = [name for name, value in values.items() if value is None]
    known = by_data({name: value for name, value in values.items() if value is not None})
    return f"from the preset: {known}" + (f"; {', '.join(none)} has none" if none else "")


goal_options: Decorator = all_of(
    click.option(
        "--memory-target",
        "memory_mb",
        type=_ABOVE_ZERO,
        metavar="MB",
        show_default=_by_preset("memory_mb"),
        help="Most that all weights are to take, in MB of 2**20 bytes, one bit for each binary one.",
    ),
    click.option(
        "--latency-target",
        "latency_us",
        type=_ABOVE_ZERO,
        metavar="US",
        help="Aim at a latency instead, in microseconds on the device of --latency-table.",
    ),
    click.option(
        "--latency-table",
        type=click.Path(path_type=Path),
        metavar="DEVICE.json",
        help="Table of the device, from `bnas-deploy bench-ops --network NETWORK --json`.",
    ),
    click.option(
        "--penalty",
        type=_ABOVE_ZERO,
        show_default="dms-a and dms-b 0.01; small, and for a latency, 0.1 for the target once over",
        help="lambda of Eq. 7: what a unit above the target costs, beside the cross-entropy.",
    ),
)

search_options: Decorator = all_of(
    click.option("--first-ratio", type=click.FloatRange(min=0.3), show_default=_by_preset("first_ratio"),
                 help="mu of every width at the start, times the base."),
    click.option("--epochs", type=click.IntRange(min=1), show_default=_by_preset("epochs"),
                 help="Passes over one half of the training images that train weights."),
    click.option("--round-epochs", type=click.IntRange(min=1), show_default=_by_preset("round_epochs"),
                 help="Of these passes, those before each pass over the other half, which trains mu."),
    click.option("--batch-size", type=click.IntRange(min=1), show_default=_by_preset("batch_size"),
                 help="Images per step."),
    click.option("--learning-rate", type=_ABOVE_ZERO, default=0.05, show_default=True,
                 help="Of the weights, at the start of each round; it falls to a fifth."),
    click.option("--width-learning-rate", type=_ABOVE_ZERO, help="Of mu, with Adam. [default: from the preset: "
                 "published 0.002 for VGG, 0.001 for others; small 0.005]"),
    click.option("--best-effort/--no-best-effort", default=True, show_default=True,
                 help="Whether a round begins with the leading part of the weights before, or with new ones."),
)  # fmt: skip


@click.command("search-widths", cls=Command)
@training_data_options("Height and width that the images of a folder are made. [default: 32]")
@click.option(
    "--network",
    type=Name(network_names()),
    default="VGG-11",
    show_default=True,
    help=network_help("Whose widths are searched."),
)
@network_settings(_of_base)
@click.option(
    "--preset",
    type=Name(PRESETS),
    show_default="dms-a for CIFAR, else small",
    help="; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items()) + ".",
)
@goal_options
@search_options
@seed_option("split, weights, samples, order and augmentation")
@device_option
@folder_options(
    "search",
    "runs/widths-NETWORK-DATA",
    "widths.json, uniform.json, width-history.jsonl, pictures of both, model card and resume.safetensors",
)
@click.pass_context
def command(
    context: click.Context,
    /,
    data: str,
    image_size: tuple[int, int] | None,
    in_channels: int | None,
    limit: int | None,
    skip_bad: bool,
    network: str,
    preset: str | None,
    memory_mb: float | None,
    latency_us: float | None,
    latency_table: Path | None,
    penalty: float | None,
    seed: int,
    device: str,
    output: Path | None,
    resume: bool,
    best_effort: bool,
    **options: Any,
) -> None:
    """Search for the number of channels of every layer of a network: DMS, differentiable dimension search.

    It ends with the command lines that train the network it found, and one to compare with. Ctrl-C finishes the current
    step and saves the place; --resume goes on from there.
    """
    if latency_us is not None and memory_mb is not None:
        raise click.UsageError("--memory-target and --latency-target exclude each other; leave one of them out")
    if (latency_us is None) != (latency_table is None):
        raise click.UsageError("--latency-target and --latency-table go together; give both or neither")
    # Imported here so that --help does not wait for PyTorch.
    from bnas_deploy.drawing.pictures import check_library
    from bnas_deploy.drawing.widths import draw_width_search
    from bnas_deploy.search.data import open_in_memory
    from bnas_deploy.search.training.acceleration import find_device
    from bnas_deploy.search.widths.checks import check_widths
    from bnas_deploy.search.widths.cost import Memory
    from bnas_deploy.search.widths.expected_latency import read_latency
    from bnas_deploy.search.widths.result import check_folder
    from bnas_deploy.search.widths.search import search_widths

    kind = kind_of(data)
    check_library()
    check_widths(network)
    check_means(context, check_folder)
    chosen_goal(chosen_preset(preset, kind), memory_mb, latency_us, penalty)
    if latency_table is not None:
        read_latency_table(latency_table)
    settings = {"scheme": SCHEME, **given_settings(options)}
    check_settings(network, settings)
    image_size = image_size or (IMAGES if kind.resizes else None)
    images = open_in_memory(data, image_size=image_size, in_channels=in_channels, limit=limit, skip_bad=skip_bad)
    click.echo(images.summary)
    base = configure(network, **images.description.sizes, options=settings)
    assert isinstance(base, BackboneConfig)  # a network with widths has no other
    config = configure_width_search(
        base,
        kind,
        preset=preset,
        memory_mb=memory_mb,
        latency_us=latency_us,
        penalty=penalty,
        best_effort=best_effort,
        **{name: options[name] for name in WIDTH_OPTIONS},
    )
    latency = None if latency_table is None else read_latency(latency_table, config.network)
    evaluation = evaluation_options(preset, kind, base.model)
    with attended() as (stop, bar):
        result = search_widths(
            images,
            config,
            output or run_folder(f"widths-{base.name}", kind.word(images.description.name), limit),
            cost=Memory if latency is None else lambda layout: latency,
            seed=seed,
            device=find_device(device),
            resume=resume,
            stop=stop,
            listener=bar,
            command=published_command(context, preset=preset_name(preset, kind)),
            evaluation=evaluation,
        )
    train = [*train_words(context, config.network, image_size), *evaluation]
    tell_end(context, result.summary(train), images.skipped_note, finished=result.finished)
    if result.history.epochs:
        draw_width_search(result.folder, result.history)
    leave(context, finished=result.finished)


def train_words(context: click.Context, network: BackboneConfig, image_size: tuple[int, int] | None) -> list[str]:
    """Return the words that train such a network on the same images, without its widths.

    What `train` has another default of is said even where it was not given.
    """
    data = same_options(context, DATA_OPTIONS, image_size=image_size)
    settings = same_options(
        context, setting_names(_of_base) - {"width_factor"}, form=network.form, scheme=network.scheme
    )
    device = same_options(context, ("device",))
    return ["bnas-deploy", "train", *data, "--network", network.network, *settings, *device]


WIDTH_OPTIONS = ("first_ratio", "epochs", "round_epochs", "batch_size", "learning_rate", "width_learning_rate")
"""Those that reach the configuration as they are."""
